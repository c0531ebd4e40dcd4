"""The two accountants behind `dp.accounting`: RDP and PLD of counted mechanisms.

Only what an accountant has a bound for reaches it; what dp-accounting logs or warns
about does not leave this file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppml_lab import checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import events, rdp

NAMES = ("rdp", "pld")
_RELATIONS = ("add_or_remove_one", "replace_one")

# Fixed-size sampling costs time quadratic in each order: fewer above 64.
_FIXED_SIZE = (*range(2, 64), *range(64, 128, 8), *range(128, 257, 32), 512, 1024)
_FIXED_SIZE_ORDERS = (rdp.ORDERS < 11) | np.isin(rdp.ORDERS, _FIXED_SIZE)

_PLD_INTERVAL = 1e-4
_PLD_KINDS = {
    f"{kind}DpEvent" for kind in ("NonPrivate", "Gaussian", "Laplace", "PoissonSampled")
}


def flat(privacy_event: PrivacyEvent, accountant: str) -> tuple[Counter[Any], float]:
    """The event, flat: how often each mechanism runs, and with which probability one
    fails; refuses what has no bound.
    """
    import dp_accounting

    relation = privacy_event.neighboring_relation
    checks.known("accountant", accountant, NAMES)
    checks.known("neighboring_relation", relation, _RELATIONS)
    mechanisms = events.flatten(privacy_event.event)
    failures = [part for part in mechanisms if isinstance(part, events.Failure)]
    # A union bound.
    failure = sum((part.probability * mechanisms.pop(part) for part in failures), 0.0)
    kinds = {type(mechanism).__name__ for mechanism in mechanisms}
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
            "randomised response hides which value somebody has, under replace_one; got"
            f" neighboring_relation '{relation}'"
        )
    if accountant == "pld" and (kinds - _PLD_KINDS):
        raise events.UnsupportedEventError(
            "fixed-size sampling, zCDP and randomised response have no PLD bound here;"
            ' use accountant "rdp"'
        )
    nothing = dp_accounting.NonPrivateDpEvent()
    if privacy_event.privacy_unit is None or nothing in mechanisms:
        return Counter({nothing: 1}), 0.0
    return mechanisms, failure


def rdp_total(mechanisms: Counter[Any]) -> np.ndarray:
    """RDP of all of them at `rdp.ORDERS`, inf where unknown."""
    total = np.zeros_like(rdp.ORDERS)
    for mechanism, count in mechanisms.items():
        total = total + count * rdp_vector(mechanism)
    return total


@functools.lru_cache(maxsize=4096)
def rdp_vector(mechanism: Any) -> np.ndarray:
    """RDP of one run at `rdp.ORDERS`, inf where unknown; cached, so that an epsilon at
    another time costs one weighted sum.
    """
    import dp_accounting.rdp

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
    # dp-accounting takes a negative value, which only rounding gives, for no cost.
    vector[~(vector >= 0)] = np.inf
    vector.flags.writeable = False
    return vector


@functools.lru_cache(maxsize=4096)
def pld_epsilon(
    mechanisms: frozenset[tuple[Any, int]], delta: float, by_rdp: float
) -> float:
    """PLD's epsilon, sought near RDP's."""
    with _quiet():
        return float(_pld(mechanisms, by_rdp).get_epsilon(delta))


def pld_deltas(
    mechanisms: frozenset[tuple[Any, int]], epsilons: list[float], by_rdp: float
) -> list[float]:
    """PLD's delta at each epsilon; `by_rdp` is a typical epsilon of the mechanisms."""
    with _quiet():
        composed = _pld(mechanisms, by_rdp)
        return [float(composed.get_delta(value)) for value in epsilons]


def _pld(mechanisms: frozenset[tuple[Any, int]], by_rdp: float) -> Any:
    """dp-accounting's composition, under add-or-remove whatever the relation: for
    unsampled noise relative to the sensitivity the relation no longer matters, and
    dp-accounting would double the sensitivity under replace-one. Privacy loss is
    discretised more coarsely where there is much of it.
    """
    from dp_accounting import pld

    accountant = pld.PLDAccountant(
        value_discretization_interval=_PLD_INTERVAL * max(1.0, by_rdp / 10)
    )
    for mechanism, count in mechanisms:
        accountant.compose(mechanism, count)
    return accountant


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps dp-accounting's log lines and NumPy's warnings to itself: what they are
    about (an order that did not converge) is an infinite bound at that order.
    """
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled
