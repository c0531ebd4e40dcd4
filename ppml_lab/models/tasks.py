"""Tasks: what is learnt, from any pure `(init, apply)` pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base


def classification(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n classes"]],
) -> base.Task:
    """Softmax classification of `{"x": [n, ...], "y": int [n]}` by any model.

    Args:
      init: Makes parameters from a key.
      apply: Maps parameters and inputs `[n, ...]` to logits `[n, classes]`.

    Returns:
      A task whose loss is the cross-entropy in nats, and whose metrics are `loss` and
      `accuracy` (in [0, 1]).
    """

    def loss(key: base.Key, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        del key
        logits = apply(params, examples["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples["y"])

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, " n"]]:
        logits, labels = apply(params, examples["x"]), examples["y"]
        return {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            "accuracy": (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32),
        }

    return base.Task(init, loss, evaluate)


def flax_classification(module: nn.Module, input_shape: Sequence[int]) -> base.Task:
    """`classification` by a flax module whose inputs have shape `[n, *input_shape]`."""

    def init(key: base.Key) -> PyTree:
        return module.init(key, jnp.zeros((1, *input_shape), jnp.float32))

    def apply(params: PyTree, x: Array) -> Any:
        return module.apply(params, x)

    return classification(init, apply)
