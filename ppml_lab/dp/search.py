"""Searches for the least noise that meets a target epsilon, in few evaluations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ppml_lab.dp import events

WRONG_WAY = (
    "make_event returns an event whose epsilon grows with noise_multiplier; pass "
    "noise_multiplier to the mechanism unchanged"
)
"""The error message for an event whose epsilon grows with its noise."""


def refined(
    epsilon_at: Callable[[float], float],
    target: float,
    safe: float | None,
    slope: float,
) -> float | None:
    """Less noise than `safe` that still meets the target; None if no noise does.

    `safe` meets the target; None stands for the most noise. The search is a secant of
    logarithms, kept between a noise that meets the target and one that misses it. It
    ends when the two are a relative 1e-3 apart, when the epsilon is within 6e-4 of the
    target, when a guess is below `events.LEAST_NOISE`, or after 60 guesses.
    """
    if safe == 0:
        return 0.0
    high = safe or events.MOST_NOISE
    found = epsilon_at(high)
    if found > target:
        return None
    low = 0.0
    for _ in range(60):
        slope = min(max(slope, 0.05), 50.0)
        # A little on the safe side, so that the guess itself is the answer.
        ratio = target * (1 - 3e-4) / max(found, target * 1e-12)
        guess = high * math.exp(-max(math.log(ratio) / slope, 2e-4))
        guess = max(guess, low or high / 64)
        if not low * 1.0001 < guess < high:
            guess = math.sqrt(low * high) if low else high / 2
        if guess < events.LEAST_NOISE:
            return high
        there = epsilon_at(guess)
        if math.isfinite(there) and min(there, found) > 0 and there != found:
            slope = math.log(there / found) / math.log(high / guess)
        if there <= target:
            high, found = guess, there
        else:
            low = guess
        if found >= target * (1 - 6e-4) or high <= low * 1.001:
            return high
    return high


def smallest(
    epsilon_at: Callable[[float], float], target: float, start: float
) -> float | None:
    """The root of `epsilon_at` = target on the safe side; None if no noise meets it.

    The search begins at `start`.
    """
    from scipy import optimize

    epsilon_at = functools.cache(epsilon_at)
    # Noise as good as none; some mechanisms refuse 0.
    if epsilon_at(events.LEAST_NOISE / 2) <= target:
        if epsilon_at(events.MOST_NOISE) > target:
            raise ValueError(WRONG_WAY)
        return 0.0
    low = high = start
    ratio = 1.25
    while epsilon_at(low) <= target:
        low, high, ratio = low / ratio, low, min(ratio**2, 4.0)
    while epsilon_at(high) > target:
        if high > events.MOST_NOISE:
            return None
        low, high, ratio = high, high * ratio, min(ratio**2, 4.0)

    def excess(log_noise: float) -> float:
        found = epsilon_at(math.exp(log_noise))
        return math.log(min(max(found / target, 1e-20), 1e20))

    bracket = math.log(low), math.log(high)
    log_root: Any = optimize.brentq(excess, *bracket, xtol=2e-7, rtol=1e-15)
    root = math.exp(log_root)
    margin = 5e-7
    while epsilon_at(root * (1 + margin)) > target:
        margin *= 2
    return root * (1 + margin)
