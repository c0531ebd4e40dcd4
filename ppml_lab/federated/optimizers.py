"""The optimizers of clients, and checks of them.

A client starts its optimizer afresh in every round. For a learning rate that changes
over rounds, give a function that makes the optimizer from the round's number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import PyTree

from ppml_lab import checks

Optimizer: TypeAlias = (
    optax.GradientTransformation | Callable[[Array], optax.GradientTransformation]
)
"""Any optax optimizer, or a function of the round number that makes one, such as
`lambda number: optax.sgd(schedule(number))`. Rounds count from 0."""

_FOLLOWS_STEPS = (
    "ScaleByScheduleState",
    "WrappedScheduleState",
    "WeightDecaySchedule",
    "ConditionallyTransformState",
    "ConditionallyMaskState",
    "AddNoiseState",
)
"""The optax states whose count is only a count of steps."""

_STEPS = 8
_MANY_STEPS = 60
_ROUNDS = (0, 1, 10, 100, 1000)


def at_round(optimizer: Any, number: Any) -> optax.GradientTransformation:
    """The optax optimizer of a round, from a client's `Optimizer`.

    Raises:
      ValueError: If it is no optax optimizer.
    """
    maker = getattr(optimizer, "func", optimizer)
    is_made = isinstance(optimizer, optax.GradientTransformation)
    is_named = hasattr(maker, "__name__") and not is_made
    if is_named and str(maker.__module__).startswith("optax."):
        raise ValueError(
            f"optimizer is the function optax.{maker.__name__}, which would take the "
            "round's number for its learning rate; call the function, as in "
            "optax.sgd(0.1), or give `lambda number: optax.sgd(rate_of(number))`"
        )
    rule = optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        rule = optimizer(jnp.asarray(number)) if callable(optimizer) else None
    if not isinstance(rule, optax.GradientTransformation):
        found = type(optimizer if rule is None else rule).__name__
        raise ValueError(
            "a client's optimizer must be an optax.GradientTransformation, or a "
            f"function from the round to one, got {found}; for optax.MultiSteps take "
            ".gradient_transformation()"
        )
    return rule


def check(optimizer: Optimizer, params: PyTree) -> None:
    """Raises ValueError for an optimizer that counts steps for a schedule.

    Schedules of optax are known by their states. Any other state is taken for a
    schedule's if a number in it counts steps, the next change depends on that number,
    and changes along the same gradient differ from step to step within the first 60.
    Those of Adam, whose count corrects a bias, do not.

    Args:
      optimizer: A client's optimizer.
      params: Shapes of what the client trains.
    """
    state = jax.eval_shape(lambda params: at_round(optimizer, 0).init(params), params)
    follows = any(map(_follows_steps, _nodes(state)))
    if not follows and any(_may_count(state)):
        follows = _changes_with_its_count(optimizer, params)
    if follows:
        raise ValueError(
            "the client's optimizer follows a schedule of steps, but the step count "
            "restarts in every round; give a function of the round instead, such as "
            "lambda number: optax.sgd(schedule(number))"
        )


def still_leaves(optimizer: Optimizer, params: PyTree) -> tuple[str, ...]:
    """The leaves of `params` that the optimizer never changes, where it changes others.

    They are found by some steps along made-up gradients, in the first rounds and in
    later ones; nothing is found where the optimizer holds traced numbers.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    moved = np.zeros(len(paths), bool)
    rounds = _ROUNDS
    if isinstance(optimizer, optax.GradientTransformation):
        rounds = _ROUNDS[:1]
    with jax.ensure_compile_time_eval():
        here = _made_up(params, 0)
        for number in rounds:
            rule = at_round(optimizer, number)
            state = rule.init(here)
            for step in range(_STEPS):
                changes, state = rule.update(_made_up(params, 1 + step), state, here)
                leaves = jax.tree.leaves(changes)
                if any(checks.is_traced(leaf) for leaf in leaves):
                    return ()
                moved |= [bool(jnp.any(leaf != 0)) for leaf in leaves]
                if moved.all():
                    return ()
    if not moved.any():
        return ()
    return tuple(
        jax.tree_util.keystr(path)
        for path, has_moved in zip(paths, moved, strict=True)
        if not has_moved
    )


