"""Totals as pairs (high, low) of trees of arrays, which keep what float32 sums lose.

A float32 sum of 100,000 contributions of norm 1 errs by more than 0.01 wherever it is
rounded, so that one contribution seems to move it by more than its norm. A pair has 48
bits: `high` is the total rounded to float32, `low` what is missing.

Knuth, "The Art of Computer Programming", volume 2, 4.2.2; Dekker, "A Floating-Point
Technique for Extending the Available Precision", Numerische Mathematik, 1971.

Devices join their totals by `sum_over(gather(mine))`: a `psum` of pairs would round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ppml_lab import target


class Pair(NamedTuple):
    """A total `high + low` of trees of equal structure.

    Leaves are float32 (float64 where what is added is float64). `high` is the total
    rounded. Once a coordinate's `high` is infinite or NaN its `low` is 0, so that an
    infinite total stays infinite; infinities of both signs make NaN, as in any sum.
    """

    high: PyTree
    low: PyTree


class Interleaved(NamedTuple):
    """A `Pair` as one tree: its real parts are `high`, its imaginary parts `low`."""

    both: PyTree


def zero(like: PyTree) -> Pair:
    """The total of no values, shaped like these (arrays or their shapes)."""

    def zeros() -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _wide(leaf.dtype)), like)

    # Not one tree twice: loops may donate both.
    return Pair(zeros(), zeros())


def of(values: PyTree) -> Pair:
    """The total of one summand, a tree of floats or a `Pair` already."""
    if isinstance(values, Pair):
        return values
    high = jax.tree.map(_widened, values)
    return Pair(high, jax.tree.map(jnp.zeros_like, high))


def add(total: Pair, values: PyTree) -> Pair:
    """Adds one summand, a tree of floats or a `Pair`, to a total.

    The error is at most 2^-44 of the larger of the two.
    """
    if isinstance(values, Pair):
        return merge(total, values)

    def add_leaf(high: Array, low: Array, value: Array) -> tuple[Array, Array]:
        rounded, lost = two_sum(high, _widened(value))
        return _normalised(rounded, lost + low)

    return _map(add_leaf, total.high, total.low, values)


def merge(one: Pair, other: Pair) -> Pair:
    """The sum of two totals."""

    def merge_leaf(
        high: Array, low: Array, other_high: Array, other_low: Array
    ) -> tuple[Array, Array]:
        rounded, lost = two_sum(high, other_high)
        return _normalised(rounded, lost + (low + other_low))

    return _map(merge_leaf, one.high, one.low, other.high, other.low)


def sum_over(values: PyTree) -> Pair:
    """The total of summands stacked along the leading axis of every leaf: a tree of
    floats `[n, ...]` or a `Pair` of such trees. Halves are merged until one summand is
    left.
    """
    stacked = of(values)
    n = jax.tree.leaves(stacked.high)[0].shape[0]
    if n == 0:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), stacked)
    while n > 1:
        half = n // 2
        left, right, odd = (
            jax.tree.map(lambda leaf, part=part: leaf[part], stacked)
            for part in (slice(half), slice(half, 2 * half), slice(2 * half, n))
        )
        stacked = merge(left, right)
        if n % 2:
            stacked = jax.tree.map(lambda *both: jnp.concatenate(both), stacked, odd)
        n = half + n % 2
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def value(total: PyTree) -> PyTree:
    """A total rounded to float32, once; a tree that is no `Pair` is returned as is."""
    return jax.tree.map(jnp.add, *total) if isinstance(total, Pair) else total


def together(tree: PyTree) -> Pair:
    """Turns a tree of `Pair`s into a `Pair` of trees."""

    def side(number: int) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[number], tree, is_leaf=_is_pair)

    return Pair(side(0), side(1))


def interleaved(tree: PyTree) -> PyTree:
    """Replaces each `Pair` of floats in a tree by one tree of complex numbers.

    XLA updates one array of a loop in place, but copies both of a pair first. Undone,
    to the bit, by `separate`.
    """

    def one(node: Any) -> Any:
        if not _is_pair(node) or not all(
            leaf.dtype in (jnp.float32, jnp.float64) for leaf in jax.tree.leaves(node)
        ):
            return node
        return Interleaved(jax.tree.map(jax.lax.complex, *node))

    return jax.tree.map(one, tree, is_leaf=_is_pair)


def separate(tree: PyTree) -> PyTree:
    """Undoes `interleaved`."""

    def one(node: Any) -> Any:
        if not _is_interleaved(node):
            return node
        return Pair(*(jax.tree.map(part, node.both) for part in (jnp.real, jnp.imag)))

    return jax.tree.map(one, tree, is_leaf=_is_interleaved)


def while_loop(
    goes_on: Callable[[PyTree], Any], body: Callable[[PyTree], PyTree], start: PyTree
) -> Any:
    """Runs `jax.lax.while_loop` for a state that holds `Pair`s.

    On CPU cores it carries them interleaved. Accelerators add many summands at once,
    and were not measured.
    """
    last = jax.lax.while_loop(
        lambda state: goes_on(separate(state)),
        lambda state: _carried(body(separate(state))),
        _carried(start),
    )
    return separate(last)


def fori_loop(count: Any, body: Callable[[Any, PyTree], PyTree], start: PyTree) -> Any:
    """Runs `jax.lax.fori_loop` from 0 to `count`; see `while_loop`."""

    def step(number: Any, state: PyTree) -> PyTree:
        return _carried(body(number, separate(state)))

    return separate(jax.lax.fori_loop(0, count, step, _carried(start)))


def two_sum(one: Array, other: Array) -> tuple[Array, Array]:
    """The rounded sum and exactly what rounding lost, without a branch.

    XLA keeps the order of float operations on every backend, as tests check.
    """
    rounded = one + other
    second = rounded - one
    return rounded, (one - (rounded - second)) + (other - second)


def _carried(tree: PyTree) -> PyTree:
    return interleaved(tree) if target.platform() == "cpu" else tree


def _normalised(high: Array, low: Array) -> tuple[Array, Array]:
    rounded = high + low
    # inf - inf is NaN.
    lost = jnp.where(jnp.isfinite(rounded), low - (rounded - high), 0)
    return jnp.where(jnp.isfinite(high), rounded, high), lost


def _map(function: Any, *trees: PyTree) -> Pair:
    return together(jax.tree.map(lambda *leaves: Pair(*function(*leaves)), *trees))


def _is_pair(node: Any) -> bool:
    return isinstance(node, Pair)


def _is_interleaved(node: Any) -> bool:
    return isinstance(node, Interleaved)


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def _widened(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    return array.astype(_wide(array.dtype))
