"""Federated averaging: one round of clients training, a private secure sum, a step.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from ppml_lab import base, checks, dp, smpc, trees
from ppml_lab.federated import devices, lanes
from ppml_lab.federated.server import fedopt

WEIGHTINGS = ("examples", "uniform")


class ServerState(NamedTuple):
    """The simulation between rounds.

    Attributes:
      params: The model.
      memory: What the server remembers beside it, such as its optimizer's state.
      mechanism_state: The privacy mechanism's.
      kept: What the clients keep, leaves `[clients, ...]`; no server sees it.
      rounds_done: How many rounds made this state.
    """

    params: PyTree
    memory: PyTree
    mechanism_state: PyTree
    kept: PyTree
    rounds_done: Int[Array, ""]


def averaging(
    task: base.Task,
    trainer: base.ClientTrainer,
    sampler: base.ClientSampler,
    *,
    server: base.Server | None = None,
    mechanism: base.PrivacyMechanism | None = None,
    aggregator: base.SecureAggregator | None = None,
    weighting: str = "uniform",
    dropout_prob: Any = 0.0,
    live_delta: float | None = None,
    num_lanes: int | None = None,
    mesh: Mesh | None = None,
) -> base.FederatedAlgorithm:
    """Rounds of any algorithm that averages: FedAvg and its relatives, with privacy and
    a secure sum where they are wanted.

    A round samples a cohort; each client trains, bounds its update and encodes it; the
    messages of those who do not drop out are summed and the sum decoded, privatized and
    divided; the server makes its next model of the mean. `local_sgd` with the default
    server is FedAvg, `proximal_sgd` FedProx, `scaffold` SCAFFOLD; `fedopt(optimizer)`
    as server gives FedAvgM and the FedOpt family; a trainer of one full-batch step is
    FedSGD.

    **Guarantee:** with a private mechanism the model and the server's memory are, after
    every round, differentially private as `event` says, under the trust that the
    mechanism states. The mean divides by the expected number of reports, which is
    public; nothing is claimed for drop-outs, and a round that nobody reports in, or
    whose secure sum aborts for want of reports, still gets its noise. What clients
    keep, and the scalars that `round` returns beside the state, are for the researcher
    and not private.

    Args:
      task: Gives the initial parameters.
      trainer: What clients do.
      sampler: Who takes part.
      server: What becomes of the mean; FedAvg's, `fedopt(optax.sgd(1.0))`, by default.
      mechanism: `dp.no_privacy()` by default.
      aggregator: `smpc.clear()` by default.
      weighting: "uniform" (each client counts the same, the mean divides by the
        expected number of reports) or "examples" (McMahan's n_k / n among those who
        report).
      dropout_prob: Chance of a participant to drop out before its upload,
        independently. It then contributes nothing and keeps what it kept before.
      live_delta: If given, every round's scalars have the `epsilon` spent so far at
        this delta, computed inside the compiled round (`dp.live`).
      num_lanes: Clients trained at once on a device; chosen by backend
        and model if None.
      mesh: Devices, along an axis "clients", over which a cohort is dealt; one device
        if None.

    Raises:
      ValueError: For a secure sum that can abort with a mechanism whose guarantee the
        abort would break, an unknown weighting, lanes below 1, a drop-out probability
        outside [0, 1), a mesh without that axis, a trainer and a server that do not
        understand each other or change the model's shape, a mechanism that protects
        examples, or weights by examples where they would break the mechanism's
        sensitivity or the server's mean.
    """
    server = fedopt(optax.sgd(1.0)) if server is None else server
    mechanism = dp.no_privacy() if mechanism is None else mechanism
    if live_delta is not None:
        mechanism = dp.live(mechanism, sampler, live_delta)
    aggregator = smpc.clear() if aggregator is None else aggregator
    checks.known("weighting", weighting, WEIGHTINGS)
    _check_parts(server, mechanism, weighting, dropout_prob, mesh)
    _check_abort(sampler, mechanism, aggregator)
    update = _update_shapes(task, trainer, server)
    message = jax.eval_shape(
        lambda key, update: mechanism.clip(key, mechanism.init(), update),
        jax.random.key(0),
        update,
    )
    dimension = _dimension(message)
    num_lanes = lanes.default_num_lanes(dimension) if num_lanes is None else num_lanes
    checks.at_least("num_lanes", num_lanes, 1)
    expected_reports = sampler.expected_cohort * (1.0 - dropout_prob)
    private = mechanism.privacy_unit is not None

    def init(key: base.Key) -> ServerState:
        params = task.init(key)
        kept = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (sampler.population, *leaf.shape)),
            trainer.keep(params),
        )
        return ServerState(
            params, server.init(params), mechanism.init(), kept, jnp.int32(0)
        )

    def reporters(key: base.Key, cohort: base.Cohort) -> base.Cohort:
        if not checks.is_traced(dropout_prob) and dropout_prob == 0:
            return cohort
        stays = jax.random.bernoulli(key, 1.0 - dropout_prob, cohort.weights.shape)
        return cohort._replace(weights=jnp.where(stays, cohort.weights, 0.0))

    def one_round(
        key: base.Key, state: ServerState, clients: base.Clients
    ) -> tuple[ServerState, dict[str, Array]]:
        _check_population(sampler, state, clients)
        keys = jax.random.split(key, 5)
        sample_key, dropout_key, train_key, noise_key, session_key = keys
        cohort = sampler.sample(sample_key)
        reporting = reporters(dropout_key, cohort)
        session = aggregator.begin(
            session_key, cohort.weights > 0, reporting.weights > 0
        )
        summed, kept = lanes.train_cohort(
            train_key,
            trainer,
            server.send(state.params, state.memory),
            state.kept,
            clients,
            reporting,
            _report(
                mechanism,
                state.mechanism_state,
                aggregator,
                session,
                weighting,
                clients,
            ),
            functools.partial(_fold, aggregator),
            num_lanes,
            mesh,
        )
        decoded, completed = aggregator.decode(session, summed["message"])
        bound = mechanism.norm_bound(state.mechanism_state)
        total, mechanism_state = mechanism.privatize(
            noise_key,
            state.mechanism_state,
            decoded,
            aggregator.sensitivity(bound, dimension),
        )
        total = aggregator.wrap(total)
        reports = jnp.where(completed, summed["num_reports"], 0.0)
        denominator, counted = expected_reports, expected_reports
        if weighting == "examples":
            denominator = jnp.maximum(summed["weight"], jnp.finfo(jnp.float32).tiny)
            counted = reports
        mean = jax.tree.map(lambda leaf: leaf / denominator, total)
        params, memory = server.step(
            state.params, state.memory, mean, counted / sampler.population
        )
        if not private:
            # Without noise to hide it, a round that nobody reports in did not happen.
            params, memory = trees.where(
                reports > 0, (params, memory), (state.params, state.memory)
            )
        next_state = ServerState(
            params, memory, mechanism_state, kept, state.rounds_done + 1
        )
        trained = jnp.maximum(summed["num_reports"], 1)
        info = jax.tree.map(lambda s: s / trained, summed["scalars"])
        info |= {
            "cohort_size": jnp.sum(cohort.weights > 0, dtype=jnp.float32),
            "num_reports": reports,
        }
        return next_state, info | mechanism.report(mechanism_state)

    def event(num_rounds: int) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        if private:
            return mechanism.event(sampler, num_rounds)
        single = trainer.event()
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
    session: PyTree,
    weighting: str,
    clients: base.Clients,
) -> lanes.Report:
    """What a client that has trained contributes to the round's sums."""
    sizes = clients.offsets[1:] - clients.offsets[:-1]
    # Weights of at most 1 keep coordinates inside the secure sum's bound.
    unit = jnp.max(sizes).astype(jnp.float32)

    def report(
        key: base.Key, place: Array, size: Array, update: PyTree, info: dict[str, Array]
    ) -> dict[str, Any]:
        clip_key, encode_key = jax.random.split(key)
        weight = jnp.float32(1)
        if weighting == "examples":
            weight = size.astype(jnp.float32) / unit
            update = jax.tree.map(lambda leaf: leaf * weight, update)
        scalars = dict(info)
        if mechanism.privacy_unit is not None:
            # What clipping computes anyway; for others it is one more pass.
            scalars["update_norm"] = optax.tree.norm(update)
        bounded = mechanism.clip(clip_key, mechanism_state, update)
        return {
            "message": aggregator.encode(encode_key, session, place, bounded),
            "weight": weight,
            "num_reports": jnp.float32(1),
            "scalars": jax.tree.map(jnp.float32, scalars),
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


def _check_parts(
    server: base.Server,
    mechanism: base.PrivacyMechanism,
    weighting: str,
    dropout_prob: Any,
    mesh: Mesh | None,
) -> None:
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
    if server.weighting not in (None, weighting):
        raise ValueError(
            f"this server's step is right only for the '{server.weighting}' mean, got "
            f"weighting '{weighting}'; use weighting='{server.weighting}'"
        )
    if not checks.is_traced(dropout_prob) and not 0 <= dropout_prob < 1:
        raise ValueError(f"dropout_prob must lie in [0, 1), got {dropout_prob}")
    devices.check_mesh(mesh)


def _check_abort(
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
) -> None:
    is_central = mechanism.noise_multiplier is not None
    if (
        aggregator.can_abort
        and is_central
        and sampler.neighboring_relation == "add_or_remove_one"
    ):
        raise ValueError(
            "this secure sum can abort for want of reports, so that adding one client "
            "may change all of it, which the mechanism's noise does not hide; use a "
            "sampler with replace_one neighbours, such as federated.fixed_size"
        )


def _update_shapes(
    task: base.Task, trainer: base.ClientTrainer, server: base.Server
) -> PyTree:
    """The shapes of an update, once trainer and server are known to fit together."""

    def conversation(key: base.Key) -> tuple[PyTree, ...]:
        params = task.init(key)
        memory, kept = server.init(params), trainer.keep(params)
        sent = server.send(params, memory)
        update, keeps, _ = trainer.finish(sent, trainer.init(key, sent, kept))
        after = server.step(params, memory, update, 1.0)
        return (params, memory), after, kept, keeps, update

    try:
        shapes = jax.eval_shape(conversation, jax.random.key(0))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"the trainer and the server do not fit together: {error}; take both from "
            "one algorithm, such as scaffold(...)"
        ) from error
    before, after, kept, keeps, update = shapes
    trees.check_same_shapes("the server's step changes (params, memory)", before, after)
    trees.check_same_shapes("the trainer's finish changes what is kept", kept, keeps)
    return update


def _dimension(shapes: PyTree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def _check_population(
    sampler: base.ClientSampler, state: ServerState, clients: base.Clients
) -> None:
    num_clients = clients.offsets.shape[0] - 1
    if sampler.population != num_clients:
        raise ValueError(
            f"the sampler draws from {sampler.population} clients, the data set has "
            f"{num_clients}; build the sampler for {num_clients}"
        )
    for leaf in jax.tree.leaves(state.kept):
        if leaf.shape[0] != num_clients:
            raise ValueError(
                f"the state keeps something for {leaf.shape[0]} clients, the data set "
                f"has {num_clients}; start from this population's own init"
            )
