"""Exact products of integer matrices, by floating-point units.

No processor multiplies integer matrices as fast as real ones, so operands are cut into
small signed limbs whose products stay exact. Products of limbs that vanish modulo the
ring are never computed. The native product of unsigned words is ten times slower on a
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, UInt32, UInt64

from ppml_lab import checks, target
from ppml_lab.smpc import field, limbs
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.ring import Element, Ring, Wide, narrowed, widened, x64

Dims = Sequence[int]
DotDims = tuple[tuple[Dims, Dims], tuple[Dims, Dims]]
"""Axes as in `lax.dot_general`: (contracted left, right), (batched left, right)."""

MOST_TERMS = {
    ("float64", 32): 4096,
    ("float64", 64): 512,
    ("int8", 32): 2**16,
    ("int8", 64): 2**16,
}
"""The largest inner dimension for which a product is exact, by unit and ring's bits.

Sums of limb products must stay within 53 bits, or 31 bits for "int8"; longer products
are added up in pieces.
"""

_MATRICES: DotDims = (((1,), (0,)), ((), ()))


def matmul(ring: Ring, left: Element, right: Element) -> Element:
    """The product of elements `[n, t]` and `[t, d]`."""
    return dot_general(ring, left, right, _MATRICES)


def dot_general(
    ring: Ring, left: Element, right: Element, dims: DotDims, *, unit: str | None = None
) -> Element:
    """`lax.dot_general` of elements of Z_2^32 or Z_2^64, or of matrices in a field.

    Args:
      ring: The ring of both operands and of the result.
      left: An element.
      right: An element.
      dims: Which axes are contracted and which batched.
      unit: The unit that multiplies limbs, "float64" or "int8"; the platform's by
        default.

    Raises:
      ValueError: For another ring, or axes that do not fit.
    """
    unit = limbs.unit_of(target.platform()) if unit is None else unit
    checks.known("unit", unit, ("float64", "int8"))
    ((left_axes, right_axes), _) = dims
    left_shape, right_shape = rings.shape_of(left), rings.shape_of(right)
    sizes = [left_shape[axis] for axis in left_axes]
    if sizes != [right_shape[axis] for axis in right_axes]:
        raise ValueError(f"cannot multiply {left_shape} by {right_shape} over {dims}")
    if ring not in (rings.Z32, rings.Z64):
        if dims != _MATRICES:
            raise ValueError(f"{ring.name} multiplies matrices only, got {dims}")
        return field.matmul(ring, left, right, unit=unit)
    if not sizes:
        return _limb_product(ring, left, right, dims, unit)
    # Only the longest axis is cut: the others are short and count towards each piece.
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    others = 1
    for position, size in enumerate(sizes):
        others *= 1 if position == longest else size
    step = max(1, MOST_TERMS[unit, ring.bits] // others)
    if others > MOST_TERMS[unit, ring.bits]:
        raise ValueError(
            f"contracted axes of sizes {sizes} are too many terms; flatten them into "
            "one axis"
        )
    total = None
    for begin in range(0, max(1, sizes[longest]), step):
        part = _limb_product(
            ring,
            _cut(left, left_axes[longest], begin, step),
            _cut(right, right_axes[longest], begin, step),
            dims,
            unit,
        )
        total = part if total is None else ring.add(total, part)
    return total


def _cut(element: Element, axis: int, begin: int, step: int) -> Element:
    """At most `step` places of an axis, from `begin` on."""
    end = min(begin + step, rings.shape_of(element)[axis])
    return jax.tree.map(
        lambda leaf: lax.slice_in_dim(leaf, begin, end, axis=axis), element
    )


def _limb_product(
    ring: Ring, left: Element, right: Element, dims: DotDims, unit: str
) -> Element:
    # Every limb is cut from the operands: they must not be computed again for each.
    left, right = rings.materialised((left, right))
    if unit == "int8":
        return _by_bytes(ring, left, right, dims)
    with x64():
        # Not jnp.matmul: it names its result's type, float64, which vmap of a compiled
        # function, outside of this scope, makes float32.
        def dot(a: Array, b: Array) -> Array:
            return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)

        if ring.bits == 32:
            return _words(left, right, dot, dims)
        return narrowed(_wide_words(widened(left), widened(right), dot))


def _words(
    left: UInt32[Array, "..."],
    right: UInt32[Array, "..."],
    dot: Callable[[Array, Array], Array],
    dims: DotDims,
) -> UInt32[Array, "..."]:
    """The product modulo 2^32 from two products of limbs.

    `left` is cut into a low and a high limb: the low one meets `right` whole, the high
    one `right` without its top bits.
    """
    terms = 1
    for axis in dims[0][0]:
        terms *= left.shape[axis]
    low_bits = min(16, 23 - max(0, terms - 1).bit_length())
    (low, high) = _signed_limbs(left.astype(jnp.uint64), (low_bits, 32 - low_bits))
    (whole,) = _signed_limbs(right.astype(jnp.uint64), (32,))
    (part,) = _signed_limbs(right.astype(jnp.uint64), (32 - low_bits,))
    total = _integers(dot(low, whole)) + (
        _integers(dot(high, part)) << jnp.uint64(low_bits)
    )
    return total.astype(jnp.uint32)


def _wide_words(
    left: UInt64[Array, "..."],
    right: UInt64[Array, "..."],
    dot: Callable[[Array, Array], Array],
) -> UInt64[Array, "..."]:
    """The product modulo 2^64 from five products of three limbs each.

    Karatsuba's method saves a sixth product.
    """
    a, b = (_signed_limbs(operand, (22, 22, 20)) for operand in (left, right))
    first, second = dot(a[0], b[0]), dot(a[1], b[1])
    middle = dot(a[0] + a[1], b[0] + b[1]) - first - second
    last = second + dot(a[0], b[2]) + dot(a[2], b[0])
    total = _integers(first) + (_integers(middle) << jnp.uint64(22))
    return total + (_integers(last) << jnp.uint64(44))


def _signed_limbs(
    value: UInt64[Array, "*s"], widths: Sequence[int]
) -> list[Float[Array, "*s"]]:
    """Signed limbs l_i with sum_i l_i 2^(p_i) = value modulo 2^(sum of `widths`).

    The place p_i of a limb is the sum of the widths before it.
    """
    limbs = []
    for bits in widths:
        up = jnp.int64(64 - bits)
        signed = (value.astype(jnp.int64) << up) >> up
        limbs.append(signed.astype(jnp.float64))
        value = (value - signed.astype(jnp.uint64)) >> jnp.uint64(bits)
    return limbs


def _integers(real: Float[Array, "*s"]) -> UInt64[Array, "*s"]:
    return real.astype(jnp.int64).astype(jnp.uint64)


def _by_bytes(ring: Ring, left: Element, right: Element, dims: DotDims) -> Element:
    """The product by signed bytes, for units that add products of bytes in 32 bits."""
    a, b = (limbs.signed_bytes(*jax.tree.leaves(one)) for one in (left, right))
    dot = limbs.dot_of_bytes(dims)
    total: Any = None
    for place in range(len(a)):
        for i in range(place + 1):
            part = _shifted(ring, dot(a[i], b[place - i]), 8 * place)
            total = part if total is None else ring.add(total, part)
    return total


def _shifted(ring: Ring, product: Array, shift: int) -> Element:
    """A signed 32-bit product moved to its place, with its sign extended."""
    low = lax.bitcast_convert_type(product, jnp.uint32)
    if ring.bits == 32:
        return low << jnp.uint32(shift)
    high = lax.bitcast_convert_type(product >> 31, jnp.uint32)
    if shift >= 32:
        return Wide(jnp.zeros_like(low), low << jnp.uint32(shift - 32))
    if not shift:
        return Wide(low, high)
    up, down = jnp.uint32(shift), jnp.uint32(32 - shift)
    return Wide(low << up, (high << up) | (low >> down))


def patches(
    value: Element, window: Sequence[int], strides: Sequence[int], padding: Any
) -> Element:
    """The windows of images `[n, h, w, c]`, as `[n, h', w', rows * columns * c]`.

    Windows only rearrange entries, so they may be taken of shares.
    """
    (rows, columns), (down, right) = window, strides

    def of_leaf(leaf: Array) -> Array:
        padded = jnp.pad(leaf, ((0, 0), *padding, (0, 0)))
        height = (padded.shape[1] - rows) // down + 1
        width = (padded.shape[2] - columns) // right + 1
        cut = [
            padded[
                :, i : i + down * (height - 1) + 1 : down,
                j : j + right * (width - 1) + 1 : right,
            ]
            for i in range(rows)
            for j in range(columns)
        ]  # fmt: skip
        return jnp.concatenate(cut, axis=-1)

    return jax.tree.map(of_leaf, value)


def convolution(
    ring: Ring, images: Element, kernel: Element, strides: Dims, padding: Any
) -> Element:
    """The convolution of images `[n, h, w, c]` by a kernel `[rows, columns, c, d]`.

    As in deep learning, the kernel is not turned around.
    """
    shape = rings.shape_of(kernel)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, shape[-1]), kernel)
    cut = patches(images, shape[:2], strides, padding)
    return dot_general(ring, cut, rows, (((3,), (0,)), ((), ())))
