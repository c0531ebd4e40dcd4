"""The memory of a device: bytes that a compiled slice takes, and slice sizes that
fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ppml_lab import units

CURE = (
    "Train fewer clients side by side (layout.num_lanes), clip fewer examples at once "
    "(microbatch_size), or take a device with more memory"
)
_RESULT = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (\w+)\[([\d,]*)\]\S* ([\w-]+)\("
    r"(?:.*op_name=\"([^\"]*))?",
    re.M,
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*?\{$(.*?)^\}", re.M | re.S)
_NO_BUFFER = ("parameter", "bitcast", "get-tuple-element", "tuple", "constant", "while")


class TooLargeError(RuntimeError):
    """A single point of a sweep takes more memory than its device has."""


class Needed(NamedTuple):
    """Bytes of a device that running a program takes, beside its data."""

    arguments: int
    """Bytes of new arguments: numbers, keys, states."""
    outputs: int
    """Bytes of outputs that do not overwrite arguments."""
    temporaries: int
    """Bytes of intermediate results."""

    @property
    def total(self) -> int:
        """The sum of all bytes."""
        return sum(self)


def needed_by(compiled: Any, data: PyTree) -> Needed:
    """Returns the bytes that XLA's buffer assignment states.

    Args:
      compiled: A compiled jax function; inputs that it may overwrite count once.
      data: Arguments that are on the devices already.
    """
    stats = compiled.memory_analysis()
    there = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(data))
    return Needed(
        max(0, stats.argument_size_in_bytes - there),
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
    )


def bytes_free() -> int | None:
    """Returns the free bytes of a device; on a CPU, its share of the free memory.

    Returns None where neither the device nor the system tells.
    """
    if jax.default_backend() == "cpu":
        free = _system_bytes()
        return free and free // jax.local_device_count()
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def to_be_used(free: int) -> int:
    """Returns the free bytes that slices may use: half of them on a CPU, because other
    programs use its memory too.
    """
    return free // 2 if jax.default_backend() == "cpu" else free


def has_run_out(error: jax.errors.JaxRuntimeError) -> bool:
    """Returns whether jax raised the error because memory ran out."""
    return "RESOURCE_EXHAUSTED" in str(error)


def equal_size(count: int, largest: int, multiple: int) -> int:
    """Returns the size of equal slices of `count` runs, as few slices as `largest`
    allows.

    The size is a multiple of `multiple`.
    """
    largest = max(multiple, largest // multiple * multiple)
    num_slices = -(-count // largest)
    return -(-count // num_slices // multiple) * multiple


def fitting_size(
    count: int, largest: int, multiple: int, needed: Callable[[int], float], free: int
) -> int:
    """Returns a size of slices of `count` runs that fits the memory, or `multiple` if
    none does.

    Args:
      count: Number of runs.
      largest: The largest size to try.
      multiple: Sizes are multiples of this.
      needed: Returns the bytes that a slice of a size takes, infinity where this is not
        known; costs a compilation each time.
      free: Free bytes.
    """
    size = equal_size(count, largest, multiple)
    while size > multiple and (bytes_of_slice := needed(size)) > free:
        # Shrinks in proportion; memory that does not grow with size takes more tries.
        share = free / bytes_of_slice if math.isfinite(bytes_of_slice) else 0.5
        size = equal_size(count, min(size - multiple, int(size * share)), multiple)
    return size


def in_words(compiled: Any, needed: Needed) -> str:
    """Returns a text about what takes a program's memory, with its largest arrays."""
    parts = ", ".join(
        f"{units.shown(value)} of {name}"
        for name, value in needed._asdict().items()
        if value
    )
    found = largest_arrays(compiled.as_text() or "", 3)
    arrays = "; ".join(
        f"{kind} of {units.shown(size)} by {made}" for kind, size, made in found
    )
    return f"{parts}; its largest arrays: {arrays or 'none'}"


def largest_arrays(text: str, count: int) -> list[tuple[str, int, str]]:
    """Returns type and shape, bytes and origin of the largest arrays that a compiled
    program makes, from its text.

    Arrays of equal type, shape and origin are listed once.
    """
    # Values inside a fusion, or a reduction's function, are never arrays.
    inside = {*re.findall(r"(?:\), kind=\w+, calls|to_apply)=%?([\w.-]+)", text)}
    own = [body for name, body in _COMPUTATION.findall(text) if name not in inside]
    made: dict[tuple[str, str], int] = {}
    for kind, shape, operation, origin in _RESULT.findall("\n".join(own)):
        # A truth value, whose type names no bits, takes a byte.
        bits = re.search(r"\d+", kind)
        item = max(1, int(bits[0]) // 8) if bits else 1
        if operation in _NO_BUFFER:
            continue
        sizes = [int(size) for size in shape.split(",") if size]
        where = origin.rpartition("/")[2] or operation
        made[f"{kind}[{shape}]", where] = math.prod(sizes) * item
    ranked = sorted(made.items(), key=lambda pair: -pair[1])
    return [(kind, size, where) for (kind, where), size in ranked[:count]]


def _bytes_on_a_device(leaf: jax.Array) -> int:
    return leaf.addressable_shards[0].data.nbytes


def _system_bytes() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib) * 1024
