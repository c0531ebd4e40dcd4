"""A line of device_day's table, and how things are timed on a device."""

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
    """One measured value.

    Args:
      quantity: What is measured.
      value: The number, or a digest.
      unit: Of the value.
      case: Of which model or ring.
      size: How much is done at once: lanes, examples, images, points of a sweep.
      limit: What the value is compared with, if with anything.
      holds: Whether the comparison comes out as it should.
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
    """The median wall time of a call that is compiled and warm, its results there."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
