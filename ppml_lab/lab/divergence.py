"""Runs that diverge: whose parameters or test loss stop being finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

_LOSSES = ("train_loss", "loss")


def diverged_round(
    lines: Sequence[Mapping[str, Any]], params_are_finite: bool
) -> int | None:
    """The first round of a chunk that is not finite, if the model at its end is not;
    else None: clients that diverge may be clipped to nothing, and rounds recover.

    Args:
      lines: The chunk's rounds, with `round` and the losses that were recorded.
      params_are_finite: Whether the parameters after the last of them are.
    """
    last = lines[-1]
    if params_are_finite and math.isfinite(last.get("loss", 0.0)):
        return None
    bad = [
        line["round"]
        for line in lines
        for name in _LOSSES
        if name in line and not math.isfinite(line[name])
    ]
    return min(bad, default=last["round"])


@jax.jit
def are_finite(params: PyTree) -> Bool[Array, " points"]:
    """Which points have finite parameters, of leaves `[points, ...]`."""
    leaves = [
        jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)
        for leaf in jax.tree.leaves(params)
    ]
    return jnp.all(jnp.stack(leaves), axis=0)
