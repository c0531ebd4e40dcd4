"""Runs an algorithm: rounds in one compiled program, cut into chunks for the host."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks
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


def chunk_lengths(num_rounds: int, eval_every: int) -> list[int]:
    """The lengths of a run's chunks: `eval_every` rounds each, and the rest."""
    checks.at_least("num_rounds", num_rounds, 1)
    checks.at_least("eval_every", eval_every, 1)
    whole, rest = divmod(num_rounds, eval_every)
    return [eval_every] * whole + [rest] * (rest > 0)


class _Programs(NamedTuple):
    """The compiled functions of an algorithm and its evaluation.

    Attributes:
      init: `(key) -> state`.
      chunk: `(key, state, (clients, test), first round, length) -> (state, the rounds'
        scalars, metrics)`.
    """

    init: Callable[..., Any]
    chunk: Callable[..., Any]


@functools.lru_cache(maxsize=4)
def _programs(
    algorithm: base.FederatedAlgorithm, evaluate: Evaluate | None, where: Any
) -> _Programs:
    """The programs of an algorithm, cached for a few so that a new seed compiles
    nothing.
    """

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=1)
    def chunk(
        key: base.Key, state: Any, data: PyTree, first_round: Array, length: int
    ) -> tuple[Any, dict[str, Array], dict[str, Array]]:
        clients, test = data
        state, infos = run_chunk(key, algorithm, state, clients, first_round, length)
        metrics = {} if evaluate is None else evaluate(state.params, test)
        return state, infos, metrics

    return _Programs(jax.jit(algorithm.init, out_shardings=where), chunk)


@arguments.checked
def simulate(
    key: base.Key | int,
    algorithm: base.FederatedAlgorithm,
    clients: base.Clients,
    num_rounds: int,
    *,
    test: PyTree | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int | None = None,
    on_chunk: Callable[[int, Any, dict[str, np.ndarray]], bool | None] | None = None,
    report: Callable[[int, int], None] | None = progress_line,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Runs `algorithm` for `num_rounds` rounds.

    All rounds between two evaluations are one compiled program; the host sees the state
    only at its end, where `on_chunk` may report, save, or stop the run. The programs of
    the last few algorithms are kept: with the same `algorithm` and `evaluate`, a run
    with another seed compiles nothing.

    An interrupt (Ctrl-C) ends the run after the current chunk and returns what was
    done; a second interrupt stops at once with KeyboardInterrupt.

    Args:
      key: Makes the whole run reproducible; an integer `n` stands for
        `jax.random.key(n)`.
      algorithm: Such as `averaging(...)`.
      clients: The federated data set.
      num_rounds: At least 1.
      test: Examples for `evaluate`, NumPy arrays or jax's.
      evaluate: `(params, test) -> scalars`, see `evaluator`.
      eval_every: Rounds per chunk; all by default.
      on_chunk: Called with (rounds done, state, the chunk's history); a true result
        stops the run. The next chunk reuses the state's buffers: copy what is to stay.
      report: Called with (rounds done, all rounds) after every chunk. By default it
        writes a progress line at a terminal or in a notebook, and nothing elsewhere.
        None for silence.

    Returns:
      The final state, and the history: the rounds' scalars `[rounds]` and, with
      `evaluate`, the evaluations' scalars and `eval_round`, both `[evaluations]`.

    Warns once where a round's training loss is not finite.

    Raises:
      ValueError: For counts below 1, a test set without `evaluate`, or clients or test
        examples that the algorithm's task cannot take, such as labels that are no
        classes.
    """
    algorithm.check(clients)
    if (test is None) != (evaluate is None):
        raise ValueError("give test and evaluate together, or neither")
    lengths = chunk_lengths(
        num_rounds, num_rounds if eval_every is None else eval_every
    )
    if isinstance(key, int):
        checks.at_least("key", key, 0)
        key = jax.random.key(key)
    init_key, rounds_key = jax.random.split(key)
    programs = _programs(algorithm, evaluate, clients.offsets.sharding)
    if evaluate is not None:
        # Checks labels here, as no label's value is known in a compiled round.
        first = jax.eval_shape(algorithm.init, init_key)
        jax.eval_shape(lambda state: evaluate(state.params, test), first)
    state = programs.init(init_key)
    history: dict[str, list[np.ndarray]] = {}
    done, is_finite = 0, True
    with interrupts() as was_interrupted:
        for length in lengths:
            state, infos, metrics = programs.chunk(
                rounds_key, state, (clients, test), jnp.int32(done), length
            )
            done += length
            part: dict[str, np.ndarray] = {
                name: np.asarray(value) for name, value in infos.items()
            }
            part |= {name: np.asarray(value)[None] for name, value in metrics.items()}
            if metrics:
                part["eval_round"] = np.array([done])
            for name, value in part.items():
                history.setdefault(name, []).append(value)
            if is_finite and not _is_finite(part):
                is_finite = False
                warnings.warn(
                    f"train_loss is not finite at or before round {done}; look for NaN "
                    "or infinity in the examples, or lower the learning rate",
                    stacklevel=2,
                )
            if report is not None:
                report(done, num_rounds)
            if on_chunk is not None and on_chunk(done, state, part):
                break
            if was_interrupted():
                break
    return state, {name: np.concatenate(parts) for name, parts in history.items()}


def _is_finite(part: dict[str, np.ndarray]) -> bool:
    """True where every round in which somebody trained has a finite loss."""
    loss = part.get("train_loss", np.zeros(1))
    trained = part.get("num_reports", part.get("batch_size", np.ones_like(loss)))
    return bool(np.isfinite(loss[trained > 0]).all())
