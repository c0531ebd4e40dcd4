"""Privacy loss distributions on a grid: built, composed by FFT, read from either side.

Koskela, Jälkö and Honkela, "Computing Tight Differential Privacy Guarantees Using FFT",
AISTATS 2020. From above, what a mechanism's loss does between two points of the grid is
split between them so that both worlds' probabilities are kept: the privacy profile
then connects its dots (Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, PoPETs 2022). From
below, only the cell around a point is told, which is less than what is released, and
the cell's loss is rounded down.

A direction of a mechanism is the distribution of `log(P / Q)` under P, P being the
world with the unit's contribution or the one without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft, optimize, special

from ppml_lab.dp import rdp

_TAIL = 10.0
"""Standard deviations of a release's noise on the grid; 8e-24 are beyond each side."""

_MOST_POINTS, _MOST_IN_ALL = 2**18, 2**20
"""Points of one release's distribution, and of the composition's."""

_COARSE = 1e-4
_LOG_TAIL = math.log(1e-15)
_ROUNDING = 1e-15
"""What rounding in a transform may do to a tail probability, for each release."""

_ANGLES = 2.0 ** np.arange(-8, 9)


class Grid(NamedTuple):
    """A distribution of privacy loss.

    Attributes:
      first: Index of the first point: it lies at `first * step`.
      mass: Probability of each point.
      infinite: Of an infinite loss; may be negative from below, where it makes up for
        rounding.
      shift: What every loss is more than its point.
    """

    first: int
    mass: Float[np.ndarray, " points"]
    infinite: float
    shift: float = 0.0


class Pieces(NamedTuple):
    """Probabilities of the cells between points of a grid, in both worlds.

    Attributes:
      first: Index of the point below the first cell.
      one: Of the world whose loss is taken, `[cells]`.
      other: Of the other world.
      below: Of the first world, below all cells.
      above: And above.
    """

    first: int
    one: Float[np.ndarray, " cells"]
    other: Float[np.ndarray, " cells"]
    below: float
    above: float


Mechanisms = frozenset[tuple[Any, int]]


class Composed(NamedTuple):
    """All releases together, one distribution for each direction that differs."""

    step: float
    directions: tuple[Grid, ...]

    def delta(self, epsilon: float) -> float:
        """The delta at `epsilon`, at least 0, in the worse direction."""
        return max(_delta(grid, self.step, epsilon) for grid in self.directions)

    def epsilon(self, delta: float) -> float:
        """The least epsilon at `delta`, on the side from which the losses were taken;
        inf where there is none.
        """
        return max(_epsilon(grid, self.step, delta) for grid in self.directions)


def least_delta(num_releases: int) -> float:
    """Below it rounding says more than the distribution."""
    return 4 * _ROUNDING * (num_releases + 1)


def composed(mechanisms: Mechanisms, by_rdp: float, from_above: bool) -> Composed:
    """The privacy loss of counted mechanisms.

    **Guarantee:** from above, `delta` and `epsilon` are at least the true ones, and
    from below at most, but for rounding, for which 1e-15 a release is allowed.

    Args:
      mechanisms: `events.flatten`'s Gaussian, Laplace, randomised-response and
        Poisson-sampled Gaussian ones, and participations in these (from below the
        Gaussian ones alone); how often each runs.
      by_rdp: An epsilon of the same order of magnitude.
      from_above: Whether losses are rounded up.
    """
    step = _step(mechanisms, by_rdp)
    while True:
        found = _at_step(mechanisms, step, from_above)
        if isinstance(found, Composed):
            return found
        step *= found


def _step(mechanisms: Mechanisms, by_rdp: float) -> float:
    """Losses much smaller than the step would count as if they were one: it follows
    their standard deviation in a round, twice whose square over the order is RDP.
    """
    total = sum(count for _, count in mechanisms)
    kl = sum(count * _divergence(mechanism) for mechanism, count in mechanisms)
    deviation = math.sqrt(2 * kl / total)
    step = min(_COARSE * max(1.0, by_rdp / 10), deviation / 16)
    points = _MOST_POINTS / max(1, len(mechanisms) / 8)
    widest = max(_span(mechanism) for mechanism, _ in mechanisms)
    return max(step, widest / points, 1e-12)


