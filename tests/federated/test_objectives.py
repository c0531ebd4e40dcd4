"""What a round's mean is a mean of: losses, weights, reports, and rows held out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, federated, smpc

KEY = jax.random.key(0)


@pytest.fixture
def telling():
    """A task whose loss at an example is the example, and whose gradient is 1."""

    def loss(key, params, examples):
        return examples + params - jax.lax.stop_gradient(params)

    return base.Task(lambda key: jnp.float32(0), loss, lambda params, x: {})


def clients_of(*rows, held_out=None):
    offsets = np.cumsum([0, *map(len, rows)])
    return base.Clients(
        jnp.float32(np.concatenate(rows)),
        jnp.asarray(offsets, jnp.int32),
        None if held_out is None else jnp.asarray(held_out, jnp.int32),
    )


def one_round(task, clients, batch_size=2, rate=0.0, **parts):
    population = clients.offsets.shape[0] - 1
    sampler = parts.pop("sampler", federated.everyone(population))
    trainer = federated.local_sgd(task, optax.sgd(rate), batch_size, num_epochs=1)
    algorithm = federated.averaging(task, trainer, sampler, **parts)
    state = algorithm.init(KEY)
    return jax.jit(algorithm.round)(jax.random.key(1), state, clients)


@pytest.mark.parametrize(
    ("weighting", "expected"), [("examples", 2.8), ("uniform", 2.0)]
)
def test_the_training_loss_is_that_of_the_objective(telling, weighting, expected):
    clients = clients_of([3.0] * 9, [1.0])
    _, info = one_round(telling, clients, weighting=weighting)
    np.testing.assert_allclose(info["train_loss"], expected, rtol=1e-6)


def test_a_last_batch_of_fewer_examples_counts_for_fewer(telling):
    _, info = one_round(telling, clients_of([0.0, 0.0, 9.0]))
    np.testing.assert_allclose(info["train_loss"], 3.0)


def test_rows_held_out_are_never_trained(telling):
    clients = clients_of([1.0, 2.0, 100.0], [5.0], [7.0, 50.0], held_out=[1, 0, 1])
    state, info = one_round(telling, clients, 1, 1.0, weighting="examples")
    np.testing.assert_allclose(info["train_loss"], (1 + 2 + 5 + 7) / 4)
    # One step of 1 per example, weighed by examples.
    np.testing.assert_allclose(state.params, -(2 * 2 + 1 + 1) / 4, rtol=1e-6)


def test_a_large_client_elsewhere_does_not_drown_small_ones_in_rounding(telling):
    """Weights relative to the population's largest client would be 1e-5 here, less than
    a step of fixed point.
    """
    clients = clients_of([0.0] * 200_000, [0.0, 0.0], [0.0])
    cohort = base.Cohort(jnp.array([1, 2], jnp.int32), jnp.ones(2))
    sampler = federated.fixed_size(3, 2)._replace(
        sample=lambda key, state: (cohort, state)
    )
    shared = smpc.additive_sharing(2, 2, 4.0, rounding="nearest")
    state, _ = one_round(
        telling, clients, 1, 0.25, sampler=sampler, weighting="examples",
        aggregator=shared,
    )  # fmt: skip
    expected = -0.25 * (2 * 2 + 1 * 1) / 3
    np.testing.assert_allclose(state.params, expected, atol=2**-15)


def test_the_realised_mean_divides_by_who_reports(telling):
    clients = clients_of(*[[0.0]] * 8)
    sampler = federated.poisson(8, 0.5)
    cohort, _ = sampler.sample(jax.random.split(jax.random.key(1), 5)[0], ())
    drawn = float(cohort.weights.sum())
    assert drawn not in (0, 4)
    for weighting, expected in (("realised", 1.0), ("uniform", drawn / 4)):
        state, _ = one_round(
            telling, clients, 1, 1.0, sampler=sampler, weighting=weighting
        )
        np.testing.assert_allclose(state.params, -expected, rtol=1e-6)


def test_what_contradicts_a_mechanism_is_refused(telling):
    from ppml_lab import dp

    local = federated.local_sgd(telling, optax.sgd(1.0), 1, num_epochs=1)
    estimate = smpc.clear()._replace(ends_in="estimate")

    def build(**parts):
        federated.averaging(telling, local, federated.everyone(8), **parts)

    with pytest.raises(ValueError, match="estimate of the mean"):
        build(mechanism=dp.gaussian(1.0, 1.0), aggregator=estimate)
    build(mechanism=dp.local_gaussian(1.0, 1.0), aggregator=estimate)
    with pytest.raises(ValueError, match="'realised' would change a private"):
        build(mechanism=dp.gaussian(1.0, 1.0), weighting="realised")
    with pytest.raises(ValueError, match="expected_contributions=8"):
        build(mechanism=dp.adaptive_gaussian(1.0, 0.3, 12.0))


def test_central_losses_are_means_over_all_steps_examples():
    def loss(key, params, examples):
        return examples + params - jax.lax.stop_gradient(params)

    task = base.Task(lambda key: jnp.float32(0), loss, lambda params, x: {})
    clients = clients_of(np.arange(6.0))
    sampler = federated.poisson(6, 0.3)
    algorithm = federated.central_sgd(task, optax.sgd(0.0), sampler, steps_per_round=5)
    _, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
    seen = []
    for number in range(5):
        key = jax.random.split(jax.random.fold_in(KEY, number), 3)[0]
        cohort, _ = sampler.sample(key, ())
        seen += [float(i) for i, w in zip(*cohort, strict=True) if w > 0]
    np.testing.assert_allclose(info["train_loss"], np.mean(seen), rtol=1e-6)
    nobody = federated.central_sgd(
        task, optax.sgd(0.0), federated.poisson(6, 1e-9), steps_per_round=2
    )
    _, info = jax.jit(nobody.round)(KEY, nobody.init(KEY), clients)
    assert np.isnan(info["train_loss"])


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_central_training_tells_norms_before_clipping_and_the_share_clipped(
    microbatch_size,
):
    from ppml_lab import dp

    task = base.Task(
        lambda key: jnp.float32(0),
        lambda key, params, examples: examples * params,
        lambda params, x: {},
    )
    clients = clients_of([0.1, -0.2, 3.0, 4.0, 0.5])
    algorithm = federated.central_sgd(
        task,
        optax.sgd(0.1),
        federated.everyone(5),
        mechanism=dp.gaussian(0.6, 1.0, privacy_unit="example"),
        method="vmap",
        microbatch_size=microbatch_size,
        steps_per_round=2,
    )
    _, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
    np.testing.assert_allclose(info["gradient_norm"], 7.8 / 5, rtol=1e-6)
    np.testing.assert_allclose(info["clipped_share"], 2 / 5)
