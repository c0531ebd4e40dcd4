"""Sums of 100,000 contributions, where float32 loses whole clip norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab.audit import worlds
from ppml_lab.audit.probes import Finding
from ppml_lab.audit.subjects import Subject

NUM_ROWS = 100_000
LOSS = 1e-5
"""By how much one contribution may seem longer."""


def crowd(subject: Subject, seed: int, num_rows: int = NUM_ROWS) -> Finding:
    """How far one of 100,000 contributions moves a sum: those that all point one way,
    or half of them there and half of them back, so that the sum is small in the end and
    shows what it lost on its way.
    """
    if subject.crowd is None:
        return Finding("crowd", False, "not applicable: made for its number of rows")
    run = jax.jit(subject.crowd)
    key = jax.random.key(seed)
    # No coordinate is short in binary.
    along = np.sqrt(np.arange(1, worlds.DIMENSION + 1) * 0.1)
    there = np.tile(worlds.FAR * along, (num_rows, 1)).astype(np.float32)
    turned = np.where(np.arange(num_rows) < num_rows // 2, 1, -1)[:, None]
    worst, where = 0.0, ""
    for name, rows in {
        "aligned": there,
        "there and back": turned.astype(np.float32) * there,
    }.items():
        whole, ulp = _sum(run, key, rows, np.ones(num_rows, bool))
        for canary in (0, num_rows // 2 - 1, num_rows - 1):
            out, _ = _sum(run, key, rows, np.arange(num_rows) != canary)
            # What is rounded once, noise included, hides what it loses.
            moved = float(np.linalg.norm(whole - out)) - ulp
            if not np.isfinite(moved):
                return Finding("crowd", True, f"not finite in world '{name}'")
            if moved > worst:
                worst, where = moved, name
    return Finding(
        "crowd",
        worst > 1 + LOSS,
        f"one of {num_rows} moves the sum by {worst:.6f} clip norms in world '{where}'",
    )


def _sum(
    run: jax.stages.Wrapped, key: jax.Array, rows: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, float]:
    """A sum, and what its last rounding can have done to a difference of two."""
    high, low = (np.asarray(part) for part in run(key, jnp.asarray(rows), present))
    rounding = 0.0 if low.any() else float(np.linalg.norm(4 * np.spacing(np.abs(high))))
    return high.astype(np.float64) + low, rounding
