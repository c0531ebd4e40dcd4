"""Random choices whose every element can be computed alone, from a key and a position.

Fit for simulation, not cryptographic.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, UInt32

from ppml_lab import base

_SWAP_ROUNDS = 32
_FUSED_ROUNDS = 8


def _mix(x: UInt32[Array, "*s"]) -> UInt32[Array, "*s"]:
    # Murmur3's finaliser: a bijection of 32-bit words with full avalanche.
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def permute(
    key: base.Key, positions: Int[Array, "*s"], size: Int[Array, ""] | int
) -> Int[Array, "*s"]:
    """Where a pseudorandom permutation of `range(size)` sends `positions`.

    Shuffles without a buffer: any element of the permutation costs the same, whatever
    `size`, which may be traced. So ragged clients shuffle their examples in a compiled
    round without padding. Swap-or-not network of Hoang, Morris and Rogaway ("An
    enciphering scheme based on a card shuffle", CRYPTO 2012): a bijection for every key
    and size, close to a uniform shuffle after 32 rounds, which is fit for batching data
    but not for a cipher.

    Args:
      key: Picks the permutation.
      positions: Integers in `[0, size)`.
      size: At least 1 and below 2^31.
    """
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    size = jnp.asarray(size).astype(jnp.uint32)
    x = positions.astype(jnp.uint32)
    # All rounds' seeds and pivots at once: one small array operation, not 32.
    numbers = jnp.arange(_SWAP_ROUNDS, dtype=jnp.uint32)
    seeds = _mix(words[0] + numbers * jnp.uint32(0x9E3779B9))
    pivots = _mix(seeds ^ words[1]) % size
    for number in range(_SWAP_ROUNDS):
        seed, pivot = seeds[number], pivots[number]
        partner = jnp.where(pivot >= x, pivot - x, pivot + size - x)
        swap = _mix(jnp.maximum(x, partner) + seed) >> 31
        x = jnp.where(swap == 1, partner, x)
        if number % _FUSED_ROUNDS == _FUSED_ROUNDS - 1:
            # A round reads `x` several times, so fusing all rounds into one doubles
            # the work at each: under vmap jax 0.11 did not end compiling it.
            x = jax.lax.optimization_barrier(x)
    return x.astype(positions.dtype)
