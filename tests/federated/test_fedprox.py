"""FedProx: a hand-computed round, and where clients that train for long end up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, federated

KEY = jax.random.key(8)
START = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}


def flat(params):
    return np.concatenate([np.asarray(params["w"]), np.asarray(params["b"])[None]])


def averaged(task, trainer, clients, params):
    """The model after one round of all clients from `params`."""
    everyone = federated.everyone(clients.offsets.shape[0] - 1)
    algorithm = federated.averaging(task, trainer, everyone)
    state = algorithm.init(KEY)._replace(params=params)
    return algorithm.round(KEY, state, clients)[0].params


def test_without_pull_it_is_local_sgd_bit_by_bit(regression, clients):
    optimizer = optax.sgd(0.1, momentum=0.5)
    found = [
        jax.jit(functools.partial(averaged, regression, trainer))(clients, START)
        for trainer in (
            federated.proximal_sgd(regression, optimizer, 3, 0.0, num_epochs=2),
            federated.local_sgd(regression, optimizer, 3, num_epochs=2),
        )
    ]
    assert not np.array_equal(flat(found[0]), flat(START))
    jax.tree.map(np.testing.assert_array_equal, *found)


# Two clients with examples {1, 3} and {5}, loss (w - x)^2 / 2, from w = 1 with two
# full-batch steps at rate 1/2 and mu = 1/2. Gradients are w - mean(x) + (w - 1) / 2:
# -1 and then -0.5 + 0.25 take the first client to 1.5 and 1.625; -4 and then -2 + 1
# take the other to 3 and 3.5.
def test_a_round_of_two_clients_by_hand():
    task = base.Task(
        init=lambda key: jnp.ones(1),
        loss=lambda key, params, examples: 0.5 * (params - examples) ** 2,
        evaluate=lambda params, examples: {},
    )
    clients = base.Clients(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 2, 3], jnp.int32))
    trainer = federated.proximal_sgd(task, optax.sgd(0.5), 2, 0.5, num_epochs=2)
    algorithm = federated.averaging(task, trainer, federated.everyone(2))
    state, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
    np.testing.assert_array_equal(state.params, [(1.625 + 3.5) / 2])
    # The loss reported is the task's, without the pull: of client one (0 + 4) / 4, then
    # (0.25 + 2.25) / 4; of the other 8, then 2.
    np.testing.assert_allclose(info["train_loss"], ((1 + 0.625) / 2 + (8 + 2) / 2) / 2)


@pytest.fixture(scope="module")
def settled(regression, clients):
    """`settled(mu)`: the model after a round of long trainings, traced in mu."""

    @jax.jit
    def run(mu):
        # The pull's curvature is mu, the data's is below 9.
        optimizer = optax.sgd(1 / (mu + 9))
        trainer = federated.proximal_sgd(regression, optimizer, 7, mu, num_steps=400)
        return averaged(regression, trainer, clients, START)

    return lambda mu: flat(run(jnp.float32(mu)))


def proximal_minimisers(clients, mu):
    """Where each client's loss plus the pull towards START is least."""
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    inputs = np.column_stack([x, np.ones(len(x))])
    cuts = np.asarray(clients.offsets)[1:-1]
    return [
        np.linalg.solve(
            own.T @ own / len(own) + mu * np.eye(3),
            own.T @ labels / len(own) + mu * flat(START),
        )
        for own, labels in zip(np.split(inputs, cuts), np.split(y, cuts), strict=True)
    ]


@pytest.mark.parametrize("mu", [0.5, 2.0, 50.0])
def test_long_training_ends_at_the_proximal_minimiser(settled, clients, mu):
    expected = np.mean(proximal_minimisers(clients, mu), axis=0)
    np.testing.assert_allclose(settled(mu), expected, rtol=1e-5)


def test_a_strong_pull_keeps_clients_at_the_model_that_was_sent(settled):
    moved = [np.linalg.norm(settled(mu) - flat(START)) for mu in (0.5, 5, 50, 5000)]
    assert (np.diff(moved) < 0).all()
    assert moved[-1] < 1e-3 < 0.1 < moved[0]


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_pull_that_is_not_one_is_an_error(regression, mu):
    with pytest.raises(ValueError, match="mu must be finite and not negative"):
        federated.proximal_sgd(regression, optax.sgd(0.1), 3, mu, num_epochs=1)
