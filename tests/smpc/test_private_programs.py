"""Whole programs on shares beside their results on reals: models as people write them,
and what is public in them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import random
from ppml_lab.smpc import private, ring, transcript

SEED = jnp.array([3, 5], jnp.uint32)
HOW = private.protocol(ideal=True)
STEP = 2.0**-16
FAST = {"xla_backend_optimization_level": 0}
"""Of compiling, which takes longest."""


def on_shares(function, *args, public=(), how=HOW):
    """The result of shared, and then of public arguments."""

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(*args):
        parts = random.child(SEED, jnp.arange(len(args) + 1))
        shared = [
            private.share(how, part, arg)
            for part, arg in zip(parts, args, strict=False)
        ]
        found = private.evaluate(how, parts[-1], function, *shared, *public)
        return private.reveal(how, found)

    return run(*args)


def check(function, *args, public=(), steps, relative=0.0, how=HOW):
    found = on_shares(function, *args, public=public, how=how)
    exact = jax.jit(function)(*args, *public)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=relative, atol=steps * STEP)


def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def masked_softmax(x):
    """By every usual number that stands for minus infinity."""
    mask = jnp.tril(jnp.ones((4, 4), bool))
    lows = (-1e4, -1e9, -np.inf, float(jnp.finfo(jnp.float32).min))
    scores = jnp.stack([jnp.where(mask, x, np.float32(low)) for low in lows])
    added = x + jnp.where(mask, np.float32(0), np.float32(-1e9))
    return jax.nn.softmax(jnp.concatenate([scores, added[None], 90 * x[None]]))


def test_public_masks_leave_exactly_nothing_of_what_they_hide():
    x = 3 * normal(0, 4, 4)
    found = on_shares(masked_softmax, x)
    np.testing.assert_allclose(found, jax.jit(masked_softmax)(x), atol=16 * STEP)
    hidden = np.broadcast_to(~np.tril(np.ones((4, 4), bool)), (5, 4, 4))
    assert (np.asarray(found)[:5][hidden] == 0).all()


def small_numbers(x):
    return {
        "layer norm": nn.LayerNorm().apply(
            {"params": {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}, x[0]
        ),
        # One division, as its code is long.
        "ratios": jnp.stack([x[1], jnp.ones_like(x[1])])
        / jnp.stack([1e-3 + jnp.abs(x[2]), 300 * x[3]]),
    }


def test_layers_of_small_numbers_keep_their_precision():
    """Of embeddings as they are initialised, with std 0.02."""
    x = jnp.concatenate([0.02 * normal(0, 3, 32), jnp.full((1, 32), -1.0)])
    found = on_shares(
        small_numbers, x, how=private.protocol(fraction_bits=20, ideal=True)
    )
    exact: Any = jax.jit(small_numbers)(x)
    step = 2.0**-20
    # A variance of 4e-4 is 420 steps, and off by up to one; quotients of sizes down to
    # 1e-3 by a step of the divisor in a thousand.
    np.testing.assert_allclose(found["layer norm"], exact["layer norm"], atol=5e-3)
    (ratio, inverse), (ratio_of_reals, inverse_of_reals) = (
        values["ratios"] for values in (found, exact)
    )
    np.testing.assert_allclose(ratio, ratio_of_reals, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(inverse, inverse_of_reals, atol=2 * step)


def public_factors(x, tiny, row):
    """However the program is written."""
    scanned = jax.lax.scan(lambda c, f: (c, c * f), x, tiny)[1]
    return (
        x * tiny[0], scanned, x * row, x / (1 / row), x @ (jnp.ones((3, 1)) * row),
        1e6 * x[:1] / jnp.array([2e5, 4e5, 1e6]), x * np.float32(1e-4), x / 1000,
    )  # fmt: skip


def test_public_factors_and_divisors_are_exact_whatever_their_size():
    x = jnp.array([1.0, -250.0, 3e4])
    tiny, row = jnp.array([1e-4, 3e-6]), jnp.array([1e-4, 2.0, 1.5e-5])
    found = on_shares(public_factors, x, public=(tiny, row))
    exact = jax.jit(public_factors)(x, tiny, row)
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=2 * STEP, atol=1.5 * STEP)


def test_public_divisors_and_bounds_need_no_bits_of_their_own():
    x = jnp.array([[1.0, 5.0]])
    divisors = jnp.array([2.0, 500.0])
    for function in (lambda x: x / divisors, lambda x: x / divisors[None]):
        assert max(private.check_ranges(HOW, function, x).values()) <= 64
    found = private.check_ranges(HOW, jnp.divide, x, divisors, public=[1])
    assert max(found.values()) <= 3 + 2 * 16 + 2
    bounds = lambda x: jnp.where(x > -jnp.inf, jnp.minimum(x, jnp.inf), -jnp.inf)  # noqa: E731
    assert max(private.check_ranges(HOW, bounds, x).values()) <= 64
    with pytest.raises(ValueError, match="public must hold positions of the 1"):
        private.check_ranges(HOW, jnp.negative, x, public=[1])


@pytest.mark.parametrize(
    ("function", "value", "named"),
    [
        (lambda x: 1 / x, 1e-7, "div of 1e-07"),
        (jax.lax.rsqrt, 1e-6, "rsqrt of 1e-06"),
        (jnp.log, -1.0, "log of -1"),
        (jnp.sqrt, -0.5, "sqrt of -0.5"),
        (jnp.exp, 40.0, "exp of 40"),
        (lambda x: x**-2, 1e-4, "integer_pow of 1e-08"),
    ],
)
def test_arguments_outside_of_an_approximations_domain_are_named(
    function, value, named
):
    def layer(x):
        with jax.named_scope("head"):
            return function(x)

    with pytest.raises(ValueError, match=f"layer head: {named} saturates"):
        private.check_ranges(HOW, layer, jnp.array([2.0, value]))
    private.check_ranges(HOW, layer, jnp.array([2.0, 0.5]))


def test_inputs_have_to_fit_too():
    how = private.protocol(ring=ring.Z32, fraction_bits=15)
    with pytest.raises(
        ValueError, match="layer the inputs needs 35 bits, but the ring has 32"
    ):
        private.check_ranges(how, lambda x: x, jnp.array([2e5]))
    with pytest.raises(ValueError, match=r"scale values down$"):
        private.check_ranges(HOW, lambda x: x * x, jnp.array([1e12]))


class Block(nn.Module):
    """Of GPT-2, with embeddings: two heads, a causal mask, the tied head."""

    @nn.compact
    def __call__(self, ids, width=8):
        embed = nn.Embed(11, width, embedding_init=nn.initializers.normal(0.02))
        x = embed(ids) + nn.Embed(16, width)(jnp.arange(ids.shape[-1]))
        mask = nn.make_causal_mask(ids)
        h = nn.LayerNorm()(x)
        attention: Any = nn.MultiHeadDotProductAttention(2)
        x = x + attention(h, h, mask=mask)
        h = nn.Dense(2 * width)(nn.LayerNorm()(x))
        x = x + nn.Dense(width)(nn.gelu(h))
        logits = embed.attend(nn.LayerNorm()(x))
        return jax.nn.log_softmax(logits), jnp.argmax(logits, -1)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_block_of_gpt2_on_public_tokens():
    ids = jnp.array([[3, 1, 4, 1, 5]])
    params = Block().init(jax.random.key(0), ids)
    found, words = on_shares(Block().apply, params, public=(ids,))
    exact, classes = Block().apply(params, ids)
    np.testing.assert_allclose(found, exact, atol=2e-3)
    np.testing.assert_array_equal(words, classes)


class ResNet(nn.Module):
    """A stem with a padded pool, one residual block with BatchNorm, a mean."""

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        x = nn.relu(norm()(nn.Conv(4, (3, 3), strides=2, use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        h = nn.relu(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        h = norm()(nn.Conv(6, (3, 3), use_bias=False)(h))
        x = nn.relu(h + norm()(nn.Conv(6, (1, 1), use_bias=False)(x)))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        return nn.Dense(3)(x.mean((1, 2)))


def resnet():
    images = normal(1, 2, 12, 12, 3)
    params: Any = ResNet().init(jax.random.key(0), images)
    spread = lambda v: v * jnp.exp(normal(2, *v.shape))  # noqa: E731
    stats = jax.tree.map(spread, params["batch_stats"])
    return params | {"batch_stats": stats}, images


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_resnet_on_shares():
    with jax.numpy_dtype_promotion("standard"):
        check(ResNet().apply, *resnet(), steps=600)


def logistic(x, y):
    def loss(w):
        logits = x @ w["w"] + w["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def binary(w):
        return optax.sigmoid_binary_cross_entropy(x @ w, (y > 0).astype(x.dtype)).mean()

    weights = {"w": jnp.ones((4, 3)) * 0.5, "b": jnp.zeros(3)}
    return jax.value_and_grad(loss)(weights), jax.value_and_grad(binary)(x[0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_logistic_regressions_by_autodiff():
    check(logistic, normal(0, 6, 4), public=(jnp.array([0, 2, 1, 1, 0, 2]),), steps=40)


def test_what_has_no_private_form_is_found_all_at_once_by_layer():
    def function(x, ids):
        with jax.named_scope("one"):
            x = jnp.sort(jnp.sin(x)) + x[ids]
        with jax.named_scope("two"):
            return jax.nn.softplus(jnp.cos(x)), jax.lax.fori_loop(
                0, 2, lambda i, y: jnp.tan(y), x
            )

    x, ids = jax.ShapeDtypeStruct((3,), jnp.float32), jnp.array([0, 1, 1])
    found = private.unsupported(function, x, ids, public=[1])
    flat = {layer: [m.split()[0] for m in named] for layer, named in found.items()}
    assert flat.pop("one") == ["sin", "sort"]
    assert {name for names in flat.values() for name in names} == {"cos", "tan"}
    assert all(layer.startswith("two") for layer in flat)
    assert private.unsupported(jnp.add, x, x) == {}
    with transcript.recording() as recorder:
        private.unsupported(jax.nn.relu, x)
    assert recorder.messages == []


def test_seeds_are_words_or_keys():
    x = jnp.ones(2)
    by_key = private.share(HOW, jax.random.key(4), x)
    by_words = private.share(HOW, random.seed(jax.random.key(4)), x)
    np.testing.assert_array_equal(by_key.shares.low, by_words.shares.low)
    for wrong in (0, jnp.zeros(3, jnp.uint32), jax.random.split(jax.random.key(0))):
        with pytest.raises(ValueError, match="seed must be"):
            private.share(HOW, wrong, x)
        with pytest.raises(ValueError, match="seed must be"):
            private.evaluate(HOW, wrong, jnp.negative, by_key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1 + 2j], "must be real, got complex128"),
        ([1.0, np.nan], "must be finite"),
        ([-np.inf], "must be finite"),
        ([2**24], "whole numbers below 2\\^24"),
        ([1e15], "must be below 1.4.*e\\+14"),
        (["a"], "must be real"),
    ],
)
def test_what_shares_cannot_hold_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        private.share(HOW, SEED, np.asarray(values))


def test_what_depends_on_no_secret_is_revealed_as_it_is():
    shared = private.constant(HOW, jnp.ones(2))
    tree = private.evaluate(HOW, SEED, lambda x: (x + 1, jnp.arange(3)), shared)
    opened = private.reveal(HOW, tree)
    np.testing.assert_array_equal(opened[0], [2, 2])
    np.testing.assert_array_equal(opened[1], [0, 1, 2])


def test_rows_that_there_are_not_are_refused():
    shared = private.constant(HOW, jnp.arange(10.0))
    np.testing.assert_array_equal(
        private.reveal(HOW, private.rows(shared, 6, 4)), [6, 7, 8, 9]
    )
    for begin, count in ((8, 4), (-1, 2), (0, 11)):
        with pytest.raises(ValueError, match="select rows among the 10"):
            private.rows(shared, begin, count)


# `test_private` compares what a CNN sends, by either kind.
@pytest.mark.parametrize(
    "kind", [pytest.param("additive", marks=pytest.mark.exhaustive), "replicated"]
)
def test_approximations_send_in_ideal_mode_what_the_parties_send(kind):
    def sent(how):
        def evaluated(x):
            shared = private.share(how, SEED, x)
            function = lambda x: (jnp.exp(x), 1 / x, jnp.argmax(x))  # noqa: E731
            return private.evaluate(how, SEED, function, shared)

        return transcript.priced(evaluated, jax.ShapeDtypeStruct((3,), jnp.float32))

    full, ideal = (sent(private.protocol(kind, ideal=i)) for i in (False, True))
    assert full.messages == ideal.messages
    assert full.num_rounds() == ideal.num_rounds() >= 30


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["additive", "replicated"])
@pytest.mark.parametrize("function", [jnp.exp, jnp.reciprocal], ids=["exp", "inverse"])
def test_approximations_of_all_parties_give_the_bits_of_the_ideal_mode(kind, function):
    x = jnp.array([0.3, -4.0, 1.5])
    full, ideal = (
        on_shares(function, x, how=private.protocol(kind, ideal=ideal))
        for ideal in (False, True)
    )
    np.testing.assert_array_equal(full, ideal)


def repeated(x, y):
    """Operations on the same numbers again, also in loops and branches."""
    one = jnp.ones(()) > 0
    branches = [jax.lax.cond(one, jnp.multiply, lambda x, y: x, x, y) for _ in range(2)]
    loop = jax.lax.scan(lambda c, _: (c, x * y), 0, length=3)[1]
    return x * y, x * y, branches, loop, x @ y, x @ y, x + 0 > y, y < x + 0


@pytest.mark.parametrize(
    "kind", ["additive", pytest.param("replicated", marks=pytest.mark.exhaustive)]
)
def test_no_two_operations_use_the_same_randomness(kind):
    """Equal products of equal numbers have different shares, by all masks."""
    how = private.protocol(kind, ring=ring.Z32, fraction_bits=12)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(x, y):
        shared = private.share(how, SEED, (x, y))
        found = private.evaluate(how, random.child(SEED, 1), repeated, *shared)
        again = private.evaluate(how, random.child(SEED, 2), jnp.multiply, *shared)
        return shared, found, again

    shared, found, again = run(jnp.array([1.5, 1.5]), jnp.array([2.0, 2.0]))
    words = []
    for value in jax.tree.leaves((*shared, found, again), is_leaf=private.is_shared):
        # The last parties' shares: the first's follows from the value.
        words.append(np.asarray(value.shares)[1:].ravel())
    every = np.concatenate(words)
    assert len(np.unique(every)) == len(every)
