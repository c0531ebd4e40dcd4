"""Checks of users' data on the host: one entry per example, nothing missing, and
numbers where a device is to hold them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, PyTree

_HOW_TO_ENCODE = {
    "M": "take the seconds since a first date, as float32",
    "m": "take seconds, as float32",
    "O": "convert it to one dtype of numbers, and drop or fill what is missing",
}
_ENCODE_TEXT = "number it, as numpy.unique(..., return_inverse=True) does"


def one_axis(name: str, values: Any) -> np.ndarray:
    """The values `[n]`, one for each example.

    Raises:
      ValueError: For other than one axis, no values, missing values (NaN, None, NaT,
        pandas' NA or masked), texts among numbers, or complex numbers.
    """
    column = np.asarray(values)
    if column.ndim != 1:
        raise ValueError(
            f"{name} must have one axis, one entry per example, got shape "
            f"{column.shape}; join several columns into one string"
        )
    if not len(column):
        raise ValueError(f"{name} is empty; give at least one example")
    if column.dtype.kind == "c":
        raise ValueError(
            f"{name} must be numbers or strings that can be sorted, got "
            f"{column.dtype}; join real and imaginary part into one string"
        )
    nothing_missing(name, values)
    if column.dtype.kind in "SU" and isinstance(values, list | tuple):
        # numpy makes 1 and "1" the same text.
        others = [value for value in values if not isinstance(value, str | bytes)]
        if others:
            raise ValueError(
                f"{name} mixes strings with other values, such as {others[0]!r}; turn "
                "all into strings"
            )
    return column


def plain(column: np.ndarray) -> np.ndarray:
    """A column of texts or numbers that numpy holds as objects, such as pandas' texts,
    in numpy's own type; other columns as they are.
    """
    if column.dtype.kind not in "OT":
        return column
    found = np.array(column.tolist())
    kept = found.ndim == 1 and found.tolist() == column.tolist()
    return found if kept else column


def family(column: np.ndarray) -> str:
    """What a column's values can be compared with: "numbers", or its type's kind."""
    kind = column.dtype.kind
    return "numbers" if kind in "biuf" else kind


def nothing_missing(name: str, values: Any) -> None:
    """Raises ValueError if an entry is NaN, None, NaT, pandas' NA or masked."""
    if np.ma.is_masked(values):
        masked = np.ma.getmaskarray(values)
    else:
        column = np.asarray(values)
        kind, is_array = column.dtype.kind, isinstance(values, np.ndarray)
        # In a list of texts numpy turns NaN into the text "nan".
        if kind == "T" or (kind in "SU" and not is_array):
            column = np.array(values, dtype=object)
        masked = _is_missing(column)
    if masked.any():
        where = tuple(np.argwhere(masked)[0].tolist())
        row = ", ".join(map(str, where))
        raise ValueError(
            f"{name} has {masked.sum()} missing values (NaN, None or the like) of "
            f"{masked.size}, the first in row {row}; drop these rows or fill them in"
        )


def numbered(name: str, column: np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The distinct values of a column, sorted, and each entry's place among them.

    Raises:
      ValueError: For values that cannot be sorted.
    """
    try:
        return np.unique(column, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be sorted ({error}); turn its values into strings"
        ) from error


def num_examples(name: str, examples: PyTree) -> int:
    """The length that all leaves share.

    Args:
      name: The tree's name in errors.
      examples: Leaves `[n, ...]` of numbers or truth values, on the host or not.

    Raises:
      ValueError: For a leaf without a leading axis, or of texts, dates or objects;
        leaves of different length; or no examples.
    """
    rows_of = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(examples):
        at = name + jax.tree_util.keystr(path)
        if np.ndim(leaf) == 0:
            raise ValueError(
                f"{at} has no leading axis; make the leaves arrays, not lists"
            )
        numeric(at, leaf)
        rows_of[at] = len(leaf)
    if len(set(rows_of.values())) > 1:
        lengths = ", ".join(f"{at}: {rows}" for at, rows in rows_of.items())
        raise ValueError(
            f"leaves must have the same length, got {lengths}; give each leaf one "
            "entry per example, client after client"
        )
    if not any(rows_of.values()):
        raise ValueError(f"{name} holds no examples; give at least one")
    return next(iter(rows_of.values()))


def numeric(name: str, leaf: Any) -> None:
    """Raises ValueError unless an array has a dtype that a device can hold."""
    dtype = getattr(leaf, "dtype", None)
    dtype = np.asarray(leaf).dtype if dtype is None else dtype
    # Time spans count as integers in numpy, and random keys as nothing.
    is_number = jnp.issubdtype(dtype, jnp.number) and dtype.kind != "m"
    if is_number or dtype == np.bool_ or jnp.issubdtype(dtype, jax.dtypes.extended):
        return
    cure = _HOW_TO_ENCODE.get(dtype.kind, _ENCODE_TEXT)
    raise ValueError(
        f"{name} has dtype {dtype}, which no device can hold; {cure}, or leave it out"
    )


def _is_missing(column: np.ndarray) -> Bool[np.ndarray, "..."]:
    if column.dtype.kind != "O":
        return np.asarray(column != column)
    found = [_is_nothing(value) for value in column.ravel().tolist()]
    return np.array(found, bool).reshape(column.shape)


def _is_nothing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA is neither equal nor unequal to itself
        return True
    except ValueError:  # an array
        return False
