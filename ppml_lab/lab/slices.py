"""Slices: runs that go on side by side in one program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ppml_lab.lab import checkpoints, hosts
from ppml_lab.lab.claims import Claims
from ppml_lab.lab.program import Group, group_of
from ppml_lab.lab.results import Run


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
    def group(self) -> Group:
        """What its runs have in common."""
        return group_of(self.runs[0].point)

    @property
    def name(self) -> str:
        """The name of its checkpoints."""
        return checkpoints.slice_name(run.name for run in self.runs)


def next_slice(
    left: list[Run], folder: Path, size: int, claims: Claims
) -> Slice | None:
    """What is to be done next, and from which round: the one place that decides it.

    Args:
      left: Runs of one group that were not begun yet; those of the slice are
        taken out, and those that another process has or has finished.
      folder: The results folder.
      size: Points in one program.
      claims: Gets those on the slice's runs and its name.
    """
    while left:
        saved = checkpoints.find(folder)
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
        saved = checkpoints.find(folder)
        going = [run for run in mine if not run.is_finished]
        part = [run for run in going if _rounds(run, saved) == rounds]
        left.extend(run for run in going if run not in part)
        claims.release(run.name for run in mine if run not in part)
        if part:
            places = [saved[run.name] for run in part] if rounds else []
            found = Slice(part, size, rounds, places)
            claims.take(found.name)
            return found
    return None


def agreed_slice(part: Slice | None, left: list[Run]) -> Slice | None:
    """The slice that the first process decided on, at all processes.

    Args:
      part: It at the first, anything at the others.
      left: Runs that were not begun yet; those of the slice are taken out.
    """
    told = part and ([run.name for run in part.runs], part.size, part.rounds_done)
    told = hosts.agreed(told)
    if told is None or hosts.is_first():
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