def _made_up(params: PyTree, number: int) -> PyTree:
    """Values of these shapes, none of which is zero or equal to its neighbours."""
    some = np.cos(np.arange(997, dtype=np.float32) + number)
    return jax.tree.map(
        lambda like: jnp.asarray(np.resize(some, like.shape), like.dtype), params
    )


def _children(node: Any) -> list[Any]:
    return jax.tree.leaves(node, is_leaf=lambda child: child is not node)


def _nodes(tree: Any) -> Iterator[Any]:
    """All inner nodes and leaves of a tree."""
    yield tree
    if jax.tree.structure(tree) != jax.tree.structure(0):
        for child in _children(tree):
            yield from _nodes(child)


def _follows_steps(node: Any) -> bool:
    name = type(node).__name__
    # A schedule's own state may have any class.
    own = getattr(node, "hyperparams_states", {})
    return name in _FOLLOWS_STEPS or bool(jax.tree.leaves(own))


def _may_count(state: PyTree) -> list[bool]:
    """True for the leaves of a state that are one number and not optax's own."""
    return [
        not known and leaf.size == 1 and jnp.issubdtype(leaf.dtype, np.number)
        for leaf, known in _owned(state, known=False)
    ]


def _owned(node: Any, *, known: bool) -> Iterator[tuple[Any, bool]]:
    """The leaves, each with True if it is a field of one of optax's own states."""
    if jax.tree.structure(node) == jax.tree.structure(0):
        yield node, known
        return
    is_optax = type(node).__module__.partition(".")[0] == "optax"
    names = getattr(node, "_fields", None)
    if names is None:
        for child in _children(node):
            yield from _owned(child, known=known)
        return
    for name in names:
        # A field called "state" holds the state of an inner optimizer.
        yield from _owned(getattr(node, name), known=is_optax and "state" not in name)


def _changes_with_its_count(optimizer: Optimizer, params: PyTree) -> bool:
    with jax.ensure_compile_time_eval():
        rule = at_round(optimizer, 0)
        here, gradient = _made_up(params, 0), _made_up(params, 1)
        states, changes = [rule.init(here)], []
        for _ in range(_MANY_STEPS):
            change, state = rule.update(gradient, states[-1], here)
            states.append(state)
            changes.append(change)
        if any(map(checks.is_traced, jax.tree.leaves((states, changes)))):
            return False
        # An inner optimizer may count only every second or third step.
        (first, structure), (before, _), (last, _) = (
            jax.tree.flatten(state) for state in (states[0], states[-2], states[-1])
        )
        counts = [
            _number_of_counts(start, end) if may_count else 0
            for start, end, may_count in zip(
                first, last, _may_count(states[0]), strict=True
            )
        ]
        back = [
            start if count else leaf
            for start, leaf, count in zip(first, before, counts, strict=True)
        ]
        if not any(counts):
            return False
        stride = max(1, _MANY_STEPS // max(counts))
        varies = any(not _close(one, changes[-1]) for one in changes[::-stride])
        earlier, _ = rule.update(gradient, jax.tree.unflatten(structure, back), here)
        return varies and not _close(earlier, changes[-1])


def _number_of_counts(start: Array, end: Array) -> int:
    """The times that a number was counted up or down, at equal distances; 0 if it
    changed in another way.
    """
    change = float(abs(end - start))
    if change == 0 or not change.is_integer() or _MANY_STEPS % change:
        return 0
    return int(change)


def _close(one: PyTree, other: PyTree) -> bool:
    return all(
        np.allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-3)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
