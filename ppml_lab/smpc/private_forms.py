"""What each operation of a JAX program becomes when an operand is shared.

A form takes the run, the operation's parameters and its operands, of which at least one
is `Shared`; the others are arrays that everybody knows. Values are fixed-point numbers,
but for the results of comparisons, which are 0 or 1 at scale 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppml_lab.smpc import arithmetic, private_choices, products, sharing, truncation
from ppml_lab.smpc import private_values as values
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.private_values import Operand
from ppml_lab.smpc.scheme import Shared, shape_of


def _sub(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    return sharing.subtract(values.reals(run, one), values.reals(run, other))


def _neg(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del params
    return values.scaled(values.reals(run, value), -1)


def _rearranged(primitive: Any) -> Callable[..., Shared]:
    """The form of an operation that only moves values, of one operand."""

    def form(run: Any, params: dict[str, Any], value: Shared) -> Shared:
        del run
        return values.each(lambda leaf: primitive.bind(leaf, **params), value)

    return form


def _broadcast(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    result = values.each(
        lambda leaf: lax.broadcast_in_dim_p.bind(leaf, **params), value
    )
    run.spread[id(result)] = (result, value, params)
    return result


def _reshape(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del run
    return values.each(lambda leaf: leaf.reshape(params["new_sizes"]), value)


def _unchanged(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    del run, params
    return value


def _convert(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        raise NotImplementedError(
            f"convert_element_type to {params['new_dtype']} has no private form: "
            "shared values are reals"
        )
    return values.reals(run, value)


def _add(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    return sharing.add(values.reals(run, one), values.reals(run, other))


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
        return values.truncated(run, arithmetic.multiply(run.fresh_seed(), one, other))
    whole = values.whole_factor(other)
    shape = jnp.broadcast_shapes(shape_of(one), jnp.shape(other))
    if whole is not None and shape == shape_of(one):
        return values.scaled(values.reals(run, one), whole)
    factor = values.small_factor(other)
    if factor is not None and shape == shape_of(one) and not values.is_bit(one):
        return _times_small(run, one, factor)
    ring = run.scheme.ring
    return values.truncated(
        run, _times_public(run, one, other, lambda a, b: ring.multiply(a, b))
    )


def _times_public(
    run: Any, shared: Shared, public: Operand, product: Callable[[Any, Any], Any]
) -> Shared:
    """A bilinear product with what is known, at the product's scale."""
    element = run.encode(jnp.asarray(public, jnp.float32))
    result = arithmetic.public_product(shared, element, product)
    scale = run.scheme.scale if values.is_bit(shared) else _squared(run)
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
    return values.truncated(run, product)


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
        return values.truncated(run, product)
    shared, public = (
        (images, kernel) if isinstance(images, Shared) else (kernel, images)
    )

    def convolved(share: Any, known: Any) -> Any:
        pair = (share, known) if shared is images else (known, share)
        return products.convolution(run.scheme.ring, *pair, strides, padding)

    return values.truncated(run, _times_public(run, shared, public, convolved))


def _reduce_sum(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    value = values.reals(run, value)
    axes = sorted(params["axes"], reverse=True)

    def summed(share: Any) -> Any:
        for axis in axes:
            share = run.scheme.ring.sum_over(share, axis)
        return share

    return Shared(jax.vmap(summed)(value.shares), value.scheme)


def _concatenate(run: Any, params: dict[str, Any], *parts: Operand) -> Shared:
    shares = [values.reals(run, part).shares for part in parts]
    axis = params["dimension"] + 1
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), *shares)
    return Shared(joined, run.scheme)


def _pad(run: Any, params: dict[str, Any], value: Shared, filler: Any) -> Shared:
    if np.asarray(filler).any():
        raise NotImplementedError("pad has a private form for zeros")
    config, none = params["padding_config"], jnp.uint32(0)
    return values.each(
        lambda leaf: lax.pad(leaf, none, config), values.reals(run, value)
    )


FORMS: dict[str, Callable[..., Shared]] = {
    **private_choices.FORMS,
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
