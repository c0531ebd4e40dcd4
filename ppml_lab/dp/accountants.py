"""The two accountants behind `dp.accounting`: RDP and PLD of counted mechanisms.

Each accountant takes the least epsilon that it can prove: pure differential privacy
adds up, unsampled Gaussians have a closed form, and PLD is never above RDP. An event
reaches an accountant only if it has a bound for the event; the log lines and warnings
of dp-accounting do not leave this file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ppml_lab import checks
from ppml_lab.base import RELATIONS, PrivacyEvent
from ppml_lab.dp import conversions, events, pld, rdp

NAMES = ("rdp", "pld")
UNITS = ("client", "example")

# Fixed-size sampling takes time quadratic in each order: fewer orders above 64.
_FIXED_SIZE = (*range(2, 64), *range(64, 128, 8), *range(128, 257, 32), 512, 1024)
_FIXED_SIZE_ORDERS = (rdp.ORDERS < 11) | np.isin(rdp.ORDERS, _FIXED_SIZE)

_PLD_KINDS = {
    f"{kind}DpEvent"
    for kind in (
        "NonPrivate",
        "Gaussian",
        "Laplace",
        "PoissonSampled",
        "RandomizedResponse",
    )
}


class Flat(NamedTuple):
    """A flattened event.

    Attributes:
      mechanisms: The number of runs of each mechanism.
      failure: The probability that a run fails, apart from any one contribution.
      outside: The probability that a release lies outside a neighbour's support
        (`dp.cut`).
    """

    mechanisms: Counter[Any]
    failure: float
    outside: float


def flat(privacy_event: PrivacyEvent, accountant: str) -> Flat:
    """Flattens an event; refuses one for which the accountant has no bound."""
    import dp_accounting

    relation = privacy_event.neighboring_relation
    checks.known("accountant", accountant, NAMES)
    checks.known("neighboring_relation", relation, RELATIONS)
    if privacy_event.privacy_unit is not None:
        checks.known(
            "privacy_unit", privacy_event.privacy_unit, UNITS, argument="privacy_event"
        )
    mechanisms = events.flatten(privacy_event.event)
    # A union bound, by reason.
    failures = {"apart": 0.0, "support": 0.0}
    for part in [part for part in mechanisms if isinstance(part, events.Failure)]:
        failures[part.reason] += part.probability * mechanisms.pop(part)
    kinds = set(_kinds(mechanisms))
    if "PoissonSampledDpEvent" in kinds and relation == "replace_one":
        raise events.UnsupportedEventError(
            "Poisson sampling has no bound under replace_one; state it under"
            " add_or_remove_one, or sample cohorts of fixed size"
        )
    if "SampledWithoutReplacementDpEvent" in kinds and relation != "replace_one":
        raise events.UnsupportedEventError(
            "fixed-size sampling has a bound only under replace_one, as its population"
            f" is public; got neighboring_relation '{relation}'"
        )
    if "RandomizedResponseDpEvent" in kinds and relation != "replace_one":
        raise events.UnsupportedEventError(
            "randomised response has a bound only under replace_one, as it hides a "
            f"person's value; got neighboring_relation '{relation}'"
        )
    if accountant == "pld" and (kinds - _PLD_KINDS):
        raise events.UnsupportedEventError(
            'fixed-size sampling and zCDP have no PLD bound here; use accountant "rdp"'
        )
    nothing = dp_accounting.NonPrivateDpEvent()
    if privacy_event.privacy_unit is None or "NonPrivateDpEvent" in kinds:
        return Flat(Counter({nothing: 1}), 0.0, 0.0)
    return Flat(mechanisms, failures["apart"], failures["support"])


def _kinds(mechanisms: Any) -> Iterator[str]:
    for mechanism in mechanisms:
        if isinstance(mechanism, events.Participation):
            yield from _kinds(part for part, _ in mechanism.event)
        else:
            yield type(mechanism).__name__


def delta_left(delta: float, failure: float, outside: float) -> float:
    """The part of delta that remains beside `failure` and `outside` (see `Flat`).

    It is 0 where `outside` uses up delta.

    Raises:
      ValueError: If `failure` alone uses up delta.
    """
    if failure >= delta:
        raise ValueError(
            f"delta {delta:g} must exceed {failure:.3g}, the probability that a cut"
            " sample or another failure (`events.failing`) voids the guarantee; raise"
            " delta"
        )
    return max(0.0, delta - failure - outside)


def promises(privacy_event: PrivacyEvent) -> bool:
    """Returns whether an event promises anything to anybody."""
    import dp_accounting

    mechanisms = events.flatten(privacy_event.event)
    return (
        privacy_event.privacy_unit is not None
        and dp_accounting.NonPrivateDpEvent() not in mechanisms
    )


def rdp_total(mechanisms: Counter[Any]) -> np.ndarray:
    """RDP of all mechanisms together at `rdp.ORDERS`, inf where unknown."""
    total = np.zeros_like(rdp.ORDERS)
    for mechanism, count in mechanisms.items():
        total = total + count * rdp_vector(mechanism)
    return total


@functools.lru_cache(maxsize=4096)
def rdp_vector(mechanism: Any) -> np.ndarray:
    """RDP of one run at `rdp.ORDERS`, inf where unknown.

    It is cached, so that an epsilon after other numbers of rounds costs one weighted
    sum.
    """
    import dp_accounting.rdp

    if isinstance(mechanism, events.Participation):
        inner = rdp_total(Counter(dict(mechanism.event)))
        return rdp.random_participation(inner, rdp.ORDERS, mechanism.probability)
    if isinstance(mechanism, dp_accounting.PoissonSampledDpEvent):
        noise: Any = mechanism.event
        return rdp.subsampled_gaussian(
            mechanism.sampling_probability, noise.noise_multiplier, rdp.ORDERS
        )
    chosen, relation = np.ones_like(rdp.ORDERS, bool), "ADD_OR_REMOVE_ONE"
    if isinstance(mechanism, dp_accounting.SampledWithoutReplacementDpEvent):
        chosen, relation = _FIXED_SIZE_ORDERS, "REPLACE_ONE"
    if isinstance(mechanism, dp_accounting.RandomizedResponseDpEvent):
        relation = "REPLACE_ONE"
    accountant = dp_accounting.rdp.RdpAccountant(
        rdp.ORDERS[chosen].tolist(), dp_accounting.NeighboringRelation[relation]
    )
    vector = np.full_like(rdp.ORDERS, np.inf)
    with _quiet():
        vector[chosen] = accountant.compose(mechanism).rdp
    # Only rounding gives a negative value, which dp-accounting counts as no cost.
    vector[~(vector >= 0)] = np.inf
    # No order's divergence exceeds the largest loss.
    vector = np.minimum(vector, pure_epsilon(mechanism))
    vector.flags.writeable = False
    return vector


def pure_epsilon(mechanism: Any) -> float:
    """The epsilon at delta 0 of one run; inf where there is none."""
    import dp_accounting as dp

    match mechanism:
        case dp.LaplaceDpEvent(noise_multiplier=noise):
            return 1 / noise
        case dp.RandomizedResponseDpEvent(noise_parameter=prob, num_buckets=values):
            return math.log1p((1 - prob) * values / prob)
        case events.Participation(event=inner):
            return sum(count * pure_epsilon(part) for part, count in inner)
    return math.inf


def pure_total(mechanisms: Counter[Any]) -> float:
    """The epsilon at delta 0 of all mechanisms together."""
    return sum(count * pure_epsilon(part) for part, count in mechanisms.items())


def rdp_epsilon(mechanisms: Counter[Any], delta: float) -> float:
    """The epsilon by RDP, or by pure mechanisms' own epsilon plus RDP of the others."""
    everything = rdp.epsilon_of_rdp(rdp_total(mechanisms), rdp.ORDERS, delta)
    pure = {part: n for part, n in mechanisms.items() if pure_epsilon(part) < math.inf}
    if not pure:
        return float(everything)
    others = rdp_total(mechanisms - Counter(pure))
    apart = pure_total(Counter(pure)) + rdp.epsilon_of_rdp(others, rdp.ORDERS, delta)
    return float(min(everything, apart))


