"""Trade-off curves against exact ones, and how often a claim is refuted."""

from __future__ import annotations

import functools
import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from ppml_lab import base
from ppml_lab.audit import evidence, tradeoff
from ppml_lab.audit.evidence import Errors
from ppml_lab.dp import events

ALPHA, REPEATS, RUNS = 0.05, 200, 2000
MU, EPSILON = 1.0, 1.5
FPR = np.linspace(0, 1, 401)


def claim(event, relation="add_or_remove_one"):
    return base.PrivacyEvent(event, relation, "example")


def gaussian_curve(mu, fpr=FPR):
    return stats.norm.cdf(stats.norm.isf(fpr) - mu)


def laplace_curve(epsilon, fpr=FPR):
    middle = math.exp(-epsilon) / (4 * np.clip(fpr, math.exp(-epsilon) / 2, 1))
    steep, flat = 1 - math.exp(epsilon) * fpr, math.exp(-epsilon) * (1 - fpr)
    return np.where(
        fpr < math.exp(-epsilon) / 2, steep, np.where(fpr < 0.5, middle, flat)
    )


def response_curve(epsilon, fpr=FPR):
    return np.maximum(1 - math.exp(epsilon) * fpr, math.exp(-epsilon) * (1 - fpr))


def response_event(epsilon):
    return events.randomised_response(2 / (1 + math.exp(epsilon)), 2)


@pytest.mark.parametrize(
    ("event", "exact"),
    [
        (claim(events.gaussian(1)), gaussian_curve(1)),
        (claim(events.gaussian(2)), gaussian_curve(0.5)),
        (claim(events.compose(events.gaussian(3), 4)), gaussian_curve(2 / 3)),
        (claim(events.laplace(0.5)), laplace_curve(2)),
        (claim(events.laplace(2)), laplace_curve(0.5)),
        (claim(response_event(1.5), "replace_one"), response_curve(1.5)),
    ],
    ids=["gaussian", "much noise", "composed", "laplace", "weak laplace", "response"],
)
def test_claimed_is_the_exact_curve_from_below(event, exact):
    found = tradeoff.claimed(event).least_fnr(FPR)
    assert np.all(found <= exact + 1e-12)
    np.testing.assert_allclose(found, exact, rtol=0, atol=4e-4)


def test_claimed_without_pld_is_by_rdp():
    # rho-zCDP allows more than the Gaussian with this rho.
    event = claim(dp_accounting.ZCDpEvent(0.5), "replace_one")
    found = tradeoff.claimed(event).least_fnr(FPR)
    assert np.all(found <= gaussian_curve(1))
    assert found[100] > 0.1


def test_claimed_is_of_the_event_not_the_population():
    # In which a delta of 1 would be warned of.
    event = claim(events.gaussian(1))
    found = tradeoff.claimed(event._replace(population=50))
    np.testing.assert_array_equal(found.deltas, tradeoff.claimed(event).deltas)


def test_a_claim_of_nothing_cannot_be_audited():
    with pytest.raises(ValueError, match="promises nothing"):
        tradeoff.claimed(base.PrivacyEvent(events.gaussian(1), "replace_one", None))


def test_least_fnr_by_hand():
    curve = tradeoff.TradeOff(np.array([0.0, math.log(4)]), np.array([0.3, 0.1]))
    # By epsilon 0: 0.7 - fpr; by log 4: 0.9 - 4 fpr and (0.9 - fpr) / 4.
    found = curve.least_fnr(np.array([0.0, 0.02, 0.1, 0.7, 0.95]))
    np.testing.assert_allclose(found, [0.9, 0.82, 0.6, 0.05, 0.0], atol=1e-12)
    assert curve.least_fnr(0.1) == pytest.approx(0.6)


def test_judge_compares_the_limits():
    curve = tradeoff.TradeOff(np.array([0.0]), np.array([0.2]))
    errors = Errors(20, 100, 30, 100, "halves")
    limits = evidence.rates(errors, ALPHA)
    found = tradeoff.judge(errors, curve, ALPHA)
    assert found.margin == pytest.approx(0.8 - limits.fpr - limits.fnr, abs=1e-12)
    assert found.rates == limits
    assert found.refuted
    # The same rates from fewer runs.
    assert not tradeoff.judge(Errors(4, 20, 6, 20, "halves"), curve, ALPHA).refuted


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5, math.nan])
def test_judge_names_a_bad_alpha(alpha):
    curve = tradeoff.TradeOff(np.array([0.0]), np.array([0.2]))
    errors = Errors(20, 100, 30, 100, "halves")
    with pytest.raises(ValueError, match="alpha must lie in"):
        tradeoff.judge(errors, curve, alpha)