@functools.lru_cache(maxsize=1024)
def _divergence(mechanism: Any) -> float:
    """About the KL divergence of a run, by RDP at an order near 1."""
    import dp_accounting as dp

    order = np.array([1.05])
    match mechanism:
        case dp.GaussianDpEvent(noise_multiplier=noise):
            found = 0.5 / noise**2
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            noise: Any = inner
            found = rdp.subsampled_gaussian(prob, noise.noise_multiplier, order)[0]
        case dp.LaplaceDpEvent(noise_multiplier=noise):
            found = math.expm1(-1 / noise) + 1 / noise
        case dp.RandomizedResponseDpEvent(noise_parameter=prob, num_buckets=values):
            truth, lie = _answers(prob, values)
            found = (truth - lie) * math.log(truth / lie)
        case _:
            inner = sum(n * _divergence(part) for part, n in mechanism.event)
            found = mechanism.probability * inner
    return max(float(found), 1e-30)


def _span(mechanism: Any) -> float:
    """Between the least and the largest loss on the grid."""
    import dp_accounting as dp

    match mechanism:
        case dp.GaussianDpEvent(noise_multiplier=noise):
            return 2 * _TAIL / noise + 1 / noise**2
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            release: Any = inner
            low, high = _ends(prob, release.noise_multiplier)
            return high - low
        case dp.LaplaceDpEvent(noise_multiplier=noise):
            return 2 / noise
        case dp.RandomizedResponseDpEvent(noise_parameter=prob, num_buckets=values):
            truth, lie = _answers(prob, values)
            return 2 * math.log(truth / lie)
    return sum(math.sqrt(n) * _span(part) for part, n in mechanism.event)


def _at_step(mechanisms: Mechanisms, step: float, from_above: bool) -> Composed | float:
    """The composition, or the factor by which the step is too fine."""
    ways, one_run = [], _above if from_above else _below
    for with_unit in (True, False):
        parts = [
            (one_run(mechanism, step, with_unit), count)
            for mechanism, count in sorted(mechanisms, key=repr)
        ]
        found = _compose(parts, step, from_above)
        if isinstance(found, float):
            return found
        ways.append(found)
        if all(_is_symmetric(mechanism) for mechanism, _ in mechanisms):
            break
    return Composed(step, tuple(ways))


def _is_symmetric(mechanism: Any) -> bool:
    import dp_accounting as dp

    if isinstance(mechanism, dp.DpEvent):
        return not isinstance(mechanism, dp.PoissonSampledDpEvent)
    return all(_is_symmetric(part) for part, _ in mechanism.event)


def _above(mechanism: Any, step: float, with_unit: bool) -> Grid:
    import dp_accounting as dp

    match mechanism:
        case dp.GaussianDpEvent(noise_multiplier=noise):
            return _split(_gaussian(1.0, noise, step, with_unit, 0.0), step)
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            noise: Any = inner
            pieces = _gaussian(prob, noise.noise_multiplier, step, with_unit, 0.0)
            return _split(pieces, step)
        case dp.LaplaceDpEvent(noise_multiplier=noise):
            return _laplace(1 / noise, step)
        case dp.RandomizedResponseDpEvent(noise_parameter=prob, num_buckets=values):
            truth, lie = _answers(prob, values)
            rest = max(0.0, 1 - truth - lie)
            return _of_points([(truth, lie), (lie, truth), (rest, rest)], step)
    return _taking_part(mechanism, step, with_unit)


def _below(mechanism: Any, step: float, with_unit: bool) -> Grid:
    import dp_accounting as dp

    match mechanism:
        case dp.GaussianDpEvent(noise_multiplier=noise):
            pieces = _gaussian(1.0, noise, step, with_unit, -0.5)
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            release: Any = inner
            noise = release.noise_multiplier
            pieces = _gaussian(prob, noise, step, with_unit, -0.5)
        case _:
            raise ValueError(f"only Gaussian releases are bounded below: {mechanism}")
    return _told(pieces, step)


def _ends(prob: float, noise: float) -> tuple[float, float]:
    """The losses, with against without, of the noise's two ends."""
    ends = np.array([-_TAIL * noise, 1 + _TAIL * noise])
    exponent = (2 * ends - 1) / (2 * noise**2)
    if prob == 1:
        low, high = exponent
    else:
        low, high = np.logaddexp(math.log1p(-prob), math.log(prob) + exponent)
    return float(low), float(high)


