"""The fields of parts: their annotations, and checks of the values that they hold."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, get_args, get_origin

import jax
import numpy as np

T = TypeVar("T")

_TRACED, _SAME_BITS = "a number that programs trace", "changes no bit of a result"
_FILE = "a file whose content counts"
Traced = Annotated[float, _TRACED]
"""Annotates a part's field that holds a number which compiled programs take."""
SameBits = Annotated[T, _SAME_BITS]
"""Annotates a part's field that changes no bit of any result: `SameBits[int]`."""

File = Annotated[str, _FILE]
"""Annotates a part's field that holds the path of a file: the part is identified by the
file's content, not by its path."""

_PLAIN: Mapping[type, Any] = {
    bool: (bool, np.bool_),
    int: Integral,
    float: Real,
    str: (str, np.str_),
}
"""The types that are accepted for each plain type."""


def is_part(value: Any) -> bool:
    """Returns whether a value is a part.

    Objects of a class that inherits from a part and is not decorated are no parts.
    """
    return "__part__" in vars(type(value))


def is_part_class(value: Any) -> bool:
    """Returns whether a value is a class of parts, not a part."""
    return isinstance(value, type) and "__part__" in vars(value)


def fields_of(cls: Any) -> Mapping[str, Any]:
    """Returns the annotations of the fields of a part or its class, by name."""
    return cls.__part__


def parts_in(value: Any) -> list[tuple[str, Any]]:
    """Returns the parts in a field's value, by place: the value itself at "", or the
    parts in a tuple.
    """
    if is_part(value):
        return [("", value)]
    places = enumerate(value) if isinstance(value, tuple) else ()
    return [(str(place), one) for place, one in places if is_part(one)]


def may_be_number(kind: Any) -> bool:
    """Returns whether an annotation lets a field hold a traced number."""
    return any(_is_marked(member, _TRACED) for member in members(kind))


def gives_same_bits(kind: Any) -> bool:
    """Returns whether an annotation says that a field changes no bit of a result."""
    return _is_marked(kind, _SAME_BITS)


def names_file(kind: Any) -> bool:
    """Returns whether an annotation says that a field is the path of a file."""
    return _is_marked(kind, _FILE)


def members(kind: Any) -> tuple[Any, ...]:
    """Returns the members of a union; the annotation itself if it is no union."""
    if get_origin(kind) is Annotated and not _is_marked(kind, _TRACED):
        return members(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(one for member in get_args(kind) for one in members(member))
    return (kind,)


def _is_marked(kind: Any, mark: str) -> bool:
    return get_origin(kind) is Annotated and mark in kind.__metadata__


def check_kind(where: str, kind: Any) -> None:
    """Raises TypeError for an annotation that mixes Traced with types that jax cannot
    trace; `where` names the field.
    """
    for member in members(kind):
        is_number = _is_marked(member, _TRACED)
        if not is_number and _mentions_traced(member):
            raise TypeError(
                f"{where}: Traced stands inside {member}; give each number a field, or "
                "hold a tuple of parts"
            )
        may_stand_beside = (
            is_number
            or member is type(None)
            or is_part_class(member)
            or _is_protocol(member)
        )
        if may_be_number(kind) and not may_stand_beside:
            raise TypeError(
                f"{where}: only None and parts may stand beside Traced, not {member}"
            )


def _mentions_traced(kind: Any) -> bool:
    inner = [*kind] if isinstance(kind, list) else get_args(kind)
    return _is_marked(kind, _TRACED) or any(map(_mentions_traced, inner))


def taken(where: str, kind: Any, value: Any, default: Any = None) -> tuple[Any, bool]:
    """Returns a field's value as the part keeps it, and whether it is a child; errors
    offer the field's default as an example.
    """
    if is_part_class(value):
        raise TypeError(
            f"{where} must be a part, got its class; write {value.__name__}(...)"
        )
    for one in value if isinstance(value, tuple) else ():
        if is_part_class(one):
            raise TypeError(
                f"{where} must hold parts, got a class; write {one.__name__}(...)"
            )
    held = [is_part(one) for one in (value if isinstance(value, tuple) else (value,))]
    if any(held):
        if not all(held):
            raise TypeError(f"{where} mixes parts and other things in one tuple")
        if not _may_be_part(kind, value):
            raise TypeError(f"{where} must be {_words(kind)}, got {value!r}")
        return value, True
    if may_be_number(kind):
        return _number(where, kind, value), True
    return _structure(where, kind, value, default), False


def _may_be_part(kind: Any, value: Any) -> bool:
    """Returns whether a field may hold this part, or this tuple of parts."""
    others = {*_PLAIN, type(None)}
    is_tuple = isinstance(value, tuple)
    inner = get_args(next((m for m in members(kind) if get_origin(m) is tuple), None))
    return any(
        m is Any or ((get_origin(m) is tuple) == is_tuple and _serves(m, inner, value))
        for m in members(kind)
        if m not in others and not _is_marked(m, _TRACED)
    )


def _serves(member: Any, inner: tuple[Any, ...], value: Any) -> bool:
    """Returns whether a part, or each part in a tuple, has a protocol's methods."""
    if isinstance(value, tuple):
        return all(_serves(inner[0], (), one) for one in value) if inner else True
    return not _is_protocol(member) or _has_methods(type(value), member)


@functools.cache
def _has_methods(cls: type, protocol: type) -> bool:
    """Returns whether a class's methods can be called as a protocol says."""
    for name, asked in vars(protocol).items():
        if isinstance(asked, property):
            if not hasattr(cls, name) and name not in cls.__part__:
                return False
        elif isinstance(asked, types.FunctionType) and (
            not name.startswith("_") or name == "__call__"
        ):
            own: Any = getattr(cls, name, None)
            arguments = [
                one
                for one in inspect.signature(asked).parameters.values()
                if one.default is one.empty
            ]
            try:
                inspect.signature(own).bind(*arguments)
            except (TypeError, ValueError):
                return False
    return True


def _number(where: str, kind: Any, value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):  # parts are made inside programs too
        return value
    if value is None and type(None) in members(kind):
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(
            f"{where} must be a number, got {value!r} ({type(value).__name__})"
        )
    number = _float(where, value)
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(number))
    # Programs would compute with inf, or 0, instead.
    if math.isinf(single) != math.isinf(number) or (single == 0) != (number == 0):
        raise ValueError(
            f"{where} must be a number that float32 can hold, got {value!r}"
        )
    return number


