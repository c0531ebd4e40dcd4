"""The ring Z_2^32 against Python's integers, with 64-bit types on and off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab.smpc import ring

MODULUS = 2**32
EDGES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
words = st.one_of(st.sampled_from(EDGES), st.integers(0, MODULUS - 1))
each_x64 = pytest.mark.parametrize("x64", [False, True])


def word_array(values) -> jax.Array:
    return jnp.asarray(np.array(values, np.uint32))


@each_x64
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(words, words), min_size=4, max_size=4))
@example(rows=[(2**32 - 1, 2**31)] * 4)
@example(rows=[(2**31, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (1, 1)])
def test_sum_over_is_the_sum_modulo_2_32(x64, rows):
    with jax.enable_x64(x64):
        values = word_array(rows)
        for axis in (0, 1, -1):
            total = ring.sum_over(values, axis)
            assert total.dtype == jnp.uint32
            exact = np.array(rows, dtype=object).sum(axis=axis) % MODULUS
            assert total.tolist() == exact.tolist()


@each_x64
def test_sum_over_many_wraps_many_times(x64):
    with jax.enable_x64(x64):
        rows = word_array([[2**32 - 1, 2**31 - 1, 0]] * 5000)
        expected = [(5000 * v) % MODULUS for v in (2**32 - 1, 2**31 - 1, 0)]
        assert ring.sum_over(rows, 0).tolist() == expected
        assert ring.sum_over(rows[:0], 0).tolist() == [0, 0, 0]


@each_x64
@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=st.lists(words, min_size=3, max_size=3))
@example(values=[2**31 - 1, 2**31, 2**32 - 1])
def test_signed_representatives(x64, values):
    with jax.enable_x64(x64):
        signed = ring.to_signed(word_array(values))
        assert signed.dtype == jnp.int32
        expected = [v - MODULUS if v >= 2**31 else v for v in values]
        assert signed.tolist() == expected
        residues = ring.from_signed(signed)
        assert residues.dtype == jnp.uint32
        assert residues.tolist() == [v % MODULUS for v in expected] == values


@settings(max_examples=60, deadline=None, derandomize=True)
@given(a=st.integers(-(2**30), 2**30 - 1), b=st.integers(-(2**30), 2**30 - 1))
@example(a=-(2**30), b=-(2**30))
def test_signed_sums_inside_the_range_are_exact(a, b):
    pair = ring.from_signed(jnp.asarray(np.array([a, b], np.int32)))
    assert int(ring.to_signed(ring.sum_over(pair, 0))) == a + b


@each_x64
def test_uniform_words_are_uniform_and_do_not_depend_on_x64(x64):
    with jax.enable_x64(x64):
        drawn = ring.uniform(jax.random.key(0), (100, 1000))
    assert drawn.dtype == jnp.uint32
    drawn = np.asarray(drawn)
    np.testing.assert_array_equal(drawn, ring.uniform(jax.random.key(0), (100, 1000)))
    for byte in range(4):
        counts = np.bincount((drawn.ravel() >> (8 * byte)) & 255, minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_sizes_agree():
    assert MODULUS == 2**ring.BITS
    assert word_array([0]).dtype.itemsize == ring.WORD_BYTES
