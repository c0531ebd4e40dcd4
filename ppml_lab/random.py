"""Random numbers, each of which can be computed alone from a key and a position.

The generator is threefry2x32 with 20 rounds, as published: Salmon, Moraes, Dror, Shaw,
"Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A *seed* is the generator's key,
two words `[..., 2]`; it names a stream of words, which is the same under any chunking,
vmap and sharding, and with any generator of jax's own.

The generator is fit for simulation, not for cryptography.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Integer, UInt32

from ppml_lab import base

BLOCK = 1024
"""Words in a block of a stream; chunks of a stream start at blocks."""

NORMAL_CUT = 9.080155372619629
"""The largest absolute value of `normal`, where the tail is 2^-64."""

LAPLACE_CUT = 43.668270111083984
"""The largest absolute value of `laplace`, where the tail is 2^-64."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_OWN_COUNTER = 0x70706D6C
_SWAP_ROUNDS = 32
_FUSED_ROUNDS = 8

# Fitted to minimise the largest relative error over all values that can be drawn.
# -log(1 - x) / x for x in (0, 1/2], within 3e-8:
_LOG = (
    1.00000002,
    0.49999285,
    0.33370061,
    0.2428051,
    0.26961261,
    -0.20353833,
    1.25766831,
    -1.69581014,
    1.44110699,
)
# Phi^-1(1 - exp(-x) / 2) / x for x in (0, 44], within 4e-8:
_NUMERATOR = (
    1.25331410,
    2.42449614,
    1.36494925,
    0.254324583,
    0.0144682056,
    1.96386415e-4,
    2.77494025e-7,
)
_DENOMINATOR = (
    1.0,
    2.43446491,
    1.87788527,
    0.532861280,
    0.0522788798,
    1.47875434e-3,
    7.80887946e-6,
)


def seed(key: base.Key) -> UInt32[Array, " 2"]:
    """The seed that a jax key stands for; taking it uses the key up."""
    data = jax.random.key_data(key).astype(jnp.uint32)
    # A counter that jax, which counts from (0, 0), does not reach with the same key.
    return child(data[..., -2:], _OWN_COUNTER)


