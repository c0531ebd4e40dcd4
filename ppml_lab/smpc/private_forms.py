"""What each operation of a JAX program becomes when an operand is shared.

A form takes the run, the operation's parameters and its operands, of which at least one
is `Shared`; the others are arrays that everybody knows. Values are fixed-point numbers,
but for the results of comparisons, which are 0 or 1 at scale 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppml_lab.smpc import arithmetic, comparison, products, sharing, truncation
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.scheme import Shared, shape_of

Operand = Any
"""A `Shared` or an array."""


def abstract(value: Operand) -> jax.ShapeDtypeStruct:
    """Shape and type of the reals that an operand stands for."""
    if isinstance(value, Shared):
        return jax.ShapeDtypeStruct(shape_of(value), jnp.float32)
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))


def is_bit(value: Operand) -> bool:
    """Whether a comparison's result."""
    return isinstance(value, Shared) and value.scheme.scale == 1.0


def _reals(run: Any, value: Operand) -> Shared:
    """As fixed-point numbers: a bit is scaled up, what is known becomes a constant."""
    ring = run.scheme.ring
    if not isinstance(value, Shared):
        element = run.encode(jnp.asarray(value, jnp.float32))
        shape = rings.shape_of(element)
        zeros = rings.zeros(ring, (schemes.num_shares(run.scheme), *shape))
        return sharing.add_public(Shared(zeros, run.scheme), element)
    if is_bit(value):
        shares = rings.shift_left(ring, value.shares, run.fraction_bits)
        return Shared(shares, run.scheme)
    return value


def shared_if_real(run: Any, value: Operand) -> Operand:
    """A loop's carry: reals are shared from the start."""
    if not isinstance(value, Shared) and not jnp.issubdtype(
        jnp.result_type(value), jnp.floating
    ):
        return value
    return _reals(run, value)


def axes_swapped(value: Operand) -> Operand:
    """The axis that a loop goes along in front of the parties', and back."""
    if not isinstance(value, Shared):
        return value
    shares = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), value.shares)
    return Shared(shares, value.scheme)


def _truncated(run: Any, shared: Shared) -> Shared:
    """A product, back at the scale."""
    if shared.scheme.scale in (1.0, run.scheme.scale):
        return shared
    return truncation.truncate(
        run.fresh_seed(), shared, run.fraction_bits, run.truncation
    )


def _each(function: Callable[[Array], Array], shared: Shared) -> Shared:
    """A rearrangement, done to every party's share."""
    return Shared(jax.tree.map(jax.vmap(function), shared.shares), shared.scheme)


def _rearranged(primitive: Any) -> Callable[..., Shared]:
    """The form of an operation that only moves values, of one operand."""

    def form(run: Any, params: dict[str, Any], value: Shared) -> Shared:
        del run
        return _each(lambda leaf: primitive.bind(leaf, **params), value)

    return form


