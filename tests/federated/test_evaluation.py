"""Evaluation in batches is the mean over all examples, and over each client's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, data, federated
from ppml_lab.federated import scoring

PARAMS = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}


@pytest.mark.parametrize("batch_size", [1, 4, 6, 17, 18, 1000])
def test_batches_of_any_size_give_the_mean(regression, clients, batch_size):
    evaluate = jax.jit(federated.evaluator(regression, batch_size))
    found = evaluate(PARAMS, clients.examples)
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    residuals = x @ np.asarray(PARAMS["w"]) + 0.1 - y
    assert found.keys() == {"squared"}
    assert found["squared"].shape == ()
    np.testing.assert_allclose(found["squared"], np.mean(residuals**2), rtol=1e-5)


def test_every_example_counts_once(regression, clients):
    # Ruin one example after the other; padding repeats the last one.
    evaluate = jax.jit(federated.evaluator(regression, 5))
    for row in (0, 4, 5, 16, 17):
        y = clients.examples["y"].at[row].add(100.0)
        params = {"w": jnp.zeros(2), "b": jnp.float32(0)}
        found = evaluate(params, {"x": clients.examples["x"], "y": y})["squared"]
        np.testing.assert_allclose(found, np.mean(np.asarray(y, float) ** 2), rtol=1e-5)


def test_a_metric_that_is_not_finite_is_not_hidden(regression, clients):
    y = clients.examples["y"].at[3].set(jnp.nan)
    evaluate = federated.evaluator(regression, 5)
    found = evaluate(PARAMS, {"x": clients.examples["x"], "y": y})
    assert np.isnan(found["squared"])


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_each_client_has_the_mean_over_its_own(
    regression, clients, batch_size, num_devices
):
    mesh = federated.client_mesh(num_devices)
    evaluate = jax.jit(federated.client_evaluator(regression, batch_size, mesh))
    found = evaluate(PARAMS, clients)["squared"]
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    squares = (x @ np.asarray(PARAMS["w"]) + 0.1 - y) ** 2
    means = [part.mean() for part in np.split(squares, clients.offsets[1:-1])]
    np.testing.assert_allclose(found, means, rtol=1e-5)
    sharded = data.shard(clients, federated.sharded_by_client(mesh))
    by_shard = evaluate(PARAMS, sharded)["squared"]
    np.testing.assert_allclose(by_shard, means, rtol=1e-5)
    everybody = federated.evaluator(regression, batch_size, mesh)
    total = jax.jit(everybody)(PARAMS, clients.examples)["squared"]
    np.testing.assert_allclose(total, squares.mean(), rtol=1e-5)


def test_the_spread_over_clients_by_hand():
    sizes = np.arange(1, 13)
    clients = base.Clients((), jnp.asarray(np.concatenate([[0], sizes.cumsum()])))
    accuracy = jnp.linspace(0.1, 0.9, 12)[::-1]
    found = federated.client_spread(
        {"accuracy": accuracy, "loss": 1 - accuracy}, clients
    )
    expected = {
        "client_accuracy": np.mean(accuracy),
        "client_accuracy_weighted": np.average(accuracy, weights=sizes),
        "client_accuracy_std": np.std(accuracy),
        # Two of twelve are the worst tenth, rounded up.
        "client_accuracy_worst_decile": np.mean(accuracy[-2:]),
        "client_loss_worst_decile": 1 - np.mean(accuracy[-2:]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    assert len(found) == 8


def test_clients_weigh_by_what_counts_in_their_examples():
    """Tokens of three clients: 3 and 1, none, 2; all of the last one's are wrong."""
    labels = jnp.array([[1, 1, 1], [1, -1, -1], [-1, -1, -1], [1, 1, -1]])
    clients = base.Clients({"y": labels}, jnp.array([0, 2, 3, 4]))

    def evaluate(params, examples):
        counts = jnp.sum(examples["y"] >= 0, axis=1)
        return {"accuracy": jnp.where(counts == 2, 0.0, params)}

    task = base.Task(
        lambda key: 1.0,
        lambda key, params, examples: jnp.zeros(len(examples["y"])),
        evaluate,
        weigh=lambda examples: jnp.sum(examples["y"] >= 0, axis=1),
    )
    each = federated.client_evaluator(task)(jnp.float32(1.0), clients)
    np.testing.assert_array_equal(each["accuracy"], [1, np.nan, 0])
    found = federated.client_spread(each, clients, task=task)
    assert found["client_accuracy_weighted"] == pytest.approx(4 / 6)
    assert found["client_accuracy"] == pytest.approx(0.5)
    assert found["client_accuracy_worst_decile"] == 0.0
    by_examples = federated.client_spread(each, clients)
    assert np.isnan(by_examples["client_accuracy"])


