"""Sweeps: many runs, one compiled program per static configuration.

Points that share a `Config` differ only in traced hyperparameters and seeds. They run
in slices: a slice is a `lax.map` over its points, vmapped as wide as the backend likes,
and advances chunk by chunk of some evaluations. After every chunk each of its runs
is saved, so that a killed sweep goes on where it was, to the same bits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppml_lab.lab import records
from ppml_lab.lab.budget import epsilons_after
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build
from ppml_lab.lab.loading import DataFacts, load_data
from ppml_lab.lab.program import Chunk, chunks_of, mapped_chunk, mapped_init
from ppml_lab.lab.sharding import by_point, lab_mesh, num_rows


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      config: What it compiles to.
      hyperparams: Concrete numbers.
      seed: Of initial parameters, sampling, batches, noise and rounding.
      labels: Columns that say which point this is, first in the table.
      delta: At which its epsilon is stated; needed by private runs only.
    """

    config: Config
    hyperparams: Hyperparams
    seed: int
    labels: Mapping[str, Any]
    delta: float | None = None

    def record(self) -> dict[str, Any]:
        """The run's configuration as plain values; its hash names the run's folder."""
        return {
            "config": dataclasses.asdict(self.config),
            "hyperparams": {k: float(v) for k, v in self.hyperparams._asdict().items()},
            "seed": self.seed,
            "labels": dict(self.labels),
            "delta": self.delta,
        }


class Outcome(NamedTuple):
    """What a finished run left.

    Attributes:
      last: Scalars of its last round, its last metrics by name, `seconds` (wall,
        without compilation, divided among a slice's points) and `compile_seconds` (of
        the slice's program).
      folder: Its run folder.
    """

    last: dict[str, Any]
    folder: Path

    def history(self, name: str) -> list[Any]:
        """A scalar at every round where it was recorded."""
        lines = records.read_lines(self.folder / "rounds.jsonl")
        return [line[name] for line in lines if name in line]


class Slice(NamedTuple):
    """Points that run side by side in one program, and their folders."""

    config: Config
    points: list[Point]
    folders: list[Path]


Report = Callable[[int, str], None]
"""`(rounds done since the last call, what is running)`."""

Programs = dict[tuple[Config, Chunk, int], tuple[Callable[..., Any], float]]
"""(config, chunk, slice size) -> compiled chunk, seconds that it took."""


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
) -> list[Outcome]:
    """Runs every point that has no result in `folder` yet.

    Args:
      points: The runs.
      folder: Where run folders go.
      report: Told of rounds done.
      width: Points vmapped at once; chosen by backend if None.
      slice_size: Points in one program; `width` if None.

    Returns:
      The outcome of each point, in their order.

    Raises:
      ValueError: If a point cannot be built; nothing is run then.
    """
    width = default_width() if width is None else width
    slice_size = width if slice_size is None else slice_size
    folders = [folder / "runs" / records.run_id(point.record()) for point in points]
    todo = {
        path: point
        for path, point in zip(folders, points, strict=True)
        if not (path / "result.json").exists()
    }
    finished = [p for path, p in zip(folders, points, strict=True) if path not in todo]
    if finished:
        rounds = sum(point.config.num_rounds for point in finished)
        report(rounds, f"{len(finished)} runs were finished before")
    for config, hyperparams in {(p.config, p.hyperparams) for p in todo.values()}:
        # With numbers the builder checks what it cannot check of traced values.
        build(
            config,
            hyperparams,
            load_data(config.data, config.num_devices, config.shard_data).facts,
        )
    programs: Programs = {}
    for part in _slices(todo, slice_size):
        _run_slice(part, report, width, programs)
    return [Outcome(records.read_json(path / "result.json"), path) for path in folders]


def _slices(todo: Mapping[Path, Point], slice_size: int) -> list[Slice]:
    filling: dict[tuple[Config, int], Slice] = {}
    full: list[Slice] = []
    for path, point in todo.items():
        # Only runs that stopped at the same round can go on side by side.
        group = (point.config, records.rounds_saved(path / "checkpoint.npz"))
        part = filling.setdefault(group, Slice(point.config, [], []))
        part.points.append(point)
        part.folders.append(path)
        if len(part.points) == slice_size:
            full.append(filling.pop(group))
    return full + list(filling.values())


