"""Advances a slice chunk by chunk, and records what its runs do."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ppml_lab import federated, trees
from ppml_lab.lab import budget, memory, processes, program
from ppml_lab.lab.disk import checkpoints, kept, provenance, records
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.program import Chunk, Group, chunks_of
from ppml_lab.lab.progress import Report, Restored
from ppml_lab.lab.queue import Slice
from ppml_lab.lab.results import Run
from ppml_lab.lab.setup import Schedule, by_point, lab_mesh
from ppml_lab.lab.stopping import StoppedError

OnMetrics = Callable[[Run, int, Mapping[str, float]], None]
"""Callback `(run, round, scalars)` of an evaluation: its metrics, epsilon if there is
one, and the round's own scalars."""


class Sweep(NamedTuple):
    """The options and state of a running sweep.

    Attributes:
      folder: The results folder.
      report: Called with rounds done.
      on_metrics: Called at every evaluation.
      width: Number of points that are vmapped at once.
      checkpoint_seconds: The least time between two checkpoints of a slice.
      programs: Programs by (group, chunk, slice size).
      reported: Rounds that `report` knows of, by run id.
      keep: Which parameters are kept, see `run_sweep`.
      stop: Called after every chunk; returns a reason to stop, or "".
    """

    folder: Path
    report: Report
    on_metrics: OnMetrics
    width: int
    checkpoint_seconds: float
    programs: dict[tuple[Group, Chunk, int], program.Program]
    reported: dict[str, int]
    keep: str | None
    stop: Callable[[], str]

    def group_of(self, run: Run) -> Group:
        """Returns the group of runs that share programs with this run."""
        return program.group_of(run.point, keeps_best=self.keep == "best")


class Done(NamedTuple):
    """The results of a chunk, as NumPy arrays.

    Attributes:
      chunk: The chunk's evaluations and rounds.
      rounds_done: Rounds from the start of the run to the chunk's end.
      infos: Scalars of the rounds, `[points, rounds]`.
      metrics: Metrics of the evaluations, `[points, evaluations]`.
      params_are_finite: Whether parameters are finite at its end, `[points]`.
      timing: `seconds` per point, and `compile_seconds` of the program.
    """

    chunk: Chunk
    rounds_done: int
    infos: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]
    params_are_finite: np.ndarray
    timing: Mapping[str, float]


def advance(part: Slice, sweep: Sweep) -> None:
    """Runs a slice until each of its runs has a result.

    Raises:
      ValueError: If a checkpoint does not fit the runs that continue from it.
      StoppedError: If the sweep is asked to stop; its state is saved.
    """
    if sweep.reported and (reason := processes.first_said(sweep.stop())):
        raise StoppedError(reason)
    first, group = part.runs[0].point.setup, sweep.group_of(part.runs[0])
    schedule, data = first.schedule, load_data(first)
    copies = part.runs[-1:] * (part.size - len(part.runs))
    inputs = program.inputs_of([run.point for run in part.runs + copies])
    states = _first_states(part, group, inputs)
    for run in part.runs:
        _begin(run, part.rounds_done)
    _tell(part.runs, part.rounds_done, sweep, Restored)
    rounds_done, going = part.rounds_done, [*enumerate(part.runs)]
    saved = time.monotonic()
    for chunk in _chunks_after(schedule, rounds_done):
        compiled = _program(group, chunk, part.size, sweep)
        arguments = (*inputs, states, *data[:3])
        begin = time.perf_counter()
        states, infos, metrics = jax.block_until_ready(
            compiled.run(*arguments, np.int32(rounds_done))
        )
        timing = {
            "seconds": (time.perf_counter() - begin) / len(part.runs),
            "compile_seconds": compiled.compile_seconds,
        }
        rounds_done += chunk.num_evals * chunk.num_rounds
        infos, metrics, finite = processes.to_host(
            (infos, metrics, are_finite(kept.latest(states).params))
        )
        done = Done(chunk, rounds_done, infos, metrics, finite, timing)
        over = {run.name: _record(run, row, done, sweep) for row, run in going}
        ended = [(row, run) for row, run in going if over[run.name]]
        if ended:
            best = states.best if group.keeps_best else None
            left = processes.to_host((kept.latest(states).params, best))
            for row, run in ended:
                params, best = jax.tree.map(lambda leaf, at=row: leaf[at], left)
                _finish(run, params, best, sweep.keep, [*metrics])
        _tell([run for _, run in ended], schedule.num_rounds, sweep)
        going = [(row, run) for row, run in going if not over[run.name]]
        _tell([run for _, run in going], rounds_done, sweep)
        if not going:
            break
        reason = processes.first_said(sweep.stop())
        is_late = time.monotonic() - saved >= sweep.checkpoint_seconds
        if reason or processes.agreed(is_late):
            _save(part, going, rounds_done, states, sweep.folder)
            saved = time.monotonic()
        if reason:
            raise StoppedError(reason)
    if processes.is_first():
        checkpoints.drop(sweep.folder, part.name)


