"""Checks, before anything runs, that the parts of `averaging` go together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ppml_lab import base, checks, trees
from ppml_lab.data import storage
from ppml_lab.federated import contributions, roles

_TRIED = 200
"""Number of simulated rounds from which the share of aborts is estimated."""


class Shapes(NamedTuple):
    """The shapes of what clients send.

    Attributes:
      update: The shapes of an update's sum, whatever the messages are: floats of at
        least 32 bits.
      dimension: Number of coordinates of a message before it is encoded.
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
    whose: contributions.Contributions,
) -> None:
    """Raises ValueError unless these parts can be combined; see `averaging`."""
    contributions.check(whose, sampler, mechanism, aggregator, weighting)
    if mechanism.privacy_unit is not None and weighting != "uniform":
        raise ValueError(
            f"weighting '{weighting}' would change a private mechanism's sensitivity; "
            "use weighting='uniform'"
        )
    if aggregator.ends_in == "estimate" and weighting == "examples":
        raise ValueError(
            f"weighting 'examples' scales messages, so that {aggregator.name} would "
            "not estimate their mean; use weighting='uniform'"
        )
    # "uniform" and "realised" count every client equally.
    fitting = (None, weighting, "uniform" if weighting == "realised" else weighting)
    if server.weighting not in fitting:
        raise ValueError(
            f"this server's step is right only for the '{server.weighting}' mean, got "
            f"weighting '{weighting}'; use weighting='{server.weighting}'"
        )
    checks.share("dropout_prob", dropout_prob)
    _check_sum(sampler, mechanism, aggregator)
    _check_completes(sampler, aggregator, dropout_prob)
    check_contributions(whose.sampler, mechanism, dropout_prob)


def _check_sum(
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
) -> None:
    if aggregator.needs == "individual" and aggregator.shows != "individual":
        raise ValueError(
            f"{aggregator.name} needs each client's message, but the server sees only "
            "their sum; take smpc.clear() (secure_sum=Clear()), or an aggregator that "
            "needs the sum, such as the mean"
        )
    if aggregator.ends_in == "estimate" and mechanism.trust not in (None, "local"):
        raise ValueError(
            f"{aggregator.name} ends in an estimate of the mean, which has another "
            f"sensitivity than a sum, so that {mechanism.trust} noise does not hide a "
            "client; take an aggregator that ends in a sum (rule=Mean()), or noise at "
            "the clients, such as dp.local_gaussian"
        )
    if (
        aggregator.can_abort
        # Messages that hide a client by themselves hide it in an abort, too; and which
        # clients report does not depend on a client's people.
        and mechanism.privacy_unit == "client"
        and mechanism.trust != "local"
        and sampler.neighboring_relation == "add_or_remove_one"
    ):
        raise ValueError(
            f"{aggregator.name} aborts with too few reports, so that one client more "
            "can change the whole sum, which the mechanism's noise does not hide; use "
            "a sampler whose neighboring_relation keeps the number of reports, such as "
            "federated.fixed_size (replace_one) or federated.min_separation (zero_out)"
        )
    sums = None if aggregator.sums is None else aggregator.sums(1)
    grid = mechanism.grid
    if grid is not None and sums is not None and grid.bits != sums.bits:
        raise ValueError(
            f"the mechanism's messages are integers modulo 2^{grid.bits}, but the "
            f"secure sum is modulo 2^{sums.bits}; build the secure sum with "
            f"bits={grid.bits}"
        )


def _check_completes(
    sampler: base.ClientSampler, aggregator: base.SecureAggregator, dropout_prob: Any
) -> None:
    """Raises ValueError if most rounds would have no secure sum, or no estimate."""
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
        what = "secure sum" if aggregator.ends_in == "sum" else "estimate"
        raise ValueError(
            f"{share:.0%} of rounds would have no {what}: of {sampler.max_cohort} "
            f"places {expected * (1.0 - float(dropout_prob)):g} are expected to report "
            f"(cohort {expected:g}, dropout_prob {dropout_prob:g}), too few for the "
            f"threshold of {aggregator.name}; lower the threshold or dropout_prob, or "
            "take a sampler that fills all places, such as federated.fixed_size"
        )


