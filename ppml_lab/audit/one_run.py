"""Bounds from one training run with many canaries, each in or out by a fair coin.

The coins must be independent of each other and of everything else; a fixed number of
canaries in, or scores of several runs pooled, voids both bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import special, stats

from ppml_lab import arguments, checks
from ppml_lab.audit import evidence
from ppml_lab.audit.bounds import LowerBound
from ppml_lab.dp import conversions


class Guesses(NamedTuple):
    """The counts of an attacker's guesses; it need not guess for every canary.

    Attributes:
      canaries: The number of canaries.
      guessed: The number of canaries for which the attacker guessed.
      correct: The number of correct guesses.
    """

    canaries: int
    guessed: int
    correct: int


@arguments.checked
def guess(
    scores: evidence.Scores,
    included: Bool[np.ndarray, " canaries"],
    *,
    num_in: int,
    num_out: int,
) -> Guesses:
    """Guesses "in" for the `num_in` highest scores and "out" for the `num_out` lowest.

    Both counts must be fixed before scores are seen.

    Raises:
      ValueError: For NaN, or more guesses than canaries.
    """
    (values,) = evidence.check_scores(scores)
    coins = np.asarray(included, bool).reshape(-1)
    if num_in < 0 or num_out < 0 or not 0 < num_in + num_out <= len(values):
        raise ValueError(
            f"num_in {num_in} and num_out {num_out} must make between 1 and "
            f"{len(values)} guesses, the number of canaries in scores"
        )
    if len(coins) != len(values):
        raise ValueError(
            f"scores has {len(values)} canaries and included has {len(coins)}; give "
            "one entry of each per canary"
        )
    # In the order of storage, equal scores could reveal the coins.
    mixed = np.random.default_rng(0).permutation(len(values))
    order = mixed[np.argsort(values[mixed], kind="stable")]
    said_in, said_out = order[len(order) - num_in :], order[:num_out]
    correct = coins[said_in].sum() + (~coins[said_out]).sum()
    return Guesses(len(values), num_in + num_out, int(correct))


@arguments.checked
def steinke(guesses: Guesses, *, delta: float, alpha: float) -> LowerBound:
    """The lower bound on epsilon from one run, for any mechanism.

    Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS
    2023, Theorem 5.2.

    **Guarantee:** valid for any mechanism, where each canary was in by its own fair
    coin.

    Raises:
      ValueError: For alpha or delta out of range, impossible counts, or too few guesses
        for alpha.
    """
    _check(guesses, delta, alpha)
    epsilon = _largest(lambda e: steinke_p_value(guesses, e, delta) <= alpha)
    return _bound(guesses, epsilon, delta, alpha, "one run, Steinke et al.", "")


@arguments.checked
def steinke_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """An upper bound on the probability of at least as many correct guesses.

    It holds against any (epsilon, delta)-DP mechanism.
    """
    _check_counts(guesses)
    checks.non_negative("epsilon", epsilon)
    checks.within("delta", delta, 0, 1)
    chance = special.expit(epsilon)
    at_least = stats.binom.sf(guesses.correct - 1, guesses.guessed, chance)
    if delta == 0:
        return float(at_least)
    fewer = np.arange(1, guesses.correct + 1)
    between = (
        stats.binom.sf(guesses.correct - fewer - 1, guesses.guessed, chance) - at_least
    )
    slack = 2 * guesses.canaries * delta * np.max(between / fewer, initial=0.0)
    return float(min(1.0, at_least + slack))


@arguments.checked
def gaussian(guesses: Guesses, *, delta: float, alpha: float) -> LowerBound:
    """The epsilon of the largest mu-GDP that the guesses refute.

    Mahloujifar, Melis, Chaudhuri, "Auditing f-Differential Privacy in One Run", ICML
    2025, for Gaussian trade-off curves.

    **Guarantee:** valid where the mechanism's trade-off curve is at least the Gaussian
    curve of its mu, and each canary was in by its own fair coin.

    Raises:
      ValueError: For alpha or delta out of range, impossible counts, or too few guesses
        for alpha.
    """
    _check(guesses, delta, alpha)
    mu = _largest(lambda mu: refutes_gaussian(guesses, mu, alpha))
    epsilon = conversions.gdp_epsilon(mu, delta)
    return _bound(
        guesses,
        epsilon,
        delta,
        alpha,
        "one run, Mahloujifar et al.",
        "a Gaussian trade-off curve",
    )


@arguments.checked
def refutes_gaussian(guesses: Guesses, mu: float, alpha: float) -> bool:
    """Returns whether the number of correct guesses refutes mu-GDP.

    This is the recursion of the paper's Algorithm 3, over the number of correct
    guesses, from the observed number down.
    """
    _check_counts(guesses)
    checks.at_least("guesses.guessed", guesses.guessed, 1)
    checks.non_negative("mu", mu)
    checks.probability("alpha", alpha, allow_one=False)
    canaries, guessed, correct = guesses
    wrong = alpha * (guessed - correct) / canaries
    right = alpha * correct / canaries
    for number in range(correct - 1, -1, -1):
        # The inverse of the trade-off curve's complement.
        least = float(special.ndtr(special.ndtri(min(max(right, 0.0), 1.0)) - mu))
        after = max(wrong, least)
        if after == wrong:
            break
        right = min(right + number / (guessed - number) * (after - wrong), 1.0)
        wrong = after
    return right + wrong > guessed / canaries


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest refuted parameter; 0 if none is refuted."""
    if not refuted(1e-6):
        return 0.0
    low, high = 1e-6, 1.0
    while refuted(high) and high < 200:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _check(guesses: Guesses, delta: float, alpha: float) -> None:
    checks.probability("alpha", alpha, allow_one=False)
    checks.probability("delta", delta, allow_one=False)
    _check_counts(guesses)
    # The probability of all correct by chance alone is 2^-guessed.
    least = math.floor(-math.log2(alpha)) + 1
    if guesses.guessed < least:
        raise ValueError(
            f"too few guesses for alpha {alpha:g}: {guesses.guessed} guesses bound "
            f"nothing, even if all are correct; guess for at least {least} canaries"
        )


def _check_counts(guesses: Guesses) -> None:
    """Raises ValueError for impossible counts."""
    for name, count in guesses._asdict().items():
        checks.at_least(f"guesses.{name}", count, 0)
    checks.within(
        "guesses.guessed, a part of guesses.canaries,",
        guesses.guessed,
        0,
        guesses.canaries,
    )
    checks.within(
        "guesses.correct, a part of guesses.guessed,",
        guesses.correct,
        0,
        guesses.guessed,
    )


def _bound(
    guesses: Guesses, epsilon: float, delta: float, alpha: float, *how: str
) -> LowerBound:
    method, assumes = how
    return LowerBound(
        epsilon,
        delta,
        alpha,
        method,
        assumes,
        guesses.canaries,
        guesses.guessed,
        "counts fixed in advance",
    )
