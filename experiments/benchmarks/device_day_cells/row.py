"""A row of device_day's table, and timing on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

Row = dict[str, Any]


def row(
    quantity: str,
    value: Any,
    unit: str,
    *,
    case: str = "",
    size: int | None = None,
    limit: Any = None,
    holds: bool | None = None,
) -> Row:
    """A row of one measured value.

    Args:
      quantity: What is measured.
      value: The number, or a digest.
      unit: The value's unit.
      case: The model or ring.
      size: The amount done at once: lanes, examples, images, points of a sweep.
      limit: The value's limit, if it has one.
      holds: Whether the limit holds.
    """
    return {
        "case": case,
        "size": size,
        "quantity": quantity,
        "value": value,
        "unit": unit,
        "limit": limit,
        "holds": holds,
    }


def seconds_of(function: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """The median wall time of a compiled and warm call, until its results are ready."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
