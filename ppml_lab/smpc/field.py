"""The prime fields of 2^31 - 1 and 2^61 - 1 elements, exact without 128-bit integers.

Modulo a Mersenne prime 2^k - 1, bit k + i counts as much as bit i. A product of two
elements that exceeds 64 bits is put together from limbs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Int32, UInt64

from ppml_lab import random, target
from ppml_lab.smpc import limbs, ring
from ppml_lab.smpc.ring import Element, Ring, Seed, Wide, narrowed, widened, x64

P31, P61 = 2**31 - 1, 2**61 - 1
# Widths of limbs for which the sum of 64 products in float64 is exact.
_LEFT_BITS, _RIGHT_BITS = 16, 31


def inverse(field: Ring, element: Element) -> Element:
    """The multiplicative inverse, by Fermat's little theorem; 0 for 0."""
    return power(field, element, ring.from_integers(field, field.modulus - 2))


def power(field: Ring, base: Element, exponent: Element) -> Element:
    """The power `base ** exponent`; the exponent is an element's representative."""
    shape = jnp.broadcast_shapes(ring.shape_of(base), ring.shape_of(exponent))
    spread = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape), base)
    digits = field.to_unsigned(exponent)

    def digit(place: Array | int) -> Array:
        # A Python integer where loops are not compiled.
        number = jnp.asarray(place)
        word = jnp.where(number < 32, digits.low, digits.high)
        return (word >> (number % 32).astype(jnp.uint32)) & 1

    def square_and_multiply(number: Array | int, result: Element) -> Element:
        squared = field.multiply(result, result)
        multiplied = field.multiply(squared, spread)
        is_set = digit(field.bits - 1 - number) == 1
        return jax.tree.map(lambda m, s: jnp.where(is_set, m, s), multiplied, squared)

    one = ring.from_integers(field, np.ones(shape, int))
    return lax.fori_loop(0, field.bits, square_and_multiply, one)


def matmul(
    field: Ring, left: Element, right: Element, *, unit: str | None = None
) -> Element:
    """The exact product of elements `[n, t]` and `[t, d]`.

    Args:
      field: The field of both operands and of the result.
      left: Elements `[n, t]`.
      right: Elements `[t, d]`.
      unit: The unit that multiplies limbs; the platform's by default. "float64": 16
        bits of `left` times 31 of `right`, at most 64 terms at a time, so that no
        partial sum exceeds 2^53. "int8": signed bytes of both, at most 2^13 terms at a
        time, so that no partial sum exceeds 2^30.

    Raises:
      ValueError: For shapes that do not fit.
    """
    left_shape, right_shape = ring.shape_of(left), ring.shape_of(right)
    terms = left_shape[1]
    if terms != right_shape[0]:
        raise ValueError(f"cannot multiply {left_shape} by {right_shape}")
    product, most = _UNITS[unit or limbs.unit_of(target.platform())]
    total = ring.zeros(field, (left_shape[0], right_shape[1]))
    for begin in range(0, terms, most):
        some = slice(begin, begin + most)
        columns = jax.tree.map(operator.itemgetter((slice(None), some)), left)
        rows = jax.tree.map(operator.itemgetter(some), right)
        total = field.add(total, product(field, columns, rows))
    return total


def _by_doubles(field: Ring, left: Element, right: Element) -> Element:
    total = ring.zeros(field, (ring.shape_of(left)[0], ring.shape_of(right)[1]))
    with x64():
        a, b = widened(field.to_unsigned(left)), widened(field.to_unsigned(right))
        for i in range(0, field.bits, _LEFT_BITS):
            for j in range(0, field.bits, _RIGHT_BITS):
                # Not jnp.matmul: it names its result's type, float64, which vmap of a
                # compiled function, outside of this scope, makes float32.
                product = lax.dot(
                    _limb(a, i, _LEFT_BITS),
                    _limb(b, j, _RIGHT_BITS),
                    precision=lax.Precision.HIGHEST,
                )
                # Below 2^53, so below 2^61 - 1, and after one folding below 2^31 - 1.
                part = _reduced(product.astype(jnp.uint64), field.bits)
                shift = ring.from_integers(field, 2 ** (i + j))
                scaled = field.multiply(field.from_unsigned(narrowed(part)), shift)
                total = field.add(total, scaled)
    return total


