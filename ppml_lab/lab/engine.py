"""Sweeps: many runs, one compiled program per structure of setups.

Points whose setups have the same structure differ only in numbers and seeds. They run
in slices: a slice is a `lax.map` over its points, vmapped over as many as suits the
backend, and advances in chunks of some evaluations. From time to time its runs are
saved, so that a killed sweep continues where it was, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import jax

from ppml_lab import arguments, checks, units
from ppml_lab.lab import memory, processes, program, queue
from ppml_lab.lab.advance import (
    OnMetrics,
    Sweep,
    advance,
    slice_bytes,
    slice_in_words,
)
from ppml_lab.lab.building import blaming, built, check_numbers
from ppml_lab.lab.disk import checkpoints, kept
from ppml_lab.lab.disk.provenance import check_room, made_by
from ppml_lab.lab.disk.records import DamagedError
from ppml_lab.lab.loading import facts_of, load_data
from ppml_lab.lab.outcomes import Outcomes
from ppml_lab.lab.processes import Claims, open_claims
from ppml_lab.lab.program import Group
from ppml_lab.lab.progress import Report, Restored, line_of, progress_line
from ppml_lab.lab.queue import (
    Found,
    Slice,
    agreed_slice,
    next_slice,
    usable,
)
from ppml_lab.lab.results import Point, Run, check_same_data, run_of
from ppml_lab.lab.setup import lab_mesh, num_rows
from ppml_lab.lab.swept import check_swept
from ppml_lab.lab.tree.identity import digest


class MadeElsewhereError(RuntimeError):
    """Other processes are making some of the requested runs."""


@arguments.checked
def run_sweep(
    points: Sequence[Point],
    folder: str | Path,
    *,
    report: Report | None = progress_line,
    on_metrics: OnMetrics = lambda run, round, scalars: None,
    width: int | None = None,
    slice_size: int | None = None,
    memory_bytes: int | None = None,
    checkpoint_seconds: float = 5.0,
    again: bool = False,
    go_on: bool = False,
    keep: Literal["last", "best"] | None = None,
    stop: Callable[[], str] = lambda: "",
) -> Outcomes:
    """Runs every point that has no result in `folder` yet.

    Several processes may do so at once: each takes runs that no other process has.
    Processes that `processes.connect` joined compute together instead, and the first
    alone reads and writes the folder.

    Args:
      points: The points to run.
      folder: The results folder, where run folders go.
      report: Called with (rounds done since the last call, what is running). By default
        it writes a progress line at a terminal or in a notebook, and nothing elsewhere.
        None for silence.
      on_metrics: Called at every evaluation, again for those that a killed sweep
        repeats.
      width: Points that are vmapped at once; None chooses by backend.
      slice_size: The most points in one program; None chooses by backend, and fewer if
        the memory does not suffice.
      memory_bytes: Bytes of a device that a slice may take; measured if None.
      checkpoint_seconds: Least time between two checkpoints of a slice, which is saved
        after a chunk; 0 saves after every chunk.
      again: Whether to repeat runs that finished under other code, that lack the
        parameters which `keep` asks for, or that were on other data; if False, the
        first two are kept and reported.
      go_on: Whether unfinished runs continue from checkpoints that other code made; if
        False, they start again.
      keep: Which parameters are kept with a run's result, for `Outcome.params`: those
        of its "last" round, or of its "best" evaluation by the schedule's validation
        metric. None keeps none. Changes no result.
      stop: Called after every chunk; returns a reason to end the sweep there, or "".
        `lab.stopping.asked` makes such a function from SIGTERM or a time.

    Returns:
      The outcome of each point, in their order, which a notebook shows as a table; at
      the first of joined processes only.

    Raises:
      ValueError: If a point cannot be built, the folder has it on other data, or
        `keep="best"` meets a point without validation rows or without the metric;
        nothing is run then.
      OSError: If the folder cannot be written, or its disk has no room or runs full.
      TooLargeError: If a single run takes more memory than a device has; says what
        takes the memory.
      MadeElsewhereError: If only runs that other processes are making are missing.
      StoppedError: If `stop` gave a reason; all work is saved, and the same call
        continues from there.
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
    if keep == "best":
        for point in points:
            point.setup.schedule.check_chosen()
    if report is None or report is progress_line:
        total = sum(point.setup.schedule.num_rounds for point in points)
        report = line_of(total) if report else lambda more, text: None
    runs = [run_of(point, folder) for point in points]
    if jax.process_count() > 1:
        processes.check_alike(_what_hosts_share(runs))
    if processes.is_first() and not again:
        check_same_data(runs, folder)
    over = _finished(runs, again, keep, report) if processes.is_first() else None
    over = processes.agreed(over)
    finished = [run for run in runs if run.name in over]
    unfinished = {run.name: run for run in runs if run.name not in over}
    if finished:
        rounds = sum(run.point.setup.schedule.num_rounds for run in finished)
        report(Restored(rounds), f"{len(finished)} runs were finished before")
    width = default_width() if width is None else width
    how = (report, on_metrics, width, checkpoint_seconds)
    sweep = Sweep(folder, *how, {}, {}, keep, stop)
    groups: dict[Group, list[Run]] = {}
    for run in unfinished.values():
        # Building with concrete numbers checks what traced values cannot show.
        check_numbers(run.point.setup, run.point.delta, run.point.swept)
        groups.setdefault(sweep.group_of(run), []).append(run)
    for group, its in groups.items():
        with blaming(its[0].point.setup):
            program.check_traced(group)
        clients = load_data(group.setup).clients
        built(its[0].point.setup).check(clients)
    if unfinished:
        check_swept(points)
    found = usable(report, go_on=go_on, keeps_best=keep == "best")
    try:
        with open_claims(folder) if processes.is_first() else nullcontext() as claims:
            if claims:
                _clean(folder, claims)
            for group, its in groups.items():
                rows = num_rows(lab_mesh(group.setup.layout.num_devices))
                largest = slice_size or largest_slice(width * rows)
                with blaming(its[0].point.setup):
                    size = _fitting_size(group, len(its), largest, memory_bytes, sweep)
                    if claims:
                        written = _bytes_written(group, len(its), size, sweep)
                        check_room(folder, written)
                    _run_group(its, size, rows, sweep, claims, found)
                sweep.programs.clear()
                program.forget(group)
            if claims:
                _clean(folder, claims)
    except OSError as error:
        error.add_note(
            f"Finished runs and checkpoints are kept in {folder}; once it can be "
            "written again, the same sweep continues from them."
        )
        raise
    if not processes.is_first():
        return Outcomes()
    missing = sum(not run.is_finished for run in unfinished.values())
    if missing:
        raise MadeElsewhereError(
            f"{missing} of {len(points)} runs are being made by another process in "
            f"{folder}; run this again when that process has ended"
        )
    return Outcomes(run.outcome(keep) for run in runs)


