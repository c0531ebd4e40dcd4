"""Models have their published sizes; any `(init, apply)` pair makes a task."""

from typing import Any

import flax.linen as nn
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
        *(
            pytest.param(module, (17, 16, 1), marks=pytest.mark.exhaustive)
            for module in (models.LeNet(3), models.TutorialCNN(3))
        ),
    ],
)
def test_models_give_one_row_of_logits_per_example(module, shape):
    task = models.flax_classification(module, shape)
    params = jax.jit(task.init)(KEY)
    apply = jax.jit(module.apply)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    logits = apply(params, x)
    assert logits.shape[0] == 3
    assert logits.ndim == 2
    for i in range(3):  # no example sees another
        alone = apply(params, x[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i], rtol=1e-4, atol=1e-5)
    examples = {"x": x, "y": jnp.array([0, 1, 2])}
    assert jax.eval_shape(task.loss, KEY, params, examples).shape == (3,)


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


def evaluated(params, y, x=((1.0, 2.0),)):
    """Loss and accuracy by a linear model of three classes."""
    x = jnp.tile(jnp.asarray(x), (len(y), 1))
    task = linear_task(2, 3)
    return jax.jit(task.evaluate)(params, {"x": x, "y": jnp.asarray(y)})


@pytest.mark.parametrize(
    "logits",
    [[np.nan] * 3, [0, 0, np.nan], [0, np.inf, 0], [-np.inf] * 3, [np.inf, -np.inf, 0]],
)
def test_a_model_that_has_diverged_has_no_accuracy(logits):
    params = jnp.zeros((2, 3)), jnp.asarray(logits, jnp.float32)
    found = evaluated(params, [0, 1, 2])
    assert np.isnan(found["accuracy"]).all()
    assert not np.isfinite(found["loss"]).all()
    assert np.isnan(found["accuracy"].mean())


def test_classes_that_are_masked_do_no_harm():
    params = jnp.zeros((2, 3)), jnp.array([0.0, 1.0, -jnp.inf])
    found = evaluated(params, [0, 1, 2])
    np.testing.assert_array_equal(found["accuracy"], [0, 1, 0])
    np.testing.assert_array_equal(np.isfinite(found["loss"]), [True, True, False])


def test_one_example_that_is_not_finite_spoils_its_own_metrics_alone():
    params = jnp.ones((2, 3)), jnp.array([0.0, 0.0, 1.0])
    x = jnp.array([[1.0, 2], [jnp.nan, 0], [1, 2]])
    y = jnp.array([2, 0, 0])
    found = linear_task(2, 3).evaluate(params, {"x": x, "y": y})
    np.testing.assert_array_equal(found["accuracy"], [1, np.nan, 0])
    np.testing.assert_array_equal(np.isnan(found["loss"]), [False, True, False])


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, np.uint32])
def test_labels_that_are_no_class_are_refused_or_nan(dtype):
    task = linear_task(2, 3)
    params = task.init(KEY)
    y = np.array([0, 2, 3, -1]).astype(dtype)  # unsigned: 255 and the like
    examples = {"x": np.ones((4, 2), np.float32), "y": y}
    for function in (task.evaluate, lambda *args: task.loss(KEY, *args)):
        with pytest.raises(ValueError, match=r'"y" must lie in \[0, 3\).* 3 in row 2'):
            function(params, examples)
    on_device = jax.tree.map(jnp.asarray, examples)
    found = jax.jit(task.evaluate)(params, on_device)
    losses = jax.jit(task.loss)(KEY, params, on_device)
    for values in (found["loss"], found["accuracy"], losses):
        np.testing.assert_array_equal(np.isnan(values), [False, False, True, True])


def test_a_thousand_classes_and_labels_of_one_byte():
    task = models.classification(
        lambda key: {"b": jnp.arange(1000.0)},
        lambda params, x: x @ jnp.zeros((1, 1000)) + params["b"],
    )
    examples = {"x": np.zeros((2, 1), np.float32), "y": np.array([3, 255], np.uint8)}
    found = task.evaluate(task.init(KEY), examples)
    np.testing.assert_allclose(found["loss"], 1000 - np.array([3.5415, 255.5415]), 1e-6)