def _broadcast(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    result = _each(lambda leaf: lax.broadcast_in_dim_p.bind(leaf, **params), value)
    run.spread[id(result)] = (result, value, params)
    return result


def _reshape(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del run
    return _each(lambda leaf: leaf.reshape(params["new_sizes"]), value)


def _unchanged(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del run, params
    return value


def _convert(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        raise NotImplementedError(
            f"convert_element_type to {params['new_dtype']} has no private form: "
            "shared values are reals"
        )
    return _reals(run, value)


def _add(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    return sharing.add(_reals(run, one), _reals(run, other))


def _sub(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    return sharing.subtract(_reals(run, one), _reals(run, other))


def _neg(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del params
    return _scaled(_reals(run, value), -1)


def _scaled(value: Shared, factor: int) -> Shared:
    ring = value.scheme.ring
    return sharing.multiply_public(value, rings.from_integers(ring, factor))


def _whole_factor(value: Operand) -> int | None:
    """A factor that needs no fixed point: the same known integer everywhere."""
    if isinstance(value, (Shared, jax.core.Tracer)):
        return None
    known = np.asarray(value)
    if not known.size or (known != known.flat[0]).any():
        return None
    first = float(known.flat[0])
    return int(first) if first.is_integer() and abs(first) < 2**16 else None


def small_factor(value: Operand) -> tuple[float, int] | None:
    """A known factor below 1, the same everywhere, as `m * 2^-k` with 1/2 <= m < 1: so
    small learning rates keep all their bits.
    """
    if isinstance(value, (Shared, jax.core.Tracer)):
        return None
    known = np.asarray(value, np.float64)
    if not known.size or (known != known.flat[0]).any():
        return None
    mantissa, exponent = math.frexp(known.flat[0])
    return (mantissa, -exponent) if exponent < 0 else None


def _times_small(run: Any, value: Shared, factor: tuple[float, int]) -> Shared:
    """Multiplied by the mantissa, and cut by the exponent too."""
    mantissa, shift = factor
    element = run.encode(jnp.float32(mantissa))
    product = sharing.multiply_public(value, element)
    scale = schemes.product_scale(run.scheme.scale, run.scheme.scale)
    if isinstance(scale, float):
        scale *= 2.0**shift
    product = Shared(product.shares, product.scheme._replace(scale=scale))
    bits = run.fraction_bits + shift
    return truncation.truncate(run.fresh_seed(), product, bits, run.truncation)


def _mul(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    if not isinstance(one, Shared):
        one, other = other, one
    if isinstance(other, Shared):
        return _truncated(run, arithmetic.multiply(run.fresh_seed(), one, other))
    whole = _whole_factor(other)
    shape = jnp.broadcast_shapes(shape_of(one), jnp.shape(other))
    if whole is not None and shape == shape_of(one):
        return _scaled(_reals(run, one), whole)
    factor = small_factor(other)
    if factor is not None and shape == shape_of(one) and not is_bit(one):
        return _times_small(run, one, factor)
    ring = run.scheme.ring
    return _truncated(
        run, _times_public(run, one, other, lambda a, b: ring.multiply(a, b))
    )


def _times_public(
    run: Any, shared: Shared, public: Operand, product: Callable[[Any, Any], Any]
) -> Shared:
    """A bilinear product with what is known, at the product's scale."""
    element = run.encode(jnp.asarray(public, jnp.float32))
    result = arithmetic.public_product(shared, element, product)
    scale = run.scheme.scale if is_bit(shared) else _squared(run)
    return Shared(result.shares, result.scheme._replace(scale=scale))


def _squared(run: Any) -> Any:
    return schemes.product_scale(run.scheme.scale, run.scheme.scale)


def _integer_pow(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    exponent = params["y"]
    if exponent < 1:
        raise NotImplementedError(
            f"integer_pow with exponent {exponent}: use a division"
        )
    result = value
    for digit in bin(exponent)[3:]:
        result = _mul(run, {}, result, result)
        result = _mul(run, {}, result, value) if digit == "1" else result
    return result


def _dot_general(run: Any, params: dict[str, Any], one: Any, other: Any) -> Shared:
    dims, ring = params["dimension_numbers"], run.scheme.ring
    if isinstance(one, Shared) and isinstance(other, Shared):
        product = arithmetic.dot_general(run.fresh_seed(), one, other, dims)
    elif isinstance(one, Shared):
        product = _times_public(
            run, one, other, lambda a, b: products.dot_general(ring, a, b, dims)
        )
    else:
        product = _times_public(
            run, other, one, lambda a, b: products.dot_general(ring, b, a, dims)
        )
    return _truncated(run, product)


def _convolution(run: Any, params: dict[str, Any], images: Any, kernel: Any) -> Shared:
    numbers = params["dimension_numbers"]
    usual = lax.conv_dimension_numbers(
        jnp.shape(images) if not isinstance(images, Shared) else shape_of(images),
        jnp.shape(kernel) if not isinstance(kernel, Shared) else shape_of(kernel),
        ("NHWC", "HWIO", "NHWC"),
    )
    dilated = {*params["lhs_dilation"], *params["rhs_dilation"]} != {1}
    if numbers != usual or dilated or params["feature_group_count"] != 1:
        raise NotImplementedError(
            "conv_general_dilated has a private form for NHWC images and HWIO kernels, "
            f"without dilation and groups, got {numbers}"
        )
    strides, padding = params["window_strides"], params["padding"]
    if isinstance(images, Shared) and isinstance(kernel, Shared):
        product = arithmetic.convolution(
            run.fresh_seed(), images, kernel, strides, padding
        )
        return _truncated(run, product)
    shared, public = (
        (images, kernel) if isinstance(images, Shared) else (kernel, images)
    )

    def convolved(share: Any, known: Any) -> Any:
        pair = (share, known) if shared is images else (known, share)
        return products.convolution(run.scheme.ring, *pair, strides, padding)

    return _truncated(run, _times_public(run, shared, public, convolved))


def _reduce_sum(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    value = _reals(run, value)
    axes = sorted(params["axes"], reverse=True)

    def summed(share: Any) -> Any:
        for axis in axes:
            share = run.scheme.ring.sum_over(share, axis)
        return share

    return Shared(jax.vmap(summed)(value.shares), value.scheme)


def _reduce_max(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    for axis in sorted(params["axes"], reverse=True):
        value = comparison.max_over(run.fresh_seed(), value, axis)
    return value


def _window_max(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    window, strides = params["window_dimensions"], params["window_strides"]
    moves = len(window) == 4 and window[0] == window[3] == 1
    if not moves or any(map(any, params["padding"])):
        raise NotImplementedError(
            "reduce_window_max has a private form for NHWC images without padding"
        )
    return comparison.max_pool(run.fresh_seed(), value, window[1:3], strides[1:3])


def _above_zero(run: Any, value: Shared) -> Shared:
    """A bit, remembered: a ReLU's derivative asks for it again."""
    if id(value) not in run.positive:
        bit = comparison.is_positive(run.fresh_seed(), value)
        run.positive[id(value)] = (value, bit)
    return run.positive[id(value)][1]


def _max(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    if not isinstance(one, Shared):
        one, other = other, one
    known = None if isinstance(other, (Shared, jax.core.Tracer)) else np.asarray(other)
    if known is not None and np.isneginf(known).all():
        return one
    if known is not None and not known.any():
        bit = _above_zero(run, one)
        return comparison.chosen(run.fresh_seed(), bit, one)
    one, other = _reals(run, one), _reals(run, other)
    return comparison.maximum(run.fresh_seed(), *_same_shape(one, other))


def _min(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    negated = (_neg(run, {}, _reals(run, value)) for value in (one, other))
    return _neg(run, {}, _max(run, params, *negated))


def _clamp(run: Any, params: dict[str, Any], low: Any, value: Any, high: Any) -> Shared:
    return _min(run, params, _max(run, params, value, low), high)


def _same_shape(one: Shared, other: Shared) -> tuple[Shared, Shared]:
    shape = jnp.broadcast_shapes(shape_of(one), shape_of(other))
    one, other = (
        _each(lambda leaf: jnp.broadcast_to(leaf, shape), value)
        for value in (one, other)
    )
    return one, other


def _greater(run: Any, one: Operand, other: Operand) -> Shared:
    if isinstance(one, Shared) and not isinstance(other, Shared):
        tracer = isinstance(other, jax.core.Tracer)
        if not tracer and not np.asarray(other).any():
            return _above_zero(run, one)
    return _above_zero(run, _sub(run, {}, one, other))


def _not(run: Any, bit: Shared) -> Shared:
    one = rings.from_integers(run.scheme.ring, 1)
    return sharing.add_public(_scaled(bit, -1), one)


def _select(run: Any, params: dict[str, Any], which: Any, *cases: Operand) -> Shared:
    del params
    if len(cases) != 2:
        raise NotImplementedError("select_n has a private form for two cases")
    if_not, if_set = (_reals(run, case) for case in cases)
    if isinstance(which, Shared):
        return comparison.select(run.fresh_seed(), which, if_set, if_not)
    shares = jax.tree.map(
        lambda a, b: jnp.where(which, a, b), if_set.shares, if_not.shares
    )
    return Shared(shares, if_set.scheme)


def _concatenate(run: Any, params: dict[str, Any], *values: Operand) -> Shared:
    parts = [_reals(run, value).shares for value in values]
    axis = params["dimension"] + 1
    shares = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), *parts)
    return Shared(shares, run.scheme)


def _pad(run: Any, params: dict[str, Any], value: Shared, filler: Any) -> Shared:
    if np.asarray(filler).any():
        raise NotImplementedError("pad has a private form for zeros")
    config, none = params["padding_config"], jnp.uint32(0)
    return _each(lambda leaf: lax.pad(leaf, none, config), _reals(run, value))


FORMS: dict[str, Callable[..., Shared]] = {
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "square": lambda run, params, value: _mul(run, params, value, value),
    "integer_pow": _integer_pow,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_window_max": _window_max,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "gt": lambda run, params, one, other: _greater(run, one, other),
    "lt": lambda run, params, one, other: _greater(run, other, one),
    "ge": lambda run, params, one, other: _not(run, _greater(run, other, one)),
    "le": lambda run, params, one, other: _not(run, _greater(run, one, other)),
    "not": lambda run, params, bit: _not(run, bit),
    "select_n": _select,
    "concatenate": _concatenate,
    "pad": _pad,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "convert_element_type": _convert,
    "stop_gradient": _unchanged,
    "copy": _unchanged,
    "optimization_barrier": _unchanged,
    "transpose": _rearranged(lax.transpose_p),
    "squeeze": _rearranged(lax.squeeze_p),
    "slice": _rearranged(lax.slice_p),
    "rev": _rearranged(lax.rev_p),
}
"""By the name of JAX's primitive."""
