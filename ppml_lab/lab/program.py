"""A chunk of a slice as one compiled program, its inputs, and its time.

Points of one structure share a program: their stacked setups are an argument of the
program, and each point's numbers are traced in it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.federated.simulate import run_chunk
from ppml_lab.lab.disk import kept
from ppml_lab.lab.loading import facts_of, load_data
from ppml_lab.lab.results import Point, key_words
from ppml_lab.lab.setup import Facts, Schedule, lab_mesh, num_rows, over_points


class Group(NamedTuple):
    """The properties that runs share if they share programs."""

    structure: Any
    """`jax.tree.structure` of the runs' setups."""
    delta: float | None
    """The delta with which live epsilon is compiled."""
    keeps_best: bool = False
    """If true, states carry the parameters of the best evaluation so far."""

    @property
    def setup(self) -> Any:
        """A setup of this structure; its numbers are placeholders."""
        return jax.tree.unflatten(self.structure, [0.0] * self.structure.num_leaves)

    @property
    def facts(self) -> Facts:
        """Facts about the data of these runs, with the group's delta."""
        return facts_of(self.setup)._replace(delta=self.delta)


def group_of(point: Point, *, keeps_best: bool = False) -> Group:
    """Returns the group of a point."""
    return Group(jax.tree.structure(point.setup), point.delta, keeps_best)


class Chunk(NamedTuple):
    """A piece of a run between two visits to the host: `num_evals` evaluations, with
    `num_rounds` rounds before each.
    """

    num_evals: int
    num_rounds: int


def chunks_of(schedule: Schedule) -> list[Chunk]:
    """Returns the chunks of a run: full ones, one of remaining evaluations, and one of
    remaining rounds.
    """
    evals, rounds_left = divmod(schedule.num_rounds, schedule.eval_every)
    full, evals_left = divmod(evals, schedule.evals_per_chunk)
    chunks = [Chunk(schedule.evals_per_chunk, schedule.eval_every)] * full
    if evals_left:
        chunks.append(Chunk(evals_left, schedule.eval_every))
    return chunks + [Chunk(1, rounds_left)] * (rounds_left > 0)


class Program(NamedTuple):
    """A compiled chunk of a slice, and the seconds that compiling it took."""

    run: Callable[..., tuple[PyTree, PyTree, PyTree]]
    compile_seconds: float


class Inputs(NamedTuple):
    """Inputs of a slice's program beside data and states, stacked over its points."""

    setups: PyTree
    """The points' setups, with leaves float32 `[points]`."""
    words: Any
    """Seed words of the points' keys, uint32 `[points, 2]`."""


def inputs_of(points: Sequence[Point]) -> Inputs:
    """Returns the numbers and keys of points."""
    setups = jax.tree.map(
        lambda *values: np.asarray(values, np.float32), *[p.setup for p in points]
    )
    words = key_words([p.seed for p in points], [p.key for p in points])
    return Inputs(setups, words)


def shapes_of(group: Group, size: int) -> Inputs:
    """Returns the shapes and types of the inputs of `size` points."""
    number = jax.ShapeDtypeStruct((size,), jnp.float32)
    setups = jax.tree.map(lambda _: number, group.setup)
    return Inputs(setups, jax.ShapeDtypeStruct((size, 2), jnp.uint32))


@functools.lru_cache(maxsize=8)
def init_program(group: Group) -> Callable[..., PyTree]:
    """Returns the jitted `(setups, words) -> states` of a group.

    All slices of a group share it, so that jax compiles it once for each slice size.
    """
    return jax.jit(mapped_init(group))


def states_of(group: Group, size: int) -> PyTree:
    """Returns the shapes and types of the states of `size` points."""
    return jax.eval_shape(init_program(group), *shapes_of(group, size))


def mapped_init(group: Group) -> Callable[..., PyTree]:
    """Returns the function `(setups, words) -> states`, stacked over points."""
    facts = group.facts

    def one(point: tuple[Any, Array]) -> PyTree:
        own, words = point
        state = own.algorithm(facts).init(_keys(words)[0])
        return kept.begin(state) if group.keeps_best else state

    def init(setups: PyTree, words: Array) -> PyTree:
        return jax.lax.map(one, (setups, words))

    return over_points(init, 2, lab_mesh(group.setup.layout.num_devices))


def _keys(words: Array) -> tuple[base.Key, base.Key]:
    """Returns the keys of a run's initial parameters and of its rounds."""
    init_key, rounds_key = jax.random.split(jax.random.wrap_key_data(words))
    return init_key, rounds_key


