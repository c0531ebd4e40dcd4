"""The privacy loss of one run of a mechanism on a grid, bounded from above or below.

From above, the mass between two points of the grid is split between these so that both
worlds' probabilities are kept: the privacy profile then connects its dots (Doroshenko,
Ghazi, Kamath, Kumar, Manurangsi, "Connect the Dots: Tighter Discrete Approximations of
Privacy Loss Distributions", PoPETs 2022). From below, only the cell around a point is
observed, which tells less than the release, and the cell's loss is rounded down.

A loss is `log(P / Q)` under P, where P is the world with the unit's contribution or the
world without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppml_lab.dp import rdp

_TAIL = 10.0
"""Standard deviations of a release's noise on the grid; 8e-24 of it are beyond each
side."""


class Grid(NamedTuple):
    """A distribution of privacy loss.

    Attributes:
      first: Index of the first point: it lies at `first * step`.
      mass: Probability of each point.
      infinite: Probability of an infinite loss; may be negative from below, where it
        makes up for rounding.
      shift: The amount by which every loss exceeds its point.
    """

    first: int
    mass: Float[np.ndarray, " points"]
    infinite: float
    shift: float = 0.0


class Pieces(NamedTuple):
    """Probabilities of the cells between points of a grid, in both worlds.

    Attributes:
      first: Index of the point below the first cell.
      one: Probabilities in the world whose loss is taken, `[cells]`.
      other: Probabilities in the other world.
      below: Probability below all cells in the first world.
      above: Probability above all cells in the first world.
    """

    first: int
    one: Float[np.ndarray, " cells"]
    other: Float[np.ndarray, " cells"]
    below: float
    above: float


def above(mechanism: Any, step: float, with_unit: bool) -> Grid:
    """The loss of one run, at least the true loss."""
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
    raise ValueError(f"no privacy loss is known for {mechanism}")


def below(mechanism: Any, step: float, with_unit: bool) -> Grid:
    """The loss of one run, at most the true loss; Gaussian releases only."""
    import dp_accounting as dp

    match mechanism:
        case dp.GaussianDpEvent(noise_multiplier=noise):
            pieces = _gaussian(1.0, noise, step, with_unit, -0.5)
        case dp.PoissonSampledDpEvent(sampling_probability=prob, event=inner):
            release: Any = inner
            noise = release.noise_multiplier
            pieces = _gaussian(prob, noise, step, with_unit, -0.5)
        case _:
            raise ValueError(
                f"only Gaussian releases have a lower bound, got {mechanism}"
            )
    return _told(pieces, step)


def _ends(prob: float, noise: float) -> tuple[float, float]:
    """The losses (with against without the unit) at the two ends of the noise."""
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
    """The cells of a sampled Gaussian release of stddev `noise` and contributions of 1.

    The cells begin `offset` steps after the grid's points.
    """
    low, high = _ends(prob, noise)
    indices = np.arange(math.floor(low / step), math.ceil(high / step) + 1)
    losses = step * (indices + offset)
    # Places on the line with these losses: s^2 log(1 + (e^loss - 1) / q) + 1/2.
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
    """Masses of a standard normal between edges, computed from the nearer tail."""
    from scipy import special

    left = np.diff(special.ndtr(edges))
    right = -np.diff(special.ndtr(-edges))
    return np.maximum(np.where(edges[:-1] > 0, right, left), 0.0)


def _split(pieces: Pieces, step: float) -> Grid:
    """Splits each cell's mass between its two ends, keeping both probabilities."""
    losses = step * (pieces.first + np.arange(len(pieces.one)))
    with np.errstate(over="ignore", invalid="ignore"):
        higher = (pieces.one - np.exp(losses) * pieces.other) / -math.expm1(-step)
    higher = np.where(losses < 500, np.clip(higher, 0, pieces.one), pieces.one)
    mass = np.append(pieces.one - higher, 0.0)
    mass[1:] += higher
    mass[0] += pieces.below
    return Grid(pieces.first, mass, pieces.above)


def _told(pieces: Pieces, step: float) -> Grid:
    """Rounds each cell's own loss down.

    A loss becomes the cell's point less a shift that is the same for all cells, or else
    the point before.
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
    # Up to rounding, no cell's loss is a step below its point.
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
    return mixed(body, ends)


def _of_points(points: Iterable[tuple[float, float]], step: float) -> Grid:
    """The loss of answers that have these probabilities in the two worlds."""
    found = Grid(0, np.zeros(1), 0.0)
    for one, other in points:
        if one <= 0:
            continue
        first = math.floor(math.log(one / other) / step)
        cell = Pieces(first, np.array([one]), np.array([other]), 0.0, 0.0)
        found = mixed(found, _split(cell, step))
    return found


def mixed(a: Grid, b: Grid) -> Grid:
    """The masses of both grids, added where they overlap."""
    first = min(a.first, b.first)
    last = max(a.first + len(a.mass), b.first + len(b.mass))
    mass = np.zeros(last - first)
    for part in (a, b):
        start = part.first - first
        mass[start : start + len(part.mass)] += part.mass
    return Grid(first, mass, a.infinite + b.infinite)


def _answers(prob: float, values: int) -> tuple[float, float]:
    """The probabilities of the true answer, and of each other answer."""
    return 1 - prob + prob / values, prob / values


@functools.lru_cache(maxsize=1024)
def divergence(mechanism: Any) -> float:
    """The approximate KL divergence of one run, by RDP at an order near 1."""
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
            inner = sum(n * divergence(part) for part, n in mechanism.event)
            found = mechanism.probability * inner
    return max(float(found), 1e-30)


def span(mechanism: Any) -> float:
    """The distance between the least and the largest loss on the grid."""
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
    return sum(math.sqrt(n) * span(part) for part, n in mechanism.event)


def is_symmetric(mechanism: Any) -> bool:
    """Returns whether both directions of neighbours have the same loss distribution."""
    import dp_accounting as dp

    if isinstance(mechanism, dp.DpEvent):
        return not isinstance(mechanism, dp.PoissonSampledDpEvent)
    return all(is_symmetric(part) for part, _ in mechanism.event)
