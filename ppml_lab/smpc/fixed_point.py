"""Reals as integers of a ring: `x` becomes about `x * scale`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from ppml_lab import arguments, base, checks, random
from ppml_lab.smpc import ring
from ppml_lab.smpc.ring import Z32, Element, Ring

ROUNDINGS = ("stochastic", "nearest")


class FixedPoint(NamedTuple):
    """A checked encoding; make it with `fixed_point`.

    Attributes:
      scale: Integer steps per unit.
      max_abs: Inputs are clamped to [-max_abs, max_abs].
      rounding: "stochastic" (unbiased, each value within 1 / scale) or "nearest"
        (within 1 / (2 * scale)).
      ring: The ring of the integers.
      bits: Bits that a sum keeps, at most the ring's; higher bits are dropped. May be
        traced where the ring is Z_2^32.
      wraps: Whether sums may outgrow their bits and wrap around.
    """

    scale: Any
    max_abs: Any
    rounding: str
    ring: Ring = Z32
    bits: Any = 32
    wraps: bool = False

    def encode(self, key: base.Key, values: Float[Array, "*s"]) -> Element:
        """Clamps and scales values and rounds them to the ring; NaN becomes 0."""
        values = jnp.where(jnp.isnan(values), 0.0, values).astype(jnp.float32)
        scaled = jnp.clip(values, -self.max_abs, self.max_abs) * self.scale
        if self.rounding == "nearest":
            whole = jnp.round(scaled)
        else:
            # Only the fraction is compared, which float32 holds exactly: adding the
            # random number to `scaled` would lose its low bits.
            whole = jnp.floor(scaled)
            drawn = random.dither(key, values.size).reshape(values.shape)
            whole = whole + (drawn < scaled - whole).astype(whole.dtype)
        return ring.from_float(self.ring, whole)

    def decode(self, values: Element) -> Float[Array, "*s"]:
        """The real nearest to 0 that the integer stands for, to float32 precision."""
        if self.ring.modulus != 2**32:
            return ring.to_float(self.ring, values) / self.scale
        # The sign bit of a narrower sum moves to the top and back.
        unused = jnp.asarray(32 - self.bits).astype(jnp.uint32)
        signed = lax.bitcast_convert_type(values << unused, jnp.int32)
        whole = signed >> unused.astype(jnp.int32)
        return whole.astype(jnp.float32) / self.scale

    def wrap(self, values: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Reals modulo the range of decoded sums, where sums may wrap around.

        **Guarantee:** `wrap(decode(sum) + noise)` is a function of the exact sum plus
        noise, whether the sum wrapped around or not, and so as private as the exact sum
        plus noise. Without `wrap` it would not be: a sum next to the modulus moves by
        the whole modulus when one summand changes a little.
        """
        if not self.wraps:
            return values
        span = self._modulus() / self.scale
        return values - span * jnp.round(values / span)

    def _modulus(self) -> Any:
        is_word = self.ring.modulus == 2**32
        return power_of_two(self.bits) if is_word else float(self.ring.modulus)

    def rounding_norm(self, dimension: int) -> Any:
        """The most that rounding can add to the L2 norm of a vector."""
        step = 1.0 if self.rounding == "stochastic" else 0.5
        return step * math.sqrt(dimension) / self.scale

    def rounding_change(self, dimension: int) -> Any:
        """The most that rounding can add to the L2 norm of a difference of vectors.

        With either rounding, a value that moves by x steps moves by less than x + 1
        once rounded: "stochastic" uses the same random number before and after,
        "nearest" is off by at most half a step both times.
        """
        return math.sqrt(dimension) / self.scale


@arguments.checked
def power_of_two(exponent: Any) -> Any:
    """The exact power 2^exponent for a whole exponent, which may be traced.

    XLA's `exp2` is not exact.

    Raises:
      ValueError: For an exponent that is not whole, or a power that float32 does not
        have.
    """
    checks.at_least("exponent", exponent, -126)
    checks.within("exponent", exponent, -126, 127)
    if not checks.is_traced(exponent):
        return 2.0 ** float(exponent)
    return jnp.ldexp(jnp.float32(1), exponent.astype(jnp.int32))


@arguments.checked
def bits_needed(num_summands: int, max_abs: float, scale: float) -> int:
    """The least width of a two's complement ring whose sums cannot wrap around.

    Raises:
      ValueError: Unless `num_summands` is at least 1, and `max_abs` and `scale` are
        positive.
    """
    _check_summands(num_summands, max_abs)
    checks.positive("scale", scale)
    # Each summand is an integer of at most ceil(max_abs * scale) in absolute value.
    largest = num_summands * math.ceil(max_abs * scale)
    return 1 + largest.bit_length()