def _gaussian(
    prob: float, noise: float, step: float, with_unit: bool, offset: float
) -> Pieces:
    """A sampled Gaussian release of stddev `noise`, a contribution being 1; its cells
    begin `offset` steps after points.
    """
    low, high = _ends(prob, noise)
    indices = np.arange(math.floor(low / step), math.ceil(high / step) + 1)
    losses = step * (indices + offset)
    # Where on the line the loss is: s^2 log(1 + (e^loss - 1) / q) + 1/2.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        small = np.log1p(np.maximum(np.expm1(np.minimum(losses, 30.0)) / prob, -1.0))
        large = losses - math.log(prob) + np.log1p((prob - 1) * np.exp(-losses))
        places = noise**2 * np.where(losses < 30, small, large) + 0.5
    edges = np.concatenate([[-np.inf], places, [np.inf]])
    without = _masses(edges / noise)
    present = _masses((edges - 1) / noise)
    within = (1 - prob) * without + prob * present
    if with_unit:
        one, other, first = within, without, int(indices[0])
    else:
        # The loss of the other world falls along the line.
        one, other = without[::-1], within[::-1]
        first = -int(indices[-1] + 2 * offset)
    return Pieces(first, one[1:-1], other[1:-1], float(one[0]), float(one[-1]))


def _masses(edges: np.ndarray) -> np.ndarray:
    """Of a standard normal between edges, from whichever tail is nearer."""
    left = np.diff(special.ndtr(edges))
    right = -np.diff(special.ndtr(-edges))
    return np.maximum(np.where(edges[:-1] > 0, right, left), 0.0)


def _split(pieces: Pieces, step: float) -> Grid:
    """Each cell's probabilities in both worlds, on its two ends."""
    losses = step * (pieces.first + np.arange(len(pieces.one)))
    with np.errstate(over="ignore", invalid="ignore"):
        higher = (pieces.one - np.exp(losses) * pieces.other) / -math.expm1(-step)
    higher = np.where(losses < 500, np.clip(higher, 0, pieces.one), pieces.one)
    mass = np.append(pieces.one - higher, 0.0)
    mass[1:] += higher
    mass[0] += pieces.below
    return Grid(pieces.first, mass, pieces.above)


def _told(pieces: Pieces, step: float) -> Grid:
    """Each cell's own loss, rounded down: to the cell's point less a shift that is the
    same for all, or else to the point before.
    """
    points = step * (pieces.first + np.arange(len(pieces.one)))
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.log(pieces.one) - np.log(pieces.other) - points
    errors = np.where(pieces.one > 0, np.nan_to_num(errors, nan=-np.inf), 0.0)
    shifts = step * 10.0 ** np.arange(-5, 0)
    costs = [shift + step * pieces.one[errors < -shift].sum() for shift in shifts]
    shift = float(shifts[np.argmin(costs)])
    down = errors < -shift
    mass = np.append(np.where(down, pieces.one, 0.0), 0.0)
    mass[1:] += np.where(down, 0.0, pieces.one)
    # Rounding apart, no cell's loss is a step below its point.
    mass[:-1][errors < -step] = 0.0
    mass[-1] += pieces.above
    # What lies below all cells has a loss of minus infinity.
    return Grid(pieces.first - 1, mass, 0.0, -shift)


def _laplace(top: float, step: float) -> Grid:
    """Noise of scale 1 against a shift of `top`: two points of mass and an interval."""
    last = math.ceil(top / step)
    indices = np.arange(-last, last + 1)
    # The loss at x is top - 2 x between 0 and top.
    places = np.clip((top - step * indices) / 2, 0, top)
    one = -np.diff(-np.expm1(-places)) / 2
    other = -np.diff(np.exp(places - top)) / 2
    body = _split(Pieces(-last, one, other, 0.0, 0.0), step)
    lie = math.exp(-top) / 2
    ends = _of_points([(0.5, lie), (lie, 0.5)], step)
    return _mixed(body, ends)


def _of_points(points: Iterable[tuple[float, float]], step: float) -> Grid:
    """Answers by their probability in both worlds."""
    found = Grid(0, np.zeros(1), 0.0)
    for one, other in points:
        if one <= 0:
            continue
        first = math.floor(math.log(one / other) / step)
        cell = Pieces(first, np.array([one]), np.array([other]), 0.0, 0.0)
        found = _mixed(found, _split(cell, step))
    return found


def _mixed(a: Grid, b: Grid) -> Grid:
    first = min(a.first, b.first)
    last = max(a.first + len(a.mass), b.first + len(b.mass))
    mass = np.zeros(last - first)
    for part in (a, b):
        start = part.first - first
        mass[start : start + len(part.mass)] += part.mass
    return Grid(first, mass, a.infinite + b.infinite)


def _answers(prob: float, values: int) -> tuple[float, float]:
    """The chances of the true answer, and of each other one."""
    return 1 - prob + prob / values, prob / values


