"""The rings Z_2^32 and Z_2^64: batched arithmetic that wraps around, as it should.

A ring is a NamedTuple of functions on *elements*: a uint32 array, or for rings of more
than 32 bits a `Wide` pair of them, so that nothing depends on `jax_enable_x64`. The
prime fields of `field` are rings of the same type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, UInt32, UInt64

from ppml_lab import random

Seed = UInt32[Array, "*s 2"]

_FEW = 8


class Wide(NamedTuple):
    """An element of up to 64 bits as two words."""

    low: UInt32[Array, "*s"]
    high: UInt32[Array, "*s"]


Element = Any
"""A uint32 array, or a `Wide` of two."""


class Ring(NamedTuple):
    """The integers modulo `modulus`, on arrays of any shape.

    Attributes:
      name: The ring's name in error messages.
      modulus: 2^32, 2^64 or a prime.
      bits: Bits of an element in a message.
      add: The sum of two elements.
      subtract: The difference of two elements.
      multiply: The product of two elements.
      sum_over: `(elements, axis)` to the sum along an axis.
      uniform: `(seed, length, first_block=0)` to elements `[*s, length]`, each value
        with the same probability (simulation randomness, not cryptographic). The
        elements are the same under any chunking into blocks of `random.BLOCK`.
      from_unsigned: An element from a `Wide` below the modulus.
      to_unsigned: A `Wide` below the modulus from an element.
    """

    name: str
    modulus: int
    bits: int
    add: Callable[[Element, Element], Element]
    subtract: Callable[[Element, Element], Element]
    multiply: Callable[[Element, Element], Element]
    sum_over: Callable[[Element, int], Element]
    uniform: Callable[..., Element]
    from_unsigned: Callable[[Wide], Element]
    to_unsigned: Callable[[Element], Wide]


def zeros(ring: Ring, shape: tuple[int, ...]) -> Element:
    """Zeros of the ring, as an array of the given shape."""
    none = jnp.zeros(shape, jnp.uint32)
    return ring.from_unsigned(Wide(none, none))


def negative(ring: Ring, element: Element) -> Element:
    """The additive inverse of an element of any shape."""
    return ring.subtract(zeros(ring, shape_of(element)), element)


def row(element: Element, number: int) -> Element:
    """One place of the first axis, such as a party's share."""
    return jax.tree.map(lambda leaf: leaf[number], element)


def total(ring: Ring, rows: Element) -> Element:
    """The sum along the first axis, such as of all parties' shares.

    A few rows are added one by one, which XLA fuses with what comes before and after.
    """
    count = shape_of(rows)[0]
    if count > _FEW:
        return ring.sum_over(rows, 0)
    return functools.reduce(ring.add, [row(rows, number) for number in range(count)])


def shape_of(element: Element) -> tuple[int, ...]:
    """The shape of the array of elements."""
    return jax.tree.leaves(element)[0].shape


def from_float(ring: Ring, whole: Float[Array, "*s"]) -> Element:
    """Elements of whole float32 numbers in [-modulus / 2, modulus / 2).

    A negative number becomes its residue.
    """
    if ring.modulus == 2**32:
        return lax.bitcast_convert_type(whole.astype(jnp.int32), jnp.uint32)
    size = jnp.abs(whole)
    high = jnp.floor(size * np.float32(2.0**-32))
    low = size - high * np.float32(2.0**32)
    unsigned = Wide(low.astype(jnp.uint32), high.astype(jnp.uint32))
    positive = ring.from_unsigned(unsigned)
    negated = negative(ring, positive)
    return jax.tree.map(lambda p, n: jnp.where(whole < 0, n, p), positive, negated)


def to_float(ring: Ring, element: Element) -> Float[Array, "*s"]:
    """The representative nearest to 0, to float32 precision."""
    negated = negative(ring, element)
    value, other = ring.to_unsigned(element), ring.to_unsigned(negated)
    # An element above half the modulus is the negative of one below.
    below = (value.high < other.high) | (
        (value.high == other.high) & (value.low <= other.low)
    )
    size = jax.tree.map(lambda v, o: jnp.where(below, v, o), value, other)
    real = size.high.astype(jnp.float32) * np.float32(2.0**32)
    real = real + size.low.astype(jnp.float32)
    return jnp.where(below, real, -real)


def from_integers(ring: Ring, values: Any) -> Element:
    """Elements of Python integers of any size and sign (an array or nested lists)."""
    residues = np.asarray(values, object) % ring.modulus
    words = [
        jnp.asarray(np.asarray((residues >> shift) & 0xFFFFFFFF).astype(np.uint32))
        for shift in (0, 32)
    ]
    return ring.from_unsigned(Wide(*words))


