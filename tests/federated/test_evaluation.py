"""Evaluation in batches is the mean over all examples, and over each client's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, data, federated

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


def test_bad_arguments_are_named(regression):
    with pytest.raises(ValueError, match="batch_size"):
        federated.evaluator(regression, 0)