def _run_slice(part: Slice, report: Report, width: int, programs: Programs) -> None:
    config = part.config
    data = load_data(config.data, config.num_devices, config.shard_data)
    hyperparams = jax.tree.map(
        lambda *values: jnp.asarray(values, jnp.float32),
        *[point.hyperparams for point in _filled(part.points, config)],
    )
    keys = [jax.random.key(point.seed) for point in _filled(part.points, config)]
    keys = jnp.stack(keys)
    init_keys, round_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    states = _init_program(config, data.facts)(hyperparams, init_keys)
    rounds_done, states = _resume(part, states)
    text = ", ".join(f"{k} {v}" for k, v in part.points[0].labels.items())
    report(rounds_done * len(part.points), text)
    end_of_chunk = 0
    for chunk in chunks_of(config):
        length = chunk.num_evals * chunk.num_rounds
        end_of_chunk += length
        if end_of_chunk <= rounds_done:
            continue
        arguments = (hyperparams, round_keys, states, *data[:2], jnp.int32(rounds_done))
        program, compile_seconds = _compiled(
            part, data.facts, chunk, width, arguments, programs
        )
        begin = time.perf_counter()
        states, infos, metrics = jax.block_until_ready(program(*arguments))
        seconds = (time.perf_counter() - begin) / len(part.points)
        rounds_done += length
        timing = {"seconds": seconds, "compile_seconds": compile_seconds}
        _save_chunk(
            part, data.facts, chunk, rounds_done, states, infos, metrics, timing
        )
        report(length * len(part.points), text)
        if _has_arrived(config, metrics):
            report((config.num_rounds - rounds_done) * len(part.points), text)
            break
    for path in part.folders:
        _finish_run(path)


def _filled(rows: list[Any], config: Config) -> list[Any]:
    """As many as the devices' rows need: the last repeated, to no effect."""
    missing = -len(rows) % num_rows(lab_mesh(config.num_devices))
    return rows + rows[-1:] * missing


@lru_cache(maxsize=8)
def _init_program(config: Config, facts: DataFacts) -> Callable[..., PyTree]:
    # One function for all slices, so that jax compiles it once for each slice size.
    return jax.jit(mapped_init(config, facts))


def _resume(part: Slice, fresh: PyTree) -> tuple[int, PyTree]:
    """The slice's saved states, or `fresh` ones; run folders are made or trimmed."""
    rounds_done = records.rounds_saved(part.folders[0] / "checkpoint.npz")
    for point, path in zip(part.points, part.folders, strict=True):
        records.write_json(path / "config.json", point.record())
        records.write_json(path / "provenance.json", records.provenance(point.record()))
        records.keep_lines(path / "rounds.jsonl", rounds_done)
    if not rounds_done:
        return 0, fresh
    saved = [
        records.load_checkpoint(path / "checkpoint.npz", fresh)
        for path in _filled(part.folders, part.config)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *saved)
    mesh = lab_mesh(part.config.num_devices)
    return rounds_done, jax.device_put(stacked, by_point(mesh))


def _compiled(
    part: Slice,
    facts: DataFacts,
    chunk: Chunk,
    width: int,
    arguments: tuple[Any, ...],
    programs: Programs,
) -> tuple[Callable[..., Any], float]:
    which = (part.config, chunk, len(part.points))
    if which not in programs:
        begin = time.perf_counter()
        run = jax.jit(mapped_chunk(part.config, facts, chunk, width), donate_argnums=2)
        compiled = run.lower(*arguments).compile()
        programs[which] = compiled, time.perf_counter() - begin
    return programs[which]


def _has_arrived(config: Config, metrics: Mapping[str, Any]) -> bool:
    """Whether every run of the slice reached its goal in this chunk."""
    if config.stop_at_accuracy is None:
        return False
    best = np.max(np.asarray(metrics["accuracy"]), axis=1)
    return bool(np.all(best >= config.stop_at_accuracy))


def _save_chunk(
    part: Slice,
    facts: DataFacts,
    chunk: Chunk,
    rounds_done: int,
    states: PyTree,
    infos: Mapping[str, Any],
    metrics: Mapping[str, Any],
    timing: Mapping[str, float],
) -> None:
    states, infos, metrics = jax.tree.map(np.asarray, (states, infos, metrics))
    for i, (point, path) in enumerate(zip(part.points, part.folders, strict=True)):
        scalars = {name: values[i] for name, values in infos.items()}
        length = len(next(iter(scalars.values())))
        lines = [
            {"round": rounds_done - length + t + 1}
            | {name: values[t] for name, values in scalars.items()}
            for t in range(length)
        ]
        at = [(e + 1) * chunk.num_rounds - 1 for e in range(chunk.num_evals)]
        counts = [lines[place]["round"] for place in at]
        spent = epsilons_after(
            part.config, point.hyperparams, facts, point.delta, counts
        )
        for e, place in enumerate(at):
            evaluated = {name: values[i][e] for name, values in metrics.items()}
            lines[place] |= evaluated | {"epsilon": spent[e]}
        lines[-1] |= timing
        records.append_lines(path / "rounds.jsonl", lines)
        records.save_checkpoint(
            path / "checkpoint.npz",
            rounds_done,
            jax.tree.map(lambda leaf, row=i: leaf[row], states),
        )


def _finish_run(path: Path) -> None:
    lines = records.read_lines(path / "rounds.jsonl")
    seconds = sum(line.get("seconds", 0.0) for line in lines)
    records.write_json(path / "result.json", lines[-1] | {"seconds": seconds})
    (path / "checkpoint.npz").unlink()
