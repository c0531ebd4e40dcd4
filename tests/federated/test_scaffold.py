"""SCAFFOLD: the paper's Algorithm 1 by hand, its invariant, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, dp, federated

KEY = jax.random.key(9)
START = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}


def flat(params):
    return np.concatenate(
        [np.asarray(params["w"]), np.asarray(params["b"])[..., None]], axis=-1
    )


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_first_round_is_fedavg_bit_by_bit(regression, clients):
    # Zero controls are added and subtracted, which is exact.
    optimizer = optax.sgd(0.1, momentum=0.5)
    trainer, server = federated.scaffold(regression, optimizer, 3, num_epochs=2)
    plain = federated.local_sgd(regression, optimizer, 3, num_epochs=2)
    found = []
    for parts in ((trainer, server), (plain, None)):
        algorithm = federated.averaging(
            regression, parts[0], federated.everyone(5), server=parts[1]
        )
        state = algorithm.init(KEY)._replace(params=START)
        found.append(jax.jit(algorithm.round)(KEY, state, clients))
    same(found[0][0].params, found[1][0].params)
    assert found[0][1]["train_loss"] == found[1][1]["train_loss"]


@pytest.mark.parametrize(
    "global_rate", [pytest.param(1.0, marks=pytest.mark.exhaustive), 0.5]
)
def test_rounds_of_two_clients_by_hand(regression, clients, global_rate):
    # Algorithm 1 with option II, full batches, S = N = 2, in double precision.
    rate, num_steps, cuts = 0.1, 3, [0, 5, 9]
    two = base.Clients(clients.examples, jnp.array(cuts, jnp.int32))
    trainer, server = federated.scaffold(
        regression,
        optax.sgd(rate),
        5,
        num_steps=num_steps,
        server_optimizer=optax.sgd(global_rate),
    )
    algorithm = federated.averaging(
        regression, trainer, federated.everyone(2), server=server
    )
    state = algorithm.init(KEY)._replace(params=START)
    one_round = jax.jit(algorithm.round)

    features, labels = (np.asarray(clients.examples[name], float) for name in "xy")
    inputs = np.column_stack([features, np.ones(len(features))])
    x, c, own = flat(START).astype(float), np.zeros(3), np.zeros((2, 3))
    for number in range(3):
        state, _ = one_round(jax.random.key(number), state, two)
        moved, changed = [], []
        for i in range(2):
            a, b = inputs[cuts[i] : cuts[i + 1]], labels[cuts[i] : cuts[i + 1]]
            y = x
            for _ in range(num_steps):
                y = y - rate * (a.T @ (a @ y - b) / len(a) - own[i] + c)
            new = own[i] - c + (x - y) / (num_steps * rate)
            moved.append(y - x)
            changed.append(new - own[i])
            own[i] = new
        x = x + global_rate * np.mean(moved, axis=0)
        c = c + np.mean(changed, axis=0)
        np.testing.assert_allclose(flat(state.params), x, rtol=1e-4)
        np.testing.assert_allclose(flat(state.kept), own, rtol=1e-4)
        np.testing.assert_allclose(flat(state.memory[1]), c, rtol=1e-4)


def test_the_servers_control_stays_the_mean_of_the_clients(regression, clients):
    sampler = federated.fixed_size(5, 3)
    trainer, server = federated.scaffold(regression, optax.sgd(0.05), 2, num_epochs=2)
    algorithm = federated.averaging(
        regression, trainer, sampler, server=server, dropout_prob=0.4
    )
    one_round = jax.jit(algorithm.round)
    state = algorithm.init(KEY)
    reports = []
    for number in range(12):
        before = flat(state.kept)
        state, info = one_round(jax.random.key(number), state, clients)
        np.testing.assert_allclose(
            flat(state.memory[1]), flat(state.kept).mean(0), rtol=1e-4, atol=1e-6
        )
        # Who did not report keeps its control bit by bit; who did has a new one.
        changed = (flat(state.kept) != before).any(axis=1)
        assert info["cohort_size"] == 3
        reports.append(int(info["num_reports"]))
        assert changed.sum() == reports[-1]
    assert len(set(reports)) > 2


def test_who_is_not_in_the_cohort_keeps_its_control(regression, clients):
    drawn = base.Cohort(jnp.array([3, 1, 4], jnp.int32), jnp.array([1.0, 0.0, 1.0]))
    sampler = federated.fixed_size(5, 3)._replace(
        sample=lambda key, state: (drawn, state)
    )
    trainer, server = federated.scaffold(regression, optax.sgd(0.05), 2, num_epochs=2)
    algorithm = federated.averaging(regression, trainer, sampler, server=server)
    start = algorithm.init(KEY)
    kept = jax.tree.map(lambda leaf: leaf + 0.25, start.kept)
    state, _ = jax.jit(algorithm.round)(KEY, start._replace(kept=kept), clients)
    changed = flat(state.kept) != flat(kept)
    np.testing.assert_array_equal(changed.any(axis=1), [0, 0, 0, 1, 1])


@pytest.fixture(scope="module")
def private_change(regression, clients):
    """`(key, clip norm, noise, control)`: by what a private round of one client whose
    control is `control` moves the model and the server's control.
    """
    alone = clients._replace(offsets=jnp.array([0, 18], jnp.int32))
    trainer, server = federated.scaffold(regression, optax.sgd(0.1), 18, num_steps=2)

    @jax.jit
    def change(key, clip_norm, noise, control):
        algorithm = federated.averaging(
            regression,
            trainer,
            federated.everyone(1),
            server=server,
            mechanism=dp.gaussian(clip_norm, noise),
        )
        start = algorithm.init(KEY)
        kept = jax.tree.map(lambda leaf: leaf + control, start.kept)
        state, info = algorithm.round(key, start._replace(kept=kept), alone)
        moved = jax.tree.map(jnp.subtract, state.params, start.params)
        turned = jax.tree.map(jnp.subtract, state.memory[1], start.memory[1])
        return moved, turned, info

    return change


def test_update_and_change_of_control_are_clipped_together(private_change):
    for control in (0.0, 1e4):
        moved, turned, info = private_change(KEY, 0.05, 0.0, control)
        whole = np.concatenate([flat(moved), flat(turned)])
        np.testing.assert_allclose(np.linalg.norm(whole), 0.05, rtol=1e-4)
        assert info["clipped_share"] == 1
        assert info["update_norm"] > (1e3 if control else 0.05)
    # Nearly all of that message is the change of control.
    assert np.linalg.norm(flat(moved)) < 0.2 * 0.05 < np.linalg.norm(flat(turned))


def test_the_change_of_control_gets_the_noise_of_the_update(private_change):
    clip_norm, noise = 0.05, 1.5
    quiet = private_change(KEY, clip_norm, 0.0, 0.0)[:2]
    keys = jax.random.split(KEY, 2000)
    found = jax.lax.map(
        lambda key: private_change(key, clip_norm, noise, 0.0)[:2], keys
    )
    columns = [
        (flat(one) - flat(other)) / (noise * clip_norm)
        for one, other in zip(found, quiet, strict=True)
    ]
    for column in np.concatenate(columns, axis=1).T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-4
        for wrong in (2 / 3, 3 / 2):
            assert scipy.stats.kstest(column / wrong, "norm").pvalue < 1e-6
    correlation = np.corrcoef(np.concatenate(columns, axis=1).T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_weights_by_examples_are_an_error(regression):
    trainer, server = federated.scaffold(regression, optax.sgd(0.1), 3, num_epochs=1)
    with pytest.raises(ValueError, match="right only for the 'uniform' mean"):
        federated.averaging(
            regression,
            trainer,
            federated.everyone(5),
            server=server,
            weighting="examples",
        )


def test_clients_that_differ_do_not_drag_it_off_the_optimum():
    # Losses a (w - m)^2 / 2: FedAvg's long local trainings weigh both clients almost
    # alike, while the loss is that of the one with curvature 10.
    curvatures, minimisers = np.array([1.0, 10.0]), np.array([0.0, 1.0])
    task = base.Task(
        init=lambda key: jnp.zeros(()),
        loss=lambda key, params, examples: (
            0.5 * examples["a"] * (params - examples["m"]) ** 2
        ),
        evaluate=lambda params, examples: {},
    )
    clients = base.Clients(
        {"a": jnp.float32(curvatures), "m": jnp.float32(minimisers)},
        jnp.array([0, 1, 2], jnp.int32),
    )
    rate, num_steps = 0.02, 10

    def converged(trainer, server):
        algorithm = federated.averaging(
            task, trainer, federated.everyone(2), server=server
        )
        state, _ = federated.simulate(KEY, algorithm, clients, 200)
        return float(state.params)

    plain = federated.local_sgd(task, optax.sgd(rate), 1, num_steps=num_steps)
    optimum = curvatures @ minimisers / curvatures.sum()
    # Where the two local trainings' changes cancel.
    pulls = 1 - (1 - rate * curvatures) ** num_steps
    drifted = pulls @ minimisers / pulls.sum()
    assert abs(drifted - optimum) > 0.05
    np.testing.assert_allclose(converged(plain, None), drifted, rtol=1e-4)
    parts = federated.scaffold(task, optax.sgd(rate), 1, num_steps=num_steps)
    np.testing.assert_allclose(converged(*parts), optimum, rtol=1e-4)