X, Y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"x": X, "y": Y.astype(np.float32)}, r'"y" must .* float32\[n\]; .*astype'),
        ({"x": X, "y": Y > 0}, r'"y" must .* bool\[n\]; .*astype'),
        ({"x": X, "y": np.eye(3)[Y]}, r'"y" must .* float64\[n, 3\]; .*argmax'),
        ({"x": X, "y": np.eye(3, dtype=int)[Y]}, r'"y" must .*\[n, 3\]; .*argmax'),
        ({"x": X, "y": Y[:, None]}, r'"y" must .*\[n, 1\]; .*\[:, 0\]'),
        ({"x": X, "y": np.tile(Y, (4, 1))}, r'"y" must .*\[n, 4\]; .*positions'),
        ({"x": X, "y": Y.astype(str)}, r'"y" must .*numpy.unique'),
        ({"x": X, "y": Y[0]}, r'"y" must .*\[\]; '),
        ({"x": X, "y": Y[:3]}, r'\[4, 3\] for 3 labels in "y"'),
        ((X, Y), 'examples must be a dict of "x" .* got tuple'),
        ({"image": X, "label": Y}, r"got keys \['image', 'label'\]"),
    ],
)
def test_examples_of_another_form_are_refused_with_the_cure(examples, message):
    task = linear_task(2, 3)
    params = task.init(KEY)
    for function in (task.evaluate, lambda *args: task.loss(KEY, *args)):
        with pytest.raises(ValueError, match=message):
            function(params, examples)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda params, x: x.reshape(-1)[:3], r"one row .*got \[3\] for 4"),
        (lambda params, x: jnp.zeros((1, 3)), r"one row .*got \[1, 3\] for 4"),
        (lambda params, x: jnp.zeros((4, 2, 3)), r"one row .*got \[4, 2, 3\] for 4"),
        (lambda params, x: jnp.zeros((4, 1)), "of at least 2 classes, got 1"),
        (lambda params, x: jnp.zeros((4, 3), jnp.complex64), "real logits"),
        (lambda params, x: jnp.zeros((4, 3), jnp.int32), "real logits"),
    ],
)
def test_logits_of_another_form_are_refused(apply, message):
    task = models.classification(lambda key: jnp.zeros(2), apply)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(task.loss, KEY, task.init(KEY), {"x": X, "y": Y})


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (jnp.arange(3), "int32"),
        (jnp.zeros(3, bool), "bool"),
        (0, "int32"),
        (jnp.zeros(3, jnp.complex64), "complex64"),
    ],
)
def test_parameters_that_have_no_gradient_are_named(leaf, dtype):
    params = {"layer": {"steps": leaf, "w": jnp.zeros(2)}}
    task = models.classification(lambda key: params, lambda params, x: x)
    with pytest.raises(ValueError, match=rf"\['layer'\]\['steps'\] of {dtype}"):
        jax.eval_shape(task.init, KEY)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (models.CNN(10), (28, 28), r"CNN takes images .* got \[1, 28, 28\]; .* axis"),
        (models.LeNet(10), (1, 28, 28, 1), "LeNet takes images"),
        (models.TutorialCNN(10), (784,), "TutorialCNN takes images"),
        (models.CNN(10), (3, 8, 1), "too small for CNN: its convolutions leave 0x2"),
        (models.LeNet(10), (8, 8, 1), "too small for LeNet"),
        (models.TutorialCNN(10), (4, 4, 1), "too small for TutorialCNN"),
        (models.logistic(2), (), "input_shape is empty"),
        (models.logistic(2), (3, 0), r"input_shape\[1\] must be an integer of at le"),
    ],
)
def test_shapes_that_a_model_cannot_take_are_named(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(models.flax_classification(module, shape).init, KEY)


@pytest.mark.parametrize(
    "model", [models.logistic, models.two_nn, models.CNN, models.LeNet]
)
@pytest.mark.parametrize("num_classes", [0, 1, True])
def test_models_of_fewer_than_two_classes_are_refused(model, num_classes):
    with pytest.raises(ValueError, match="num_classes must be"):
        model(num_classes)


def test_layers_without_width_are_refused():
    with pytest.raises(ValueError, match="features is empty"):
        models.MLP(())
    with pytest.raises(ValueError, match=r"features\[1\] must be"):
        models.MLP((3, 0))


def test_layers_that_want_random_numbers_are_named():
    class Dropped(nn.Module):
        training: bool = False

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=not self.training)(x))

    task = models.flax_classification(Dropped(), (3,))
    rows = {"x": jnp.ones((2, 3)), "y": jnp.array([0, 1])}
    params = task.init(KEY)
    assert set(task.evaluate(params, rows)) == {"loss", "accuracy"}
    with pytest.raises(ValueError, match=r"as Dropout does.*leave such layers out"):
        task.loss(KEY, params, rows)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        shift = self.variable("tables", "shift", lambda: jnp.int32(1))
        x = nn.BatchNorm(use_running_average=True)(jnp.ldexp(x, shift.value))
        return nn.Dense(2)(x)


def test_flax_trains_the_collection_of_parameters_alone():
    task = models.flax_classification(Normalised(), (3,))
    variables = task.init(KEY)
    assert task.roles is not None
    roles = task.roles(variables)
    assert set(roles) == {"params", "batch_stats", "tables"}
    for name, collection in roles.items():
        expected = "trainable" if name == "params" else "constant"
        assert set(jax.tree.leaves(collection)) == {expected}


def test_integers_are_an_error_only_where_they_are_trained():
    def init(key):
        return {"w": jnp.zeros((3, 2)), "words": jnp.arange(3)}

    def apply(params, x):
        return x[:, params["words"]] @ params["w"]

    with pytest.raises(ValueError, match=r"\['words'\] of int32.*'constant' in the"):
        models.classification(init, apply).init(KEY)
    roles = {"w": "trainable", "words": "constant"}
    task = models.classification(init, apply, roles=lambda params: roles)
    assert task.init(KEY)["words"].dtype == jnp.int32
    with pytest.raises(ValueError, match=r"\['w'\] of int32"):
        models.classification(
            lambda key: {"w": jnp.zeros(3, int), "words": jnp.arange(3)},
            apply,
            roles=lambda params: roles,
        ).init(KEY)
