"""Servers: fedopt is optax, and an algorithm that the engine has never seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, smpc

KEY = jax.random.key(6)
START = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.5, momentum=0.9), optax.adam(0.1), optax.adagrad(0.1)]
)
def test_fedopt_is_optax_on_the_negative_mean(optimizer):
    server = federated.fedopt(optimizer)
    params, memory = START, server.init(START)
    expected, opt_state = START, optimizer.init(START)
    # optax's Adam mixes an int count with its decay.
    with jax.numpy_dtype_promotion("standard"):
        for scale in (1.0, -0.5, 0.25):
            mean = jax.tree.map(lambda leaf, scale=scale: scale * (leaf + 1), START)
            assert server.send(params, memory) is params
            # How many clients the mean counts is no matter to it.
            params, memory = server.step(params, memory, mean, scale)
            changes, opt_state = optimizer.update(
                jax.tree.map(jnp.negative, mean), opt_state, expected
            )
            expected = optax.apply_updates(expected, changes)
            jax.tree.map(
                np.testing.assert_array_equal, (params, memory), (expected, opt_state)
            )


def personal_bias(local):
    """Personal layers (Arivazhagan et al., 2019): a client keeps its own bias, and only
    the weights are sent and averaged.
    """

    def finish(sent, state):
        _, _, info = local.finish(state.params, state)
        return state.params["w"] - sent, state.params["b"], info

    trainer = local._replace(
        keep=lambda params: params["b"],
        init=lambda key, sent, kept, round_number: local.init(
            key, {"w": sent, "b": kept}, (), round_number
        ),
        model=lambda sent, kept: {"w": sent, "b": kept},
        finish=finish,
    )
    server = base.Server(
        init=lambda params: (),
        send=lambda params, memory: params["w"],
        step=lambda params, memory, mean, share: (
            params | {"w": params["w"] + mean},
            memory,
        ),
        weighting=None,
    )
    return trainer, server


@pytest.fixture(scope="module")
def personal(regression):
    """`personal(sampler, ...)`: averaging of two full-batch steps at rate 0.1."""
    trainer, server = personal_bias(
        federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=2)
    )
    return lambda sampler, **parts: federated.averaging(
        regression, trainer, sampler, server=server, **parts
    )


def parts_of(num_devices, noise_multiplier):
    return {
        "mechanism": dp.gaussian(50.0, noise_multiplier),
        "aggregator": smpc.additive_sharing(3, 5, 64.0, rounding="nearest"),
        "mesh": federated.client_mesh(num_devices),
    }


@pytest.mark.parametrize(
    "parts",
    [
        {},
        parts_of(1, 0.0),
        pytest.param(parts_of(4, 0.0), marks=pytest.mark.exhaustive),
    ],
)
def test_an_algorithm_of_ones_own_runs_with_privacy_and_a_secure_sum(
    personal, clients, parts
):
    # Clients 3 and 0 take part, 1 is padding.
    cohort = base.Cohort(jnp.array([3, 1, 0], jnp.int32), jnp.array([1.0, 0.0, 1.0]))
    sampler = federated.fixed_size(5, 3)._replace(
        sample=lambda key, state: (cohort, state), expected_cohort=2.0
    )
    algorithm = personal(sampler, **parts)
    state = algorithm.init(KEY)._replace(params=START)
    own_biases = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    state = state._replace(kept=jnp.float32(own_biases))
    one_round = jax.jit(algorithm.round)
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    w = np.asarray(START["w"], float)
    for number in range(3):
        state, _ = one_round(jax.random.key(number), state, clients)
        moved = []
        for i, rows in [(3, slice(9, 16)), (0, slice(0, 5))]:
            own, bias = w, own_biases[i]
            for _ in range(2):
                residual = x[rows] @ own + bias - y[rows]
                own = own - 0.1 * x[rows].T @ residual / len(residual)
                bias = bias - 0.1 * residual.mean()
            own_biases[i] = bias
            moved.append(own - w)
        w = w + np.mean(moved, axis=0)
        # The secure sum rounds to 2^-16 and the rounding is trained on.
        np.testing.assert_allclose(state.params["w"], w, atol=5e-5)
        np.testing.assert_allclose(state.kept, own_biases, atol=5e-5)
        np.testing.assert_array_equal(
            np.asarray(state.kept)[[1, 2, 4]], np.array([0.2, 0.3, 0.5], np.float32)
        )
    assert state.params["b"] == START["b"]


def test_only_what_is_sent_is_noised_summed_and_paid_for(personal, clients):
    algorithm = personal(federated.everyone(5), **parts_of(1, 1.0))
    exact = personal(federated.everyone(5), **parts_of(1, 0.0))
    state = algorithm.init(KEY)
    noisy, _ = jax.jit(algorithm.round)(KEY, state, clients)
    plain, _ = jax.jit(exact.round)(KEY, state, clients)
    assert (np.abs(noisy.params["w"] - plain.params["w"]) > 0.1).all()
    np.testing.assert_array_equal(noisy.kept, plain.kept)
    assert algorithm.cost() == parts_of(1, 1.0)["aggregator"].cost(2)
    assert algorithm.event(3).privacy_unit == "client"
