"""Means of a task's metrics over a test set, computed in batches on device."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, trees

Evaluate = Callable[[PyTree, PyTree], dict[str, Float[Array, ""]]]
"""`(params, examples) -> mean metrics`."""


def evaluator(task: base.Task, batch_size: int = 1000) -> Evaluate:
    """A function that averages `task.evaluate` over a test set of any size.

    Args:
      task: Gives per-example metrics.
      batch_size: Examples at once, which bounds memory.

    Raises:
      ValueError: If batch_size is below 1.
    """
    checks.at_least("batch_size", batch_size, 1)

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, ""]]:
        total = jax.tree.leaves(examples)[0].shape[0]
        size = min(batch_size, total)
        num_batches = -(-total // size)

        def batch_sums(number: Array) -> dict[str, Float[Array, ""]]:
            rows = number * size + jnp.arange(size)
            metrics = task.evaluate(
                params, trees.take(examples, jnp.minimum(rows, total - 1))
            )
            present = trees.where(rows < total, metrics, 0.0)
            return jax.tree.map(jnp.sum, present)

        sums = jax.lax.map(batch_sums, jnp.arange(num_batches))
        return jax.tree.map(lambda leaf: jnp.sum(leaf) / total, sums)

    return evaluate
