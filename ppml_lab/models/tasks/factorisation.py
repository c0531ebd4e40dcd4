"""Matrix factorisation of ratings; each client keeps its own vector.

Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems",
Computer 2009; Ammad-ud-din et al., "Federated Collaborative Filtering for
Privacy-Preserving Personalized Recommendation System", 2019; Singhal et al., "Federated
Reconstruction: Partially Local Federated Learning", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.models.tasks import supervised
from ppml_lab.models.tasks.regression import errors

ROLES = {
    "items": "trainable",
    "item_biases": "trainable",
    "user": "kept",
    "user_bias": "kept",
}


@arguments.checked
def factorisation(
    num_items: int, rank: int, *, mean: Any = 0.0, scale: Any = 0.1
) -> base.Task:
    """A task of ratings `mean + item bias + user bias + <item vector, user vector>`.

    A client is a user, with examples `{"item": int [n], "rating": float [n]}`. The loss
    is the squared error. The vectors and biases of items are learnt together, and each
    client keeps its own vector and bias; see `personal` for the guarantee. A client's
    update changes only the items that it rated: without noise, whoever sees the update
    sees which items these are. A user is judged by the rows that it holds out.

    Args:
      num_items: Number of items; they are numbered from 0.
      rank: Length of the vectors.
      mean: A rating known beforehand, such as the middle of the scale; it is not
        learnt.
      scale: Standard deviation of the vectors before training. All users begin with the
        same vector, and biases with 0.

    Returns:
      A task whose metrics are `loss`, `mse` and `mae`. They are NaN where an item lies
      outside `[0, num_items)`. Errors are an item outside that the host knows, examples
      of another form, ratings that are no floats, and ratings that the host knows and
      that are not finite.

    Raises:
      ValueError: For sizes below 1, a mean that is not finite, or a scale that is not
        positive, since vectors of 0 would never change.
    """
    checks.at_least("num_items", num_items, 1)
    checks.at_least("rank", rank, 1)
    checks.within("mean", mean, -3e38, 3e38)
    checks.positive("scale", scale)

    def init(key: base.Key) -> dict[str, Array]:
        items_key, user_key = jax.random.split(key)
        return {
            "items": scale * jax.random.normal(items_key, (num_items, rank)),
            "item_biases": jnp.zeros(num_items),
            "user": scale * jax.random.normal(user_key, (rank,)),
            "user_bias": jnp.float32(0),
        }

    def apply(params: PyTree, items: Array) -> Float[Array, " n"]:
        # A number that is no item would read another item's row.
        known = (items >= 0) & (items < num_items)
        rows = jnp.where(known, items, 0)
        ratings = params["items"][rows] @ params["user"]
        ratings += params["item_biases"][rows] + params["user_bias"] + mean
        return jnp.where(known, ratings, jnp.nan)

    def read(examples: PyTree) -> tuple[Any, Any]:
        return _items_and_ratings(examples, num_items)

    def squared(outputs: Array, ratings: Array) -> Float[Array, " n"]:
        return errors(outputs, ratings)["mse"]

    def fitted(outputs: Array, ratings: Any) -> tuple[Array, Array]:
        return outputs, jnp.asarray(ratings).astype(outputs.dtype)

    model = supervised.Model(init, apply, lambda params: dict(ROLES))
    return supervised.task(model, supervised.Labelled(read, fitted, squared, errors))


def _items_and_ratings(examples: PyTree, num_items: int) -> tuple[Any, Any]:
    if not isinstance(examples, Mapping) or not {"item", "rating"} <= set(examples):
        found = type(examples).__name__
        found = f"keys {list(examples)}" if isinstance(examples, Mapping) else found
        raise ValueError(
            f'examples must be a dict of "item" and "rating", got {found}; '
            'federate({"item": ..., "rating": ...}, user_ids) makes each user a client'
        )
    items, ratings = (supervised.as_array(examples[k]) for k in ("item", "rating"))
    if len(items.shape) != 1 or items.dtype.kind not in "iu":
        raise ValueError(
            f'"item" must hold one integer per row, [n], got {supervised.shown(items)};'
            " number the items, as numpy.unique(..., return_inverse=True) does"
        )
    if ratings.shape != items.shape or not jnp.issubdtype(ratings.dtype, jnp.floating):
        raise ValueError(
            f'"rating" must hold one float per row, {list(items.shape)}, got '
            f"{supervised.shown(ratings)}; convert it with .astype('float32')"
        )
    if not checks.is_traced(items):
        values = np.asarray(items)
        bad = np.flatnonzero((values < 0) | (values >= num_items))
        if bad.size:
            raise ValueError(
                f'"item" must lie in [0, num_items = {num_items}), got '
                f"{values[bad[0]]} in row {bad[0]}; number the items from 0, or raise "
                "num_items"
            )
    supervised.check_finite("rating", ratings)
    return jnp.asarray(items).astype(jnp.int32), ratings
