"""Slices: runs that go on side by side in one program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ppml_lab.lab import checkpoints
from ppml_lab.lab.config import Config
from ppml_lab.lab.points import Run


class Slice(NamedTuple):
    """Runs of one configuration that have done the same rounds.

    Attributes:
      runs: At least one.
      size: Points of the program, at least as many as runs; the last run is repeated to
        fill it, and what the copies give is dropped.
      saved: Where each run's state is; empty if they begin.
    """

    runs: list[Run]
    size: int
    saved: list[checkpoints.Saved]

    @property
    def config(self) -> Config:
        """What the slice compiles to."""
        return self.runs[0].point.config

    @property
    def name(self) -> str:
        """The name of its checkpoints."""
        return checkpoints.slice_name(run.name for run in self.runs)

    @property
    def rounds_done(self) -> int:
        """Rounds behind the saved states."""
        return self.saved[0].rounds if self.saved else 0


def to_do(runs: Sequence[Run], folder: Path, size: int) -> list[Slice]:
    """What is to be done of `runs`, and from which round.

    Args:
      runs: Of one configuration.
      folder: The results folder.
      size: Points in one program.
    """
    saved = checkpoints.find(folder)
    groups: dict[int, list[Run]] = {}
    for run in runs:
        if not run.is_finished:
            rounds = saved[run.name].rounds if run.name in saved else 0
            groups.setdefault(rounds, []).append(run)
    found = []
    for rounds, group in groups.items():
        for begin in range(0, len(group), size):
            part = group[begin : begin + size]
            places = [saved[run.name] for run in part] if rounds else []
            found.append(Slice(part, size, places))
    return found


def equal_size(count: int, largest: int, multiple: int) -> int:
    """The size of equal slices of `count` runs, as few as `largest` allows, rounded up
    to a multiple of `multiple`.
    """
    num_slices = -(-count // largest)
    size = -(-count // num_slices)
    return -(-size // multiple) * multiple
