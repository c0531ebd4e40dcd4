"""Bounds against closed forms and jax-privacy, and how often they are wrong."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import stats

from ppml_lab.audit import bounds, evidence, tradeoff
from ppml_lab.audit.evidence import Errors
from ppml_lab.dp import accounting, conversions

ALPHA, DELTA, REPEATS, RUNS = 0.05, 1e-5, 200, 3000
MU, EPSILON = 1.0, 3.0
TRUTH = 1 / (1 + math.exp(-EPSILON))

# Laplace has delta 1 - exp((e - epsilon) / 2) at e, the response truth - e^e (1 -
# truth).
TRUE_EPSILON = {
    "null": 0.0,
    "gaussian": conversions.gdp_epsilon(MU, DELTA),
    "laplace": EPSILON + 2 * math.log(1 - DELTA),
    "response": math.log((TRUTH - DELTA) / (1 - TRUTH)),
}
# The Laplace curve is exp(-epsilon) / (4 fpr) in its middle, and farthest from chance
# where both rates are equal.
TRUE_MU = {
    "null": 0.0,
    "gaussian": MU,
    "laplace": -2 * stats.norm.ppf(math.exp(-EPSILON / 2) / 2),
    "response": bounds.smallest_gdp_of_pure(EPSILON),
}
MECHANISMS = list(TRUE_EPSILON)
RULES = ["halves", "preregistered"]


def same(errors, runs, rule="halves"):
    return Errors(errors, runs, errors, runs, rule)


@pytest.mark.parametrize("runs", [6, 60, 5000])
@pytest.mark.parametrize("delta", [1e-9, 0.2])
def test_clopper_pearson_without_errors(runs, delta):
    upper = 1 - (ALPHA / 2) ** (1 / runs)
    found = bounds.clopper_pearson(same(0, runs), delta=delta, alpha=ALPHA)
    expected = max(0.0, math.log((1 - delta - upper) / upper))
    assert found.epsilon == pytest.approx(expected, rel=1e-9)
    assert found[1:] == (delta, ALPHA, "Clopper-Pearson", "", runs, runs, "halves")


@pytest.mark.parametrize("delta", [1e-9, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("runs", [6, 60, 5000])
def test_ceiling_is_what_no_errors_certify(runs, delta):
    found = bounds.clopper_pearson(same(0, runs), delta=delta, alpha=ALPHA)
    assert bounds.ceiling(runs, delta=delta, alpha=ALPHA) == pytest.approx(
        found.epsilon, rel=1e-9
    )


def test_clopper_pearson_takes_the_better_direction():
    few, many = (1, 500), (200, 500)
    one = bounds.clopper_pearson(Errors(*many, *few, "halves"), delta=0.01, alpha=ALPHA)
    other = bounds.clopper_pearson(
        Errors(*few, *many, "halves"), delta=0.01, alpha=ALPHA
    )
    assert one.epsilon == other.epsilon
    low, high = (
        stats.binomtest(*pair, alternative="less").proportion_ci(1 - ALPHA / 2).high
        for pair in (few, many)
    )
    assert one.epsilon == pytest.approx(math.log((0.99 - high) / low), rel=1e-9)


# jax-privacy 2.0.0's epsilon_clopper_pearson at an explicit threshold with
# one_sided=False: it takes the better of both directions then, with alpha / 2 for each
# rate, as ours does always (its default, one_sided=True, only tries TPR / FPR).
@pytest.mark.parametrize(
    ("errors", "delta", "alpha", "published"),
    [
        ((400, 1000, 3, 1000), 1e-5, 0.05, 4.175507550514419),
        ((2, 500, 90, 800), 1e-3, 0.05, 4.094450771222565),
        ((0, 256, 0, 256), 1e-5, 0.05, 4.232631064029614),
        ((0, 64, 64, 64), 1e-5, 0.05, 0.0),
        ((10, 40, 5, 60), 0.1, 0.01, 0.6976842550207951),
    ],
)
def test_clopper_pearson_equals_jax_privacy(errors, delta, alpha, published):
    found = bounds.clopper_pearson(
        Errors(*errors, rule="preregistered"), delta=delta, alpha=alpha
    )
    assert found.epsilon == pytest.approx(published, rel=1e-9)


def test_gaussian_mu_is_the_shift_of_the_limits():
    errors = Errors(30, 200, 4, 300, "preregistered")
    fnr, fpr = (
        stats.binomtest(*pair, alternative="less").proportion_ci(1 - ALPHA / 2).high
        for pair in ((30, 200), (4, 300))
    )
    found = bounds.gaussian_mu(errors, alpha=ALPHA)
    expected = stats.norm.isf(fpr) - stats.norm.ppf(fnr)
    assert found.mu == pytest.approx(expected, rel=1e-9)
    assert (found.alpha, found.errors) == (ALPHA, errors)


@pytest.mark.parametrize("errors", [50, 80, 100])
def test_errors_no_rarer_than_chance_bound_nothing(errors):
    # A distinguisher that errs at 80% tells much, but is not the one that was fixed.
    worse = same(errors, 100)
    assert bounds.gaussian_mu(worse, alpha=ALPHA).mu == 0.0
    assert bounds.gaussian(worse, delta=DELTA, alpha=ALPHA).epsilon == 0.0
    found = bounds.clopper_pearson(worse, delta=DELTA, alpha=ALPHA)
    assert found.epsilon == 0.0


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_gaussian_approaches_the_truth_from_below(mu):
    truth = conversions.gdp_epsilon(mu, DELTA)
    rate = stats.norm.cdf(-mu / 2)
    found = [
        bounds.gaussian(
            same(math.ceil(rate * runs), runs), delta=DELTA, alpha=ALPHA
        ).epsilon
        for runs in (10**3, 10**5, 10**7)
    ]
    assert sorted(found) == found
    assert 0.99 * truth < found[-1] < truth
    # The general bound stays far below at this threshold.
    general = bounds.clopper_pearson(
        same(math.ceil(rate * 10**7), 10**7), delta=DELTA, alpha=ALPHA
    )
    assert general.epsilon < 0.8 * truth


def test_gaussian_is_the_epsilon_of_its_mu():
    errors = Errors(30, 200, 4, 300, "preregistered")
    mu = bounds.gaussian_mu(errors, alpha=ALPHA).mu
    found = bounds.gaussian(errors, delta=DELTA, alpha=ALPHA)
    assert found.epsilon == conversions.gdp_epsilon(mu, DELTA)
    assert "Gaussian" in found.assumes


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0, 20.0])
def test_smallest_gdp_of_pure_touches_randomised_response(epsilon):
    mu = bounds.smallest_gdp_of_pure(epsilon)
    fpr = np.linspace(1e-4, 1 - 1e-4, 1001)
    response = np.maximum(1 - math.exp(epsilon) * fpr, (1 - fpr) / math.exp(epsilon))
    assert np.all(stats.norm.cdf(stats.norm.isf(fpr) - mu) <= response + 1e-12)
    corner = 1 / (1 + math.exp(epsilon))
    assert stats.norm.cdf(stats.norm.isf(corner) - mu) == pytest.approx(
        corner, rel=1e-6
    )


def scores_with(mean, spread, number=400):
    points = stats.norm.ppf((np.arange(number) + 0.5) / number)
    return mean + spread * (points - points.mean()) / points.std(ddof=1)


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("delta", [1e-6, 0.05])
def test_two_gaussians_of_equal_spread(mu, delta):
    found = bounds.two_gaussians(
        scores_with(5 - 2 * mu, 2), scores_with(5, 2), delta=delta
    )
    truth = conversions.gdp_epsilon(mu, delta)
    assert found.epsilon == pytest.approx(truth, rel=1e-4, abs=1e-4)
    assert (found.delta, found.method) == (delta, "two Gaussians")


def test_two_gaussians_of_unequal_spread():
    # Without a shift the losses exceed epsilon outside, or inside, of an interval.
    def delta_at(epsilon, one, other):
        gap = 0.5 / other**2 - 0.5 / one**2
        edge = math.sqrt(max((epsilon + math.log(one / other)) / gap, 0.0))
        inside = [2 * stats.norm.cdf(edge / spread) - 1 for spread in (one, other)]
        if one > other:
            inside = [1 - part for part in inside]
        return inside[0] - math.exp(epsilon) * inside[1]

    found = bounds.two_gaussians(scores_with(0, 2), scores_with(0, 1), delta=0.01)
    assert delta_at(found.epsilon, 2, 1) == pytest.approx(0.01, rel=1e-4)
    turned = bounds.two_gaussians(scores_with(0, 1), scores_with(0, 2), delta=0.01)
    assert turned.epsilon == pytest.approx(found.epsilon, rel=1e-6)


def test_two_gaussians_of_almost_no_noise():
    far = bounds.two_gaussians(scores_with(250, 1), scores_with(0, 1), delta=1e-5)
    truth = conversions.gdp_epsilon(250, 1e-5)
    assert far.epsilon == pytest.approx(truth, rel=1e-3)
    # Delta of the wide one's mass lies where its log ratio is above that.
    narrow = bounds.two_gaussians(scores_with(0, 0.01), scores_with(0, 1), delta=1e-5)
    edge = stats.norm.isf(0.5e-5) ** 2 * (0.5 / 0.01**2 - 0.5) - math.log(100)
    assert narrow.epsilon == pytest.approx(edge, rel=1e-3)


def test_an_estimate_is_no_bound():
    found = bounds.two_gaussians(scores_with(1, 1), scores_with(0, 1), delta=DELTA)
    assert not isinstance(found, bounds.LowerBound)
    assert not hasattr(found, "alpha")
    # Above the truth as well as below.
    rng = np.random.default_rng(0)
    null = [
        bounds.two_gaussians(rng.normal(size=50), rng.normal(size=50), delta=DELTA)
        for _ in range(5)
    ]
    assert min(estimate.epsilon for estimate in null) > 0.1


def test_two_gaussians_needs_scores_with_spread():
    fine = scores_with(0, 1, 10)
    for bad, message in (
        (np.zeros(10), "has 10 scores with standard deviation 0;"),
        (np.where(fine > 0, fine, math.nan), "5 of 10 scores are NaN"),
    ):
        for pair in ((bad, fine), (fine, bad)):
            with pytest.raises(ValueError, match=message):
                bounds.two_gaussians(*pair, delta=DELTA)
    with pytest.raises(ValueError, match=r"seen has 9 scores .* at least 10"):
        bounds.two_gaussians(fine[:9], fine[:9], delta=DELTA)
    with pytest.raises(ValueError, match="delta must lie in"):
        bounds.two_gaussians(fine, fine, delta=0.0)


BOUNDS = {
    "clopper_pearson": bounds.clopper_pearson,
    "gaussian": bounds.gaussian,
    "sampled_gaussian": functools.partial(
        bounds.sampled_gaussian, sampling_prob=1.0, num_rounds=1
    ),
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_bad_probabilities_are_named(bound, bad):
    with pytest.raises(ValueError, match="alpha must lie in"):
        bound(same(0, 100), delta=DELTA, alpha=bad)
    with pytest.raises(ValueError, match="delta must lie in"):
        bound(same(0, 100), delta=bad, alpha=ALPHA)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("runs", [(5, 100), (100, 5)])
def test_too_few_runs_are_refused(bound, runs):
    errors = Errors(0, runs[0], 0, runs[1], "halves")
    with pytest.raises(ValueError, match="make at least 6"):
        bound(errors, delta=DELTA, alpha=ALPHA)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(("missed", "alarms"), [(-1, 5), (5, 101), (0.5, 5)])
def test_errors_that_cannot_be_bound_nothing(bound, missed, alarms):
    with pytest.raises(ValueError, match=r"missed|false_alarms"):
        bound(Errors(missed, 100, alarms, 100, "halves"), delta=DELTA, alpha=ALPHA)


# Calibration: each bound is above the truth in at most alpha of audits.


def scores(mechanism, rng, coins):
    """Of one release each, of 0 or (where the coin says so) 1."""
    if mechanism == "gaussian":
        return MU * coins + rng.normal(size=len(coins))
    if mechanism == "laplace":
        return coins + rng.laplace(scale=1 / EPSILON, size=len(coins))
    if mechanism == "response":
        return np.where(rng.random(len(coins)) < TRUTH, coins, 1 - coins)
    return rng.normal(size=len(coins))


def by_ratio(fnr, fpr):
    return np.maximum((1 - DELTA - fnr) / fpr, (1 - DELTA - fpr) / fnr)


@functools.cache
def audits(mechanism, rule, objective):
    rng = np.random.default_rng(1)
    sides = np.ones(RUNS), np.zeros(RUNS)
    # Null scores are audited under the Gaussian's claim.
    claimed = "gaussian" if mechanism == "null" else mechanism
    simulated = [scores(claimed, rng, side) for side in sides]
    found = []
    for repeat in range(REPEATS):
        audited = [scores(mechanism, rng, side) for side in sides]
        if rule == "halves":
            errors = evidence.halves(
                *audited, seed=repeat, alpha=ALPHA, objective=objective
            )
        else:
            errors = evidence.preregistered(
                *audited, *simulated, alpha=ALPHA, objective=objective
            )
        found.append(errors)
    return found


def too_often(values, truth):
    assert len(values) >= REPEATS
    allowed = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / len(values))
    return np.mean(np.array(values) > truth) > allowed


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_clopper_pearson_is_seldom_wrong(mechanism, rule):
    found = [
        bounds.clopper_pearson(errors, delta=DELTA, alpha=ALPHA).epsilon
        for errors in audits(mechanism, rule, by_ratio)
    ]
    assert not too_often(found, TRUE_EPSILON[mechanism])
    # And it is no bound that says nothing.
    assert np.median(found) >= 0.3 * TRUE_EPSILON[mechanism]


@pytest.mark.exhaustive  # its epsilon: below
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gaussian_mu_is_seldom_wrong(mechanism, rule):
    found = [
        bounds.gaussian_mu(errors, alpha=ALPHA).mu
        for errors in audits(mechanism, rule, evidence.gaussian_shift)
    ]
    assert not too_often(found, TRUE_MU[mechanism])
    assert np.median(found) >= 0.7 * TRUE_MU[mechanism]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mechanism", ["null", "gaussian"])
def test_gaussian_is_seldom_wrong(mechanism, rule):
    found = [
        bounds.gaussian(errors, delta=DELTA, alpha=ALPHA).epsilon
        for errors in audits(mechanism, rule, evidence.gaussian_shift)
    ]
    assert not too_often(found, TRUE_EPSILON[mechanism])
    assert np.median(found) >= 0.7 * TRUE_EPSILON[mechanism]


@pytest.mark.exhaustive  # a curve as others: test_tradeoff
def test_sampled_gaussian_is_seldom_wrong():
    # So many runs that few noises, whose curves take half a second each, come near.
    noise, prob, rounds, runs = 3.0, 0.7, 2, 20_000
    rng = np.random.default_rng(2)

    def simulate(present):
        joined = present & (rng.random((runs, rounds)) < prob)
        seen = joined + noise * rng.standard_normal((runs, rounds))
        ratio = np.exp((2 * seen - 1) / (2 * noise**2))
        return np.log(1 - prob + prob * ratio).sum(axis=1)

    simulated = simulate(True), simulate(False)
    found = [
        evidence.preregistered(
            simulate(True),
            simulate(False),
            *simulated,
            alpha=ALPHA,
            objective=lambda fnr, fpr: -(fnr + fpr),
        )
        for _ in range(REPEATS)
    ]
    # More noise is less epsilon: epsilon is above the truth where the noise is below.
    noises = [
        tradeoff.least_refuted_noise(errors, prob, rounds, ALPHA) for errors in found
    ]
    assert not too_often([-value for value in noises], -noise)
    assert np.median(noises) < 1.15 * noise

    typical = int(np.argsort(noises)[REPEATS // 2])
    bound = bounds.sampled_gaussian(
        found[typical], sampling_prob=prob, num_rounds=rounds, delta=DELTA, alpha=ALPHA
    )
    event = tradeoff.sampled_gaussian(noises[typical], prob, rounds)
    # A lower bound takes the noise's epsilon from below, not the promised one.
    assert bound.epsilon == accounting.epsilon_from_below(event, DELTA)
    promised = accounting.epsilon(event, DELTA, "pld")
    assert 0.98 * promised < bound.epsilon < promised
    assert bound.assumes == "Poisson-sampled Gaussian, 0.7 x 2 rounds"


def test_sampled_gaussian_of_no_evidence():
    found = bounds.sampled_gaussian(
        same(50, 100), sampling_prob=0.7, num_rounds=2, delta=DELTA, alpha=ALPHA
    )
    assert found.epsilon == 0.0


@pytest.mark.exhaustive  # the two below are controls of the same check
def test_calibration_finds_a_threshold_chosen_where_counted():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2 * REPEATS):
        inside, outside = (
            scores("laplace", rng, side) for side in (np.ones(RUNS), np.zeros(RUNS))
        )
        tried = np.quantile(np.concatenate([inside, outside]), np.linspace(0, 1, 200))
        every = [
            Errors(
                int(np.sum(inside < t)), RUNS, int(np.sum(outside >= t)), RUNS, "best"
            )
            for t in tried
        ]
        found.append(
            max(
                bounds.clopper_pearson(one, delta=DELTA, alpha=ALPHA).epsilon
                for one in every
            )
        )
    assert too_often(found, TRUE_EPSILON["laplace"])


def test_calibration_finds_an_absolute_value():
    errors = audits("null", "halves", evidence.gaussian_shift)
    shifts = [evidence.gaussian_shift(*evidence.rates(one, ALPHA)) for one in errors]
    assert too_often(np.abs(shifts), 0.0)


def test_calibration_finds_an_estimate():
    estimates = [
        evidence.gaussian_shift(one.missed / one.num_in, one.false_alarms / one.num_out)
        for one in audits("gaussian", "preregistered", evidence.gaussian_shift)
    ]
    assert too_often(estimates, MU)