def check_contributions(
    sampler: base.ClientSampler, mechanism: base.PrivacyMechanism, dropout_prob: Any
) -> None:
    """Raises ValueError unless a mechanism accounts for the sampler's draws, and, if it
    counts on a number of contributions, gets that number.
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
            f"{expected:g} are expected to report (cohort {sampler.expected_cohort:g}, "
            f"dropout_prob {dropout_prob:g}); build the mechanism with "
            f"expected_contributions={expected:g}"
        )


def shapes(
    task: base.Task,
    trainer: base.ClientTrainer,
    server: base.Server,
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
    whose: contributions.Contributions,
) -> Shapes:
    """Checks that trainer and server, and mechanism and sum, fit together; returns the
    shapes of what clients send.

    Raises:
      ValueError: If they don't fit together, or change the shape of the model or of
        what is kept, or if a private mechanism would noise leaves that no client
        changes. Errors of the user's own model or optimizer pass through unchanged.
    """
    if mechanism.privacy_unit is not None:
        _check_moves(trainer)
    learnt, memory, kept, sent = _begun(task, trainer, server)
    update, keeps = _trained(trainer, sent, kept)
    wide = jax.eval_shape(trees.widened, update)
    after = jax.eval_shape(
        lambda learnt, memory, mean: server.step(learnt, memory, mean, 1.0),
        learnt,
        memory,
        wide,
    )
    trees.check_same_shapes(
        "the server's step changes (params, memory)", (learnt, memory), after
    )
    trees.check_same_shapes("the trainer's finish changes what is kept", kept, keeps)

    def message(key: base.Key, update: PyTree) -> PyTree:
        state = mechanism.init(key, update)
        bound = contributions.message_bound(whose, mechanism, state)
        aggregator.check(sampler.max_cohort, bound)
        return mechanism.clip(key, state, update)

    clipped = jax.eval_shape(message, jax.random.key(0), update)
    return Shapes(wide, _dimension(clipped))


def update_shapes(
    task: base.Task, trainer: base.ClientTrainer, server: base.Server
) -> PyTree:
    """The shapes of an update, in floats of at least 32 bits."""
    *_, kept, sent = _begun(task, trainer, server)
    update, _ = _trained(trainer, sent, kept)
    return jax.eval_shape(trees.widened, update)


def most_sent(
    trainer: base.ClientTrainer, mechanism: base.PrivacyMechanism, shapes: Shapes
) -> int | None:
    """The largest number of nonzero coordinates of a message; None for any number.

    Raises:
      ValueError: For a trainer that sends few coordinates with noise that fills all.
    """
    if trainer.num_sent is None:
        return None
    if mechanism.trust not in (None, "central"):
        raise ValueError(
            f"the trainer sends num_sent {trainer.num_sent} coordinates, but "
            f"{mechanism.trust} noise fills all coordinates before they are sent; take "
            "noise on the sum, such as dp.gaussian, or a trainer that sends all "
            "coordinates"
        )
    # What the mechanism wants summed beside the update is sent, too.
    return trainer.num_sent + shapes.dimension - _dimension(shapes.update)


def _dimension(shapes: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _begun(
    task: base.Task, trainer: base.ClientTrainer, server: base.Server
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """The shapes of what is learnt, remembered, kept and sent when training begins."""

    def begin(params: PyTree) -> tuple[PyTree, PyTree, PyTree, PyTree]:
        learnt = trees.widened(roles.trainable(task, params))
        memory, kept = server.init(learnt), trainer.keep(params)
        return learnt, memory, kept, server.send(params, memory)

    return jax.eval_shape(begin, roles.model(task))


def _trained(
    trainer: base.ClientTrainer, sent: PyTree, kept: PyTree
) -> tuple[PyTree, PyTree]:
    """The shapes of a client's update and of what it keeps."""

    def train(key: base.Key, sent: PyTree, kept: PyTree) -> tuple[PyTree, PyTree]:
        state = trainer.init(key, sent, kept, jax.numpy.int32(0))
        update, keeps, _ = trainer.finish(sent, state)
        return update, keeps

    return jax.eval_shape(train, jax.random.key(0), sent, kept)


def _check_moves(trainer: base.ClientTrainer) -> None:
    still = trainer.still_leaves()
    if still:
        shown = ", ".join(still[:3]) + (", ..." if len(still) > 3 else "")
        raise ValueError(
            f"the trainer's optimizer never changes {shown}, but the mechanism's noise "
            f"would, in every round; give {shown} the role 'constant' in the task "
            "instead, which keeps frozen leaves out of clipping, noise and messages"
        )


def check_population(
    sampler: base.ClientSampler, kept: PyTree, clients: base.Clients
) -> None:
    """Raises ValueError unless sampler, state and data set are for as many clients."""
    num_clients = clients.offsets.shape[0] - 1
    if sampler.population != num_clients:
        raise ValueError(
            f"the sampler draws from {sampler.population} clients, but the data set "
            f"has {num_clients}; build the sampler for {num_clients}"
        )
    for leaf in jax.tree.leaves(kept):
        if leaf.shape[0] != num_clients:
            raise ValueError(
                f"the state has leaves for {leaf.shape[0]} clients, but the data set "
                f"has {num_clients}; start from the state that `init` makes for these "
                "clients"
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
