"""What fits a device's memory: the bytes of a compiled slice, the size that fits."""

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
    """Bytes that a run of a program takes on a device, beside its data."""

    arguments: int
    """What it is given anew: numbers, keys, states."""
    outputs: int
    """What it gives and does not write over its arguments."""
    temporaries: int
    """What it computes with in between."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def needed_by(compiled: Any, data: PyTree) -> Needed:
    """What XLA's buffer assignment says.

    Args:
      compiled: A compiled jax function; inputs that it may overwrite count once.
      data: Those of its arguments that are on the devices already.
    """
    stats = compiled.memory_analysis()
    there = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(data))
    return Needed(
        max(0, stats.argument_size_in_bytes - there),
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
    )


def bytes_free() -> int | None:
    """Bytes that a device can still hold: on a CPU its share of the free memory; None
    where nobody says.
    """
    if jax.default_backend() == "cpu":
        free = _system_bytes()
        return free and free // jax.local_device_count()
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def to_be_used(free: int) -> int:
    """How much of what is free slices are made for: on a CPU, whose memory others use
    too, half.
    """
    return free // 2 if jax.default_backend() == "cpu" else free


def has_run_out(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether an error of jax's says that there was too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def equal_size(count: int, largest: int, multiple: int) -> int:
    """The size of equal slices of `count` runs, as few as `largest` allows; a multiple
    of `multiple`.
    """
    largest = max(multiple, largest // multiple * multiple)
    num_slices = -(-count // largest)
    return -(-count // num_slices // multiple) * multiple


def fitting_size(
    count: int, largest: int, multiple: int, needed: Callable[[int], float], free: int
) -> int:
    """The size of the slices of `count` runs that fits the memory, if any does.

    Args:
      count: Runs.
      largest: The largest size to try.
      multiple: Of which sizes are multiples.
      needed: Bytes that a slice of a size takes, infinity where that is not known;
        costs a compilation each time.
      free: Bytes that there are.
    """
    size = equal_size(count, largest, multiple)
    while size > multiple and (bytes_of_slice := needed(size)) > free:
        # In proportion; what does not grow with the size takes some more tries.
        share = free / bytes_of_slice if math.isfinite(bytes_of_slice) else 0.5
        size = equal_size(count, min(size - multiple, int(size * share)), multiple)
    return size


def in_words(compiled: Any, needed: Needed) -> str:
    """What takes a program's memory, with its largest arrays."""
    parts = ", ".join(
        f"{units.shown(value)} of {name}"
        for name, value in needed._asdict().items()
        if value
    )
    found = largest_arrays(compiled.as_text() or "", 3)
    arrays = "; ".join(
        f"{kind} of {units.shown(size)} by {made}" for kind, size, made in found
    )
    return f"{parts}; the largest arrays that it makes: {arrays or 'none'}"


def largest_arrays(text: str, count: int) -> list[tuple[str, int, str]]:
    """Type and shape, bytes and origin of the largest arrays that a compiled program
    makes, from its text; those of one type, shape and origin once.
    """
    # What is inside of a fusion, or of a reduction's function, is never an array.
    inside = {*re.findall(r"(?:\), kind=\w+, calls|to_apply)=%?([\w.-]+)", text)}
    own = [body for name, body in _COMPUTATION.findall(text) if name not in inside]
    made: dict[tuple[str, str], int] = {}
    for kind, shape, operation, origin in _RESULT.findall("\n".join(own)):
        # Truth values, whose type names no bits, take a byte.
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
