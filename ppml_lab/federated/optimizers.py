"""The optimizers of clients: what they may and may not be.

A client starts its optimizer afresh in every round. So a learning rate that changes
over rounds is a function of the round, and the optimizer is made from its value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from ppml_lab import checks

Optimizer: TypeAlias = (
    optax.GradientTransformation | Callable[[Array], optax.GradientTransformation]
)
"""Any optax optimizer, or `(round_number) -> ` one, such as
`lambda number: optax.sgd(schedule(number))`. Rounds count from 0."""

_COUNTS_STEPS = ("ScaleByScheduleState", "WrappedScheduleState")


def at_round(optimizer: Optimizer, number: Any) -> optax.GradientTransformation:
    """The optimizer of a round."""
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    return optimizer(jnp.asarray(number))


def check(optimizer: Optimizer, params: PyTree) -> None:
    """Raises ValueError for an optimizer that counts steps for a schedule.

    Args:
      optimizer: A client's.
      params: Shapes of what it trains.
    """

    def start(params: PyTree) -> PyTree:
        return at_round(optimizer, 0).init(params)

    state = jax.eval_shape(start, params)
    names = {
        type(part).__name__
        for part in jax.tree.leaves(state, is_leaf=_counts)
        if _counts(part)
    }
    if names:
        raise ValueError(
            "the client's optimizer follows an optax schedule, whose count starts "
            "again in every round; give a function of the round instead, such as "
            "lambda number: optax.sgd(schedule(number))"
        )


def still_leaves(optimizer: Optimizer, params: PyTree) -> list[str]:
    """The leaves of `params` that the optimizer never changes, where it changes others.

    Found by one step from these parameters along gradients of 1; nothing is found where
    the optimizer holds traced numbers.
    """
    with jax.ensure_compile_time_eval():
        here = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), params)
        rule = at_round(optimizer, 0)
        changes, _ = rule.update(here, rule.init(here), here)
        leaves = jax.tree_util.tree_leaves_with_path(changes)
        if any(checks.is_traced(leaf) for _, leaf in leaves):
            return []
        still = [path for path, leaf in leaves if not bool(jnp.any(leaf != 0))]
    if len(still) == len(leaves):
        return []
    return [jax.tree_util.keystr(path) for path in still]


def _counts(part: Any) -> bool:
    return type(part).__name__ in _COUNTS_STEPS