def _first_states(part: Slice, group: Group, inputs: program.Inputs) -> PyTree:
    """Returns the slice's saved states, or initial ones."""
    if not part.rounds_done:
        return program.init_program(group)(*inputs)
    like = program.states_of(group, part.size)
    if processes.is_first():
        states = _saved_states(part, like)
    else:
        states = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    mesh = lab_mesh(part.runs[0].point.setup.layout.num_devices)
    rows, everywhere = by_point(mesh), federated.on_every_device(mesh)
    return jax.tree.map(
        # XLA cannot shard empty arrays.
        lambda leaf: trees.place(leaf, rows if leaf.size else everywhere),
        processes.from_first(states),
    )


def _saved_states(part: Slice, like: PyTree) -> PyTree:
    """Checks the ledgers of a slice, and returns the states that it continues from."""
    for run, saved in zip(part.runs, part.saved, strict=True):
        spent = _spent(run, saved.rounds)
        if saved.spent != spent:
            raise ValueError(
                f"{saved.path} says that run {run.name} spent {saved.spent}, but its "
                f"setup now says {spent}; delete that folder to start the run again, "
                "or go back to the code that saved it"
            )
    copies = part.saved[-1:] * (part.size - len(part.saved))
    try:
        states = checkpoints.load(part.saved + copies, like)
    except records.DamagedError:
        for path in {saved.path for saved in part.saved}:
            shutil.rmtree(path, ignore_errors=True)
        raise
    latest = kept.latest(states)
    counted = np.asarray(getattr(latest, "rounds_done", part.rounds_done))
    if np.any(counted != part.rounds_done):
        raise ValueError(
            f"{part.saved[0].path} has states of {counted} rounds, not of "
            f"{part.rounds_done}; delete that folder to start its runs again"
        )
    return states


def _spent(run: Run, rounds: int) -> dict[str, Any]:
    point = run.point
    return budget.spent(point.setup, point.key, point.delta, rounds)


def _begin(run: Run, rounds_done: int) -> None:
    if not processes.is_first():
        return
    records.write_json(
        run.folder / "config.json", records.described(run.point.record())
    )
    records.keep_rounds(run.folder / "rounds.jsonl", rounds_done)


def _chunks_after(schedule: Schedule, rounds_done: int) -> list[Chunk]:
    chunks = chunks_of(schedule)
    ends = np.cumsum([chunk.num_evals * chunk.num_rounds for chunk in chunks])
    pairs = zip(chunks, ends, strict=True)
    return [chunk for chunk, end in pairs if end > rounds_done]


def first_program(group: Group, size: int, sweep: Sweep) -> program.Program:
    """Returns the compiled first chunk of slices of `size` points, and caches it."""
    return _program(group, chunks_of(group.setup.schedule)[0], size, sweep)


def slice_bytes(group: Group, size: int, sweep: Sweep) -> float:
    """Returns the bytes of a device that a slice of `size` points takes beside the
    data; infinity where the compiler itself finds no room.
    """
    try:
        return _needed(group, size, sweep)[1].total
    except jax.errors.JaxRuntimeError as error:
        if memory.has_run_out(error):
            return math.inf
        raise


def slice_in_words(group: Group, size: int, sweep: Sweep) -> str:
    """Returns a text on what takes a slice's memory, or the compiler's error."""
    try:
        return memory.in_words(*_needed(group, size, sweep))
    except jax.errors.JaxRuntimeError as error:
        return str(error)


def _needed(group: Group, size: int, sweep: Sweep) -> tuple[Any, memory.Needed]:
    compiled = first_program(group, size, sweep).run
    return compiled, memory.needed_by(compiled, load_data(group.setup)[:3])


def _program(group: Group, chunk: Chunk, size: int, sweep: Sweep) -> program.Program:
    which = (group, chunk, size)
    if which not in sweep.programs:
        sweep.programs[which] = program.compile_chunk(group, chunk, size, sweep.width)
    return sweep.programs[which]


def _record(run: Run, row: int, done: Done, sweep: Sweep) -> bool:
    """Writes a run's lines of a chunk, and returns whether the run ends with the chunk.

    Runs of a slice do not depend on each other in this.
    """
    lines = _lines(run, row, done)
    diverged = diverged_round(lines, bool(done.params_are_finite[row]))
    lines[-1] |= done.timing
    if diverged is not None:
        lines[-1]["diverged_round"] = diverged
    if processes.is_first():
        _forward(run, lines, sweep)
        records.append_lines(run.folder / "rounds.jsonl", lines)
    schedule = run.point.setup.schedule
    is_last = done.rounds_done == schedule.num_rounds
    return is_last or _has_arrived(schedule, row, done) or diverged is not None


def _has_arrived(schedule: Schedule, row: int, done: Done) -> bool:
    """Returns whether the validation metric of an evaluation reached `stop_at`."""
    if schedule.stop_at is None:
        return False
    values = done.metrics[schedule.judged][row]
    if schedule.smaller_is_better:
        return bool((values <= schedule.stop_at).any())
    return bool((values >= schedule.stop_at).any())


