"""Random numbers whose every element can be computed alone, from a key and a position.

The generator is threefry2x32 with 20 rounds, as published: Salmon, Moraes, Dror, Shaw,
"Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A *seed* is its key, two words
`[..., 2]`; it names a stream of words, the same ones under any chunking, vmap and
sharding, and whatever jax's own generator is.

Fit for simulation, not cryptographic.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Integer, UInt32

from ppml_lab import base

BLOCK = 1024
"""Words in a block of a stream; chunks of a stream start at blocks."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_OWN_COUNTER = 0x70706D6C
_SWAP_ROUNDS = 32
_FUSED_ROUNDS = 8


def seed(key: base.Key) -> UInt32[Array, " 2"]:
    """The seed that a jax key stands for; whoever takes it has used the key."""
    data = jax.random.key_data(key).astype(jnp.uint32)
    # A counter that jax, which counts from (0, 0), does not reach with the same key.
    return child(data[..., -2:], _OWN_COUNTER)


def threefry2x32(
    seed: UInt32[Array, "*#s 2"],
    high: Integer[Array, "*#s"],
    low: Integer[Array, "*#s"],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The two words at counter `(high, low)`; all arguments broadcast."""
    k0, k1 = seed[..., 0], seed[..., 1]
    keys = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    a = jnp.asarray(high).astype(jnp.uint32) + k0
    b = jnp.asarray(low).astype(jnp.uint32) + k1
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << jnp.uint32(distance)) | (b >> jnp.uint32(32 - distance)))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def child(
    seed: UInt32[Array, "*#s 2"],
    high: Integer[Array, "*#s"] | int,
    low: Integer[Array, "*#s"] | int = 0,
) -> UInt32[Array, "... 2"]:
    """The seed of a stream of its own, named by two numbers; arguments broadcast."""
    return jnp.stack(threefry2x32(seed, jnp.asarray(high), jnp.asarray(low)), axis=-1)


def words(
    seed: UInt32[Array, "*s 2"], length: int, first_block: Integer[Array, ""] | int = 0
) -> UInt32[Array, "*s length"]:
    """`length` words of each seed's stream, from block `first_block` on.

    Uniform over all 2^32 values. A block's first half are the first words at counters
    `(block, 0)`, `(block, 1)`, ...; its second half are the second words.
    """
    num_blocks, half = -(-length // BLOCK), BLOCK // 2
    grid = (num_blocks, half)
    blocks = lax.broadcasted_iota(jnp.uint32, grid, 0)
    blocks = blocks + jnp.asarray(first_block).astype(jnp.uint32)
    places = lax.broadcasted_iota(jnp.uint32, grid, 1)
    pair = threefry2x32(seed[..., None, None, :], blocks, places)
    stream = jnp.stack(pair, axis=-2)
    return stream.reshape(*seed.shape[:-1], num_blocks * BLOCK)[..., :length]


def normal(
    seed: UInt32[Array, "*s 2"], length: int, first_block: Integer[Array, ""] | int = 0
) -> Float[Array, "*s length"]:
    """Standard normal float32 numbers, one for each of `words`, by the inverse of their
    distribution function at 2^23 places: none exceeds 5.3 in absolute value.
    """
    # 23 bits make a float in [1, 2); the middles of cells of (-1, 1) are never an end.
    bits = (words(seed, length, first_block) >> jnp.uint32(9)) | jnp.uint32(0x3F800000)
    unit = lax.bitcast_convert_type(bits, jnp.float32)
    middle = (unit - np.float32(1.5)) * 2 + np.float32(2.0**-23)
    return np.float32(np.sqrt(2)) * lax.erf_inv(middle)


def dither(key: base.Key, length: int) -> Float[Array, " length"]:
    """Uniform float32 numbers in [0, 1) that cost a tenth of `words`: for stochastic
    rounding, where they decide about less than a step. Not for masks, shares or noise.

    A Weyl sequence, one multiplication, and both words of the key: over keys each
    number is uniform, and two of one key correlate by a few percent at most.
    """
    offset, flip = jax.random.key_data(key).astype(jnp.uint32)[..., -2:]
    weyl = jnp.arange(length, dtype=jnp.uint32) * jnp.uint32(0xB5297A4D) + offset
    mixed = ((weyl ^ (weyl >> 13)) * jnp.uint32(0x2C1B3C6D)) ^ flip
    return (mixed >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)


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
