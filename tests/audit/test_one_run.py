"""One-run bounds against jax-privacy and closed forms, and how often they are wrong."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ppml_lab.audit import bounds, one_run
from ppml_lab.audit.one_run import Guesses
from ppml_lab.dp import conversions

ALPHA, DELTA, REPEATS, CANARIES = 0.05, 1e-5, 1000, 300
MU, EPSILON = 1.5, 1.5
TRUTH = 1 / (1 + math.exp(-EPSILON))

# As in test_bounds.
TRUE_EPSILON = {
    "null": 0.0,
    "gaussian": conversions.gdp_epsilon(MU, DELTA),
    "laplace": EPSILON + 2 * math.log(1 - DELTA),
    "response": math.log((TRUTH - DELTA) / (1 - TRUTH)),
}
TRUE_MU = {
    "null": 0.0,
    "gaussian": MU,
    "laplace": -2 * stats.norm.ppf(math.exp(-EPSILON / 2) / 2),
    "response": bounds.smallest_gdp_of_pure(EPSILON),
}
BOUNDS = {"steinke": one_run.steinke, "gaussian": one_run.gaussian}


def test_guesses_are_for_the_extremes():
    scores = np.array([0.1, 9.0, -3.0, 5.0, 0.0, -1.0])
    coins = np.array([True, True, False, False, True, False])
    # In: 9 (right), 5 (wrong); out: -3 and -1 (right), 0 (wrong).
    assert one_run.guess(scores, coins, num_in=2, num_out=3) == (6, 5, 3)
    assert one_run.guess(scores, coins, num_in=1, num_out=0) == (6, 1, 1)
    assert one_run.guess(scores, coins, num_in=0, num_out=1) == (6, 1, 1)
    assert one_run.guess(scores, coins, num_in=6, num_out=0) == (6, 6, 3)


def test_bad_guesses():
    scores, coins = np.arange(4.0), np.array([True, False, True, False])
    for num_in, num_out in ((3, 2), (0, 0), (-1, 3), (3, -1)):
        with pytest.raises(ValueError, match="between 1 and 4 guesses"):
            one_run.guess(scores, coins, num_in=num_in, num_out=num_out)
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        one_run.guess(np.array([0, 1, math.nan, 2]), coins, num_in=1, num_out=1)


@pytest.mark.parametrize("coins", [3, 5])
def test_each_canary_has_one_coin(coins):
    with pytest.raises(ValueError, match=r"coins|included|canaries"):
        one_run.guess(np.arange(4.0), np.ones(coins, bool), num_in=1, num_out=1)


@pytest.mark.parametrize("ins_last", [True, False])
def test_the_order_of_canaries_tells_nothing(ins_last):
    """Equal scores say nothing, even where canaries lie sorted by their coins."""
    coins = np.repeat([not ins_last, ins_last], 100)
    found = one_run.guess(np.zeros(200), coins, num_in=50, num_out=50)
    # Three standard deviations of a guesser without knowledge.
    assert abs(found.correct - 50) <= 15


# jax-privacy 2.0.0's epsilon_one_run and epsilon_one_run_fdp at an explicit threshold:
# they guess "in" at or above it and never "out", so that guessed is TP + FP and correct
# is TP; alpha undivided, as here. Their roots are found to 1e-6; the f-DP one goes over
# dp-accounting's noise for an epsilon, found to 1e-6 as well.
@pytest.mark.parametrize(
    ("guesses", "delta", "alpha", "steinke", "gaussian"),
    [
        ((200, 100, 80), 1e-5, 0.05, 0.9577803068399267, 1.8352848191490077),
        ((1000, 50, 50), 1e-6, 0.05, 2.781889334332235, 4.5403571910958735),
        ((500, 300, 200), 1e-5, 0.01, 0.4031689490142653, 0.6596000661408652),
        ((100, 60, 30), 1e-5, 0.05, 0.0, 0.0),
        ((1000, 1000, 700), 1e-4, 0.05, 0.7292531300505262, 1.1576312874619088),
    ],
)
def test_bounds_equal_jax_privacy(guesses, delta, alpha, steinke, gaussian):
    found = {
        name: bound(Guesses(*guesses), delta=delta, alpha=alpha)
        for name, bound in BOUNDS.items()
    }
    assert found["steinke"].epsilon == pytest.approx(steinke, abs=1e-6)
    assert found["gaussian"].epsilon == pytest.approx(gaussian, abs=1e-6)
    assert found["steinke"].assumes == ""
    assert "Gaussian" in found["gaussian"].assumes
    for bound in found.values():
        assert (bound.delta, bound.alpha) == (delta, alpha)
        assert (bound.num_in, bound.num_out) == guesses[:2]


def test_steinke_of_no_error_is_a_closed_form():
    # Pure DP, up to a delta that does not count: (e^eps / (1 + e^eps))^guessed = alpha.
    chance = ALPHA ** (1 / 40)
    found = one_run.steinke(Guesses(60, 40, 40), delta=1e-14, alpha=ALPHA)
    assert found.epsilon == pytest.approx(math.log(chance / (1 - chance)), abs=1e-8)


@pytest.mark.parametrize("guesses", [(50, 30, 24), (50, 50, 1), (30, 10, 10)])
@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.01])
def test_steinke_p_value_is_theorem_5_2(guesses, delta):
    canaries, guessed, correct = guesses
    chance = 1 / (1 + math.exp(-0.7))
    pmf = stats.binom.pmf(np.arange(guessed + 1), guessed, chance)
    excess = max(
        pmf[correct - fewer : correct].sum() / fewer for fewer in range(1, correct + 1)
    )
    expected = min(1.0, pmf[correct:].sum() + 2 * canaries * delta * excess)
    found = one_run.steinke_p_value(Guesses(*guesses), 0.7, delta)
    assert found == pytest.approx(expected, rel=1e-9)


def test_no_correct_guess_is_no_evidence():
    assert one_run.steinke_p_value(Guesses(50, 30, 0), 0.0, DELTA) == 1.0
    for bound in BOUNDS.values():
        assert bound(Guesses(50, 30, 0), delta=DELTA, alpha=ALPHA).epsilon == 0.0


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_more_correct_guesses_bound_more(bound):
    found = [
        bound(Guesses(200, 100, correct), delta=DELTA, alpha=ALPHA).epsilon
        for correct in range(50, 101, 10)
    ]
    assert found[0] == 0.0
    assert all(one < other for one, other in itertools.pairwise(found[1:]))


@pytest.mark.parametrize("alpha", [0.05, 1e-3])
@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_too_few_guesses_name_the_least(bound, alpha):
    least = math.ceil(math.log2(1 / alpha))
    few = Guesses(100, least - 1, least - 1)
    with pytest.raises(ValueError, match=f"at least {least} canaries"):
        bound(few, delta=1e-12, alpha=alpha)
    enough = one_run.steinke(Guesses(100, least, least), delta=1e-12, alpha=alpha)
    assert enough.epsilon > 0


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("counts", [(100, 50, 60), (10, 50, 50), (100, 50, -1)])
def test_guesses_that_cannot_be_bound_nothing(bound, counts):
    with pytest.raises(ValueError, match=r"guessed|correct"):
        bound(Guesses(*counts), delta=DELTA, alpha=ALPHA)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_bad_probabilities_are_named(bound, bad):
    with pytest.raises(ValueError, match="alpha must lie in"):
        bound(Guesses(100, 50, 40), delta=DELTA, alpha=bad)
    with pytest.raises(ValueError, match="delta must lie in"):
        bound(Guesses(100, 50, 40), delta=bad, alpha=ALPHA)


# Calibration: each bound is above the truth in at most alpha of audits.


def scores(mechanism, rng, coins):
    """Of one release for each canary, of 0 or (where its coin says so) 1."""
    if mechanism == "gaussian":
        return MU * coins + rng.normal(size=len(coins))
    if mechanism == "laplace":
        return coins + rng.laplace(scale=1 / EPSILON, size=len(coins))
    if mechanism == "response":
        told = rng.random(len(coins)) < TRUTH
        return np.where(told, coins, ~coins).astype(float)
    return rng.normal(size=len(coins))


def audits(mechanism, num_in, num_out):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(REPEATS):
        coins = rng.random(CANARIES) < 0.5
        found.append(
            one_run.guess(
                scores(mechanism, rng, coins), coins, num_in=num_in, num_out=num_out
            )
        )
    return found


@functools.cache
def epsilon(name, guesses):
    return BOUNDS[name](guesses, delta=DELTA, alpha=ALPHA).epsilon


def too_often(values, truth):
    assert len(values) == REPEATS
    allowed = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
    return np.mean(np.array(values) > truth) > allowed


@pytest.mark.parametrize("counts", [(100, 0), (60, 60)])
@pytest.mark.parametrize("mechanism", TRUE_EPSILON)
def test_steinke_is_seldom_wrong(mechanism, counts):
    found = [epsilon("steinke", guesses) for guesses in audits(mechanism, *counts)]
    assert not too_often(found, TRUE_EPSILON[mechanism])
    assert np.median(found) >= 0.15 * TRUE_EPSILON[mechanism]


@pytest.mark.parametrize("counts", [(100, 0), (60, 60)])
@pytest.mark.parametrize("mechanism", TRUE_MU)
def test_gaussian_is_seldom_wrong(mechanism, counts):
    found = [epsilon("gaussian", guesses) for guesses in audits(mechanism, *counts)]
    truth = conversions.gdp_epsilon(TRUE_MU[mechanism], DELTA)
    assert not too_often(found, truth)
    assert np.median(found) >= 0.2 * truth


@pytest.mark.parametrize("bound", BOUNDS)
def test_calibration_finds_one_coin_for_all_canaries(bound):
    rng = np.random.default_rng(4)
    found = []
    for _ in range(REPEATS):
        coins = np.full(CANARIES, rng.random() < 0.5)
        guesses = one_run.guess(rng.normal(size=CANARIES), coins, num_in=100, num_out=0)
        found.append(epsilon(bound, guesses))
    assert too_often(found, 0.0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_calibration_finds_counts_chosen_by_the_coins(bound):
    rng = np.random.default_rng(5)
    found = []
    for _ in range(REPEATS):
        values, coins = rng.normal(size=CANARIES), rng.random(CANARIES) < 0.5
        found.append(
            max(
                epsilon(bound, one_run.guess(values, coins, num_in=n, num_out=m))
                for n, m in ((20, 0), (0, 20), (100, 0), (0, 100), (50, 50), (150, 150))
            )
        )
    assert too_often(found, 0.0)
