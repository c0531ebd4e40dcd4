"""Rings and fields against Python's integers, with 64-bit types on and off."""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import field, ring

RINGS = [ring.Z32, ring.Z64, field.F31, field.F61]
each_ring = pytest.mark.parametrize("where", RINGS, ids=lambda r: r.name)
each_x64 = pytest.mark.parametrize("x64", [False, True])
few = settings(max_examples=15, deadline=None, derandomize=True)
SEED = jnp.array([3, 4], jnp.uint32)


def edges(modulus):
    """0, 1, and what lies beside a power of two or the modulus."""
    near = [2**k + d for k in (15, 16, 30, 31, 32, 33, 60, 61, 63) for d in (-1, 0)]
    near += [0, 1, 2, modulus // 2, modulus // 2 + 1, modulus - 2, modulus - 1]
    return [value for value in near if value < modulus]


def residues(where, count):
    one = st.one_of(
        st.sampled_from(edges(where.modulus)), st.integers(0, where.modulus - 1)
    )
    return st.lists(one, min_size=count, max_size=count)


@functools.cache
def arithmetic(where):
    """Compiled once: sum, difference, product, and sums along both axes."""
    operations = (where.add, where.subtract, where.multiply)
    return jax.jit(
        lambda a, b: (
            *(operation(a, b) for operation in operations),
            *(where.sum_over(a, axis) for axis in (0, 1, -1)),
        )
    )


def check_arithmetic(where, one, other):
    modulus = where.modulus
    a, b = (np.array(v, object) for v in (one, other))
    results = arithmetic(where)(*(ring.from_integers(where, v) for v in (a, b)))
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {np.dtype(np.uint32)}
    exact = [a + b, a - b, a * b, a.sum(0), a.sum(1), a.sum(1)]
    for result, value in zip(results, exact, strict=True):
        assert ring.to_integers(where, result).tolist() == (value % modulus).tolist()


@each_ring
@each_x64
@few
@given(data=st.data())
def test_arithmetic(where, x64, data):
    drawn = np.array(data.draw(residues(where, 24)), object).reshape(2, 3, 4)
    with jax.enable_x64(x64):
        check_arithmetic(where, *drawn)


@each_ring
@each_x64
def test_arithmetic_of_all_pairs_of_edges(where, x64):
    pairs = np.array([*itertools.product(edges(where.modulus), repeat=2)], object)
    one, other = pairs.T[:, None]
    with jax.enable_x64(x64):
        check_arithmetic(where, one, other)


@each_ring
@each_x64
def test_arithmetic_under_vmap_of_a_compiled_function(where, x64):
    """It is traced again, where 64-bit types may be off."""
    values = np.array(edges(where.modulus)[:12], object).reshape(2, 2, 3)
    with jax.enable_x64(x64):
        a = ring.from_integers(where, values)
        products, totals = jax.vmap(arithmetic(where))(a, a)[2:4]
    squares = values * values % where.modulus
    assert ring.to_integers(where, products).tolist() == squares.tolist()
    sums = values.sum(1) % where.modulus
    assert ring.to_integers(where, totals).tolist() == sums.tolist()


@each_ring
@each_x64
def test_long_sums_wrap_many_times(where, x64):
    values = edges(where.modulus)
    with jax.enable_x64(x64):
        rows = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (5000, len(values))),
            ring.from_integers(where, values),
        )
        total = ring.to_integers(where, where.sum_over(rows, 0))
        none = jax.tree.map(lambda leaf: leaf[:0], rows)
        assert ring.to_integers(where, where.sum_over(none, 0)).tolist() == [
            0 for _ in values
        ]
    assert total.tolist() == [5000 * v % where.modulus for v in values]


