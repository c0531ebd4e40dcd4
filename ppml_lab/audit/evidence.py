"""Attack scores turned into error counts, at thresholds chosen on other data.

A bound holds for a threshold that was fixed before the scores were seen. So bounds take
`Errors`, and scores become errors in two ways only: the threshold is chosen on one half
of the scores and errors are counted on the other (`halves`), or it is chosen on a
simulation of the claimed mechanism (`preregistered`). Higher scores mean "was in".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from ppml_lab import arguments, checks

Scores = Float[np.ndarray, "_"]


class Errors(NamedTuple):
    """The error counts of a distinguisher.

    Attributes:
      missed: Runs with the canary that scored below the threshold.
      num_in: Runs with the canary.
      false_alarms: Runs without it that scored at or above the threshold.
      num_out: Runs without it.
      rule: How the threshold was chosen, "halves" or "preregistered".
    """

    missed: int
    num_in: int
    false_alarms: int
    num_out: int
    rule: str


class Rates(NamedTuple):
    """Upper confidence limits of the two error rates, which hold together."""

    fnr: float
    fpr: float


Objective = Callable[[Any, Any], Any]
"""`(fnr, fpr) -> value` of arrays of upper limits; the threshold maximises it."""


def gaussian_shift(fnr: Any, fpr: Any) -> Any:
    """The shift between unit Gaussians with these error rates, as an `Objective`."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(-special.ndtri(fpr) - special.ndtri(fnr), nan=-np.inf)


def ratio(fnr: Any, fpr: Any) -> Any:
    """The larger ratio of a true to a false rate, as an `Objective`.

    It is the objective of the Clopper-Pearson bound.
    """
    return np.maximum((1 - fnr) / fpr, (1 - fpr) / fnr)


@arguments.checked
def upper_limit(errors: Any, runs: Any, alpha: float) -> Any:
    """The one-sided Clopper-Pearson upper limit of a rate.

    It is wrong with probability `alpha` at most (Clopper, Pearson, Biometrika 1934).
    Arrays broadcast.
    """
    errors, runs = np.asarray(errors, float), np.asarray(runs, float)
    room = np.maximum(runs - errors, 1e-9)
    return np.where(errors < runs, stats.beta.isf(alpha, errors + 1, room), 1.0)


@arguments.checked
def rates(errors: Errors, alpha: float) -> Rates:
    """The upper limits of both error rates.

    Together they are wrong with probability `alpha` at most.

    Raises:
      ValueError: For more errors than runs, or a negative number of errors.
    """
    checks.probability("alpha", alpha, allow_one=False)
    for name, most in (("missed", "num_in"), ("false_alarms", "num_out")):
        count, runs = getattr(errors, name), getattr(errors, most)
        checks.at_least(f"errors.{most}", runs, 1)
        checks.at_least(f"errors.{name}", count, 0)
        checks.within(f"errors.{name}, a part of errors.{most},", count, 0, runs)
    return Rates(
        float(upper_limit(errors.missed, errors.num_in, alpha / 2)),
        float(upper_limit(errors.false_alarms, errors.num_out, alpha / 2)),
    )


