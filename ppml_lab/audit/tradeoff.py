"""Trade-off curves: the error rates that a claim allows, and tests that refute claims.

Dong, Roth, Su, "Gaussian Differential Privacy", JRSS B 2022: a mechanism's trade-off
function gives, for each false positive rate, the least false negative rate that any
test of "was this person in?" can have. An accountant's (epsilon, delta) at all epsilons
bound this function from below.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, base, checks
from ppml_lab.audit import evidence

_EPSILONS = np.concatenate(
    [np.linspace(0, 4, 81), np.linspace(4.1, 16, 120), np.linspace(16.5, 60, 88)]
)

_PROFILES: dict[str, TradeOff] = {}


class TradeOff(NamedTuple):
    """A privacy profile: (epsilons, deltas) that hold together.

    Attributes:
      epsilons: Ascending, at least 0.
      deltas: The delta at each epsilon.
    """

    epsilons: Float[np.ndarray, " points"]
    deltas: Float[np.ndarray, " points"]

    def least_fnr(self, fpr: Any) -> Any:
        """The least false negative rate that the profile allows at `fpr`; arrays too.

        Both directions (in against out, and out against in) are in the profile.
        """
        fpr = np.asarray(fpr, float)[..., None]
        growth = np.exp(self.epsilons)
        steep = 1 - self.deltas - growth * fpr
        flat = (1 - self.deltas - fpr) / growth
        return np.maximum(np.maximum(steep, flat).max(axis=-1), 0.0)


class Verdict(NamedTuple):
    """The verdict of errors on a claim.

    Attributes:
      refuted: Whether the errors refute the claim; a true claim is refuted with
        probability alpha at most.
      margin: The amount by which the false negative rate lies below what the claim
        allows; negative where it does not.
      rates: The upper limits that were compared.
    """

    refuted: bool
    margin: float
    rates: evidence.Rates


@arguments.checked
def claimed(event: base.PrivacyEvent) -> TradeOff:
    """The trade-off curve of an event, by PLD where it has a bound, else by RDP.

    Raises:
      ValueError: If neither accountant has a bound, or the event promises nothing.
    """
    if event.privacy_unit is None:
        raise ValueError("event promises nothing to audit; take a mechanism with noise")
    from ppml_lab.dp import accounting

    # Events need not be hashable; their text is.
    known = repr(event)
    if known not in _PROFILES:
        name = "pld" if accounting.supports(event, "pld") else "rdp"
        deltas = accounting.delta_curve(event, _EPSILONS.tolist(), name)
        _PROFILES[known] = TradeOff(_EPSILONS, np.array(deltas))
    return _PROFILES[known]


@arguments.checked
def judge(errors: evidence.Errors, claim: TradeOff, alpha: float) -> Verdict:
    """Tests a claim's trade-off curve against errors.

    The claim is refuted if the upper limit of the false negative rate lies below the
    rate that the claim allows at the upper limit of the false positive rate.

    **Guarantee:** a true claim is refuted with probability `alpha` at most, whatever
    the mechanism; the whole curve is tested, not one (epsilon, delta). That a claim is
    not refuted says nothing: the claim may be false, and the attack weak.
    """
    checks.probability("alpha", alpha, allow_one=False)
    limits = evidence.rates(errors, alpha)
    margin = float(claim.least_fnr(limits.fpr)) - limits.fnr
    # Allow for the rounding of deltas.
    return Verdict(margin > 1e-9, margin, limits)


@arguments.checked
def sampled_gaussian(
    noise_multiplier: float, sampling_prob: float, num_rounds: int
) -> base.PrivacyEvent:
    """The event of `num_rounds` Poisson-sampled Gaussian releases."""
    from ppml_lab.dp import events

    step = events.poisson(sampling_prob, events.gaussian(noise_multiplier))
    return base.PrivacyEvent(
        events.compose(step, num_rounds), "add_or_remove_one", "example"
    )


@arguments.checked
def least_refuted_noise(
    errors: evidence.Errors, sampling_prob: float, num_rounds: int, alpha: float
) -> float:
    """The smallest noise multiplier, on a grid of 2%, that the errors refute.

    They refute the trade-off curve of a Poisson-sampled Gaussian with this sampling,
    length and noise. The result is inf if they refute none.
    """
    checks.probability("alpha", alpha, allow_one=False)
    limits = evidence.rates(errors, alpha)
    noise, _ = _refuted(limits.fnr, limits.fpr, sampling_prob, num_rounds)
    return noise


@arguments.checked
def refuting(sampling_prob: float, num_rounds: int) -> evidence.Objective:
    """The `Objective` of the family bound: the margin at the smallest refuted noise."""
    checks.probability("sampling_prob", sampling_prob, allow_one=True)
    checks.at_least("num_rounds", num_rounds, 1)

    def margins(fnr: Any, fpr: Any) -> Any:
        _, found = _refuted(fnr, fpr, sampling_prob, num_rounds)
        return found

    return margins


def _refuted(
    fnr: Any, fpr: Any, sampling_prob: float, num_rounds: int
) -> tuple[float, Any]:
    """The smallest noise that any of the rates refutes, and all margins there."""

    def margins(step: int) -> Any:
        noise = math.exp(0.02 * step)
        claim = claimed(sampled_gaussian(noise, sampling_prob, num_rounds))
        return claim.least_fnr(fpr) - fnr - 1e-9

    # Noise from 0.2 to 150; more noise, sooner refuted.
    low, high = -80, 250
    if not np.any(margins(high) > 0):
        return math.inf, margins(high)
    while high - low > 1:
        middle = (low + high) // 2
        if np.any(margins(middle) > 0):
            high = middle
        else:
            low = middle
    return math.exp(0.02 * high), margins(high)
