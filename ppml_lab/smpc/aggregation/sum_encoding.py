"""Encodings for secure aggregation: the numbers that builders are told, and a round's.

Two numbers come from elsewhere. The cohort's length says how many integers are added.
The privacy mechanism states the bound of an integer, which changes from round to round
with an adaptive clip norm. A round brings both numbers, so that a builder need not be
told them; numbers that a builder is told all the same are compared with the round's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ppml_lab import checks
from ppml_lab.smpc.fixed_point import FixedPoint, check_fits, checked_bits
from ppml_lab.smpc.ring import Z32, Ring


class SumEncoding(NamedTuple):
    """The numbers that the builder of a sum was told; make it with `sum_encoding`.

    Attributes:
      max_clients: The largest cohort; None to take the rounds' cohort.
      max_abs: Bound of a coordinate, which the mechanism's bound may raise; None to
        require that the mechanism states a bound.
      scale: Integer steps per unit, at most: see `of_round`.
      rounding: As in `FixedPoint`.
      ring: As in `FixedPoint`.
      bits: As in `FixedPoint`.
      wraps: As in `FixedPoint`.
    """

    max_clients: int | None
    max_abs: Any
    scale: Any
    rounding: str
    ring: Ring
    bits: Any
    wraps: bool


class Steps(NamedTuple):
    """The numbers of a round, traced where the mechanism's bound is traced.

    Attributes:
      max_abs: Bound of a coordinate.
      scale: Integer steps per unit.
    """

    max_abs: Any
    scale: Any


def sum_encoding(
    max_clients: int | None,
    max_abs: Any,
    scale: Any,
    rounding: str,
    *,
    ring: Ring = Z32,
    bits: Any = None,
    wraps: bool = False,
) -> SumEncoding:
    """Checks the numbers that are known before a round, and returns them.

    Raises:
      ValueError: For bad arguments, or if the sum of `max_clients` values of size
        `max_abs` would not fit.
    """
    bits = checked_bits(scale, rounding, ring, bits)
    if max_clients is not None:
        checks.at_least("max_clients", max_clients, 1)
    if max_abs is not None:
        checks.positive("max_abs", max_abs)
        encoding = FixedPoint(scale, max_abs, rounding, ring, bits, wraps)
        check_fits(encoding, max_clients or 1)
    return SumEncoding(max_clients, max_abs, scale, rounding, ring, bits, wraps)


def of_round(encoding: SumEncoding, num_places: int, stated: Any) -> Steps:
    """The bound and the scale of a round.

    Where all arguments are plain numbers, the sum has to fit at the scale that was
    told. Where the bound is an array, which may be traced and grow from round to round,
    or scale or bits are traced, the scale is halved until the sum fits.

    Args:
      encoding: What the builder was told.
      num_places: The length of the cohort's arrays.
      stated: The bound that the mechanism states; inf for none.

    Raises:
      ValueError: For a cohort above `max_clients`, a mechanism without a bound where
        no `max_abs` was told, a `max_abs` below the mechanism's bound, or numbers with
        which the sum does not fit.
    """
    most = encoding.max_clients
    if most is not None and num_places > most:
        raise ValueError(
            f"max_clients is {most}, but a round's cohort has up to {num_places} "
            "clients, so that their sum could wrap around; build the secure sum with "
            f"max_clients={num_places}, or leave max_clients out"
        )
    num_summands = num_places if most is None else most
    max_abs = _bound(encoding.max_abs, stated)
    found = fixed_point_at(encoding, Steps(max_abs, encoding.scale))
    if any(isinstance(x, Array) for x in (max_abs, encoding.scale, encoding.bits)):
        room = _room(encoding, num_summands)
        return Steps(max_abs, _halved(encoding.scale, max_abs, room))
    check_fits(found, num_summands)
    return Steps(max_abs, encoding.scale)


def fixed_point_at(encoding: SumEncoding, steps: Steps) -> FixedPoint:
    """The fixed-point encoding of a round."""
    _, _, _, rounding, ring, bits, wraps = encoding
    return FixedPoint(steps.scale, steps.max_abs, rounding, ring, bits, wraps)


def _bound(told: Any, stated: Any) -> Any:
    """The larger of the mechanism's bound and the told bound, or the only one given."""
    is_known = not checks.is_traced(stated)
    if is_known and not math.isfinite(stated):
        if told is None:
            raise ValueError(
                "max_abs is needed, as the mechanism bounds no coordinate of a "
                f"client's message (its bound is {stated}); build the secure sum with "
                "max_abs, or clip the updates, as dp.gaussian does"
            )
        return told
    if told is None:
        return stated
    if isinstance(stated, Array) or checks.is_traced(told):
        larger = jnp.maximum(jnp.float32(stated), jnp.float32(told))
        return jnp.where(jnp.isfinite(stated), larger, told)
    if np.float32(told) < np.float32(stated):
        raise ValueError(
            f"max_abs {told} is below the mechanism's bound {stated}, so that it would "
            "cut clipped updates; leave max_abs out"
        )
    return told


def _room(encoding: SumEncoding, num_summands: int) -> Any:
    """The most steps that one value may have so that the sum fits: a float32, rounded
    down.
    """
    added, bits = num_summands, encoding.bits
    if encoding.wraps:
        added, bits = 1, encoding.ring.bits
    if not checks.is_traced(bits):
        whole = max(1, (2 ** (int(bits) - 1) - 1) // added)
        room = np.float32(whole)
        return np.nextafter(room, np.float32(0)) if int(room) > whole else room
    largest = (jnp.uint32(1) << jnp.asarray(bits - 1).astype(jnp.uint32)) - jnp.uint32(
        1
    )
    steps = jnp.maximum(largest // jnp.uint32(added), jnp.uint32(1))
    room = steps.astype(jnp.float32)
    below = jnp.nextafter(room, jnp.float32(0))
    return jnp.where(room.astype(jnp.uint32) > steps, below, room)


def _halved(scale: Any, max_abs: Any, room: Any) -> Float[Array, ""]:
    """The scale, halved until `max_abs` has at most `room` steps.

    Exact, by mantissas and exponents.
    """
    (a, b, c), (i, j, k) = zip(
        *(jnp.frexp(jnp.float32(x)) for x in (scale, max_abs, room)), strict=True
    )
    steps, carried = jnp.frexp(a * b)
    too_many = i + j + carried - k + (steps > c).astype(jnp.int32)
    return jnp.ldexp(jnp.float32(scale), -jnp.maximum(too_many, 0))
