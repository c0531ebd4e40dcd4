"""The delta that the noise's cut costs: noise from finitely many bits is bounded.

The noise of a release lies within `cut` standard deviations (Laplace: scales) on every
coordinate. A release that a neighbour could not have made gives its data away, however
small epsilon is, so the probability of such a release is part of delta.

**Guarantee:** proof. Let N be the cut noise, t the neighbours' distance over its scale,
and m the mass of `N + t` outside the support of N. For any set S, `P(M(D) in S) <= P(
M(D) in S and in the support of M(D')) + m`; on the common support both densities are
those of uncut noise over the same constant, so that the first term obeys the uncut
bound. Over adaptive rounds the same holds with "some round left the support" in place
of m, at most the sum of the m: nothing is multiplied by exp(epsilon).

Sampling multiplies m. Pair each cohort without the unit with the one that has it, and
restrict both to their common support. For a hockey-stick divergence of order 1 and
above, dropping from the part that both worlds share, and from what is subtracted, only
helps; what remains is the part of cohorts with the unit, `q m` under Poisson sampling.
(Orders below 1 follow by exchanging the worlds.) Cohorts of fixed size pair three ways,
with the unit, with its replacement and without either: `2 q m`. The same holds for each
round given the others, and rounds add up.
"""

from __future__ import annotations

import functools
import math

from ppml_lab import random

NORMAL_CUT, LAPLACE_CUT = random.NORMAL_CUT, random.LAPLACE_CUT

_NOTED = 1e-3


@functools.lru_cache(maxsize=4096)
def of_gaussian(noise_multiplier: float) -> float:
    """Mass of a release with Gaussian noise outside its neighbour's support.

    `sf(NORMAL_CUT - 1 / noise_multiplier)`, where neighbours differ on one coordinate;
    many coordinates may add `spread`.

    Args:
      noise_multiplier: Stddev over L2 sensitivity, positive.

    Returns:
      In [0, 1].
    """
    # Imported late, as all of SciPy is: it takes a quarter of a second.
    from scipy import special

    return float(special.ndtr(1 / noise_multiplier - NORMAL_CUT))


def spread(noise_multiplier: float, dimension: int) -> float:
    """The mass beyond `of_gaussian` where neighbours differ on many coordinates.

    A coordinate's mass is concave in the square of its part of the distance where that
    square is small and convex beyond, so that at worst one part is large and all others
    are equal. The result is the mass of the others: about
    `1e-18 sqrt(dimension) / noise_multiplier`, 4e-15 for 2^24 coordinates at noise 1.

    Args:
      noise_multiplier: Stddev over L2 sensitivity, positive.
      dimension: Coordinates of the release.

    Returns:
      In [0, 1].
    """
    distance = 1 / noise_multiplier
    part = min(distance, NORMAL_CUT) / math.sqrt(dimension)
    density = math.exp(-0.5 * (NORMAL_CUT - part) ** 2) / math.sqrt(2 * math.pi)
    return min(1.0, (dimension - 1) * distance / math.sqrt(dimension) * density)


@functools.lru_cache(maxsize=4096)
def of_laplace(noise_multiplier: float) -> float:
    """Mass of a release with Laplace noise outside its neighbour's support.

    It is largest where neighbours differ on one coordinate, because a coordinate's mass
    is convex in its part of the distance. `noise_multiplier` is the scale over the L1
    sensitivity, positive.

    Returns:
      In [0, 1].
    """
    beyond = 1 / noise_multiplier - LAPLACE_CUT
    if beyond >= 0:
        return 1 - 0.5 * math.exp(-beyond)
    return 0.5 * math.exp(beyond)


def in_words(share: float) -> str:
    """The words of a guarantee's line on the share of delta that the cut takes.

    They are "" for a share up to 1e-3.
    """
    if share <= _NOTED:
        return ""
    line = (
        f"{share:.2g} of delta is the chance that noise, which ends at "
        f"{NORMAL_CUT:.3g} standard deviations, gives a release away"
    )
    if share < 1:
        return line
    return line + ": no epsilon holds at this delta; take a larger noise_multiplier"
