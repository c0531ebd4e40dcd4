"""What a sweep is made of and what it gives: points, their runs and outcomes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppml_lab import arguments
from ppml_lab.lab import records
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.identity import key_identity
from ppml_lab.lab.loading import facts_of


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      config: What it compiles to.
      hyperparams: Concrete numbers.
      seed: Of initial parameters, sampling, batches, noise and rounding; see `key`.
      labels: Columns that say which point this is, first in the table.
      delta: At which its epsilon is stated; needed by private runs only.
    """

    config: Config
    hyperparams: Hyperparams
    seed: int
    labels: Mapping[str, Any]
    delta: float | None = None

    @property
    def key(self) -> str:
        """What the run's key is made of beside its seed, see `identity.key_identity`.

        Loads the data, as `record` does.
        """
        return key_identity(self.config, self.hyperparams, facts_of(self.config.data))

    def record(self) -> dict[str, Any]:
        """What the run's result depends on, as plain values; its hash names the run's
        folder.
        """
        digests = facts_of(self.config.data).digests
        return {
            "config": dataclasses.asdict(self.config),
            "hyperparams": {k: float(v) for k, v in self.hyperparams._asdict().items()},
            "seed": self.seed,
            "labels": dict(self.labels),
            "delta": self.delta,
            "data": digests and digests.stored,
            "key": self.key,
        }


class Run(NamedTuple):
    """A point and its run folder, whose name is the run's id."""

    point: Point
    folder: Path

    @property
    def name(self) -> str:
        """The run's id."""
        return self.folder.name

    @property
    def title(self) -> str:
        """The point's labels in words."""
        return ", ".join(f"{name} {v}" for name, v in self.point.labels.items())

    @property
    def is_finished(self) -> bool:
        """Whether there is a result."""
        return (self.folder / "result.json").exists()

    def outcome(self) -> Outcome:
        """What the finished run left."""
        last = _with_nan(records.read_json(self.folder / "result.json"))
        return Outcome(last, self.folder)


@arguments.checked
def run_of(point: Point, folder: str | Path) -> Run:
    """A point's run in a results folder."""
    return Run(point, Path(folder) / "runs" / records.run_id(point.record()))


class Outcome(NamedTuple):
    """What a finished run left.

    Attributes:
      last: Scalars of its last round, its last metrics by name, `params_digest` (equal
        for final parameters that are equal to the bit), `seconds` (wall,
        without compilation, divided among a slice's points) and `compile_seconds` (of
        the slice's programs).
      folder: Its run folder.
    """

    last: dict[str, Any]
    folder: Path

    @property
    def diverged(self) -> bool:
        """Whether it ended early, because a loss or a parameter was no longer finite;
        `last["diverged_round"]` says when.
        """
        return "diverged_round" in self.last

    def history(self, name: str) -> list[Any]:
        """A scalar at every round where it was recorded."""
        lines = records.read_lines(self.folder / "rounds.jsonl")
        return [_with_nan(line)[name] for line in lines if name in line]


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Strict JSON has null for nan; an epsilon is None where nothing is promised."""
    return {
        name: math.nan if value is None and name != "epsilon" else value
        for name, value in row.items()
    }
