"""Epsilon on the host: the cost of a run, and the noise multiplier for a budget.

Two accountants stand behind one function. "rdp" has a bound for everything, and it
alone runs inside compiled rounds and on resume: Rényi differential privacy (Mironov,
"Rényi Differential Privacy", CSF 2017), of the sampled Gaussian mechanism (Mironov,
Talwar and Zhang, 2019, arXiv:1908.10530; of fixed-size cohorts: Wang, Balle and
Kasiviswanathan, AISTATS 2019, see FIXED_SIZE.md), converted by Canonne, Kamath and
Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, Proposition 12.
"pld" is tighter and never above RDP: privacy loss distributions (`dp.pld`), or the
closed form where releases are Gaussians without sampling (`dp.conversions`). A budget
(`target_epsilon`) and a headline mean `stated`: PLD's epsilon where there is one, else
RDP's.

RDP of the Poisson-subsampled Gaussian, its conversion and PLD are our own (`dp.rdp`,
`dp.pld`); RDP of other mechanisms is dp-accounting's. Every event is flattened
(`dp.events`) into counted mechanisms, whose parameters are checked Python floats,
before an accountant sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accountants, cut, events, rdp, search

ACCOUNTANTS = accountants.NAMES
BEST = "best"


class RdpCurve(NamedTuple):
    """The RDP of an event, and the probabilities that void it.

    Attributes:
      values: RDP in nats at `rdp.ORDERS`, given that nothing fails; inf where unknown.
      failure: The probability that something fails (`events.failing`), part of delta.
      outside: The same for a release outside a neighbour's support (`dp.cut`).
    """

    values: Float[np.ndarray, " orders"]
    failure: float
    outside: float


class Stated(NamedTuple):
    """An epsilon, and the name of the accountant that proves it."""

    epsilon: float
    accountant: str


@arguments.checked
def supports(privacy_event: PrivacyEvent, accountant: str) -> bool:
    """Returns whether the accountant has a bound for the event: leave the table's cell
    empty where it has none. Invalid parameters raise all the same.
    """
    try:
        accountants.flat(privacy_event, accountant)
    except events.UnsupportedEventError:
        return False
    return True


@arguments.checked
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
      delta: In (0, 1), well below 1 / population: warns above it. Or 0, for pure
        mechanisms: the epsilon is that of real-valued noise; no float's noise is pure.
      accountant: "rdp", or the tighter "pld", for Gaussian, Laplace and
        randomised-response releases and Poisson sampling. PLD discretises privacy loss
        by 1e-4, by less where a round's loss is little, and by more where RDP's epsilon
        exceeds 10, so that it takes seconds at most. Where delta is below 4e-15 for
        each release, rounding would matter, and the answer is RDP's.

    Returns:
      A Python float; inf where nothing is promised, or where noise is below 1e-3 of the
      sensitivity or is so little that its cut uses up delta: see `cut_note`.

    Raises:
      events.UnsupportedEventError: (a ValueError) If the accountant has no bound;
        `supports` checks without raising.
      ValueError: If an argument or a parameter of the event is out of range, or if
        what may fail (`events.failing`) uses up delta.
    """
    delta = events.to_float("delta", delta)
    if delta == 0:
        return _pure_epsilon(privacy_event, accountant)
    checks.probability("delta", delta, allow_one=False)
    accountants.warn_of_large_delta(privacy_event, delta)
    mechanisms, failure, outside = accountants.flat(privacy_event, accountant)
    left = accountants.delta_left(delta, failure, outside)
    if left == 0:
        return math.inf
    by_rdp = accountants.rdp_epsilon(mechanisms, left)
    if accountant == "rdp" or math.isinf(accountants.rdp_total(mechanisms).min()):
        return by_rdp
    return accountants.pld_epsilon(frozenset(mechanisms.items()), left, by_rdp)


def _pure_epsilon(privacy_event: PrivacyEvent, accountant: str) -> float:
    mechanisms, failure, _ = accountants.flat(privacy_event, accountant)
    found = accountants.pure_total(mechanisms)
    private = privacy_event.privacy_unit is not None
    if failure > 0 or (private and math.isinf(found)):
        raise ValueError(
            "delta must lie in (0, 1), got 0; delta 0 is only for pure mechanisms "
            "(Laplace noise, randomised response); choose delta below 1 / population"
        )
    return found if private else math.inf


