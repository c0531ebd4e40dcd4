"""Numbers that two builders share are compared when they meet: nothing runs here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, smpc
from ppml_lab.smpc import dropouts, graphs, lightsecagg, mask_keys

CLIP = dp.gaussian(1.0, 1.0)
MANY = federated.poisson(1000, 0.1)
PLACES = MANY.max_cohort


@pytest.fixture(scope="module")
def build():
    task = base.Task(
        init=lambda key: {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
        loss=lambda key, params, examples: jnp.zeros(len(examples)),
        evaluate=lambda params, examples: {},
    )
    trainer = federated.local_sgd(task, optax.sgd(1.0), 8, num_steps=1)

    def make(sampler, aggregator, mechanism=CLIP, **parts):
        return federated.averaging(
            task, trainer, sampler, mechanism=mechanism, aggregator=aggregator, **parts
        )

    return make


@pytest.mark.parametrize(
    ("sampler", "aggregator", "message"),
    [
        # An expected cohort is not the largest.
        (federated.poisson(20, 0.5), smpc.additive_sharing(3, 10), "up to 20 clients"),
        (federated.fixed_size(20, 10), smpc.additive_sharing(3, 9), "max_clients=10"),
        (federated.everyone(20), smpc.additive_sharing(3, 1, 1.0, 2.0**30), "is 1,"),
        (
            federated.fixed_size(20, 10),
            smpc.additive_sharing(3, 10, 0.9),
            "max_abs 0.9",
        ),
        (
            federated.fixed_size(20, 10),
            smpc.additive_sharing(3, bits=16),
            "10 summands .* 21 bits, .* has 16",
        ),
        (
            federated.fixed_size(20, 10),
            smpc.pairwise_masking(graphs.complete(9)),
            "9 places, but the cohort has 10",
        ),
        (
            federated.fixed_size(20, 10),
            smpc.light_secagg(lightsecagg.Code(11, 7, 3)),
            "11 places, but the cohort has 10",
        ),
        (
            federated.fixed_size(20, 10),
            smpc.pairwise_masking(graphs.complete(10), 0.5),
            "max_abs 0.5 is below",
        ),
    ],
)
def test_a_sum_that_does_not_fit_its_rounds_is_refused(
    build, sampler, aggregator, message
):
    with pytest.raises(ValueError, match=message):
        build(sampler, aggregator)


@pytest.mark.parametrize(
    "mechanism",
    [dp.no_privacy(), dp.local_gaussian(1.0, 1.0), dp.local_laplace(1.0, 1.0)],
)
def test_a_bound_is_told_where_no_mechanism_states_one(build, mechanism):
    sampler = federated.fixed_size(20, 10)
    for protocol in (
        functools.partial(smpc.additive_sharing, 3),
        functools.partial(smpc.pairwise_masking, graphs.complete(10)),
        functools.partial(smpc.light_secagg, lightsecagg.Code(10, 7, 3)),
    ):
        with pytest.raises(ValueError, match="max_abs is needed"):
            build(sampler, protocol(), mechanism)
        build(sampler, protocol(max_abs=8.0), mechanism)
        build(sampler, protocol())


def test_adaptive_and_scheduled_clip_norms_need_no_bound(build):
    sampler = federated.fixed_size(20, 10)
    for mechanism in (
        dp.adaptive_gaussian(0.1, 0.1, 10),
        dp.scheduled_gaussian(lambda n: 1.0 + n.astype(jnp.float32), 1.0),
        dp.randomised_response(1.0, 1.0),
    ):
        build(sampler, smpc.additive_sharing(3), mechanism)
        build(sampler, smpc.additive_sharing(3, 10, 0.1), mechanism)


def test_the_loudest_answer_of_randomised_response_is_its_bound():
    mechanism = dp.randomised_response(2.0, 1.0)
    update = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = mechanism.init(jax.random.key(0), update)
    sent = mechanism.clip(jax.random.key(1), state, update)
    loudest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(sent))
    assert loudest == mechanism.message_bound(state) > 8 * 2


@pytest.mark.parametrize(
    ("sampler", "aggregator", "dropout_prob"),
    [
        (MANY, graphs.k_regular(PLACES, 0.1, 0.1), 0.0),
        (MANY, graphs.complete(PLACES), 0.0),
        (MANY, lightsecagg.Code(PLACES, 120, 60), 0.0),
        (federated.everyone(30), graphs.complete(30), 0.5),
        (federated.fixed_size(99, 30), lightsecagg.Code(30, 21, 9), 0.5),
        (federated.fixed_size(99, 30), 20, 0.5),
    ],
)
def test_sums_that_most_rounds_would_abort_are_refused(
    build, sampler, aggregator, dropout_prob
):
    if isinstance(aggregator, graphs.Graph):
        aggregator = smpc.pairwise_masking(aggregator, 8.0)
    elif isinstance(aggregator, int):
        aggregator = smpc.additive_sharing(3, least_reports=aggregator, max_abs=8.0)
    else:
        aggregator = smpc.light_secagg(aggregator, 8.0)
    with pytest.raises(ValueError, match="of rounds would have no secure sum: of"):
        build(
            sampler, aggregator, dp.local_gaussian(1.0, 1.0), dropout_prob=dropout_prob
        )


@pytest.mark.parametrize(
    ("sampler", "graph", "dropout_prob"),
    [
        (MANY, graphs.complete(PLACES, 70), 0.0),
        (MANY, graphs.Graph(PLACES, 30, 8), 0.0),
        (federated.fixed_size(1000, 174), graphs.k_regular(174, 0.1, 0.1), 0.1),
        (federated.fixed_size(60, 60), graphs.complete(60), 0.3),
    ],
)
def test_sums_that_few_rounds_abort_are_not(build, sampler, graph, dropout_prob):
    aggregator = smpc.pairwise_masking(graph, 8.0)
    build(sampler, aggregator, dp.local_gaussian(1.0, 1.0), dropout_prob=dropout_prob)


@pytest.mark.parametrize("graph", [graphs.Graph(40, 10, 5), graphs.complete(11, 6)])
def test_the_share_of_aborts_is_the_protocols(graph):
    """Against who completes, for random places of those who come and those who stay."""
    n, rounds = graph.num_clients, 400
    rng = np.random.default_rng(1)
    order = np.argsort(rng.random((rounds, n)), axis=1)
    completes = jax.jit(
        jax.vmap(
            lambda here, stays: mask_keys.completes(
                graph, dropouts.nested(here, here, stays, stays)
            )
        )
    )
    shares = []
    for invited, stay in ((n, n * 3 // 4), (n * 3 // 4, n // 2), (n, n // 2)):
        aborted = 1 - np.mean(completes(order < invited, order < stay))
        found = graphs.abort_share(
            graph, np.full(rounds, invited), np.full(rounds, stay)
        )
        assert abs(found - aborted) < 0.12
        shares.append(found)
    assert max(shares) > 0.3 > min(shares)


def test_the_modulus_of_integer_messages_is_the_sums(build):
    integers = CLIP._replace(grid=base.Grid(2.0**8, 16))
    sampler = federated.fixed_size(20, 10)
    with pytest.raises(ValueError, match=r"modulo 2\^16, .* modulo 2\^32.*bits=16"):
        build(sampler, smpc.additive_sharing(3), integers)
    build(sampler, smpc.additive_sharing(3, scale=2.0**8, bits=16), integers)
    build(sampler, smpc.clear(), integers)


def test_a_mechanism_learns_how_its_messages_are_added_up(build):
    heard = []

    def event(sampler, num_releases, sums=None):
        heard.append(sums)
        return CLIP.event(sampler, num_releases, sums)

    sampler = federated.fixed_size(20, 10)
    for aggregator in (
        smpc.clear(),
        smpc.additive_sharing(3, scale=2.0**8, bits=16, least_reports=4),
        smpc.pairwise_masking(graphs.complete(10, 7)),
    ):
        build(sampler, aggregator, CLIP._replace(event=event)).event(3)
    assert heard == [None, base.Sums(8, 2.0**8, 16, 4), base.Sums(8, 2.0**16, 32, 7)]
