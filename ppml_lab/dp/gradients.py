"""Sums of per-example clipped gradients, the heart of DP-SGD."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, guards, pairs, trees
from ppml_lab.dp import clipping, ghost, per_example, sums

METHODS = ("auto", "ghost", "vmap")

SummedGradient = Callable[
    [base.Key, PyTree, PyTree, Float[Array, " n"]], tuple[PyTree, Float[Array, ""]]
]
"""`(key, params, examples, weights) -> (sum of gradients, sum of losses)`."""

ClippedGradient = Callable[
    [base.Key, PyTree, PyTree, PyTree, Float[Array, " n"]],
    tuple[PyTree, Float[Array, ""]],
]
"""`(keys [n], mechanism_state, params, examples, weights) -> (what the mechanism
privatizes, sum of losses)`."""

ClippedTotal = Callable[
    [base.Key, PyTree, PyTree, PyTree, Float[Array, " n"]],
    tuple[pairs.Pair, dict[str, Float[Array, ""]]],
]
"""A `ClippedGradient` whose sum is not rounded to float32 yet. Beside the sum are other
sums over the examples, for the researcher and not private: `loss`, `norm` (of gradients
before clipping) and `clipped` (how many were above the bound)."""


@arguments.checked
@guards.returned(examples=guards.rows)
def summed_gradient(loss: base.TaskLoss) -> SummedGradient:
    """The gradient of the summed loss; `weights` (0 or 1) mask padding.

    Padding rows must be finite (copies of real ones are): the gradient of a masked NaN
    is NaN.
    """

    def gradient(
        key: base.Key, params: PyTree, examples: PyTree, weights: Float[Array, " n"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        n = weights.shape[0]
        per_example.check_loss(loss, key, params, examples, n + 1)

        def total(params: PyTree) -> Float[Array, ""]:
            losses = loss(key, params, examples)
            per_example.check_one_each("task.loss", losses, n)
            return jnp.sum(jnp.where(weights > 0, sums.wide(losses), 0.0))

        value, grads = jax.value_and_grad(total)(params)
        return grads, value

    return gradient


@arguments.checked
@guards.returned(examples=guards.rows)
def clipped_gradient(
    loss: base.TaskLoss,
    mechanism: base.PrivacyMechanism,
    *,
    method: str | per_example.Method = "auto",
    microbatch_size: int | None = None,
) -> ClippedGradient:
    """The sum of per-example gradients, each clipped by `mechanism`.

    **Guarantee:** adding or removing one example moves the sum, before it is rounded
    to float32 once, by at most `mechanism.norm_bound` times 1 + 1e-5, whatever the
    types of the model's layers, the batch and the microbatches; an example with weight
    0, or whose gradient is not finite, contributes exactly zero. Every example goes
    through the loss alone, as a batch of one, with a key of its own.

    Args:
      loss: Per-example losses.
      mechanism: Its `clip_examples` bounds each example; its privacy_unit must be
        "example".
      method: "ghost" makes per-example gradients of few layers only and supports flax's
        common layers (`dp.ghost`); "vmap" makes all of them and supports any model;
        "auto" takes "ghost" where it can, and warns where it cannot. Or a function of
        `(keys, params, examples)` that returns a `PerExample`.
      microbatch_size: How many examples go through the model at once; None for the
        whole batch. The batch is padded up to a multiple of it; nothing is computed
        after the last microbatch that holds an example. On a CPU, sizes that fit the
        processor's cache are fastest: 16 to 64 for convolutional models, the whole
        batch for small dense ones (`experiments/benchmarks/dp_sgd_speed.py`).

    Raises:
      ValueError: If microbatch_size is below 1, the method unknown, or the mechanism
        protects clients; with "ghost", when called, for a model that it does not
        support.
    """
    total = clipped_total(
        loss, mechanism, method=method, microbatch_size=microbatch_size
    )

    def gradient(
        keys: base.Key,
        state: PyTree,
        params: PyTree,
        examples: PyTree,
        weights: Float[Array, " n"],
    ) -> tuple[PyTree, Float[Array, ""]]:
        summed, seen = total(keys, state, params, examples, weights)
        return pairs.value(summed), seen["loss"]

    return gradient


@arguments.checked
@guards.returned(examples=guards.rows)
def clipped_total(
    loss: base.TaskLoss,
    mechanism: base.PrivacyMechanism,
    *,
    method: str | per_example.Method = "auto",
    microbatch_size: int | None = None,
) -> ClippedTotal:
    """`clipped_gradient` as a `pairs.Pair`, so that noise is added before rounding.

    Rounding a sum of n examples errs by up to `n * 2^-24` clip norms; noise covers this
    error only if it is added before.
    """
    if mechanism.privacy_unit != "example":
        raise ValueError(
            f"clipping examples protects examples, not '{mechanism.privacy_unit}'; "
            'build the mechanism with privacy_unit="example"'
        )
    if microbatch_size is not None:
        checks.at_least("microbatch_size", microbatch_size, 1)
    gradients_of = per_example_method(loss, method)

    def batch_sum(
        keys: base.Key,
        state: PyTree,
        params: PyTree,
        examples: PyTree,
        weights: Float[Array, " n"],
    ) -> tuple[pairs.Pair, dict[str, Float[Array, ""]]]:
        gradients = gradients_of(keys, params, examples)
        total = mechanism.clip_examples(state, gradients, weights)
        norms = clipping.total_norm(gradients.squared_norms)
        seen = {
            "loss": sums.wide(gradients.losses),
            "norm": norms,
            # A gradient that is not finite is dropped whole, and counts as clipped.
            "clipped": (~(norms <= mechanism.norm_bound(state))).astype(jnp.float32),
        }
        heard = trees.where(weights > 0, seen, 0.0)
        return pairs.of(total), jax.tree.map(jnp.sum, heard)

    def gradient(
        keys: base.Key,
        state: PyTree,
        params: PyTree,
        examples: PyTree,
        weights: Float[Array, " n"],
    ) -> tuple[pairs.Pair, dict[str, Float[Array, ""]]]:
        n = weights.shape[0]
        if microbatch_size is None or microbatch_size >= n:
            return batch_sum(keys, state, params, examples, weights)
        num_parts = -(-n // microbatch_size)
        rows = jnp.arange(num_parts * microbatch_size)
        examples = jax.tree.map(jnp.asarray, examples)
        present = jnp.where(rows < n, weights[jnp.minimum(rows, n - 1)], 0.0)

        def part_sum(at: Array) -> tuple[pairs.Pair, dict[str, Float[Array, ""]]]:
            inside = jnp.minimum(at, n - 1)
            rows = trees.take(examples, inside)
            return batch_sum(keys[inside], state, params, rows, present[at])

        parts = rows.reshape(num_parts, microbatch_size)
        occupied = jnp.any(present[parts] > 0, axis=1)
        # A Poisson sample's arrays end in padding: a third of them at 256 examples.
        num_occupied = jnp.max(jnp.where(occupied, jnp.arange(num_parts) + 1, 0))

        def add(part: Array, so_far: tuple[pairs.Pair, dict[str, Array]]) -> Any:
            total, seen = part_sum(parts[part])
            more = jax.tree.map(jnp.add, so_far[1], seen)
            return pairs.merge(so_far[0], total), more

        total, seen = jax.eval_shape(part_sum, parts[0])
        start = pairs.zero(total.high), dict.fromkeys(seen, jnp.float32(0))
        return pairs.fori_loop(num_occupied, add, start)

    return gradient


@arguments.checked
def example_keys(key: base.Key, n: int) -> base.Key:
    """A key for each of n examples."""
    checks.at_least("n", n, 0)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n))


@arguments.checked
def per_example_method(
    loss: base.TaskLoss, name: str | per_example.Method
) -> per_example.Method:
    """The method of per-example gradients with this name; see `clipped_gradient`."""
    if not isinstance(name, str):
        return name
    checks.known("method", name, METHODS, argument="name")
    by_vmap, by_layers = per_example.by_vmap(loss), ghost.by_layers(loss)
    if name != "auto":
        return {"vmap": by_vmap, "ghost": by_layers}[name]

    def either(
        keys: base.Key, params: PyTree, examples: PyTree
    ) -> per_example.PerExample:
        try:
            return by_layers(keys, params, examples)
        except ghost.UnknownLayerError as unknown:
            warnings.warn(f"slower per-example gradients: {unknown}", stacklevel=2)
            return by_vmap(keys, params, examples)

    return either
