"""What clipping needs of per-example gradients: their norms, and a weighted sum.

Two ways give the same numbers: this module's `by_vmap`, the general one, and
`ghost.by_layers`, which needs no per-example gradient of most layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base


class PerExample(NamedTuple):
    """The gradients of a batch of n examples, as far as clipping needs them.

    Attributes:
      losses: `[n]`.
      squared_norms: Shaped like the parameters; for every leaf the squared L2 norms of
        the examples' gradients, `[n]`.
      weighted_sum: `factors -> sum over examples of factor times gradient`; factors are
        shaped like `squared_norms`. An example whose factor is 0 contributes exactly
        zero, even if its gradient is not finite.
    """

    losses: Float[Array, " n"]
    squared_norms: PyTree
    weighted_sum: Callable[[PyTree], PyTree]


Method = Callable[[base.Key, PyTree, PyTree], PerExample]
"""`(keys [n], params, examples) -> PerExample`."""


def by_vmap(loss: base.TaskLoss) -> Method:
    """Every gradient of the batch at once: any model, n times its memory."""

    def gradients(keys: base.Key, params: PyTree, examples: PyTree) -> PerExample:
        single = jax.value_and_grad(single_loss(loss))
        losses, grads = jax.vmap(single, in_axes=(None, 0, 0))(params, keys, examples)
        return PerExample(
            losses,
            jax.tree.map(squared_norms, grads),
            lambda factors: jax.tree.map(weighted_rows, factors, grads),
        )

    return gradients


def single_loss(loss: base.TaskLoss) -> Callable[..., Float[Array, ""]]:
    """`(params, key, example) -> loss` of a batch of one."""

    def single(params: PyTree, key: base.Key, example: PyTree) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        return loss(key, params, batch)[0]

    return single


def squared_norms(rows: Float[Array, "n *s"]) -> Float[Array, " n"]:
    """The squared norm of each row."""
    return jnp.sum(rows * rows, axis=tuple(range(1, rows.ndim)))


def weighted_rows(
    factors: Float[Array, " n"], rows: Float[Array, "n *s"]
) -> Float[Array, "*s"]:
    """The sum of rows, each times its factor; nothing of rows whose factor is 0."""
    # Silencing copies all rows, for a batch that seldom needs it.
    return jax.lax.cond(
        jnp.all(jnp.isfinite(squared_norms(rows))),
        lambda rows: jnp.tensordot(factors, rows, axes=1),
        lambda rows: jnp.tensordot(factors, silenced(factors, rows), axes=1),
        rows,
    )


def silenced(
    factors: Float[Array, " n"], rows: Float[Array, "n *s"]
) -> Float[Array, "n *s"]:
    """Rows, but zeros where the factor is 0: 0 times NaN would be NaN."""
    heard = (factors != 0).reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.where(heard, rows, 0)
