"""Reals as integers of the ring: `x` becomes about `x * scale`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt32

from ppml_lab import base, checks
from ppml_lab.smpc import ring

ROUNDINGS = ("stochastic", "nearest")


class FixedPoint(NamedTuple):
    """A checked encoding; make it with `fixed_point`.

    Attributes:
      scale: Integer steps per unit.
      max_abs: Inputs are clamped to [-max_abs, max_abs].
      rounding: "stochastic" (unbiased, each value within 1 / scale) or "nearest"
        (within 1 / (2 * scale)).
    """

    scale: float
    max_abs: Any
    rounding: str

    def encode(self, key: base.Key, values: Float[Array, "*s"]) -> UInt32[Array, "*s"]:
        """Clamps, scales and rounds to the ring; NaN becomes 0."""
        values = jnp.where(jnp.isnan(values), 0.0, values).astype(jnp.float32)
        scaled = jnp.clip(values, -self.max_abs, self.max_abs) * self.scale
        if self.rounding == "nearest":
            whole = jnp.round(scaled)
        else:
            # Only the fraction is compared, which float32 holds exactly: adding the
            # random number to `scaled` would lose its low bits.
            whole = jnp.floor(scaled)
            up = jax.random.uniform(key, values.shape, jnp.float32) < scaled - whole
            whole = whole + up.astype(whole.dtype)
        return ring.from_signed(whole.astype(jnp.int32))

    def decode(self, values: UInt32[Array, "*s"]) -> Float[Array, "*s"]:
        """The real in [-2^31, 2^31) / scale, to float32 precision."""
        return ring.to_signed(values).astype(jnp.float32) / self.scale

    def rounding_norm(self, dimension: int) -> float:
        """How much rounding can add to the L2 norm of a vector."""
        step = 1.0 if self.rounding == "stochastic" else 0.5
        return step * math.sqrt(dimension) / self.scale


def bits_needed(num_summands: int, max_abs: float, scale: float) -> int:
    """The least width of a two's complement ring whose sums cannot wrap around."""
    # Each summand is an integer of at most ceil(max_abs * scale) in absolute value.
    largest = num_summands * math.ceil(max_abs * scale)
    return 1 + largest.bit_length()


def fixed_point(
    num_summands: int, max_abs: Any, scale: float, rounding: str = "stochastic"
) -> FixedPoint:
    """An encoding whose sums of `num_summands` values cannot wrap around in Z_2^32.

    Args:
      num_summands: The most values that are ever added.
      max_abs: Bound of each coordinate; larger ones are clamped.
      scale: Integer steps per unit; a power of two scales without rounding.
      rounding: "stochastic" or "nearest".

    Raises:
      ValueError: For bad arguments, or when the sum does not fit; the error says how
        many bits would do.
    """
    checks.at_least("num_summands", num_summands, 1)
    checks.positive("max_abs", max_abs)
    checks.positive("scale", scale)
    checks.known("rounding", rounding, ROUNDINGS)
    if not checks.is_traced(max_abs):
        bits = bits_needed(num_summands, _largest_step(max_abs, scale), 1.0)
        if bits > ring.BITS:
            room = max(1, (2 ** (ring.BITS - 1) - 1) // num_summands)
            enough = math.floor(math.log2(room / _largest_step(max_abs, 1.0)))
            raise ValueError(
                f"modulus too small: {num_summands} clients x max_abs {max_abs} x "
                f"scale {scale} needs {bits} bits, have {ring.BITS}; lower the scale "
                f"to at most 2^{enough}"
            )
    return FixedPoint(scale, max_abs, rounding)


def _largest_step(max_abs: Any, scale: float) -> float:
    # `encode` clamps and scales in float32, which may round the bound up.
    with np.errstate(over="ignore"):
        largest = float(np.float32(max_abs) * np.float32(scale))
    return min(largest, float(2**128))