def _float(where: str, value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{where} must be a number, got {value!r}")
    return number


def _structure(where: str, kind: Any, value: Any, default: Any = None) -> Any:
    """Returns a structural value converted to its annotated type; checks its hash."""
    choices = members(kind)
    if value is None and type(None) in choices:
        return None
    plain = [choice for choice in choices if choice in _PLAIN]
    for choice in sorted(plain, key=lambda choice: type(value) is not choice):
        # Python takes a bool for an int; from a user it is a mistake.
        is_bool = isinstance(value, bool | np.bool_)
        if isinstance(value, _PLAIN[choice]) and is_bool == (choice is bool):
            if choice is int and not -(2**63) <= int(value) < 2**63:
                raise ValueError(f"{where} must be a 64-bit int, got {value!r}")
            return _float(where, value) if choice is float else choice(value)
    tuples = [choice for choice in choices if get_origin(choice) is tuple]
    if tuples and isinstance(value, tuple):
        return _tuple(where, tuples[0], value)
    literals = [
        one for c in choices if get_origin(c) is typing.Literal for one in get_args(c)
    ]
    if literals:
        if any(type(value) is type(one) and value == one for one in literals):
            return value
        raise ValueError(
            f"{where} must be one of {', '.join(map(repr, literals))}, got {value!r}"
        )
    known = {*plain, *tuples, type(None)}
    others = [choice for choice in choices if choice not in known]
    # A protocol may be that of a function.
    is_function = callable(value) and any("__call__" in dir(o) for o in others)
    if not is_function and all(_is_protocol(o) or is_part_class(o) for o in others):
        cure = f"; give a part, such as {default!r}" if is_part(default) else ""
        if tuples and isinstance(value, str | list):
            cure = f"; write {tuple(value) if isinstance(value, list) else (value,)}"
        raise TypeError(
            f"{where} must be {_words(kind)}, got {value!r} ({type(value).__name__})"
            + cure
        )
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{where} decides what is compiled and must be hashable, got a "
            f"{type(value).__name__}; use a tuple, a part, or fields annotated Traced"
        ) from None
    return value


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _tuple(where: str, kind: Any, value: tuple[Any, ...]) -> tuple[Any, ...]:
    inner = get_args(kind)
    if inner[-1:] == (Ellipsis,):
        inner = inner[:1] * len(value)
    if len(inner) != len(value):
        raise TypeError(f"{where} must hold {len(inner)} values, got {value!r}")
    each = zip(inner, value, strict=True)
    return tuple(_structure(f"{where}[{i}]", k, v) for i, (k, v) in enumerate(each))


def _words(kind: Any) -> str:
    names = {type(None): "None"}
    return " or ".join(
        names.get(m, getattr(m, "__name__", None) or str(m)) for m in members(kind)
    )