def _by_bytes(field: Ring, left: Element, right: Element) -> Element:
    a, b = (limbs.signed_bytes(*_centred(field, one)) for one in (left, right))
    dot = limbs.dot_of_bytes((((1,), (0,)), ((), ())))
    total = ring.zeros(field, (ring.shape_of(left)[0], ring.shape_of(right)[1]))
    for place, part in enumerate(
        limbs.products_by_place(a, b, dot, len(a) + len(b) - 1)
    ):
        shift = ring.from_integers(field, 2 ** (8 * place))
        total = field.add(total, field.multiply(_signed(field, part), shift))
    return total


def _centred(field: Ring, element: Element) -> list[Array]:
    """The words of the representative between -p/2 and p/2, as a signed number."""
    words = ring.Z32 if field.bits < 32 else ring.Z64
    prime = ring.from_integers(words, field.modulus)
    top = jax.tree.leaves(element)[-1] >> jnp.uint32((field.bits - 1) % 32)
    below = words.subtract(element, prime)
    return [
        jnp.where(top == 1, under, word)
        for under, word in zip(
            jax.tree.leaves(below), jax.tree.leaves(element), strict=True
        )
    ]


def _signed(field: Ring, value: Int32[Array, "*s"]) -> Element:
    """Elements of signed integers whose absolute values are below the prime."""
    size = jnp.abs(value).astype(jnp.uint32)
    element = field.from_unsigned(Wide(size, jnp.zeros_like(size)))
    return jax.tree.map(
        lambda minus, plus: jnp.where(value < 0, minus, plus),
        ring.negative(field, element),
        element,
    )


_UNITS = {
    "float64": (_by_doubles, 2 ** (53 - _LEFT_BITS - _RIGHT_BITS)),
    "int8": (_by_bytes, 2**13),
}
"""Each unit's product, and the most terms that it adds at a time.

A term of "int8" counts for up to eight products of bytes.
"""


def _limb(value: UInt64[Array, "*s"], begin: int, bits: int) -> Array:
    mask = jnp.uint64(2**bits - 1)
    return ((value >> jnp.uint64(begin)) & mask).astype(jnp.float64)


def _folded(value: UInt64[Array, "*s"], bits: int) -> UInt64[Array, "*s"]:
    return (value & jnp.uint64(2**bits - 1)) + (value >> jnp.uint64(bits))


def _reduced(value: UInt64[Array, "*s"], bits: int) -> UInt64[Array, "*s"]:
    """Any 64-bit value, reduced modulo 2^bits - 1."""
    prime = jnp.uint64(2**bits - 1)
    value = _folded(_folded(value, bits), bits)
    return jnp.where(value >= prime, value - prime, value)