def threefry2x32(
    seed: UInt32[Array, "*#s 2"],
    high: Integer[Array, "*#s"],
    low: Integer[Array, "*#s"],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The two words at counter `(high, low)`; all arguments broadcast."""
    return _threefry2x32(seed, jnp.asarray(high), jnp.asarray(low))


@jax.jit
def _threefry2x32(seed: Array, high: Array, low: Array) -> tuple[Array, Array]:
    # A jitted function of its own, so that jax traces it once for arguments of one
    # shape.
    k0, k1 = seed[..., 0], seed[..., 1]
    keys = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    a = high.astype(jnp.uint32) + k0
    b = low.astype(jnp.uint32) + k1
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
    """The seed of a separate stream, named by two numbers; arguments broadcast."""
    return jnp.stack(threefry2x32(seed, jnp.asarray(high), jnp.asarray(low)), axis=-1)


def words(
    seed: UInt32[Array, "*s 2"], length: int, first_block: Integer[Array, ""] | int = 0
) -> UInt32[Array, "*s length"]:
    """Returns `length` words of each seed's stream, from block `first_block` on.

    Words are uniform over all 2^32 values. A block's first half are the first words at
    counters `(block, 0)`, `(block, 1)`, ...; its second half are the second words.
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
    """Standard normal float32 numbers, each from 63 bits at a counter of its own.

    The inverse of the distribution function at the middles of 2^63 cells of equal
    probability, to 8 units in the last place: symmetric, tails as the Gaussian's up to
    `NORMAL_CUT`. The numbers of a block are at counters `(block, 0)`, `(block, 1)`, ...

    **Guarantee:** if words are uniform, coordinates are independent and have the
    Gaussian law that is cut at `NORMAL_CUT`, so that the support is a cube. Of a copy
    shifted by a vector of L2 norm `s <= NORMAL_CUT - 1` in any direction, over `d`
    coordinates, at most

        sf(NORMAL_CUT - s) + sqrt(d) * s * pdf(NORMAL_CUT)

    lies outside, the Gaussian's upper tail and density; only the first term counts
    where one coordinate moves. What rounding to float32 lets through beside the cut is
    not covered (Mironov, "On Significance of the Least Significant Bits for
    Differential Privacy", CCS 2012).
    """
    # Why: with c = NORMAL_CUT, a coordinate that moves by t puts at most
    # f(t) = sf(c - t) - sf(c) outside. f(t) - pdf(c) t is 0 at 0 and convex in t^2 up
    # to t = c - 1, for its derivative by t^2 is (N(t) / 2t) pdf(c) where
    # N(t) = exp(c t - t^2 / 2) - 1 is convex and 0 at 0. So the sum of it over
    # coordinates, given that of t^2, is largest where one moves alone; the sum of
    # pdf(c) t is at most pdf(c) sqrt(d) s.
    return to_normal(*_pairs(seed, length, first_block))


def laplace(
    seed: UInt32[Array, "*s 2"], length: int, first_block: Integer[Array, ""] | int = 0
) -> Float[Array, "*s length"]:
    """Laplace float32 numbers of scale 1, each from 63 bits at a counter of its own.

    Counters and the 2^63 cells are as for `normal`; tails right up to `LAPLACE_CUT`.

    **Guarantee:** if words are uniform, coordinates are independent and have the
    Laplace law that is cut at `LAPLACE_CUT`. Of a copy shifted by a vector of L1 norm
    `s` at most `exp(s - LAPLACE_CUT) / 2` lies outside: what a coordinate puts there is
    convex in its shift and 0 at 0, so that one alone is worst.
    """
    return to_laplace(*_pairs(seed, length, first_block))


def _pairs(
    seed: UInt32[Array, "*s 2"], length: int, first_block: Integer[Array, ""] | int
) -> tuple[UInt32[Array, "*s length"], UInt32[Array, "*s length"]]:
    # One flat axis: XLA vectorises it whatever the length.
    places = lax.iota(jnp.uint32, length)
    blocks = places >> jnp.uint32(BLOCK.bit_length() - 1)
    blocks = blocks + jnp.asarray(first_block).astype(jnp.uint32)
    return threefry2x32(seed[..., None, :], blocks, places & jnp.uint32(BLOCK - 1))


def to_normal(
    high: UInt32[Array, "*s"], low: UInt32[Array, "*s"]
) -> Float[Array, "*s"]:
    """The normal numbers that two words stand for; `(0, 0)` is `NORMAL_CUT`."""
    # The normal number over the Laplace number of the same place in its distribution.
    signed = to_laplace(high, low)
    size = jnp.abs(signed)
    return signed * _polynomial(_NUMERATOR, size) / _polynomial(_DENOMINATOR, size)


def to_laplace(
    high: UInt32[Array, "*s"], low: UInt32[Array, "*s"]
) -> Float[Array, "*s"]:
    """The Laplace numbers that two words stand for; `(0, 0)` is `LAPLACE_CUT`."""
    # -log(y) of y uniform in (0, 1), from 62 bits. The first says whether y > 1/2,
    # where 1 - y is what is made of the others, so that also numbers near 0 are exact.
    above = (high & jnp.uint32(0x40000000)) != 0
    top = jnp.where(above, ~high, high) & jnp.uint32(0x3FFFFFFF)
    rest = _to_float(low >> jnp.uint32(1)) + np.float32(0.5)
    y = _to_float(top) * np.float32(2.0**-31) + rest * np.float32(2.0**-62)
    # y = 2^-n (1 - x), x in (0, 1/2]: exponents are integers in a float's bits.
    bits = lax.bitcast_convert_type(y, jnp.uint32)
    lacking = jnp.uint32(0x3F000000) - (bits & jnp.uint32(0x7F800000))
    x = 1 - lax.bitcast_convert_type(bits + lacking, jnp.float32)
    x = jnp.where(above, y, x)
    whole = _to_float(lacking) * np.float32(np.log(2) * 2.0**-23)
    size = x * _polynomial(_LOG, x) + jnp.where(above, np.float32(0), whole)
    sign = high & jnp.uint32(0x80000000)
    return lax.bitcast_convert_type(
        lax.bitcast_convert_type(size, jnp.uint32) | sign, jnp.float32
    )


def _to_float(word: UInt32[Array, "*s"]) -> Float[Array, "*s"]:
    # Of words below 2^31: every machine converts signed ones in one instruction.
    return lax.bitcast_convert_type(word, jnp.int32).astype(jnp.float32)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def coins(seed: UInt32[Array, " 2"], prob: Float[Array, "*s"]) -> Bool[Array, "*s"]:
    """Independent coins that show heads with chance `prob`, float32 in [0, 1].

    Heads where a 64-bit fraction is below `prob`: the chance is `prob` itself, rounded
    up to a multiple of 2^-64.
    """
    places = jnp.arange(prob.size, dtype=jnp.uint32).reshape(prob.shape)
    high, low = threefry2x32(seed, jnp.zeros_like(places), places)
    # Scaling by powers of two and the difference are exact in float32.
    scaled = prob * np.float32(2.0**32)
    whole = jnp.floor(scaled)
    first = whole.astype(jnp.uint32)
    second = jnp.ceil((scaled - whole) * np.float32(2.0**32)).astype(jnp.uint32)
    below = (high < first) | ((high == first) & (low < second))
    return below | (prob >= 1)


def distinct(seed: UInt32[Array, " 2"], count: int, size: int) -> Int[Array, " count"]:
    """Draws `count` different numbers of `range(size)` in random order, at a cost that
    grows with `count` where `2 * count <= size`.

    **Guarantee:** if words are uniform, every ordered choice has the same probability
    within a factor of `exp(+-count * size / 2^63)` where `2 * count <= size`, and
    within `size^2 / 2^128` in all otherwise.

    Args:
      seed: Picks the numbers.
      count: How many.
      size: At least `count` and below 2^31.
    """
    if 2 * count > size:
        keys = words(seed, 4 * size).reshape(4, size)
        numbers = lax.iota(jnp.int32, size)
        return lax.sort((*keys, numbers), num_keys=4)[-1][:count]
    places = lax.iota(jnp.int32, count)

    def repeats(drawn: Array) -> Array:
        value, place = lax.sort((drawn, places), num_keys=2)
        same = jnp.concatenate([jnp.zeros(1, bool), value[1:] == value[:-1]])
        return jnp.zeros(count, bool).at[place].set(same)

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        turn, drawn, repeated = state
        new = _fraction_of(*threefry2x32(seed, turn, places), size)
        drawn = jnp.where(repeated, new, drawn)
        return turn + 1, drawn, repeats(drawn)

    # A repeated number is drawn again. Renaming all numbers renames the result, so
    # every ordered choice is as likely as any other.
    start = (jnp.uint32(0), jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
    return lax.while_loop(lambda state: jnp.any(state[2]), again, start)[1]


def _fraction_of(
    high: UInt32[Array, "*s"], low: UInt32[Array, "*s"], size: int
) -> Int[Array, "*s"]:
    """`floor(size * w / 2^64)` of the 64-bit numbers `w`, for sizes below 2^31."""
    factor = jnp.uint32(size)
    carried = _upper_product(low, factor)
    carry = high * factor + carried < carried
    return (_upper_product(high, factor) + carry.astype(jnp.uint32)).astype(jnp.int32)


def _upper_product(a: UInt32[Array, "*s"], b: UInt32[Array, ""]) -> UInt32[Array, "*s"]:
    """The upper word of the product of two words."""
    half = jnp.uint32(0xFFFF)
    a1, a0, b1, b0 = a >> 16, a & half, b >> 16, b & half
    middle = (a0 * b0 >> 16) + (a0 * b1 & half) + (a1 * b0 & half)
    return a1 * b1 + (a0 * b1 >> 16) + (a1 * b0 >> 16) + (middle >> 16)


def dither(key: base.Key, length: int) -> Float[Array, " length"]:
    """Uniform float32 numbers in [0, 1) at a tenth of the cost of `words`, for
    stochastic rounding, where they decide less than a step. Not for masks, shares or
    noise.

    They come from a Weyl sequence, one multiplication and both words of the key. Over
    keys each number is uniform; two numbers of one key correlate by a few percent at
    most.
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
    """Applies a pseudorandom permutation of `range(size)` to `positions`.

    It shuffles without a buffer: any element of the permutation costs the same,
    whatever `size`, which may be traced, so ragged clients shuffle their examples in a
    compiled round without padding. It is the swap-or-not network of Hoang, Morris and
    Rogaway ("An enciphering scheme based on a card shuffle", CRYPTO 2012), a bijection
    for every key and size.

    It is fit for the order of batches, not for sampling that privacy accounting relies
    on (use `distinct`), and it is no cipher: that 32 rounds come close to a uniform
    shuffle is measured, not proven. The paper's bound is for rounds of random
    functions, which here are Murmur mixes of 64 bits of a key; it is 4.5e-4 at size 100
    and says nothing from about 10,000.

    Args:
      key: Picks the permutation.
      positions: Integers in `[0, size)`.
      size: At least 1 and below 2^31.
    """
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    last = jnp.asarray(size).astype(jnp.uint32) - 1
    # One position is shuffled as one of two: jax 0.10 fails to compile `% 1` on CPU.
    size = jnp.maximum(last, 1) + 1
    x = positions.astype(jnp.uint32)
    # All rounds' seeds and pivots at once: one small array operation, not 32.
    numbers = jnp.arange(_SWAP_ROUNDS, dtype=jnp.uint32)
    seeds = _mix(words[0] + numbers * jnp.uint32(0x9E3779B9))
    pivots = _mix(seeds ^ words[1]) % size
    for number in range(_SWAP_ROUNDS):
        seed, pivot = seeds[number], pivots[number]
        # Modulo `size`: below 0 the difference wraps to more than the sum.
        partner = jnp.minimum(pivot - x, pivot - x + size)
        swap = _mix(jnp.maximum(x, partner) + seed) >> 31
        x = jnp.where(swap == 1, partner, x)
        if number % _FUSED_ROUNDS == _FUSED_ROUNDS - 1:
            # A round reads `x` several times, so fusing all rounds into one doubles
            # the work at each: under vmap jax 0.11 did not end compiling it.
            x = jax.lax.optimization_barrier(x)
    return jnp.minimum(x, last).astype(positions.dtype)
