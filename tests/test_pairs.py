"""Totals of pairs are those of exact fractions, whatever cancels or is compiled."""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import pairs, trees

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32).filter(
    lambda value: value == 0 or abs(value) > 2.0**-60
)


def exact(total: pairs.Pair) -> Any:
    """As float64, of which 48 bits need 48."""
    return np.float64(total.high) + np.float64(total.low)


@jax.jit
def one_by_one(rows: jax.Array) -> pairs.Pair:
    start = pairs.zero(rows[0])
    return jax.lax.scan(lambda t, row: (pairs.add(t, row), None), start, rows)[0]


@jax.jit
def in_a_while_loop(rows: jax.Array) -> pairs.Pair:
    def add(number: jax.Array, total: pairs.Pair) -> pairs.Pair:
        return pairs.add(total, rows[number])

    return jax.lax.fori_loop(0, jnp.int32(len(rows)), add, pairs.zero(rows[0]))


@jax.jit
def interleaved(rows: jax.Array) -> pairs.Pair:
    def add(number: jax.Array, total: pairs.Pair) -> pairs.Pair:
        return pairs.add(total, rows[number])

    return pairs.fori_loop(len(rows), add, pairs.zero(rows[0]))


by_halves = jax.jit(pairs.sum_over)
WAYS = [one_by_one, in_a_while_loop, interleaved, by_halves]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(one=FLOATS, other=FLOATS)
def test_a_two_sum_loses_nothing(one, other):
    """Compiled, too: XLA does not put the operations in another order."""
    rounded, lost = jax.jit(pairs.two_sum)(jnp.float32(one), jnp.float32(other))
    assert np.float32(rounded) == np.float32(one) + np.float32(other)
    assert Fraction(float(rounded)) + Fraction(float(lost)) == (
        Fraction(one) + Fraction(other)
    )


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.lists(FLOATS, min_size=9, max_size=9))
def test_sums_are_those_of_fractions(way, rows):
    total = way(jnp.asarray(rows, jnp.float32)[:, None])
    wanted = sum(map(Fraction, rows))
    found = Fraction(float(total.high[0])) + Fraction(float(total.low[0]))
    # Of what was added, for it may cancel.
    assert abs(found - wanted) <= sum(map(abs, map(Fraction, rows))) / 2**43
    assert float(total.high[0]) == pytest.approx(float(pairs.value(total)[0]), rel=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["aligned", "grow and cancel", "mixed"])
def test_a_hundred_thousand_rows(way, kind):
    rng = np.random.default_rng(0)
    rows: Any = np.float32(0.1 + 1e-3 * rng.random((100_000, 3)))
    if kind == "grow and cancel":
        rows = np.concatenate([rows[:50_000], -rows[:50_000]])
        rows[70_000] += np.float32(1e-3)
    if kind == "mixed":
        rows *= np.float32(10.0) ** rng.integers(-9, 9, size=rows.shape)
    found = exact(way(jnp.asarray(rows)))
    for column, value in zip(rows.T, found, strict=True):
        wanted = math.fsum(map(float, column))
        assert abs(value - wanted) <= 1e-10 * np.abs(np.float64(column)).sum()
        if kind != "grow and cancel":
            np.testing.assert_allclose(value, wanted, rtol=1e-7)


