"""Additive secret sharing over Z_2^32."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import UInt32

from ppml_lab import base, checks
from ppml_lab.smpc import ring


def share(
    key: base.Key, secret: UInt32[Array, "*s"], num_parties: int
) -> UInt32[Array, "parties *s"]:
    """Splits `secret` into `num_parties` summands, one per party.

    **Guarantee:** any `num_parties - 1` of the shares are independent and uniform,
    whatever the secret: together they say nothing about it. That holds for the
    arithmetic; the uniform words come from `jax.random`, so an opponent who predicts
    the generator is not kept out.

    Raises:
      ValueError: For fewer than 2 parties.
    """
    checks.at_least("num_parties", num_parties, 2)
    masks = ring.uniform(key, (num_parties - 1, *secret.shape))
    return jnp.concatenate([(secret - ring.sum_over(masks, 0))[None], masks])


def reconstruct(shares: UInt32[Array, "parties *s"]) -> UInt32[Array, "*s"]:
    """Opens a shared value: the sum of all parties' shares."""
    return ring.sum_over(shares, 0)
