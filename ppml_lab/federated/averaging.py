"""Federated averaging: one round of clients training, a private secure sum, a step.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017 (FedAvg, FedSGD); Reddi et al., "Adaptive Federated Optimization",
ICLR 2021 (FedOpt: any server optimizer).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import base, checks, dp, smpc
from ppml_lab.federated import lanes

WEIGHTINGS = ("examples", "uniform")


class ServerState(NamedTuple):
    """The server between rounds.

    Attributes:
      params: The model.
      opt_state: The server optimizer's state.
      mechanism_state: The privacy mechanism's.
      rounds_done: How many rounds made this state.
    """

    params: PyTree
    opt_state: PyTree
    mechanism_state: PyTree
    rounds_done: Int[Array, ""]


def averaging(
    task: base.Task,
    trainer: base.ClientTrainer,
    sampler: base.ClientSampler,
    *,
    mechanism: base.PrivacyMechanism | None = None,
    aggregator: base.SecureAggregator | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    weighting: str = "uniform",
    num_lanes: int | None = None,
) -> base.FederatedAlgorithm:
    """FedAvg and its relatives, with privacy and a secure sum where they are wanted.

    A round samples a cohort; each client trains, bounds its update and encodes it; the
    messages are summed and the sum decoded, privatized and divided; the server
    optimizer takes the mean update for a descent direction. The default server
    optimizer, `optax.sgd(1.0)`, is FedAvg; with momentum it is FedAvgM, and
    `optax.adam`, `yogi`, `adagrad` give FedAdam, FedYogi, FedAdagrad. A trainer of one
    full-batch step is FedSGD.

    **Guarantee:** with a private mechanism the server's state after every round is
    differentially private as `event` says, under the trust that the mechanism states.
    The mean divides by the sampler's expected cohort, which is public. The scalars that
    `round` returns beside the state are for the researcher and not private.

    Args:
      task: Gives the initial parameters.
      trainer: What clients do.
      sampler: Who takes part.
      mechanism: `dp.no_privacy()` by default.
      aggregator: `smpc.clear()` by default.
      server_optimizer: Any optax transformation, `optax.sgd(1.0)` by default.
      weighting: "uniform" (each client counts the same, the mean divides by the
        expected cohort) or "examples" (McMahan's n_k / n among those taking part).
      num_lanes: Clients trained at once; chosen by backend if None.

    Raises:
      ValueError: For an unknown weighting, lanes below 1, a mechanism that protects
        examples, or weights by examples with a private mechanism, whose sensitivity
        they would change.
    """
    mechanism = dp.no_privacy() if mechanism is None else mechanism
    aggregator = smpc.clear() if aggregator is None else aggregator
    server_optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    num_lanes = lanes.default_num_lanes() if num_lanes is None else num_lanes
    checks.at_least("num_lanes", num_lanes, 1)
    checks.known("weighting", weighting, WEIGHTINGS)
    _check_mechanism(mechanism, weighting)
    dimension = _dimension(task)

    def init(key: base.Key) -> ServerState:
        params = task.init(key)
        return ServerState(
            params, server_optimizer.init(params), mechanism.init(), jnp.int32(0)
        )

    def one_round(
        key: base.Key, state: ServerState, clients: base.Clients
    ) -> tuple[ServerState, dict[str, Array]]:
        _check_population(sampler, clients)
        sample_key, train_key, noise_key = jax.random.split(key, 3)
        summed = lanes.train_cohort(
            train_key,
            trainer,
            state.params,
            clients,
            sampler.sample(sample_key),
            _report(mechanism, state.mechanism_state, aggregator, weighting, clients),
            functools.partial(_fold, aggregator),
            num_lanes,
        )
        bound = mechanism.norm_bound(state.mechanism_state)
        total, mechanism_state = mechanism.privatize(
            noise_key,
            state.mechanism_state,
            aggregator.decode(summed["message"]),
            aggregator.sensitivity(bound, dimension),
        )
        denominator = sampler.expected_cohort
        if weighting == "examples":
            # An empty cohort leaves the model as it was.
            denominator = jnp.maximum(summed["weight"], jnp.finfo(jnp.float32).tiny)
        direction = jax.tree.map(lambda leaf: -leaf / denominator, total)
        changes, opt_state = server_optimizer.update(
            direction, state.opt_state, state.params
        )
        next_state = ServerState(
            optax.apply_updates(state.params, changes),
            opt_state,
            mechanism_state,
            state.rounds_done + 1,
        )
        present = summed["cohort_size"]
        info = jax.tree.map(lambda s: s / jnp.maximum(present, 1), summed["scalars"])
        return next_state, info | {"cohort_size": present}

    def event(num_rounds: int) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        private = mechanism.privacy_unit is not None
        single = mechanism.event(sampler) if private else trainer.event()
        return single._replace(event=events.compose(single.event, num_rounds))

    return base.FederatedAlgorithm(
        init=init,
        round=one_round,
        event=event,
        cost=lambda: aggregator.cost(dimension),
    )


def _report(
    mechanism: base.PrivacyMechanism,
    mechanism_state: PyTree,
    aggregator: base.SecureAggregator,
    weighting: str,
    clients: base.Clients,
) -> lanes.Report:
    """What a client that has trained contributes to the round's sums."""
    sizes = clients.offsets[1:] - clients.offsets[:-1]
    # Weights of at most 1 keep coordinates inside the secure sum's bound.
    unit = jnp.max(sizes).astype(jnp.float32)

    def report(
        key: base.Key,
        client: Array,
        size: Array,
        update: PyTree,
        info: dict[str, Array],
    ) -> dict[str, Any]:
        del client
        clip_key, encode_key = jax.random.split(key)
        weight = jnp.float32(1)
        if weighting == "examples":
            weight = size.astype(jnp.float32) / unit
            update = jax.tree.map(lambda leaf: leaf * weight, update)
        scalars = info | {"update_norm": optax.tree.norm(update)}
        bounded = mechanism.clip(clip_key, mechanism_state, update)
        return {
            "message": aggregator.encode(encode_key, bounded),
            "weight": weight,
            "cohort_size": jnp.float32(1),
            "scalars": scalars,
        }

    return report


def _fold(
    aggregator: base.SecureAggregator, total: dict[str, Any], reports: dict[str, Any]
) -> dict[str, Any]:
    plain = {name: total[name] for name in total if name != "message"}
    added = jax.tree.map(
        lambda t, r: t + jnp.sum(r, axis=0),
        plain,
        {name: reports[name] for name in plain},
    )
    return added | {
        "message": aggregator.aggregate(total["message"], reports["message"])
    }


def _check_mechanism(mechanism: base.PrivacyMechanism, weighting: str) -> None:
    if mechanism.privacy_unit == "example":
        raise ValueError(
            "averaging clips whole updates, which protects clients, not 'example'; "
            'build the mechanism with privacy_unit="client"'
        )
    if mechanism.privacy_unit is not None and weighting != "uniform":
        raise ValueError(
            f"weighting '{weighting}' would change a private mechanism's sensitivity; "
            "use weighting='uniform'"
        )


def _dimension(task: base.Task) -> int:
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def _check_population(sampler: base.ClientSampler, clients: base.Clients) -> None:
    num_clients = clients.offsets.shape[0] - 1
    if sampler.population != num_clients:
        raise ValueError(
            f"the sampler draws from {sampler.population} clients, the data set has "
            f"{num_clients}; build the sampler for {num_clients}"
        )
