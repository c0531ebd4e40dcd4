"""Audits of whole runs: what they see is what was released, and bounds hold."""

import functools

import jax
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import audit, dp, federated, models
from ppml_lab.audit import bounds, canaries, evidence, planted, probes, worlds
from ppml_lab.dp import accounting

TASK = models.flax_classification(models.logistic(3), (4,))
PARAMS = TASK.init(jax.random.key(0))
CLIP, NOISE, PROB, ROUNDS = 0.5, 0.8, 0.5, 4
# The third input of nobody is other than zero: its weights have no gradient.
PLACE = 3 + 2 * 3


def planted_in(trains="central", noise=NOISE, sampler=None):
    """Twenty rows, or as many clients of one each, and a canary."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    x[:, 2] = 0
    rows = {"x": x, "y": np.arange(20, dtype=np.int32) % 3}
    directions = canaries.dirac(PARAMS, np.array([PLACE]))

    def drawn(population):
        return federated.poisson(population, PROB) if sampler is None else sampler

    if trains == "central":
        return planted.in_examples(
            lambda sampler, method: federated.central_sgd(
                TASK,
                optax.sgd(0.5),
                sampler,
                mechanism=dp.gaussian(CLIP, noise, privacy_unit="example"),
                method=method,
            ),
            TASK.loss,
            rows,
            directions,
            drawn,
            moves=-0.5 * CLIP,
        )
    return planted.in_clients(
        lambda sampler, trainer: federated.averaging(
            TASK, trainer, sampler, mechanism=dp.gaussian(CLIP, noise)
        ),
        federated.local_sgd(TASK, optax.sgd(0.5), 1, num_steps=1),
        rows,
        np.arange(20),
        directions,
        drawn,
        moves=CLIP,
    )


def training(sampler=None, noise=NOISE, trains="central"):
    made = planted_in(trains, noise, sampler)
    run = made.run(ROUNDS)
    return lambda key, included: jax.tree.map(lambda x: x[:, 0], run(key, included)[0])


def membership(runs):
    included = planted_in().included(runs)
    assert included.shape == (2 * runs, 21)
    assert included.sum() == 42 * runs - runs
    assert not included[runs:, -1].any()
    return included


@pytest.mark.parametrize(
    "trains", [pytest.param("central", marks=pytest.mark.exhaustive), "federated"]
)
def test_a_white_box_sees_exactly_when_its_canary_took_part(trains):
    many = audit.many_runs(training(noise=0.0, trains=trains), 8)
    seen = many(0, membership(200))
    np.testing.assert_allclose(seen[200:], 0, atol=1e-4)
    took_part = seen[:200] > 0.5
    np.testing.assert_allclose(seen[:200], took_part, atol=1e-4)
    assert scipy.stats.binomtest(int(took_part.sum()), 800, PROB).pvalue > 1e-4


def test_projections_have_the_stated_noise():
    seen = audit.many_runs(training(), 16)(0, membership(500))
    outside = seen[500:].ravel() / NOISE
    assert scipy.stats.kstest(outside, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert scipy.stats.kstest(outside * wrong, "norm").pvalue < 1e-4


def test_width_changes_nothing_and_every_run_has_its_key():
    run = training()
    one, eight = (audit.many_runs(run, width)(5, membership(6)) for width in (1, 8))
    np.testing.assert_allclose(one, eight, rtol=2e-4, atol=2e-5)
    assert len(np.unique(one)) == one.size


def test_canaries_that_are_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="accounted under replace_one"):
        training(federated.fixed_size(21, 5))


def test_likelihood_ratio_is_the_log_ratio_of_densities():
    values = np.random.default_rng(0).normal(size=(5, ROUNDS))

    def density(x):
        return scipy.stats.norm.pdf(x, scale=NOISE)

    for prob in (0.3, 1.0):
        inside = prob * density(values - 1) + (1 - prob) * density(values)
        expected = np.log(inside / density(values)).sum(axis=1)
        found = audit.likelihood_ratio(values, NOISE, prob)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_claimed_scores_are_the_mechanism_s():
    """Simulated scores, and those of real trainings, have one distribution."""
    claimed = audit.claimed_scores(NOISE, PROB, ROUNDS, num_runs=5000, seed=0)
    seen = audit.many_runs(training(), 16)(1, membership(1000))
    scores = audit.likelihood_ratio(seen, NOISE, PROB)
    for simulated, real in zip(claimed, (scores[:1000], scores[1000:]), strict=True):
        assert scipy.stats.ks_2samp(simulated, real).pvalue > 1e-4
    assert scipy.stats.ks_2samp(claimed[0], claimed[1]).pvalue < 1e-6


LOUD = 4.0, 16
"""Noise and rounds whose trade-off curves are quickly made."""


def repeated_audits(noise, claimed_noise, repeats=100, runs=1000):
    """White-box audits of the production mechanism, each of its own runs."""
    rounds = LOUD[1]
    subject = audit.of_mechanism(
        dp.gaussian(CLIP, noise), federated.poisson(worlds.NUM_ROWS, PROB), rounds
    )
    world = worlds.adversarial(CLIP, "add_or_remove_one")["empty"]
    rows = np.stack([world.rows_in, world.rows_out])
    present = np.stack([world.present_in, world.present_out])
    run = probes.runner(subject, seed=9)
    total = repeats * runs
    seen = run(np.arange(2 * total), rows, present, np.repeat([0, 1], total)).values
    scores = audit.likelihood_ratio(seen[:, :, 0], claimed_noise, PROB)
    simulated = audit.claimed_scores(
        claimed_noise, PROB, rounds, num_runs=20_000, seed=1
    )
    for inside, outside in zip(
        scores[:total].reshape(repeats, runs),
        scores[total:].reshape(repeats, runs),
        strict=True,
    ):
        yield evidence.preregistered(inside, outside, *simulated, alpha=0.05)


BOUNDS = {
    "family": functools.partial(
        bounds.sampled_gaussian, sampling_prob=PROB, num_rounds=LOUD[1]
    ),
    "gaussian": bounds.gaussian,
    "clopper_pearson": bounds.clopper_pearson,
}


def upper_bound():
    noise, rounds = LOUD
    event = audit.tradeoff.sampled_gaussian(noise, PROB, rounds)
    return accounting.epsilon(event, 1e-5, "pld")


@pytest.mark.exhaustive  # bounds: test_bounds; runs: below
def test_a_hundred_audits_seldom_exceed_the_accountant():
    """Violations of the upper bound within the binomial limit, and bounds not empty."""
    errors = list(repeated_audits(LOUD[0], LOUD[0]))
    most = scipy.stats.binom.isf(1e-3, 100, 0.05)
    for name, bound in BOUNDS.items():
        found = np.array([bound(one, delta=1e-5, alpha=0.05).epsilon for one in errors])
        assert (found > upper_bound()).sum() <= most, name
        assert np.median(found) > 0.1 * upper_bound(), name


@pytest.mark.exhaustive  # test_tradeoff finds six tenths
def test_audits_find_half_the_noise():
    claim = audit.tradeoff.claimed(
        audit.tradeoff.sampled_gaussian(LOUD[0], PROB, LOUD[1])
    )
    refuted = [
        audit.tradeoff.judge(one, claim, 0.05).refuted
        for one in repeated_audits(LOUD[0] / 2, LOUD[0], repeats=20)
    ]
    assert np.mean(refuted) > 0.9


@pytest.mark.parametrize(
    ("noise", "refuted"),
    [(0.0, True), pytest.param(LOUD[0], False, marks=pytest.mark.exhaustive)],
)
def test_a_white_box_finds_noise_that_was_forgotten(noise, refuted):
    event = audit.tradeoff.sampled_gaussian(LOUD[0], PROB, ROUNDS)
    upper = accounting.epsilon(event, 1e-5, "pld")
    found = planted.white_box(
        planted_in(noise=noise), LOUD[0], ROUNDS, num_runs=60, delta=1e-5
    )
    assert (found.bound.epsilon > upper) == refuted
    assert found.bound.epsilon <= found.ceiling
    if refuted:
        # In no round of a sixteenth of the runs: these look like the others.
        assert 0.9 < found.auc.value < 1


def test_canaries_that_cannot_be_planted_are_refused():
    made = planted_in()
    with pytest.raises(
        ValueError, match="num_canaries, at most the number of directions"
    ):
        planted.in_examples(
            lambda sampler, method: made.make(sampler),
            TASK.loss,
            {"x": np.zeros((4, 4), np.float32), "y": np.zeros(4, np.int32)},
            made.directions,
            lambda population: federated.poisson(population, PROB),
            moves=1.0,
            num_canaries=2,
        )
    with pytest.raises(ValueError, match="count is 13, but only 12 coordinates"):
        planted.untouched(
            TASK, {"x": np.zeros((4, 4), np.float32), "y": np.zeros(4)}, 13
        )
    dependent = made._replace(sampler=federated.fixed_size(21, 5))
    with pytest.raises(ValueError, match=r"add_or_remove_one or .* federated\.poisson"):
        planted.white_box(dependent, 1.0, ROUNDS, delta=1e-5)
