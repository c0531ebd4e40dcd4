"""Statistics that tell a mechanism's releases with the canary from those without.

Each statistic is fitted on some runs, `[runs, features]` of either world, and returns a
score, which is higher for "in".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Releases = Float[np.ndarray, "runs features"]
Score = Callable[[Releases], np.ndarray]


def discriminant(inside: Releases, outside: Releases) -> Score:
    """Fisher's linear discriminant on the features and their squares."""
    pooled = np.concatenate([inside, outside])
    middle, spread = pooled.mean(axis=0), pooled.std(axis=0) + 1e-9

    def features(x: Releases) -> np.ndarray:
        scaled = (x - middle) / spread
        return np.concatenate([scaled, scaled**2], axis=1)

    ours, theirs = features(inside), features(outside)
    within = np.atleast_2d(np.cov(ours.T)) + np.atleast_2d(np.cov(theirs.T))
    ridge = 1e-7 * np.eye(len(within))
    gap = ours.mean(axis=0) - theirs.mean(axis=0)
    weights = np.linalg.solve(within / 2 + ridge, gap)
    return lambda x: features(x) @ weights


def histograms(inside: Releases, outside: Releases, bins: int = 24) -> Score:
    """The log-likelihood ratio of histograms, with features taken for independent.

    It sees distributions of any shape. Both worlds have the same number of runs.
    """
    tables = []
    for ours, theirs in zip(inside.T, outside.T, strict=True):
        inner = np.linspace(0, 1, bins + 1)[1:-1]
        edges = np.unique(np.quantile(np.concatenate([ours, theirs]), inner))
        ratios = [
            np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) + 1.0
            for x in (ours, theirs)
        ]
        tables.append((edges, np.log(ratios[0]) - np.log(ratios[1])))

    def score(x: Releases) -> np.ndarray:
        parts = [
            table[np.searchsorted(edges, column)]
            for (edges, table), column in zip(tables, x.T, strict=True)
        ]
        return np.sum(parts, axis=0)

    return score


def support(inside: Releases, outside: Releases) -> Score:
    """Counts values that were seen, to the bit, in one world only.

    Noise with few bits gives itself away by its last bits.
    """
    seen = [
        (np.setdiff1d(ours, theirs), np.setdiff1d(theirs, ours))
        for ours, theirs in zip(inside.T, outside.T, strict=True)
    ]

    def score(x: Releases) -> np.ndarray:
        return np.sum(
            [
                np.isin(column, only_in).astype(float) - np.isin(column, only_out)
                for (only_in, only_out), column in zip(seen, x.T, strict=True)
            ],
            axis=0,
        )

    return score


def sampled_gaussian(
    place: int, sign: float, noise: np.ndarray, sampling_prob: float, *, by_round: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """The log-likelihood ratio of one coordinate of `[runs, rounds, dimension]`.

    Every round counts as a sampled Gaussian whose mean the canary moves by 1.
    `by_round` takes the mean of the ratios over rounds in place of their product: the
    canary then takes part in one round, and nobody knows in which.
    """

    def score(values: np.ndarray) -> np.ndarray:
        shift = (2 * sign * values[:, :, place] - 1) / (2 * noise**2)
        shift = np.clip(shift, -50, 50)
        if by_round:
            return np.log(np.exp(shift).mean(axis=1))
        if sampling_prob == 1:
            return shift.sum(axis=1)
        stays = np.log1p(-sampling_prob)
        return np.logaddexp(stays, np.log(sampling_prob) + shift).sum(axis=1)

    return score
