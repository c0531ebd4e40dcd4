"""Central training: gradient descent on pooled examples, private or not."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, dp, federated
from ppml_lab.dp import events

KEY = jax.random.key(7)
START = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}
INF = float("inf")


def flat(params):
    return np.concatenate([np.asarray(params["w"]), np.asarray(params["b"])[None]])


def example_gradients(clients, params, rows=slice(None)):
    x, y = (np.asarray(clients.examples[name], float)[rows] for name in "xy")
    inputs = np.column_stack([x, np.ones(len(x))])
    residuals = inputs @ params - y
    return residuals[:, None] * inputs, 0.5 * residuals**2


def example_mechanism(clip_norm, noise_multiplier):
    return dp.gaussian(clip_norm, noise_multiplier, privacy_unit="example")


@pytest.mark.parametrize(
    ("mechanism", "microbatch_size", "num_devices"),
    [
        (None, None, 1),
        (None, None, 4),
        (example_mechanism(INF, 0.0), None, 1),
        (example_mechanism(INF, 0.0), 4, 1),
        (example_mechanism(INF, 0.0), 4, 4),
        (example_mechanism(0.5, 0.0), 18, 1),
        (example_mechanism(0.5, 0.0), 18, 4),
    ],
)
def test_full_batches_are_gradient_descent_with_momentum(
    regression, clients, mechanism, microbatch_size, num_devices
):
    algorithm = federated.central_sgd(
        regression,
        optax.sgd(0.1, momentum=0.9),
        federated.everyone(18),
        mechanism=mechanism,
        steps_per_round=2,
        method="vmap",
        microbatch_size=microbatch_size,
        mesh=federated.client_mesh(num_devices),
    )
    state = algorithm.init(KEY)._replace(params=START)
    one_round = jax.jit(algorithm.round)
    params, velocity = flat(START).astype(float), 0.0
    clip = 0.5 if microbatch_size == 18 else INF
    for number in range(2):
        state, info = one_round(jax.random.key(number), state, clients)
        losses = []
        for _ in range(2):
            grads, loss = example_gradients(clients, params)
            norms = np.linalg.norm(grads, axis=1, keepdims=True)
            assert norms.max() > 0.5
            velocity = 0.9 * velocity + (grads * np.minimum(1, clip / norms)).mean(0)
            params = params - 0.1 * velocity
            losses.append(loss.mean())
        np.testing.assert_allclose(flat(state.params), params, rtol=2e-5)
        np.testing.assert_allclose(info["train_loss"], np.mean(losses), rtol=1e-5)
        assert info["batch_size"] == 18
    assert int(state.rounds_done) == 2


def test_a_sampled_step_uses_the_sample_and_the_expected_size(regression, clients):
    sampler = federated.poisson(18, 0.3)
    algorithm = federated.central_sgd(regression, optax.sgd(1.0), sampler)
    one_round = jax.jit(algorithm.round)
    start = algorithm.init(KEY)._replace(params=START)
    sizes = set()
    for number in range(5):
        key = jax.random.key(number)
        state, info = one_round(key, start, clients)
        key = jax.random.split(jax.random.fold_in(key, 0), 3)[0]
        cohort, _ = sampler.sample(key, ())
        rows = np.asarray(cohort.indices)[np.asarray(cohort.weights) > 0]
        sizes.add(len(rows))
        grads, _ = example_gradients(clients, flat(START), rows)
        expected = flat(START) - grads.sum(0) / (18 * 0.3)
        np.testing.assert_allclose(flat(state.params), expected, rtol=1e-4, atol=1e-6)
        assert info["batch_size"] == len(rows)
    assert len(sizes) > 1


def test_noise_has_the_stated_scale_and_is_fresh_in_every_step(clients):
    flat_task = base.Task(
        init=lambda key: jnp.zeros(5000),
        loss=lambda key, params, examples: 0.0 * examples["y"] * params[0],
        evaluate=lambda params, examples: {},
    )

    def noise_of(steps):
        algorithm = federated.central_sgd(
            flat_task,
            optax.sgd(1.0),
            federated.poisson(18, 0.25),
            mechanism=example_mechanism(0.5, 1.6),
            steps_per_round=steps,
            method="vmap",
        )
        state, _ = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
        return np.asarray(state.params)

    one, four = noise_of(1), noise_of(4)
    stddev = 1.6 * 0.5 / (18 * 0.25)
    # Four independent steps add up to twice the deviation of one.
    for values, scale in [(one, stddev), (four, 2 * stddev)]:
        assert scipy.stats.kstest(values / scale, "norm").pvalue > 1e-4
        for wrong in (2 / 3, 3 / 2):
            assert scipy.stats.kstest(values / scale / wrong, "norm").pvalue < 1e-9


def test_one_bad_example_contributes_exactly_zero(regression, clients):
    zeros = {"w": jnp.zeros(2), "b": jnp.float32(0)}
    silent, poisoned = np.array(clients.examples["y"]), np.array(clients.examples["y"])
    silent[4], poisoned[4] = 0, np.nan  # at zero parameters, no gradient at all
    algorithm = federated.central_sgd(
        regression,
        optax.sgd(1.0),
        federated.everyone(18),
        mechanism=example_mechanism(0.5, 0.7),
        method="vmap",
    )
    one_round = jax.jit(algorithm.round)
    found = []
    for y in (silent, poisoned):
        examples = {"x": clients.examples["x"], "y": jnp.asarray(y)}
        state = algorithm.init(KEY)._replace(params=zeros)
        state, _ = one_round(KEY, state, clients._replace(examples=examples))
        found.append(flat(state.params))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])


def test_events_count_steps(regression):
    algorithm = federated.central_sgd(
        regression,
        optax.sgd(1.0),
        federated.poisson(18, 0.25),
        mechanism=example_mechanism(0.5, 1.6),
        steps_per_round=3,
    )
    step = dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(1.6))
    steps = events.on_coordinates(dp_accounting.SelfComposedDpEvent(step, 15), 3)
    assert algorithm.event(5) == base.PrivacyEvent(
        steps, "add_or_remove_one", "example", 18
    )
    assert algorithm.cost() is None


def test_bad_arguments_are_named(regression, clients):
    def build(population, steps=1, **rest):
        return federated.central_sgd(
            regression,
            optax.sgd(1.0),
            federated.everyone(population),
            steps_per_round=steps,
            **rest,
        )

    with pytest.raises(ValueError, match="steps_per_round"):
        build(18, 0)
    with pytest.raises(ValueError, match="microbatch_size"):
        build(18, mechanism=example_mechanism(1.0, 1.0), microbatch_size=0)
    adaptive = dp.adaptive_gaussian(0.5, 0.5, 5.0, privacy_unit="example")
    with pytest.raises(ValueError, match=r"expected_contributions 5, but 18 "):
        build(18, mechanism=adaptive)
    # Five clients own 18 examples: a sampler of clients is a likely mistake.
    algorithm = build(5)
    with pytest.raises(ValueError, match="5 examples, but the data set has 18"):
        algorithm.round(KEY, algorithm.init(KEY), clients)
