"""A parameter's per-example gradients, kept as the factors they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ppml_lab.dp.per_example import silenced, squared_norms, weighted_rows


class Tokens(NamedTuple):
    """The gradients of n examples, each a sum over the t places where a parameter acts
    on the example (positions of an image, words, repeated uses of a layer).

    Attributes:
      left: What is multiplied with `right` at each place: a vector, `[n, t, d]`, for
        gradients `left_i x right_i` of a matrix; the row of a table, integers `[n, t]`;
        nothing, None, for gradients that are the sum of `right`.
      right: `[n, t, o]`.
    """

    left: Array | None
    right: Float[Array, "n t o"]


class Gradients(NamedTuple):
    """One parameter's part of `PerExample`."""

    squared_norms: Float[Array, " n"]
    weighted_sum: Callable[[Float[Array, " n"]], Array]


def places(values: Array) -> Array:
    """`[n, ..., features]` as `[n, places, features]`."""
    return values.reshape(len(values), -1, values.shape[-1])


def gradients(uses: Sequence[Tokens], shape: tuple[int, ...]) -> Gradients:
    """The gradients of a parameter of this shape, over all its uses in the model.

    Uses are added up before anything is squared.
    """
    right = jnp.concatenate([use.right for use in uses], axis=1)
    lefts = [use.left for use in uses if use.left is not None]
    if not lefts:
        return _kept(jnp.sum(right, axis=1), shape)
    left = jnp.concatenate(lefts, axis=1)
    if left.ndim == 2:
        return _table(left, right, shape)
    t, d, o = right.shape[1], left.shape[2], right.shape[2]
    # Products between the places, which `_outer` makes, cost t (d + o) per place and
    # product; gradients that are kept cost no second product but memory.
    cheaper, small = t * t * (d + o) >= d * o, d * o <= 4 * t * (d + o)
    return (_products if cheaper and small else _outer)(left, right, shape)


def _kept(rows: Float[Array, "n *s"], shape: tuple[int, ...]) -> Gradients:
    """Gradients that are there whole."""
    return Gradients(
        squared_norms(rows),
        lambda factors: weighted_rows(factors, rows).reshape(shape),
    )


def _products(left: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """Gradients kept whole because that is cheaper than telling their norms."""
    d, o = left.shape[-1], right.shape[-1]
    if d < o:
        return _kept(jnp.einsum("ntd,nto->ndo", left, right), shape)
    # Long rows make these small products faster.
    rows = _kept(jnp.einsum("ntd,nto->nod", left, right), (o, d))
    return rows._replace(
        weighted_sum=lambda factors: rows.weighted_sum(factors).T.reshape(shape)
    )


def _outer(left: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """|sum_i l_i x r_i|^2 = sum_ij (l_i . l_j) (r_i . r_j)."""
    if left.shape[1] == 1:
        norms = squared_norms(left) * squared_norms(right)
    else:
        grams = [jnp.einsum("nid,njd->nij", side, side) for side in (left, right)]
        norms = jnp.sum(grams[0] * grams[1], axis=(1, 2))

    def weighted_sum(factors: Float[Array, " n"]) -> Array:
        scaled = factors[:, None, None] * silenced(factors, right)
        heard = silenced(factors, left)
        summed = jnp.einsum("ntd,nto->do", heard, scaled)
        return summed.reshape(shape)

    return Gradients(norms, weighted_sum)


def _table(rows: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """As `_outer`, where every left vector is a unit vector."""
    same = rows[:, :, None] == rows[:, None, :]
    gram = jnp.einsum("nid,njd->nij", right, right)

    def weighted_sum(factors: Float[Array, " n"]) -> Array:
        scaled = factors[:, None, None] * silenced(factors, right)
        flat = scaled.reshape(-1, scaled.shape[-1])
        return jnp.zeros(shape, right.dtype).at[rows.reshape(-1)].add(flat)

    return Gradients(jnp.sum(jnp.where(same, gram, 0), axis=(1, 2)), weighted_sum)
