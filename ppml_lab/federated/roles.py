"""The roles of a model's leaves: learnt together, constant, or kept by each client.

A tree's *trainable part* is the tree with None in place of every other leaf. Clients
clip, send and add up only trainable parts; constant leaves stay as they are. *Kept*
leaves are trained by each client for itself along with the rest: nobody else ever sees
them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ppml_lab import base

ROLES = ("trainable", "constant", "kept")
"""Learnt together; never clipped, noised, sent or summed; each client's own."""


def trainable(task: base.Task, params: PyTree) -> PyTree:
    """The trainable part of a model.

    Raises:
      ValueError: For roles that are unknown or not shaped like the model, a model
        without a trainable leaf, or trained leaves that are not floating-point numbers.
    """
    return _part(task, params, "trainable")


def own(task: base.Task, params: PyTree) -> PyTree:
    """The leaves of a model that each client keeps for itself, with None in place of
    every other leaf; `()` for a task that keeps nothing. Raises as `trainable` does.
    """
    part = _part(task, params, "kept")
    return part if jax.tree.leaves(part) else ()


def trained(task: base.Task, params: PyTree) -> PyTree:
    """The leaves of a model that a client trains: the trainable ones and those it
    keeps.
    """
    return _part(task, params, "trainable", "kept")


def of_client(sent: PyTree, own: PyTree) -> PyTree:
    """A client's whole model, from what it was sent and what it keeps."""
    return merged(own, sent) if jax.tree.leaves(own) else sent


def keeps(task: base.Task) -> tuple[str, ...]:
    """The paths of the leaves that each client keeps for itself."""
    if task.roles is None:
        return ()
    part = own(task, model(task))
    return tuple(
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(part)
    )


def model(task: base.Task) -> PyTree:
    """Shapes and types of a task's model, found once for each task."""
    return _model(task, jax.dtypes.canonicalize_dtype(float))


@functools.lru_cache(maxsize=64)
def _model(task: base.Task, widest: Any) -> PyTree:
    made = jax.eval_shape(task.init, jax.random.key(0))
    # Without the mesh of where this was asked first, which fits nowhere else.
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, weak_type=leaf.weak_type
        ),
        made,
    )


def refuse_kept(task: base.Task, why: str) -> None:
    """Raises ValueError, opening with `why`, for a task whose leaves clients keep."""
    kept = keeps(task)
    if kept:
        raise ValueError(
            f"{why}; task keeps {', '.join(kept[:3])}{', ...' * (len(kept) > 3)}; give "
            "no leaf the role 'kept', or use local_sgd, proximal_sgd or scaffold"
        )


@functools.lru_cache(maxsize=64)
def dimension(task: base.Task) -> int:
    """The number of trainable parameters of a task's model."""
    leaves = jax.tree.leaves(trainable(task, model(task)))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def merged(part: PyTree, whole: PyTree) -> PyTree:
    """The whole model with the values of `part` where it has some."""
    return _each(lambda own, leaf: leaf if own is None else own, part, whole)


def like(part: PyTree, whole: PyTree) -> PyTree:
    """The leaves of a whole model that `part` has, None for the others."""
    return _each(lambda own, leaf: None if own is None else leaf, part, whole)


def loss_of_part(task: base.Task, whole: PyTree) -> base.TaskLoss:
    """The task's loss as a function of the trainable part alone."""
    if task.roles is None:
        return task.loss
    return lambda key, part, examples: task.loss(key, merged(part, whole), examples)


def _each(choose: Callable[[Any, Any], Any], part: PyTree, whole: PyTree) -> PyTree:
    return jax.tree.map(choose, part, whole, is_leaf=lambda own: own is None)


def _part(task: base.Task, params: PyTree, *roles: str) -> PyTree:
    return jax.tree.map(
        lambda role, leaf: leaf if role in roles else None, _roles(task, params), params
    )


def _roles(task: base.Task, params: PyTree) -> PyTree:
    if task.roles is None:
        roles = jax.tree.map(lambda leaf: "trainable", params)
    else:
        roles = task.roles(params)
    if jax.tree.structure(roles) != jax.tree.structure(params):
        raise ValueError(
            f"the task's roles must name one role per leaf of the model, got "
            f"{jax.tree.structure(roles)} for {jax.tree.structure(params)}"
        )
    names = jax.tree_util.tree_leaves_with_path(roles)
    for (path, role), leaf in zip(names, jax.tree.leaves(params), strict=True):
        where = jax.tree_util.keystr(path) or "the model"
        if role not in ROLES:
            raise ValueError(
                f"the role of {where} must be one of {', '.join(ROLES)}, got {role!r}"
            )
        if role != "constant" and not jax.numpy.issubdtype(
            leaf.dtype, jax.numpy.floating
        ):
            raise ValueError(
                f"{where} is {leaf.dtype} and cannot be trained; make the leaf a "
                "float, or give it the role 'constant' in the task"
            )
    if "trainable" not in jax.tree.leaves(roles):
        raise ValueError(
            "params: the model has no trainable leaf; give at least one leaf the role "
            "'trainable' in the task"
        )
    return roles
