"""Randomness for protocols, drawn for many of them at once.

Compiling a generator takes longer than running it, so a stream draws its words in
pages, each as long as all earlier pages together, and hands out pieces of them. The
number of generators in a program is then the logarithm of the words that it takes.

**Guarantee:** no word is handed out twice, whatever is drawn and in which order; words
are as uniform as the generator's (`random.words`).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import UInt32

from ppml_lab import random
from ppml_lab.smpc.ring import Element, Ring, Seed, Wide

_MOST = 2**22
"""The most words in a page, unless a single draw needs more."""


class Stream:
    """The words of a seed, in the order in which a traced program asks for them.

    Coins decide results and masks hide them. The two are counted apart, so that a
    program draws the same coins whether its masks are drawn or not.
    """

    def __init__(self, seed: Seed) -> None:
        """Takes a seed `[2]` of randomness that nothing else uses."""
        self._coins = _Words(seed, 0)
        self._masks = _Words(seed, 2**31)

    def coins(self, ring: Ring, shape: tuple[int, ...]) -> Element:
        """Uniform elements that decide a result."""
        return self._coins.elements(ring, shape)

    def masks(self, ring: Ring, shape: tuple[int, ...]) -> Element:
        """Uniform elements on which no result depends."""
        return self._masks.elements(ring, shape)

    def seed(self) -> Seed:
        """The seed `[2]` of another stream."""
        return self._coins.take(2)

    def seeds(self, count: int) -> Seed:
        """The seeds `[count, 2]` of streams of masks."""
        return self._masks.take(2 * count).reshape(count, 2)


Source = Stream | Seed
"""A stream, or the seed of one that nothing else uses."""


def of(source: Source) -> Stream:
    """The source itself if it is a stream, else the stream of the seed."""
    return source if isinstance(source, Stream) else Stream(source)


class _Words:
    """The words of a seed, from a given block on."""

    def __init__(self, seed: Seed, first_block: int) -> None:
        self._seed, self._next_block = seed, first_block
        self._page: Array | np.ndarray = np.zeros(0, np.uint32)
        self._used = self._drawn = 0

    def take(self, count: int) -> UInt32[Array, " count"]:
        if self._used + count > self._page.size:
            self._turn(max(count, min(self._drawn, _MOST)))
        self._used += count
        return lax.slice_in_dim(self._page, self._used - count, self._used)

    def _turn(self, length: int) -> None:
        blocks = -(-length // random.BLOCK)
        length, block = blocks * random.BLOCK, jnp.uint32(self._next_block)
        # XLA would draw a page again in each place that takes a piece of it.
        self._page = lax.optimization_barrier(random.words(self._seed, length, block))
        self._next_block += blocks
        self._drawn, self._used = self._drawn + length, 0

    def elements(self, ring: Ring, shape: tuple[int, ...]) -> Element:
        if ring.modulus & (ring.modulus - 1):
            drawn = ring.uniform(self.take(2), math.prod(shape))
            return jax.tree.map(lambda leaf: leaf.reshape(shape), drawn)
        width = 2 if ring.bits > 32 else 1
        words = self.take(width * math.prod(shape)).reshape(width, *shape)
        return ring.from_unsigned(Wide(words[0], words[-1]))
