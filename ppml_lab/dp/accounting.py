"""Epsilon on the host: what a run costs, and the noise that a budget asks for.

Two accountants stand behind one function. "rdp" is the headline: Rényi differential
privacy (Mironov, "Rényi Differential Privacy", CSF 2017), of the sampled Gaussian
mechanism (Mironov, Talwar and Zhang, 2019, arXiv:1908.10530; of fixed-size cohorts:
Wang, Balle and Kasiviswanathan, AISTATS 2019), converted by Canonne, Kamath and
Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, Proposition
12. "pld" is the tighter one beside it: privacy loss distributions (Koskela, Jälkö and
Honkela, AISTATS 2020), discretised from above by connecting the dots (Doroshenko et
al., PoPETs 2022).

RDP of the Poisson-subsampled Gaussian and the conversion are our own (`dp.rdp`); the
rest is dp-accounting's. Before any accountant sees an event it is flattened
(`dp.events`) into counted mechanisms whose parameters are checked Python floats.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from jaxtyping import Float

from ppml_lab import checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accountants, events, rdp

ACCOUNTANTS = accountants.NAMES


class RdpCurve(NamedTuple):
    """What RDP says of an event.

    Attributes:
      values: RDP in nats at `rdp.ORDERS`, given that nothing fails; inf where unknown.
      failure: The probability that something fails (`events.failing`), part of delta.
    """

    values: Float[np.ndarray, " orders"]
    failure: float


def supports(privacy_event: PrivacyEvent, accountant: str) -> bool:
    """Whether `epsilon` has an answer: leave the table's cell empty where it has none.
    Invalid parameters raise all the same.
    """
    try:
        accountants.flat(privacy_event, accountant)
    except events.UnsupportedEventError:
        return False
    return True


def epsilon(
    privacy_event: PrivacyEvent, delta: SupportsFloat, accountant: str = "rdp"
) -> float:
    """The epsilon of an event at `delta`.

    **Guarantee:** a mechanism that does what the event says, with real-valued noise, is
    (epsilon, delta)-differentially private for the event's privacy unit under its
    neighbouring relation, up to floating-point rounding in the accountant. This says
    nothing about whether the code does what the event says.

    Args:
      privacy_event: The event of a whole run and what it promises to whom.
      delta: In (0, 1), well below 1 / population: warns above it.
      accountant: "rdp", the headline, or "pld", tighter, for Gaussian and Laplace
        releases and Poisson sampling. PLD discretises privacy loss by 1e-4, and by more
        where RDP's epsilon exceeds 10, so that time and memory stay bounded.

    Returns:
      A Python float; inf where nothing is promised or noise is below 1e-3 of the
      sensitivity.

    Raises:
      events.UnsupportedEventError: A ValueError: the accountant has no bound;
        `supports` asks without raising.
      ValueError: If an argument or a parameter of the event is out of range, or if
        what may fail (`events.failing`) uses up delta.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    _warn_of_large_delta(privacy_event, delta)
    mechanisms, failure = accountants.flat(privacy_event, accountant)
    left = delta_left(delta, failure)
    total = accountants.rdp_total(mechanisms)
    by_rdp = float(rdp.epsilon_of_rdp(total, rdp.ORDERS, left))
    if accountant == "rdp" or math.isinf(by_rdp):
        return by_rdp
    return accountants.pld_epsilon(frozenset(mechanisms.items()), left, by_rdp)


def epsilons(
    noise_multipliers: Iterable[SupportsFloat],
    sampling_prob: SupportsFloat,
    num_steps: SupportsInt,
    delta: SupportsFloat,
    accountant: str = "rdp",
) -> list[float]:
    """`epsilon` of Poisson-sampled Gaussian runs that differ in their noise.

    Args:
      noise_multipliers: Stddev over L2 sensitivity when one contribution is added or
        removed; 0 is no privacy.
      sampling_prob: In (0, 1].
      num_steps: Draws of the whole run, at least 1.
      delta: In (0, 1).
      accountant: "rdp" or "pld".

    Returns:
      One Python float for each noise multiplier, with `epsilon`'s guarantee.

    Raises:
      ValueError: If an argument is out of range.
    """

    def run(noise_multiplier: SupportsFloat) -> PrivacyEvent:
        step = events.poisson(sampling_prob, events.gaussian(noise_multiplier))
        return PrivacyEvent(
            events.compose(step, num_steps), "add_or_remove_one", "example"
        )

    return [epsilon(run(noise), delta, accountant) for noise in noise_multipliers]


def epsilon_curve(
    privacy_event: PrivacyEvent,
    rounds: Iterable[SupportsInt],
    delta: SupportsFloat,
    accountant: str = "rdp",
) -> list[float]:
    """`epsilon` along a run: after each number of `rounds`, each at least 1, of an
    event that states ONE round. Raises as `epsilon` does.
    """
    once = privacy_event.event
    return [
        epsilon(
            privacy_event._replace(event=events.compose(once, count)), delta, accountant
        )
        for count in rounds
    ]