@arguments.checked
def halves(
    scores_in: Scores,
    scores_out: Scores,
    *,
    seed: int,
    alpha: float,
    objective: Objective = gaussian_shift,
) -> Errors:
    """Chooses the threshold on a random half of the runs, counts errors on the other.

    Args:
      scores_in: Scores of independent runs with the canary.
      scores_out: Scores of independent runs without the canary.
      seed: The seed of the random halves.
      alpha: The alpha of the bound that will take the errors.
      objective: The function that the threshold maximises, of upper limits for half the
        runs.

    Raises:
      ValueError: For scores that are NaN, or too few to bound anything at `alpha`.
    """
    checks.at_least("seed", seed, 0)
    inside, outside = check_scores(scores_in, scores_out)
    for name, group in (("scores_in", inside), ("scores_out", outside)):
        check_enough(len(group) // 2, alpha, factor=2, name=name)
    rng = np.random.default_rng(seed)
    inside, outside = rng.permutation(inside), rng.permutation(outside)
    half_in, half_out = len(inside) // 2, len(outside) // 2
    threshold = _best_threshold(
        inside[:half_in],
        outside[:half_out],
        (len(inside) - half_in, len(outside) - half_out),
        alpha,
        objective,
    )
    return _count(inside[half_in:], outside[half_out:], threshold, "halves")


@arguments.checked
def preregistered(
    scores_in: Scores,
    scores_out: Scores,
    simulated_in: Scores,
    simulated_out: Scores,
    *,
    alpha: float,
    objective: Objective = gaussian_shift,
) -> Errors:
    """Chooses the threshold on simulated scores, counts errors on all audited runs.

    The simulated scores are those of the claimed mechanism, made without looking at the
    audited mechanism (`audit.claimed_scores`).

    Args:
      scores_in: Scores of independent runs with the canary.
      scores_out: Scores of independent runs without the canary.
      simulated_in: Scores of the claimed mechanism with the canary.
      simulated_out: Scores of the claimed mechanism without the canary.
      alpha: The alpha of the bound that will take the errors.
      objective: The function that the threshold maximises, of upper limits for as many
        runs as are audited.

    Raises:
      ValueError: For scores that are NaN, too few to bound anything at `alpha`, or
        simulated scores that are audited scores.
    """
    inside, outside = check_scores(scores_in, scores_out)
    claim_in, claim_out = check_scores(simulated_in, simulated_out)
    for name, group in (("scores_in", inside), ("scores_out", outside)):
        check_enough(len(group), alpha, name=name)
    if not min(len(claim_in), len(claim_out)):
        raise ValueError(
            f"simulated_in has {len(claim_in)} scores with the canary, simulated_out "
            f"{len(claim_out)} without; simulate both (audit.claimed_scores)"
        )
    for audited in (inside, outside):
        for reference in (claim_in, claim_out):
            # Discrete scores of independent runs are often equal.
            values, counts = np.unique(audited, return_counts=True)
            single = values[counts == 1]
            copied = np.isin(single, reference).sum()
            if len(single) > 9 and copied > 0.5 * min(len(single), len(reference)):
                raise ValueError(
                    "simulated scores are copies of audited scores, so that the "
                    "threshold would be chosen on the scores that it is evaluated on; "
                    "simulate the claimed mechanism with another key, or use halves"
                )
    threshold = _best_threshold(
        claim_in, claim_out, (len(inside), len(outside)), alpha, objective
    )
    return _count(inside, outside, threshold, "preregistered")


@arguments.checked
def least_runs(alpha: float, epsilon: float = 0.0, delta: float = 0.0) -> int:
    """The fewest runs on each side that can certify more than `epsilon` at `delta`.

    With them a perfect attack does, by Clopper-Pearson; no audit can do with fewer.
    """
    checks.probability("alpha", alpha, allow_one=False)
    # Beyond 700, e^epsilon is no float, and no audit has as many runs.
    checks.within("epsilon", epsilon, 0, 700)
    checks.within("delta", delta, 0, 1)
    # From (1 - delta - u) / u > e^epsilon, u the upper limit of no errors.
    most = (1 - delta) / (1 + np.exp(epsilon))
    return int(np.floor(np.log(alpha / 2) / np.log1p(-most))) + 1


def check_enough(runs: int, alpha: float, *, factor: int = 1, name: str = "") -> None:
    """Raises ValueError, naming the least number, where `runs` are too few to bound."""
    least = least_runs(alpha)
    if runs < least:
        raise ValueError(
            f"{name and name + ': '}too few runs for alpha {alpha:g}: {runs * factor} "
            "runs on a side bound nothing, even without errors; make at least "
            f"{least * factor}"
        )


def check_scores(*groups: Any) -> list[Scores]:
    """Converts groups of scores to float arrays; raises ValueError for NaN."""
    arrays = [np.asarray(group, np.float64).reshape(-1) for group in groups]
    for array in arrays:
        if np.isnan(array).any():
            raise ValueError(
                f"{int(np.isnan(array).sum())} of {len(array)} scores are NaN; replace "
                "NaN by a score first (an attacker may take a NaN for 'in')"
            )
    return arrays


def _best_threshold(
    inside: Scores,
    outside: Scores,
    runs: tuple[int, int],
    alpha: float,
    objective: Objective,
) -> float:
    """The score that is the best threshold for `runs` runs at these error rates."""
    every = np.concatenate([inside, outside])
    grid = np.unique(every)
    if len(grid) > 2000:
        # Quantiles, dense in the tails: few false alarms, or few misses, say most.
        tail = np.geomspace(0.5 / len(every), 0.1, 200)
        places = np.concatenate([tail, np.linspace(0.1, 0.9, 400), 1 - tail])
        grid = np.unique(np.quantile(every, places, method="nearest"))
    missed = np.searchsorted(np.sort(inside), grid)
    alarms = len(outside) - np.searchsorted(np.sort(outside), grid)
    # Likely upper limits of the rates: otherwise few errors in the tails would decide.
    likely_fnr = upper_limit(missed, len(inside), 0.05)
    likely_fpr = upper_limit(alarms, len(outside), 0.05)
    upper_fnr = upper_limit(likely_fnr * runs[0], runs[0], alpha / 2)
    upper_fpr = upper_limit(likely_fpr * runs[1], runs[1], alpha / 2)
    return float(grid[int(np.argmax(objective(upper_fnr, upper_fpr)))])


def _count(inside: Scores, outside: Scores, threshold: float, rule: str) -> Errors:
    return Errors(
        int(np.sum(inside < threshold)),
        len(inside),
        int(np.sum(outside >= threshold)),
        len(outside),
        rule,
    )