def _what_hosts_share(runs: Sequence[Run]) -> dict[str, str]:
    """Returns what joined processes must agree on, by a name for the user."""
    stored = [facts_of(run.point.setup).digests for run in runs]
    return {
        "points (another configuration, seed or number of runs)": digest(
            tuple((_setup_digest(run), run.point.seed) for run in runs)
        ),
        "data": digest(tuple(one and one.stored for one in stored)),
        "jax_enable_x64": str(jax.config.values["jax_enable_x64"]),
    }


def _setup_digest(run: Run) -> str:
    """Returns a digest of a run's setup and delta, without the data's content."""
    return digest(run.point.setup, run.point.delta)


def _finished(
    runs: Sequence[Run], again: bool, keep: str | None, report: Report
) -> list[str]:
    """Returns the names of the runs that need not be made, and reports on runs that are
    damaged, of other code, or without the parameters.
    """
    code, over = made_by()["code"], []
    others: dict[str, list[Run]] = {}
    for run in {run.name: run for run in runs}.values():
        if run.damage:
            report(0, f"{run.damage} (in any case, the run is made again)")
        elif (run.folder / "result.json").exists():
            over.append(run.name)
            if run.made_by.get("code") != code:
                others.setdefault("were made by other code", []).append(run)
            elif keep and (run.kept is None or run.kept.keep != keep):
                why = f"have no parameters of their {keep} round or evaluation"
                others.setdefault(why, []).append(run)
    for why, its in others.items() if not again else ():
        report(
            0,
            f"{len(its)} finished runs {why} and stay as they are, such as "
            f"{its[0].title or its[0].name}; again=True, or --again, reruns them",
        )
    left = {run.name for its in others.values() for run in its} if again else set()
    for name in left:
        (runs[0].folder.parent / name / "result.json").unlink(missing_ok=True)
    return [name for name in over if name not in left]


