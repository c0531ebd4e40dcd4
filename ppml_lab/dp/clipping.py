"""Clipping: what bounds a client's or an example's influence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import trees


def clip_by_global_norm(
    update: PyTree, clip_norm: Any
) -> tuple[PyTree, Float[Array, ""]]:
    """Scales `update` down to L2 norm `clip_norm`, all leaves together.

    **Guarantee:** the result has norm at most `clip_norm`, up to float rounding
    (relative 1e-6). An update that holds a NaN or an infinity, or whose norm overflows,
    becomes exactly zero, so that it cannot poison the sum. `clip_norm = inf` returns
    finite updates unchanged, bit by bit.

    Returns:
      The clipped update and the norm that it had before (NaN or inf if it was bad).
    """
    norm = optax.tree.norm(update)
    scale = jnp.minimum(1.0, clip_norm / norm)
    clipped = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), update)
    return trees.where(jnp.isfinite(norm), clipped, 0.0), norm
