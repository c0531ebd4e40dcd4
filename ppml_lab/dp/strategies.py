"""Strategies of correlated noise, on the host: what one contributor moves in a run.

A round that takes back the parts `s_1, s_2, ...` of the fresh noise of the rounds
before it releases `x_t + z_t - s_1 z_(t-1) - s_2 z_(t-2) - ...`. That is `x + C^-1 z`,
where the strategy C is lower triangular and Toeplitz; its first column is the power
series of `1 / (1 - s_1 x - s_2 x^2 - ...)`. Whoever sees `C x + z`, one Gaussian
release of the whole run, can make it, so that it costs what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, base, checks


@arguments.checked
def square_root(width: int) -> tuple[float, ...]:
    """The parts that the banded inverse square root takes back, `width - 1` of them.

    The first coefficients of `1 - sqrt(1 - x)`: with as many as rounds the inverse of
    the square root of the prefix sums, which is nearly optimal where everybody takes
    part once (Fichtenberger, Henzinger, Upadhyay, ICML 2023); cut off it is good for
    several participations, too (BISR, arXiv:2505.12128).

    Args:
      width: Noises that a round's is made of, its own among them; at least 2.

    Raises:
      ValueError: For a width below 2.
    """
    checks.at_least("width", width, 2)
    order = np.arange(1, width)
    root = np.cumprod((2 * order - 1) / (2 * order))
    return tuple((np.append(1.0, root[:-1]) - root).tolist())


@arguments.checked
def column(
    subtracted: Sequence[float], num_rounds: int
) -> Float[np.ndarray, " num_rounds"]:
    """The first column of the strategy that takes these parts back.

    Raises:
      ValueError: For a number of rounds below 1.
    """
    from scipy import signal

    checks.at_least("num_rounds", num_rounds, 1)
    impulse = np.zeros(num_rounds)
    impulse[0] = 1.0
    inverse = [1.0, *(-float(part) for part in subtracted)]
    return np.asarray(signal.lfilter([1.0], inverse, impulse))


@arguments.checked
def sensitivity(
    column: Float[np.ndarray, " num_rounds"], pattern: base.Participation
) -> float:
    """How far one contributor of norm 1 moves `C x`, in the L2 norm of all rounds.

    **Guarantee:** an upper bound for contributions that are vectors, chosen in the
    light of earlier releases, in any rounds that the pattern allows. It is exact where
    no entry of the column is negative or above the one before: worst is then to come as
    early and as often as may be (Kalinin, Lampert, "Banded Square Root Matrix
    Factorization for Differentially Private Model Training", NeurIPS 2024, Theorem 2).
    Any other column counts as the least such one that is nowhere below its absolute
    values.

    Args:
      column: The first column of the strategy, of as many rounds as the run has.
      pattern: Separations count from round to round: 1 is adjacent rounds.

    Raises:
      ValueError: For a column that is empty or not finite.
    """
    if not len(column) or not np.isfinite(column).all():
        raise ValueError(
            f"column must have a finite number for every round, got {column}"
        )
    sizes = np.maximum.accumulate(np.abs(column)[::-1])[::-1]
    apart, turns = pattern.min_separation, -(-len(sizes) // pattern.min_separation)
    times = min(pattern.max_participations, turns)
    by_turn = np.zeros(turns * apart)
    by_turn[: len(sizes)] = sizes
    by_turn = np.cumsum(by_turn.reshape(turns, apart), axis=0)
    # Of those who come at the rounds 0, apart, 2 apart, ..., so many times.
    moved = by_turn.copy()
    moved[times:] -= by_turn[: turns - times]
    return float(np.linalg.norm(moved.reshape(-1)[: len(sizes)]))
