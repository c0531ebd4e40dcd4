"""Words of bits as rings: XOR is the addition and AND the multiplication.

All of `sharing` and `arithmetic` therefore computes on bits too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppml_lab import random
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.ring import Element, Ring, Seed, Wide


@functools.cache
def bit_ring(width: int) -> Ring:
    """The ring GF(2)^width: words of `width` bits, each bit an element of GF(2).

    Raises:
      ValueError: Unless the width is from 1 to 32, or 64.
    """
    if width != 64 and not 1 <= width <= 32:
        raise ValueError(f"width must be from 1 to 32, or 64, got {width}")
    mask = np.uint32(2 ** min(width, 32) - 1)

    def xor(a: Element, b: Element) -> Element:
        return jax.tree.map(jnp.bitwise_xor, a, b)

    def uniform(seed: Seed, length: int, first_block: Any = 0) -> Element:
        if width == 64:
            return rings.wide_words(seed, length, first_block)
        return random.words(seed, length, first_block) & mask

    def parity(elements: Element, axis: int) -> Element:
        return jax.tree.map(lambda leaf: _xor_over(leaf, axis), elements)

    return Ring(
        name=f"GF(2)^{width}",
        modulus=2**width,
        bits=width,
        add=xor,
        subtract=xor,
        multiply=lambda a, b: jax.tree.map(jnp.bitwise_and, a, b),
        sum_over=parity,
        uniform=uniform,
        from_unsigned=lambda wide: wide if width == 64 else wide.low & mask,
        to_unsigned=lambda element: (
            element if width == 64 else Wide(element, jnp.zeros_like(element))
        ),
    )


def _xor_over(leaf: Array, axis: int) -> Array:
    return lax.reduce_xor(leaf, axes=(axis % leaf.ndim,))


def inverted(ring: Ring, element: Element) -> Element:
    """The words with every bit flipped."""
    return ring.add(element, ones(ring, rings.shape_of(element)))


def ones(ring: Ring, shape: tuple[int, ...]) -> Element:
    """Words with all bits set."""
    full = jnp.full(shape, 0xFFFFFFFF, jnp.uint32)
    return ring.from_unsigned(Wide(full, full))


def shifted_in(ring: Ring, element: Element, carry: int) -> Element:
    """Words shifted up by one place: the top bit is gone, `carry` is at place 0."""
    wide = ring.to_unsigned(element)
    high = (wide.high << jnp.uint32(1)) | (wide.low >> jnp.uint32(31))
    low = (wide.low << jnp.uint32(1)) | jnp.uint32(carry)
    return ring.from_unsigned(Wide(low, high))


def top_bit(ring: Ring, element: Element) -> Element:
    """The top bit of every word, as an element of `bit_ring(1)`."""
    wide = ring.to_unsigned(element)
    word = wide.high if ring.bits == 64 else wide.low
    return (word >> jnp.uint32((ring.bits - 1) % 32)) & jnp.uint32(1)


def spread_places(ring: Ring, element: Element) -> Element:
    """Moves the bit of place p to the place whose index has p's bits in reverse.

    Neighbours 2 k and 2 k + 1 then have the same index in a word's two halves, at every
    level of a tree.
    """
    if ring.bits not in (32, 64):
        raise ValueError(f"bits must be 32 or 64, got {ring.bits}")
    if ring.bits == 32:
        return _swapped(_swapped(element, 0, 4), 1, 3)
    low, high = (_swapped(_swapped(word, 1, 4), 2, 3) for word in element)
    # Exchanges bit 0 of the index with bit 5, which tells the two words apart: the odd
    # places of the low word with the even places of the high word.
    moved = (low ^ (high << jnp.uint32(1))) & jnp.uint32(0xAAAAAAAA)
    return Wide(low ^ moved, high ^ (moved >> jnp.uint32(1)))


def _swapped(word: Array, i: int, j: int) -> Array:
    """The word with bits i and j of every place's index exchanged."""
    chosen = sum(
        1 << place for place in range(32) if place >> i & 1 and not place >> j & 1
    )
    distance = jnp.uint32(2**j - 2**i)
    moved = ((word >> distance) ^ word) & jnp.uint32(chosen)
    return word ^ moved ^ (moved << distance)


def halves(ring: Ring, element: Element) -> tuple[Element, Element, Ring]:
    """The low and the high half of every word, and the ring of the halves."""
    half = bit_ring(ring.bits // 2)
    if ring.bits == 64:
        return element.low, element.high, half
    mask = jnp.uint32(2**half.bits - 1)
    return element & mask, (element >> jnp.uint32(half.bits)) & mask, half


def unpacked(ring: Ring, element: Element) -> Array:
    """The bits, lowest first, along a new last axis `[*s, bits]`, as words 0 or 1."""
    wide = ring.to_unsigned(element)
    places = jnp.arange(min(ring.bits, 32), dtype=jnp.uint32)
    parts = [(word[..., None] >> places) & jnp.uint32(1) for word in wide]
    return jnp.concatenate(parts, axis=-1) if ring.bits == 64 else parts[0]
