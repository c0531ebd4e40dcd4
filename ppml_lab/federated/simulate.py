"""Runs an algorithm: rounds in one compiled program, cut in chunks for the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.federated.evaluation import Evaluate


def run_chunk(
    key: base.Key,
    algorithm: base.FederatedAlgorithm,
    state: Any,
    clients: base.Clients,
    first_round: Int[Array, ""] | int,
    num_rounds: int,
) -> tuple[Any, dict[str, Array]]:
    """`num_rounds` rounds as one scan; pure, so that it can be jitted and mapped.

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
    """How a run is cut: chunks of `eval_every` rounds and the rest."""
    checks.at_least("num_rounds", num_rounds, 1)
    checks.at_least("eval_every", eval_every, 1)
    whole, rest = divmod(num_rounds, eval_every)
    return [eval_every] * whole + [rest] * (rest > 0)


@arguments.checked
def simulate(
    key: base.Key,
    algorithm: base.FederatedAlgorithm,
    clients: base.Clients,
    num_rounds: int,
    *,
    test: PyTree | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int | None = None,
    on_chunk: Callable[[int, Any, dict[str, np.ndarray]], bool | None] | None = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Runs `algorithm` for `num_rounds` rounds.

    All rounds between two evaluations are one compiled program; the host sees the state
    only at their ends, where `on_chunk` may report, save, or stop the run.

    Args:
      key: Makes the whole run reproducible.
      algorithm: Such as `averaging(...)`.
      clients: The federated data set.
      num_rounds: At least 1.
      test: Examples for `evaluate`.
      evaluate: `(params, test) -> scalars`, see `evaluator`.
      eval_every: Rounds per chunk; all by default.
      on_chunk: Called with (rounds done, state, the chunk's history); a true result
        stops the run. The state's buffers go to the next chunk: copy what is to stay.

    Returns:
      The final state, and the history: the rounds' scalars `[rounds]`, and, with
      `evaluate`, its scalars `[evaluations]` beside `eval_round`.

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
    init_key, rounds_key = jax.random.split(key)

    @partial(jax.jit, static_argnums=4, donate_argnums=1)
    def chunk(
        key: base.Key, state: Any, data: PyTree, first_round: Array, length: int
    ) -> tuple[Any, dict[str, Array], dict[str, Array]]:
        clients, test = data
        state, infos = run_chunk(key, algorithm, state, clients, first_round, length)
        metrics = {} if evaluate is None else evaluate(state.params, test)
        return state, infos, metrics

    if evaluate is not None:
        # In a compiled round no label's value is known any more.
        first = jax.eval_shape(algorithm.init, init_key)
        jax.eval_shape(lambda state: evaluate(state.params, test), first)
    where_data_are = clients.offsets.sharding
    state = jax.jit(algorithm.init, out_shardings=where_data_are)(init_key)
    history: dict[str, list[np.ndarray]] = {}
    done = 0
    for length in lengths:
        state, infos, metrics = chunk(
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
        if on_chunk is not None and on_chunk(done, state, part):
            break
    return state, {name: np.concatenate(parts) for name, parts in history.items()}
