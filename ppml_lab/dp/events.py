"""Privacy events: which mechanism runs how often, in dp-accounting's terms.

Noise multipliers are ALWAYS stddev / sensitivity under the neighbouring relation that
stands beside the event in a `base.PrivacyEvent`. dp-accounting silently drops numbers
that are not Python floats from sampled compositions. So this module checks and converts
every number: when an event is built, and again when it is flattened for an accountant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

from ppml_lab import arguments, checks
from ppml_lab.dp import cut, given
from ppml_lab.dp.given import to_float

LEAST_NOISE = 1e-3
"""Less noise counts as none: a single release then has an epsilon above 500,000."""

MOST_NOISE = 1e6
"""The largest noise multiplier that counts: releases with more noise count as this."""


class Failure(NamedTuple):
    """A part of an event in which anything may be released, with this `probability`.

    Attributes:
      probability: The probability of failing in one run.
      reason: Why the failure adds to delta without a factor exp(epsilon): "apart" is
        drawn apart from any one contribution (`failing`), "support" is the mass of
        noise of finite support outside the neighbour's (`dp.cut`, which has the proof).
    """

    probability: float
    reason: str = "apart"


class Participation(NamedTuple):
    """A part of an event: its unit takes part, for all to see, with this `probability`.

    Attributes:
      probability: The probability of taking part in one run.
      event: The cost of taking part: a `DpEvent`; once flattened, a sorted tuple of
        (mechanism, count).
    """

    probability: float
    event: Any


class UnsupportedEventError(ValueError):
    """The accountant has no bound for this event under this neighbouring relation."""


@arguments.checked
def gaussian(noise_multiplier: SupportsFloat) -> Any:
    """One release of a sum with Gaussian noise; `laplace` takes and raises the same.

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
    """One release with Laplace noise of scale `noise_multiplier` * L1 sensitivity."""
    import dp_accounting

    noise = given.noise(noise_multiplier)
    if noise == 0:
        return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.LaplaceDpEvent(noise)


@arguments.checked
def randomised_response(random_prob: SupportsFloat, num_values: SupportsInt) -> Any:
    """One answer by k-ary randomised response over `num_values` values.

    With probability `random_prob` the answer is a uniform value, else the true one.
    Neighbouring data sets replace the value.
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
      population: The number of clients (or examples); public.
      cohort_size: The number that is drawn, in [1, population].
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
    """`event`, run by the unit itself whenever it takes part, which everybody sees.

    This is the event of local noise: nobody hides who takes part, so sampling amplifies
    nothing, but a unit pays only for the rounds in which it takes part. At order a the
    pair (took part, release) has RDP `log(1 - q + q exp((a - 1) rdp(a))) / (a - 1)`.
    An event outside a `participating` is noise that a trusted party adds; it promises
    nothing against that party (`accounting.against_server`).

    **Guarantee:** participation is drawn afresh for each run, without looking at the
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
    """Returns whether every release of an event is inside a `participating`."""
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
    """`num_rounds` (an integer of at least 1) adaptive repetitions of `event`."""
    import dp_accounting

    given.check_event(event)
    count = given.integer("num_rounds", num_rounds)
    return event if count == 1 else dp_accounting.SelfComposedDpEvent(event, count)


def together(parts: Sequence[Any]) -> Any:
    """The composition of these events, one after the other."""
    import dp_accounting

    return parts[0] if len(parts) == 1 else dp_accounting.ComposedDpEvent([*parts])


@arguments.checked
def failing(event: Any, probability: SupportsFloat) -> Any:
    """`event` that breaks its promise with a small probability each time that it runs.

    **Guarantee:** accounting adds `probability` times the number of runs to delta. This
    is right where the failure is drawn apart from any one client's (or example's)
    presence: neighbouring data sets then fail together, and the event holds given that
    nothing failed. So delta grows by the probability of a failure, once and without a
    factor exp(epsilon).

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
    """`event`, each of whose Gaussian releases has `dimension` coordinates.

    Adds the delta that a change of all coordinates costs because the noise is cut
    (`cut.spread`).

    Args:
      event: A `DpEvent`.
      dimension: Coordinates of a release, at least 1.

    Returns:
      The event, beside a `Failure` where that cost is positive.
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
                # `dp.cut` explains the factor of 2.
                share = 2 * mechanism.sample_size / mechanism.source_dataset_size
        if isinstance(release, dp.GaussianDpEvent):
            noise = release.noise_multiplier
            total += count * min(1.0, share * cut.spread(noise, dimension))
    return total


def flatten(event: Any, count: int = 1) -> Counter[Any]:
    """Counts the mechanisms that an event composes, `count` times over.

    The mechanisms are the keys: dp-accounting's frozen events, rebuilt with checked
    Python floats, the sampled ones around a single Gaussian; a `Participation` around
    counted mechanisms; and a `Failure` for whatever may go wrong, including the cost of
    the cut noise of every Gaussian and Laplace release (`dp.cut`).
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
            # `dp.cut` explains the factor of 2.
            share = 1.0 if sampled == release else 2 * float(size) / float(population)
            return _with_cut(sampled, cut.of_gaussian, release, share, count)
    raise UnsupportedEventError(f"no accountant here has a bound for {event}")


def _with_cut(
    mechanism: Any, mass: Callable[[float], float], release: Any, share: float, n: int
) -> Counter[Any]:
    """A mechanism, and the `Failure` that the cut of its `release`'s noise costs, where
    a unit takes part in the release with probability `share` at most.
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
    """A release whose noise the accountants' arithmetic can handle: too little becomes
    none, and too much becomes `MOST_NOISE`, both on the safe side.
    """
    import dp_accounting

    if noise < LEAST_NOISE:
        return dp_accounting.NonPrivateDpEvent()
    return kind(min(noise, MOST_NOISE))


def _one_gaussian(event: Any) -> Any:
    """The single Gaussian release equivalent to the Gaussian releases of one cohort."""
    import dp_accounting as dp

    mechanisms = {
        part: count
        for part, count in flatten(event).items()
        # `flatten` adds that of the single release, which covers them.
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
