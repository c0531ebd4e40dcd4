"""Sweeps: many runs, one compiled program per static configuration.

Points that share a `Config` differ only in traced hyperparameters and seeds. They run
in slices: a slice is a `lax.map` over its points, vmapped as wide as the backend likes,
and advances chunk by chunk of some evaluations. Now and then its runs are saved, so
that a killed sweep goes on where it was, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import jax

from ppml_lab import arguments, checks
from ppml_lab.lab import checkpoints, hosts, memory, programs
from ppml_lab.lab.advance import OnMetrics, Report, Sweep, advance, first_program
from ppml_lab.lab.budget import events_of
from ppml_lab.lab.claims import Claims, open_claims
from ppml_lab.lab.config import Config
from ppml_lab.lab.fields import check_seed
from ppml_lab.lab.folders import check_room
from ppml_lab.lab.point import Outcome, Point, Run, run_of
from ppml_lab.lab.sharding import lab_mesh, num_rows
from ppml_lab.lab.slices import Slice, agreed_slice, equal_size, next_slice


class MadeElsewhereError(RuntimeError):
    """Other processes are making some of the runs that were asked for."""


@arguments.checked
def run_sweep(
    points: Sequence[Point],
    folder: str | Path,
    *,
    report: Report = lambda done, text: None,
    on_metrics: OnMetrics = lambda run, round, scalars: None,
    width: int | None = None,
    slice_size: int | None = None,
    memory_bytes: int | None = None,
    checkpoint_seconds: float = 5.0,
) -> list[Outcome]:
    """Runs every point that has no result in `folder` yet.

    Several processes may do so at once: each takes what no other has. Processes that
    `hosts.connect` joined compute together instead, and the first alone reads and
    writes the folder.

    Args:
      points: The runs.
      folder: Where run folders go.
      report: Told of rounds done.
      on_metrics: Told of every evaluation, again of those that a killed sweep repeats.
      width: Points vmapped at once; chosen by backend if None.
      slice_size: Points in one program, at most; chosen by backend if None, and fewer
        if the memory does not suffice.
      memory_bytes: Bytes of a device that a slice may take; measured if None.
      checkpoint_seconds: A slice is saved after a chunk if so many seconds have passed;
        0 saves after every chunk.

    Returns:
      The outcome of each point, in their order; of joined processes, at the first.

    Raises:
      ValueError: If a point cannot be built; nothing is run then.
      OSError: If the folder cannot be written, or its disk has no room or runs full.
      MadeElsewhereError: If everything is done but for what other processes are making.
    """
    for name, value in (
        ("width", width),
        ("slice_size", slice_size),
        ("memory_bytes", memory_bytes),
    ):
        if value is not None:
            checks.at_least(name, value, 1)
    checks.within("checkpoint_seconds", checkpoint_seconds, 0, float("inf"))
    folder = Path(folder)
    runs = [run_of(point, folder) for point in points]
    over = hosts.agreed([run.name for run in runs if run.is_finished])
    finished = [run for run in runs if run.name in over]
    unfinished = {run.name: run for run in runs if run.name not in over}
    if finished:
        rounds = sum(run.point.config.num_rounds for run in finished)
        report(rounds, f"{len(finished)} runs were finished before")
    groups: dict[Config, list[Run]] = {}
    for run in unfinished.values():
        config = run.point.config
        check_seed(run.point.seed)
        # With numbers the builder checks what it cannot check of traced values.
        events_of(config, run.point.hyperparams, programs.data_of(config).facts)
        groups.setdefault(config, []).append(run)
    width = _default_width() if width is None else width
    sweep = Sweep(folder, report, on_metrics, width, checkpoint_seconds, {}, {})
    try:
        with open_claims(folder) if hosts.is_first() else nullcontext() as claims:
            if claims:
                _clean(folder, claims)
            for config, group in groups.items():
                rows = num_rows(lab_mesh(config.num_devices))
                largest = slice_size or _largest_slice(width * rows)
                size = _fitting_size(config, len(group), largest, memory_bytes, sweep)
                if claims:
                    check_room(folder, _bytes_written(group, size))
                _run_group(group, size, rows, sweep, claims)
            if claims:
                _clean(folder, claims)
    except OSError as error:
        error.add_note(
            f"Finished runs and checkpoints are kept in {folder}: when it can be "
            "written again, the same sweep goes on from them."
        )
        raise
    if not hosts.is_first():
        return []
    missing = sum(not run.is_finished for run in unfinished.values())
    if missing:
        raise MadeElsewhereError(
            f"{missing} of {len(points)} runs are being made by another process in "
            f"{folder}; run this again when that has ended"
        )
    return [run.outcome() for run in runs]


def _default_width() -> int:
    """Points vmapped at once: 1 on a CPU, where width gains little, else 32."""
    return 1 if jax.default_backend() == "cpu" else 32


def _largest_slice(at_once: int) -> int:
    """On a CPU what runs at once, else what keeps a device busy for long."""
    return at_once if jax.default_backend() == "cpu" else 1024


def _fitting_size(
    config: Config, count: int, largest: int, memory_bytes: int | None, sweep: Sweep
) -> int:
    data = programs.data_of(config)
    free = hosts.agreed(memory.bytes_free()) if memory_bytes is None else memory_bytes

    def needed(size: int) -> int:
        compiled = first_program(config, size, sweep).run
        return memory.bytes_needed(compiled, (data.clients, data.test))

    rows = num_rows(lab_mesh(config.num_devices))
    if free is None:
        return equal_size(count, largest, rows)
    return memory.fitting_size(count, largest, rows, needed, free)


def _bytes_written(group: list[Run], size: int) -> int:
    """About what running a group writes: two checkpoints of a slice, and the lines of
    all runs.
    """
    config = group[0].point.config
    leaves = jax.tree.leaves(programs.states_of(config, size))
    states = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return 2 * states + 300 * config.num_rounds * len(group)


def _run_group(
    group: list[Run], size: int, multiple: int, sweep: Sweep, claims: Claims | None
) -> None:
    """Runs the points of a configuration that no other process has.

    The process with claims decides for all that are joined.
    """
    left = [*group]

    def decide(size: int) -> Slice | None:
        part = next_slice(left, sweep.folder, size, claims) if claims else None
        return agreed_slice(part, left)

    def run(part: Slice) -> None:
        try:
            advance(part, sweep)
        except jax.errors.JaxRuntimeError:
            left[:0] = part.runs
            raise
        finally:
            if claims:
                claims.release([part.name, *(run.name for run in part.runs)])

    memory.run_what_fits(
        decide,
        run,
        size,
        multiple,
        lambda text: sweep.report(0, text),
    )


def _clean(folder: Path, claims: Claims) -> None:
    def is_finished(run: str) -> bool:
        return (folder / "runs" / run / "result.json").exists()

    checkpoints.clean(folder, is_finished, claims)
