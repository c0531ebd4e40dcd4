"""Checks of the arguments of functions that builders return, with readable errors.

`@guards.returned()` on a builder checks the arguments of the functions that the builder
returns, by the arguments' names, which `base` fixes: a `key` is one typed key, an
`update` a tree of arrays, a `sensitivity` no negative number. Of traced values only
shapes and types are checked, while a program is traced: compiled programs pay nothing.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import base, checks, trees

F = TypeVar("F", bound=Callable[..., Any])

Guard = Callable[[str, Any], None]
"""`(name, value)`: raises ValueError unless the argument can have this value."""


def returned(**own: Guard) -> Callable[[F], F]:
    """A decorator of builders. The functions that they return, alone or in records,
    raise ValueError, naming the argument, for values that they cannot take.

    Args:
      **own: Guards by argument for what only the builder knows, such as a state's type.
    """

    def decorated(builder: F) -> F:
        @functools.wraps(builder)
        def build(*args: Any, **kwargs: Any) -> Any:
            return _guarded(builder(*args, **kwargs), own)

        return typing.cast(F, build)

    return decorated


def _guarded(made: Any, own: dict[str, Guard]) -> Any:
    if isinstance(made, tuple):
        parts = [_guarded(part, own) for part in made]
        return type(made)(*parts) if hasattr(made, "_fields") else tuple(parts)
    is_function = callable(made) and not isinstance(made, type)
    return called(made, **own) if is_function else made


def called(function: Callable[..., Any], **own: Guard) -> Callable[..., Any]:
    """Wraps `function` with guards for its arguments; those in `own` come first."""
    names = list(inspect.signature(function).parameters)
    new = own if hasattr(function, "is_guarded") else _GUARDS | own
    if not new.keys() & names:
        return function
    known = {name: guard for name, guard in (_GUARDS | own).items() if name in names}
    alike = [pair for pair in _ALIKE if {*pair} <= {*names}]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        for name, value in given.items():
            if name in known:
                known[name](name, value)
        for one, other in alike:
            if one in given and other in given:
                _same_length(one, given[one], other, given[other])
        return function(*args, **kwargs)

    call.__dict__["is_guarded"] = True
    return call


def one_of(kind: type, maker: str) -> Guard:
    """A guard that checks for a type; `maker` says what makes one."""

    def guard(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}, got {_shown(value)}; {maker}"
            )

    return guard


def scalar(kind: type[np.number]) -> Guard:
    """A guard that checks for an array without axes, such as of `np.floating`."""

    def guard(name: str, value: Any) -> None:
        found = getattr(value, "dtype", None)
        if found is None or not jnp.issubdtype(found, kind) or value.shape:
            raise ValueError(
                f"{name} must be an array [] of kind {kind.__name__}, got "
                f"{_shown(value)}; `init` makes the first"
            )

    return guard


def arrays(name: str, value: Any) -> None:
    """Checks for a tree of arrays of any types; a model may have no parameters."""
    if value is None:
        raise ValueError(f"{name} must be a tree of arrays, got None")
    for leaf in jax.tree.leaves(value):
        # Dates, texts and objects are no arrays to JAX.
        if getattr(getattr(leaf, "dtype", None), "kind", "O") in "OSTUMm":
            raise ValueError(f"{name} must be a tree of arrays, got {_shown(leaf)}")


def rows(name: str, value: Any) -> None:
    """Checks for a tree of arrays that have a leading axis."""
    arrays(name, value)
    leaves = jax.tree.leaves(value)
    if not leaves or not all(leaf.shape for leaf in leaves):
        raise ValueError(
            f"{name} must be a tree of arrays with a leading axis of rows, got "
            f"{_shown(value)}"
        )


def _whole(least: int) -> Guard:
    def guard(name: str, value: Any) -> None:
        if checks.is_traced(value) and value.shape:
            raise ValueError(f"{name} must be one integer, got {_shown(value)}")
        checks.at_least(name, value, least)

    return guard


def _positive(name: str, value: Any) -> None:
    checks.positive(name, value, allow_inf=True)


def no_negative(name: str, value: Any) -> None:
    """Checks for a number that is not negative."""
    if not checks.is_traced(value):
        checks.number(name, value)
        checks.within(name, value, 0, math.inf)


def row_of(kinds: str, words: str) -> Guard:
    """A guard that checks for an array with one axis and one of these `dtype` kinds."""

    def guard(name: str, value: Any) -> None:
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if kind not in kinds or kind == "" or np.ndim(value) != 1:
            raise ValueError(
                f"{name} must be {words} along one axis, got {_shown(value)}"
            )

    return guard


def _keys(name: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    is_keys = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_keys or value.ndim != 1:
        raise ValueError(
            f"{name} must be an array [n] of typed keys, got {_shown(value)}; "
            "dp.example_keys makes one"
        )


def _gradients(name: str, value: Any) -> None:
    if not callable(getattr(value, "weighted_sum", None)):
        raise ValueError(
            f"{name} must be a dp.PerExample, got {_shown(value)}; dp.clipped_total "
            "makes one from a loss"
        )


def _same_length(one: str, first: Any, other: str, second: Any) -> None:
    lengths = [jax.tree.leaves(value)[0].shape[0] for value in (first, second)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"{one} and {other} must have the same length, got {lengths[0]} and "
            f"{lengths[1]}"
        )


def _shown(value: Any) -> str:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        return f"{dtype}{list(shape)}"
    return checks.cut(repr(value))


_GUARDS: dict[str, Guard] = {
    "key": checks.key,
    "like": arrays,
    "update": trees.check_arrays,
    "mean": trees.check_arrays,
    "total": trees.check_arrays,
    "value": trees.check_arrays,
    "like_message": arrays,
    "messages": rows,
    "params": arrays,
    "sent": arrays,
    "sensitivity": no_negative,
    "norm": no_negative,
    "max_abs": _positive,
    "clients": one_of(base.Clients, "data.federate makes them"),
    "client": one_of(base.ClientView, "data.view makes one"),
    "size": _whole(0),
    "place": _whole(0),
    "round_number": _whole(0),
    "step_number": _whole(0),
    "num_places": _whole(1),
    "num_rounds": _whole(1),
    "dimension": _whole(1),
    "places": row_of("iu", "integers"),
    "present": row_of("b", "truth values"),
    "invited": row_of("b", "truth values"),
    "reporting": row_of("b", "truth values"),
    "num_invited": row_of("iuf", "counts"),
    "num_reports": row_of("iuf", "counts"),
    "weights": row_of("fV", "numbers"),
    "keys": _keys,
    "gradients": _gradients,
}
"""Guards by the argument's name."""

_ALIKE = (
    ("invited", "reporting"),
    ("num_invited", "num_reports"),
    ("places", "present"),
    ("messages", "present"),
    ("keys", "weights"),
    ("examples", "weights"),
    ("gradients", "weights"),
)
"""Arguments that have an entry for each of the same clients, rounds or examples."""