def test_interleaved_totals_come_apart_to_the_bit():
    """Zeros' signs, NaN and infinities too; whole numbers stay as they are."""
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38], np.float32)
    floats = pairs.Pair({"a": jnp.asarray(odd)}, {"a": jnp.asarray(odd[::-1])})
    whole = pairs.Pair(jnp.arange(3), jnp.zeros(3, int))
    tree = {"floats": floats, "whole": whole, "count": jnp.float32(2)}
    packed = pairs.interleaved(tree)
    assert [leaf.dtype for leaf in jax.tree.leaves(packed["floats"])] == [jnp.complex64]
    apart = jax.jit(lambda packed: pairs.separate(packed))(packed)
    assert jax.tree.structure(apart) == jax.tree.structure(tree)
    for found, wanted in zip(
        jax.tree.leaves(apart), jax.tree.leaves(tree), strict=True
    ):
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def test_an_interleaved_loop_has_the_bits_of_a_plain_one():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(300, 40)), jnp.float32)
    jax.tree.map(
        np.testing.assert_array_equal, interleaved(rows), in_a_while_loop(rows)
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", WAYS)
def test_a_million_rows(way):
    rows = np.full((1_000_000, 2), 0.1, np.float32)
    wanted = math.fsum(map(float, rows[:, 0]))
    np.testing.assert_allclose(exact(way(jnp.asarray(rows))), wanted, rtol=1e-9)


def test_taking_a_row_away_moves_the_total_by_that_row():
    """A float32 sum of these moves by 1.1 rows."""
    rows: Any = np.float32(np.random.default_rng(0).normal(1, 0.01, (30_000, 5)))
    full = exact(one_by_one(jnp.asarray(rows)))
    for at in (0, 15_000, 29_999):
        less = rows.copy()
        less[at] = 0
        moved = full - exact(one_by_one(jnp.asarray(less)))
        np.testing.assert_allclose(moved, rows[at], rtol=1e-7)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8])
def test_trees_of_any_length_and_merged_parts(n):
    rng = np.random.default_rng(n)
    tree = {"a": rng.normal(size=(n, 2, 3)), "b": [rng.normal(size=n)]}
    tree = jax.tree.map(jnp.float32, tree)
    total = pairs.sum_over(tree)
    assert jax.tree.structure(total.high) == jax.tree.structure(tree)
    for leaf, rows in zip(
        jax.tree.leaves(pairs.value(total)), jax.tree.leaves(tree), strict=True
    ):
        np.testing.assert_allclose(leaf, rows.sum(axis=0), rtol=1e-6, atol=1e-6)
    stacked = jax.vmap(pairs.of)(tree)
    jax.tree.map(np.testing.assert_array_equal, pairs.sum_over(stacked), total)


def test_a_batch_of_totals_is_each_alone():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50, 3)), jnp.float32)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.vmap(one_by_one)(rows),
        jax.tree.map(lambda *alone: jnp.stack(alone), *map(one_by_one, rows)),
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_added_in_float32(dtype):
    rows = jnp.full((1000, 2), 0.1, dtype)
    total = one_by_one(rows)
    assert total.high.dtype == total.low.dtype == jnp.float32
    np.testing.assert_allclose(exact(total), 1000 * float(rows[0, 0]), rtol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_an_infinite_total_is_no_nan(way):
    rows = np.ones((6, 4), np.float32)
    rows[2, 1], rows[3, 2], rows[1:3, 3] = np.inf, -np.inf, 3e38
    found = pairs.value(way(jnp.asarray(rows)))
    np.testing.assert_array_equal(found, [6, np.inf, -np.inf, np.inf])
    rows[4, 1] = -np.inf
    assert np.isnan(pairs.value(way(jnp.asarray(rows)))[1])


def test_doubles_stay_doubles():
    with jax.enable_x64(True):
        rows = jnp.full((10, 2), 0.1, jnp.float64)
        total = pairs.sum_over(rows)
        assert total.high.dtype == jnp.float64
        wanted = 10 * Fraction(0.1)
        found = Fraction(float(total.high[0])) + Fraction(float(total.low[0]))
        assert abs(found - wanted) < Fraction(1, 2**90)
        assert pairs.sum_over(rows.astype(jnp.float32)).high.dtype == jnp.float32


def test_a_tree_of_totals_is_a_total_of_trees():
    one, other = pairs.of(jnp.ones(2)), pairs.of({"w": jnp.zeros(3)})
    total = pairs.together({"one": one, "other": other})
    assert set(total.high) == set(total.low) == {"one", "other"}
    np.testing.assert_array_equal(total.high["one"], 1)
    assert pairs.value({"plain": 3})["plain"] == 3


def test_leaves_have_keys_of_their_own():
    """Equal layers of equal blocks get unequal noise."""
    layer = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(3)}
    block = {"attention": {"query": layer, "key": layer}, "dense": layer}
    tree = {"params": {"first": {"inner": block}, "second": {"inner": block}}}
    keys = jax.tree.leaves(trees.leaf_keys(jax.random.key(0), tree))
    assert len(keys) == 12
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 12
