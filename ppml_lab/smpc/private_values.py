"""Values while a program runs on shares: what they are, and how they are rearranged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import sharing, truncation
from ppml_lab.smpc.scheme import Shared, shape_of

Operand = Any
"""A `Shared` or an array that everybody knows."""


def abstract(value: Operand) -> jax.ShapeDtypeStruct:
    """Shape and type of the reals that an operand stands for."""
    if isinstance(value, Shared):
        return jax.ShapeDtypeStruct(shape_of(value), jnp.float32)
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))


def is_bit(value: Operand) -> bool:
    """Whether a comparison's result."""
    return isinstance(value, Shared) and value.scheme.scale == 1.0


def reals(run: Any, value: Operand) -> Shared:
    """As fixed-point numbers: a bit is scaled up, what is known becomes a constant."""
    if not isinstance(value, Shared):
        element = run.encode(jnp.asarray(value, jnp.float32))
        return sharing.constant(element, run.scheme)
    if is_bit(value):
        shares = rings.shift_left(run.scheme.ring, value.shares, run.fraction_bits)
        return Shared(shares, run.scheme)
    return value


def shared_if_real(run: Any, value: Operand) -> Operand:
    """A loop's carry: reals are shared from the start."""
    if not isinstance(value, Shared) and not jnp.issubdtype(
        jnp.result_type(value), jnp.floating
    ):
        return value
    return reals(run, value)


def axes_swapped(value: Operand) -> Operand:
    """The axis that a loop goes along in front of the parties', and back."""
    if not isinstance(value, Shared):
        return value
    shares = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), value.shares)
    return Shared(shares, value.scheme)


def truncated(run: Any, shared: Shared) -> Shared:
    """A product, back at the scale."""
    if shared.scheme.scale in (1.0, run.scheme.scale):
        return shared
    return truncation.truncate(
        run.fresh_seed(), shared, run.fraction_bits, run.truncation
    )


def each(function: Callable[[Array], Array], shared: Shared) -> Shared:
    """A rearrangement, done to every party's share."""
    return Shared(jax.tree.map(jax.vmap(function), shared.shares), shared.scheme)


def scaled(value: Shared, factor: int) -> Shared:
    """Times an integer, at the same scale."""
    ring = value.scheme.ring
    return sharing.multiply_public(value, rings.from_integers(ring, factor))


def known_factor(value: Operand) -> float | None:
    """A factor that is known when the program is traced, and the same everywhere."""
    if isinstance(value, (Shared, jax.core.Tracer)):
        return None
    known = np.asarray(value, np.float64)
    same = known.size and (known == known.flat[0]).all()
    return float(known.flat[0]) if same else None


def whole_factor(value: Operand) -> int | None:
    """A known factor that needs no fixed point: an integer."""
    known = known_factor(value)
    whole = known is not None and known.is_integer() and abs(known) < 2**16
    return int(known) if whole and known is not None else None


def small_factor(value: Operand) -> tuple[float, int] | None:
    """A known factor below 1, the same everywhere, as `m * 2^-k` with 1/2 <= m < 1: so
    small learning rates keep all their bits.
    """
    known = known_factor(value)
    if known is None:
        return None
    mantissa, exponent = math.frexp(known)
    return (mantissa, -exponent) if exponent < 0 else None


def same_shape(one: Shared, other: Shared) -> tuple[Shared, Shared]:
    """Both, spread to the shape that they broadcast to."""
    shape = jnp.broadcast_shapes(shape_of(one), shape_of(other))
    one, other = (
        each(lambda leaf: jnp.broadcast_to(leaf, shape), value)
        for value in (one, other)
    )
    return one, other
