"""The few pytree helpers that `optax.tree` lacks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, PyTree

from ppml_lab import base


def leaf_keys(key: base.Key, tree: PyTree) -> PyTree:
    """One independent key per leaf of `tree`, in its structure."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    return jax.tree.unflatten(structure, keys)


def where(mask: Bool[Array, "..."], tree: PyTree, other: PyTree | float) -> PyTree:
    """Selects from `tree` where `mask` holds, else from `other` (a tree or a number).

    `mask` has the leading axes of every leaf, so it can pick whole rows. Unlike a
    product with 0 and 1 this silences NaN and infinity.
    """

    def select(leaf: Array, alternative: Any) -> Array:
        shape = mask.shape + (1,) * (leaf.ndim - mask.ndim)
        return jnp.where(
            mask.reshape(shape), leaf, jnp.asarray(alternative, leaf.dtype)
        )

    if jax.tree.structure(other) == jax.tree.structure(0.0):
        return jax.tree.map(lambda leaf: select(leaf, other), tree)
    return jax.tree.map(select, tree, other)


def take(tree: PyTree, rows: Array) -> PyTree:
    """Rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)
