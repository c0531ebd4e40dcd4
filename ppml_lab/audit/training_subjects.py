"""Whole training algorithms as subjects of the mechanism contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, dp, federated, smpc
from ppml_lab.audit import canaries, worlds
from ppml_lab.audit.subjects import (
    Present,
    Release,
    Rows,
    Subject,
    bound_moved,
    check_central,
    first_clip_norm,
    first_state,
    stated_noise,
    stated_sampling,
)
from ppml_lab.smpc import private


def of_algorithm(
    make: Callable[[base.Task, base.ClientSampler], base.FederatedAlgorithm],
    mechanism: base.PrivacyMechanism,
    sampler: base.ClientSampler,
    num_rounds: int,
    *,
    aggregator: base.SecureAggregator | None = None,
    also_seen: Callable[[Any], Array] = lambda state: jnp.zeros(0),
) -> Subject:
    """A whole training algorithm, seen through the model after every round.

    It learns a linear loss, whose gradient at an example is the example: with one
    example per client, one local step and rates of 1, a round moves the model by minus
    the noisy mean of the rows.

    Args:
      make: Builds the algorithm from the audit's task and sampler, with rates of 1.
      mechanism: The one that it was built with: what is claimed of norms and noise.
      sampler: Of `worlds.NUM_ROWS` rows.
      num_rounds: Of a run; a round must make one release.
      aggregator: The secure sum that it was built with, `smpc.clear()` by default.
      also_seen: From the state after a round to what the server knows beside the model.

    Raises:
      ValueError: If it promises nothing, or for another population.
    """
    check_central(mechanism, sampler, num_rounds)
    aggregator = smpc.clear() if aggregator is None else aggregator
    task = linear_task()
    built = make(task, sampler)
    dimension = _message_size(mechanism)

    def run(key: base.Key, rows: Rows, present: Present) -> Release:
        algorithm = make(task, canaries.only(sampler, present))
        clients = base.Clients(
            worlds.as_tree(rows), jnp.arange(worlds.NUM_ROWS + 1, dtype=jnp.int32)
        )
        init_key, rounds_key = jax.random.split(key)

        def one_round(state: Any, number: Array) -> tuple[Any, Release]:
            own = jax.random.fold_in(rounds_key, number)
            after, _ = algorithm.round(own, state, clients)
            bound = mechanism.norm_bound(state.mechanism_state)
            session = _session(aggregator, sampler)
            sensitivity = aggregator.sensitivity(session, bound, dimension)
            scale = sampler.expected_cohort / sensitivity
            values = _model_change(state, after) * scale
            extras = bound_moved(
                mechanism, state.mechanism_state, after.mechanism_state
            )
            return after, Release(values, values[:0], extras)

        _, release = jax.lax.scan(
            one_round, algorithm.init(init_key), jnp.arange(num_rounds)
        )
        return release

    return Subject(
        run,
        built.event(num_rounds),
        first_clip_norm(mechanism),
        stated_noise(mechanism, num_rounds),
        **stated_sampling(sampler),
    )


def linear_task() -> base.Task:
    """Loss: the inner product of example and parameters, which start at zero."""

    def loss(key: base.Key, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        del key
        return worlds.as_rows(examples) @ worlds.as_rows(params)

    return base.Task(
        lambda key: worlds.as_tree(jnp.zeros(worlds.DIMENSION)),
        loss,
        lambda params, examples: {"loss": loss(jax.random.key(0), params, examples)},
    )


def of_trainer(
    make: Callable[[base.Task], base.ClientTrainer],
    mechanism: base.PrivacyMechanism,
    sampling_prob: float,
    num_rounds: int,
) -> Subject:
    """A client's own DP-SGD on its examples, seen through what it sends every round.

    The client has the present rows as examples and takes one local step per round; its
    number of examples is public, as `federated.local_dp_sgd` states.

    Args:
      make: Builds the trainer from the audit's task, with a rate of 1, one step and
        room for `worlds.NUM_ROWS` examples.
      mechanism: The one that it was built with.
      sampling_prob: Of the client's examples.
      num_rounds: Of a run.
    """
    task = linear_task()
    trainer = make(task)
    algorithm = federated.averaging(task, trainer, federated.everyone(1))
    bound = first_clip_norm(mechanism)

    def run(key: base.Key, rows: Rows, present: Present) -> Release:
        # A client's examples come without gaps, the canary, so that the others keep
        # their places, last; a client that has none keeps a zero.
        size = jnp.maximum(jnp.sum(present, dtype=jnp.int32), 1)
        examples = worlds.as_tree(rows[::-1][jnp.argsort(~present[::-1])])
        clients = base.Clients(examples, jnp.stack([jnp.int32(0), size]))
        scale = sampling_prob * size.astype(jnp.float32) / bound
        init_key, rounds_key = jax.random.split(key)

        def one_round(state: Any, number: Array) -> tuple[Any, Release]:
            own = jax.random.fold_in(rounds_key, number)
            after, _ = algorithm.round(own, state, clients)
            values = _model_change(state, after) * scale
            return after, Release(values, values[:0], values[:0])

        _, release = jax.lax.scan(
            one_round, algorithm.init(init_key), jnp.arange(num_rounds)
        )
        return release

    return Subject(
        run,
        algorithm.event(num_rounds),
        bound,
        stated_noise(mechanism, num_rounds),
        sampling_prob=sampling_prob,
    )


def of_shared_training(
    protocol: private.Protocol,
    clip_norm: float,
    noise_multiplier: float,
    num_steps: int,
) -> Subject:
    """Training on shares with the parties' own noise, seen through the opened model.

    The sum of the rows, which their owner clips, is the gradient; only the parameters
    after `num_steps` steps are opened. All of `num_steps` releases are in the claim, so
    that with more than one it claims more than the adversary sees.

    Args:
      protocol: How the parties compute.
      clip_norm: To which rows are clipped before they are shared.
      noise_multiplier: Over it, of one honest party's noise.
      num_steps: Steps of training.
    """
    training = federated.training_on_shares(
        protocol,
        lambda params, examples: worlds.as_tree(jnp.sum(examples, axis=0)),
        lambda parts: parts["owner"],
        num_steps=num_steps,
        learning_rate=worlds.NUM_ROWS,
        num_examples=worlds.NUM_ROWS,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        num_honest=protocol.scheme.num_parties,
        dimension=worlds.DIMENSION,
    )

    def run(key: base.Key, rows: Rows, present: Present) -> Release:
        clipped, _ = jax.vmap(dp.clip_by_global_norm, (0, None))(rows, clip_norm)
        heard = jnp.where(present[:, None], clipped, 0.0)
        start = worlds.as_tree(jnp.zeros(worlds.DIMENSION))
        params = training.train(key, start, {"owner": heard})
        # Sensitivity has two steps of rounding for each coordinate.
        steps = 2 * np.sqrt(worlds.DIMENSION) / 2.0**protocol.fraction_bits
        values = worlds.as_rows(params)[None] / (clip_norm + steps)
        return Release(values, values[:, :0], values[:, :0])

    return Subject(run, training.privacy_event, clip_norm, None)


def _model_change(before: Any, after: Any) -> Float[Array, " dimension"]:
    return worlds.as_rows(after.params) - worlds.as_rows(before.params)


def _session(aggregator: base.SecureAggregator, sampler: base.ClientSampler) -> PyTree:
    """Of a round in which all are invited and report."""
    everyone = jnp.ones(sampler.max_cohort, bool)
    return aggregator.begin(jax.random.key(0), everyone, everyone, jnp.inf)


def _message_size(mechanism: base.PrivacyMechanism) -> int:
    """Coordinates of what a client sends under this mechanism."""
    row = worlds.as_tree(jnp.zeros(worlds.DIMENSION))
    message = jax.eval_shape(
        lambda key: mechanism.clip(key, first_state(mechanism), row), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(message))
