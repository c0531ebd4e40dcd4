"""What runs next: slices of runs that go on side by side in one program, halved where
memory runs out.
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
    """Runs slices until there are none; halves them when memory runs out.

    Args:
      slices: `size -> the next slice`, or None; after a failure, it has to give the
        failed runs again.
      run: Runs one.
      size: The size to begin with.
      multiple: Of which sizes are multiples.
      report: Told of every halving.
      taken: What takes the memory, in words.

    Raises:
      TooLargeError: If memory runs out of the smallest.
    """
    while (part := slices(size)) is not None:
        try:
            run(part)
        except jax.errors.JaxRuntimeError as error:
            # Other processes may have had enough memory, and would not halve.
            alone = jax.process_count() == 1
            if not memory.has_run_out(error) or not alone:
                raise
            if size <= multiple:
                raise memory.TooLargeError(
                    f"memory ran out of {size} runs at once, the fewest that there "
                    f"are: {taken() or error}. {memory.CURE}"
                ) from error
            halved = memory.equal_size(size, size // 2, multiple)
            report(f"{size} runs at once take too much memory: {halved} from now on")
            size = halved
