"""Pytree helpers: masks that silence NaN, a key per leaf, rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import trees


def test_where_silences_nan_and_infinity():
    tree = {"a": jnp.array([1.0, jnp.nan, jnp.inf]), "b": jnp.ones((3, 2))}
    tree["b"] = tree["b"].at[1].set(jnp.nan)
    chosen = trees.where(jnp.array([True, False, False]), tree, 0.0)
    np.testing.assert_array_equal(chosen["a"], [1, 0, 0])
    np.testing.assert_array_equal(chosen["b"], [[1, 1], [0, 0], [0, 0]])


def test_where_masks_leading_axes_of_every_leaf():
    mask = jnp.array([[True, False, True], [False, True, False]])
    tree = (jnp.ones((2, 3)), jnp.ones((2, 3, 4), jnp.int32), jnp.ones((2, 3, 4, 5)))
    for leaf, chosen in zip(tree, trees.where(mask, tree, 7), strict=True):
        expected = np.where(np.asarray(mask), 1, 7)
        expected = expected.reshape(2, 3, *[1] * (leaf.ndim - 2))
        np.testing.assert_array_equal(chosen, np.broadcast_to(expected, leaf.shape))
        assert chosen.dtype == leaf.dtype


def test_where_with_a_scalar_mask_takes_all_or_nothing():
    tree = {"a": jnp.arange(3.0), "b": jnp.float32(5)}
    for mask in (True, False):
        chosen = trees.where(jnp.array(mask), tree, -1.0)
        np.testing.assert_array_equal(chosen["a"], [0, 1, 2] if mask else [-1] * 3)
        np.testing.assert_array_equal(chosen["b"], 5 if mask else -1)


def test_where_takes_the_other_tree_leaf_by_leaf():
    mask = jnp.array([True, False])
    tree = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([3, 4]),)}
    other = {"a": jnp.array([jnp.nan, 20.0]), "b": (jnp.array([30, 40]),)}
    chosen = trees.where(mask, tree, other)
    assert jax.tree.structure(chosen) == jax.tree.structure(tree)
    np.testing.assert_array_equal(chosen["a"], [1, 20])
    np.testing.assert_array_equal(chosen["b"][0], [3, 40])
    with pytest.raises(ValueError, match="different numbers of pytree children"):
        trees.where(mask, tree, {"a": jnp.zeros(2)})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.uint32, jnp.bool_])
def test_where_keeps_types(dtype):
    chosen = jax.jit(trees.where)(jnp.array([True, False]), jnp.ones(2, dtype), 0.0)
    assert chosen.dtype == dtype
    np.testing.assert_array_equal(chosen, [1, 0])


def test_leaf_keys_are_distinct_and_in_the_trees_structure():
    tree = {"a": jnp.zeros(3), "b": [jnp.zeros(3), (jnp.zeros(()), jnp.zeros(1))]}
    seen = set()
    for seed in range(20):
        key = jax.random.key(seed)
        keys = trees.leaf_keys(key, tree)
        assert jax.tree.structure(keys) == jax.tree.structure(tree)
        for leaf_key in (key, *jax.tree.leaves(keys)):
            assert jnp.issubdtype(leaf_key.dtype, jax.dtypes.prng_key)
            seen.add(tuple(jax.random.key_data(leaf_key).tolist()))
    assert len(seen) == 20 * 5


def test_leaf_keys_do_not_depend_on_the_values():
    key = jax.random.key(0)
    one, two = (trees.leaf_keys(key, {"a": v, "b": v}) for v in (0.0, 1.0))
    for name in "ab":
        assert (jax.random.key_data(one[name]) == jax.random.key_data(two[name])).all()


def test_take_gathers_rows_of_every_leaf():
    tree = {"x": jnp.arange(12).reshape(4, 3), "y": jnp.arange(4.0)}
    rows = jnp.array([3, 0, 3])
    taken = jax.jit(trees.take)(tree, rows)
    np.testing.assert_array_equal(taken["x"], [[9, 10, 11], [0, 1, 2], [9, 10, 11]])
    np.testing.assert_array_equal(taken["y"], [3, 0, 3])
    np.testing.assert_array_equal(trees.take(tree, jnp.array(2))["x"], [6, 7, 8])


def test_as_vector_and_back_with_leading_axes_and_another_dtype():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.float32(7), jnp.ones(2))}
    vector, cut = trees.as_vector(tree)
    np.testing.assert_array_equal(vector, [0, 1, 2, 3, 4, 5, 7, 1, 1])
    back = cut(vector)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    stacked = cut(jnp.stack([vector, vector]).astype(jnp.uint32))
    assert stacked["a"].shape == (2, 2, 3)
    assert stacked["b"][0].shape == (2,)
    assert stacked["a"].dtype == jnp.uint32
