"""Pieces of runs as pure functions, ready to be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, checks, federated
from ppml_lab.federated.simulate import run_chunk
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build, make_task
from ppml_lab.lab.identity import keys_of
from ppml_lab.lab.loading import DataFacts
from ppml_lab.lab.sharding import lab_mesh, over_points


def mapped_init(config: Config, facts: DataFacts) -> Callable[..., PyTree]:
    """`(hyperparams, seeds) -> states`, stacked over points."""

    def one(point: tuple[Hyperparams, PyTree]) -> PyTree:
        hyperparams, seed = point
        init_key, _ = keys_of(config, hyperparams, facts, seed)
        return build(config, hyperparams, facts).init(init_key)

    def init(hyperparams: Hyperparams, seeds: Array) -> PyTree:
        return jax.lax.map(one, (hyperparams, seeds))

    return over_points(init, 2, lab_mesh(config.num_devices))


class Chunk(NamedTuple):
    """A piece of a run between two visits to the host: `num_evals` times `num_rounds`
    rounds and an evaluation.
    """

    num_evals: int
    num_rounds: int


def chunks_of(config: Config) -> list[Chunk]:
    """How a run is cut: full chunks, the evaluations left over, the rounds left over.

    Raises:
      ValueError: For counts below 1.
    """
    checks.at_least("num_rounds", config.num_rounds, 1)
    checks.at_least("eval_every", config.eval_every, 1)
    checks.at_least("evals_per_chunk", config.evals_per_chunk, 1)
    evals, rounds_left = divmod(config.num_rounds, config.eval_every)
    full, evals_left = divmod(evals, config.evals_per_chunk)
    chunks = [Chunk(config.evals_per_chunk, config.eval_every)] * full
    if evals_left:
        chunks.append(Chunk(evals_left, config.eval_every))
    return chunks + [Chunk(1, rounds_left)] * (rounds_left > 0)


def mapped_chunk(
    config: Config, facts: DataFacts, chunk: Chunk, width: int
) -> Callable[..., tuple[PyTree, PyTree, PyTree]]:
    """A chunk of a whole slice as one pure function.

    Returns:
      `(hyperparams, seeds, states, clients, test, first_round) -> (states, the rounds'
      scalars [points, rounds], metrics [points, evaluations])`; hyperparameters, seeds
      and states are stacked over the slice's points.
    """
    mesh = lab_mesh(config.num_devices)
    task = make_task(config, facts)
    evaluate_test = federated.evaluator(task, mesh=mesh)
    evaluate_clients = federated.client_evaluator(task, mesh=mesh)

    def evaluate(params: PyTree, clients: base.Clients, test: PyTree) -> dict[str, Any]:
        metrics = evaluate_test(params, test)
        if config.evaluate_clients:
            of_clients = evaluate_clients(params, clients)
            metrics |= federated.client_spread(of_clients, clients)
        return metrics

    def run_chunks(
        hyperparams: Hyperparams,
        seeds: Array,
        states: PyTree,
        clients: base.Clients,
        test: PyTree,
        first_round: Any,
    ) -> tuple[PyTree, PyTree, PyTree]:
        def one(point: tuple[Hyperparams, PyTree, PyTree]) -> tuple[PyTree, ...]:
            hyper, seed, state = point
            _, key = keys_of(config, hyper, facts, seed)
            algorithm = build(config, hyper, facts)

            def rounds(state: Any, begin: Any) -> tuple[Any, tuple[PyTree, PyTree]]:
                state, infos = run_chunk(
                    key, algorithm, state, clients, begin, chunk.num_rounds
                )
                return state, (infos, evaluate(state.params, clients, test))

            begins = first_round + chunk.num_rounds * jnp.arange(chunk.num_evals)
            state, (infos, metrics) = jax.lax.scan(rounds, state, begins)
            return state, jax.tree.map(lambda leaf: leaf.reshape(-1), infos), metrics

        # A map of width 1 needs no vmap, which would turn conds into selects.
        batch_size = None if width == 1 else width
        return jax.lax.map(one, (hyperparams, seeds, states), batch_size=batch_size)

    return over_points(run_chunks, 3, mesh)