WIDTH_ON_ACCELERATORS = 32
SLICE_ON_ACCELERATORS = 1024


def default_width() -> int:
    """Returns the number of points vmapped at once: 1 on a CPU, where more gain
    little.
    """
    return 1 if jax.default_backend() == "cpu" else WIDTH_ON_ACCELERATORS


def largest_slice(at_once: int) -> int:
    """Returns the largest slice: `at_once` points on a CPU, else enough to keep a
    device busy for long.
    """
    return at_once if jax.default_backend() == "cpu" else SLICE_ON_ACCELERATORS


def _fitting_size(
    group: Group, count: int, largest: int, memory_bytes: int | None, sweep: Sweep
) -> int:
    """Returns the size of a group's slices, and reports if memory makes them smaller.

    Raises:
      TooLargeError: If the smallest slice takes more memory than is free.
    """
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    free = memory_bytes
    if free is None:
        free = processes.agreed(memory.bytes_free())
    if free is None:
        return memory.equal_size(count, largest, rows)
    used = memory.to_be_used(free) if memory_bytes is None else free

    def needed(size: int) -> float:
        return slice_bytes(group, size, sweep)

    wanted = memory.equal_size(count, largest, rows)
    size = memory.fitting_size(count, largest, rows, needed, used)
    if (takes := needed(size)) > free:
        text = slice_in_words(group, size, sweep)
        raise memory.TooLargeError(
            f"memory of a device: {size} runs at once, the smallest number, need "
            f"{units.shown(takes)}, but {units.shown(free)} are free: {text}. "
            f"{memory.CURE}"
        )
    if size < wanted:
        sweep.report(
            0,
            f"memory of a device: {wanted} runs at once would need "
            f"{units.shown(needed(wanted))} of {units.shown(used)}; at most {size} fit",
        )
    return size


def _bytes_written(group: Group, count: int, size: int, sweep: Sweep) -> int:
    """Returns roughly the bytes that `count` runs write: two checkpoints of a slice,
    the lines of all runs, and parameters if they are kept.
    """

    def num_bytes(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    states = program.states_of(group, size)
    written = 2 * num_bytes(states) + 300 * group.setup.schedule.num_rounds * count
    if sweep.keep is None:
        return written
    return written + num_bytes(kept.latest(states).params) * count // size


def _run_group(
    group: list[Run],
    size: int,
    multiple: int,
    sweep: Sweep,
    claims: Claims | None,
    found: Found,
) -> None:
    """Runs the points of a group that no other process has.

    The process with claims decides for all joined processes.
    """
    left = [*group]

    def decide(size: int) -> Slice | None:
        part = None
        if claims:
            part = next_slice(left, sweep.folder, size, claims, found)
        return agreed_slice(part, left)

    def run(part: Slice) -> None:
        try:
            advance(part, sweep)
        except jax.errors.JaxRuntimeError:
            left[:0] = part.runs
            raise
        except DamagedError as error:
            # The checkpoint is gone, and its runs start again.
            left[:0] = part.runs
            sweep.report(0, str(error))
        finally:
            if claims:
                claims.release([part.name, *(run.name for run in part.runs)])

    queue.run_what_fits(
        decide,
        run,
        size,
        multiple,
        lambda text: sweep.report(0, text),
        lambda: slice_in_words(sweep.group_of(group[0]), multiple, sweep),
    )


def _clean(folder: Path, claims: Claims) -> None:
    def is_finished(run: str) -> bool:
        return (folder / "runs" / run / "result.json").exists()

    checkpoints.clean(folder, is_finished, claims)