def spread(values, metric="loss", sizes=None, **directions):
    """The `client_spread` of one metric, without the metric's name."""
    sizes = np.ones(len(values), int) if sizes is None else sizes
    clients = base.Clients((), jnp.asarray(np.concatenate([[0], np.cumsum(sizes)])))
    found = federated.client_spread(
        {metric: jnp.asarray(values, jnp.float32)}, clients, **directions
    )
    prefix = f"client_{metric}"
    return {name.removeprefix(prefix): float(value) for name, value in found.items()}


@pytest.mark.parametrize(
    ("metric", "directions", "worst"),
    [
        ("top5", {}, 0.0),
        ("balanced_accuracy", {}, 0.0),
        ("F1-macro", {}, 0.0),
        ("mean_squared", {}, 1.0),
        ("perplexity", {}, 1.0),
        ("utility", {"higher_is_better": ["utility"]}, 0.0),
        ("harm", {"lower_is_better": ["harm"]}, 1.0),
        # What is said goes before what the name says.
        ("accuracy", {"lower_is_better": ["accuracy"]}, 1.0),
    ],
)
def test_the_worst_are_the_lowest_where_higher_is_better(metric, directions, worst):
    found = spread(np.linspace(0, 1, 11), metric, **directions)
    # Two of eleven: the mean of 0 and 0.1, or of 1 and 0.9.
    assert found["_worst_decile"] == pytest.approx(0.05 if worst == 0 else 0.95)


@pytest.mark.parametrize(
    ("metric", "directions"),
    [
        ("utility", {}),
        ("utility", {"higher_is_better": ["accuracy"]}),
        ("top5_error", {}),
        ("harm", {"higher_is_better": ["harm"], "lower_is_better": ["harm"]}),
    ],
)
def test_a_metric_whose_direction_is_not_known_is_refused(metric, directions):
    with pytest.raises(ValueError, match=f"'{metric}' .*higher_is_better"):
        spread([0.0, 1.0], metric, **directions)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_client_whose_metric_is_nan_is_the_worst(metric):
    found = spread([0.5] * 15 + [np.nan] + [0.7] * 4, metric)
    assert all(np.isnan(value) for value in found.values())


def test_clients_without_examples_have_nan_and_are_left_out(regression, clients):
    offsets = jnp.array([0, 0, 7, 7, 18, 18])
    examples = jax.tree.map(np.asarray, clients.examples)
    some_empty = base.Clients(examples, offsets)
    found = federated.client_evaluator(regression, 5)(PARAMS, some_empty)["squared"]
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    squares = (x @ np.asarray(PARAMS["w"]) + 0.1 - y) ** 2
    means = [squares[:7].mean(), squares[7:].mean()]
    np.testing.assert_array_equal(np.isnan(found), [True, False, True, False, True])
    np.testing.assert_allclose(found[jnp.array([1, 3])], means, rtol=1e-5)
    of_all = spread(found, "squared", np.diff(offsets))
    assert of_all["_weighted"] == pytest.approx(squares.mean(), rel=1e-5)
    assert of_all[""] == pytest.approx(np.mean(means), rel=1e-5)
    assert of_all["_std"] == pytest.approx(np.std(means), rel=1e-4)
    assert of_all["_worst_decile"] == pytest.approx(max(means), rel=1e-5)


