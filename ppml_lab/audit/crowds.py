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
"""The relative amount by which one contribution may seem longer."""

_CANARIES = 2


def crowd(subject: Subject, seed: int, num_rows: int = NUM_ROWS) -> Finding:
    """Checks how far one of 100,000 contributions moves a sum.

    In one world all contributions point one way; it is used where the sum can be seen
    exactly. In the other, half of them point there and half back, so that the sum is
    small in the end and a release shows what it lost on its way. Rows are as long as
    the clip norm, so a sum that loses none of them moves by 1.
    """
    if subject.crowd is None:
        return Finding(
            "crowd", False, "not applicable: the subject is made for its number of rows"
        )
    run = jax.jit(subject.crowd)
    key = jax.random.key(seed)
    half = num_rows // 2
    rng = np.random.default_rng(0)
    there = 1.0 + rng.random((half, worlds.DIMENSION))
    # Back by another way: rounding the same way twice would cancel.
    back = -there[rng.permutation(half)]
    aligned = np.tile(there[:1], (num_rows, 1))
    worst, off, where = 0.0, 0.0, ""
    for name, rows in {
        "there and back": np.concatenate([there, back]),
        "aligned": aligned,
    }.items():
        data = (worlds.FAR * rows).astype(np.float32)
        places = np.arange(len(data))
        whole, rounding = _sum(run, key, data, places >= 0)
        rounding /= subject.clip_norm
        if rounding > LOSS:
            # A sum that is rounded once, noise included, hides its earlier losses.
            continue
        nobody, _ = _sum(run, key, data, places < 0)
        for canary in range(half - _CANARIES, half):
            out, _ = _sum(run, key, data, places != canary)
            alone, _ = _sum(run, key, data, places == canary)
            gap = (whole - out) / subject.clip_norm
            own = (alone - nobody) / subject.clip_norm
            moved = float(np.linalg.norm(gap)) - rounding
            lost = float(np.linalg.norm(gap - own)) - rounding
            if not np.isfinite(moved):
                return Finding(
                    "crowd", True, f"the sum is not finite in world '{name}'"
                )
            if moved > worst:
                worst, where = moved, name
            off = max(off, lost)
    return Finding(
        "crowd",
        worst > 1 + LOSS or off > 10 * LOSS,
        f"one of {num_rows} rows moves the sum by {worst:.6f} clip norms in world "
        f"'{where}', and by up to {off:.1e} differently from the same row alone",
    )


def _sum(
    run: jax.stages.Wrapped, key: jax.Array, rows: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, float]:
    """A sum, and the most that its last rounding changes a difference of two sums."""
    high, low = (np.asarray(part) for part in run(key, jnp.asarray(rows), present))
    rounding = 0.0 if low.any() else float(np.linalg.norm(4 * np.spacing(np.abs(high))))
    return high.astype(np.float64) + low, rounding
