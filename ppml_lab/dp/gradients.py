"""Sums of per-example clipped gradients, the heart of DP-SGD."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, trees

SummedGradient = Callable[
    [base.Key, PyTree, PyTree, Float[Array, " n"]], tuple[PyTree, Float[Array, ""]]
]
"""`(key, params, examples, weights) -> (sum of gradients, sum of losses)`."""


def summed_gradient(loss: base.TaskLoss) -> SummedGradient:
    """The gradient of the summed loss; `weights` (0 or 1) mask padding.

    Padding rows must be finite (copies of real ones are): the gradient of a masked NaN
    is NaN.
    """

    def gradient(
        key: base.Key, params: PyTree, examples: PyTree, weights: Float[Array, " n"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        def total(params: PyTree) -> Float[Array, ""]:
            losses = loss(key, params, examples)
            return jnp.sum(jnp.where(weights > 0, losses, 0.0))

        value, grads = jax.value_and_grad(total)(params)
        return grads, value

    return gradient


def clipped_gradient(
    loss: base.TaskLoss,
    mechanism: base.PrivacyMechanism,
    *,
    microbatch_size: int | None = None,
) -> SummedGradient:
    """The sum of each example's gradient, clipped by `mechanism`, through `vmap(grad)`.

    **Guarantee:** adding or removing one example moves the sum by at most
    `mechanism.norm_bound`; an example with weight 0, or whose gradient is not finite,
    contributes exactly zero.

    Args:
      loss: Per-example losses.
      mechanism: Its `clip` bounds each example; its privacy_unit must say so.
      microbatch_size: How many gradients exist at once; None for the whole batch. The
        batch is padded up to a multiple of it.

    Raises:
      ValueError: If microbatch_size is below 1, or the mechanism protects clients.
    """
    if mechanism.privacy_unit != "example":
        raise ValueError(
            f"clipping examples protects examples, not '{mechanism.privacy_unit}'; "
            'build the mechanism with privacy_unit="example"'
        )
    if microbatch_size is not None:
        checks.at_least("microbatch_size", microbatch_size, 1)

    def one(
        key: base.Key, params: PyTree, example: PyTree, weight: Float[Array, ""]
    ) -> tuple[PyTree, Float[Array, ""]]:
        def single(params: PyTree) -> Float[Array, ""]:
            batch = jax.tree.map(lambda leaf: leaf[None], example)
            return loss(loss_key, params, batch)[0]

        loss_key, clip_key = jax.random.split(key)
        value, grads = jax.value_and_grad(single)(params)
        clipped = mechanism.clip(clip_key, mechanism.init(), grads)
        return trees.where(weight > 0, (clipped, value), 0.0)

    def batch_sum(
        keys: base.Key, params: PyTree, examples: PyTree, weights: Float[Array, " n"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        parts = jax.vmap(one, in_axes=(0, None, 0, 0))(keys, params, examples, weights)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts)

    def gradient(
        key: base.Key, params: PyTree, examples: PyTree, weights: Float[Array, " n"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        n = weights.shape[0]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n))
        if microbatch_size is None or microbatch_size >= n:
            return batch_sum(keys, params, examples, weights)
        num_parts = -(-n // microbatch_size)
        rows = jnp.arange(num_parts * microbatch_size)
        present = jnp.where(rows < n, weights[jnp.minimum(rows, n - 1)], 0.0)

        def add(total: PyTree, part: Array) -> tuple[PyTree, None]:
            at = rows[part]
            inside = jnp.minimum(at, n - 1)
            summed = batch_sum(
                keys[inside], params, trees.take(examples, inside), present[at]
            )
            return jax.tree.map(jnp.add, total, summed), None

        zero = jax.tree.map(jnp.zeros_like, (params, jnp.float32(0)))
        parts = rows.reshape(num_parts, microbatch_size)
        return jax.lax.scan(add, zero, parts)[0]

    return gradient
