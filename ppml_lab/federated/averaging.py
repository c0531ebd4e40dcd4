"""Federated averaging: one round of clients training, a private secure sum, a step.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, dp, guards, shown, smpc, trees
from ppml_lab.dp import own_noise
from ppml_lab.federated import (
    compatible,
    contributions,
    devices,
    known,
    lanes,
    reports,
    roles,
    sparse,
)
from ppml_lab.federated.server import fedopt

WEIGHTINGS = ("examples", "realised", "uniform")


class ServerState(NamedTuple):
    """The state of a simulation between rounds.

    Attributes:
      params: The model.
      memory: The server's memory beside the model, such as its optimizer's state.
      mechanism_state: The privacy mechanism's state.
      sampler_state: The sampler's state.
      kept: What the clients keep, leaves `[clients, ...]`; no server sees it.
      rounds_done: Number of rounds that led to this state.
    """

    params: PyTree
    memory: PyTree
    mechanism_state: PyTree
    sampler_state: PyTree
    kept: PyTree
    rounds_done: Int[Array, ""]

    def __repr__(self) -> str:
        return shown.state(self)


STATE = guards.one_of(ServerState, "the algorithm's `init` makes the first")
"""The guard of an algorithm's state."""


@arguments.checked
@guards.returned(state=STATE)
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
    """Federated averaging: FedAvg and its relatives, optionally with a privacy
    mechanism and secure aggregation.

    A round samples a cohort; each client trains, bounds its update and encodes it. The
    messages of clients that do not drop out are summed; the sum is decoded, privatized
    and divided; the server steps from the mean to its next model. `local_sgd` with the
    default server is FedAvg, `proximal_sgd` FedProx, `scaffold` SCAFFOLD;
    `fedopt(optimizer)` as server gives FedAvgM and the FedOpt family; a trainer of one
    full-batch step is FedSGD. With `example_gradients` clients bound their people's
    gradients, and the sum is noised once, as in central DP-SGD. Some trainers wrap
    others: `top_k` sends few coordinates, in `sign_flipping` some clients lie. Rules
    such as `coordinate_median` replace the mean.

    A round's scalars are `cohort_size`, `num_reports` and means of the trainers'
    scalars over the clients that report, without clients that have no examples, whose
    update is zero. A mechanism that protects clients adds `update_norm`, the L2 norm
    before clipping, and `clipped_share`, the share of updates that were scaled down or
    not finite; every mechanism adds its own report.

    **Guarantee:** with a private mechanism the model and the server's memory are, after
    every round, differentially private as `event` says, under the trust that the
    mechanism states. The mean divides by the expected number of reports, which is
    public. Nothing is claimed for drop-outs. A round without reports, or whose secure
    sum aborts because there are too few, still gets its noise. Leaves that the task
    keeps (`models.personal`) are never clipped, noised, sent or summed: a client is
    protected against all others, who never see its kept leaves, and not against anyone
    who does see them. What clients keep, and the scalars that `round` returns beside
    the state, are for the researcher and not private.

    Args:
      task: Gives the initial parameters.
      trainer: How clients train.
      sampler: Draws the participants.
      server: Steps along the mean; FedAvg's server, `fedopt(optax.sgd(1.0))`, by
        default.
      mechanism: The privacy mechanism, `dp.no_privacy()` by default.
      aggregator: The (secure) aggregation, `smpc.clear()` by default. Its bound comes
        from the mechanism and its size from the sampler. An aggregator that ends in an
        estimate takes no central noise; an aggregator that needs each message cannot
        hide messages.
      weighting: "uniform" (clients count equally, the mean divides by the expected
        number of reports, which is public), "realised" (clients count equally, the mean
        divides by the number of reports) or "examples" (McMahan's n_k / n among the
        clients that report; weights are relative to the largest). Only "uniform" goes
        with a private mechanism. An estimate, such as `coordinate_median`, is over the
        clients that report and is not divided; it does not go with "examples".
      dropout_prob: Chance that a participant drops out before its upload, independently
        of others. It then contributes nothing and keeps what it kept before.
      live_delta: If given, every round's scalars have the `epsilon` spent so far at
        this delta, computed inside the compiled round (`dp.live`).
      num_lanes: Clients trained at once on a device; chosen by backend and model if
        None.
      mesh: Devices, along an axis "clients", that share a cohort; one device if None.

    Raises:
      ValueError: For a secure sum that can abort with a mechanism whose guarantee the
        abort would break, that most rounds would abort, or whose size or bound does not
        fit the cohort or the mechanism; an unknown weighting; lanes below 1; a dropout
        probability outside [0, 1); a mesh without that axis; a trainer and a server
        that do not fit together or change the model's shape; a mechanism that does not
        account for the sampler's cohorts or protects another unit than the trainer's
        contributions; or weights that would break the mechanism's sensitivity or the
        server's mean.
    """
    server = fedopt(optax.sgd(1.0)) if server is None else server
    mechanism = dp.no_privacy() if mechanism is None else mechanism
    whose = contributions.of_trainer(trainer, sampler)
    if live_delta is not None:
        checks.probability("live_delta", live_delta, allow_one=False)
        mechanism = dp.live(mechanism, whose.sampler, live_delta)
    aggregator = smpc.clear() if aggregator is None else aggregator
    checks.known("weighting", weighting, WEIGHTINGS)
    compatible.check(
        sampler, server, mechanism, aggregator, weighting, dropout_prob, whose
    )
    devices.check_mesh(mesh)
    shapes = compatible.shapes(
        task, trainer, server, sampler, mechanism, aggregator, whose
    )
    few = compatible.most_sent(trainer, mechanism, shapes)
    if few is not None:
        aggregator = sparse.sending_few(aggregator, few)
    num_lanes = (
        lanes.default_num_lanes(shapes.dimension) if num_lanes is None else num_lanes
    )
    checks.at_least("num_lanes", num_lanes, 1)
    stay = 1.0 - dropout_prob
    expected_reports = sampler.expected_cohort * stay
    private = mechanism.privacy_unit is not None

    @arguments.checked
    def init(key: base.Key) -> ServerState:
        state = start(key, task, sampler, mechanism, server.init, shapes.update)
        kept = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (sampler.population, *leaf.shape)),
            trainer.keep(state.params),
        )
        return state._replace(kept=kept)

    def reporters(key: base.Key, cohort: base.Cohort) -> base.Cohort:
        if not checks.is_traced(dropout_prob) and dropout_prob == 0:
            return cohort
        stays = jax.random.bernoulli(key, 1.0 - dropout_prob, cohort.weights.shape)
        return cohort._replace(weights=jnp.where(stays, cohort.weights, 0.0))

    @arguments.checked
    def one_round(
        key: base.Key, state: ServerState, clients: base.Clients
    ) -> tuple[ServerState, dict[str, Array]]:
        compatible.check_population(sampler, state.kept, clients)
        keys = jax.random.split(key, 5)
        sample_key, dropout_key, train_key, noise_key, session_key = keys
        cohort, sampler_state = sampler.sample(sample_key, state.sampler_state)
        reporting = reporters(dropout_key, cohort)
        session = aggregator.begin(
            session_key,
            cohort.weights > 0,
            reporting.weights > 0,
            contributions.message_bound(whose, mechanism, state.mechanism_state),
        )
        report = reports.report(
            whose,
            mechanism,
            state.mechanism_state,
            aggregator,
            session,
            reports.weights(weighting, clients, reporting),
        )
        summed, kept = lanes.train_cohort(
            train_key,
            whose.bounded(mechanism, state.mechanism_state),
            server.send(state.params, state.memory),
            state.kept,
            clients,
            reporting,
            state.rounds_done,
            report,
            reports.fold(aggregator),
            num_lanes,
            mesh,
        )
        value, num_reports, _ = aggregator.finish(session, summed["message"])
        total, mechanism_state = mechanism.privatize(
            noise_key,
            state.mechanism_state,
            value,
            contributions.sensitivity(
                whose,
                mechanism,
                state.mechanism_state,
                aggregator,
                session,
                shapes.dimension,
            ),
        )
        total = aggregator.wrap(session, total)
        # An estimate is of the mean over reporting clients, whatever number is
        # expected.
        how = "estimate" if aggregator.ends_in == "estimate" else weighting
        counted = expected_reports if how == "uniform" else num_reports
        denominator = {
            "uniform": whose.sampler.expected_cohort * stay,
            "examples": jnp.maximum(summed["weight"], jnp.finfo(jnp.float32).tiny),
            "realised": jnp.maximum(num_reports, 1.0),
            "estimate": 1.0,
        }[how]
        mean = jax.tree.map(lambda leaf: leaf / denominator, total)
        # Secure sums are float32, whatever the model.
        mean = trees.cast_like(mean, shapes.update)
        learnt = roles.trainable(task, state.params)
        # Models in short floats step in float32 and are rounded once.
        stepped, memory = server.step(
            trees.widened(learnt), state.memory, mean, counted / sampler.population
        )
        params = roles.merged(trees.cast_like(stepped, learnt), state.params)
        if not private:
            # Without noise to hide it, a round without reports changes nothing.
            params, memory = trees.where(
                num_reports > 0, (params, memory), (state.params, state.memory)
            )
        next_state = ServerState(
            params,
            memory,
            mechanism_state,
            sampler_state,
            kept,
            state.rounds_done + 1,
        )
        # NaN, not 0, where nobody trained: 0 would be the best loss of a run.
        info = jax.tree.map(lambda s: s / summed["weight"], summed["scalars"])
        info |= {
            "cohort_size": jnp.sum(cohort.weights > 0, dtype=jnp.float32),
            "num_reports": num_reports,
        }
        return next_state, info | mechanism.report(mechanism_state)

    @arguments.checked
    def event(num_rounds: int) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        checks.at_least("num_rounds", num_rounds, 1)
        own = trainer.event()
        if own.privacy_unit is not None:
            spent = own_noise.over_rounds(own.event, sampler, num_rounds)
            own = own._replace(event=spent)
        if not private:
            return own
        sums = None if aggregator.sums is None else aggregator.sums(shapes.dimension)
        promised = mechanism.event(whose.sampler, num_rounds, sums)
        # The clients' own protection of examples holds beside the mechanism's.
        beside = () if own.privacy_unit is None else (own,)
        return promised._replace(
            event=events.on_coordinates(promised.event, shapes.dimension),
            beside=(*promised.beside, *beside),
        )

    @arguments.checked
    def check(clients: base.Clients) -> None:
        compatible.check_clients(sampler, trainer, clients)
        whose.check(clients)
        known.check_clients(task, clients)

    return base.FederatedAlgorithm(
        init=init,
        round=one_round,
        event=event,
        cost=lambda: aggregator.cost(shapes.dimension),
        check=check,
        expected_cohort=sampler.expected_cohort,
        dropout_prob=dropout_prob,
        trust=mechanism.trust,
    )


def start(
    key: base.Key,
    task: base.Task,
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    remember: Callable[[PyTree], PyTree],
    update: PyTree = None,
) -> ServerState:
    """The state before round 0, without what clients keep.

    Args:
      key: Initialises the model, the mechanism and the sampler.
      task: What is learnt.
      sampler: Draws the participants.
      mechanism: The privacy mechanism.
      remember: `(trainable part of the model)`: the server's memory.
      update: The shapes of what is clipped; those of the trainable part if None.
    """
    mechanism_key, sampler_key = (jax.random.fold_in(key, n) for n in (1, 2))
    params = task.init(key)
    learnt = roles.trainable(task, params)
    like = learnt
    if update is not None:
        like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), update)
    return ServerState(
        params,
        remember(trees.widened(learnt)),
        mechanism.init(mechanism_key, like),
        sampler.init(sampler_key),
        (),
        jnp.int32(0),
    )
