"""`permute` is a bijection for every key and size, and close to a uniform shuffle."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab import random

LONGEST = 5000
whole = jax.jit(
    lambda key, size: random.permute(key, jnp.arange(LONGEST, dtype=jnp.int32), size)
)


def permutation(key: jax.Array, size: int) -> np.ndarray:
    """All of it, by the one program compiled for a traced size."""
    return np.asarray(whole(key, jnp.int32(size)))[:size]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, LONGEST))
@example(seed=0, size=1)
@example(seed=1, size=2)
@example(seed=2, size=3)
@example(seed=3, size=64)
@example(seed=4, size=4096)
@example(seed=5, size=127)
@example(seed=6, size=4999)
@example(seed=2**32 - 1, size=LONGEST)
def test_is_a_bijection(seed, size):
    order = permutation(jax.random.key(seed), size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 2**31 - 1), data=st.data())
def test_distinct_positions_stay_distinct_and_inside_at_any_size(seed, size, data):
    drawn = data.draw(
        st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
    )
    key, positions = jax.random.key(seed), jnp.array(drawn, jnp.int32)
    image = np.asarray(jit_permute(key, positions, jnp.int32(size)))
    assert image[0] != image[1]
    assert (image >= 0).all()
    assert (image < size).all()


jit_permute = jax.jit(random.permute)


vmap_positions = jax.jit(jax.vmap(random.permute, in_axes=(None, 0, None)))


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 100])
def test_each_element_can_be_computed_alone(size):
    key = jax.random.key(7)
    positions = jnp.arange(100, dtype=jnp.int32)[::-1] % size
    alone = vmap_positions(key, positions, jnp.int32(size))
    assert alone.dtype == positions.dtype
    np.testing.assert_array_equal(alone, permutation(key, size)[positions])


def test_a_known_size_gives_the_same_outside_jit():
    key, positions = jax.random.key(8), jnp.array([[4, 2], [0, 16]], jnp.int32)
    together = random.permute(key, positions, 17)
    np.testing.assert_array_equal(together, permutation(key, 17)[positions])


def test_lanes_with_their_own_key_and_size():
    keys = jax.random.split(jax.random.key(3), 4)
    sizes = jnp.array([1, 5, 8, 100], jnp.int32)
    positions = jnp.arange(100, dtype=jnp.int32)
    lanes = jax.jit(jax.vmap(random.permute, in_axes=(0, None, 0)))(
        keys, positions, sizes
    )
    for key, size, lane in zip(keys, sizes.tolist(), lanes, strict=True):
        np.testing.assert_array_equal(lane[:size], permutation(key, size))


def test_keys_differ_also_in_one_word_only():
    base_words = np.array([123, 456], np.uint32)
    orders = set()
    for word, bit in itertools.product((0, 1), range(32)):
        words = base_words.copy()
        words[word] ^= np.uint32(1 << bit)
        key = jax.random.wrap_key_data(jnp.asarray(words))
        orders.add(tuple(permutation(key, 50).tolist()))
    assert len(orders) == 64


def permutations(size: int, num_keys: int, fold: bool = False) -> np.ndarray:
    """`[num_keys, size]`: one permutation per key, split or folded."""
    key = jax.random.key(size)
    if fold:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            key, jnp.arange(num_keys, dtype=jnp.uint32)
        )
    else:
        keys = jax.random.split(key, num_keys)
    positions = jnp.arange(size, dtype=jnp.int32)
    shuffle = jax.jit(jax.vmap(lambda key: random.permute(key, positions, size)))
    return np.asarray(shuffle(keys))


def least_p_value(orders: np.ndarray) -> float:
    """The least of chi-square p-values, times how many there were (Bonferroni).

    Where each position goes, where each pair goes, and, for up to 5 elements, which of
    all permutations it is.
    """
    size = orders.shape[1]
    counts = [np.bincount(orders[:, i], minlength=size) for i in range(size)]
    for i, j in itertools.combinations(range(size), 2):
        pairs = np.bincount(orders[:, i] * size + orders[:, j], minlength=size**2)
        counts.append(np.delete(pairs, np.arange(size) * (size + 1)))
    if size <= 5:
        which = np.zeros(math.factorial(size), int)
        lookup = {p: n for n, p in enumerate(itertools.permutations(range(size)))}
        for order in orders.tolist():
            which[lookup[tuple(order)]] += 1
        counts.append(which)
    p_values = [scipy.stats.chisquare(c).pvalue for c in counts if len(c) > 1]
    return min(p_values) * len(p_values)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("size", [3, 5, 13])
def test_is_close_to_a_uniform_shuffle(size, fold):
    assert least_p_value(permutations(size, 20_000, fold)) > 1e-3


@pytest.mark.parametrize("size", [3, 5, 8, 13])
def test_the_test_of_uniformity_rejects_rotations(size):
    offsets = np.random.default_rng(0).integers(0, size, 20_000)
    rotations = (np.arange(size) + offsets[:, None]) % size
    assert least_p_value(rotations) < 1e-9


@pytest.mark.parametrize("size", [4, 13])
def test_the_test_of_uniformity_rejects_a_short_network(size, monkeypatch):
    monkeypatch.setattr(random, "_SWAP_ROUNDS", 4)
    assert least_p_value(permutations(size, 20_000)) < 1e-9


def test_long_permutations_mix_neighbours():
    """In a uniform shuffle neighbours end up as far apart as any two elements."""
    orders = permutations(1000, 200)
    distances = np.abs(np.diff(orders.astype(float), axis=1)).mean()
    assert abs(distances - 1001 / 3) < 5 * 236 / np.sqrt(200 * 999 / 2)
    displaced = np.abs(orders - np.arange(1000)).mean()
    assert abs(displaced - 1000 / 3) < 5 * 236 / np.sqrt(200 * 1000 / 2)
