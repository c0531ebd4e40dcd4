"""Models have their published sizes; any `(init, apply)` pair makes a task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, federated, models

KEY = jax.random.key(0)
MNIST = (28, 28, 1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (models.logistic(10), 7_850),
        (models.two_nn(10), 199_210),
        (models.CNN(10), 1_663_370),
        (models.LeNet(10), 44_426),
        (models.TutorialCNN(10), 26_010),
    ],
)
def test_parameter_counts_of_the_papers(module, expected):
    task = models.flax_classification(module, MNIST)
    shapes = jax.eval_shape(task.init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (models.logistic(10), MNIST),
        (models.two_nn(7), (3, 5)),
        (models.CNN(4), (4, 8, 3)),
        (models.LeNet(3), (17, 16, 1)),
        (models.TutorialCNN(3), (17, 16, 1)),
    ],
)
def test_models_give_one_row_of_logits_per_example(module, shape):
    task = models.flax_classification(module, shape)
    params = task.init(KEY)
    apply = jax.jit(module.apply)
    x = jax.random.normal(KEY, (3, *shape))
    logits = apply(params, x)
    assert logits.shape[0] == 3
    assert logits.ndim == 2
    for i in range(3):  # no example sees another
        alone = apply(params, x[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i], rtol=1e-4, atol=1e-5)
    examples = {"x": x, "y": jnp.array([0, 1, 2])}
    assert task.loss(KEY, params, examples).shape == (3,)


def test_mlp_is_relu_between_dense_layers():
    module = models.MLP((5, 2))
    params: Any = module.init(KEY, jnp.zeros((1, 2, 3)))
    first, last = (params["params"][f"Dense_{i}"] for i in (0, 1))
    x = jax.random.normal(KEY, (4, 2, 3))
    hidden = np.maximum(x.reshape(4, 6) @ first["kernel"] + first["bias"], 0)
    assert (hidden == 0).any()
    expected = hidden @ last["kernel"] + last["bias"]
    logits = jnp.asarray(module.apply(params, x))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def linear_task(num_features: int, num_classes: int):
    """Not flax: a plain pair of functions on a tuple of arrays."""

    def init(key):
        weights = 0.1 * jax.random.normal(key, (num_features, num_classes))
        return weights, jnp.zeros(num_classes)

    return models.classification(init, lambda params, x: x @ params[0] + params[1])


def softmax(logits):
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def test_losses_and_metrics_per_example_against_numpy():
    task = linear_task(4, 3)
    params = task.init(KEY)
    rng = np.random.default_rng(0)
    x = (30 * rng.normal(size=(50, 4))).astype(
        np.float32
    )  # some very sure, some very wrong
    y = rng.integers(0, 3, 50).astype(np.int32)
    examples = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    logits = x @ np.asarray(params[0], np.float64) + np.asarray(params[1], np.float64)
    peak = logits.max(-1)
    log_sum = peak + np.log(np.exp(logits - peak[:, None]).sum(-1))
    expected = log_sum - logits[np.arange(50), y]
    losses = task.loss(KEY, params, examples)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    metrics = task.evaluate(params, examples)
    assert set(metrics) == {"loss", "accuracy"}
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4, atol=1e-5)
    hits = logits.argmax(-1) == y
    assert 0 < hits.sum() < 50
    np.testing.assert_array_equal(metrics["accuracy"], hits.astype(np.float32))


def test_any_pair_trains_by_one_round_of_federated_averaging():
    """One full-batch step each: the server takes the mean of the clients' steps."""
    task = linear_task(2, 3)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 2)).astype(np.float32)
    y = rng.integers(0, 3, 9).astype(np.int32)
    owners = np.repeat([0, 1, 2], [4, 2, 3])
    trainer = federated.local_sgd(task, optax.sgd(0.5), batch_size=8, num_steps=1)
    algorithm = federated.averaging(task, trainer, federated.everyone(3))
    state = algorithm.init(KEY)
    clients = data.federate({"x": x, "y": y}, owners)
    after, info = jax.jit(algorithm.round)(jax.random.key(1), state, clients)

    weights, bias = (np.array(leaf, np.float64) for leaf in state.params)
    residual = softmax(x @ weights + bias) - np.eye(3)[y]
    for client in range(3):
        own = owners == client
        weights -= 0.5 / 3 * x[own].T @ residual[own] / own.sum()
        bias -= 0.5 / 3 * residual[own].mean(0)
    np.testing.assert_allclose(after.params[0], weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.params[1], bias, rtol=1e-5, atol=1e-6)
    assert info["cohort_size"] == 3
    before, now = (
        task.loss(KEY, s.params, {"x": jnp.asarray(x), "y": jnp.asarray(y)}).mean()
        for s in (state, after)
    )
    assert now < before


def test_a_flax_task_trains_too():
    task = models.flax_classification(models.logistic(2), (3,))
    x = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    clients = data.federate({"x": x, "y": y}, np.repeat(np.arange(4), 10))
    trainer = federated.local_sgd(task, optax.sgd(1.0), batch_size=5, num_epochs=2)
    algorithm = federated.averaging(task, trainer, federated.everyone(4))
    state = algorithm.init(KEY)
    step = jax.jit(algorithm.round)
    for number in range(3):
        state, _ = step(jax.random.key(number), state, clients)
    examples = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    assert task.evaluate(state.params, examples)["accuracy"].mean() > 0.9
