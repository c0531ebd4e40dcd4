"""Limits of error rates, and thresholds that the counted scores did not choose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ppml_lab.audit import bounds, evidence


def normal(seed, runs, shift=0.0):
    return np.random.default_rng(seed).normal(shift, size=runs)


@pytest.mark.parametrize("runs", [1, 7, 300])
@pytest.mark.parametrize("alpha", [0.025, 0.3])
def test_upper_limit_is_clopper_pearson(runs, alpha):
    errors = np.unique(np.linspace(0, runs, 12).astype(int))
    exact = [
        stats.binomtest(int(count), runs, alternative="less")
        .proportion_ci(1 - alpha, method="exact")
        .high
        for count in errors
    ]
    found = evidence.upper_limit(errors, runs, alpha)
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    assert found[0] == pytest.approx(1 - alpha ** (1 / runs), rel=1e-12)
    assert found[-1] == 1.0


def test_upper_limit_covers_every_rate():
    runs, alpha = 25, 0.05
    limits = evidence.upper_limit(np.arange(runs + 1), runs, alpha)
    wrong = [
        stats.binom.pmf(np.arange(runs + 1), runs, rate)[limits < rate].sum()
        for rate in np.linspace(0.001, 0.999, 999)
    ]
    # At most alpha, and somewhere alpha: half of it would be needlessly cautious.
    assert 0.95 * alpha < max(wrong) <= alpha


def test_both_rates_share_alpha():
    errors = evidence.Errors(3, 40, 5, 90, "halves")
    limits = [evidence.upper_limit(*pair, 0.05) for pair in ((3, 40), (5, 90))]
    np.testing.assert_array_equal(evidence.rates(errors, 0.1), limits)


def test_gaussian_shift_of_known_rates():
    fpr = stats.norm.sf(np.array([0.4, 1.5, -2.0]))
    fnr = stats.norm.cdf(np.array([0.4, 1.5, -2.0]) - 1.3)
    np.testing.assert_allclose(evidence.gaussian_shift(fnr, fpr), 1.3, rtol=1e-12)
    assert evidence.gaussian_shift(0.7, 0.6) < 0
    for useless in [(1.0, 1.0), (1.0, 0.2), (0.2, 1.0)]:
        assert evidence.gaussian_shift(*useless) < -1e300


def test_a_score_at_the_threshold_says_in():
    # The only threshold that parts them is 1.
    scores = np.full(20, 1.0), np.repeat([1.0, 0.0], [3, 17])
    found = evidence.preregistered(*scores, *scores, alpha=0.05)
    assert found == (0, 20, 3, 20, "preregistered")


def test_halves_counts_on_the_other_half_only():
    """The objective takes the lowest 'in' score of the choosing half. All scores below
    it are then in the other half, and missed; were the choosing half counted too, or
    instead, none of ITS scores would be.
    """
    inside, outside = np.arange(40.0), np.full(40, 1e9)
    missed = []
    for seed in range(20):
        found = evidence.halves(
            inside, outside, seed=seed, alpha=0.05, objective=lambda fnr, fpr: -fnr
        )
        assert found[1:] == (20, 20, 20, "halves")
        missed.append(found.missed)
    assert min(missed) == 0
    assert max(missed) > 0


def test_halves_gives_null_scores_no_advantage():
    # 100 cuts of 100 null runs; the counted half errs at half of them, on average.
    wrong = []
    for seed in range(100):
        found = evidence.halves(
            normal(2 * seed, 100), normal(2 * seed + 1, 100), seed=seed, alpha=0.05
        )
        wrong.append((found.missed + found.false_alarms) / 100)
    assert np.mean(wrong) == pytest.approx(0.5, abs=3 * 0.05 / 10)


def test_halves_is_deterministic_by_seed():
    scores = normal(0, 60, 1.0), normal(1, 60)
    kept = [array.copy() for array in scores]
    found = [evidence.halves(*scores, seed=seed, alpha=0.05) for seed in range(5)]
    again = [evidence.halves(*scores, seed=seed, alpha=0.05) for seed in range(5)]
    assert found == again
    assert len(set(found)) > 1
    np.testing.assert_array_equal(scores, kept)


def test_numbers_of_runs_need_not_be_equal():
    inside, outside = normal(0, 61, 3.0), normal(1, 40)
    found = evidence.halves(inside, outside, seed=0, alpha=0.05)
    assert (found.num_in, found.num_out) == (31, 20)
    simulated = normal(2, 500, 3.0), normal(3, 700)
    found = evidence.preregistered(inside, outside, *simulated, alpha=0.05)
    assert (found.num_in, found.num_out) == (61, 40)


def value(threshold, inside, outside, runs):
    counts = np.sum(inside < threshold), np.sum(outside >= threshold)
    # Not the simulation's own rates: a few errors in its tails would decide.
    likely = [evidence.upper_limit(n, len(inside), 0.05) for n in counts]
    upper = [evidence.upper_limit(rate * runs, runs, 0.025) for rate in likely]
    return float(evidence.gaussian_shift(*upper))


@pytest.mark.parametrize("simulations", [300, 3000])
def test_the_threshold_is_the_best_of_all(simulations):
    simulated = normal(0, simulations, 1.0), normal(1, simulations)
    # Audited scores that tell the threshold.
    audited = np.linspace(-4, 5, 90_001), np.linspace(-4, 5, 90_001) + 1e-7
    errors = evidence.preregistered(*audited, *simulated, alpha=0.05)
    chosen = float(audited[0][errors.missed])
    every = np.unique(np.concatenate(simulated))
    tried = every if len(every) < 1000 else every[::10]
    best = max(value(threshold, *simulated, 90_001) for threshold in tried)
    # With many scores a grid of quantiles is searched.
    slack = 0.0 if simulations == 300 else 0.01
    nearest = every[np.searchsorted(every, chosen - 1.1e-4)]
    assert value(nearest, *simulated, 90_001) >= best - slack


@pytest.mark.parametrize("audited", [0, 1])
@pytest.mark.parametrize("simulated", [0, 1])
def test_audited_scores_are_no_simulation(audited, simulated):
    scores = [normal(0, 50, 1.0), normal(1, 50)]
    reference = [normal(2, 50, 1.0), normal(3, 50)]
    reference[simulated] = np.random.default_rng(4).permutation(scores[audited])
    with pytest.raises(
        ValueError, match="simulated scores are copies of audited scores"
    ):
        evidence.preregistered(*scores, *reference, alpha=0.05)


@pytest.mark.parametrize("levels", [2, 15])
def test_discrete_scores_of_another_simulation_pass(levels):
    """Scores that take few values coincide without being the same runs."""
    rng = np.random.default_rng(0)
    inside, outside, *simulated = (
        rng.binomial(levels - 1, chance, 200).astype(float)
        for chance in (0.6, 0.4, 0.6, 0.4)
    )
    found = evidence.preregistered(inside, outside, *simulated, alpha=0.05)
    assert found.missed + found.false_alarms < 200


def test_nothing_simulated_is_named():
    scores = normal(0, 50), normal(1, 50)
    with pytest.raises(ValueError, match="simulated"):
        evidence.preregistered(*scores, np.zeros(0), np.zeros(0), alpha=0.05)


@pytest.mark.parametrize("place", range(4))
def test_nan_is_refused(place):
    scores = [normal(seed, 50) for seed in range(4)]
    scores[place][7:9] = math.nan
    with pytest.raises(ValueError, match="2 of 50 scores are NaN"):
        evidence.preregistered(*scores, alpha=0.05)
    if place < 2:
        with pytest.raises(ValueError, match="2 of 50 scores are NaN"):
            evidence.halves(*scores[:2], seed=0, alpha=0.05)


def test_infinite_scores_are_scores():
    inside, outside = np.full(40, math.inf), np.full(40, -math.inf)
    found = evidence.halves(inside, outside, seed=0, alpha=0.05)
    assert found == (0, 20, 0, 20, "halves")


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_too_few_runs_name_the_least(alpha):
    least = evidence.least_runs(alpha)

    def run(of, runs):
        scores = normal(0, runs, 9.0), normal(1, runs)
        if of == "halves":
            return evidence.halves(*scores, seed=0, alpha=alpha)
        simulated = normal(2, runs, 9.0), normal(3, runs)
        # Nothing lies between the groups, nor above the lowest simulated score.
        scores[0][:] += 5
        return evidence.preregistered(*scores, *simulated, alpha=alpha)

    for of, enough in {"halves": 2 * least, "preregistered": least}.items():
        with pytest.raises(ValueError, match=f"make at least {enough}$"):
            run(of, enough - 1)
        # As few as that bound something.
        assert bounds.gaussian_mu(run(of, enough), alpha=alpha).mu > 0


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-9, 0.05])
def test_least_runs_is_where_the_ceiling_passes_epsilon(alpha, epsilon, delta):
    least = evidence.least_runs(alpha, epsilon, delta)
    assert bounds.ceiling(least, delta=delta, alpha=alpha) > epsilon
    if least > evidence.least_runs(alpha):
        assert bounds.ceiling(least - 1, delta=delta, alpha=alpha) <= epsilon


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_bad_alpha(alpha):
    scores = normal(0, 50), normal(1, 50)
    for call in (
        lambda: evidence.least_runs(alpha),
        lambda: evidence.halves(*scores, seed=0, alpha=alpha),
        lambda: evidence.preregistered(
            *scores, normal(2, 50), normal(3, 50), alpha=alpha
        ),
    ):
        with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
            call()
