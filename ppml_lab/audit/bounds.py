"""Lower bounds on epsilon from error counts, and point estimates, which are not bounds.

Every bound is wrong with probability `alpha` at most, over the audited runs; one of
twenty bounds at alpha 0.05 may lie above the truth. A low bound does not show privacy:
the attack may be weak.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from ppml_lab import arguments, checks
from ppml_lab.audit import evidence, tradeoff
from ppml_lab.audit.evidence import Errors
from ppml_lab.dp import conversions


class LowerBound(NamedTuple):
    """A lower bound on epsilon that holds with confidence; plotted as a filled mark.

    Attributes:
      epsilon: The bound.
      delta: The delta at which the bound holds.
      alpha: The probability that the bound is wrong.
      method: The theorem.
      assumes: The theorem's assumption beside independent runs, "" for none.
      num_in: Runs (or canaries) with the canary in.
      num_out: Runs (or canaries) with the canary out.
      rule: How the threshold was chosen.
    """

    epsilon: float
    delta: float
    alpha: float
    method: str
    assumes: str
    num_in: int
    num_out: int
    rule: str


class PointEstimate(NamedTuple):
    """An estimate of epsilon without any confidence; plotted hollow, never a bound.

    Attributes:
      epsilon: The estimate.
      delta: The delta at which it is made.
      method: The method of the estimate.
    """

    epsilon: float
    delta: float
    method: str


class GaussianShift(NamedTuple):
    """A lower bound on mu: the mechanism is not mu'-GDP for any mu' below it.

    Attributes:
      mu: The bound, never negative.
      alpha: The probability that the bound is wrong.
      errors: The errors that the bound was made from.
    """

    mu: float
    alpha: float
    errors: Errors


@arguments.checked
def clopper_pearson(errors: Errors, *, delta: float, alpha: float) -> LowerBound:
    """The lower bound on epsilon at delta from the errors at one threshold.

    Jagielski, Ullman, Oprea, "Auditing Differentially Private Machine Learning",
    NeurIPS 2020, in both directions, which share the two events that can fail. With n
    runs on a side the bound cannot exceed `ceiling(n, ...)`.

    **Guarantee:** valid for any mechanism.

    Raises:
      ValueError: For an alpha or delta out of range, or too few runs.
    """
    _check(errors, delta, alpha)
    fnr, fpr = evidence.rates(errors, alpha)
    ratios = [(1 - delta - fnr) / fpr, (1 - delta - fpr) / fnr, 1.0]
    epsilon = math.log(max(ratios))
    return _bound(errors, epsilon, delta, alpha, "Clopper-Pearson", "")


@arguments.checked
def gaussian_mu(errors: Errors, *, alpha: float) -> GaussianShift:
    """The lower bound on mu: the mechanism is not mu'-GDP for any mu' below it.

    Nasr et al., "Tight Auditing of Differentially Private Machine Learning", USENIX
    Security 2023.

    **Guarantee:** valid for any mechanism as a statement about mu.

    Raises:
      ValueError: For an alpha out of range, or too few runs.
    """
    _check(errors, 0.5, alpha)
    fnr, fpr = evidence.rates(errors, alpha)
    # Not the absolute value: errors above one half are no evidence.
    mu = max(0.0, float(evidence.gaussian_shift(fnr, fpr)))
    return GaussianShift(mu if math.isfinite(mu) else 0.0, alpha, errors)


@arguments.checked
def gaussian(errors: Errors, *, delta: float, alpha: float) -> LowerBound:
    """The epsilon of the Gaussian mechanism under which errors are as rare.

    **Guarantee:** valid where the mechanism's trade-off curve is a Gaussian's: releases
    with Gaussian noise, not sampled. For sampled ones use `sampled_gaussian`.

    Raises:
      ValueError: For an alpha or delta out of range, or too few runs.
    """
    _check(errors, delta, alpha)
    mu = gaussian_mu(errors, alpha=alpha).mu
    epsilon = conversions.gdp_epsilon(mu, delta)
    return _bound(
        errors, epsilon, delta, alpha, "Gaussian DP", "a Gaussian trade-off curve"
    )


@arguments.checked
def sampled_gaussian(
    errors: Errors,
    *,
    sampling_prob: float,
    num_rounds: int,
    delta: float,
    alpha: float,
) -> LowerBound:
    """The family bound: epsilon at the least noise of a refuted sampled Gaussian.

    That is the smallest noise whose sampled Gaussian mechanism the errors refute (after
    Nasr et al. 2023); its epsilon is by a PLD rounded down.

    **Guarantee:** valid if the audited mechanism is one of that family, with this
    sampling and length: it says how much noise there was, not whether the code is
    private at all; for that see `tradeoff.judge`.

    Raises:
      ValueError: For an alpha or delta out of range, or too few runs.
    """
    from ppml_lab.dp import accounting

    _check(errors, delta, alpha)
    noise = tradeoff.least_refuted_noise(errors, sampling_prob, num_rounds, alpha)
    epsilon = 0.0
    if math.isfinite(noise):
        event = tradeoff.sampled_gaussian(noise, sampling_prob, num_rounds)
        epsilon = accounting.epsilon_from_below(event, delta)
    family = f"Poisson-sampled Gaussian, {sampling_prob:g} x {num_rounds} rounds"
    return _bound(errors, epsilon, delta, alpha, "family", family)


@arguments.checked
def ceiling(num_runs: int, *, delta: float, alpha: float) -> float:
    """The most that `clopper_pearson` can certify with `num_runs` on each side.

    It takes no errors at all. A bound near the ceiling is a property of the audit, not
    of privacy.
    """
    checks.at_least("num_runs", num_runs, 1)
    checks.probability("delta", delta, allow_one=False)
    evidence.check_enough(num_runs, alpha, name="num_runs")
    upper = float(evidence.upper_limit(0, num_runs, alpha / 2))
    return math.log(max(1.0, (1 - delta - upper) / upper))


@arguments.checked
def two_gaussians(
    seen: evidence.Scores, unseen: evidence.Scores, *, delta: float
) -> PointEstimate:
    """The epsilon between normal distributions fitted to seen and unseen canaries.

    The distributions are fitted to the scores: Andrew, Kairouz, Oh, Oprea, McMahan,
    Suriyakumar, "One-shot Empirical Privacy Estimation for Federated Learning", ICLR
    2024. This is a point estimate: it may lie far above the truth as well as below.

    Raises:
      ValueError: For NaN, fewer than 10 scores of either, or scores without spread.
    """
    checks.probability("delta", delta, allow_one=False)
    inside, outside = evidence.check_scores(seen, unseen)
    for name, group in (("seen", inside), ("unseen", outside)):
        spread = float(np.std(group)) if len(group) else 0.0
        if len(group) < 10 or not spread > 0:
            raise ValueError(
                f"{name} has {len(group)} scores with standard deviation {spread:g}; a "
                "fit needs at least 10 scores, not all equal"
            )
    fits = [(group.mean(), group.std(ddof=1)) for group in (outside, inside)]
    low = min(mean - 40 * spread for mean, spread in fits)
    high = max(mean + 40 * spread for mean, spread in fits)
    grid = np.linspace(low, high, 200_001)
    out, within = (
        -0.5 * ((grid - mean) / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
        for mean, spread in fits
    )
    step = grid[1] - grid[0]

    def excess(epsilon: float) -> float:
        deltas = []
        for one, other in ((within, out), (out, within)):
            gap = one - other - epsilon
            part = np.where(gap > 0, -np.exp(one) * np.expm1(-np.maximum(gap, 0)), 0)
            deltas.append(float(part.sum() * step))
        return max(deltas) - delta

    if excess(0.0) <= 0:
        return PointEstimate(0.0, delta, "two Gaussians")
    most = 1.0
    while excess(most) > 0 and most < 1e15:
        most *= 2
    root = float(optimize.brentq(excess, 0.0, most, xtol=1e-6))  # pyrefly: ignore
    return PointEstimate(root, delta, "two Gaussians")


@arguments.checked
def smallest_gdp_of_pure(epsilon: float) -> float:
    """The smallest mu for which every pure `epsilon`-DP mechanism is mu-GDP.

    Randomised response reaches it.
    """
    checks.within("epsilon", epsilon, 0, math.inf)
    return float(-2 * special.ndtri(special.expit(-epsilon)))


def _check(errors: Errors, delta: float, alpha: float) -> None:
    checks.probability("alpha", alpha, allow_one=False)
    checks.probability("delta", delta, allow_one=False)
    evidence.check_enough(min(errors.num_in, errors.num_out), alpha)


def _bound(
    errors: Errors, epsilon: float, delta: float, alpha: float, *how: str
) -> LowerBound:
    method, assumes = how
    return LowerBound(
        epsilon,
        delta,
        alpha,
        method,
        assumes,
        errors.num_in,
        errors.num_out,
        errors.rule,
    )
