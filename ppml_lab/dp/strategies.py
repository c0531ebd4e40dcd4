"""Strategies of correlated noise, and their sensitivity in a run; on the host.

A round that subtracts the parts `s_1, s_2, ...` of the fresh noise of the rounds before
it releases `x_t + z_t - s_1 z_(t-1) - s_2 z_(t-2) - ...`. A run so releases
`x + C^-1 z`, where the strategy C is lower triangular and Toeplitz; its first column is
the power series of `1 / (1 - s_1 x - s_2 x^2 - ...)`. These releases can be made from
`C x + z`, one Gaussian release of the whole run, and so they cost what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, base, checks


@arguments.checked
def square_root(width: int) -> tuple[float, ...]:
    """The `width - 1` parts that the banded inverse square root subtracts.

    They are the first coefficients of `1 - sqrt(1 - x)`. With as many as rounds they
    give the inverse of the square root of the prefix sums, which is nearly optimal
    where everybody takes part once (Fichtenberger, Henzinger, Upadhyay, ICML 2023); cut
    off it is good for several participations, too (BISR, arXiv:2505.12128).

    Args:
      width: The number of fresh noises in a round's noise, its own included; at least
        2.

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
    """The first column of the strategy that subtracts these parts.

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
    """The L2 sensitivity of `C x`, over all rounds, to one contributor of norm 1.

    **Guarantee:** an upper bound for contributions that are vectors, chosen depending
    on earlier releases, in any rounds that the pattern allows. It is exact where no
    entry of the column is negative or above the entry before: the worst case is then to
    take part as early and as often as allowed (Kalinin, Lampert, "Banded Square Root
    Matrix Factorization for Differentially Private Model Training", NeurIPS 2024,
    Theorem 2). Any other column counts as the least such column that is nowhere below
    its absolute values.

    Args:
      column: The first column of the strategy, with an entry for each round of the run.
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
    # For a contributor who takes part `times` times, in rounds 0, apart, 2 apart, ...
    moved = by_turn.copy()
    moved[times:] -= by_turn[: turns - times]
    return float(np.linalg.norm(moved.reshape(-1)[: len(sizes)]))
