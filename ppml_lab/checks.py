"""Errors for bad arguments, raised when a thing is built. Each names the argument, its
value and the fix.

Traced values pass unchecked: the same builder runs once on the host with numbers and
again under jit with tracers.
"""

from __future__ import annotations

import difflib
import math
import numbers
import sys
from collections.abc import Collection
from typing import Any


def is_traced(value: Any) -> bool:
    """Returns whether `value` is known only inside a compiled program."""
    # Where jax is not loaded nothing is traced: the prompt starts without it.
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def number(name: str, value: Any) -> Any:
    """Raises ValueError unless `value` is one real number: not a truth value, not text,
    and no array with axes.

    Returns:
      The value, and no array of jax: comparing with an array of jax would be traced
      wherever the value is a constant of a loop.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    is_scalar = getattr(value, "ndim", None) == 0 and kind not in "bcOSTUMm"
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_scalar or is_real):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        digits = len(f"{abs(value):x}")
        raise ValueError(
            f"{name} must be a number that a float can hold, got an integer of "
            f"{digits} hex digits"
        )
    jax = sys.modules.get("jax")
    is_array = jax is not None and isinstance(value, jax.Array)
    return value.__array__()[()] if is_array else value


def key(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is one typed key, traced or not."""
    import jax

    dtype = getattr(value, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(value).__name__ if dtype is None else f"{dtype}{list(value.shape)}"
        raise ValueError(
            f"{name} must be a typed key, got {got}; jax.random.key(seed) makes one"
        )
    if value.shape:
        raise ValueError(
            f"{name} must be one key, got keys of shape {list(value.shape)}; use "
            "jax.vmap to map over keys"
        )


def positive(name: str, value: Any, *, allow_inf: bool = False) -> None:
    """Raises ValueError unless `value` is above 0 (and finite, unless `allow_inf`)."""
    if is_traced(value):
        return
    value = number(name, value)
    if not value > 0 or (math.isinf(value) and not allow_inf):
        raise ValueError(
            f"{name} must be positive{'' if allow_inf else ' and finite'}, got {value}"
        )


def non_negative(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is finite and at least 0."""
    if is_traced(value):
        return
    value = number(name, value)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def probability(name: str, value: Any, *, allow_one: bool) -> None:
    """Raises ValueError unless `value` lies in (0, 1), or (0, 1] with `allow_one`."""
    if is_traced(value):
        return
    value = number(name, value)
    if not (0 < value < 1 or (allow_one and value == 1)):
        cure = "; of a count give its share, count / all" if value > 1 else ""
        raise ValueError(
            f"{name} must lie in (0, 1{']' if allow_one else ')'}, got {value}{cure}"
        )


def share(name: str, value: Any) -> None:
    """Raises ValueError unless `value` lies in [0, 1)."""
    if is_traced(value):
        return
    value = number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def within(name: str, value: Any, least: Any, most: Any) -> None:
    """Raises ValueError unless `value` is a number in [least, most]."""
    if any(map(is_traced, (value, least, most))):
        return
    value = number(name, value)
    low, high = float(least), float(most)
    if not low <= float(value) <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")


def at_least(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless `value` is an integer of 64 bits, at least `least`."""
    if is_traced(value):
        return
    value = number(name, value)
    # int() of nan or infinity would raise an error of its own.
    is_whole = isinstance(value, int) or (math.isfinite(value) and value == int(value))
    if not is_whole or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
    if int(value) >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value}")


def entries(name: str, value: Any, count: int, of: str) -> None:
    """Raises ValueError unless the array `value` has `count` entries along its leading
    axis, one for each `of` something. Values are not looked at, so it may be traced.
    """
    shape = getattr(value, "shape", None)
    if not shape or shape[0] != count:
        got = f"a {type(value).__name__}" if shape is None else f"shape {list(shape)}"
        raise ValueError(
            f"{name} must have {count} entries, one for each of the {of}, got {got}"
        )


def cut(text: str, most: int = 80) -> str:
    """A text of at most `most` letters for an error."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def integer_labels(name: str, labels: Any, num_classes: int | None = None) -> None:
    """Raises ValueError unless the array `labels` has integers along one axis, `[n]`;
    says how to make them so. Values are not looked at, so it may be traced.
    """
    shape, kind = tuple(labels.shape), labels.dtype.kind
    if len(shape) == 1 and kind in "iu":
        return
    if shape[1:] == (1,):
        cure = "take its only column, [:, 0]"
        cure += ", as integers" if kind in "bf" else ""
    elif len(shape) == 2 and shape[1] == (num_classes or shape[1]):
        cure = "if rows are one-hot, take .argmax(axis=1)"
    elif len(shape) != 1:
        cure = (
            "give each row one label, or write a task whose loss is the mean over a "
            "row's positions"
        )
    elif kind in "bf":
        cure = "convert it with .astype('int32')"
    else:
        cure = "number the classes, as numpy.unique(..., return_inverse=True) does"
    raise ValueError(
        f"{name} must hold one integer label per row, [n], got {labels.dtype}"
        f"[{', '.join(['n', *map(str, shape[1:])][: len(shape)])}]; {cure}"
    )


def known(kind: str, name: str, names: Collection[str], *, argument: str = "") -> None:
    """Raises ValueError unless `name` is one of `names`; suggests the nearest. The
    error opens with `argument`, where the argument is not called `kind`.
    """
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    opening = f"{argument}: " if argument else ""
    raise ValueError(
        f"{opening}unknown {kind} '{name}'{hint} Known: {', '.join(sorted(names))}"
    )
