"""The flax layers whose per-example gradients `ghost` can compute."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict
from jax import Array, lax
from jaxtyping import PyTree

from ppml_lab.dp.recurrent import is_plain_rnn, rnn
from ppml_lab.dp.sums import wide
from ppml_lab.dp.tokens import Tokens, places


class Rule(NamedTuple):
    """The rule for the per-example gradients of a type of layer.

    Attributes:
      tokens: `(layer, weights, inputs [n, ...], output gradients [n, ...]) -> tokens`,
        nested as the weights are. Where a layer returns a tree of arrays, the gradients
        are a tree of the same structure.
      holds: Whether `tokens` is right for a layer with its options.
      names: The names of the layer's own parameters, because others may share its
        scope; None for all parameters in the scope.
      owner: The module whose parameters the layer uses.
    """

    tokens: Callable[[Any, PyTree, Array, Any], dict[str, Any]]
    holds: Callable[[Any], bool]
    names: Callable[[Any], Collection[str] | None]
    owner: Callable[[Any], nn.Module] = lambda layer: layer


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer's gradients; None for a layer without one."""
    # By exact type: a subclass may do something else with its parameters.
    rule = _RULES.get(type(layer))
    return rule if rule is not None and rule.holds(layer) else None


def parameters(layer: nn.Module, rule: Rule) -> dict[tuple[str, ...], Any]:
    """The layer's own parameters, by path; empty where any of them is missing."""
    names = rule.names(layer)
    found = flatten_dict(rule.owner(layer).variables.get("params", {}))
    if names is None:
        return found
    own = {path: leaf for path, leaf in found.items() if path[0] in names}
    return own if set(own) == {(name,) for name in names} else {}


def _dense(
    layer: nn.Dense, weights: PyTree, inputs: Array, grads: Array
) -> dict[str, Tokens]:
    del weights
    right = places(grads)
    # The layer may multiply in shorter floats than those of its inputs.
    seen = places(inputs.astype(grads.dtype))
    return {"kernel": Tokens(seen, right), "bias": Tokens(None, right)}


def _dense_general(
    layer: nn.DenseGeneral, weights: PyTree, inputs: Array, grads: Array
) -> dict[str, Tokens]:
    del weights
    # Axes of an example; flax sorts them, whatever their order in the option.
    summed = sorted(axis % (inputs.ndim - 1) + 1 for axis in _sequence(layer.axis))
    others = [axis for axis in range(1, inputs.ndim) if axis not in summed]
    size = math.prod(inputs.shape[axis] for axis in summed)
    turned = jnp.transpose(inputs.astype(grads.dtype), (0, *others, *summed))
    seen = turned.reshape(len(inputs), -1, size)
    right = grads.reshape(*seen.shape[:2], -1)
    return {"kernel": Tokens(seen, right), "bias": Tokens(None, right)}


def _conv(
    layer: nn.Conv, weights: PyTree, inputs: Array, grads: Array
) -> dict[str, Tokens]:
    del weights
    # The layer itself, with its padding, but cutting patches instead of convolving.
    cutter = layer.clone(
        parent=None, features=1, use_bias=False, conv_general_dilated=_patches
    )
    size = layer.kernel_size
    kernel = jnp.zeros((*_sequence(size), inputs.shape[-1], 1), inputs.dtype)
    patches: Any = jax.vmap(lambda x: cutter.apply({"params": {"kernel": kernel}}, x))(
        inputs
    )
    right = places(grads)
    return {"kernel": Tokens(places(patches), right), "bias": Tokens(None, right)}


def _embed(
    layer: nn.Embed, weights: PyTree, inputs: Array, grads: Array
) -> dict[str, Tokens]:
    del weights
    words, size = inputs.reshape(len(inputs), -1), layer.num_embeddings
    if size == 1:
        rows = jnp.zeros(words.shape, jnp.int32)
        return {"embedding": Tokens(rows, places(grads))}
    # As in `jnp.take`: -1 is the last row, and an index out of range is no row.
    if jnp.iinfo(words.dtype).bits < 32:
        words = words.astype(jnp.int32)
    edge = jnp.asarray(size, words.dtype)
    known = words < edge
    if jnp.issubdtype(words.dtype, jnp.signedinteger):
        known &= words >= -edge
    rows = jnp.where(known, (words % edge).astype(jnp.int32), -1)
    return {"embedding": Tokens(rows, places(grads))}


