"""Per-example gradients as clipping needs them: their norms, and a weighted sum.

Two ways give the same numbers: this module's `by_vmap`, the general one, and
`ghost.by_layers`, which needs no per-example gradient of most layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, pairs
from ppml_lab.dp import sums


class PerExample(NamedTuple):
    """The gradients of a batch of n examples, as far as clipping needs them.

    Attributes:
      losses: `[n]`.
      squared_norms: Shaped like the parameters; for every leaf the squared L2 norms of
        the examples' gradients, `[n]`.
        They may be larger by what rounding can hide, never smaller by more than a
        relative 1e-6.
      weighted_sum: `factors -> sum over examples of factor times gradient`, a
        `pairs.Pair`; factors are shaped like `squared_norms`. An example whose factor
        is 0 contributes exactly zero, even if its gradient is not finite.
    """

    losses: Float[Array, " n"]
    squared_norms: PyTree
    weighted_sum: Callable[[PyTree], pairs.Pair]


Method = Callable[[base.Key, PyTree, PyTree], PerExample]
"""`(keys [n], params, examples) -> PerExample`."""


def by_vmap(loss: base.TaskLoss) -> Method:
    """Makes all gradients of the batch at once: any model, in n times its memory."""

    def gradients(keys: base.Key, params: PyTree, examples: PyTree) -> PerExample:
        check_loss(loss, keys, params, examples, 2)
        single = jax.value_and_grad(single_loss(loss))
        losses, grads = jax.vmap(single, in_axes=(None, 0, 0))(params, keys, examples)
        return whole(losses, grads)

    return gradients


def whole(losses: Float[Array, " n"], grads: PyTree) -> PerExample:
    """A `PerExample` of whole gradients, leaves `[n, ...]` of any float type."""

    def weighted_sum(factors: PyTree) -> pairs.Pair:
        return pairs.together(jax.tree.map(sums.weighted_rows, factors, grads))

    return PerExample(losses, jax.tree.map(sums.squared_norms, grads), weighted_sum)


def single_loss(loss: base.TaskLoss) -> Callable[..., Float[Array, ""]]:
    """The function `(params, key, example) -> loss` of a batch of one."""

    def single(params: PyTree, key: base.Key, example: PyTree) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        losses = loss(key, params, batch)
        check_one_each("task.loss", losses, 1)
        return losses[0]

    return single


def check_loss(
    loss: base.TaskLoss, key: base.Key, params: PyTree, examples: PyTree, *counts: int
) -> None:
    """Raises ValueError unless a loss gives one number for each of `counts` examples.

    The loss is tried on shapes alone: those of `examples`, with another number of rows.
    A mean over the wrong axis has the right shape in a batch of one, or of as many
    examples as an example has places. From several keys the loss gets one.
    """
    one = jax.ShapeDtypeStruct((), key.dtype)
    for count in counts:
        found = jax.eval_shape(loss, one, params, resized(examples, count))
        check_one_each("task.loss", found, count)


def resized(examples: PyTree, count: int) -> PyTree:
    """The shapes of `count` examples like these."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype),
        examples,
    )


def check_one_each(name: str, values: Any, num_examples: int) -> None:
    """Raises ValueError unless `values`, from `name`, are one number per example."""
    shape = getattr(values, "shape", None)
    if shape != (num_examples,):
        got = type(values).__name__
        if shape is not None:
            got = f"{values.dtype} of shape {shape}"
        raise ValueError(
            f"{name} gave a {got} for {num_examples} examples; give one number per "
            f"example, shape [{num_examples}], with means only over each example's own "
            "axes"
        )