def test_a_test_set_on_the_host_is_one_on_the_device(regression, clients):
    on_host = jax.tree.map(np.asarray, clients.examples)
    evaluate = federated.evaluator(regression, 5)
    found = evaluate(PARAMS, on_host)["squared"]
    np.testing.assert_array_equal(found, evaluate(PARAMS, clients.examples)["squared"])


def labels_as_loss(key, params, examples):
    return examples["y"]


X, Y = np.ones((6, 2), np.float32), np.ones(6, np.float32)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"x": X[:0], "y": Y[:0]}, "the test set holds no examples"),
        ({}, "the test set holds no examples"),
        ({"x": X, "y": Y[:4]}, r"the same length, got .*'x'\]: 6, .*'y'\]: 4"),
        ({"x": X, "y": np.array(["a"] * 6)}, r"'y'\] has dtype <U1.*unique"),
        ({"x": X, "y": 1.0}, r"'y'\] has no leading axis"),
    ],
)
def test_bad_test_sets_are_named(regression, examples, message):
    with pytest.raises(ValueError, match=message):
        federated.evaluator(regression)(PARAMS, examples)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (
            lambda p, e: {"m": jnp.mean(e["y"])},
            r"'m', gave a float32 of shape \(\) for .* each example's own",
        ),
        (lambda p, e: {"m": jnp.mean(e["y"])[None]}, r"gave a .* of shape \(1,\)"),
        (lambda p, e: {"m": e["x"]}, r"of shape \(([23]), 2\) for \1 examples"),
        # As many as there are in a batch.
        (
            lambda p, e: {"m": jnp.zeros(6)},
            r"of shape \(6,\) for ([23]) .*per example, shape \[\1\]",
        ),
        (lambda p, e: {"m": 0.5}, r"of shape \(\)"),
        (lambda p, e: {"m": e["y"].astype(jnp.complex64)}, "must give real 'm'"),
        (lambda p, e: e["y"], "must return a dict of metrics"),
    ],
)
@pytest.mark.parametrize("num_examples", [1, 2, 6])
def test_metrics_that_are_not_one_number_per_example(evaluate, message, num_examples):
    task = base.Task(lambda key: PARAMS, labels_as_loss, evaluate)
    examples = {"x": X[:num_examples], "y": Y[:num_examples]}
    with pytest.raises(ValueError, match=message):
        federated.evaluator(task)(PARAMS, examples)


def test_truth_values_and_short_floats_are_averaged_as_float32():
    def evaluate(params, examples):
        y = examples["y"]
        return {"right": y > 0, "half": y.astype(jnp.bfloat16)}

    task = base.Task(lambda key: (), labels_as_loss, evaluate)
    y = np.where(np.arange(3000) < 1000, 1, 0).astype(np.float32)
    found = federated.evaluator(task, 7)((), {"y": y})
    for name in ("right", "half"):
        assert found[name].dtype == jnp.float32
        assert float(found[name]) == pytest.approx(1 / 3)


def test_bad_arguments_are_named(regression):
    for batch_size in (0, True):
        with pytest.raises(ValueError, match="batch_size must be"):
            federated.evaluator(regression, batch_size)


def test_two_metrics_of_one_name_are_refused() -> None:
    task = base.Task(
        init=lambda key: jnp.zeros(2),
        loss=lambda key, params, rows: rows["x"] @ params,
        evaluate=lambda params, rows: {"loss": rows["x"] @ params},
    )

    def mean(scores: Any, labels: Any, weights: Any) -> Any:
        return {"mean": jnp.mean(scores)}

    rows = {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)}
    judge = scoring.scorer(task, lambda params, rows: rows["x"] @ params, (mean, mean))
    with pytest.raises(ValueError, match="two metrics give 'mean', so that one"):
        judge(jnp.zeros(2), rows)
