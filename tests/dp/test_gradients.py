"""Sums of clipped per-example gradients, against closed forms in NumPy."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp
from ppml_lab.dp import tokens

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


@functools.cache
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


def test_microbatches_take_rows_of_numpy_as_whole_batches_do():
    params, examples = problem(0, 5)
    rows = jax.tree.map(np.asarray, examples)
    mechanism = dp.gaussian(CLIP, 0.0, privacy_unit="example")
    given = (dp.example_keys(KEY, 5), (), params, rows, jnp.ones(5))
    found, wanted = (
        dp.clipped_gradient(loss, mechanism, method="vmap", microbatch_size=size)(
            *given
        )
        for size in (2, None)
    )
    assert_close(found, wanted)


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
    params, examples = problem(4, 7)
    gradient = clipped(way)
    moved = []
    for at in range(7):
        hostile = examples | {"x": examples["x"].at[at].multiply(scale)}
        with_it, _ = gradient(KEY, params, hostile, jnp.ones(7))
        without, _ = gradient(KEY, params, hostile, jnp.ones(7).at[at].set(0))
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


def moved_by(total, examples, at, weights, params):
    """How far leaving one example out moves the total, in float64."""
    keys = dp.example_keys(KEY, len(weights))

    def exact(weights):
        found, _ = total(keys, (), params, examples, weights)
        return [
            np.float64(high) + np.float64(low)
            for high, low in zip(*map(jax.tree.leaves, found), strict=True)
        ]

    full = exact(weights)
    changes = [
        one - other
        for one, other in zip(full, exact(weights.at[at].set(0)), strict=True)
    ]
    return np.sqrt(sum(np.sum(change**2) for change in changes))


def linear(key, params, examples):
    """A loss whose gradient is the example, by a layer that ghost norms know."""
    del key
    outputs: Any = nn.Dense(1, use_bias=False).apply(
        {"params": {"kernel": params}}, examples
    )
    return outputs[:, 0]


@functools.cache
def total_of_linear(method, microbatch):
    return jax.jit(
        dp.clipped_total(
            linear,
            dp.gaussian(1.0, 0.0, privacy_unit="example"),
            method=method,
            microbatch_size=microbatch,
        )
    )


@pytest.mark.parametrize(("method", "microbatch"), [("ghost", None), ("vmap", 1000)])
@pytest.mark.parametrize("kind", ["aligned", "equal", "grow and cancel"])
def test_one_of_a_hundred_thousand_examples_moves_the_sum_by_the_clip_norm(
    method, microbatch, kind
):
    """float32 sums err by 1e-2 clip norms here."""
    n = 100_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=5) + 0.01 * rng.normal(size=(n, 5))
    if kind == "equal":
        x = np.ones((n, 5)) * (1 + 1e-6 * rng.integers(0, 9, size=(n, 1)))
    if kind == "grow and cancel":
        x[n // 2 :] *= -1
    total = total_of_linear(method, microbatch)
    params, examples = jnp.zeros((5, 1)), jnp.asarray(3 * x, jnp.float32)
    for at in (0, n // 3, n - 1):
        moved = moved_by(total, examples, at, jnp.ones(n), params)
        assert 1 - 1e-5 <= moved <= 1 + 1e-5


class Short(nn.Module):
    """A model whose layers compute in a short type."""

    dtype: Any
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.tanh(nn.Conv(4, (3, 3), strides=2, **kinds)(x))
        h = nn.LayerNorm(**kinds)(h).reshape(x.shape[0], -1, 8)
        h = nn.tanh(nn.Dense(6, **kinds)(h)).reshape(x.shape[0], -1)
        return nn.Dense(3, **kinds)(h).astype(jnp.float32)


@pytest.mark.parametrize(
    ("method", "dtype", "param_dtype"),
    [
        ("ghost", jnp.bfloat16, jnp.float32),
        ("vmap", jnp.float16, None),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                ("ghost", jnp.float16, None),
                ("vmap", jnp.bfloat16, None),
                ("vmap", jnp.float16, jnp.float32),
                ("ghost", jnp.bfloat16, None),
                ("ghost", jnp.float16, jnp.float32),
                ("vmap", jnp.bfloat16, jnp.float32),
            ]
        ),
    ],
)
@jax.numpy_dtype_promotion("standard")  # flax's LayerNorm promotes
def test_short_floats_are_clipped_and_summed_in_float32(method, dtype, param_dtype):
    model, n = Short(dtype, param_dtype or dtype), 300
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 8, 1)) + 0.3 * rng.normal(size=(n, 8, 8, 1))
    examples = {"x": jnp.asarray(x, dtype), "y": jnp.zeros(n, int).at[:9].set(1)}
    params = jax.jit(model.init)(KEY, examples["x"][:1])

    def loss(key, params, examples):
        outputs: Any = model.apply(params, examples["x"])
        logits = jax.nn.log_softmax(outputs)
        return -jnp.take_along_axis(logits, examples["y"][:, None], 1)[:, 0]

    total = jax.jit(
        dp.clipped_total(
            loss,
            dp.gaussian(0.1, 1.0, privacy_unit="example"),
            method=method,
            microbatch_size=150,
        )
    )
    found, _ = total(dp.example_keys(KEY, n), (), params, examples, jnp.ones(n))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    for at in (0, n - 1):
        moved = moved_by(total, examples, at, jnp.ones(n), params)
        assert 0.09 < moved <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("size", [1e2, 1e3, 1e4, 1e5])
def test_an_example_whose_places_cancel_keeps_to_its_bound(size):
    """Gram matrices lose what is below 1e-7 of the places' squares."""
    rng = np.random.default_rng(0)
    d, n = 64, 70

    def unit():
        vector = rng.normal(size=d)
        return vector / np.linalg.norm(vector)

    x, v = unit(), [size * unit() for _ in range(n)]
    w = [3e-4 * size * unit() for _ in range(n)]
    examples = {
        "x": jnp.asarray(np.broadcast_to([x, x], (n, 2, d)), jnp.float32),
        "e": jnp.asarray([[a, b - a] for a, b in zip(v, w, strict=True)], jnp.float32),
    }

    def loss(key, params, examples):
        outputs: Any = nn.Dense(d, use_bias=False).apply(
            {"params": {"kernel": params}}, examples["x"]
        )
        return jnp.sum(outputs * examples["e"], axis=(1, 2))

    total = jax.jit(
        dp.clipped_total(
            loss, dp.gaussian(1.0, 0.0, privacy_unit="example"), method="ghost"
        )
    )
    true = np.linalg.norm(np.float64(examples["e"]).sum(axis=1), axis=1)
    true *= np.linalg.norm(np.float64(examples["x"][0, 0]))
    for at in (0, 33, n - 1):
        alone = jnp.zeros(n).at[at].set(1)
        for weights in (alone, jnp.ones(n)):
            moved = moved_by(total, examples, at, weights, jnp.zeros((d, d)))
            assert moved <= 1 + 1e-5
            # Nothing harmless is scaled down or lost.
            assert moved >= min(1, true[at]) * (1 - 2e-2)


