"""Products of shares with public factors, to the same relative error at any size.

A public factor is cut into a mantissa of enough bits and a power of two, which joins
the division that brings a product back to its scale. In a product of matrices and in a
convolution all public numbers of one sum share a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ppml_lab import checks
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import sharing
from ppml_lab.smpc.computing import arithmetic
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Operand
from ppml_lab.smpc.scheme import Shared

_WHOLE = 2**16
"""Integers below this number need no fixed point."""


def mantissa_bits(ring: rings.Ring, fraction_bits: Any) -> Any:
    """The number of bits that a public factor's mantissa keeps.

    It is the fixed point's, or up to 24 where the ring has room for shared values up to
    2^30 besides.
    """
    if checks.is_traced(fraction_bits):
        room = jnp.minimum(24, ring.bits - 32 - fraction_bits)
        return jnp.maximum(fraction_bits, room)
    return max(fraction_bits, min(24, ring.bits - 32 - fraction_bits))


class Contraction(NamedTuple):
    """The way in which a public tensor is multiplied with a shared one.

    Attributes:
      product: The bilinear function of `(share, public)`.
      axes: The public tensor's axes that sums go along: entries of one sum have one
        power of two.
      placed: Moves exponents, which keep these axes with size 1, to the result's axes.
    """

    product: Callable[[Any, Any], Any]
    axes: tuple[int, ...]
    placed: Callable[[Any], Any]


def times(run: Any, value: Shared, public: Operand) -> Shared:
    """Shared reals times public ones, entry by entry; shapes broadcast."""
    ring = run.scheme.ring
    whole = whole_numbers(public)
    if whole is not None:
        return sharing.multiply_public(value, rings.from_integers(ring, whole))
    mantissas, exponents = _split(public, run, ())
    return _scaled(run, sharing.multiply_public(value, mantissas), exponents)


def contracted(run: Any, value: Shared, public: Operand, how: Contraction) -> Shared:
    """The product of a shared tensor of reals and a public one, such as of matrices."""
    whole = whole_numbers(public)
    if whole is not None:
        element = rings.from_integers(run.scheme.ring, whole)
        return arithmetic.public_product(value, element, how.product)
    mantissas, exponents = _split(public, run, how.axes)
    found = arithmetic.public_product(value, mantissas, how.product)
    return _scaled(run, found, how.placed(exponents))


def whole_numbers(public: Operand) -> np.ndarray | None:
    """The whole numbers of `public`, or None unless they are known, whole and small."""
    if checks.is_traced(public):
        return None
    array = np.asarray(public, np.float64)
    if not (np.isfinite(array).all() and (np.abs(array) < _WHOLE).all()):
        return None
    return array.astype(int).astype(object) if (array == np.rint(array)).all() else None


def _split(public: Operand, run: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Mantissas below 1 as integers at `mantissa_bits`, and exponents."""
    ring = run.scheme.ring
    traced = checks.is_traced(public)
    lib: Any = jnp if traced else np
    array = jnp.asarray(public, jnp.float32) if traced else np.float32(public)
    if not traced and np.isnan(array).any():
        raise ValueError("a public factor is NaN, which shares cannot hold")
    most = np.float32(2.0 ** (ring.bits - 2))
    array = lib.clip(array, -most, most)
    largest = lib.max(lib.abs(array), axes, keepdims=True, initial=0.0)
    exponents = lib.frexp(largest)[1]
    # In two steps: a power of two below float32's range is 0.
    half = exponents // 2
    mantissas = lib.ldexp(lib.ldexp(array, -half), half - exponents)
    bits = mantissa_bits(ring, run.fraction_bits)
    # What is below all steps, whatever it meets in the ring, is 0.
    mantissas = jnp.where(exponents < bits - ring.bits + 2, np.float32(0), mantissas)
    scaled = jnp.ldexp(mantissas, bits)
    return rings.from_float(ring, jnp.round(scaled)), exponents


def _scaled(run: Any, product: Shared, exponents: Any) -> Shared:
    """A product with mantissas, over `2^(mantissa_bits - exponents)`."""
    ring = run.scheme.ring
    places = mantissa_bits(ring, run.fraction_bits) - exponents
    traced = checks.is_traced(places)
    lib: Any = jnp if traced else np
    places = lib.minimum(places, ring.bits - 2)
    if traced or np.any(places < 0):
        up = jnp.asarray(lib.maximum(-places, 0))
        shares = rings.shift_left(ring, product.shares, up)
        product = Shared(shares, product.scheme)
    down = lib.maximum(places, 0)
    if not traced and (not np.ndim(down) or (down == np.ravel(down)[:1]).all()):
        return values.divided(run, product, int(np.max(down, initial=0)))
    return values.divided(run, product, jnp.asarray(down))
