"""Models of sequences tell each next token from those before, and from them alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import models
from ppml_lab.dp import ghost, per_example

KEY = jax.random.key(0)
TRANSFORMER = models.Transformer(
    7, max_length=6, width=4, num_blocks=1, num_heads=2, hidden=8
)
LSTM = models.CharLSTM(7, embedding=3, width=4)


def num_parameters(module, tokens):
    leaves = jax.tree.leaves(jax.eval_shape(module.init, KEY, tokens))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def some_parameters(module):
    """NumPy's: no initializer is compiled."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, KEY, jnp.zeros((1, 5), jnp.int32))
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes
    )


def test_sizes_are_those_of_their_layers():
    tokens = jnp.zeros((1, 5), jnp.int32)
    lstm = 90 * 8 + 4 * (8 + 256 + 1) * 256 + 4 * (256 + 256 + 1) * 256 + 257 * 90
    assert num_parameters(models.CharLSTM(90), tokens) == lstm == 820_522
    v, t, w, h = 90, 80, 128, 512
    block = 4 * w * (w + 1) + h * (w + 1) + w * (h + 1) + 4 * w
    transformer = v * w + t * w + 2 * block + 2 * w + v * (w + 1)
    assert num_parameters(models.Transformer(v, max_length=t), tokens) == transformer


@pytest.mark.parametrize("module", [TRANSFORMER, LSTM])
def test_logits_depend_on_no_later_token_and_on_no_other_example(module):
    tokens = np.random.default_rng(0).integers(7, size=(4, 5), dtype=np.int32)
    tokens[3] = tokens[0][[1, 0, 2, 3, 4]]
    changed = tokens.copy()
    changed[1, 3] = (changed[1, 3] + 1) % 7
    apply, params = jax.jit(module.apply), some_parameters(module)
    logits, others = apply(params, tokens), apply(params, changed)
    assert logits.shape == (4, 5, 7)
    found = np.abs(others - logits).max(axis=2)
    np.testing.assert_array_equal(found[1] > 1e-4, [False, False, False, True, True])
    np.testing.assert_allclose(found[[0, 2, 3]], 0, atol=1e-6)
    # The same words in another order: without positions a set, of one meaning.
    assert np.abs(logits[0] - logits[3])[2:].max() > 1e-4


def next_token_loss(module):
    def loss(key, params, tokens):
        del key
        logits = module.apply(params, tokens[:, :-1])
        told = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(told, tokens[:, 1:, None], axis=2)
        return -jnp.mean(right[..., 0], axis=1)

    return loss


@pytest.mark.parametrize(
    "module",
    [
        TRANSFORMER,
        # Its layers: tests/dp/test_ghost_sequences.py.
        pytest.param(LSTM, marks=pytest.mark.exhaustive),
    ],
)
def test_ghost_norms_are_those_of_gradients_one_by_one(module):
    """Of every leaf, to 1e-5 of the largest; sums of clipped gradients too."""
    tokens = np.random.default_rng(0).integers(7, size=(4, 6), dtype=np.int32)
    keys = jax.random.split(KEY, 4)
    loss = next_token_loss(module)

    def found(method, *given):
        gradients = method(keys, *given)
        squares = jax.tree.leaves(gradients.squared_norms)
        norms = jnp.sqrt(sum(squares))
        clipped = jnp.minimum(1, jnp.sort(norms)[1] / norms)
        factors = jax.tree.map(lambda _: clipped, gradients.squared_norms)
        return squares, gradients.weighted_sum(factors).high, norms

    got, wanted = (
        jax.jit(functools.partial(found, method))(some_parameters(module), tokens)
        for method in (ghost.by_layers(loss), per_example.by_vmap(loss))
    )
    for one, other in zip(got, wanted, strict=True):
        rounding = 1e-6 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
        for leaf, exact in zip(*map(jax.tree.leaves, (one, other)), strict=True):
            np.testing.assert_allclose(leaf, exact, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("module", [LSTM, TRANSFORMER])
def test_padding_may_be_any_integer_and_nothing_else_may(module):
    tokens = np.random.default_rng(0).integers(7, size=(4, 6), dtype=np.int32)
    task = models.flax_sequence(module, 6)
    params, weights = some_parameters(module), np.ones((4, 6), np.float32)
    weights[:, 4:] = 0

    @jax.jit
    def found(x):
        def loss(params):
            rows = {"x": x, "y": tokens, "weights": weights}
            return jnp.sum(task.loss(KEY, params, rows))

        return jax.value_and_grad(loss)(params)

    wanted = found(np.where(weights == 0, 0, tokens))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    for pad in (7, -1, 2**31 - 1):
        got = found(np.where(weights == 0, pad, tokens))
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert np.isnan(found(np.where(weights == 0, tokens, -1))[0])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            np.zeros((2, 7), np.int32),
            "length 7, .*max_length=6; build it with max_length=7",
        ),
        (np.zeros(5, np.int32), r"tokens \[n, length\], got \[5\]"),
        (np.zeros((2, 0), np.int32), r"got \[2, 0\]; pad or cut"),
        (np.zeros((2, 5), np.float32), r"integers in \[0, 7\), got float32"),
    ],
)
def test_tokens_that_it_cannot_read_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TRANSFORMER.init, KEY, tokens)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.Transformer(7, 6, width=6, num_heads=4), "6 for 4 heads"),
        (lambda: models.Transformer(7, 0), "max_length"),
        (lambda: models.Transformer(1, 6), "vocab_size"),
        (lambda: models.CharLSTM(7, num_layers=0), "num_layers"),
    ],
)
def test_models_without_size_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
