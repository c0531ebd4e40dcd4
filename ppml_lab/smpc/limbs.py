"""Words cut into signed bytes, for units that multiply bytes and add in 32 bits."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int8, UInt32

Dot = Callable[[Array, Array], Array]
"""A product of matrices of signed bytes, as int32."""


def unit_of(platform: str) -> str:
    """The unit that multiplies limbs: "float64" on CPU and GPU, "int8" on TPU, which
    has no float64. Measured on CPU only.
    """
    return "int8" if platform == "tpu" else "float64"


def signed_bytes(*words: UInt32[Array, "*s"]) -> list[Int8[Array, "*s"]]:
    """Signed bytes b_i with sum_i b_i 2^(8 i) = value modulo 2^(32 words).

    Where the value is a signed number of at most half the modulus in size, the sum is
    the value itself.

    Args:
      words: The words of the value, lowest first.
    """
    found, carry = [], jnp.uint32(0)
    for word in words:
        for shift in range(0, 32, 8):
            byte = ((word >> jnp.uint32(shift)) & jnp.uint32(0xFF)) + carry
            # A byte of 128 or more counts as negative and carries into the next.
            carry = (byte >= 128).astype(jnp.uint32)
            found.append(byte.astype(jnp.uint8).astype(jnp.int8))
    return found


def products_by_place(
    left: list[Array], right: list[Array], dot: Dot, num_places: int
) -> list[Array]:
    """The sums of products of bytes whose places add up to 0, 1, ..., as int32.

    Args:
      left: Bytes, lowest first.
      right: Bytes, lowest first, as many as `left` has.
      dot: The product; the sum of its results at one place must stay within 31 bits.
      num_places: How many places to compute.
    """
    totals = []
    for place in range(num_places):
        first = max(0, place - len(left) + 1)
        parts = [
            dot(left[i], right[place - i])
            for i in range(first, min(place, len(left) - 1) + 1)
        ]
        totals.append(sum(parts[1:], parts[0]))
    return totals


def dot_of_bytes(dims: lax.DotDimensionNumbers) -> Dot:
    """`lax.dot_general` of signed bytes into int32."""

    def dot(left: Array, right: Array) -> Array:
        return lax.dot_general(left, right, dims, preferred_element_type=jnp.int32)

    return dot
