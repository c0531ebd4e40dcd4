"""Additive shares open to the secret, and all but one of them are uniform words."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab import smpc
from ppml_lab.smpc import sharing

EDGES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
words = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**32 - 1))
each_count = pytest.mark.parametrize("num_parties", [2, 3, 4, 5])


@pytest.mark.parametrize("x64", [False, True])
@each_count
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    secret=st.lists(words, min_size=6, max_size=6),
)
@example(seed=0, secret=[*EDGES, 0])
def test_shares_open_to_the_secret(x64, num_parties, seed, secret):
    with jax.enable_x64(x64):
        value = jnp.asarray(np.array(secret, np.uint32).reshape(2, 3))
        shares = smpc.share(jax.random.key(seed), value, num_parties)
        assert shares.shape == (num_parties, 2, 3)
        assert shares.dtype == jnp.uint32
        exact = np.asarray(shares).astype(object).sum(axis=0) % 2**32
        assert exact.ravel().tolist() == secret
        opened = smpc.reconstruct(shares)
        assert opened.dtype == jnp.uint32
        assert np.ravel(opened).tolist() == secret


@each_count
def test_sums_of_shares_are_shares_of_the_sum(num_parties):
    one, two = (jnp.asarray(np.array(e, np.uint32)) for e in (EDGES, EDGES[::-1]))
    first = smpc.share(jax.random.key(0), one, num_parties)
    second = smpc.share(jax.random.key(1), two, num_parties)
    np.testing.assert_array_equal(smpc.reconstruct(first + second), one + two)


def test_all_shares_are_needed():
    secret = jnp.zeros(1000, jnp.uint32)
    shares = smpc.share(jax.random.key(0), secret, 3)
    for left_out in range(3):
        opened = smpc.reconstruct(jnp.delete(shares, left_out, axis=0))
        assert np.mean(np.asarray(opened) == 0) < 0.01


def least_p_value(shares: np.ndarray) -> float:
    """The least of chi-square p-values, times how many there were (Bonferroni).

    Of every byte of every combination, with coefficients -1, 0, 1, of all shares but
    one: words that are uniform together have only uniform combinations.
    """
    num_parties = len(shares)
    p_values = []
    for signs in itertools.product((-1, 0, 1), repeat=num_parties):
        if not any(signs) or all(signs):
            continue
        combined = (np.array(signs, np.int32).view(np.uint32)[:, None] * shares).sum(
            axis=0, dtype=np.uint32
        )
        for byte in range(4):
            counts = np.bincount((combined >> (8 * byte)) & 255, minlength=256)
            p_values.append(scipy.stats.chisquare(counts).pvalue)
    return min(p_values) * len(p_values)


def many_shares(secret: int, num_parties: int, across_keys: bool) -> np.ndarray:
    """`[num_parties, 20000]`, of one long array or of one word by many keys."""
    key = jax.random.key(num_parties)
    if not across_keys:
        long = jnp.full(20_000, secret, jnp.uint32)
        return np.asarray(smpc.share(key, long, num_parties))
    word = jnp.asarray(secret, jnp.uint32)
    share = jax.jit(jax.vmap(lambda key: smpc.share(key, word, num_parties)))
    return np.asarray(share(jax.random.split(key, 20_000))).T


@pytest.mark.parametrize("across_keys", [False, True])
@pytest.mark.parametrize("secret", [0, 0xDEADBEEF])
@pytest.mark.parametrize("num_parties", [2, 3, 4])
def test_all_shares_but_one_are_uniform_whatever_the_secret(
    num_parties, secret, across_keys
):
    assert least_p_value(many_shares(secret, num_parties, across_keys)) > 1e-3


def test_the_test_of_uniformity_rejects_leaks():
    shares = many_shares(0, 3, False)
    one_mask_for_all = np.stack([-(shares[1] + shares[1]), shares[1], shares[1]])
    assert least_p_value(one_mask_for_all) < 1e-9
    in_the_clear = np.stack([0 * shares[0], shares[1], -shares[1]])
    assert least_p_value(in_the_clear) < 1e-9
    top_bit_missing = shares.copy()
    top_bit_missing[1] &= 0x7FFFFFFF
    assert least_p_value(top_bit_missing) < 1e-9


@pytest.mark.parametrize("num_parties", [1, 0, -3])
def test_too_few_parties(num_parties):
    with pytest.raises(ValueError, match=f"num_parties .*2, got {num_parties}"):
        sharing.share(jax.random.key(0), jnp.zeros(3, jnp.uint32), num_parties)
