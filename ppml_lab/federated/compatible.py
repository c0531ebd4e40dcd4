"""Whether the parts of `averaging` go together, told in words before anything runs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ppml_lab import base, checks, trees
from ppml_lab.data import storage
from ppml_lab.federated import roles

_TRIED = 200
"""Rounds that are drawn to see how many abort."""


class Shapes(NamedTuple):
    """What clients send.

    Attributes:
      update: The shapes of an update's sum, whatever the messages are: floats of at
        least 32 bits.
      dimension: How many coordinates a message has before it is encoded.
    """

    update: PyTree
    dimension: int


def check(
    sampler: base.ClientSampler,
    server: base.Server,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
    weighting: str,
    dropout_prob: Any,
) -> None:
    """Raises ValueError unless these can be combined; see `averaging`."""
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
    # Both count every client the same.
    fitting = (None, weighting, "uniform" if weighting == "realised" else weighting)
    if server.weighting not in fitting:
        raise ValueError(
            f"this server's step is right only for the '{server.weighting}' mean, got "
            f"weighting '{weighting}'; use weighting='{server.weighting}'"
        )
    checks.non_negative("dropout_prob", dropout_prob)
    if not checks.is_traced(dropout_prob) and not dropout_prob < 1:
        raise ValueError(f"dropout_prob must lie in [0, 1), got {dropout_prob}")
    _check_sum(sampler, mechanism, aggregator)
    _check_completes(sampler, aggregator, dropout_prob)
    check_contributions(sampler, mechanism, dropout_prob)


def _check_sum(
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
) -> None:
    is_central = mechanism.trust == "central"
    if (
        aggregator.can_abort
        # Whose messages hide a client by themselves hide it in an abort, too.
        and mechanism.privacy_unit is not None
        and mechanism.trust != "local"
        and sampler.neighboring_relation == "add_or_remove_one"
    ):
        raise ValueError(
            "this secure sum can abort for want of reports, so that adding one client "
            "may change all of it, which the mechanism's noise does not hide; use a "
            "sampler under which nobody's place is lost, such as federated.fixed_size "
            "(replace_one) or federated.min_separation (zero_out)"
        )
    sums = None if aggregator.sums is None else aggregator.sums(1)
    grid = mechanism.grid
    if grid is not None and sums is not None and grid.bits != sums.bits:
        raise ValueError(
            f"the mechanism's messages are integers modulo 2^{grid.bits}, the secure "
            f"sum's modulo 2^{sums.bits}; build it with bits={grid.bits}"
        )
    if aggregator.ends_in == "estimate" and is_central:
        raise ValueError(
            "this aggregator ends in an estimate of the mean, whose sensitivity is not "
            "that of a sum: central noise does not hide a client in it; take an "
            "aggregator that ends in a sum, or noise at the clients"
        )


def _check_completes(
    sampler: base.ClientSampler, aggregator: base.SecureAggregator, dropout_prob: Any
) -> None:
    """Raises ValueError if most rounds of a secure sum would have none."""
    if aggregator.abort_share is None:
        return
    expected = sampler.expected_cohort
    least = None if aggregator.sums is None else aggregator.sums(1).least_reports
    if any(map(checks.is_traced, (expected, dropout_prob, least))):
        return
    rng, expected = np.random.default_rng(0), float(expected)
    chance = sampler.participation(1).sampling_prob
    drawn = np.full(_TRIED, round(expected))
    if chance is not None and sampler.neighboring_relation == "add_or_remove_one":
        drawn = rng.binomial(sampler.population, float(chance), _TRIED)
    invited = np.minimum(drawn, sampler.max_cohort)
    reports = rng.binomial(invited, 1.0 - float(dropout_prob))
    share = aggregator.abort_share(invited, reports)
    if share > 0.5:
        raise ValueError(
            f"{share:.0%} of rounds would have no secure sum: of {sampler.max_cohort} "
            f"places {expected * (1.0 - float(dropout_prob)):g} are expected to report "
            f"(cohort {expected:g}, dropout_prob {dropout_prob:g}), too few for its "
            "threshold; lower that, or take a sampler whose places are all taken, such "
            "as federated.fixed_size, or a lower dropout_prob"
        )


def check_contributions(
    sampler: base.ClientSampler, mechanism: base.PrivacyMechanism, dropout_prob: Any
) -> None:
    """Raises ValueError unless a mechanism accounts for who the sampler draws, and, if
    it counts contributions, counts on as many as it gets.
    """
    if mechanism.check_sampler is not None:
        mechanism.check_sampler(sampler)
    counted = mechanism.expected_contributions
    numbers = (counted, sampler.expected_cohort, dropout_prob)
    if counted is None or any(map(checks.is_traced, numbers)):
        return
    expected = float(sampler.expected_cohort) * (1.0 - float(dropout_prob))
    if not math.isclose(float(counted), expected, rel_tol=1e-5):
        raise ValueError(
            f"the mechanism counts on expected_contributions {counted:g}, but "
            f"{expected:g} are expected to report (cohort "
            f"{sampler.expected_cohort:g}, dropout_prob {dropout_prob:g}); build it "
            f"with expected_contributions={expected:g}"
        )


def shapes(
    task: base.Task,
    trainer: base.ClientTrainer,
    server: base.Server,
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
) -> Shapes:
    """What clients send, once trainer and server, and mechanism and sum, are known to
    fit together.

    Raises:
      ValueError: If they don't, or change the model's shape or what is kept, or if a
        private mechanism would noise leaves that no client changes. What fails in the
        user's own model or optimizer says so itself.
    """
    if mechanism.privacy_unit is not None:
        _check_moves(trainer)
    key = jax.random.key(0)

    def before(key: base.Key) -> tuple[PyTree, ...]:
        params = task.init(key)
        learnt = trees.widened(roles.trainable(task, params))
        memory, kept = server.init(learnt), trainer.keep(params)
        return learnt, memory, kept, server.send(params, memory)

    learnt, memory, kept, sent = jax.eval_shape(before, key)

    def conversation(
        key: base.Key, learnt: PyTree, memory: PyTree, kept: PyTree, sent: PyTree
    ) -> tuple[PyTree, ...]:
        state = trainer.init(key, sent, kept, jax.numpy.int32(0))
        update, keeps, _ = trainer.finish(sent, state)
        after = server.step(learnt, memory, trees.widened(update), 1.0)
        return after, keeps, update

    after, keeps, update = jax.eval_shape(conversation, key, learnt, memory, kept, sent)
    trees.check_same_shapes(
        "the server's step changes (params, memory)", (learnt, memory), after
    )
    trees.check_same_shapes("the trainer's finish changes what is kept", kept, keeps)

    def message(key: base.Key, update: PyTree) -> PyTree:
        state = mechanism.init(key, update)
        aggregator.check(sampler.max_cohort, mechanism.message_bound(state))
        return mechanism.clip(key, state, update)

    leaves = jax.tree.leaves(jax.eval_shape(message, key, update))
    return Shapes(
        jax.eval_shape(trees.widened, update),
        sum(int(np.prod(leaf.shape)) for leaf in leaves),
    )


def _check_moves(trainer: base.ClientTrainer) -> None:
    still = trainer.still_leaves()
    if still:
        shown = ", ".join(still[:3]) + (", ..." if len(still) > 3 else "")
        raise ValueError(
            f"the trainer's optimizer never changes {shown}, but the mechanism's noise "
            f"would, in every round; freeze {shown} by the task's roles ('constant') "
            "instead, so that they are neither clipped nor noised nor sent"
        )


def check_population(
    sampler: base.ClientSampler, kept: PyTree, clients: base.Clients
) -> None:
    """Raises ValueError unless sampler, state and data set are of as many clients."""
    num_clients = clients.offsets.shape[0] - 1
    if sampler.population != num_clients:
        raise ValueError(
            f"the sampler draws from {sampler.population} clients, the data set has "
            f"{num_clients}; build the sampler for {num_clients}"
        )
    for leaf in jax.tree.leaves(kept):
        if leaf.shape[0] != num_clients:
            raise ValueError(
                f"the state keeps something for {leaf.shape[0]} clients, the data set "
                f"has {num_clients}; start from this population's own init"
            )


def check_clients(
    sampler: base.ClientSampler, trainer: base.ClientTrainer, clients: base.Clients
) -> None:
    """Raises ValueError unless the trainer has room for every client; host side."""
    check_population(sampler, (), clients)
    if trainer.max_client_size is None:
        return
    sizes = storage.sizes(clients, np.arange(clients.offsets.shape[0] - 1))
    largest = int(np.max(np.asarray(sizes)))
    if largest > trainer.max_client_size:
        raise ValueError(
            f"max_client_size is {trainer.max_client_size}, but the largest client has "
            f"{largest} examples; build the trainer with max_client_size={largest}"
        )
