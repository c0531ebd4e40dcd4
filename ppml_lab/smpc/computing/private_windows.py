"""Private forms of convolutions and pools, with any number and order of axes.

See `private_forms`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppml_lab.smpc import products
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.computing import (
    arithmetic,
    comparison,
    private_moves,
    public_factors,
)
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call, Operand
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Shared, shape_of


def by_public(
    run: Any, shared: Shared, public: Operand, how: public_factors.Contraction
) -> Shared:
    """A bilinear product of a shared and a public operand, back at the scale."""
    if values.is_whole(shared):
        element = values.integers(run, public)
        return arithmetic.public_product(shared, element, how.product)
    return public_factors.contracted(run, shared, public, how)


def windows(
    leaf: Array, sizes: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Array:
    """The windows of an array `[*s]`, `[*s', prod(sizes)]`."""
    spans = [
        (size - 1) * apart + 1 for size, apart in zip(sizes, dilation, strict=True)
    ]
    room = [length - span for length, span in zip(leaf.shape, spans, strict=True)]
    cut = []
    for place in itertools.product(*map(range, sizes)):
        begin = [p * apart for p, apart in zip(place, dilation, strict=True)]
        end = [b + r + 1 for b, r in zip(begin, room, strict=True)]
        cut.append(lax.slice(leaf, begin, end, strides))
    return jnp.stack(cut, axis=-1)


class _Convolution:
    """`conv_general_dilated` as a product of matrices, for any order of axes."""

    def __init__(self, call: Call) -> None:
        self.numbers = call["dimension_numbers"]
        self.strides, self.padding = call["window_strides"], call["padding"]
        self.spread, self.apart = call["lhs_dilation"], call["rhs_dilation"]
        self.groups = call["feature_group_count"]
        if call["batch_group_count"] != 1:
            raise NotImplementedError(
                "conv_general_dilated has a private form only for batch_group_count 1, "
                f"got {call['batch_group_count']}"
            )

    def rows(self, images: Array, sizes: Sequence[int]) -> tuple[Array, Any]:
        """Windows `[groups, n * out, window * channels / groups]`, and `(n, *out)`."""
        batch, feature, *spatial = self.numbers.lhs_spec
        images = images.transpose(batch, feature, *spatial)
        config = [
            (low, high, by - 1)
            for (low, high), by in zip(self.padding, self.spread, strict=True)
        ]
        padded = lax.pad(images, jnp.uint32(0), [(0, 0, 0), (0, 0, 0), *config])
        cut = windows(
            padded, (1, 1, *sizes), (1, 1, *self.strides), (1, 1, *self.apart)
        )
        n, c, *out, window = cut.shape
        cut = cut.reshape(n, self.groups, c // self.groups, math.prod(out), window)
        cut = cut.transpose(1, 0, 3, 4, 2)
        return cut.reshape(self.groups, n * math.prod(out), -1), (n, *out)

    def columns(self, kernel: Array) -> Array:
        """The kernel, `[groups, window * channels / groups, outputs / groups]`."""
        to, feature, *spatial = self.numbers.rhs_spec
        kernel = kernel.transpose(to, *spatial, feature)
        kernel = kernel.reshape(self.groups, kernel.shape[0] // self.groups, -1)
        return kernel.transpose(0, 2, 1)

    def __call__(self, ring: Ring, images: Element, kernel: Element) -> Element:
        shape = rings.shape_of(kernel)
        sizes = [shape[axis] for axis in self.numbers.rhs_spec[2:]]
        words, tree = jax.tree.flatten(images)
        cut, places = zip(*(self.rows(word, sizes) for word in words), strict=True)
        left = jax.tree.unflatten(tree, cut)
        right = jax.tree.map(self.columns, kernel)
        if self.groups == 1:
            one, other = (rings.row(side, 0) for side in (left, right))
            found = products.matmul(ring, one, other)
            found = jax.tree.map(lambda leaf: leaf[None], found)
        else:
            dims = (((2,), (1,)), ((0,), (0,)))
            found = products.dot_general(ring, left, right, dims)

        def in_order(leaf: Array) -> Array:
            # [groups, n * out, outputs / groups]
            leaf = leaf.transpose(1, 0, 2).reshape(*places[0], -1)
            order = np.argsort(self.numbers.out_spec)
            moved = jnp.moveaxis(leaf, -1, 1)
            return moved.transpose(order)

        return jax.tree.map(in_order, found)


def _convolution(run: Any, call: Call, images: Operand, kernel: Operand) -> Shared:
    convolution, ring = _Convolution(call), run.scheme.ring
    if isinstance(images, Shared) and isinstance(kernel, Shared):
        found = arithmetic.bilinear(
            "convolution", run.stream, images, kernel, convolution
        )
        return values.multiplied(run, found)
    is_image = isinstance(images, Shared)
    shared, public = (images, kernel) if is_image else (kernel, images)

    def convolved(share: Element, known: Element) -> Element:
        pair = (share, known) if is_image else (known, share)
        return convolution(ring, *pair)

    rank = len(shape_of(shared))
    # One power of two for each output of a kernel, and for all of public images.
    kept = [convolution.numbers.rhs_spec[0]] if is_image else []
    axes = tuple(axis for axis in range(rank) if axis not in kept)

    def placed(exponents: Any) -> Any:
        shape = [1] * rank
        if is_image:
            shape[convolution.numbers.out_spec[1]] = -1
        return exponents.reshape(shape)

    how = public_factors.Contraction(convolved, axes, placed)
    return by_public(run, shared, public, how)


def _window_max(run: Any, call: Call, value: Shared) -> Shared:
    sizes, strides = call["window_dimensions"], call["window_strides"]
    dilation, base = call["window_dilation"], call["base_dilation"]
    config = [(*sides, by - 1) for sides, by in zip(call["padding"], base, strict=True)]
    if any(map(any, config)):
        # Everything is above the padding.
        least = np.float32(-np.inf)
        if not jnp.issubdtype(call.dtype, jnp.floating):
            raise NotImplementedError(
                f"{call.name} of {call.dtype} with padding has no private form"
            )
        value = private_moves.padded(run, value, least, config, call.dtype)
    cut = values.each(lambda leaf: windows(leaf, sizes, strides, dilation), value)
    return comparison.max_over(run.stream, cut, -1)


def _window_min(run: Any, call: Call, value: Shared) -> Shared:
    return values.negated(_window_max(run, call, values.negated(value)))


def _window_sum(run: Any, call: Call, value: Shared) -> Shared:
    sizes, strides = call["window_dimensions"], call["window_strides"]
    padding = call["padding"]
    dilations = call["base_dilation"], call["window_dilation"]
    return values.on_words(
        lambda word: lax.reduce_window(
            word, np.uint64(0), lax.add, sizes, strides, padding, *dilations
        ),
        value,
    )


FORMS: dict[str, Callable[..., Shared]] = {
    "conv_general_dilated": _convolution,
    "reduce_window_max": _window_max,
    "reduce_window_min": _window_min,
    "reduce_window_sum": _window_sum,
}
"""The private forms, by the name of JAX's primitive."""
