"""The names under which a sweep sets the numbers of a run, and their types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from ppml_lab import checks
from ppml_lab.lab.config import Config, DataConfig, Hyperparams

_DATA = {f"data.{k}": kind for k, kind in get_type_hints(DataConfig).items()}
_STATIC = {k: kind for k, kind in get_type_hints(Config).items() if k != "data"}
_TRACED = {k: type(value) for k, value in Hyperparams._field_defaults.items()}
_OF_A_POINT = {"seed": int, "delta": float | None, "target_epsilon": float}
TYPES: Mapping[str, Any] = _DATA | _STATIC | _TRACED | _OF_A_POINT
"""The type of every field that a sweep may set."""

_STAND_INS: Mapping[type, type] = {float: Real, int: Integral}
"""What else may be given for a type, such as an int for a float."""


def typed(name: str, value: Any) -> Any:
    """`value` as the field's type.

    Raises:
      ValueError: For an unknown name (the nearest is suggested) or another type.
    """
    checks.known("field", name, TYPES, argument="name")
    wanted, value = TYPES[name], plain(value)
    literals = get_args(wanted) if get_origin(wanted) is Literal else ()
    kinds = (str,) if literals else get_args(wanted) or (wanted,)
    for kind in kinds:
        # To Python a bool is an int, to a user it is a mistake.
        is_kind = isinstance(value, _STAND_INS.get(kind, kind))
        if is_kind and isinstance(value, bool) == (kind is bool):
            if literals:
                checks.known(name, value, literals)
            return None if value is None else kind(value)
    shown = " or ".join("None" if k is NoneType else k.__name__ for k in kinds)
    raise ValueError(f"{name} must be {shown}, got {value!r}")


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def applied(
    fields: Mapping[str, Any], config: Config, hyperparams: Hyperparams
) -> tuple[Config, Hyperparams]:
    """Both with new values of their fields; others are left aside."""
    dealt = {k.removeprefix("data."): v for k, v in fields.items() if k in _DATA}
    static = {k: v for k, v in fields.items() if k in _STATIC}
    traced = {k: v for k, v in fields.items() if k in _TRACED}
    data = dataclasses.replace(config.data, **dealt)
    config = dataclasses.replace(config, data=data, **static)
    return config, hyperparams._replace(**traced)


def value_of(name: str, config: Config, hyperparams: Hyperparams) -> Any:
    """What a field has there; None where neither has such a field."""
    if name in _DATA:
        return getattr(config.data, name.removeprefix("data."))
    if name in _STATIC:
        return getattr(config, name)
    return getattr(hyperparams, name) if name in _TRACED else None
