"""Local training against NumPy loops: which examples, which steps, which noise."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, data, dp, federated
from ppml_lab.dp import events

BATCH, EPOCHS = 3, 2
INF = float("inf")


def train(trainer, key, params, view):
    """The update and info of one client, and its parameters after every step."""

    def run(key, params, view):
        def body(state, number):
            state = trainer.step(key, params, state, view, number)
            return state, state.params

        # More steps than any client here takes; those beyond its own are cut off.
        start = trainer.init(key, params, (), jnp.int32(0))
        return jax.lax.scan(body, start, jnp.arange(2 * EPOCHS * 3, dtype=jnp.int32))[1]

    path = jax.jit(run)(key, params, view)
    num_steps = int(trainer.num_steps(view.size))
    return [
        jax.tree.map(lambda leaf, t=t: np.asarray(leaf[t]), path)
        for t in range(num_steps)
    ]


@pytest.fixture(scope="module")
def revealing():
    """A task whose every gradient is minus the example: one-hot rows show who was in
    a batch, and with which weight.
    """
    return base.Task(
        init=lambda key: jnp.zeros(18),
        loss=lambda key, params, examples: -examples @ params,
        evaluate=lambda params, examples: {},
    )


@pytest.fixture(scope="module")
def batches(revealing, clients):
    """The weights of all examples in each step of each client: `[steps, 18]`."""
    trainer = federated.local_sgd(revealing, optax.sgd(1.0), BATCH, num_epochs=EPOCHS)
    everyone = clients._replace(examples=jnp.eye(18))
    found = []
    for i in range(data.num_clients(clients)):
        path = train(trainer, jax.random.key(i), jnp.zeros(18), data.view(everyone, i))
        found.append(np.diff(path, axis=0, prepend=np.zeros((1, 18))))
    return found


def test_every_epoch_visits_each_example_once(clients, batches):
    offsets = np.asarray(clients.offsets)
    for i, steps in enumerate(batches):
        size = offsets[i + 1] - offsets[i]
        per_epoch = -(-size // BATCH)
        assert len(steps) == EPOCHS * per_epoch
        own = np.zeros(18)
        own[offsets[i] : offsets[i + 1]] = 1
        for epoch in np.split(steps > 1e-6, EPOCHS):
            np.testing.assert_array_equal(epoch.sum(0), own)
            # All batches are full but the last.
            assert [*epoch.sum(1)][:-1] == [BATCH] * (per_epoch - 1)


def test_a_batch_is_averaged_over_the_examples_that_it_holds(batches):
    for steps in batches:
        held = (steps > 1e-6).sum(1, keepdims=True)
        np.testing.assert_allclose(steps, (steps > 1e-6) / held, atol=1e-6)


def test_epochs_and_keys_shuffle_afresh(revealing, clients, batches):
    first, second = np.split(batches[3], EPOCHS)
    assert not np.allclose(first, second)
    trainer = federated.local_sgd(revealing, optax.sgd(1.0), BATCH, num_epochs=EPOCHS)
    everyone = clients._replace(examples=jnp.eye(18))
    path = train(trainer, jax.random.key(99), jnp.zeros(18), data.view(everyone, 3))
    assert not np.allclose(path[0], batches[3][0])


def gradient(params, x, y):
    residual = x @ params["w"] + params["b"] - y
    return {"w": residual @ x, "b": residual.sum()}, 0.5 * (residual**2).sum()


@pytest.mark.parametrize(
    "momentum", [pytest.param(0.0, marks=pytest.mark.exhaustive), 0.9]
)
def test_local_sgd_is_the_loop_one_would_write(regression, clients, batches, momentum):
    rate = 0.1
    x, y = (np.asarray(clients.examples[name]) for name in "xy")
    trainer = federated.local_sgd(
        regression, optax.sgd(rate, momentum), BATCH, num_epochs=EPOCHS
    )
    start = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}
    for i, steps in enumerate(batches):
        path = train(trainer, jax.random.key(i), start, data.view(clients, i))
        params = {name: np.asarray(leaf) for name, leaf in start.items()}
        velocity = {name: 0 * leaf for name, leaf in params.items()}
        for weights, found in zip(steps, path, strict=True):
            batch = weights > 1e-6
            grads, _ = gradient(params, x[batch], y[batch])
            for name in params:
                mean = grads[name] / batch.sum()
                velocity[name] = momentum * velocity[name] + mean
                params[name] = params[name] - rate * velocity[name]
                np.testing.assert_allclose(found[name], params[name], rtol=1e-5)


def test_finish_gives_the_update_and_the_mean_loss(regression, clients):
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 100, num_steps=2)
    view = data.view(clients, 3)
    start = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}
    assert int(trainer.num_steps(view.size)) == 2
    state = trainer.init(jax.random.key(0), start, trainer.keep(start), jnp.int32(0))
    step = jax.jit(trainer.step)
    for number in range(2):
        state = step(jax.random.key(0), start, state, view, jnp.int32(number))
    update, keeps, info = trainer.finish(start, state)
    assert keeps == trainer.keep(start) == ()
    rows = slice(9, 16)
    x, y = (np.asarray(clients.examples[name])[rows] for name in "xy")
    params, losses = jax.tree.map(np.asarray, start), []
    for _ in range(2):
        grads, loss = gradient(params, x, y)
        losses.append(loss / 7)
        params = {name: params[name] - 0.1 * grads[name] / 7 for name in params}
    for name in params:
        np.testing.assert_allclose(
            update[name], params[name] - np.asarray(start[name]), rtol=1e-5
        )
    np.testing.assert_allclose(info["train_loss"], np.mean(losses), rtol=1e-5)


def test_num_steps_stops_within_an_epoch(revealing, clients):
    trainer = federated.local_sgd(revealing, optax.sgd(1.0), BATCH, num_steps=4)
    everyone = clients._replace(examples=jnp.eye(18))
    path = train(trainer, jax.random.key(3), jnp.zeros(18), data.view(everyone, 3))
    visits = np.diff(path, axis=0, prepend=np.zeros((1, 18))) > 1e-6
    # 7 examples: batches of 3, 3 and 1 make an epoch, and one batch of the next.
    assert [*visits.sum(1)] == [3, 3, 1, 3]
    assert trainer.event().privacy_unit is None


@pytest.mark.parametrize(
    "clip_norm", [pytest.param(INF, marks=pytest.mark.exhaustive), 0.5]
)
def test_local_dp_sgd_without_noise_is_clipped_gradient_descent(
    regression, clients, clip_norm
):
    rate, num_steps = 0.1, 3
    trainer = federated.local_dp_sgd(
        regression,
        optax.sgd(rate),
        dp.gaussian(clip_norm, 0.0, privacy_unit="example"),
        sampling_prob=1.0,
        num_steps=num_steps,
        max_client_size=7,
        method="vmap",
    )
    start = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}
    offsets = np.asarray(clients.offsets)
    for i in range(5):
        path = train(trainer, jax.random.key(i), start, data.view(clients, i))
        assert len(path) == num_steps
        rows = slice(offsets[i], offsets[i + 1])
        x, y = (np.asarray(clients.examples[name])[rows] for name in "xy")
        params = np.append(*(np.asarray(start[name]) for name in "wb"))
        inputs = np.column_stack([x, np.ones(len(x))])
        for found in path:
            grads = (inputs @ params - y)[:, None] * inputs
            norms = np.linalg.norm(grads, axis=1, keepdims=True)
            params = params - rate * np.mean(
                grads * np.minimum(1, clip_norm / norms), axis=0
            )
            np.testing.assert_allclose([*found["w"], found["b"]], params, rtol=2e-5)


@pytest.fixture(scope="module")
def pure_noise():
    """Steps of `local_dp_sgd` on a loss without a gradient: `[client, step, 20000]`."""
    flat = base.Task(
        init=lambda key: jnp.zeros(20000),
        loss=lambda key, params, examples: 0.0 * examples * params[0],
        evaluate=lambda params, examples: {},
    )
    trainer = federated.local_dp_sgd(
        flat,
        optax.sgd(1.0),
        dp.gaussian(0.5, 1.6, privacy_unit="example"),
        sampling_prob=0.25,
        num_steps=2,
        max_client_size=8,
        method="vmap",
    )
    clients = base.Clients(jnp.ones(10), jnp.array([0, 8, 10], jnp.int32))
    paths = [
        train(trainer, jax.random.key(0), jnp.zeros(20000), data.view(clients, i))
        for i in range(2)
    ]
    return np.diff(paths, axis=1, prepend=np.zeros((2, 1, 20000)))


def test_local_noise_has_the_stated_scale_and_no_other(pure_noise):
    # noise_multiplier * clip_norm over the expected batch, sampling_prob * size.
    for client, size in enumerate([8, 2]):
        stddev = 1.6 * 0.5 / (0.25 * size)
        for step in range(2):
            values = pure_noise[client, step]
            assert scipy.stats.kstest(values / stddev, "norm").pvalue > 1e-4
            for wrong in (2 / 3, 3 / 2):
                assert scipy.stats.kstest(values / stddev / wrong, "norm").pvalue < 1e-9


def test_local_noise_is_fresh_in_every_step(pure_noise):
    first, second = pure_noise[0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(20000)


def test_local_dp_sgd_states_its_event(regression):
    trainer = federated.local_dp_sgd(
        regression, optax.sgd(0.1), dp.gaussian(1.0, 1.3, privacy_unit="example"),
        sampling_prob=0.25, num_steps=6, max_client_size=8,
    )  # fmt: skip
    event, relation, unit, population, _ = trainer.event()
    sampled = dp_accounting.PoissonSampledDpEvent(
        0.25, dp_accounting.GaussianDpEvent(1.3)
    )
    six = dp_accounting.SelfComposedDpEvent(sampled, 6)
    assert event == events.on_coordinates(six, 3)
    assert (relation, unit, population) == ("add_or_remove_one", "example", 8)


def test_bad_arguments_are_named(regression):
    def local(**lengths):
        return federated.local_sgd(regression, optax.sgd(0.1), **lengths)

    for arguments, message in [
        ({"batch_size": 0, "num_epochs": 1}, "batch_size"),
        ({"batch_size": 1}, "either num_epochs or num_steps"),
        ({"batch_size": 1, "num_epochs": 1, "num_steps": 1}, "either num_epochs"),
        ({"batch_size": 1, "num_epochs": 0}, "num_epochs"),
        ({"batch_size": 1, "num_steps": 0}, "num_steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            local(**arguments)
    mechanism = dp.gaussian(1.0, 1.0, privacy_unit="example")
    for arguments, message in [
        ((0.0, 1, 1), "sampling_prob"),
        ((1.5, 1, 1), "sampling_prob"),
        ((0.5, 0, 1), "num_steps"),
        ((0.5, 1, 0), "max_client_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            federated.local_dp_sgd(regression, optax.sgd(0.1), mechanism, *arguments)


def test_a_client_too_large_to_draw_from_is_refused_and_never_cut(regression, clients):
    # The largest of the five has seven examples.
    def build(room):
        trainer = federated.local_dp_sgd(
            regression,
            optax.sgd(0.1),
            dp.gaussian(1.0, 0.5, privacy_unit="example"),
            sampling_prob=1.0,
            num_steps=1,
            max_client_size=room,
            method="vmap",
        )
        return federated.averaging(regression, trainer, federated.everyone(5))

    build(7).check(clients)
    with pytest.raises(ValueError, match=r"is 6, .*the largest client has 7 examples"):
        federated.simulate(jax.random.key(0), build(6), clients, 1)
    algorithm = build(6)
    start = algorithm.init(jax.random.key(0))
    state, info = jax.jit(algorithm.round)(jax.random.key(1), start, clients)
    assert np.isnan(info["train_loss"])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(state.params))
