"""Memory: what a compiled program needs, what there is, and what fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from ppml_lab.lab.slices import equal_size

S = TypeVar("S")


def bytes_needed(compiled: Any, data: PyTree) -> int:
    """Bytes that a run of the program takes on a device.

    Args:
      compiled: A compiled jax function; inputs that it may overwrite count once.
      data: Those of its arguments that are on the devices already.
    """
    stats = compiled.memory_analysis()
    new = stats.temp_size_in_bytes + stats.argument_size_in_bytes
    new += stats.output_size_in_bytes - stats.alias_size_in_bytes
    return max(0, new - sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(data)))


def bytes_free() -> int | None:
    """Bytes that a device can still hold: on a CPU a share of half the free memory;
    None where nobody says.
    """
    if jax.default_backend() == "cpu":
        free = _system_bytes()
        return free and free // 2 // jax.local_device_count()
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def fitting_size(
    count: int, largest: int, multiple: int, needed: Callable[[int], int], free: int
) -> int:
    """The size of the slices of `count` runs that fits the memory.

    Args:
      count: Runs.
      largest: The largest size to try.
      multiple: Of which sizes are multiples.
      needed: Bytes that a slice of a size takes; costs a compilation each time.
      free: Bytes that there are.
    """
    size = equal_size(count, largest, multiple)
    while size > multiple and (bytes_of_slice := needed(size)) > free:
        # In proportion; what does not grow with the size takes some more tries.
        size = equal_size(
            count, min(size - multiple, size * free // bytes_of_slice), multiple
        )
    return size


def run_what_fits(
    slices: Callable[[int], S | None],
    run: Callable[[S], None],
    size: int,
    multiple: int,
    report: Callable[[str], None],
) -> None:
    """Runs slices until there are none; halves them when memory runs out.

    Args:
      slices: `size -> the next slice`, or None; after a failure, it has to give the
        failed runs again.
      run: Runs one.
      size: The size to begin with.
      multiple: Of which sizes are multiples.
      report: Told of every halving.
    """
    while (part := slices(size)) is not None:
        try:
            run(part)
        except jax.errors.JaxRuntimeError as error:
            # Other processes may have had enough memory, and would not halve.
            alone = jax.process_count() == 1
            if "RESOURCE_EXHAUSTED" not in str(error) or size <= multiple or not alone:
                raise
            halved = equal_size(size, size // 2, multiple)
            report(f"{size} runs at once take too much memory: {halved} from now on")
            size = halved


def _bytes_on_a_device(leaf: jax.Array) -> int:
    return leaf.addressable_shards[0].data.nbytes


def _system_bytes() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib) * 1024
