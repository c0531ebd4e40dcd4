"""Conversions between notions of privacy: zCDP, Gaussian DP and (epsilon, delta).

All functions run on the host, on single numbers. Rényi DP's conversion is in `dp.rdp`,
because compiled rounds use it too.
"""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

from ppml_lab import checks
from ppml_lab.dp import events

_LEAST_GAP, _MOST_GAP = 1e-9, 1e9
_MOST_MU = 1e5


def gdp_delta(mu: SupportsFloat, epsilon: SupportsFloat) -> float:
    """The delta of mu-Gaussian DP at `epsilon`.

    Dong, Roth, Su, "Gaussian Differential Privacy", JRSS B 2022, Corollary 2.13. For
    the Gaussian mechanism, whose mu is sensitivity / stddev: Balle, Wang, "Improving
    the Gaussian Mechanism for Differential Privacy", ICML 2018, Theorem 8. Mechanisms
    with mu_1, mu_2, ... compose to `sqrt(mu_1^2 + mu_2^2 + ...)`.

    **Guarantee:** exact up to rounding: a mu-GDP mechanism is (epsilon, delta)-DP, and
    the Gaussian mechanism with that mu is so for no smaller delta.

    Args:
      mu: The shift between unit Gaussians that are as hard to tell apart, at least 0.
      epsilon: At least 0.

    Returns:
      A Python float in [0, 1].

    Raises:
      ValueError: If an argument is negative, infinite or NaN.
    """
    from scipy import special

    mu, epsilon = _number("mu", mu), _number("epsilon", epsilon)
    if mu == 0:
        return 0.0
    upper = float(special.log_ndtr(mu / 2 - epsilon / mu))
    lower = epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))
    # The difference of two numbers that may both be near 1, or both tiny.
    return math.exp(upper) * -math.expm1(min(lower - upper, 0.0))


def gdp_epsilon(mu: SupportsFloat, delta: SupportsFloat) -> float:
    """The epsilon of mu-Gaussian DP at `delta`: the inverse of `gdp_delta`.

    **Guarantee:** `gdp_delta(mu, result) <= delta`, up to rounding.

    Args:
      mu: At least 0.
      delta: In (0, 1).

    Returns:
      A Python float, at least 0.

    Raises:
      ValueError: If an argument is out of range.
    """
    from scipy import special

    mu, delta = _number("mu", mu), _delta(delta)
    if gdp_delta(mu, 0.0) <= delta:
        return 0.0
    # Beyond this the larger of the two tail probabilities is below delta by itself.
    most = mu * (mu / 2 - float(special.ndtri(delta)))
    return _last_above(lambda epsilon: gdp_delta(mu, epsilon) - delta, most, 0.0)


def gdp_mu(epsilon: SupportsFloat, delta: SupportsFloat) -> float:
    """The largest mu whose Gaussian DP implies (epsilon, delta)-DP.

    **Guarantee:** `gdp_delta(result, epsilon) <= delta`, up to rounding.

    Args:
      epsilon: At least 0.
      delta: In (0, 1).

    Returns:
      A Python float, positive; at most 1e5.

    Raises:
      ValueError: If an argument is out of range.
    """
    epsilon, delta = _number("epsilon", epsilon), _delta(delta)
    if gdp_delta(_MOST_MU, epsilon) <= delta:
        return _MOST_MU
    return _last_above(lambda mu: gdp_delta(mu, epsilon) - delta, 0.0, _MOST_MU)


