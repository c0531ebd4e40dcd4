"""Clipping bounds the norm of anything, and bad updates count for exactly nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab import dp, federated, pairs
from ppml_lab.dp import clip_by_global_norm, clipping, per_example

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


@pytest.mark.parametrize("name", clipping.RULES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), log_scale=st.floats(-6, 4))
def test_short_floats_keep_their_type_and_their_bound(name, dtype, seed, log_scale):
    """Rounding to the nearest would pass the bound by half a unit of the type."""
    rule = clipping.rule(name, 1.0)
    update = [jnp.asarray(leaf, dtype) for leaf in make_tree(seed, "many", log_scale)]
    clipped = clipping.clip(rule, update)
    assert {leaf.dtype for leaf in clipped} == {jnp.dtype(dtype)}
    before, after = norm_of(update), norm_of(clipped)
    if np.isfinite(before):
        assert after <= 1 + 1e-6
        if name == "flat":
            short = 2 * float(jnp.finfo(dtype).eps) + 1e-6 / float(before or 1)
            assert after >= min(before, 1) * (1 - short)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", clipping.RULES)
@pytest.mark.parametrize("value", [0.0, 1e-4, -1e-4, 1e-7])
@pytest.mark.parametrize("clip_norm", [1000.0, 1e38])
def test_a_factor_may_be_larger_than_the_type_can_hold(name, value, dtype, clip_norm):
    """1000 / 0.01 is infinite in float16, and 0 times infinity is no number."""
    mechanism = dp.gaussian(clip_norm, 0.0, rule=name)
    update = {"w": jnp.full(5, value, dtype), "b": jnp.zeros(2, dtype)}
    clipped: Any = mechanism.clip(jax.random.key(0), (), update)
    assert norm_of([clipped["b"]]) == 0
    largest = float(jnp.finfo(dtype).max)
    for leaf in clipped.values():
        assert np.all(np.abs(np.float64(leaf)) <= largest)
    assert norm_of(list(clipped.values())) <= clip_norm * (1 + 1e-6)


LAYERS = {
    "first": {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])},
    "second": {"kernel": jnp.array([[0.1]]), "bias": jnp.array([0.0])},
}


def test_per_layer_gives_every_layer_the_same_share():
    rule = clipping.rule("per_layer", 1.0)
    clipped = clipping.clip(rule, LAYERS)
    share = np.sqrt(0.5)
    np.testing.assert_allclose(
        [clipped["first"]["kernel"][0, 0], clipped["first"]["bias"][0]],
        [0.6 * share, 0.8 * share],
        rtol=1e-6,
    )
    # The second layer is within its share and stays.
    jax.tree.map(np.testing.assert_array_equal, clipped["second"], LAYERS["second"])


def test_per_layer_meets_its_bound_when_all_layers_are_long():
    long = jax.tree.map(lambda leaf: 100 * (leaf + 1), LAYERS)
    clipped = clipping.clip(clipping.rule("per_layer", 0.3), long)
    np.testing.assert_allclose(norm_of(jax.tree.leaves(clipped)), 0.3, rtol=1e-6)


def test_per_layer_counts_layers_at_any_depth():
    """A layer is what shares a parent, not what shares the first part of its path."""

    def block(size: int) -> dict:
        layer = {"kernel": np.full((size, 2), 1e3), "bias": np.full(2, 1e3)}
        return {"attention": {"query": layer, "key": layer}, "dense": layer}

    tree = {"params": {"first": block(2), "second": {"inner": block(3)}}, "top": [1e3]}
    tree = jax.tree.map(jnp.float32, tree)
    clipped = clipping.clip(clipping.rule("per_layer", 0.5), tree)
    np.testing.assert_allclose(norm_of(clipped), 0.5, rtol=1e-6)
    # Six layers in blocks, and what stands beside them.
    share = 0.5 / np.sqrt(7)
    for part in ("first", "second"):
        inside = clipped["params"][part]
        inside = inside.get("inner", inside)
        for layer in (*inside["attention"].values(), inside["dense"]):
            np.testing.assert_allclose(norm_of(layer), share, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_normalised_is_short_of_the_bound_by_the_stability(scale):
    update = jax.tree.map(lambda leaf: scale * leaf, LAYERS)
    before = float(norm_of(jax.tree.leaves(update)))
    clipped = clipping.clip(clipping.rule("normalised", 2.0), update)
    found = norm_of(jax.tree.leaves(clipped))
    np.testing.assert_allclose(found, 2.0 * before / (before + 0.01), rtol=1e-5)
    assert found < 2.0


OWN = {"first": 0.3, "second": 0.04}


def test_layers_have_norms_of_their_own_where_they_are_told():
    long = jax.tree.map(lambda leaf: 100 * (leaf + 1), LAYERS)
    rule = clipping.rule("per_layer", OWN)
    clipped = clipping.clip(rule, long)
    for layer, norm in OWN.items():
        np.testing.assert_allclose(norm_of(clipped[layer]), norm, rtol=1e-6)
    np.testing.assert_allclose(rule.norm_bound, np.hypot(0.3, 0.04), rtol=1e-12)
    # As one share each.
    share = {"first": np.sqrt(0.5), "second": np.sqrt(0.5)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        clipping.clip(clipping.rule("per_layer", share), LAYERS),
        clipping.clip(clipping.rule("per_layer", 1.0), LAYERS),
    )


def test_norms_of_layers_are_the_sensitivity_of_the_noise():
    mechanism = dp.gaussian(OWN, 1.5, rule="per_layer")
    np.testing.assert_allclose(mechanism.norm_bound(()), np.hypot(0.3, 0.04))
    np.testing.assert_allclose(mechanism.message_bound(()), np.hypot(0.3, 0.04))

    def bound(scale):
        norms = {layer: scale * norm for layer, norm in OWN.items()}
        return dp.gaussian(norms, 1.5, rule="per_layer").norm_bound(())

    traced = jax.jit(bound)(jnp.float32(2))
    np.testing.assert_allclose(traced, 2 * np.hypot(0.3, 0.04), rtol=1e-6)

    def at(number):
        return {layer: norm * 0.5 ** jnp.float32(number) for layer, norm in OWN.items()}

    halved = dp.scheduled_gaussian(at, 1.5, rule="per_layer")
    later = halved.norm_bound(jnp.int32(1))
    np.testing.assert_allclose(later, np.hypot(0.15, 0.02), rtol=1e-6)
    sampler = federated.poisson(100, 0.1)
    assert halved.event(sampler, 3) == mechanism.event(sampler, 3)


def test_norms_of_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"each of the layers .*second.* got .*third"):
        clipping.clip(clipping.rule("per_layer", {"first": 1.0, "third": 1.0}), LAYERS)
    with pytest.raises(ValueError, match=r'rule "flat" takes one clip_norm'):
        dp.gaussian(OWN, 1.0)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="clip_norm of layer 'second' must be"):
            dp.gaussian(OWN | {"second": bad}, 1.0, rule="per_layer")


@pytest.mark.parametrize("name", ["flat", "per_layer", "normalised"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_a_bad_leaf_silences_all_leaves_under_every_rule(name, bad):
    update = LAYERS | {"third": {"bias": jnp.array([bad])}}
    clipped = clipping.clip(clipping.rule(name, 1.0), update)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(clipped))


@pytest.mark.parametrize("name", ["flat", "per_layer", "normalised"])
def test_examples_are_clipped_as_updates_are(name):
    rows = jax.tree.map(
        lambda leaf: leaf * jnp.arange(4.0).reshape(4, *[1] * leaf.ndim), LAYERS
    )
    rule = clipping.rule(name, 1.5)
    one_by_one = jax.vmap(lambda row: clipping.clip(rule, row))(rows)
    weights = jnp.array([1.0, 1.0, 0.0, 1.0])
    expected = jax.tree.map(lambda leaf: leaf[0] + leaf[1] + leaf[3], one_by_one)
    gradients = per_example.whole(jnp.zeros(4), rows)
    found = pairs.value(clipping.clip_examples(rule, gradients, weights))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )


def test_bad_rules():
    with pytest.raises(ValueError, match=r"unknown clipping 'flatt'.*'flat'"):
        clipping.rule("flatt", 1.0)
    with pytest.raises(ValueError, match="clip_norm must be positive and finite"):
        clipping.rule("normalised", np.inf)
    with pytest.raises(ValueError, match="clip_norm must be positive, got 0"):
        clipping.rule("per_layer", 0.0)
