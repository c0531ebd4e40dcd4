"""Checks of the parts of events: host numbers, and other events."""

from __future__ import annotations

from typing import Any

from ppml_lab import checks


def to_float(name: str, value: Any) -> float:
    """Converts a host number to a Python float.

    dp-accounting counts only this type correctly: it silently drops other types from
    compositions under sampling.
    """
    if checks.is_traced(value):
        raise ValueError(f"{name} must be known before tracing: account on the host")
    checks.number(name, value)
    return float(value)


def integer(name: str, value: Any) -> int:
    """Converts a host number of at least 1 to a Python int."""
    number = to_float(name, value)
    if not number.is_integer() or number < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value}")
    if number >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value}")
    return int(value)


def noise(value: Any) -> float:
    """Converts a noise multiplier, finite and at least 0, to a Python float."""
    found = to_float("noise_multiplier", value)
    checks.non_negative("noise_multiplier", found)
    return found


def check_event(event: Any) -> None:
    """Raises ValueError unless `event` is a `DpEvent`, or a part of one."""
    import dp_accounting

    from ppml_lab.dp import events

    if isinstance(event, dp_accounting.DpEvent | events.Participation | events.Failure):
        return
    cure = "; take its .event" if hasattr(event, "event") else ""
    raise ValueError(
        "event must be a DpEvent, such as events.gaussian makes, got a "
        f"{type(event).__name__}{cure}"
    )
