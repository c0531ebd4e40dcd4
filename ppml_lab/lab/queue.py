"""The choice of the next slice: runs that advance together in one program. Slices are
halved where memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax

from ppml_lab.lab import memory, processes
from ppml_lab.lab.disk import checkpoints, records
from ppml_lab.lab.disk.provenance import made_by
from ppml_lab.lab.processes import Claims
from ppml_lab.lab.results import Run

Found = Callable[[Path], Mapping[str, checkpoints.Saved]]
"""Function from a results folder to the checkpoints that runs may continue from, by
run."""


def usable(
    report: Callable[[int, str], None], *, go_on: bool, keeps_best: bool
) -> Found:
    """Returns a function that finds usable checkpoints.

    A checkpoint is usable if its run has all rounds on record, it carries the best
    parameters if and only if they are kept, and this code made it (or any code, with
    `go_on`). `report` is told once why other runs start again.
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
                    f"{lines} lacks some of the {saved.rounds} rounds before "
                    f"{saved.path}: run {run} starts again"
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
                    "go_on=True, or --go-on, continues from the checkpoint"
                )
                return False
            for name in ("code", "jax", "device"):
                if there.get(name) != now[name]:
                    say(
                        f"{saved.path} was made by {name} {there.get(name)} and "
                        f"continues with {now[name]}"
                    )
            return True

        return checkpoints.find(folder, is_usable, say)

    return found


class Slice(NamedTuple):
    """Runs of one group that have done the same number of rounds.

    Attributes:
      runs: The runs, at least one.
      size: Points of the program, at least as many as runs; copies of the last run fill
        it, and their results are dropped.
      rounds_done: Rounds that the runs have done.
      saved: The place of each run's state; empty if the runs begin, and where another
        process reads the files.
    """

    runs: list[Run]
    size: int
    rounds_done: int
    saved: list[checkpoints.Saved]

    @property
    def name(self) -> str:
        """The name of the slice's checkpoints."""
        return checkpoints.slice_name(run.name for run in self.runs)


def next_slice(
    left: list[Run],
    folder: Path,
    size: int,
    claims: Claims,
    found: Found,
) -> Slice | None:
    """Returns the next slice to run, with its round; None if nothing is left.

    Only this function decides what runs next.

    Args:
      left: Runs of one group that have not begun. The function removes the slice's
        runs, and runs that another process has or has finished.
      folder: The results folder.
      size: Points in one program.
      claims: Receives the claims on the slice's runs and name.
      found: Returns a folder's checkpoints that runs may continue from, by run.
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
        # The claims keep other processes from advancing these runs.
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
    """Returns at all processes the slice that the first process chose.

    Args:
      part: The slice at the first process, anything at the others.
      left: Runs that have not begun; the function removes the slice's runs.
    """
    told = part and ([run.name for run in part.runs], part.size, part.rounds_done)
    told = processes.agreed(told)
    if told is None or processes.is_first():
        return part
    names, size, rounds = told
    runs = {run.name: run for run in left}
    left[:] = [run for run in left if run.name not in names]
    return Slice([runs[name] for name in names], size, rounds, [])


def _rounds(run: Run, saved: Mapping[str, checkpoints.Saved]) -> int:
    return saved[run.name].rounds if run.name in saved else 0


S = TypeVar("S")


def run_what_fits(
    slices: Callable[[int], S | None],
    run: Callable[[S], None],
    size: int,
    multiple: int,
    report: Callable[[str], None],
    taken: Callable[[], str] = lambda: "",
) -> None:
    """Runs slices until none is left; halves their size when memory runs out.

    Args:
      slices: Returns the next slice of a size, or None; after a failure, it must return
        the failed runs again.
      run: Runs a slice.
      size: The first size.
      multiple: Sizes are multiples of this.
      report: Called at every halving.
      taken: Returns a text about what takes the memory.

    Raises:
      TooLargeError: If memory runs out for the smallest slice.
    """
    while (part := slices(size)) is not None:
        try:
            run(part)
        except jax.errors.JaxRuntimeError as error:
            # Joined processes may have had enough memory, and would not halve.
            alone = jax.process_count() == 1
            if not memory.has_run_out(error) or not alone:
                raise
            if size <= multiple:
                raise memory.TooLargeError(
                    f"memory ran out with {size} runs at once, the smallest number: "
                    f"{taken() or error}. {memory.CURE}"
                ) from error
            halved = memory.equal_size(size, size // 2, multiple)
            report(f"{size} runs at once take too much memory; {halved} from now on")
            size = halved
