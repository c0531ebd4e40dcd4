"""Runs an algorithm: rounds in one compiled program, cut into chunks for the host."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, guards, trees
from ppml_lab.federated.evaluation import Evaluate
from ppml_lab.federated.watching import interrupts, progress_line


def run_chunk(
    key: base.Key,
    algorithm: base.FederatedAlgorithm,
    state: Any,
    clients: base.Clients,
    first_round: Int[Array, ""] | int,
    num_rounds: int,
) -> tuple[Any, dict[str, Array]]:
    """Runs `num_rounds` rounds as one scan; pure, so that it can be jitted and mapped.

    Round `t` uses `fold_in(key, t)`: cutting a run into chunks, or stopping and
    resuming it, changes nothing.

    Returns:
      The state after the last round, and the rounds' scalars `[num_rounds]`.
    """

    def one(state: Any, number: Array) -> tuple[Any, dict[str, Array]]:
        return algorithm.round(jax.random.fold_in(key, number), state, clients)

    numbers = jnp.asarray(first_round, jnp.int32) + jnp.arange(num_rounds)
    return jax.lax.scan(one, state, numbers)


class _Programs(NamedTuple):
    """The compiled functions of an algorithm and its evaluation.

    Attributes:
      init: `(key) -> state`.
      chunk: `(key, state, clients, first round, number of rounds, length) -> (state,
        the rounds' scalars [length])`, of which the rounds that did not run are 0.
      evaluate: `(state, test) -> metrics`.
      copy: `(state) -> state` of buffers of its own.
    """

    init: Callable[..., Any]
    copy: Callable[..., Any]
    chunk: Callable[..., Any]
    evaluate: Callable[..., Any]


@functools.lru_cache(maxsize=4)
def _programs(
    algorithm: base.FederatedAlgorithm, evaluate: Evaluate | None, where: Any
) -> _Programs:
    """The programs of an algorithm, cached for a few so that a new seed compiles
    nothing.
    """
    # Traced once, for its scalars' shapes and for the loop.
    one_round = jax.jit(algorithm.round)

    @functools.partial(jax.jit, static_argnums=5, donate_argnums=1)
    def chunk(
        key: base.Key,
        state: Any,
        clients: base.Clients,
        first_round: Array,
        num_rounds: Array,
        length: int,
    ) -> tuple[Any, dict[str, Array]]:
        def one(i: Array, before: tuple[Any, Any]) -> tuple[Any, Any]:
            state, infos = before
            own = jax.random.fold_in(key, first_round + i)
            state, info = one_round(own, state, clients)
            return state, {k: infos[k].at[i].set(row) for k, row in info.items()}

        _, info = jax.eval_shape(one_round, key, state, clients)
        infos = {
            k: jnp.zeros((length, *row.shape), row.dtype) for k, row in info.items()
        }
        return jax.lax.fori_loop(0, num_rounds, one, (state, infos))

    def judged(state: Any, test: PyTree) -> dict[str, Array]:
        return {} if evaluate is None else evaluate(state.params, test)

    def copy(state: Any) -> Any:
        return jax.tree.map(jnp.copy, trees.place(state, where))

    init = jax.jit(algorithm.init, out_shardings=where)
    return _Programs(init, copy, chunk, jax.jit(judged))


LONGEST = 4096
"""The most rounds between two returns to the host, whose scalars are kept meanwhile."""


class _Pace:
    """Chooses numbers of rounds that take about a second, so that whoever watches or
    interrupts waits no longer.
    """

    def __init__(self) -> None:
        self.num_rounds = 1
        self._begin = time.monotonic()

    def next(self, at_most: int) -> int:
        self.num_rounds = min(self.num_rounds, at_most)
        self._begin = time.monotonic()
        return self.num_rounds

    def took(self) -> None:
        """Notes that the rounds are done; the first ones compile, and seem slow."""
        seconds = max(time.monotonic() - self._begin, 1e-6)
        within = int(self.num_rounds / seconds)
        self.num_rounds = min(max(within, 1), 8 * self.num_rounds)


@arguments.checked
def simulate(
    key: base.Key | int,
    algorithm: base.FederatedAlgorithm,
    clients: base.Clients,
    num_rounds: int,
    *,
    state: PyTree | None = None,
    first_round: int | None = None,
    test: PyTree | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int | None = None,
    on_chunk: Callable[[int, Any, dict[str, np.ndarray]], bool | None] | None = None,
    report: Callable[[int, int], None] | None = progress_line,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Runs `algorithm` for `num_rounds` rounds.

    All rounds are one compiled program, which returns to the host about once a second,
    or after a round that takes longer; no result depends on when it does. The programs
    of the last few algorithms are kept: with the same `algorithm` and `evaluate`, a run
    with another seed compiles nothing.

    An interrupt (Ctrl-C) ends the run when the program next returns, and `simulate`
    returns what was done; a second interrupt stops at once with KeyboardInterrupt. With
    the returned state, the same key and the rounds that are left, another call goes on
    as if there had been no interrupt: `simulate(key, algorithm, clients, left,
    state=state)`.

    Args:
      key: Makes the whole run reproducible; an integer `n` stands for
        `jax.random.key(n)`.
      algorithm: Such as `averaging(...)`.
      clients: The federated data set.
      num_rounds: Rounds to run, at least 1.
      state: The state to go on from, which an earlier call returned; it stays as it is.
        By default the run begins at round 0.
      first_round: Rounds that led to `state`; by default its own `rounds_done`.
      test: Examples for `evaluate`, NumPy arrays or jax's.
      evaluate: `(params, test) -> scalars`, see `evaluator`.
      eval_every: Rounds per chunk; all by default. A chunk ends with an evaluation.
      on_chunk: Called with (rounds done, state, the chunk's history); a true result
        stops the run. The next chunk reuses the state's buffers: copy what is to stay.
      report: Called with (rounds done, all rounds) about once a second, `first_round`
        included. By default it writes a progress line at a terminal or in a notebook,
        and nothing elsewhere. None for silence.

    Returns:
      The final state, and the history: the rounds' scalars `[rounds]` and, with
      `evaluate`, the evaluations' scalars and `eval_round`, both `[evaluations]`.

    Warns once where a round's training loss is not finite.

    Raises:
      ValueError: For counts below 1, a test set without `evaluate`, a state of another
        algorithm or another round, or clients or test examples that the algorithm's
        task cannot take, such as labels that are no classes.
    """
    algorithm.check(clients)
    if (test is None) != (evaluate is None):
        raise ValueError("give test and evaluate together, or neither")
    checks.at_least("num_rounds", num_rounds, 1)
    eval_every = num_rounds if eval_every is None else eval_every
    checks.at_least("eval_every", eval_every, 1)
    if isinstance(key, int):
        checks.at_least("key", key, 0)
        key = jax.random.key(key)
    init_key, rounds_key = jax.random.split(key)
    like = jax.eval_shape(algorithm.init, init_key)
    begin = _first_round(state, first_round, like)
    programs = _programs(algorithm, evaluate, clients.offsets.sharding)
    if evaluate is not None:
        # Checks labels here, as no label's value is known in a compiled round.
        jax.eval_shape(lambda state: evaluate(state.params, test), like)
    # Programs take the state's buffers: a state of the caller's is copied.
    state = programs.init(init_key) if state is None else programs.copy(state)
    chunks: list[dict[str, np.ndarray]] = []
    pieces: list[dict[str, np.ndarray]] = []
    length, pace = min(eval_every, num_rounds, LONGEST), _Pace()
    done, end, warned = begin, begin + num_rounds, False
    with interrupts() as was_interrupted:
        while done < end and not was_interrupted():
            until_chunk = min(eval_every - (done - begin) % eval_every, end - done)
            now = pace.next(min(until_chunk, length))
            state, infos = programs.chunk(
                rounds_key, state, clients, jnp.int32(done), jnp.int32(now), length
            )
            pieces.append({k: np.asarray(rows)[:now] for k, rows in infos.items()})
            pace.took()
            bad = _first_not_finite(pieces[-1])
            if bad is not None and not warned:
                warned = True
                warnings.warn(
                    f"train_loss is not finite in round {done + bad + 1}; look for NaN "
                    "or infinity in the examples, or lower the learning rate",
                    stacklevel=2,
                )
            done += now
            if report is not None:
                report(done, end)
            if now < until_chunk:
                continue
            chunk, pieces = _joined(pieces), []
            if evaluate is not None:
                found = programs.evaluate(state, test)
                chunk |= {
                    name: np.asarray(value)[None] for name, value in found.items()
                }
                chunk["eval_round"] = np.array([done])
            chunks.append(chunk)
            if on_chunk is not None and on_chunk(done, state, chunk):
                break
    return state, _joined(chunks + pieces)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins histories of rounds that follow each other."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate([part[name] for part in parts if name in part])
        for name in names
    }


