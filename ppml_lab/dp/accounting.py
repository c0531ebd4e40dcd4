"""Epsilon on the host: what a run costs, and the noise that a budget asks for.

Two accountants stand behind one function. "rdp" is the headline: Rényi differential
privacy (Mironov, "Rényi Differential Privacy", CSF 2017), of the sampled Gaussian
mechanism (Mironov, Talwar and Zhang, 2019, arXiv:1908.10530; of fixed-size cohorts:
Wang, Balle and Kasiviswanathan, AISTATS 2019), converted by Canonne, Kamath and
Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, Proposition
12. "pld" is the tighter one beside it: privacy loss distributions (Koskela, Jälkö and
Honkela, AISTATS 2020), discretised from above by connecting the dots (Doroshenko et
al., PoPETs 2022).

RDP of the Poisson-subsampled Gaussian is our own exact one (`dp.rdp`); the rest is
dp-accounting's. Before any accountant sees an event it is flattened (`dp.events`) into
counted mechanisms whose parameters are checked Python floats.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, SupportsFloat

import numpy as np

from ppml_lab import checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import events, rdp

ACCOUNTANTS = ("rdp", "pld")
_RELATIONS = ("add_or_remove_one", "replace_one")

# All of dp-accounting's own orders, and between them enough that the best order is
# never far: its jump from 63 to 128 alone costs up to a factor of 1.9.
_FRACTIONS = sorted(
    {1 + i / 10 for i in range(1, 100)} | {1.05 + i / 10 for i in range(30)}
)
_SPARSE = (*range(288, 513, 32), 640, 768, 1024, 1536, 2048)
_ORDERS = np.array(sorted({*_FRACTIONS, *range(2, 257), *_SPARSE}))
# Fixed-size sampling costs time quadratic in each order: fewer above 64.
_FIXED_SIZE = (*range(2, 64), *range(64, 128, 8), *range(128, 257, 32), 512, 1024)
_FIXED_SIZE_ORDERS = np.isin(_ORDERS, [*_FRACTIONS, *_FIXED_SIZE])

_PLD_INTERVAL = 1e-4
_PLD_KINDS = {
    f"{kind}DpEvent" for kind in ("NonPrivate", "Gaussian", "Laplace", "PoissonSampled")
}


def supports(privacy_event: PrivacyEvent, accountant: str) -> bool:
    """Whether `epsilon` has an answer: leave the table's cell empty where it has none.
    Invalid parameters raise all the same.
    """
    try:
        _mechanisms(privacy_event, accountant)
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
      delta: In (0, 1); well below 1 / population.
      accountant: "rdp", the headline, or "pld", tighter, for Gaussian and Laplace
        releases and Poisson sampling. PLD discretises privacy loss by 1e-4, and by more
        where RDP's epsilon exceeds 10, so that time and memory stay bounded.

    Returns:
      A Python float; inf where nothing is promised or noise is below 1e-3 of the
      sensitivity.

    Raises:
      events.UnsupportedEventError: A ValueError: the accountant has no bound;
      `supports`
        asks without raising.
      ValueError: If an argument or a parameter of the event is out of range.
    """
    import dp_accounting

    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    mechanisms = _mechanisms(privacy_event, accountant)
    promised = privacy_event.privacy_unit is not None
    if not promised or dp_accounting.NonPrivateDpEvent() in mechanisms:
        return math.inf
    by_rdp = _rdp_epsilon(mechanisms, delta)
    if accountant == "rdp" or math.isinf(by_rdp):
        return by_rdp
    interval = _PLD_INTERVAL * max(1.0, by_rdp / 10)
    return _pld_epsilon(frozenset(mechanisms.items()), delta, interval)


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


def _mechanisms(privacy_event: PrivacyEvent, accountant: str) -> Counter[Any]:
    """The event, flat: how often each mechanism runs; refuses what has no bound."""
    relation = privacy_event.neighboring_relation
    checks.known("accountant", accountant, ACCOUNTANTS)
    checks.known("neighboring_relation", relation, _RELATIONS)
    mechanisms = events.flatten(privacy_event.event)
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
    if accountant == "pld" and (kinds - _PLD_KINDS):
        raise events.UnsupportedEventError(
            'fixed-size sampling and zCDP have no PLD bound; use accountant "rdp"'
        )
    return mechanisms


def _rdp_epsilon(mechanisms: Counter[Any], delta: float) -> float:
    import dp_accounting.rdp

    total = np.zeros_like(_ORDERS)
    for mechanism, count in mechanisms.items():
        total = total + count * _rdp_vector(mechanism)
    with _quiet():
        found = dp_accounting.rdp.compute_epsilon(
            _ORDERS.tolist(), total.tolist(), delta
        )
        return float(found[0])


@functools.lru_cache(maxsize=4096)
def _rdp_vector(mechanism: Any) -> np.ndarray:
    """RDP of one run at `_ORDERS`, inf where unknown; cached, so that an epsilon at
    another time costs one weighted sum.
    """
    import dp_accounting.rdp

    if isinstance(mechanism, dp_accounting.PoissonSampledDpEvent):
        noise: Any = mechanism.event
        return rdp.subsampled_gaussian(
            mechanism.sampling_probability, noise.noise_multiplier, _ORDERS
        )
    chosen, relation = np.ones_like(_ORDERS, bool), "ADD_OR_REMOVE_ONE"
    if isinstance(mechanism, dp_accounting.SampledWithoutReplacementDpEvent):
        chosen, relation = _FIXED_SIZE_ORDERS, "REPLACE_ONE"
    accountant = dp_accounting.rdp.RdpAccountant(
        _ORDERS[chosen].tolist(), dp_accounting.NeighboringRelation[relation]
    )
    vector = np.full_like(_ORDERS, np.inf)
    with _quiet():
        vector[chosen] = accountant.compose(mechanism).rdp
    # dp-accounting takes a negative value, which only rounding gives, for no cost.
    vector[~(vector >= 0)] = np.inf
    vector.flags.writeable = False
    return vector


@functools.lru_cache(maxsize=4096)
def _pld_epsilon(
    mechanisms: frozenset[tuple[Any, int]], delta: float, interval: float
) -> float:
    """PLD's epsilon, under add-or-remove whatever the relation: for unsampled noise
    relative to the sensitivity the relation no longer matters, and dp-accounting would
    double the sensitivity under replace-one.
    """
    from dp_accounting import pld

    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    with _quiet():
        for mechanism, count in mechanisms:
            accountant.compose(mechanism, count)
        return float(accountant.get_epsilon(delta))


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