@each_ring
def test_integers_of_any_size_and_sign_become_residues(where):
    values = [[-1, -where.modulus - 5], [where.modulus**2 + 7, 2**200]]
    elements = ring.from_integers(where, values)
    assert ring.shape_of(elements) == (2, 2)
    exact = [[v % where.modulus for v in row] for row in values]
    assert ring.to_integers(where, elements).tolist() == exact
    assert ring.to_integers(where, ring.zeros(where, (3,))).tolist() == [0, 0, 0]
    alone = ring.from_integers(where, -1)
    assert int(ring.to_integers(where, alone)) == where.modulus - 1


@each_ring
@each_x64
@few
@given(data=st.data())
def test_whole_floats_and_back(where, x64, data):
    limit = where.modulus // 2
    below = np.nextafter(np.float32(limit), np.float32(0))
    floats = st.floats(0, float(below), width=32).map(np.rint)
    sizes = [0, 1, 2**24, float(below), *data.draw(st.lists(floats, max_size=4))]
    sizes += [0.0] * (8 - len(sizes))
    whole = np.array([*sizes, *(-size for size in sizes)], np.float32)
    with jax.enable_x64(x64):
        elements, back = float_round_trip(where)(jnp.asarray(whole))
        assert back.dtype == jnp.float32
    exact = [int(value) % where.modulus for value in whole.tolist()]
    assert ring.to_integers(where, elements).tolist() == exact
    np.testing.assert_array_equal(back, whole)


@functools.cache
def float_round_trip(where):
    def there_and_back(whole):
        elements = ring.from_float(where, whole)
        return elements, ring.to_float(where, elements)

    return jax.jit(there_and_back)


@functools.cache
def compiled_to_float(where):
    return jax.jit(functools.partial(ring.to_float, where))


@each_ring
@few
@given(data=st.data())
def test_the_float_is_that_of_the_nearest_representative(where, data):
    values = [*edges(where.modulus), *data.draw(residues(where, 5))]
    floats = compiled_to_float(where)(ring.from_integers(where, values))
    half = where.modulus // 2
    signed = [v if v <= half else v - where.modulus for v in values]
    np.testing.assert_allclose(floats, np.array(signed, float), rtol=2e-7, atol=0)


@each_ring
def test_uniform_elements_are_the_same_under_chunks_vmap_and_x64(where):
    @jax.jit
    def draw(seeds, blocks):
        chunks = jax.vmap(lambda block: where.uniform(SEED, random.BLOCK, block))
        lanes = jax.vmap(lambda seed: where.uniform(seed, 3000))
        return chunks(blocks), lanes(seeds)

    with jax.enable_x64(True):
        seeds = jnp.stack([SEED + jnp.uint32(1), SEED])
        chunks, lanes = map(jax.tree.leaves, draw(seeds, jnp.arange(5)))
    whole = jax.tree.leaves(jax.jit(where.uniform, static_argnums=1)(SEED, 5000))
    for word, parts, rows in zip(whole, chunks, lanes, strict=True):
        assert word.dtype == parts.dtype == rows.dtype == jnp.uint32
        np.testing.assert_array_equal(word, parts.reshape(-1)[:5000])
        np.testing.assert_array_equal(word[:3000], rows[1])
        assert np.mean(rows[0] == rows[1]) < 0.01


@each_ring
def test_uniform_elements_are_uniform_in_their_low_and_high_bits(where):
    values = ring.to_integers(where, where.uniform(SEED, 50_000))
    assert max(values) < where.modulus
    for shift in (0, 8, where.bits // 2, where.bits - 8):
        counts = np.bincount([int(v >> shift) & 255 for v in values], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


@few
@given(values=residues(ring.Z64, 4))
def test_one_word_of_64_bits_and_two_of_32(values):
    wide = ring.from_integers(ring.Z64, values)
    with ring.x64():
        one = ring.widened(wide)
        assert one.dtype == jnp.uint64
        back = ring.narrowed(one)
    assert [int(v) for v in np.asarray(one)] == values
    assert all(map(operator.eq, back.low.tolist(), wide.low.tolist()))
    assert all(map(operator.eq, back.high.tolist(), wide.high.tolist()))
