"""Checks of the noise in millions of draws: its scale, its tails, its largest value.

Noise that ends too early, or takes few values, shows a threshold that one side alone
can pass: then no delta below the probability of passing holds, however well the bulk of
the noise is distributed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from scipy import stats

from ppml_lab import base
from ppml_lab.audit import probes, worlds
from ppml_lab.audit.probes import Finding
from ppml_lab.audit.subjects import Subject

PLACES = (2.0, 3.0, 3.3, 4.0, 4.5, 4.75, 5.0)
"""Draws beyond these places are counted; in standard deviations."""

_CHUNK = 1 << 16
_ENOUGH_VALUES = 1 << 20


def tails(subject: Subject, seed: int, num_draws: int = 1 << 22) -> Finding:
    """Checks the noise's scale to half a percent, its tails, and its number of values.

    Of 4 million draws 2.4 lie beyond 5 standard deviations. Equal draws are so rare
    that they reveal a generator of few values: n values of equal probability end where
    the tail is 1 / (2 n).
    """
    if subject.one_noise is None:
        return Finding(
            "tails", False, "not applicable: the subject does not give its noise alone"
        )
    x = _drawn(subject.one_noise, seed, num_draws)
    if not np.isfinite(x).all():
        return Finding("tails", True, "noise is not finite")
    for problem in (_scale(x), _too_few(x), _ends(x)):
        if problem:
            return Finding("tails", True, problem)
    return Finding("tails", False, f"as claimed in {x.size} draws")


def _drawn(
    draw: Callable[[base.Key], jax.Array], seed: int, num_draws: int
) -> np.ndarray:
    key = jax.random.fold_in(jax.random.key(seed), 1)

    @jax.jit
    def chunk(numbers: jax.Array) -> jax.Array:
        return jax.vmap(lambda n: draw(jax.random.fold_in(key, n)))(numbers)

    count = -(-num_draws // worlds.DIMENSION)
    numbers = np.arange(-(-count // _CHUNK) * _CHUNK, dtype=np.int32)
    parts = [np.asarray(chunk(part)) for part in numbers.reshape(-1, _CHUNK)]
    return np.concatenate(parts).astype(np.float64).reshape(-1)


def _scale(x: np.ndarray) -> str | None:
    """Checks the energy, whose chi-squared distribution is nearly normal here."""
    ratio = float(np.mean(x**2))
    deviations = (ratio - 1) * np.sqrt(x.size / 2)
    if 2 * stats.norm.sf(abs(deviations)) < probes.ALPHA / 4:
        return f"stddev is {np.sqrt(ratio):.4f} of the claimed"
    return None


def _ends(x: np.ndarray) -> str | None:
    size = np.abs(x)
    level = probes.ALPHA / (4 * len(PLACES))
    for place in PLACES:
        count = int((size > place).sum())
        expected = 2 * float(stats.norm.sf(place)) * x.size
        few = stats.poisson.cdf(count, expected)
        many = stats.poisson.sf(count - 1, expected)
        if min(few, many) < level / 2:
            return f"{count} draws lie beyond {place:g} stddev, {expected:.1f} expected"
    return None


def _too_few(x: np.ndarray) -> str | None:
    """Checks for equal draws: among this many, a float32 Gaussian has at most 1%."""
    some = x[:_ENOUGH_VALUES]
    repeated = 1 - len(np.unique(some)) / some.size
    if repeated <= 0.03:
        return None
    values = some.size / (2 * repeated)
    end = float(stats.norm.isf(1 / (2 * values)))
    return (
        f"{repeated:.0%} of draws are repeated, as with {values:.1e} possible values, "
        f"none beyond {end:.1f} stddev"
    )