def _lines(run: Run, row: int, done: Done) -> list[dict[str, Any]]:
    """Returns one run's results of a chunk, a line for each round."""
    scalars = {name: values[row].tolist() for name, values in done.infos.items()}
    metrics = {name: values[row].tolist() for name, values in done.metrics.items()}
    length = done.chunk.num_evals * done.chunk.num_rounds
    lines: list[dict[str, Any]] = [
        {"round": done.rounds_done - length + t + 1}
        | {name: values[t] for name, values in scalars.items()}
        for t in range(length)
    ]
    for e, line in enumerate(lines[done.chunk.num_rounds - 1 :: done.chunk.num_rounds]):
        line |= {name: values[e] for name, values in metrics.items()}
        line["epsilon"] = budget.epsilon_after(
            run.point.setup, run.point.delta, line["round"]
        )
    return lines


def _forward(run: Run, lines: list[dict[str, Any]], sweep: Sweep) -> None:
    """Passes the evaluations among the lines to `on_metrics`."""
    for line in lines:
        if "epsilon" in line:
            scalars = {k: v for k, v in line.items() if k != "round" and v is not None}
            sweep.on_metrics(run, line["round"], scalars)


def _finish(
    run: Run, params: PyTree, best: Any, keep: str | None, metrics: list[str]
) -> None:
    """Writes the parameters that are kept, and then the run's result."""
    if not processes.is_first():
        return
    lines = records.read_lines(run.folder / "rounds.jsonl")
    seconds = sum(line.get("seconds", 0.0) for line in lines)
    compile_seconds = sum({line.get("compile_seconds", 0.0) for line in lines})
    stamp = provenance.provenance(run.point.record())
    stamp["cost"] = provenance.cost(compile_seconds, seconds)
    stamp["metrics"] = metrics
    records.write_json(run.folder / "provenance.json", stamp)
    timing = {"seconds": seconds, "compile_seconds": compile_seconds}
    schedule = run.point.setup.schedule
    last = _result(schedule, lines) | timing | {"params_digest": trees.digest(params)}
    kept.drop(run.folder)
    if keep is not None:
        place, metric = lines[-1]["round"], None
        if keep == "best":
            params, place, metric = best.params, int(best.round), schedule.judged
        kept.save(run.folder, params)
        last["kept"] = kept.Kept(keep, place, metric, trees.digest(params))._asdict()
    # The result comes last, because a run with a result is finished.
    records.write_result(run.folder, last)


def _result(schedule: Schedule, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the line of rounds.jsonl that is the run's result."""
    if schedule.keep == "last":
        return lines[-1]
    evaluated = [line for line in lines if "epsilon" in line]
    # A metric that is not finite is null.
    values = [line[schedule.judged] for line in evaluated]
    ranks = [schedule.rank(math.nan if v is None else v) for v in values]
    return lines[-1] | evaluated[int(np.argmin(ranks))]


def _save(
    part: Slice,
    going: list[tuple[int, Run]],
    rounds_done: int,
    states: PyTree,
    folder: Path,
) -> None:
    states = processes.to_host(states)
    if processes.is_first():
        spent = {run.name: (row, _spent(run, rounds_done)) for row, run in going}
        for _, run in going:
            # The rounds before a checkpoint are on the disk before it is.
            records.to_disk(run.folder / "rounds.jsonl")
        made_by = provenance.made_by()
        checkpoints.save(folder, part.name, rounds_done, states, spent, made_by)


def _tell(
    runs: list[Run], rounds_done: int, sweep: Sweep, kind: type[int] = int
) -> None:
    """Reports the rounds that the runs did since their last report."""
    if runs:
        before = sum(sweep.reported.get(run.name, 0) for run in runs)
        sweep.reported.update({run.name: rounds_done for run in runs})
        sweep.report(kind(rounds_done * len(runs) - before), runs[0].title)


_LOSSES = ("train_loss", "loss")


def diverged_round(
    lines: Sequence[Mapping[str, Any]], params_are_finite: bool
) -> int | None:
    """Returns a chunk's first round that is not finite; None if its last model is
    finite: clients that diverge may be clipped to nothing, and rounds recover.

    Args:
      lines: The chunk's rounds, with `round` and the losses that were recorded.
      params_are_finite: Whether the parameters after the last round are finite.
    """
    last = lines[-1]
    if params_are_finite and math.isfinite(last.get("loss", 0.0)):
        return None
    bad = [
        line["round"]
        for line in lines
        for name in _LOSSES
        if name in line and not math.isfinite(line[name])
    ]
    return min(bad, default=last["round"])


@jax.jit
def are_finite(params: PyTree) -> Bool[Array, " points"]:
    """Returns which points have finite parameters; leaves are `[points, ...]`."""
    leaves = [
        jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)
        for leaf in jax.tree.leaves(params)
    ]
    return jnp.all(jnp.stack(leaves), axis=0)
