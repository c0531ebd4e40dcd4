"""What runs next, and how much of it fits: slices of runs that go on side by side in
one program, and the memory that they take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jaxtyping import PyTree

from ppml_lab.lab import processes
from ppml_lab.lab.disk import checkpoints, records
from ppml_lab.lab.disk.provenance import made_by
from ppml_lab.lab.processes import Claims
from ppml_lab.lab.results import Run

Found = Callable[[Path], Mapping[str, checkpoints.Saved]]
"""From a results folder, the checkpoints that runs may go on from, by run."""


def usable(
    report: Callable[[int, str], None], *, go_on: bool, keeps_best: bool
) -> Found:
    """Finds checkpoints whose runs have all their rounds on record, which carry the
    best parameters if these are kept, and which this code made (or any, with `go_on`);
    says of the others, once, why their runs start again.
    """
    now, told = made_by(), set[str]()

    def say(text: str) -> None:
        if text not in told:
            told.add(text)
            report(0, text)

    def found(folder: Path) -> Mapping[str, checkpoints.Saved]:
        def is_usable(run: str, saved: checkpoints.Saved) -> bool:
            lines = folder / "runs" / run / "rounds.jsonl"
            if (lines.parent / "result.json").exists():
                return False
            if not records.has_rounds(lines, saved.rounds):
                say(
                    f"{lines} lacks some of the {saved.rounds} rounds that "
                    f"{saved.path} goes on from: run {run} starts again"
                )
                return False
            if saved.keeps_best != keeps_best:
                has = "carries" if saved.keeps_best else "does not carry"
                say(
                    f"{saved.path} {has} the parameters of the best evaluation: its "
                    "runs start again"
                )
                return False
            there = saved.made_by
            if there.get("code") != now["code"] and not go_on:
                say(
                    f"{saved.path} was made by other code: its runs start again; "
                    "go_on=True, or --go-on, goes on from it"
                )
                return False
            for name in ("code", "jax", "device"):
                if there.get(name) != now[name]:
                    say(
                        f"{saved.path} was made by {name} {there.get(name)}, and goes "
                        f"on with {now[name]}"
                    )
            return True

        return checkpoints.find(folder, is_usable, say)

    return found


class Slice(NamedTuple):
    """Runs of one group that have done the same rounds.

    Attributes:
      runs: At least one.
      size: Points of the program, at least as many as runs; the last run is repeated to
        fill it, and what the copies give is dropped.
      rounds_done: Rounds that they have done.
      saved: Where each run's state is; empty if they begin, and where another process
        reads the files.
    """

    runs: list[Run]
    size: int
    rounds_done: int
    saved: list[checkpoints.Saved]

    @property
    def name(self) -> str:
        """The name of its checkpoints."""
        return checkpoints.slice_name(run.name for run in self.runs)


def next_slice(
    left: list[Run],
    folder: Path,
    size: int,
    claims: Claims,
    found: Found,
) -> Slice | None:
    """What is to be done next, and from which round: the one place that decides it.

    Args:
      left: Runs of one group that were not begun yet; those of the slice are
        taken out, and those that another process has or has finished.
      folder: The results folder.
      size: Points in one program.
      claims: Gets those on the slice's runs and its name.
      found: From the folder, the checkpoints that runs may go on from, by run.
    """
    while left:
        saved = found(folder)
        rounds = _rounds(left[0], saved)
        alike = [run for run in left if _rounds(run, saved) == rounds]
        mine: list[Run] = []
        for run in alike:
            if len(mine) == size:
                break
            left.remove(run)
            if claims.take(run.name):
                mine.append(run)
        # From here on, no other process moves them.
        saved = found(folder)
        going = [run for run in mine if not run.is_finished]
        part = [run for run in going if _rounds(run, saved) == rounds]
        left.extend(run for run in going if run not in part)
        claims.release(run.name for run in mine if run not in part)
        if part:
            places = [saved[run.name] for run in part] if rounds else []
            chosen = Slice(part, size, rounds, places)
            claims.take(chosen.name)
            return chosen
    return None


def agreed_slice(part: Slice | None, left: list[Run]) -> Slice | None:
    """The slice that the first process decided on, at all processes.

    Args:
      part: It at the first, anything at the others.
      left: Runs that were not begun yet; those of the slice are taken out.
    """
    told = part and ([run.name for run in part.runs], part.size, part.rounds_done)
    told = processes.agreed(told)
    if told is None or processes.is_first():
        return part
    names, size, rounds = told
    runs = {run.name: run for run in left}
    left[:] = [run for run in left if run.name not in names]
    return Slice([runs[name] for name in names], size, rounds, [])


def equal_size(count: int, largest: int, multiple: int) -> int:
    """The size of equal slices of `count` runs, as few as `largest` allows; a multiple
    of `multiple`.
    """
    largest = max(multiple, largest // multiple * multiple)
    num_slices = -(-count // largest)
    return -(-count // num_slices // multiple) * multiple


def _rounds(run: Run, saved: Mapping[str, checkpoints.Saved]) -> int:
    return saved[run.name].rounds if run.name in saved else 0


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
