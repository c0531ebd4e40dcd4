"""Parts: the small frozen classes that make up the tree of a setup.

A part is a dataclass and a jax pytree. Its children are the fields annotated `Traced`,
which hold numbers, and the fields that hold parts: a sweep may change the numbers
without compiling again. All other fields are structure: they are converted to their
annotated types, hashed, and compiled.

    @lab.part
    class FedProx:
        optimizer: Optimizer = Sgd(0.1)    # a child, for it holds a part
        mu: lab.Traced = 0.01              # a number
        local_epochs: int = 1              # structure
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, dataclass_transform

import jax

from ppml_lab import shown
from ppml_lab.lab.tree.fields import (
    check_kind,
    is_part,
    taken,
)

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def part(cls: type[T]) -> type[T]:
    """Makes a class a part: frozen, a pytree of its numbers and parts, and checked when
    a person makes one.

    Annotations may name classes of the surrounding function or notebook cell.

    Raises:
      TypeError: For a field whose annotation is unknown, or one that no part can have.
    """
    made: Any = cls
    scope = {**_around(cls), cls.__name__: cls}
    made.__annotations__ = {
        name: _evaluated(f"{cls.__name__}.{name}", kind, scope)
        for name, kind in vars(cls).get("__annotations__", {}).items()
    }
    # Taken before dataclass adds methods of its own.
    made.__written__ = dict(vars(cls))
    own_check = getattr(cls, "__post_init__", None)

    def check(self: Any) -> None:
        if "__children__" not in self.__dict__:  # unless a base class did it
            _check(self)
        if own_check is not None:
            own_check(self)

    made.__post_init__ = check
    if "__eq__" not in vars(cls):
        made.__eq__, made.__hash__ = _equal, _hash
    if "__repr__" not in vars(cls):
        made.__repr__ = shown.part
    try:
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    except ValueError as error:  # a mutable default
        raise TypeError(f"{cls.__name__}: {error}") from error
    kinds = {field.name: field.type for field in dataclasses.fields(made)}
    for name, kind in kinds.items():
        check_kind(f"{cls.__name__}.{name}", kind)
    made.__part__ = kinds
    # Libraries that check annotations on every call would refuse tracers here.
    made.__no_type_check__ = True
    jax.tree_util.register_pytree_with_keys(
        made,
        _flat_with_keys,
        lambda structure, children: _rebuilt(cls, structure, tuple(children)),
        _flat,
    )
    return cls


class _Structure:
    """The structure of a part, which is compiled: the names of its children, and the
    values of its other fields.

    It is no tuple because jax would compare tuples without looking at types: 1, 1.0 and
    True are three structures.
    """

    def __init__(self, children: tuple[str, ...], rest: tuple[tuple[str, Any], ...]):
        """Takes names of children; names and values of the other fields."""
        self.children, self.rest = children, rest

    @functools.cached_property
    def _told(self) -> tuple[Any, int]:
        """The types, which are compared beside the values, and a hash of the values."""
        both = (self.children, self.rest)
        return _types(both), hash(both)

    def __eq__(self, other: object) -> bool:
        """Compares values and their types."""
        if self is other:
            return True
        if not isinstance(other, _Structure):
            return NotImplemented
        mine, theirs = (self.children, self.rest), (other.children, other.rest)
        return mine == theirs and self._told == other._told

    def __hash__(self) -> int:
        """Hashes the values, without their types."""
        return self._told[1]

    def __repr__(self) -> str:
        """Returns the text that jax prints in a tree's structure."""
        return ", ".join([*self.children, *(f"{k}={v!r}" for k, v in self.rest)])


def _types(value: Any) -> Any:
    held: Sequence[Any] = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [type(value), *map(_types, held)]


def _equal(self: Any, other: object) -> bool:
    """Returns whether both have the same class, numbers and structure."""
    return type(self) is type(other) and _flat(self) == _flat(other)


def _hash(self: Any) -> int:
    children, structure = _flat(self)
    return hash((type(self), tuple(children), structure))


def _flat(self: Any) -> tuple[list[Any], _Structure]:
    names, structure = self.__dict__["__children__"], self.__dict__.get("__structure__")
    if structure is None:
        rest = tuple(
            (k, getattr(self, k)) for k in type(self).__part__ if k not in names
        )
        structure = self.__dict__["__structure__"] = _Structure(names, rest)
    return [getattr(self, name) for name in names], structure


def _flat_with_keys(self: Any) -> tuple[list[Any], _Structure]:
    children, structure = _flat(self)
    keys = map(jax.tree_util.GetAttrKey, structure.children)
    return [*zip(keys, children, strict=True)], structure


def _rebuilt(cls: type, structure: _Structure, children: Sequence[Any]) -> Any:
    # The class is not called: jax puts tracers and bare objects in the leaves.
    self = object.__new__(cls)
    values = dict(zip(structure.children, children, strict=True))
    self.__dict__.update(
        dict(structure.rest),
        **values,
        __children__=structure.children,
        __structure__=structure,
    )
    return self


def _around(cls: type) -> dict[str, Any]:
    """Returns the names that a class's annotations may use: those of the frame that
    defines the class, whatever wraps the decorator.
    """
    module = vars(sys.modules.get(cls.__module__, typing))
    frame: Any = sys._getframe(1)
    while frame and frame.f_globals.get("__name__") != cls.__module__:
        frame = frame.f_back
    return {**frame.f_globals, **frame.f_locals} if frame else dict(module)


def _evaluated(where: str, kind: Any, scope: dict[str, Any]) -> Any:
    """Returns the type that an annotation names, evaluated in `scope`."""
    if not isinstance(kind, str):
        return kind
    try:
        return eval(kind, scope)
    except NameError as error:
        raise TypeError(
            f"{where}: {error}; import or define it above the part, in the same "
            "function or module"
        ) from error


def _check(self: Any) -> None:
    """Converts and checks the given values, field by field."""
    cls = type(self)
    if not is_part(self):
        raise TypeError(
            f"{cls.__name__} inherits from a part but is not one; decorate "
            f"{cls.__name__} with part"
        )
    children = []
    for name, kind in cls.__part__.items():
        where, default = f"{cls.__name__}.{name}", getattr(cls, name, None)
        value, is_child = taken(where, kind, getattr(self, name), default)
        children += [name] * is_child
        object.__setattr__(self, name, value)
    self.__dict__["__children__"] = tuple(children)