def _first_round(state: PyTree | None, told: int | None, like: PyTree) -> int:
    """The number of the first round to run; raises for a state that does not fit."""
    if state is None:
        if told:
            raise ValueError(
                f"first_round is {told}, but no state is given; give the state that "
                "these rounds led to"
            )
        return 0
    guards.arrays("state", state)
    trees.check_same_shapes(
        "state must be one that simulate returned for this algorithm or its like",
        like,
        jax.tree.map(jnp.asarray, state),
    )
    counted = getattr(state, "rounds_done", told)
    if counted is None:
        raise ValueError("first_round must be given: state has no rounds_done")
    number = int(counted)
    if told is not None and told != number:
        raise ValueError(
            f"first_round is {told}, but state has done {number} rounds; leave "
            "first_round out"
        )
    checks.at_least("first_round", number, 0)
    return number


def _first_not_finite(piece: dict[str, np.ndarray]) -> int | None:
    """The place of the first round in which somebody trained with a loss that is not
    finite; None if there is none.
    """
    loss = piece.get("train_loss", np.zeros(1))
    trained = piece.get("num_reports", piece.get("batch_size", np.ones_like(loss)))
    bad = np.flatnonzero(~np.isfinite(loss) & (trained > 0))
    return int(bad[0]) if bad.size else None
