"""Sums of client updates: in the clear, or of additive shares."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ppml_lab import base, checks, trees
from ppml_lab.smpc import ring, sharing
from ppml_lab.smpc.fixed_point import fixed_point

_FLOAT_BYTES = 4


def clear() -> base.SecureAggregator:
    """The plain float sum: the server sees every update."""
    return base.SecureAggregator(
        encode=lambda key, update: update,
        aggregate=lambda total, messages: jax.tree.map(
            lambda t, m: t + jnp.sum(m, axis=0), total, messages
        ),
        decode=lambda total: total,
        sensitivity=lambda clip_norm, dimension: clip_norm,
        cost=lambda dimension: base.Cost(
            _FLOAT_BYTES * dimension, _FLOAT_BYTES * dimension
        ),
    )


def additive_sharing(
    num_parties: int,
    max_clients: int,
    max_abs: Any,
    scale: float = 2.0**16,
    rounding: str = "stochastic",
) -> base.SecureAggregator:
    """Each client shares its update among `num_parties` servers over Z_2^32.

    The servers add the shares that they receive, and only the sums are opened, so that
    together they learn the sum of the updates and nothing else.

    **Guarantee:** any `num_parties - 1` servers see uniform words that do not depend on
    any update, apart from the sum that is opened (semi-honest servers that do not all
    collude). The decoded sum is the exact integer sum of the rounded updates: within
    `num_clients / scale` per coordinate of the clear sum with stochastic rounding and
    `num_clients / (2 * scale)` with nearest, the same whatever the order, chunking or
    number of devices. The emulation shows the arithmetic, its error and its bytes; it
    sends nothing, keeps no party apart from another, and draws shares from
    `jax.random`.

    Args:
      num_parties: Servers, at least 2.
      max_clients: The largest cohort.
      max_abs: Bound of each coordinate of an update: the clip norm where there is one.
        Larger coordinates are clamped.
      scale: Integer steps per unit.
      rounding: "stochastic" or "nearest".

    Raises:
      ValueError: If the sum would not fit in 32 bits, or for bad arguments.
    """
    checks.at_least("num_parties", num_parties, 2)
    checks.at_least("max_clients", max_clients, 1)
    encoding = fixed_point(max_clients, max_abs, scale, rounding)

    def encode(key: base.Key, update: PyTree) -> PyTree:
        # One draw for all leaves: every random array is a generator to compile.
        vector, cut = trees.as_vector(update)
        round_key, share_key = jax.random.split(key)
        secret = encoding.encode(round_key, vector)
        return cut(sharing.share(share_key, secret, num_parties))

    def aggregate(total: PyTree, messages: PyTree) -> PyTree:
        return jax.tree.map(lambda t, m: t + ring.sum_over(m, 0), total, messages)

    def decode(total: PyTree) -> PyTree:
        return jax.tree.map(
            lambda shares: encoding.decode(sharing.reconstruct(shares)), total
        )

    return base.SecureAggregator(
        encode=encode,
        aggregate=aggregate,
        decode=decode,
        sensitivity=lambda clip_norm, dimension: (
            clip_norm + encoding.rounding_norm(dimension)
        ),
        cost=lambda dimension: base.Cost(
            num_parties * ring.WORD_BYTES * dimension, _FLOAT_BYTES * dimension
        ),
    )