@arguments.checked
def headroom(num_summands: int, max_abs: float, scale: float, bits: int) -> int:
    """The bits that the largest sum leaves free; negative where it can wrap around.

    Raises:
      ValueError: As for `bits_needed`, or if `bits` is below 1.
    """
    checks.at_least("bits", bits, 1)
    return bits - bits_needed(num_summands, max_abs, scale)


@arguments.checked
def largest_scale(num_summands: int, max_abs: float, bits: int) -> float:
    """The largest scale, a power of two, at which sums fit into `bits`.

    Raises:
      ValueError: Unless `num_summands` is at least 1, `max_abs` at least 2^-126, and
        `bits` from 1 to 1024.
    """
    _check_summands(num_summands, max_abs)
    checks.within("max_abs", max_abs, 2.0**-126, math.inf)
    checks.at_least("bits", bits, 1)
    checks.within("bits", bits, 1, 1024)
    room = max(1, (2 ** (bits - 1) - 1) // num_summands)
    return 2.0 ** math.floor(math.log2(room / _largest_step(max_abs, 1.0)))


def _check_summands(num_summands: int, max_abs: float) -> None:
    checks.at_least("num_summands", num_summands, 1)
    checks.positive("max_abs", max_abs)


@arguments.checked
def fixed_point(
    num_summands: int,
    max_abs: Any,
    scale: Any,
    rounding: str = "stochastic",
    *,
    ring: Ring = Z32,
    bits: Any = None,
    wraps: bool = False,
) -> FixedPoint:
    """A checked encoding for sums of at most `num_summands` values.

    Sums cannot wrap around unless `wraps` is set.

    Args:
      num_summands: The most values that are ever added.
      max_abs: Bound of each coordinate; larger ones are clamped.
      scale: Integer steps per unit; a power of two scales without rounding.
      rounding: "stochastic" or "nearest".
      ring: The ring of the integers.
      bits: Bits that a sum keeps; the ring's by default, fewer only in Z_2^32.
      wraps: Whether sums may wrap around: then only a single value has to fit into the
        ring.

    Raises:
      ValueError: For bad arguments, or when the sum does not fit; the error says how
        many bits would do. Traced values are not checked.
    """
    checks.at_least("num_summands", num_summands, 1)
    checks.positive("max_abs", max_abs)
    bits = checked_bits(scale, rounding, ring, bits)
    encoding = FixedPoint(scale, max_abs, rounding, ring, bits, wraps)
    check_fits(encoding, num_summands)
    return encoding


def checked_bits(scale: Any, rounding: str, ring: Ring, bits: Any) -> Any:
    """Returns the bits of a sum, the ring's if None, and checks scale and rounding.

    Raises:
      ValueError: If the scale is not positive, the rounding is unknown, or the bits do
        not fit the ring.
    """
    bits = ring.bits if bits is None else bits
    checks.positive("scale", scale)
    checks.known("rounding", rounding, ROUNDINGS)
    checks.at_least("bits", bits, 1)
    most_free = 32 if ring.modulus == 2**32 else 0
    if not checks.is_traced(bits) and bits != ring.bits and bits > most_free:
        raise ValueError(
            f"bits must be {ring.bits} in {ring.name} (only Z_2^32 takes fewer), got "
            f"{bits}"
        )
    return bits


def check_fits(encoding: FixedPoint, num_summands: int) -> None:
    """Raises ValueError unless the sum fits; one value where sums may wrap around.

    Traced numbers are not checked.
    """
    scale, max_abs, _, ring, bits, wraps = encoding
    if any(map(checks.is_traced, (max_abs, scale, bits))):
        return
    added, room = (1, ring.bits) if wraps else (num_summands, bits)
    needed = bits_needed(added, _largest_step(max_abs, scale), 1.0)
    if needed > room:
        exponent = math.log2(largest_scale(added, max_abs, room))
        raise ValueError(
            f"modulus too small: {added} summands x max_abs {max_abs} x scale {scale} "
            f"needs {needed} bits, but the sum has {room}; lower the scale to at most "
            f"2^{exponent:.0f}"
        )


def _largest_step(max_abs: Any, scale: float) -> float:
    # `encode` clamps and scales in float32, which may round the bound up.
    with np.errstate(over="ignore"):
        largest = float(np.float32(max_abs) * np.float32(scale))
    return min(largest, float(2**128))
