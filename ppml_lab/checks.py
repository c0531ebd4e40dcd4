"""Errors for bad arguments, raised when a thing is built: the argument, its value, the
fix.

Traced values pass unchecked: the same builder runs once on the host with numbers and
again under jit with tracers.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection
from typing import Any


def is_traced(value: Any) -> bool:
    """Whether `value` is only known inside a compiled program."""
    # Where jax is not loaded nothing is traced: the prompt starts without it.
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def positive(name: str, value: Any, *, allow_inf: bool = False) -> None:
    """Raises ValueError unless `value` is above 0 (and finite, unless `allow_inf`)."""
    if is_traced(value):
        return
    if not value > 0 or (math.isinf(value) and not allow_inf):
        raise ValueError(
            f"{name} must be positive{'' if allow_inf else ' and finite'}, got {value}"
        )


def non_negative(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is finite and at least 0."""
    if is_traced(value):
        return
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def probability(name: str, value: Any, *, allow_one: bool) -> None:
    """Raises ValueError unless `value` lies in (0, 1), or (0, 1] with `allow_one`."""
    if is_traced(value):
        return
    if not (0 < value < 1 or (allow_one and value == 1)):
        raise ValueError(
            f"{name} must lie in (0, 1{']' if allow_one else ')'}, got {value}"
        )


def at_least(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless `value` is an integer of at least `least`."""
    if is_traced(value):
        return
    if value != int(value) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value}")


def known(kind: str, name: str, names: Collection[str]) -> None:
    """Raises ValueError unless `name` is one of `names`; suggests the nearest."""
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"unknown {kind} '{name}'{hint} Known: {', '.join(sorted(names))}")
