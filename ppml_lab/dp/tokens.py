"""A parameter's per-example gradients, kept as the factors of their products.

The gradient that is released must be the gradient that is bounded. Where a gradient is
made before its norm is taken, rounding is part of the gradient. Where only its norm is
computed (`_outer`), the norm includes what rounding can hide; where that would be much,
the gradients are made one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ppml_lab import pairs
from ppml_lab.dp import sums

CONDITION = 64.0
"""The largest ratio, of the sum of its parts' norms to a gradient's norm, at which the
norm is computed from the parts."""


class Tokens(NamedTuple):
    """The gradients of n examples, each a sum over the t places where a parameter acts
    on the example (positions of an image, words, repeated uses of a layer).

    Attributes:
      left: The factor of `right` at each place: a vector, `[n, t, d]`, for gradients
        `left_i x right_i` of a matrix; the row of a table, integers `[n, t]`, negative
        for none; None for gradients that are the sum of `right`.
      right: The other factor at each place, `[n, t, o]`.
    """

    left: Array | None
    right: Float[Array, "n t o"]


class Gradients(NamedTuple):
    """One parameter's part of `PerExample`."""

    squared_norms: Float[Array, " n"]
    weighted_sum: Callable[[Float[Array, " n"]], pairs.Pair]


def places(values: Array) -> Array:
    """Reshapes `[n, ..., features]` to `[n, places, features]`."""
    return values.reshape(len(values), -1, values.shape[-1])


def gradients(uses: Sequence[Tokens], shape: tuple[int, ...]) -> Gradients:
    """The gradients of a parameter of this shape, over all its uses in the model.

    All uses are of one kind. They are added up in float32, whatever their type, before
    anything is squared.
    """
    right = jnp.concatenate([sums.wide(use.right) for use in uses], axis=1)
    lefts = [use.left for use in uses if use.left is not None]
    if not lefts:
        return kept(jnp.sum(right, axis=1), shape)
    if lefts[0].ndim == 2:
        return _table(jnp.concatenate(lefts, axis=1), right, shape)
    left = jnp.concatenate([sums.wide(left) for left in lefts], axis=1)
    t, d, o = right.shape[1], left.shape[2], right.shape[2]
    # Products between the places, which `_outer` makes, cost t (d + o) per place and
    # product; gradients that are kept need no second product, but memory.
    cheaper, small = t * t * (d + o) >= d * o, d * o <= 4 * t * (d + o)
    return (_products if cheaper and small else _outer)(left, right, shape)


def kept(rows: Float[Array, "n *s"], shape: tuple[int, ...]) -> Gradients:
    """The `Gradients` of a parameter of this shape, from whole gradients `rows`."""
    return Gradients(
        sums.squared_norms(rows),
        lambda factors: _shaped(sums.weighted_rows(factors, rows), shape),
    )


def _products(left: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """Gradients kept whole, where this is cheaper than `_outer`."""
    d, o = left.shape[-1], right.shape[-1]
    if d < o:
        return kept(_contracted("ntd,nto->ndo", left, right), shape)
    # Long rows make these small products faster.
    rows = kept(_contracted("ntd,nto->nod", left, right), (o, d))

    def weighted_sum(factors: Float[Array, " n"]) -> pairs.Pair:
        turned = jax.tree.map(jnp.transpose, rows.weighted_sum(factors))
        return _shaped(turned, shape)

    return rows._replace(weighted_sum=weighted_sum)


def _outer(left: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """Norms from products of places, plus what rounding of the parts can hide.

    |sum_i l_i x r_i|^2 = sum_ij (l_i . l_j) (r_i . r_j). Gradients that are less than
    1 / `CONDITION` of their parts are made, one after the other. Which gradients are
    made depends on each example alone.
    """
    t, d, o = right.shape[1], left.shape[2], right.shape[2]
    if t == 1:
        norms = _squares(left) * _squares(right)
        return Gradients(
            norms,
            lambda factors: _shaped(
                sums.weighted_products(factors, left, right), shape
            ),
        )
    grams = [_contracted("nid,njd->nij", side, side) for side in (left, right)]
    parts = [
        jnp.sqrt(_squares(side.reshape(-1, side.shape[-1]))) for side in (left, right)
    ]
    gross = jnp.square(jnp.sum((parts[0] * parts[1]).reshape(-1, t), axis=1))
    unit = float(jnp.finfo(right.dtype).eps) / 2
    hidden = (4 + math.sqrt(d) + math.sqrt(o) + math.sqrt(t)) * unit * gross
    told = jnp.maximum(jnp.sum(grams[0] * grams[1], axis=(1, 2)), 0) + hidden
    # A gradient that is not finite is silenced and needs no better norm.
    cancels = jnp.isfinite(gross) & (gross > CONDITION**2 * told)
    order, count = jnp.argsort(~cancels), jnp.sum(cancels)

    def made(at: Array) -> Array:
        return _contracted("td,to->do", left[at], right[at])

    def measure(number: Array, norms: Array) -> Array:
        at = order[number]
        return norms.at[at].set(sums.squared_norms(made(at)[None])[0])

    def weighted_sum(factors: Float[Array, " n"]) -> pairs.Pair:
        def add(number: Array, total: pairs.Pair) -> pairs.Pair:
            at = order[number]
            return pairs.add(total, factors[at] * made(at))

        told_of = jnp.where(cancels, 0, factors)
        total = sums.weighted_products(told_of, left, right)
        return _shaped(pairs.fori_loop(count, add, total), shape)

    return Gradients(lax.fori_loop(0, count, measure, told), weighted_sum)


def _table(rows: Array, right: Array, shape: tuple[int, ...]) -> Gradients:
    """The gradients of a table: an example's places of a row add up at the first."""
    same = rows[:, :, None] == rows[:, None, :]
    later = jnp.any(jnp.tril(same, -1), axis=2)
    counts = (rows >= 0) & ~later
    added = _contracted("nij,njo->nio", same.astype(right.dtype), right)
    added = jnp.where(counts[..., None], added, 0)

    def block(rows: Array, scaled: Array) -> pairs.Pair:
        flat = scaled.reshape(-1, scaled.shape[-1])
        return pairs.of(jnp.zeros(shape, right.dtype).at[rows.reshape(-1)].add(flat))

    def weighted_sum(factors: Float[Array, " n"]) -> pairs.Pair:
        scaled = factors[:, None, None] * sums.silenced(factors, added)
        return sums.by_blocks(block, sums.EXAMPLES, rows, scaled)

    return Gradients(sums.squared_norms(added), weighted_sum)


def _squares(rows: Float[Array, "n *s"]) -> Float[Array, " n"]:
    """Squared norms, plus what underflowing squares hide: a factor may be large."""
    squares = jnp.where(rows != 0, rows * rows + jnp.finfo(rows.dtype).tiny, 0)
    return jnp.sum(squares, axis=tuple(range(1, rows.ndim)))


def _contracted(formula: str, *arrays: Array) -> Array:
    return jnp.einsum(formula, *arrays, precision=sums.EXACT)


def _shaped(total: pairs.Pair, shape: tuple[int, ...]) -> pairs.Pair:
    return jax.tree.map(lambda leaf: leaf.reshape(shape), total)