def _norm(
    layer: Any, weights: PyTree, inputs: Array, grads: Array
) -> dict[str, Tokens]:
    del weights
    switches = ("use_scale", "use_bias")
    off: dict[str, Any] = {name: False for name in switches if hasattr(layer, name)}
    # Normalised in float32: flax rounds to a shorter output only afterwards.
    plain = layer.clone(parent=None, dtype=jnp.float32, **off)
    normalised = jax.vmap(lambda x: plain.apply({}, x))(inputs)
    return {
        "scale": Tokens(None, places(wide(grads) * wide(normalised))),
        "bias": Tokens(None, places(grads)),
    }


def _is_plain_dense(layer: nn.Dense | nn.DenseGeneral) -> bool:
    plain = layer.dot_general is None and layer.dot_general_cls is None
    return plain and _promotes_as_flax(layer)


def _has_one_kernel(layer: nn.DenseGeneral) -> bool:
    return _is_plain_dense(layer) and not _sequence(layer.batch_dims)


def _is_plain_conv(layer: nn.Conv) -> bool:
    plain = layer.feature_group_count == 1 and layer.mask is None
    return plain and _promotes_as_flax(layer) and _is_convolution(layer)


def _promotes_as_flax(
    layer: nn.Dense | nn.DenseGeneral | nn.Conv | nn.Embed,
) -> bool:
    return layer.promote_dtype is promote_dtype


def _is_convolution(layer: nn.Conv) -> bool:
    """Returns whether the layer computes what `lax.conv_general_dilated` does.

    The function of `ppml_lab.models` is known by its name, because neither package
    imports the other.
    """
    function: Any = layer.conv_general_dilated
    if layer.conv_general_dilated_cls is not None:
        return False
    if function is None or function is lax.conv_general_dilated:
        return True
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
    return name == "ppml_lab.models.conv.conv_general_dilated"


def _is_per_position(layer: nn.LayerNorm | nn.RMSNorm) -> bool:
    axes = (layer.reduction_axes, layer.feature_axes, layer.axis_name)
    return axes == (-1, -1, None)


def _is_whole_group(layer: nn.GroupNorm) -> bool:
    return layer.reduction_axes is None and layer.axis_name is None


def _kernel_and_bias(
    layer: nn.Dense | nn.DenseGeneral | nn.Conv,
) -> Collection[str]:
    return ("kernel", "bias") if layer.use_bias else ("kernel",)


def _scale_and_bias(layer: Any) -> Collection[str]:
    switches = {"scale": layer.use_scale, "bias": getattr(layer, "use_bias", False)}
    return [name for name, used in switches.items() if used]


_RULES: dict[type[nn.Module], Rule] = {
    nn.Dense: Rule(_dense, _is_plain_dense, _kernel_and_bias),
    nn.DenseGeneral: Rule(_dense_general, _has_one_kernel, _kernel_and_bias),
    nn.Conv: Rule(_conv, _is_plain_conv, _kernel_and_bias),
    nn.Embed: Rule(_embed, _promotes_as_flax, lambda layer: ("embedding",)),
    nn.LayerNorm: Rule(_norm, _is_per_position, _scale_and_bias),
    nn.RMSNorm: Rule(_norm, _is_per_position, _scale_and_bias),
    nn.GroupNorm: Rule(_norm, _is_whole_group, _scale_and_bias),
    nn.RNN: Rule(rnn, is_plain_rnn, lambda layer: None, owner=lambda layer: layer.cell),
}


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
    """The inputs under the kernel `rhs` at every position, in the order of its entries.

    Replaces a convolution whose inputs and kernels have their channels last.
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
        max((size - span) // stride + 1, 0)
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