def _taking_part(mechanism: Any, step: float, with_unit: bool) -> Grid:
    """The release with the participation's probability, and otherwise no loss."""
    parts = [(_above(part, step, with_unit), count) for part, count in mechanism.event]
    inner = _compose(parts, step, from_above=True)
    if isinstance(inner, float):
        raise OverflowError("too many points in one participation")
    prob = mechanism.probability
    taken = Grid(inner.first, prob * inner.mass, prob * inner.infinite)
    return _mixed(taken, Grid(0, np.array([1 - prob]), 0.0))


def _compose(
    parts: list[tuple[Grid, int]], step: float, from_above: bool
) -> Grid | float:
    """The sum of independent losses, or the factor by which the step is too fine.

    What lies outside the window, where 1e-15 may on either side, comes back into it at
    its other end; from above it is counted as infinite besides.
    """
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    first, last = _window(parts)
    size = last - first + 1
    most = max(2**13, _MOST_IN_ALL // max(1, len(parts) // 8))
    if size > most:
        return 1.05 * size / most
    length = fft.next_fast_len(size, real=True)
    product = np.ones(length // 2 + 1, complex)
    finite, start, releases, shift = 0.0, 0, 0, 0.0
    for grid, count in parts:
        folded = np.bincount(
            np.arange(len(grid.mass)) % length, weights=grid.mass, minlength=length
        )
        product *= fft.rfft(folded) ** count
        finite += count * math.log1p(-grid.infinite)
        start += count * grid.first
        releases += count
        shift += count * grid.shift
    mass = np.roll(fft.irfft(product, length), start - first)[:size]
    spare = 2 * math.exp(_LOG_TAIL) + _ROUNDING * releases
    if from_above:
        return Grid(first, np.maximum(mass, 0.0), spare - math.expm1(finite))
    return Grid(first, mass, -spare, shift)


def _window(parts: list[tuple[Grid, int]]) -> tuple[int, int]:
    """Indices between which all but 1e-15 of the sum lies on either side, by Chernoff's
    bound; angles in units of the sum's standard deviation.
    """
    variance = sum(n * _variance(grid) for grid, n in parts)
    angles = _ANGLES / math.sqrt(max(variance, 1e-30))
    low = float(sum(n * grid.first for grid, n in parts))
    high = float(sum(n * (grid.first + len(grid.mass) - 1) for grid, n in parts))
    tops = [_log_moments(parts, sign * angles) for sign in (1, -1)]
    high = min(high, float(np.min((tops[0] - _LOG_TAIL) / angles)))
    low = max(low, float(np.max((_LOG_TAIL - tops[1]) / angles)))
    return math.floor(low), max(math.ceil(high), math.floor(low))


def _log_moments(parts: list[tuple[Grid, int]], angles: np.ndarray) -> np.ndarray:
    found = np.zeros(len(angles))
    for grid, count in parts:
        places = grid.first + np.arange(len(grid.mass))
        for number, angle in enumerate(angles):
            exponent = angle * places
            top = max(exponent[0], exponent[-1])
            total = float(np.dot(np.exp(exponent - top), grid.mass))
            moment = top + math.log(total) if total > 0 else math.inf
            found[number] += count * moment
    return found


def _variance(grid: Grid) -> float:
    places = grid.first + np.arange(len(grid.mass))
    mean = np.dot(places, grid.mass)
    return float(np.dot((places - mean) ** 2, grid.mass))


def _delta(grid: Grid, step: float, epsilon: float) -> float:
    after = max(0, math.floor((epsilon - grid.shift) / step) - grid.first + 1)
    losses = step * (grid.first + np.arange(after, len(grid.mass))) + grid.shift
    lost = -np.expm1(np.minimum(epsilon - losses, 0.0))
    found = grid.infinite + float(np.dot(lost, grid.mass[after:]))
    return min(max(found, 0.0), 1.0)


def _epsilon(grid: Grid, step: float, delta: float) -> float:
    def excess(epsilon: float) -> float:
        found = _delta(grid, step, epsilon)
        return math.log(max(found, 1e-300) / delta)

    high = step * (grid.first + len(grid.mass)) + grid.shift
    if excess(0.0) <= 0 or high <= 0:
        return 0.0
    if excess(high) > 0:
        return math.inf
    root: Any = optimize.brentq(excess, 0.0, high, xtol=1e-9 * high, rtol=1e-14)
    while excess(root) > 0:
        root += 1e-9 * high
    return float(root)