@arguments.checked
def stated(privacy_event: PrivacyEvent, delta: SupportsFloat) -> Stated:
    """The epsilon that a budget means: PLD's where there is one, else RDP's.

    **Guarantee:** `epsilon`'s, against those who see what is released (the public), not
    against whoever runs the protocol: see `epsilon_server`. Raises as `epsilon` does.
    """
    name = "pld" if supports(privacy_event, "pld") else "rdp"
    return Stated(epsilon(privacy_event, delta, name), name)


@arguments.checked
def epsilon_public(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """The `stated` epsilon, which holds against those who see the released models."""
    return stated(privacy_event, delta).epsilon


@arguments.checked
def epsilon_server(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """The `stated` epsilon of `against_server`: against whoever runs the protocol and
    sees who takes part; inf where that party itself adds the noise.
    """
    return stated(against_server(privacy_event), delta).epsilon


@arguments.checked
def against_server(privacy_event: PrivacyEvent) -> PrivacyEvent:
    """The event as it holds against whoever runs the protocol.

    That party follows the protocol, but sees every message and its sender, and makes
    the noise that is not the clients' own. So an event promises nothing unless its
    releases are inside an `events.participating`; it then costs the same as against the
    public.
    """
    import dp_accounting

    if events.made_by_clients(privacy_event.event):
        return privacy_event
    return privacy_event._replace(event=dp_accounting.NonPrivateDpEvent())


@arguments.checked
def cut_share(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """The share of delta that the cut of the noise uses up (`dp.cut`); above 1, epsilon
    is infinite. Raises as `epsilon` does.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    return accountants.flat(privacy_event, "rdp").outside / delta


@arguments.checked
def cut_note(privacy_event: PrivacyEvent, delta: SupportsFloat) -> str:
    """The words of a guarantee's line on the noise's cut; "" up to 1e-3 of delta."""
    return cut.in_words(cut_share(privacy_event, delta))


@arguments.checked
def epsilon_from_below(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """A lower bound on the true epsilon of Gaussian releases, sampled or not, at delta.

    **Guarantee:** below the bound the event, with real-valued noise, is not (epsilon,
    delta)-DP: the bound is at most the epsilon of the worst pair of neighbours. Use it
    for what an attack shows to be spent, never for what is promised.

    Raises:
      events.UnsupportedEventError: For an event that is more than Gaussian releases.
      ValueError: As `epsilon` does.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    mechanisms, _, _ = accountants.flat(privacy_event, "pld")
    by_rdp = accountants.rdp_epsilon(mechanisms, delta)
    if math.isinf(by_rdp):
        return by_rdp
    return accountants.epsilon_from_below(frozenset(mechanisms.items()), delta, by_rdp)


@arguments.checked
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
    checks.at_least("num_steps", num_steps, 1)

    def run(noise_multiplier: SupportsFloat) -> PrivacyEvent:
        step = events.poisson(sampling_prob, events.gaussian(noise_multiplier))
        return PrivacyEvent(
            events.compose(step, num_steps), "add_or_remove_one", "example"
        )

    return [epsilon(run(noise), delta, accountant) for noise in noise_multipliers]


@arguments.checked
def epsilon_curve(
    privacy_event: PrivacyEvent,
    rounds: Iterable[SupportsInt],
    delta: SupportsFloat,
    accountant: str = "rdp",
) -> list[float]:
    """The `epsilon` after each number of `rounds`, each at least 1, where the event
    states ONE round. Raises as `epsilon` does.
    """
    once, rounds = privacy_event.event, list(rounds)
    for count in rounds:
        checks.at_least("rounds", count, 1)
    return [
        epsilon(
            privacy_event._replace(event=events.compose(once, count)), delta, accountant
        )
        for count in rounds
    ]


@arguments.checked
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
    mechanisms, failure, outside = accountants.flat(privacy_event, accountant)
    total = accountants.rdp_total(mechanisms)
    deltas = rdp.delta_of_rdp(total, rdp.ORDERS, np.array(points, float)).tolist()
    if accountant == "pld" and np.isfinite(total).any():
        by_rdp = float(rdp.epsilon_of_rdp(total, rdp.ORDERS, 1e-6))
        counted = frozenset(mechanisms.items())
        tighter = accountants.pld_deltas(counted, points, by_rdp)
        deltas = [min(pair) for pair in zip(deltas, tighter, strict=True)]
    pure = accountants.pure_total(mechanisms)
    deltas = [
        0.0 if point >= pure else value
        for point, value in zip(points, deltas, strict=True)
    ]
    return [min(1.0, value + failure + outside) for value in deltas]


@arguments.checked
def rdp_curve(privacy_event: PrivacyEvent) -> RdpCurve:
    """The RDP of an event, for conversions of one's own. Raises as `epsilon` does."""
    mechanisms, failure, outside = accountants.flat(privacy_event, "rdp")
    return RdpCurve(accountants.rdp_total(mechanisms), failure, outside)


@arguments.checked
def old_conversion_epsilon(privacy_event: PrivacyEvent, delta: SupportsFloat) -> float:
    """The epsilon by RDP as papers before 2020 state it, for comparison with them.

    The conversion of Mironov, "Rényi Differential Privacy", CSF 2017, Proposition 3:
    `rdp + log(1 / delta) / (order - 1)`, as valid a bound as `epsilon` and never below
    `epsilon`. Raises as `epsilon` does.
    """
    delta = events.to_float("delta", delta)
    checks.probability("delta", delta, allow_one=False)
    values, failure, outside = rdp_curve(privacy_event)
    left = accountants.delta_left(delta, failure, outside)
    if left == 0:
        return math.inf
    return float(np.min(values - math.log(left) / (rdp.ORDERS - 1)))


@arguments.checked
def calibrate_noise_multiplier(
    make_event: Callable[[float], PrivacyEvent],
    target_epsilon: SupportsFloat,
    delta: SupportsFloat,
    accountant: str = "rdp",
) -> float:
    """The smallest noise multiplier whose epsilon does not exceed the target.

    **Guarantee:** `epsilon(make_event(result), delta, accountant) <= target_epsilon`
    (for "best": the `stated` epsilon), and never more noise than RDP asks for. The
    result is within a relative 2e-6 of the smallest such multiplier; for "best" within
    1e-3, by a handful of PLDs.

    Args:
      make_event: The whole run's event at a noise multiplier; more noise, less epsilon.
      target_epsilon: Positive; inf asks for no noise.
      delta: In (0, 1).
      accountant: "best" (PLD where it has a bound, else RDP: what a budget means),
        "rdp" or "pld"; PLD starts from RDP's answer.

    Raises:
      events.UnsupportedEventError: If the accountant has no bound for the events.
      ValueError: If an argument is out of range, the event promises nothing, or no
        noise reaches the target.
    """
    target = events.to_float("target_epsilon", target_epsilon)
    checks.positive("target_epsilon", target, allow_inf=True)
    checks.known("accountant", accountant, (BEST, *ACCOUNTANTS))
    if math.isinf(target):
        return 0.0
    most = make_event(events.MOST_NOISE)
    if not isinstance(most, PrivacyEvent):
        raise ValueError(
            f"make_event must give a base.PrivacyEvent, got {type(most).__name__}"
        )
    if not accountants.promises(most):
        if accountants.promises(make_event(1.0)):
            raise ValueError(search.WRONG_WAY)
        raise ValueError(
            f"target_epsilon {target:g} needs a mechanism with noise: this event "
            "promises nothing at any noise_multiplier; take a privacy mechanism with "
            "noise, or target_epsilon inf"
        )
    best = accountant == BEST
    if best:
        accountant = "pld" if supports(most, "pld") else "rdp"
    noise = search.smallest(
        lambda noise: epsilon(make_event(noise), delta, "rdp"), target, 1.0
    )
    if accountant == "pld":

        def by_pld(noise: float) -> float:
            return epsilon(make_event(noise), delta, "pld")

        if best:
            slope = 1.0
            if noise:
                less = epsilon(make_event(0.9 * noise), delta, "rdp")
                slope = math.log(max(less / target, 1.0)) / math.log(1 / 0.9)
            noise = search.refined(by_pld, target, noise, slope)
        else:
            noise = search.smallest(by_pld, target, noise or 1.0)
    if noise is None:
        floor = epsilon(most, delta, accountant)
        instead = "" if accountant == "pld" else ', or use accountant "pld"'
        raise ValueError(
            f"target_epsilon {target:g} is out of reach at delta {delta}: the least "
            f"epsilon, at noise_multiplier {events.MOST_NOISE:g}, is {floor:.4g} by "
            f"{accountant}; raise target_epsilon or delta{instead}"
        )
    return noise
