"""Events: what ran how often, in dp-accounting's terms, made of checked numbers.

Noise multipliers are ALWAYS stddev / sensitivity under the neighbouring relation that
stands beside the event in a `base.PrivacyEvent`. dp-accounting silently drops from
sampled compositions what is not a Python float, so that every number is checked and
converted here, on the way in and again when an event is flattened for an accountant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

from ppml_lab import arguments, checks
from ppml_lab.dp import cut, given
from ppml_lab.dp.given import to_float

LEAST_NOISE = 1e-3
"""A single release with less noise has an epsilon above 500,000: it counts as none."""

MOST_NOISE = 1e6
"""Releases with more noise count as having this much."""


class Failure(NamedTuple):
    """Part of an event: with this `probability` anything is released.

    Attributes:
      probability: Of one run.
      reason: Why it adds to delta without a factor exp(epsilon): "apart" is drawn apart
        from any one contribution (`failing`), "support" is the mass of noise of finite
        support outside the neighbour's (`dp.cut`, which has the proof).
    """

    probability: float
    reason: str = "apart"


class Participation(NamedTuple):
    """Part of an event: with this `probability` its unit takes part, for all to see.

    Attributes:
      probability: Of taking part in one run.
      event: What taking part costs: a `DpEvent`; once flattened, a sorted tuple of
        (mechanism, count).
    """

    probability: float
    event: Any


class UnsupportedEventError(ValueError):
    """The accountant has no bound for this event under this neighbouring relation."""


@arguments.checked
def gaussian(noise_multiplier: SupportsFloat) -> Any:
    """One release of a sum with Gaussian noise.

    Args:
      noise_multiplier: Stddev over L2 sensitivity under the neighbouring relation; 0
        gives the event without privacy.

    Returns:
      A `dp_accounting.DpEvent`.

    Raises:
      ValueError: (like every builder here) if an argument is out of range, NaN or
        traced: accounting runs on the host.
    """
    import dp_accounting

    noise = given.noise(noise_multiplier)
    if noise == 0:
        return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.GaussianDpEvent(noise)


@arguments.checked
def laplace(noise_multiplier: SupportsFloat) -> Any:
    """One release with Laplace noise of scale `noise_multiplier` times the L1
    sensitivity; otherwise as `gaussian`.
    """
    import dp_accounting

    noise = given.noise(noise_multiplier)
    if noise == 0:
        return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.LaplaceDpEvent(noise)


@arguments.checked
def randomised_response(random_prob: SupportsFloat, num_values: SupportsInt) -> Any:
    """One value out of `num_values`, told truly but for a chance of `random_prob` to
    tell any of them, evenly drawn. Its neighbours replace the value.
    """
    import dp_accounting

    prob = to_float("random_prob", random_prob)
    checks.probability("random_prob", prob, allow_one=True)
    return dp_accounting.RandomizedResponseDpEvent(
        prob, given.integer("num_values", num_values)
    )


@arguments.checked
def poisson(sampling_prob: SupportsFloat, event: Any) -> Any:
    """`event` on a cohort that each client (or example) joins independently.

    Args:
      sampling_prob: Probability of joining, in (0, 1].
      event: A `DpEvent` of Gaussian releases.
    """
    import dp_accounting

    given.check_event(event)
    prob = to_float("sampling_prob", sampling_prob)
    checks.probability("sampling_prob", prob, allow_one=True)
    if prob == 1 or isinstance(event, dp_accounting.NonPrivateDpEvent):
        return event
    return dp_accounting.PoissonSampledDpEvent(prob, event)


@arguments.checked
def fixed_size(population: SupportsInt, cohort_size: SupportsInt, event: Any) -> Any:
    """`event` on a cohort of fixed size, drawn uniformly without replacement.

    Args:
      population: How many clients (or examples) there are; public.
      cohort_size: How many are drawn, in [1, population].
      event: A `DpEvent` of Gaussian releases.
    """
    import dp_accounting

    given.check_event(event)
    total = given.integer("population", population)
    size = given.integer("cohort_size", cohort_size)
    if size > total:
        raise ValueError(f"cohort_size must be at most population {total}, got {size}")
    if size == total or isinstance(event, dp_accounting.NonPrivateDpEvent):
        return event
    return dp_accounting.SampledWithoutReplacementDpEvent(total, size, event)


@arguments.checked
def participating(participation_prob: SupportsFloat, event: Any) -> Any:
    """`event`, made by the unit itself whenever it takes part, which everybody sees.

    Local noise: nobody hides who takes part, so that nothing is amplified, but a unit
    pays only for the rounds that it takes part in. At order a the pair (took part,
    release) has RDP `log(1 - q + q exp((a - 1) rdp(a))) / (a - 1)`. What is not inside
    a `participating` is noise that a trusted party adds: it promises nothing against
    that party (`accounting.against_server`).

    **Guarantee:** participation is drawn for each run afresh, without looking at the
    data. The bound holds against whoever runs the protocol, and so against those who
    see only what is made of the messages.

    Args:
      participation_prob: Probability of taking part in a run, in (0, 1].
      event: A `DpEvent`; all of it is released, or nothing.

    Raises:
      ValueError: If the probability is out of range.
    """
    import dp_accounting

    given.check_event(event)
    prob = to_float("participation_prob", participation_prob)
    checks.probability("participation_prob", prob, allow_one=True)
    if isinstance(event, dp_accounting.NonPrivateDpEvent):
        return event
    parts: list[Any] = [Participation(prob, event)]
    return dp_accounting.ComposedDpEvent(parts)


def made_by_clients(event: Any) -> bool:
    """Whether every release of an event is inside a `participating`."""
    import dp_accounting as dp

    match event:
        case Participation() | Failure() | dp.NoOpDpEvent():
            return True
        case dp.SelfComposedDpEvent(event=inner):
            return made_by_clients(inner)
        case dp.ComposedDpEvent(events=events):
            return all(made_by_clients(part) for part in events)
    return False


@arguments.checked
def compose(event: Any, num_rounds: SupportsInt) -> Any:
    """`num_rounds` adaptive repetitions of `event`; an integer of at least 1."""
    import dp_accounting

    given.check_event(event)
    count = given.integer("num_rounds", num_rounds)
    return event if count == 1 else dp_accounting.SelfComposedDpEvent(event, count)


def together(parts: Sequence[Any]) -> Any:
    """All of these events, one after the other."""
    import dp_accounting

    return parts[0] if len(parts) == 1 else dp_accounting.ComposedDpEvent([*parts])


@arguments.checked
def failing(event: Any, probability: SupportsFloat) -> Any:
    """`event` that with a small probability breaks its promise, each time that it runs.

    **Guarantee:** accounting adds `probability` times the number of runs to delta. That
    is right where the failure is drawn apart from any one client's (or example's)
    presence: neighbours fail together, and given that nothing failed the event holds;
    then delta gains the chance of a failure, once and without a factor exp(epsilon).

    Args:
      event: A `DpEvent`.
      probability: In [0, 1).

    Returns:
      The event beside a `Failure`, which dp-accounting's own accountants refuse.
    """
    import dp_accounting

    given.check_event(event)
    chance = to_float("probability", probability)
    if chance == 0 or event == dp_accounting.NonPrivateDpEvent():
        return event
    checks.probability("probability", chance, allow_one=False)
    return together([event, Failure(chance)])


@arguments.checked
def on_coordinates(event: Any, dimension: SupportsInt) -> Any:
    """`event`, of which each Gaussian release has so many coordinates: with what a
    change of all of them loses by the cut of the noise (`cut.spread`).

    Args:
      event: A `DpEvent`.
      dimension: Coordinates of a release, at least 1.

    Returns:
      The event, beside a `Failure` where there is such a loss.
    """
    given.check_event(event)
    size = given.integer("dimension", dimension)
    chance = _spread(flatten(event).items(), size)
    if chance == 0:
        return event
    return together([event, Failure(min(1.0, chance), "support")])


def _spread(mechanisms: Iterable[tuple[Any, int]], dimension: int) -> float:
    import dp_accounting as dp

    total = 0.0
    for mechanism, count in mechanisms:
        share, release = 1.0, mechanism
        match mechanism:
            case Participation(probability=prob, event=inner):
                total += count * prob * _spread(inner, dimension)
            case dp.PoissonSampledDpEvent(sampling_probability=share, event=release):
                pass
            case dp.SampledWithoutReplacementDpEvent(event=release):
                # Twice: `dp.cut`.
                share = 2 * mechanism.sample_size / mechanism.source_dataset_size
        if isinstance(release, dp.GaussianDpEvent):
            noise = release.noise_multiplier
            total += count * min(1.0, share * cut.spread(noise, dimension))
    return total


def flatten(event: Any, count: int = 1) -> Counter[Any]:
    """Counts the mechanisms that an event composes, `count` times over.

    They are the keys: dp-accounting's frozen events, rebuilt with checked Python
    floats, the sampled ones around a single Gaussian; a `Participation` around counted
    mechanisms; and a `Failure` for whatever may go wrong, among it what the cut of
    every Gaussian's and Laplace release's noise costs (`dp.cut`).
    """
    import dp_accounting as dp

    match event:
        case dp.NoOpDpEvent():
            return Counter()
        case dp.NonPrivateDpEvent():
            return Counter({event: count})
        case Failure(probability=chance, reason=reason):
            checks.probability("probability", chance, allow_one=reason == "support")
            return Counter({Failure(to_float("probability", chance), reason): count})
        case dp.SelfComposedDpEvent(event=inner, count=times):
            return flatten(inner, count * given.integer("count", times))
        case dp.ComposedDpEvent(events=events):
            total: Counter[Any] = Counter()
            for part in events:
                total.update(flatten(part, count))
            return total
        case Participation(probability=prob, event=inner):
            return _flat_participation(prob, inner, count)
        case dp.GaussianDpEvent():
            release = _within_range(
                dp.GaussianDpEvent, given.noise(event.noise_multiplier)
            )
            return _with_cut(release, cut.of_gaussian, release, 1.0, count)
        case dp.LaplaceDpEvent():
            release = _within_range(
                dp.LaplaceDpEvent, given.noise(event.noise_multiplier)
            )
            return _with_cut(release, cut.of_laplace, release, 1.0, count)
        case dp.RandomizedResponseDpEvent(noise_parameter=prob, num_buckets=values):
            return Counter({randomised_response(prob, values): count})
        case dp.ZCDpEvent(rho=rho, xi=xi):
            checks.non_negative("rho", rho)
            checks.non_negative("xi", xi)
            return Counter(
                {dp.ZCDpEvent(to_float("rho", rho), to_float("xi", xi)): count}
            )
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            release = _one_gaussian(inner)
            prob = to_float("sampling_prob", prob)
            sampled = poisson(prob, release)
            return _with_cut(sampled, cut.of_gaussian, release, prob, count)
        case dp.SampledWithoutReplacementDpEvent(
            source_dataset_size=population, sample_size=size, event=inner
        ):
            release = _one_gaussian(inner)
            sampled = fixed_size(population, size, release)
            # Twice: `dp.cut`.
            share = 1.0 if sampled == release else 2 * float(size) / float(population)
            return _with_cut(sampled, cut.of_gaussian, release, share, count)
    raise UnsupportedEventError(f"no accountant here has a bound for {event}")


def _with_cut(
    mechanism: Any, mass: Callable[[float], float], release: Any, share: float, n: int
) -> Counter[Any]:
    """A mechanism and the failure by the cut of its `release`'s noise, in which a unit
    takes part with probability `share` at most.
    """
    import dp_accounting as dp

    if mechanism == dp.NonPrivateDpEvent():
        return Counter({mechanism: n})
    chance = min(1.0, share * mass(release.noise_multiplier))
    found: Counter[Any] = Counter({mechanism: n})
    if chance > 0:
        found[Failure(chance, "support")] += n
    return found


def _flat_participation(prob: Any, event: Any, count: int) -> Counter[Any]:
    prob = to_float("participation_prob", prob)
    checks.probability("participation_prob", prob, allow_one=True)
    if prob == 1:
        return flatten(event, count)
    inner = flatten(event)
    found: Counter[Any] = Counter()
    for part in [part for part in inner if isinstance(part, Failure)]:
        chance = min(1.0, prob * part.probability * inner.pop(part))
        found[Failure(chance, part.reason)] += count
    if inner:
        mechanisms = tuple(sorted(inner.items(), key=repr))
        found[Participation(prob, mechanisms)] += count
    return found


def _within_range(kind: Callable[[float], Any], noise: float) -> Any:
    """A release whose noise the accountants' arithmetic survives: too little becomes
    none and too much less, both on the safe side.
    """
    import dp_accounting

    if noise < LEAST_NOISE:
        return dp_accounting.NonPrivateDpEvent()
    return kind(min(noise, MOST_NOISE))


def _one_gaussian(event: Any) -> Any:
    """The single Gaussian release that Gaussian releases of one cohort amount to."""
    import dp_accounting as dp

    mechanisms = {
        part: count
        for part, count in flatten(event).items()
        # That of the single release, below, covers them.
        if not (isinstance(part, Failure) and part.reason == "support")
    }
    if dp.NonPrivateDpEvent() in mechanisms:
        return dp.NonPrivateDpEvent()
    if {type(mechanism) for mechanism in mechanisms} != {dp.GaussianDpEvent}:
        raise UnsupportedEventError(
            f"only Gaussian releases have a bound under sampling, got {event}"
        )
    precision = sum(n * m.noise_multiplier**-2 for m, n in mechanisms.items())
    return _within_range(dp.GaussianDpEvent, precision**-0.5)
