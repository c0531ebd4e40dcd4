"""Sweeps: many runs, one compiled program per static configuration.

Points that share a `Config` differ only in traced hyperparameters and seeds. They run
in slices: a slice is a `lax.map` over its points, vmapped as wide as the backend likes,
and advances chunk by chunk of some evaluations. Now and then its runs are saved, so
that a killed sweep goes on where it was, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from ppml_lab.lab import checkpoints, records
from ppml_lab.lab.advance import Report, Sweep, advance
from ppml_lab.lab.budget import events_of
from ppml_lab.lab.config import Config
from ppml_lab.lab.points import Outcome, Point, Run
from ppml_lab.lab.programs import data_of
from ppml_lab.lab.sharding import lab_mesh, num_rows
from ppml_lab.lab.slices import equal_size, to_do


def default_width() -> int:
    """Points vmapped at once: 1 on a CPU, where width gains little, else 32."""
    return 1 if jax.default_backend() == "cpu" else 32


def run_sweep(
    points: Sequence[Point],
    folder: Path,
    *,
    report: Report = lambda done, text: None,
    width: int | None = None,
    slice_size: int | None = None,
    checkpoint_seconds: float = 5.0,
) -> list[Outcome]:
    """Runs every point that has no result in `folder` yet.

    Args:
      points: The runs.
      folder: Where run folders go.
      report: Told of rounds done.
      width: Points vmapped at once; chosen by backend if None.
      slice_size: Points in one program, at most; `width` if None.
      checkpoint_seconds: A slice is saved after a chunk if so many seconds have passed;
        0 saves after every chunk.

    Returns:
      The outcome of each point, in their order.

    Raises:
      ValueError: If a point cannot be built; nothing is run then.
    """
    runs = [
        Run(point, folder / "runs" / records.run_id(point.record())) for point in points
    ]
    unfinished = {run.name: run for run in runs if not run.is_finished}
    finished = [run for run in runs if run.name not in unfinished]
    if finished:
        rounds = sum(run.point.config.num_rounds for run in finished)
        report(rounds, f"{len(finished)} runs were finished before")
    groups: dict[Config, list[Run]] = {}
    for run in unfinished.values():
        config = run.point.config
        # With numbers the builder checks what it cannot check of traced values.
        events_of(config, run.point.hyperparams, data_of(config).facts)
        groups.setdefault(config, []).append(run)
    width = default_width() if width is None else width
    largest = width if slice_size is None else slice_size
    sweep = Sweep(folder, report, width, checkpoint_seconds, {}, {})
    _clean(folder)
    for config, group in groups.items():
        rows = num_rows(lab_mesh(config.num_devices))
        for part in to_do(group, folder, equal_size(len(group), largest, rows)):
            advance(part, sweep)
    _clean(folder)
    return [run.outcome() for run in runs]


def _clean(folder: Path) -> None:
    checkpoints.clean(
        folder, lambda run: (folder / "runs" / run / "result.json").exists()
    )
