"""Sums of clipped per-example gradients, against closed forms in NumPy."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp

CLIP, CLASSES, FEATURES = 0.8, 3, 4
KEY = jax.random.key(0)


def loss(key, params, examples):
    """Multinomial logistic regression."""
    del key
    logits = jax.nn.log_softmax(examples["x"] @ params["w"] + params["b"])
    return -jnp.take_along_axis(logits, examples["y"][:, None], 1)[:, 0]


def by_layer(key, params, examples):
    """The same by flax, of which ghost norms know the layers."""
    del key
    own = {"kernel": params["w"], "bias": params["b"]}
    logits: Any = nn.Dense(CLASSES).apply({"params": own}, examples["x"])
    logits = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logits, examples["y"][:, None], 1)[:, 0]


# A method, and how many examples at once.
WAYS = [
    *(("vmap", size) for size in (None, 1, 4, 5, 12, 13, 100)),
    *(("ghost", size) for size in (None, 4, 13)),
]
FEW_WAYS = [("vmap", None), ("vmap", 3), ("ghost", None), ("ghost", 3)]


def problem(seed: int, n: int):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(FEATURES, CLASSES)), "b": rng.normal(size=CLASSES)}
    # Very different norms: some gradients are clipped and some are not.
    x = rng.normal(size=(n, FEATURES)) * rng.choice([0.1, 1, 10], size=(n, 1))
    examples = {
        "x": x.astype(np.float32),
        "y": rng.integers(0, CLASSES, n).astype(np.int32),
    }
    return jax.tree.map(jnp.float32, params), jax.tree.map(jnp.asarray, examples)


def by_hand(params, examples, weights, clip_norm):
    """(sum of clipped gradients, sum of losses, norms before), a loop in float64."""
    w, b = (np.asarray(params[name], np.float64) for name in "wb")
    total = {"w": np.zeros_like(w), "b": np.zeros_like(b)}
    losses, norms = 0.0, []
    for x, y, weight in zip(examples["x"], examples["y"], weights, strict=True):
        if weight == 0:
            continue
        x, y = np.asarray(x, np.float64), int(y)
        logits = x @ w + b
        probs = np.exp(logits - logits.max())
        probs /= probs.sum()
        losses -= np.log(probs[y])
        residual = probs - np.eye(CLASSES)[y]
        norm = np.linalg.norm(residual) * np.sqrt(x @ x + 1)
        scale = min(1.0, clip_norm / norm)
        total["w"] += scale * np.outer(x, residual)
        total["b"] += scale * residual
        norms.append(norm)
    return total, losses, np.array(norms)


def clipped(way=("vmap", None), clip_norm=CLIP):
    """`(key, params, examples, weights) -> sums`, without noise."""
    method, microbatch_size = way
    gradient = dp.clipped_gradient(
        by_layer if method == "ghost" else loss,
        dp.gaussian(clip_norm, 0.0, privacy_unit="example"),
        method=method,
        microbatch_size=microbatch_size,
    )

    def sums(key, params, examples, weights):
        keys = dp.example_keys(key, len(weights))
        return gradient(keys, (), params, examples, weights)

    return jax.jit(sums)


def assert_close(tree, expected):
    def check(leaf, wanted):
        np.testing.assert_allclose(leaf, wanted, rtol=2e-5, atol=2e-5)

    jax.tree.map(check, tree, expected)


@pytest.mark.parametrize("way", WAYS)
def test_clipped_gradient_is_the_loop_over_examples(way):
    params, examples = problem(0, 13)
    weights = jnp.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1], jnp.float32)
    total, losses, norms = by_hand(params, examples, weights, CLIP)
    assert (norms > CLIP).any()
    assert (norms < CLIP).any()
    grads, loss_sum = clipped(way)(KEY, params, examples, weights)
    assert_close(grads, total)
    np.testing.assert_allclose(loss_sum, losses, rtol=1e-5)


@pytest.mark.parametrize(("num_present", "num_computed"), [(0, 0), (3, 4), (9, 12)])
def test_microbatches_of_padding_are_not_computed(num_present, num_computed):
    params, examples = problem(0, 13)
    computed = []

    def heard(key, params, examples):
        jax.debug.callback(lambda label: computed.append(label), examples["y"][0])
        return loss(key, params, examples)

    mechanism = dp.gaussian(CLIP, 0.0, privacy_unit="example")
    gradient = dp.clipped_gradient(heard, mechanism, method="vmap", microbatch_size=4)
    weights = (jnp.arange(13) < num_present).astype(jnp.float32)
    keys = dp.example_keys(KEY, 13)
    found = jax.jit(gradient)(keys, (), params, examples, weights)
    jax.effects_barrier()
    assert len(computed) == num_computed
    total, losses, _ = by_hand(params, examples, weights, CLIP)
    assert_close(found, (total, np.float64(losses)))


def test_without_a_bound_it_is_the_gradient_of_the_masked_sum():
    params, examples = problem(1, 9)
    weights = jnp.array([1, 0, 1, 1, 0, 1, 1, 1, 1], jnp.float32)

    def masked(params):
        return jnp.sum(loss(KEY, params, examples) * weights)

    value, expected = jax.value_and_grad(masked)(params)
    for gradient in (clipped(clip_norm=float("inf")), dp.summed_gradient(loss)):
        grads, loss_sum = gradient(KEY, params, examples, weights)
        assert_close(grads, expected)
        np.testing.assert_allclose(loss_sum, value, rtol=1e-6)
    assert_close(by_hand(params, examples, weights, np.inf)[0], expected)


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_padded_row_counts_for_exactly_nothing(bad, way):
    params, examples = problem(2, 7)
    weights = jnp.array([1, 1, 0, 1, 1, 1, 0], jnp.float32)
    gradient = clipped(way)
    expected, losses = gradient(KEY, params, examples, weights)
    poisoned = examples | {"x": examples["x"].at[np.array([2, 6])].set(bad)}
    grads, loss_sum = gradient(KEY, params, poisoned, weights)
    jax.tree.map(np.testing.assert_array_equal, grads, expected)
    assert loss_sum == losses


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_present_bad_example_adds_exactly_zero_gradient(bad, way):
    params, examples = problem(3, 7)
    poisoned = examples | {"x": examples["x"].at[4].set(bad)}
    gradient = clipped(way)
    without = jnp.ones(7).at[4].set(0)
    expected, _ = gradient(KEY, params, examples, without)
    grads, _ = gradient(KEY, params, poisoned, jnp.ones(7))
    jax.tree.map(np.testing.assert_array_equal, grads, expected)


@pytest.mark.parametrize("way", FEW_WAYS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e15])
def test_one_example_moves_the_sum_by_at_most_the_clip_norm(scale, way):
    params, examples = problem(4, 10)
    gradient = clipped(way)
    moved = []
    for at in range(10):
        hostile = examples | {"x": examples["x"].at[at].multiply(scale)}
        with_it, _ = gradient(KEY, params, hostile, jnp.ones(10))
        without, _ = gradient(KEY, params, hostile, jnp.ones(10).at[at].set(0))
        change = jax.tree.map(jnp.subtract, with_it, without)
        moved.append(np.sqrt(sum(np.sum(np.square(c)) for c in change.values())))
    assert max(moved) <= CLIP * (1 + 1e-5)
    if scale > 1:
        assert max(moved) > 0.99 * CLIP  # and the bound is met


@pytest.mark.parametrize("way", FEW_WAYS)
def test_under_vmap_over_clients(way):
    problems = [problem(seed, 5) for seed in range(3)]
    params, examples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    weights = jnp.array(
        [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], jnp.float32
    )
    keys = jax.random.split(KEY, 3)
    gradient = clipped(way)
    grads, loss_sums = jax.vmap(gradient)(keys, params, examples, weights)
    for i, (own_params, own_examples) in enumerate(problems):
        total, losses, _ = by_hand(own_params, own_examples, weights[i], CLIP)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], grads), total)
        np.testing.assert_allclose(loss_sums[i], losses, rtol=1e-5)
    assert not any(np.any(leaf[2]) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("way", FEW_WAYS)
def test_every_example_has_its_own_key(way):
    """Losses that are nothing but noise differ, the same in any microbatches."""

    def random_loss(key, params, examples):
        scale = {"params": {"kernel": params}}
        values: Any = nn.Dense(1, use_bias=False).apply(scale, examples[:, None])
        return values[:, 0] * jax.random.normal(key, examples.shape)

    method, microbatch_size = way
    mechanism = dp.gaussian(float("inf"), 0.0, privacy_unit="example")
    gradient = dp.clipped_gradient(
        random_loss, mechanism, method=method, microbatch_size=microbatch_size
    )

    @jax.jit
    def summed(weights):
        keys = dp.example_keys(KEY, 7)
        sums, _ = gradient(keys, (), jnp.ones((1, 1)), jnp.ones(7), weights)
        return sums[0, 0]

    draws = [float(summed(row)) for row in jnp.eye(7)]
    assert len(set(draws)) == 7
    np.testing.assert_allclose(summed(jnp.ones(7)), sum(draws), rtol=1e-5)


@pytest.mark.parametrize("microbatch_size", [0, -1])
def test_bad_microbatch_size(microbatch_size):
    with pytest.raises(ValueError, match=f"microbatch_size .*got {microbatch_size}"):
        dp.clipped_gradient(
            loss,
            dp.gaussian(1.0, 0.0, privacy_unit="example"),
            microbatch_size=microbatch_size,
        )


@pytest.mark.parametrize(
    "mechanism", [dp.gaussian(1.0, 1.0), dp.local_gaussian(1.0, 1.0), dp.no_privacy()]
)
def test_a_mechanism_that_does_not_protect_examples_is_refused(mechanism):
    with pytest.raises(ValueError, match='privacy_unit="example"'):
        dp.clipped_gradient(loss, mechanism)
