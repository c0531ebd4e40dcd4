"""Checks that test rows are like train rows, and that labels are known classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_alike(where: str, train: Any, test: Any) -> None:
    """Raises ValueError unless test rows have train's fields, shapes and kinds."""
    if jax.tree.structure(train) != jax.tree.structure(test):
        raise ValueError(
            f"{where}: test must have the fields of train, {_fields(train)}, got "
            f"{_fields(test)}"
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(train), jax.tree.leaves(test), strict=True
    )
    for (path, there), here in pairs:
        if np.shape(there)[1:] != np.shape(here)[1:]:
            raise ValueError(
                f"{where}: rows of test{jax.tree_util.keystr(path)} must have the "
                f"shape of train's rows, {list(np.shape(there)[1:])}, got "
                f"{list(np.shape(here)[1:])}"
            )
        types = [type_of(leaf) for leaf in (here, there)]
        if _kind(types[0]) != _kind(types[1]):
            raise ValueError(
                f"{where}: test{jax.tree_util.keystr(path)} holds {types[0]}, but "
                f"train holds {types[1]}; convert one of them, so that a model reads "
                "the same numbers"
            )


def type_of(leaf: Any) -> np.dtype:
    """The dtype of an array, or of what `np.asarray` makes of a value."""
    return np.dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)


def _kind(dtype: np.dtype) -> str:
    """The kind of a dtype; integers of any width are one kind, floats another."""
    if jnp.issubdtype(dtype, np.integer):
        return "whole"
    return "float" if jnp.issubdtype(dtype, np.floating) else dtype.kind


def _fields(tree: Any) -> str:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return ", ".join(jax.tree_util.keystr(path) for path in paths) or "none"


def check_labels(where: str, rows: Any, num_classes: int) -> None:
    """Raises ValueError unless integer labels "y" lie in `[0, num_classes)`, but where
    "weights" of the same shape are 0, as in padding.
    """
    if not isinstance(rows, dict) or "y" not in rows:
        return
    labels = np.asarray(rows["y"])
    if labels.dtype.kind not in "iu":
        return
    is_bad = (labels < 0) | (labels >= num_classes)
    weights = np.asarray(rows.get("weights", 1))
    if weights.shape == labels.shape:
        is_bad &= weights != 0
    bad = np.flatnonzero(is_bad)
    if bad.size:
        row = bad[0] // (labels.size // len(labels))
        raise ValueError(
            f"{where} labels must lie in [0, num_classes = {num_classes}), got "
            f"{labels.ravel()[bad[0]]} in row {row}"
        )
