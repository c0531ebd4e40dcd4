"""The cost of releasing only the best of several private runs.

Papernot, Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR 2022:
if the number of runs is random and secret, the best run costs little more than one run,
whatever their number; the composition of all runs (`dp.ledger`) costs far more.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accountants, accounting, events, rdp

_MOST_STOP = 700.0
"""The largest log(1 / gamma) whose exponential is a float."""


class Stopping(NamedTuple):
    """A distribution of the number of runs.

    Attributes:
      mean: The expected number of runs.
      shape: The shape of the truncated negative binomial distribution, eta in the
        paper: 1 is the geometric, 0 the logarithmic, inf the Poisson distribution.
      stop: log(1 / gamma) for gamma, its other parameter; 0 for Poisson.
    """

    mean: float
    shape: float
    stop: float


@arguments.checked
def negative_binomial(mean: SupportsFloat, shape: SupportsFloat) -> Stopping:
    """A truncated negative binomial number of runs, at least one.

    The probability of k is in proportion to
    `(1 - gamma)^k prod_{l<k} (l + shape)/(l + 1)`.

    Args:
      mean: The expected number of runs, at least 1.
      shape: Above -1; the smaller, the heavier the tail and the lower the cost.

    Raises:
      ValueError: If an argument is out of range, or no gamma gives this mean.
    """
    mean, shape = _mean(mean), events.to_float("shape", shape)
    if not (-1 < shape < math.inf):
        raise ValueError(f"shape must be finite and above -1, got {shape}")
    if _expected_runs(shape, _MOST_STOP) < mean:
        raise ValueError(
            f"mean {mean:g} is out of reach with shape {shape:g}; raise shape"
        )
    low, high = 0.0, _MOST_STOP
    while mean > 1 and (middle := (low + high) / 2) not in (low, high):
        if _expected_runs(shape, middle) < mean:
            low = middle
        else:
            high = middle
    return Stopping(mean, shape, high if mean > 1 else 0.0)


@arguments.checked
def geometric(mean: SupportsFloat) -> Stopping:
    """A geometric number of runs: stop after each with probability 1 / mean.

    `mean` is at least 1.
    """
    return negative_binomial(mean, 1.0)


@arguments.checked
def logarithmic(mean: SupportsFloat) -> Stopping:
    """A logarithmic number of runs with this `mean`, at least 1."""
    return negative_binomial(mean, 0.0)


@arguments.checked
def poisson(mean: SupportsFloat) -> Stopping:
    """A Poisson number of runs, with the least spread of the distributions here.

    With probability exp(-mean) there is no run, and nothing is released; `mean` is at
    least 1.
    """
    return Stopping(_mean(mean), math.inf, 0.0)


def rdp_of_best(
    stopping: Stopping,
    values: Float[np.ndarray, " orders"],
    orders: Float[np.ndarray, " orders"],
) -> Float[np.ndarray, " orders"]:
    """RDP of releasing the best of a random number of runs.

    Theorem 2 (truncated negative binomial) at its best second order, and Theorem 6
    (Poisson), of Papernot and Steinke. The divergence never falls with the order, so
    that the bound at an order holds at all lower orders.

    **Guarantee:** holds if every run has RDP `values` for its output and its score
    together (or the score uses no private data), draws its hyperparameters afresh from
    a fixed distribution, and if nothing else is released: not how many runs there were,
    nor any other run's output.

    Args:
      stopping: How the number of runs is drawn, independently of the data.
      values: RDP of ONE run at each order, in nats; inf where unknown.
      orders: Above 1, rising.

    Returns:
      One value per order, in nats.
    """
    gap = orders - 1
    if math.isinf(stopping.shape):
        # delta at the epsilon whose exponential is 1 + 1 / gap.
        deltas = rdp.delta_of_rdp(values, orders, np.log1p(1 / gap))
        extra = stopping.mean * deltas
    else:
        # At a second order of 1 the divergence does not count.
        second = np.append(
            (1 - 1 / orders) * values + stopping.stop / orders, stopping.stop
        )
        extra = (1 + stopping.shape) * np.min(second)
    bound = values + extra + math.log(stopping.mean) / gap
    return np.minimum.accumulate(bound[::-1])[::-1]


@arguments.checked
def epsilon(
    privacy_event: PrivacyEvent, delta: SupportsFloat, stopping: Stopping
) -> float:
    """The epsilon of releasing only the best of a random number of runs, by RDP.

    **Guarantee:** as `rdp_of_best` says, for the event's unit and relation. What may
    fail in a run (`events.failing`) counts for every expected run.

    Args:
      privacy_event: The cost of ONE run; if runs differ, of the costliest run.
      delta: In (0, 1).
      stopping: How the number of runs is drawn.

    Returns:
      A Python float; inf where nothing is promised.

    Raises:
      events.UnsupportedEventError: If RDP has no bound for the event.
      ValueError: If an argument is out of range.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    curve = accounting.rdp_curve(privacy_event)
    best = rdp_of_best(stopping, curve.values, rdp.ORDERS)
    left = accountants.delta_left(
        delta, stopping.mean * curve.failure, stopping.mean * curve.outside
    )
    if left == 0:
        return math.inf
    return float(rdp.epsilon_of_rdp(best, rdp.ORDERS, left))


@arguments.checked
def sweep_costs(
    privacy_event: PrivacyEvent, num_runs: SupportsInt, delta: SupportsFloat
) -> dict[str, float]:
    """The epsilon of a sweep of `num_runs` runs that cost the same, by RDP.

    Returns:
      By name: "one_run", "all_runs" (their composition: whoever looks at all results,
      even if only to choose, spends this) and, for the best of as many runs in
      expectation, "best_geometric", "best_logarithmic" and "best_poisson".

    Raises:
      ValueError: As `epsilon` does.
    """
    checks.at_least("num_runs", num_runs, 1)
    together = events.compose(privacy_event.event, num_runs)
    laws: dict[str, Any] = {
        "best_geometric": geometric,
        "best_logarithmic": logarithmic,
        "best_poisson": poisson,
    }
    return {
        "one_run": accounting.epsilon(privacy_event, delta),
        "all_runs": accounting.epsilon(privacy_event._replace(event=together), delta),
    } | {
        name: epsilon(privacy_event, delta, law(int(num_runs)))
        for name, law in laws.items()
    }


def _expected_runs(shape: float, stop: float) -> float:
    """The mean of the truncated negative binomial with gamma = exp(-stop)."""
    if stop < 1e-15:
        return 1.0
    if shape == 0:
        return math.expm1(stop) / stop
    return math.expm1(stop) * shape / -math.expm1(-shape * stop)


def _mean(value: Any) -> float:
    mean = events.to_float("mean", value)
    if not (1 <= mean < math.inf):
        raise ValueError(f"mean must be finite and at least 1, got {mean}")
    return mean
