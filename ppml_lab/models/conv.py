"""Convolutions that stay fast inside compiled loops and under `vmap` over clients.

XLA on CPU hands a convolution to its fast kernel only in the layout NHWC x HWIO. It
rewrites other layouts into this one, but not inside the body of a while loop, and JAX
writes the two backward convolutions of training in other layouts: in a loop they run
many times slower. This module writes all three in the fast layout from the start. Under
`vmap` over kernels, which would make a grouped convolution, a CPU takes one kernel
after the other, the fastest way measured there
(`experiments/benchmarks/convolutions.py`); other backends multiply patches, which is
not measured yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Inexact

from ppml_lab import target

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """The movement of a kernel: one entry per spatial axis, named as in `lax`."""

    strides: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    lhs_dilation: tuple[int, ...] = (1, 1)
    rhs_dilation: tuple[int, ...] = (1, 1)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """Replaces `lax.conv_general_dilated` in flax's
    `nn.Conv(conv_general_dilated=...)`.

    Two-dimensional convolutions of NHWC inputs by HWIO kernels, as flax makes them, are
    computed by this module; reverse differentiation works to any order, forward
    differentiation does not. Everything else (groups, other layouts or ranks, a given
    precision) goes to lax unchanged.
    """
    strides = tuple(window_strides)
    ones = (1,) * len(strides)
    lhs_dilation = tuple(lhs_dilation or ones)
    rhs_dilation = tuple(rhs_dilation or ones)
    if (
        not _is_channels_last(lhs, rhs, dimension_numbers)
        or feature_group_count != 1
        or precision is not None
        # lax refuses names of paddings for dilated inputs.
        or (isinstance(padding, str) and lhs_dilation != ones)
    ):
        return lax.conv_general_dilated(
            lhs, rhs, strides, padding, lhs_dilation, rhs_dilation,
            dimension_numbers, feature_group_count, precision=precision,
        )  # fmt: skip
    if isinstance(padding, str):
        reach = _dilated(rhs.shape[:2], rhs_dilation)
        padding = lax.padtype_to_pads(lhs.shape[1:3], reach, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return convolve(lhs, rhs, Window(strides, pads, lhs_dilation, rhs_dilation))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    lhs: Inexact[Array, "n h w i"], rhs: Inexact[Array, "kh kw i o"], window: Window
) -> Inexact[Array, "n oh ow o"]:
    """The convolution of `lhs` by `rhs`; its gradients are such convolutions, too."""
    return _batchable(window)(lhs, rhs)


def _forward(
    lhs: Array, rhs: Array, window: Window
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(lhs, rhs, window), (lhs, rhs)


def _backward(
    window: Window, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    lhs, rhs = saved
    strides, padding, lhs_dilation, rhs_dilation = window
    sizes = [
        *zip(
            _dilated(lhs.shape[1:3], lhs_dilation),
            _dilated(rhs.shape[:2], rhs_dilation),
            _dilated(grad.shape[1:3], strides),
            [low for low, _ in padding],
            strict=True,
        )
    ]
    # The turned kernel slides over the gradient ...
    pads = tuple((k - 1 - low, i - o + low) for i, k, o, low in sizes)
    turned = jnp.swapaxes(rhs[::-1, ::-1], 2, 3)
    grad_lhs = convolve(grad, turned, Window(lhs_dilation, pads, strides, rhs_dilation))
    # ... and the gradient over the image, with channels for examples.
    pads = tuple((low, o + k - 1 - i - low) for i, k, o, low in sizes)
    grad_rhs = convolve(
        jnp.transpose(lhs, (3, 1, 2, 0)),
        jnp.transpose(grad, (1, 2, 0, 3)),
        Window(rhs_dilation, pads, lhs_dilation, strides),
    )
    return grad_lhs, jnp.transpose(grad_rhs, (1, 2, 0, 3))


convolve.defvjp(_forward, _backward)


def _batchable(window: Window) -> Any:
    """The plain convolution with this module's batching rule."""

    @jax.custom_batching.custom_vmap
    def one(lhs: Array, rhs: Array) -> Array:
        return lax.conv_general_dilated(lhs, rhs, *window, dimension_numbers=_LAYOUT)

    @one.def_vmap
    def many(
        size: int, batched: list[bool], lhs: Array, rhs: Array
    ) -> tuple[Array, bool]:
        over_lhs, over_rhs = batched
        if not over_rhs:  # more images
            out = convolve(lhs.reshape(-1, *lhs.shape[2:]), rhs, window)
            return out.reshape(size, -1, *out.shape[1:]), True
        if not over_lhs:  # more features
            wide = jnp.moveaxis(rhs, 0, 3)
            out = convolve(lhs, wide.reshape(*wide.shape[:3], -1), window)
            return jnp.moveaxis(out.reshape(*out.shape[:3], size, -1), 3, 0), True
        if target.platform() == "cpu":
            return lax.map(lambda pair: convolve(*pair, window), (lhs, rhs)), True
        return jax.vmap(partial(by_patches, window=window))(lhs, rhs), True

    return one


def by_patches(
    lhs: Inexact[Array, "n h w i"], rhs: Inexact[Array, "kh kw i o"], window: Window
) -> Inexact[Array, "n oh ow o"]:
    """The convolution as one matrix product of patches with the kernel.

    The patches are cut by the kernel's entries or by the output's positions, whichever
    are fewer. Where the "kernel" is a gradient, positions are fewer.
    """
    gaps = [step - 1 for step in window.lhs_dilation]
    spatial = [(*pads, gap) for pads, gap in zip(window.padding, gaps, strict=True)]
    zero = jnp.zeros((), lhs.dtype)
    padded = lax.pad(lhs, zero, [(0, 0, 0), *spatial, (0, 0, 0)])
    entries = rhs.shape[:2]
    reach = _dilated(entries, window.rhs_dilation)
    positions = [
        (size - k) // stride + 1
        for size, k, stride in zip(
            padded.shape[1:3], reach, window.strides, strict=True
        )
    ]
    by_entry = (entries, window.rhs_dilation)
    by_position = (positions, window.strides)
    if math.prod(entries) <= math.prod(positions):
        patches = jnp.stack(_slices(padded, *by_entry, *by_position), axis=3)
    else:
        patches = jnp.stack(_slices(padded, *by_position, *by_entry), axis=1)
    patches = patches.reshape(len(lhs), *positions, -1)
    return patches @ rhs.reshape(-1, rhs.shape[-1])


def _slices(
    images: Array,
    counts: Sequence[int],
    steps: Sequence[int],
    inner_counts: Sequence[int],
    inner_steps: Sequence[int],
) -> list[Array]:
    """Slices of `inner_counts` pixels, from each of `counts` first pixels."""

    def along(axis: int) -> list[slice]:
        length = (inner_counts[axis] - 1) * inner_steps[axis] + 1
        firsts = [place * steps[axis] for place in range(counts[axis])]
        return [slice(at, at + length, inner_steps[axis]) for at in firsts]

    return [images[:, rows, columns] for rows in along(0) for columns in along(1)]


def _dilated(shape: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The number of pixels that dilated axes span."""
    pairs = zip(shape, dilation, strict=True)
    return [max((size - 1) * step + 1, 0) for size, step in pairs]


def _is_channels_last(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
    """Returns whether this is a convolution of NHWC by HWIO."""
    if lhs.ndim != 4:
        return False
    given, ours = (
        lax.conv_dimension_numbers(lhs.shape, rhs.shape, names)
        for names in (dimension_numbers, _LAYOUT)
    )
    return given == ours