def _without(refused: int, draw: Callable[[Seed], Any], seed: Seed) -> Any:
    """Draws, and draws again from another stream where `refused` came up."""

    def is_refused(value: Any) -> Array:
        words = jax.tree.leaves(value)
        low = words[0] == jnp.uint32(refused & 0xFFFFFFFF)
        return low & (words[-1] == jnp.uint32(refused >> 32)) if words[1:] else low

    def again(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        attempt, value = carry
        fresh = draw(random.child(seed, attempt))
        kept = jax.tree.map(
            lambda new, old: jnp.where(is_refused(value), new, old), fresh, value
        )
        return attempt + 1, kept

    # Almost never entered: a value is refused with probability 2^-31 or 2^-61.
    return lax.while_loop(
        lambda carry: jnp.any(is_refused(carry[1])),
        again,
        (jnp.uint32(1), draw(random.child(seed, 0))),
    )[1]


def _add31(a: Any, b: Any) -> Element:
    total = a + b
    return jnp.where(total >= jnp.uint32(P31), total - jnp.uint32(P31), total)


def _subtract31(a: Any, b: Any) -> Element:
    return jnp.where(a >= b, a - b, a + jnp.uint32(P31) - b)


def _multiply31(a: Any, b: Any) -> Element:
    with x64():
        product = a.astype(jnp.uint64) * b.astype(jnp.uint64)
        return _reduced(product, 31).astype(jnp.uint32)


def _sum31(elements: Any, axis: int) -> Element:
    with x64():
        total = jnp.sum(elements.astype(jnp.uint64), axis=axis, dtype=jnp.uint64)
        return _reduced(total, 31).astype(jnp.uint32)


def _uniform31(seed: Seed, length: int, first_block: Any = 0) -> Element:
    def draw(stream: Seed) -> Array:
        return random.words(stream, length, first_block) >> jnp.uint32(1)

    return _without(P31, draw, seed)


F31 = Ring(
    name="F_(2^31-1)",
    modulus=P31,
    bits=31,
    add=_add31,
    subtract=_subtract31,
    multiply=_multiply31,
    sum_over=_sum31,
    uniform=_uniform31,
    from_unsigned=lambda wide: wide.low,
    to_unsigned=lambda element: Wide(element, jnp.zeros_like(element)),
)
"""The field of 2^31 - 1 elements, each one uint32 word."""


def _add61(a: Any, b: Any) -> Wide:
    with x64():
        return narrowed(_reduced(widened(a) + widened(b), 61))


def _subtract61(a: Any, b: Any) -> Wide:
    with x64():
        return narrowed(_reduced(widened(a) + (jnp.uint64(P61) - widened(b)), 61))


def _multiply61(a: Any, b: Any) -> Wide:
    with x64():
        return narrowed(_product61(widened(a), widened(b)))


def _product61(
    a: UInt64[Array, "*#s"], b: UInt64[Array, "*#s"]
) -> UInt64[Array, "..."]:
    """The product modulo 2^61 - 1, by limbs of 31 and 30 bits.

    2^62 counts as 2, and every sum stays below 2^63.
    """
    half = jnp.uint64(31)
    a1, a0 = a >> half, a & jnp.uint64(2**31 - 1)
    b1, b0 = b >> half, b & jnp.uint64(2**31 - 1)
    middle = a1 * b0 + a0 * b1
    carried = (middle & jnp.uint64(2**30 - 1)) << half
    ends = (a1 * b1 << jnp.uint64(1)) + _folded(a0 * b0, 61)
    return _reduced(ends + (middle >> jnp.uint64(30)) + carried, 61)


def _sum61(elements: Any, axis: int) -> Wide:
    with x64():
        low, high = (
            jnp.sum(word.astype(jnp.uint64), axis=axis, dtype=jnp.uint64)
            for word in elements
        )
        shifted = _product61(_reduced(high, 61), jnp.uint64(2**32))
        return narrowed(_reduced(_reduced(low, 61) + shifted, 61))


def _uniform61(seed: Seed, length: int, first_block: Any = 0) -> Wide:
    def draw(stream: Seed) -> Wide:
        pair = ring.wide_words(stream, length, first_block)
        return Wide(pair.low, pair.high >> jnp.uint32(3))

    return _without(P61, draw, seed)


F61 = Ring(
    name="F_(2^61-1)",
    modulus=P61,
    bits=61,
    add=_add61,
    subtract=_subtract61,
    multiply=_multiply61,
    sum_over=_sum61,
    uniform=_uniform61,
    from_unsigned=lambda wide: wide,
    to_unsigned=lambda element: element,
)
"""The field of 2^61 - 1 elements, each a `Wide` pair of words."""