def mapped_chunk(
    group: Group, chunk: Chunk, width: int
) -> Callable[..., tuple[PyTree, PyTree, PyTree]]:
    """Returns a chunk of a whole slice as one pure function.

    Returns:
      `(setups, words, states, clients, test, validation, first_round) -> (states, the
      rounds' scalars [points, rounds], metrics [points, evaluations])`; the first three
      are stacked over the slice's points.
    """
    facts, schedule = group.facts, group.setup.schedule

    def judged(
        own: Any, state: Any, clients: base.Clients, test: PyTree, validation: PyTree
    ) -> dict[str, Any]:
        found = own.evaluate(state, clients, test)
        if validation is not None:
            held_out = own.evaluate(state, clients, validation)
            found |= {f"validation_{k}": v for k, v in held_out.items()}
        return found

    def run_chunks(
        setups: PyTree,
        words: Array,
        states: PyTree,
        clients: base.Clients,
        test: PyTree,
        validation: PyTree,
        first_round: Any,
    ) -> tuple[PyTree, PyTree, PyTree]:
        def one(point: tuple[Any, Array, PyTree]) -> tuple[PyTree, ...]:
            own, own_words, begun = point
            _, key = _keys(own_words)
            algorithm = own.algorithm(facts)

            def rounds(before: Any, begin: Any) -> tuple[Any, tuple[PyTree, PyTree]]:
                state, infos = run_chunk(
                    key,
                    algorithm,
                    kept.latest(before),
                    clients,
                    begin,
                    chunk.num_rounds,
                )
                found = judged(own, state, clients, test, validation)
                if not group.keeps_best:
                    return state, (infos, found)
                rank = schedule.rank(found[schedule.judged])
                done = begin + chunk.num_rounds
                return kept.after(before, state, rank, done), (infos, found)

            begins = first_round + chunk.num_rounds * jnp.arange(chunk.num_evals)
            after, (infos, metrics) = jax.lax.scan(rounds, begun, begins)
            return after, jax.tree.map(lambda leaf: leaf.reshape(-1), infos), metrics

        # A map of width 1 needs no vmap, which would turn conds into selects.
        batch_size = None if width == 1 else width
        return jax.lax.map(one, (setups, words, states), batch_size=batch_size)

    return over_points(run_chunks, 3, lab_mesh(group.setup.layout.num_devices))


_TRACED: dict[tuple[Group, Chunk, int, int], Any] = {}
_MOST_TRACED = 64


def traced_chunk(group: Group, chunk: Chunk, size: int, width: int) -> Any:
    """Returns the traced chunk of slices of `size` points, ready to compile; the last
    ones are remembered.
    """
    which = (group, chunk, size, width)
    if which not in _TRACED:
        while len(_TRACED) >= _MOST_TRACED:
            del _TRACED[next(iter(_TRACED))]
        _TRACED[which] = _traced(*which)
    return _TRACED[which]


def forget(group: Group) -> None:
    """Forgets a group's traces, with which jax keeps the programs made of them.

    A process can map only so many programs, and a sweep may have any number.
    """
    for which in [one for one in _TRACED if one[0] == group]:
        del _TRACED[which]


def _traced(group: Group, chunk: Chunk, size: int, width: int) -> Any:
    data = load_data(group.setup)
    at_once = size // num_rows(lab_mesh(group.setup.layout.num_devices))
    run = mapped_chunk(group, chunk, min(width, at_once))
    arguments = (*shapes_of(group, size), states_of(group, size), *data[:3])
    return jax.jit(run, donate_argnums=2).trace(*arguments, np.int32(0))


def first_traced(group: Group) -> Any:
    """Returns the traced first chunk of the smallest slices, the size that a CPU
    uses.
    """
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    return traced_chunk(group, chunks_of(group.setup.schedule)[0], rows, 1)


def check_traced(group: Group) -> None:
    """Traces a group's programs so that errors come early.

    It traces how runs begin and, where a metric stops runs or chooses a result, also
    the evaluations.

    Raises:
      ValueError: If no evaluation has the metric; names the metrics that it has.
    """
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    states_of(group, rows)
    schedule = group.setup.schedule
    if schedule.stop_at is not None or schedule.keep == "best" or group.keeps_best:
        # Traced without the best so far, which needs the metric to be there.
        traced = first_traced(group._replace(keeps_best=False))
        schedule.check_judged(traced.out_info[2])


def compile_chunk(group: Group, chunk: Chunk, size: int, width: int) -> Program:
    """Compiles a chunk for slices of `size` points; `width` of them run at once."""
    begin = time.perf_counter()
    compiled = traced_chunk(group, chunk, size, width).lower().compile()
    return Program(compiled, time.perf_counter() - begin)


@arguments.checked
def seconds_in_turns(
    points: Sequence[Point], turns: int = 7
) -> Float[np.ndarray, "turns points"]:
    """Measures the wall seconds of one chunk of `eval_every` rounds of every point.

    Each turn runs all points once, so that a busy machine slows all points alike: take
    ratios within a turn, and their median. Compilation and a first run are not counted.
    """
    checks.at_least("turns", turns, 1)
    programs = [_ready_chunk(point) for point in points]
    seconds = np.empty((turns, len(points)))
    for turn in range(turns):
        for i, program in enumerate(programs):
            begin = time.perf_counter()
            program()
            seconds[turn, i] = time.perf_counter() - begin
    return seconds


def _ready_chunk(point: Point) -> Callable[[], Any]:
    setup, group = point.setup, group_of(point)
    data = load_data(setup)
    # Every row of devices needs a point: the same one for all.
    copies = num_rows(lab_mesh(setup.layout.num_devices))
    inputs = inputs_of([point] * copies)
    states = [init_program(group)(*inputs)]
    # A sweep compiles the same program, so that the cache has it.
    chunk = compile_chunk(group, Chunk(1, setup.schedule.eval_every), copies, 1).run

    def run() -> None:
        # The call donates the states' buffers.
        after = chunk(*inputs, states.pop(), *data[:3], np.int32(0))
        states.append(jax.block_until_ready(after)[0])

    run()
    return run