def analytic_gaussian_stddev(
    epsilon: SupportsFloat, delta: SupportsFloat, sensitivity: SupportsFloat
) -> float:
    """The least noise stddev with which ONE Gaussian release is (epsilon, delta)-DP.

    Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical
    Calibration and Optimal Denoising", ICML 2018, Algorithm 1's calibration, solved by
    bisection of its exact delta. For runs of many releases, or sampled ones, take
    `accounting.calibrate_noise_multiplier`.

    **Guarantee:** a release of a function with this L2 sensitivity plus Gaussian noise
    of the returned standard deviation on every coordinate is (epsilon, delta)-DP under
    the relation of the sensitivity; with a relative 1e-12 less noise it need not be.

    Args:
      epsilon: At least 0.
      delta: In (0, 1).
      sensitivity: L2, in the units of the release; positive.

    Returns:
      The standard deviation, in the units of the sensitivity; a Python float.

    Raises:
      ValueError: If an argument is out of range.
    """
    norm = events.to_float("sensitivity", sensitivity)
    checks.positive("sensitivity", norm)
    return norm / gdp_mu(epsilon, delta)


def zcdp_delta(rho: SupportsFloat, epsilon: SupportsFloat) -> float:
    """The delta of rho-zCDP at `epsilon`.

    Zero-concentrated DP (Bun, Steinke, "Concentrated Differential Privacy", TCC 2016)
    is RDP of rho times the order at every order; converted by Canonne, Kamath, Steinke,
    "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, Corollary 13, at the
    best order. Mechanisms compose by adding rho; a Gaussian release has rho =
    (sensitivity / stddev)^2 / 2.

    **Guarantee:** a rho-zCDP mechanism is (epsilon, delta)-DP.

    Args:
      rho: At least 0.
      epsilon: At least 0.

    Returns:
      A Python float in [0, 1].

    Raises:
      ValueError: If an argument is negative, infinite or NaN.
    """
    rho, epsilon = _number("rho", rho), _number("epsilon", epsilon)
    if rho == 0:
        return 0.0
    log_delta = _least(
        lambda gap: gap * ((gap + 1) * rho - epsilon) + _log_slack(gap),
    )
    return math.exp(min(log_delta, 0.0))


def zcdp_epsilon(rho: SupportsFloat, delta: SupportsFloat) -> float:
    """The epsilon of rho-zCDP at `delta`: the inverse of `zcdp_delta`.

    **Guarantee:** a rho-zCDP mechanism is (epsilon, delta)-DP; never more than the
    closed form `rho + 2 sqrt(rho log(1 / delta))` of Bun and Steinke's Proposition 1.3.

    Args:
      rho: At least 0.
      delta: In (0, 1).

    Returns:
      A Python float, at least 0.

    Raises:
      ValueError: If an argument is out of range.
    """
    rho, delta = _number("rho", rho), _delta(delta)
    if rho == 0:
        return 0.0
    log_delta = math.log(delta)
    return max(
        0.0,
        _least(lambda gap: (gap + 1) * rho + (_log_slack(gap) - log_delta) / gap),
    )


def _log_slack(gap: float) -> float:
    """log((1 - 1/a)^(a - 1) / a) at order a = gap + 1."""
    return gap * (math.log(gap) - math.log1p(gap)) - math.log1p(gap)


def _least(bound: Any) -> float:
    """The least value of a bound over orders.

    The bound at any order is valid, so the end of the search affects tightness only.
    """
    from scipy import optimize

    found: Any = optimize.minimize_scalar(
        lambda log_gap: bound(math.exp(log_gap)),
        bounds=(math.log(_LEAST_GAP), math.log(_MOST_GAP)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.fun)


def _last_above(excess: Any, safe: float, unsafe: float) -> float:
    """The last number from `safe` towards `unsafe` at which `excess` is not positive.

    By bisection, down to neighbouring floats.
    """
    while True:
        middle = (safe + unsafe) / 2
        if middle in (safe, unsafe):
            return safe
        if excess(middle) > 0:
            unsafe = middle
        else:
            safe = middle


def _number(name: str, value: Any) -> float:
    number = events.to_float(name, value)
    checks.non_negative(name, number)
    return number


def _delta(value: Any) -> float:
    delta = events.to_float("delta", value)
    checks.probability("delta", delta, allow_one=False)
    return delta