def delta_curve(
    privacy_event: PrivacyEvent,
    epsilons: Iterable[SupportsFloat],
    accountant: str = "rdp",
) -> list[float]:
    """The delta of an event at each of `epsilons`: its privacy profile.

    **Guarantee:** `epsilon`'s, at every point; the probability that something fails
    (`events.failing`) is part of delta.

    Args:
      privacy_event: The event of a whole run.
      epsilons: Finite, at least 0.
      accountant: "rdp" or "pld".

    Returns:
      Python floats in [0, 1]; 1 where nothing is promised.

    Raises:
      events.UnsupportedEventError: If the accountant has no bound for the event.
      ValueError: If an argument is out of range.
    """
    points = [events.to_float("epsilons", value) for value in epsilons]
    for value in points:
        checks.non_negative("epsilons", value)
    mechanisms, failure = accountants.flat(privacy_event, accountant)
    total = accountants.rdp_total(mechanisms)
    deltas = rdp.delta_of_rdp(total, rdp.ORDERS, np.array(points, float)).tolist()
    if accountant == "pld" and np.isfinite(total).any():
        by_rdp = float(rdp.epsilon_of_rdp(total, rdp.ORDERS, 1e-6))
        counted = frozenset(mechanisms.items())
        deltas = accountants.pld_deltas(counted, points, by_rdp)
    return [min(1.0, value + failure) for value in deltas]


def rdp_curve(privacy_event: PrivacyEvent) -> RdpCurve:
    """The RDP of an event, for conversions other than `epsilon`; raises as it does."""
    mechanisms, failure = accountants.flat(privacy_event, "rdp")
    return RdpCurve(accountants.rdp_total(mechanisms), failure)


def old_conversion_epsilon(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """Epsilon by RDP as papers printed it before 2020, to compare with them.

    The conversion of Mironov, "Rényi Differential Privacy", CSF 2017, Proposition 3:
    `rdp + log(1 / delta) / (order - 1)`, never below `epsilon` and as true a bound.
    Raises as `epsilon` does.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    values, failure = rdp_curve(privacy_event)
    slack = -math.log(delta_left(delta, failure))
    return float(np.min(values + slack / (rdp.ORDERS - 1)))


def delta_left(delta: float, failure: float) -> float:
    """What of delta remains beside the probability that something fails.

    Raises:
      ValueError: If nothing does.
    """
    if failure >= delta:
        raise ValueError(
            f"delta {delta:g} must exceed {failure:.3g}, the probability that a cut"
            " sample or another failure (`events.failing`) voids the guarantee; raise"
            " delta"
        )
    return delta - failure


def _warn_of_large_delta(privacy_event: PrivacyEvent, delta: float) -> None:
    population, unit = privacy_event.population, privacy_event.privacy_unit
    if unit is not None and population is not None and delta > 1 / population:
        warnings.warn(
            f"delta {delta:g} is larger than one over the {population} {unit}s: it"
            f" allows publishing one {unit}'s data whole; choose one well below"
            f" {1 / population:.3g}",
            stacklevel=3,
        )


def calibrate_noise_multiplier(
    make_event: Callable[[float], PrivacyEvent],
    target_epsilon: SupportsFloat,
    delta: SupportsFloat,
    accountant: str = "rdp",
) -> float:
    """The smallest noise multiplier whose epsilon does not exceed the target.

    **Guarantee:** `epsilon(make_event(result), delta, accountant) <= target_epsilon`;
    the result is within a relative 2e-6 of the smallest such multiplier.

    Args:
      make_event: The whole run's event at a noise multiplier; more noise, less epsilon.
      target_epsilon: Positive; inf asks for no noise.
      delta: In (0, 1).
      accountant: "rdp" or "pld"; PLD starts from RDP's answer.

    Raises:
      events.UnsupportedEventError: If the accountant has no bound for the events.
      ValueError: If an argument is out of range, or no noise reaches the target.
    """
    target = events.to_float("target_epsilon", target_epsilon)
    checks.positive("target_epsilon", target, allow_inf=True)
    checks.known("accountant", accountant, ACCOUNTANTS)
    noise: float | None = None
    for name in ACCOUNTANTS[: ACCOUNTANTS.index(accountant) + 1]:
        noise = _smallest_noise(
            lambda noise, name=name: epsilon(make_event(noise), delta, name),
            target,
            noise or 1.0,
        )
    if noise is None:
        floor = epsilon(make_event(events.MOST_NOISE), delta, accountant)
        instead = "" if accountant == "pld" else ', ask for accountant "pld"'
        raise ValueError(
            f"target_epsilon {target:g} is out of reach at delta {delta}: the least,"
            f" at noise_multiplier {events.MOST_NOISE:g}, is {floor:.4g}"
            f" by {accountant};"
            f" raise target_epsilon or delta{instead}"
        )
    return noise


def _smallest_noise(
    epsilon_at: Callable[[float], float], target: float, start: float
) -> float | None:
    """The root of `epsilon_at` = target from the safe side, sought around `start`; None
    if even the most noise misses.
    """
    from scipy import optimize

    epsilon_at = functools.cache(epsilon_at)
    if epsilon_at(0.0) <= target:
        return 0.0
    low = high = start
    ratio = 1.25
    while epsilon_at(low) <= target:
        low, high, ratio = low / ratio, low, min(ratio**2, 4.0)
    while epsilon_at(high) > target:
        if high > events.MOST_NOISE:
            return None
        low, high, ratio = high, high * ratio, min(ratio**2, 4.0)

    def excess(log_noise: float) -> float:
        found = epsilon_at(math.exp(log_noise))
        return math.log(min(max(found / target, 1e-20), 1e20))

    bracket = math.log(low), math.log(high)
    log_root: Any = optimize.brentq(excess, *bracket, xtol=2e-7, rtol=1e-15)
    root = math.exp(log_root)
    margin = 5e-7
    while epsilon_at(root * (1 + margin)) > target:
        margin *= 2
    return root * (1 + margin)
