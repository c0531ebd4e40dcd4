"""The flax layers of which `ghost` knows the gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ppml_lab.dp.tokens import Tokens

Rule = Callable[[Any, Array, Array], dict[str, Tokens]]
"""`(layer, inputs [n, ...], output gradients [n, ...]) -> its parameters' tokens`."""


def rule_of(layer: nn.Module) -> Rule | None:
    """How to tell the layer's gradients; None if that is not known."""
    # By exact type: a subclass may do something else with its parameters.
    rule, knows = _RULES.get(type(layer), (None, lambda layer: False))
    return rule if knows(layer) else None


def _dense(layer: nn.Dense, inputs: Array, grads: Array) -> dict[str, Tokens]:
    right = _places(grads)
    return {"kernel": Tokens(_places(inputs), right), "bias": Tokens(None, right)}


def _conv(layer: nn.Conv, inputs: Array, grads: Array) -> dict[str, Tokens]:
    # The layer itself, with its padding, but cutting patches instead of convolving.
    cutter = layer.clone(
        parent=None, features=1, use_bias=False, conv_general_dilated=_patches
    )
    size = layer.kernel_size
    kernel = jnp.zeros((*_sequence(size), inputs.shape[-1], 1), inputs.dtype)
    patches: Any = jax.vmap(lambda x: cutter.apply({"params": {"kernel": kernel}}, x))(
        inputs
    )
    right = _places(grads)
    return {"kernel": Tokens(_places(patches), right), "bias": Tokens(None, right)}


def _embed(layer: nn.Embed, inputs: Array, grads: Array) -> dict[str, Tokens]:
    return {"embedding": Tokens(inputs.reshape(len(inputs), -1), _places(grads))}


def _norm(layer: Any, inputs: Array, grads: Array) -> dict[str, Tokens]:
    switches = ("use_scale", "use_bias")
    off = {name: False for name in switches if hasattr(layer, name)}
    plain = layer.clone(parent=None, **off)
    normalised = jax.vmap(lambda x: plain.apply({}, x))(inputs)
    return {
        "scale": Tokens(None, _places(grads * normalised)),
        "bias": Tokens(None, _places(grads)),
    }


def _is_plain_dense(layer: nn.Dense) -> bool:
    return layer.dot_general is None and layer.dot_general_cls is None


def _is_plain_conv(layer: nn.Conv) -> bool:
    return layer.feature_group_count == 1 and layer.mask is None


def _is_per_position(layer: nn.LayerNorm | nn.RMSNorm) -> bool:
    axes = (layer.reduction_axes, layer.feature_axes, layer.axis_name)
    return axes == (-1, -1, None)


def _is_whole_group(layer: nn.GroupNorm) -> bool:
    return layer.reduction_axes is None and layer.axis_name is None


_RULES: dict[type[nn.Module], tuple[Rule, Callable[[Any], bool]]] = {
    nn.Dense: (_dense, _is_plain_dense),
    nn.Conv: (_conv, _is_plain_conv),
    nn.Embed: (_embed, lambda layer: True),
    nn.LayerNorm: (_norm, _is_per_position),
    nn.RMSNorm: (_norm, _is_per_position),
    nn.GroupNorm: (_norm, _is_whole_group),
}


def _places(values: Array) -> Array:
    """`[n, ..., features]` as `[n, places, features]`."""
    return values.reshape(len(values), -1, values.shape[-1])


def _sequence(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _patches(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    precision: Any,
) -> Array:
    """What the kernel `rhs` sees at every position, in the order of its entries.

    In place of a convolution whose inputs and kernels have their channels last.
    """
    del dimension_numbers, feature_group_count, precision
    kernel_shape, spatial = rhs.shape[:-2], lhs.shape[1:-1]
    reach = [
        (k - 1) * step + 1 for k, step in zip(kernel_shape, rhs_dilation, strict=True)
    ]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(spatial, reach, window_strides, padding)
    pads = [(*pad, gap - 1) for pad, gap in zip(padding, lhs_dilation, strict=True)]
    padded = lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    counts = [
        (size - span) // stride + 1
        for size, span, stride in zip(
            padded.shape[1:-1], reach, window_strides, strict=True
        )
    ]

    def seen_by(entry: Sequence[int]) -> Array:
        firsts = [place * step for place, step in zip(entry, rhs_dilation, strict=True)]
        slices = [
            slice(first, first + (count - 1) * stride + 1, stride)
            for first, count, stride in zip(firsts, counts, window_strides, strict=True)
        ]
        return padded[:, *slices]

    entries = itertools.product(*map(range, kernel_shape))
    cut = jnp.stack([seen_by(entry) for entry in entries], axis=-2)
    return cut.reshape(len(lhs), *counts, math.prod(rhs.shape[:-1]))