def products_of(jaxpr):
    """The precisions of all dot products, those inside of loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda part: hasattr(part, "eqns") or hasattr(part, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products_of(inner)


@pytest.mark.parametrize("n", [5, 130, 300])
@pytest.mark.parametrize(
    ("left", "right", "shape"),
    [
        ((None,), (3, 4), (4,)),
        ((1, 9), (1, 7), (9, 7)),
        ((2, 64), (2, 64), (64, 64)),
        ((9, 3), (9, 4), (3, 4)),
        (None, (3, 4), (6, 4)),
    ],
)
def test_norms_and_sums_are_of_whole_float32_products(n, left, right, shape):
    """What accelerators take by default is shorter, and would pass the bound."""

    def both(values, lefts, factors):
        kept = {None: lefts, (None,): None}.get(left, values[0])
        found = tokens.gradients([tokens.Tokens(kept, values[1])], shape)
        return found.squared_norms, found.weighted_sum(factors)

    values = [
        jnp.zeros((n, *(side if side and side[0] else (1, 1))))
        for side in (left, right)
    ]
    rows = jnp.zeros((n, right[0]), jnp.int32)
    found = [*products_of(jax.make_jaxpr(both)(values, rows, jnp.ones(n)).jaxpr)]
    highest = jax.lax.Precision.HIGHEST
    assert all(precision == (highest, highest) for precision in found)
    assert len(found) >= (0 if left == (None,) and n == 5 else 1)


@pytest.mark.parametrize("method", ["summed", "vmap", "ghost", "auto"])
@pytest.mark.parametrize(
    ("reduce", "shape"),
    [
        (lambda losses: jnp.mean(losses), r"\(\)"),
        (lambda losses: jnp.mean(losses, keepdims=True), r"\(1,\)"),
        (lambda losses: losses[:, None], r"\(\d, 1\)"),
        (lambda losses: jnp.tile(losses[:, None], 8), r"\(\d, 8\)"),
        # As many as there are in the batch, or in one of a single example.
        (lambda losses: jnp.full(8, jnp.mean(losses)), r"\(8,\)"),
    ],
)
def test_losses_are_one_for_each_example(method, reduce, shape):
    params, examples = problem(0, 8)

    def wrong(key, params, examples):
        return reduce(by_layer(key, params, examples))

    mechanism = dp.gaussian(1.0, 0.0, privacy_unit="example")

    def summed():
        if method == "summed":
            return dp.summed_gradient(wrong)(KEY, params, examples, jnp.ones(8))
        gradient = dp.clipped_gradient(wrong, mechanism, method=method)
        return gradient(dp.example_keys(KEY, 8), (), params, examples, jnp.ones(8))

    message = f"task.loss gave a float32 of shape {shape} for .*, with means only"
    with pytest.raises(ValueError, match=message):
        summed()


def test_labels_that_spread_over_the_batch_are_refused():
    """Labels [8, 8] and logits [8, 3] make losses [8, 8] of no example."""
    params, examples = problem(0, 8)
    spread = examples | {"y": jnp.tile(examples["y"][:, None], 8)}

    def broadcast(key, params, examples):
        logits = jax.nn.log_softmax(examples["x"] @ params["w"] + params["b"])
        return -jnp.take_along_axis(logits, examples["y"], 1)

    with pytest.raises(ValueError, match=r"of shape \(9, 8\) for 9 examples"):
        dp.summed_gradient(broadcast)(KEY, params, spread, jnp.ones(8))