@functools.lru_cache(maxsize=4096)
def pld_epsilon(mechanisms: pld.Mechanisms, delta: float, by_rdp: float) -> float:
    """PLD's epsilon, sought near RDP's and never above it."""
    mu = _gaussian_shift(mechanisms)
    if mu is not None:
        return min(by_rdp, conversions.gdp_epsilon(mu, delta))
    if delta < pld.least_delta(sum(count for _, count in mechanisms)):
        return by_rdp
    with _quiet():
        found = pld.composed(mechanisms, by_rdp, from_above=True).epsilon(delta)
    return min(by_rdp, found)


def pld_deltas(
    mechanisms: pld.Mechanisms, epsilons: list[float], by_rdp: float
) -> list[float]:
    """PLD's delta at each epsilon; `by_rdp` is a typical epsilon of the mechanisms."""
    mu = _gaussian_shift(mechanisms)
    if mu is not None:
        return [conversions.gdp_delta(mu, value) for value in epsilons]
    with _quiet():
        composed = pld.composed(mechanisms, by_rdp, from_above=True)
        return [composed.delta(value) for value in epsilons]


@functools.lru_cache(maxsize=1024)
def epsilon_from_below(
    mechanisms: pld.Mechanisms, delta: float, by_rdp: float
) -> float:
    """An epsilon below which Gaussian releases are not (epsilon, delta)-DP."""
    mu = _gaussian_shift(mechanisms)
    if mu is not None:
        return conversions.gdp_epsilon(mu, delta)
    with _quiet():
        return pld.composed(mechanisms, by_rdp, from_above=False).epsilon(delta)


def _gaussian_shift(mechanisms: pld.Mechanisms) -> float | None:
    """The mu of Gaussian DP that unsampled Gaussian releases compose to, or None."""
    import dp_accounting

    total = 0.0
    for mechanism, count in mechanisms:
        if not isinstance(mechanism, dp_accounting.GaussianDpEvent):
            return None
        total += count / mechanism.noise_multiplier**2
    return math.sqrt(total)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences dp-accounting's log lines and NumPy's warnings.

    They are about orders that did not converge, whose bound is infinite here.
    """
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def warn_of_large_delta(privacy_event: PrivacyEvent, delta: float) -> None:
    """Warns once about a delta above 1 / population, which allows what is no privacy.

    A sweep asks for many epsilons, and whatever silences other warnings in between
    makes Python forget which warnings it has shown: hence the cache.
    """
    population, unit = privacy_event.population, privacy_event.privacy_unit
    if unit is not None and population is not None and delta > 1 / population:
        _warn_of_large_delta(delta, population, unit)


@functools.cache
def _warn_of_large_delta(delta: float, population: int, unit: str) -> None:
    warnings.warn(
        f"delta {delta:g} is larger than one over the {population} {unit}s: it allows "
        f"publishing one {unit}'s data whole; choose delta well below "
        f"{1 / population:.3g}",
        stacklevel=5,
    )
