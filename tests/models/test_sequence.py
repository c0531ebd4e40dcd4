"""Sequences: tokens that count, padding that does not, means over tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, dp, federated, models
from ppml_lab.federated import scoring

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.integers(0, 5, (6, 4)).astype(np.int32)
Y = RNG.integers(0, 5, (6, 4)).astype(np.int32)
WEIGHTS = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0.5, 2, 0, 0], [0] * 4, [1, 1, 0, 0],
                    [0, 0, 0, 1]], np.float32)  # fmt: skip
ROWS = {"x": X, "y": Y, "weights": WEIGHTS}


class Bigrams(nn.Module):
    """Sees one token alone, and counts how often it was asked."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.Embed(5, 3)(x))


TASK: Any = models.flax_sequence(Bigrams(), 4)
EVALUATE = jax.jit(TASK.evaluate)


def nobody_predicts(params, rows) -> Any:
    """Where no metric is of all rows."""
    raise AssertionError


@pytest.fixture(scope="module")
def params():
    return jax.jit(TASK.init)(KEY)


def by_hand(params, rows):
    """Costs and hits of every token."""
    logits = np.asarray(jax.jit(Bigrams().apply)(params, rows["x"]), np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    costs = -np.take_along_axis(logs, rows["y"][..., None], -1)[..., 0]
    return costs, logits.argmax(-1) == rows["y"]


def test_an_example_s_loss_is_the_mean_over_its_own_tokens(params):
    costs, hits = by_hand(params, ROWS)
    total = WEIGHTS.sum(1)
    found = EVALUATE(params, ROWS)
    for name, values in (("loss", costs), ("accuracy", hits)):
        wanted = (WEIGHTS * values).sum(1) / np.where(total > 0, total, 1)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(TASK.weigh(ROWS), total)
    # Without weights all count, and so they do by truth values.
    whole = {"x": X, "y": Y}
    np.testing.assert_allclose(
        EVALUATE(params, whole)["loss"], costs.mean(1), rtol=1e-5
    )
    np.testing.assert_array_equal(
        TASK.weigh(whole | {"weights": WEIGHTS > 0}), (WEIGHTS > 0).sum(1)
    )


def test_padding_has_neither_loss_nor_gradient_whatever_stands_there(params):
    def loss(params, rows):
        return jnp.sum(TASK.loss(KEY, params, rows))

    gradient = jax.jit(jax.value_and_grad(loss))
    padded = ROWS | {"y": np.where(WEIGHTS == 0, -100, Y)}
    for one, other in zip(*map(jax.tree.leaves, (gradient(params, ROWS),
                                                 gradient(params, padded))),
                          strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)
    nothing = jax.tree.map(np.zeros_like, ROWS)
    value, grads = gradient(params, nothing)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_means_over_a_test_set_and_over_clients_are_means_over_tokens(params):
    costs, hits = by_hand(params, ROWS)
    owners = np.array([0, 0, 1, 2, 3, 3])
    judges: Any = (federated.client_evaluator(TASK, 4), federated.evaluator(TASK, 4),
              scoring.scorer(TASK, nobody_predicts, (), 4))  # fmt: skip
    clients = data.federate(ROWS, owners)
    of_clients, everybody, no_scores = jax.jit(
        lambda params: [
            judge(params, rows)
            for judge, rows in zip(judges, (clients, ROWS, ROWS), strict=True)
        ]
    )(params)
    for name, values in (("loss", costs), ("accuracy", hits)):
        np.testing.assert_allclose(
            [everybody[name], no_scores[name]],
            np.average(values, weights=WEIGHTS),
            rtol=1e-5,
        )
        for client in (0, 1, 3):
            own = owners == client
            np.testing.assert_allclose(
                of_clients[name][client],
                np.average(values[own], weights=WEIGHTS[own]),
                rtol=1e-5,
            )
        assert np.isnan(of_clients[name][2])  # of whom no token counts


def test_clipped_gradients_by_layers_are_those_of_vmap(params):
    mechanism = dp.gaussian(0.1, 1.0, privacy_unit="example")
    state = mechanism.init(KEY, params)
    keys, counts = dp.example_keys(KEY, 6), np.ones(6, np.float32)
    ghost, plain = (
        jax.jit(dp.clipped_gradient(TASK.loss, mechanism, method=method))(
            keys, state, params, ROWS, counts
        )
        for method in ("ghost", "vmap")
    )
    for one, other in zip(*map(jax.tree.leaves, (ghost, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    # Five examples of norm 0.1 at most, and one without gradient.
    assert 0.1 < optax.tree.norm(ghost[0]) <= 0.5 * (1 + 1e-5)


def test_what_no_example_can_be_judged_by_is_nan_or_an_error(params):
    wrong = {
        "a label": ROWS | {"y": np.where(np.arange(4) == 0, 5, Y)},
        "a weight": ROWS | {"weights": np.where(np.eye(6, 4) == 1, -1, WEIGHTS)},
    }
    messages = (r'"y" must lie in \[0, 5\).*got 5 in row 0', '"weights" must be .* -1')
    for rows, message in zip(wrong.values(), messages, strict=True):
        with pytest.raises(ValueError, match=message):
            TASK.evaluate(params, rows | {"x": jnp.asarray(X)})
        found = EVALUATE(params, rows)
        assert np.isnan(found["loss"][0])
        assert found["loss"][3] == 0 or np.isnan(found["loss"][3])
    broken = jax.tree.map(lambda leaf: leaf + np.nan, params)
    found = EVALUATE(broken, ROWS)
    np.testing.assert_array_equal(np.isnan(found["accuracy"]), WEIGHTS.any(1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"y": Y[:, 0]}, r'"y" must hold integer tokens .*\[6\]; .*cut or pad'),
        ({"x": X.astype(np.float32)}, r'"x" must hold integer tokens .*float32\[6, 4'),
        ({"y": Y[:, :3]}, r"tokens of the same shape, got \[6, 4\] and \[6, 3\]"),
        ({"weights": WEIGHTS[:, 0]}, r'"weights" must be numbers \[6, 4\].*\[6\]'),
        ({"weights": WEIGHTS.astype(complex)}, r'"weights" must be numbers .*complex'),
    ],
)
def test_sequences_of_other_shapes_are_refused(params, fields, message):
    for function in (TASK.evaluate, lambda *given: TASK.loss(KEY, *given)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(function, params, ROWS | fields)


@pytest.mark.parametrize("shape", [(6, 4), (6, 5), (6, 4, 1), (6, 3, 5)])
def test_logits_of_other_shapes_are_refused(shape):
    task = models.sequence(lambda key: jnp.zeros(2), lambda *given: jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"logits of 2 or more tokens .*got \["):
        jax.eval_shape(task.loss, KEY, jnp.zeros(2), ROWS)
    with pytest.raises(ValueError, match="length must be an integer of at least 1"):
        models.flax_sequence(Bigrams(), 0)


def test_weights_of_another_shape_than_the_examples_are_refused(params):
    task = TASK._replace(weigh=lambda examples: examples["weights"])
    with pytest.raises(ValueError, match=r"task.weigh must give one weight .* 6 ex"):
        federated.evaluator(task)(params, ROWS)
