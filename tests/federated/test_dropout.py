"""Clients that drop out before their upload: how many, what the mean divides by, and a
round that nobody reports in.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, dp, federated, smpc
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(4)
SIZES = np.array([1, 2, 3, 4, 5, 6, 7, 8])
NEVER = 1 - 1e-7
"""A drop-out probability with which nobody reports in the rounds below."""

ABORTING = 15
"""A key of a round in which two of eight report, each with probability one half."""

# Every example of client i is the unit vector i, which one step of rate 1 adds: the
# model says who reported, and with which weight.
CLIENTS = base.Clients(
    jnp.asarray(np.repeat(np.eye(8, dtype=np.float32), SIZES, axis=0)),
    jnp.asarray(np.concatenate([[0], np.cumsum(SIZES)]), jnp.int32),
)


@pytest.fixture(scope="module")
def telling():
    return base.Task(
        init=lambda key: jnp.zeros(8),
        loss=lambda key, params, examples: -examples @ params,
        evaluate=lambda params, examples: {},
    )


def build(task, sampler, dropout_prob, **parts):
    trainer = federated.local_sgd(task, optax.sgd(1.0), 8, num_steps=1)
    return federated.averaging(
        task, trainer, sampler, dropout_prob=dropout_prob, **parts
    )


def test_each_participant_drops_out_with_the_stated_probability(telling):
    sampler = federated.fixed_size(8, 6)
    algorithm = build(telling, sampler, 0.3)
    _, history = jax.jit(
        lambda key, state: run_chunk(key, algorithm, state, CLIENTS, 0, 500)
    )(KEY, algorithm.init(KEY))
    assert set(np.asarray(history["cohort_size"])) == {6}
    reports = np.asarray(history["num_reports"])
    counts = np.bincount(reports.astype(int), minlength=7)

    def goodness(dropout_prob):
        # Independently of one another: the counts are binomial.
        expected = 500 * scipy.stats.binom.pmf(np.arange(7), 6, 1 - dropout_prob)
        return scipy.stats.chisquare(counts, expected).pvalue

    assert goodness(0.3) > 1e-4
    assert goodness(0.2) < 1e-9
    assert goodness(0.4) < 1e-9


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_the_mean_is_over_those_who_report(telling, weighting):
    algorithm = build(telling, federated.everyone(8), 0.4, weighting=weighting)
    one_round = jax.jit(algorithm.round)
    start, seen = algorithm.init(KEY), set()
    for number in range(10):
        state, info = one_round(jax.random.key(number), start, CLIENTS)
        reported = np.asarray(state.params) > 0
        assert info["cohort_size"] == 8
        assert int(info["num_reports"]) == reported.sum() > 0
        # Uniform: a public number divides, whoever reported.
        weights = reported / (8 * (1 - 0.4))
        if weighting == "examples":
            weights = reported * SIZES / SIZES[reported].sum()
        np.testing.assert_allclose(state.params, weights, rtol=1e-6)
        seen.add(tuple(reported))
    assert len(seen) > 5


# A server with momentum would roll on.
ROLLING = federated.fedopt(optax.sgd(1.0, momentum=0.9))


@pytest.fixture(scope="module")
def moving(telling):
    """A state whose server has momentum."""
    full = build(telling, federated.everyone(8), 0.0, server=ROLLING)
    state, _ = jax.jit(full.round)(KEY, full.init(KEY), CLIENTS)
    assert np.asarray(state.memory[0].trace).all()
    return state


# Nobody comes, or nobody reports, each with one of the means.
@pytest.mark.parametrize(
    ("sampler", "dropout_prob", "weighting"),
    [
        (federated.everyone(8), NEVER, "examples"),
        (federated.poisson(8, 1e-7), 0.0, "uniform"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                (federated.everyone(8), NEVER, "uniform"),
                (federated.poisson(8, 1e-7), 0.0, "examples"),
            ]
        ),
    ],
)
def test_without_privacy_a_round_without_reports_did_not_happen(
    telling, moving, sampler, dropout_prob, weighting
):
    algorithm = build(
        telling, sampler, dropout_prob, server=ROLLING, weighting=weighting
    )
    state, info = jax.jit(algorithm.round)(KEY, moving, CLIENTS)
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.params, state.memory),
        (moving.params, moving.memory),
    )
    assert int(state.rounds_done) == 2
    # No value, which is not 0, the best of all losses.
    assert np.isnan(info["train_loss"])
    assert (info["num_reports"], info["cohort_size"]) == (0, 8 if dropout_prob else 0)


@pytest.mark.parametrize("masked", [False, True])
def test_with_privacy_a_round_without_reports_gets_its_noise(masked):
    silent = base.Task(
        init=lambda key: jnp.zeros(1500),
        loss=lambda key, params, examples: -examples @ params[:8],
        evaluate=lambda params, examples: {},
    )
    # Under masks two of eight report, whose sum aborts as that of nobody does. If most
    # rounds did it would be refused.
    graph = smpc.graphs.complete(8, threshold=4)
    aggregator = smpc.pairwise_masking(graph) if masked else smpc.clear()
    dropout_prob = 0.5 if masked else NEVER
    algorithm = build(
        silent,
        federated.fixed_size(8, 8),
        dropout_prob,
        mechanism=dp.gaussian(0.5, 1.6),
        aggregator=aggregator,
    )
    key = jax.random.key(ABORTING) if masked else KEY
    state, info = jax.jit(algorithm.round)(key, algorithm.init(KEY), CLIENTS)
    assert info["num_reports"] == 0
    # Divided by the expected number of reports, as it would be if somebody did.
    everyone = jnp.ones(8, bool)
    session = aggregator.begin(KEY, everyone, everyone, 0.5)
    stddev = 1.6 * aggregator.sensitivity(session, 0.5, 1500)
    stddev /= 8 * (1 - dropout_prob)
    values = np.asarray(state.params)
    assert scipy.stats.kstest(values / stddev, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert scipy.stats.kstest(values / stddev / wrong, "norm").pvalue < 1e-9


def test_those_who_drop_out_keep_what_they_kept(telling):
    trainer, server = federated.scaffold(telling, optax.sgd(1.0), 8, num_steps=1)
    algorithm = federated.averaging(
        telling, trainer, federated.everyone(8), server=server, dropout_prob=0.5
    )
    start = algorithm.init(KEY)
    # All controls are alike, and correct nothing.
    opt_state, control = start.memory
    start = start._replace(kept=start.kept + 0.25, memory=(opt_state, control + 0.25))
    state, info = jax.jit(algorithm.round)(KEY, start, CLIENTS)
    reported = np.asarray(state.params) > 0
    assert 0 < reported.sum() == int(info["num_reports"]) < 8
    # One full batch: a client's control is its gradient, minus its unit vector.
    np.testing.assert_array_equal(
        state.kept, np.where(reported[:, None], -np.eye(8), 0.25)
    )


@pytest.mark.parametrize(
    "mechanism",
    [
        dp.gaussian(0.5, 1.0),
        dp.adaptive_gaussian(0.5, 1.0, 7.2),
        dp.gaussian(0.5, 1.0)._replace(trust="distributed"),
    ],
)
def test_an_abort_that_one_client_decides_is_no_noisy_sum(telling, mechanism):
    masked = smpc.pairwise_masking(smpc.graphs.complete(8, threshold=4), 0.5)
    for sampler in (federated.everyone(8), federated.poisson(8, 0.999)):
        with pytest.raises(
            ValueError, match=r"aborts with too few .* federated\.fixed_size"
        ):
            build(telling, sampler, 0.1, mechanism=mechanism, aggregator=masked)
        # Local noise is there whatever the sum.
        build(
            telling, sampler, 0.1, mechanism=dp.local_gaussian(0.5, 1.0),
            aggregator=masked,
        )  # fmt: skip
    sampler = federated.fixed_size(8, 8)
    build(telling, sampler, 0.1, mechanism=mechanism, aggregator=masked)


@pytest.mark.parametrize("dropout_prob", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_that_is_not_one_is_an_error(telling, dropout_prob):
    with pytest.raises(ValueError, match=f"dropout_prob .* got {dropout_prob}"):
        build(telling, federated.everyone(8), dropout_prob)
