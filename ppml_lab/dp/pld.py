"""Privacy loss distributions of many releases, composed by FFT, as bounds on each side.

Koskela, Jälkö and Honkela, "Computing Tight Differential Privacy Guarantees Using FFT",
AISTATS 2020; `dp.losses` has the distributions of one run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ppml_lab.dp import events, losses
from ppml_lab.dp.losses import Grid

_MOST_POINTS, _MOST_IN_ALL = 2**18, 2**20
"""The most points of one release's distribution, and of the composition's."""

_COARSE = 1e-4
_LOG_TAIL = math.log(1e-15)
_ROUNDING = 1e-15
"""The most that rounding in a transform changes a tail probability, per release."""

_ANGLES = 2.0 ** np.arange(-8, 9)


Mechanisms = frozenset[tuple[Any, int]]


class Composed(NamedTuple):
    """All releases together, one distribution for each direction that differs."""

    step: float
    directions: tuple[Grid, ...]

    def delta(self, epsilon: float) -> float:
        """The delta at `epsilon`, at least 0, in the worse direction."""
        return max(_delta(grid, self.step, epsilon) for grid in self.directions)

    def epsilon(self, delta: float) -> float:
        """The least epsilon at `delta`, bounded from the losses' side; inf for none."""
        return max(_epsilon(grid, self.step, delta) for grid in self.directions)


def least_delta(num_releases: int) -> float:
    """The delta below which rounding outweighs the distribution."""
    return 4 * _ROUNDING * (num_releases + 1)


def composed(mechanisms: Mechanisms, by_rdp: float, from_above: bool) -> Composed:
    """The privacy loss of counted mechanisms.

    **Guarantee:** from above, `delta` and `epsilon` are at least the true ones, and
    from below at most, up to rounding, for which 1e-15 a release is allowed.

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
    """The step of the grid, which follows the losses' standard deviation in a round.

    Losses much smaller than the step would count as a whole step. Half the square of
    the standard deviation is about the KL divergence.
    """
    total = sum(count for _, count in mechanisms)
    kl = sum(count * losses.divergence(mechanism) for mechanism, count in mechanisms)
    deviation = math.sqrt(2 * kl / total)
    step = min(_COARSE * max(1.0, by_rdp / 10), deviation / 16)
    points = _MOST_POINTS / max(1, len(mechanisms) / 8)
    widest = max(losses.span(mechanism) for mechanism, _ in mechanisms)
    return max(step, widest / points, 1e-12)


def _at_step(mechanisms: Mechanisms, step: float, from_above: bool) -> Composed | float:
    """The composition at this step, or the factor by which the step is too fine."""
    ways, one_run = [], _above if from_above else losses.below
    for with_unit in (True, False):
        parts = [
            (one_run(mechanism, step, with_unit), count)
            for mechanism, count in sorted(mechanisms, key=repr)
        ]
        found = _compose(parts, step, from_above)
        if isinstance(found, float):
            return found
        ways.append(found)
        if all(losses.is_symmetric(mechanism) for mechanism, _ in mechanisms):
            break
    return Composed(step, tuple(ways))


def _above(mechanism: Any, step: float, with_unit: bool) -> Grid:
    if isinstance(mechanism, events.Participation):
        return _taking_part(mechanism, step, with_unit)
    return losses.above(mechanism, step, with_unit)


def _taking_part(mechanism: Any, step: float, with_unit: bool) -> Grid:
    """The loss of the release with the participation's probability, else no loss."""
    parts = [(_above(part, step, with_unit), count) for part, count in mechanism.event]
    inner = _compose(parts, step, from_above=True)
    if isinstance(inner, float):
        raise OverflowError("too many points in one participation")
    prob = mechanism.probability
    taken = Grid(inner.first, prob * inner.mass, prob * inner.infinite)
    return losses.mixed(taken, Grid(0, np.array([1 - prob]), 0.0))


def _compose(
    parts: list[tuple[Grid, int]], step: float, from_above: bool
) -> Grid | float:
    """The sum of independent losses, or the factor by which the step is too fine.

    Mass outside the window, at most 1e-15 on either side, wraps around to the window's
    other end; from above it counts as an infinite loss besides.
    """
    from scipy import fft

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
    """The first and last index of a window that leaves 1e-15 of the sum on either side.

    By Chernoff's bound, at angles in units of one over the sum's standard deviation.
    """
    variance = sum(n * _variance(grid) for grid, n in parts)
    unit = 1 / math.sqrt(max(variance, 1e-30))
    angles = unit * _ANGLES
    low = float(sum(n * grid.first for grid, n in parts))
    high = float(sum(n * (grid.first + len(grid.mass) - 1) for grid, n in parts))
    tops = [_log_moments(parts, sign, unit) for sign in (1, -1)]
    high = min(high, float(np.min((tops[0] - _LOG_TAIL) / angles)))
    low = max(low, float(np.max((_LOG_TAIL - tops[1]) / angles)))
    return math.floor(low), max(math.ceil(high), math.floor(low))


def _log_moments(parts: list[tuple[Grid, int]], sign: int, unit: float) -> np.ndarray:
    """Log moments of the sum at `sign * unit` times each of `_ANGLES`.

    Angles double, so that each power is the square of the one before.
    """
    found = np.zeros(len(_ANGLES))
    for grid, count in parts:
        places = sign * (grid.first + np.arange(len(grid.mass)))
        top = max(places[0], places[-1])
        powers = np.exp(_ANGLES[0] * unit * (places - top))
        for number, angle in enumerate(_ANGLES):
            total = float(np.dot(powers, grid.mass))
            moment = angle * unit * top + math.log(total) if total > 0 else math.inf
            found[number] += count * moment
            powers *= powers
    return found


def _variance(grid: Grid) -> float:
    places = grid.first + np.arange(len(grid.mass))
    mean = np.dot(places, grid.mass)
    return float(np.dot((places - mean) ** 2, grid.mass))


def _delta(grid: Grid, step: float, epsilon: float) -> float:
    after = max(0, math.floor((epsilon - grid.shift) / step) - grid.first + 1)
    places = step * (grid.first + np.arange(after, len(grid.mass))) + grid.shift
    lost = -np.expm1(np.minimum(epsilon - places, 0.0))
    found = grid.infinite + float(np.dot(lost, grid.mass[after:]))
    return min(max(found, 0.0), 1.0)


def _epsilon(grid: Grid, step: float, delta: float) -> float:
    from scipy import optimize

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
