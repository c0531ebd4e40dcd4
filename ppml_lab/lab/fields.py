"""The names under which a sweep sets the numbers of a run, and their types."""

from __future__ import annotations

import dataclasses
import math
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

_LEAST = {
    "data.num_clients": 1,
    "data.shards_per_client": 1,
    "data.labels_per_client": 1,
    "data.data_seed": 0,
    "num_rounds": 1,
    "eval_every": 1,
    "evals_per_chunk": 1,
    "batch_size": 1,
    "local_epochs": 1,
    "steps_per_round": 1,
    "microbatch_size": 1,
    "mask_threshold": 1,
    "num_parties": 2,
    "num_lanes": 1,
    "num_devices": 1,
    "modulus_bits": 1,
    "scale_bits": -126,
}
"""The least that whole numbers may be."""
_POSITIVE = ("data.dirichlet_alpha", "cohort", "max_abs", "learning_rate")
_POSITIVE += ("server_learning_rate", "clip_norm", "target_epsilon")
_MAY_BE_INFINITE = ("clip_norm", "target_epsilon")
_NOT_NEGATIVE = ("data.size_sigma", "data.synthetic_beta", "noise_multiplier")
_NOT_NEGATIVE += ("proximal_mu",)
_SHARES = ("target_quantile", "stop_at_accuracy", "corrupt_share", "dropout_share")
_SHARES += ("dropout_prob", "cohort_share")
_LARGEST = float(np.finfo(np.float32).max)
"""Of numbers that compiled programs take."""

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
            if value is None:
                return None
            return _in_range(name, _converted(name, kind, value))
    shown = " or ".join("None" if k is NoneType else k.__name__ for k in kinds)
    raise ValueError(f"{name} must be {shown}, got {value!r}")


def _converted(name: str, kind: Any, value: Any) -> Any:
    try:
        return kind(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold") from None


def _in_range(name: str, value: Any) -> Any:
    """`value`, if some run can have it; which can, `experiment.build` knows."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must have at most 64 bits, got {value}")
    if isinstance(value, float):
        checks.within(name, value, -math.inf, math.inf)
    if name in _LEAST:
        checks.at_least(name, value, _LEAST[name])
    elif name in _POSITIVE:
        checks.positive(name, value, allow_inf=name in _MAY_BE_INFINITE)
    elif name in _NOT_NEGATIVE:
        checks.non_negative(name, value)
    elif name in _SHARES:
        checks.within(name, value, 0, 1)
    elif name == "delta":
        checks.probability(name, value, allow_one=False)
    elif name == "seed":
        check_seed(value)
    if name in _TRACED and not (name in _MAY_BE_INFINITE and math.isinf(value)):
        checks.within(name, value, -_LARGEST, _LARGEST)
    return value


def check_seed(seed: Any) -> None:
    """Raises ValueError unless there is a key of this seed."""
    is_whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not is_whole or not 0 <= int(seed) < 2**32:
        raise ValueError(f"seed must be from 0 to 2^32 - 1, a whole number, got {seed}")


def check(config: Config, hyperparams: Hyperparams) -> None:
    """Raises ValueError, naming the field, unless all have values of their types, and
    such as some run can have. Arrays pass, traced or not.
    """
    for name in (*_DATA, *_STATIC, *_TRACED):
        value = value_of(name, config, hyperparams)
        if not hasattr(value, "dtype"):
            typed(name, value)


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's, anything else as it is."""
    is_plain = isinstance(value, np.number | np.bool_ | np.str_)
    return value.item() if is_plain else value


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