def to_integers(ring: Ring, element: Element) -> np.ndarray:
    """The residues in [0, modulus) as Python integers, an array of objects."""
    wide = ring.to_unsigned(element)
    low, high = (np.asarray(word).astype(object) for word in wide)
    return np.asarray(low + (high << 32), object)


def x64() -> Any:
    """A scope in which 64-bit integers and floats can be computed with."""
    return jax.enable_x64(True)


def widened(wide: Wide) -> UInt64[Array, "*s"]:
    """Pairs of words as single 64-bit words; only inside `x64`."""
    low, high = (word.astype(jnp.uint64) for word in wide)
    return (high << jnp.uint64(32)) | low


def narrowed(value: UInt64[Array, "*s"]) -> Wide:
    """Single 64-bit words as pairs of words; only inside `x64`."""
    high = value >> jnp.uint64(32)
    return Wide(value.astype(jnp.uint32), high.astype(jnp.uint32))


def materialised(element: Element) -> Element:
    """The same element, computed only once.

    XLA would compute an element, such as shares, again in each place that reads it.
    """

    def kept(word: Array) -> Array:
        # A barrier alone does not keep fusions of XLA's CPU compiler apart: a pad does.
        if not word.size:
            return word
        rows = word.reshape(-1, word.shape[-1] if word.shape else 1)
        longer = lax.pad(rows, jnp.uint32(0), [(0, 1, 0), (0, 0, 0)])
        return lax.optimization_barrier(longer)[: rows.shape[0]].reshape(word.shape)

    return jax.tree.map(kept, element)


def shift_left(ring: Ring, element: Element, distance: Array | int) -> Element:
    """An element of Z_2^32 or Z_2^64 shifted left; the distance may be traced."""
    with x64():
        by = jnp.asarray(distance).astype(jnp.uint64)
        return _from_word(ring, widened(ring.to_unsigned(element)) << by)


def shift_right(
    ring: Ring, element: Element, distance: Array | int, *, signed: bool = False
) -> Element:
    """An element of Z_2^32 or Z_2^64 shifted right, as an unsigned or signed number."""
    with x64():
        by = jnp.asarray(distance).astype(jnp.uint64)
        value = widened(ring.to_unsigned(element))
        if not signed:
            return _from_word(ring, value >> by)
        # The ring's sign bit moves to the top and back.
        top = jnp.int64(64 - ring.bits)
        number = value.astype(jnp.int64) << top
        return _from_word(
            ring, (number >> by.astype(jnp.int64) >> top).astype(jnp.uint64)
        )


def _from_word(ring: Ring, value: UInt64[Array, "*s"]) -> Element:
    return ring.from_unsigned(narrowed(value))


def _sum32(elements: Element, axis: int) -> Element:
    return jnp.sum(elements, axis=axis, dtype=jnp.uint32)


def _uniform32(seed: Seed, length: int, first_block: Any = 0) -> Element:
    return random.words(seed, length, first_block)


Z32 = Ring(
    name="Z_2^32",
    modulus=2**32,
    bits=32,
    add=lambda a, b: a + b,
    subtract=lambda a, b: a - b,
    multiply=lambda a, b: a * b,
    sum_over=_sum32,
    uniform=_uniform32,
    from_unsigned=lambda wide: wide.low,
    to_unsigned=lambda element: Wide(element, jnp.zeros_like(element)),
)
"""The integers modulo 2^32, each one uint32 word."""


def _add64(a: Any, b: Any) -> Wide:
    low = a.low + b.low
    return Wide(low, a.high + b.high + (low < a.low).astype(jnp.uint32))


def _subtract64(a: Any, b: Any) -> Wide:
    borrow = (a.low < b.low).astype(jnp.uint32)
    return Wide(a.low - b.low, a.high - b.high - borrow)


def _multiply64(a: Any, b: Any) -> Wide:
    with x64():
        return narrowed(widened(a) * widened(b))


def _sum64(elements: Any, axis: int) -> Wide:
    with x64():
        return narrowed(jnp.sum(widened(elements), axis=axis, dtype=jnp.uint64))


def wide_words(seed: Seed, length: int, first_block: Any = 0) -> Wide:
    """Uniform pairs of words; the low and the high words have a stream each."""
    # Both in one call: compiling a generator takes longer than running it.
    streams = random.child(seed[..., None, :], jnp.arange(2, dtype=jnp.uint32))
    words = random.words(streams, length, first_block)
    return Wide(words[..., 0, :], words[..., 1, :])


Z64 = Ring(
    name="Z_2^64",
    modulus=2**64,
    bits=64,
    add=_add64,
    subtract=_subtract64,
    multiply=_multiply64,
    sum_over=_sum64,
    uniform=wide_words,
    from_unsigned=lambda wide: wide,
    to_unsigned=lambda element: element,
)
"""The integers modulo 2^64, each a `Wide` pair of words."""
