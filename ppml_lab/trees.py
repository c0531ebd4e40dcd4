"""The few pytree helpers that `optax.tree` lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, PyTree

from ppml_lab import base


def leaf_keys(key: base.Key, tree: PyTree) -> PyTree:
    """One independent key per leaf, in the structure of `tree`."""
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


def as_vector(tree: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """All leaves as one vector, and a function that cuts `[..., size]` into the tree
    again.

    Unlike that of `jax.flatten_util.ravel_pytree`, the function keeps leading axes and
    the dtype of its input.
    """
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def cut(vector: Array) -> PyTree:
        parts = jnp.split(vector, ends, axis=-1)
        shaped = [
            part.reshape(*part.shape[:-1], *leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, shaped)

    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves]), cut


def arrays_apart(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """A tree's arrays, and a function that makes the tree of as many other arrays; it
    keeps all leaves that are not arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def together(arrays: list[Array]) -> PyTree:
        whole = [*leaves]
        for place, array in zip(places, arrays, strict=True):
            whole[place] = array
        return jax.tree.unflatten(structure, whole)

    return [leaves[place] for place in places], together


def take(tree: PyTree, rows: Array | np.ndarray) -> PyTree:
    """Takes these rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def check_arrays(name: str, tree: PyTree) -> None:
    """Raises ValueError, naming the argument, unless the tree has leaves and all are
    arrays of numbers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.number):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} must be an array of numbers, got "
                f"{type(leaf).__name__ if dtype is None else dtype}"
            )
    if not leaves:
        raise ValueError(f"{name} has no arrays; give a tree with at least one")


def widened(tree: PyTree) -> PyTree:
    """The tree with floats of fewer than 32 bits as float32."""

    def wide(leaf: Array) -> Array:
        is_short = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
        return leaf.astype(jnp.float32) if is_short else leaf

    return jax.tree.map(wide, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Casts every leaf to the dtype of the leaf at its place in `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def check_same_shapes(what: str, before: PyTree, after: PyTree) -> None:
    """Raises ValueError, opening with `what`, unless two trees have the same structure,
    shapes and dtypes.
    """
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"{what}: from {jax.tree.structure(before)} to {jax.tree.structure(after)}"
        )
    paths = jax.tree_util.tree_leaves_with_path(before)
    for (path, old), new in zip(paths, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"{what}: {jax.tree_util.keystr(path)} from {old.dtype}"
                f"{list(old.shape)} to {new.dtype}{list(new.shape)}"
            )


def place(tree: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """Puts arrays on the devices of a sharding, which may belong to several processes.

    Each process puts only its own part there, whereas `jax.device_put` would compare
    all parts, and wait for processes that are elsewhere.
    """

    def put(leaf: Any) -> Array:
        if sharding is None or sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )

    return jax.tree.map(put, tree)


def digest(tree: PyTree) -> str:
    """A digest, the same for trees whose arrays are equal to the bit; host side."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]