def test_least_refuted_noise_approaches_the_truth_from_above():
    # More noise than there is is refuted sooner; the grid has steps of 2%.
    rate, noise = stats.norm.cdf(-0.1), 5.0
    found = []
    for runs in (10**5, 10**7, 10**9):
        errors = math.ceil(rate * runs)
        counted = Errors(errors, runs, errors, runs, "preregistered")
        found.append(tradeoff.least_refuted_noise(counted, 1.0, 1, ALPHA))
    assert found == sorted(found, reverse=True)
    assert noise < found[-1] < 1.025 * noise
    assert found[0] > 1.05 * noise


def test_no_noise_is_refuted_without_evidence():
    chance = Errors(50, 100, 50, 100, "halves")
    assert tradeoff.least_refuted_noise(chance, 1.0, 1, ALPHA) == math.inf


# Calibration: a true claim is refuted in at most alpha of audits.


def sampled(rng, present, noise, prob, runs):
    """The log likelihood ratio of two rounds."""
    joined = rng.random((runs, 2)) < present * prob
    seen = joined + noise * rng.normal(size=(runs, 2))
    ratio = np.exp((2 * seen - 1) / (2 * noise**2))
    return np.log(1 - prob + prob * ratio).sum(axis=1)


def scores(mechanism, rng, present, runs=RUNS):
    """Of runs of the mechanism on 0 or, where `present`, on 1."""
    if mechanism == "null":
        return rng.normal(size=runs)
    if mechanism == "gaussian":
        return present + rng.normal(scale=1 / MU, size=runs)
    if mechanism == "laplace":
        return present + rng.laplace(scale=1 / EPSILON, size=runs)
    if mechanism == "response":
        told = rng.random(runs) < 1 / (1 + math.exp(-EPSILON))
        return np.where(told, present, 1 - present).astype(float)
    return sampled(rng, present, 1.5, 0.5, runs)


CLAIMS = {
    "null": claim(events.gaussian(50)),
    "gaussian": claim(events.gaussian(1 / MU)),
    "laplace": claim(events.laplace(1 / EPSILON)),
    "response": claim(response_event(EPSILON), "replace_one"),
    "sampled": tradeoff.sampled_gaussian(1.5, 0.5, 2),
}


@functools.cache
def audits(mechanism):
    rng = np.random.default_rng(6)
    return [
        evidence.halves(
            scores(mechanism, rng, True),
            scores(mechanism, rng, False),
            seed=repeat,
            alpha=ALPHA,
        )
        for repeat in range(REPEATS)
    ]


def refuted(mechanism, event):
    curve = tradeoff.claimed(event)
    verdicts = [tradeoff.judge(one, curve, ALPHA).refuted for one in audits(mechanism)]
    return np.mean(verdicts)


SLOW = ("null", "laplace")  # the sampled and the Gaussian curve judge the same way


@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in SLOW else [])
        for name in CLAIMS
    ],
)
def test_a_true_claim_is_seldom_refuted(mechanism):
    allowed = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
    assert refuted(mechanism, CLAIMS[mechanism]) <= allowed


# With 0.6 of the claimed noise, or e^0.6 of the claimed odds.
@pytest.mark.parametrize(
    ("mechanism", "event"),
    [
        ("gaussian", claim(events.gaussian(1 / (0.6 * MU)))),
        ("laplace", claim(events.laplace(1 / (0.6 * EPSILON)))),
        ("response", claim(response_event(0.6 * EPSILON), "replace_one")),
    ],
)
def test_a_claim_of_too_little_leakage_is_refuted(mechanism, event):
    assert refuted(mechanism, event) > 0.9
    # By one threshold that no single (epsilon, delta) had to name.
    assert (
        tradeoff.judge(audits(mechanism)[0], tradeoff.claimed(event), 1e-3).margin > 0
    )


def test_judging_by_the_rates_themselves_refutes_true_claims():
    """The calibration above can fail: without limits it does."""
    curve = tradeoff.claimed(CLAIMS["gaussian"])
    wrong = [
        one.missed / one.num_in < curve.least_fnr(one.false_alarms / one.num_out)
        for one in audits("gaussian")
    ]
    assert np.mean(wrong) > 0.2


def test_refuting_picks_the_rates_that_refute_the_smallest_noise():
    rates = np.array([(0.30, 0.30), (0.02, 0.90), (0.85, 0.02), (0.60, 0.60)])
    margins = tradeoff.refuting(1.0, 1)(rates[:, 0], rates[:, 1])
    noises = [tradeoff._refuted(fnr, fpr, 1.0, 1)[0] for fnr, fpr in rates]
    assert np.argmax(margins) == np.argmin(noises)
    # By their Gaussian shifts, for plain Gaussians.
    shifts = evidence.gaussian_shift(rates[:, 0], rates[:, 1])
    np.testing.assert_allclose(np.array(noises[:3]), 1 / shifts[:3], rtol=0.03)
    assert noises[3] == math.inf
