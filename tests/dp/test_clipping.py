"""Clipping bounds the norm of anything, and bad updates count for exactly nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab.dp import clip_by_global_norm

clip = jax.jit(clip_by_global_norm)
SHAPES = {"one": [(7,)], "scalar": [()], "many": [(3, 2), (), (4,), (1, 1, 5), (2,)]}


def norm_of(tree) -> float:
    """In float64, leaf by leaf."""
    return float(
        np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))
    )


def make_tree(seed: int, shapes: str, log_scale: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    leaves = [10**log_scale * rng.normal(size=shape) for shape in SHAPES[shapes]]
    return [np.asarray(leaf, np.float32) for leaf in leaves]


@pytest.mark.parametrize("shapes", SHAPES)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    log_scale=st.floats(-15, 18),
    log_clip=st.floats(-10, 10),
)
@example(seed=0, log_scale=18, log_clip=-10)
@example(seed=0, log_scale=-15, log_clip=10)
@example(seed=1, log_scale=0, log_clip=0)
def test_norm_is_bounded_and_small_updates_are_kept(shapes, seed, log_scale, log_clip):
    update, clip_norm = make_tree(seed, shapes, log_scale), np.float32(10**log_clip)
    clipped, norm = clip(update, clip_norm)
    before = norm_of(update)
    np.testing.assert_allclose(norm, before, rtol=1e-6)
    assert norm_of(clipped) <= clip_norm * (1 + 1e-6)
    if before <= clip_norm * (1 - 1e-6):
        jax.tree.map(np.testing.assert_array_equal, clipped, update)
    else:
        # Scaled down, not projected: exactly to the bound, in the same direction.
        np.testing.assert_allclose(norm_of(clipped), min(before, clip_norm), rtol=2e-6)
        for leaf, old in zip(clipped, update, strict=True):
            np.testing.assert_allclose(
                np.float64(leaf) * before, np.float64(old) * clip_norm, rtol=3e-6
            )


def test_the_norm_is_of_all_leaves_together():
    clipped, norm = clip({"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}, 1.0)
    np.testing.assert_allclose(norm, 5, rtol=1e-6)
    np.testing.assert_allclose(clipped["a"], [0.6], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[0.8]], rtol=1e-6)


def test_zero_stays_zero():
    clipped, norm = clip([jnp.zeros(3), jnp.zeros(())], 1e-3)
    assert norm == 0
    assert norm_of(clipped) == 0


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("log_scale", [-15, 0, 18])
def test_an_infinite_bound_changes_no_bit(shapes, log_scale):
    update = make_tree(3, shapes, log_scale)
    for bound in (jnp.inf, float("inf")):
        clipped, _ = clip(update, bound)
        for leaf, old in zip(clipped, update, strict=True):
            assert np.asarray(leaf).tobytes() == old.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("clip_norm", [1.0, np.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_a_bad_value_makes_the_whole_update_zero(bad, clip_norm, at):
    update = [np.ones(3, np.float32), np.ones((2, 2), np.float32)]
    update[at].flat[1] = bad
    clipped, norm = clip(update, clip_norm)
    assert not np.isfinite(norm)
    for leaf in clipped:
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_rows_of_a_vmap_are_clipped_apart():
    rows = jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 1.0], [0.0, 0.0]])
    clipped, norms = jax.vmap(clip_by_global_norm, in_axes=(0, None))(rows, 1.0)
    expected = [[0.6, 0.8], [0.3, 0.4], [0, 0], [0, 0]]
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 0.5, np.nan, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_keep_their_type_and_their_bound_up_to_rounding(dtype):
    clipped, _ = clip([jnp.full(100, 3, dtype), jnp.ones(2, dtype)], 1.0)
    assert {leaf.dtype for leaf in clipped} == {jnp.dtype(dtype)}
    assert norm_of(clipped) <= 1 + 2 * float(jnp.finfo(dtype).eps)
