"""What trainings tell, and clients without examples: their update is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, smpc

TASK = base.Task(
    lambda key: jnp.zeros(3),
    lambda key, params, examples: examples["g"] @ params,
    lambda params, examples: {"loss": examples["g"] @ params},
)
SIZES = np.array([2, 2, 0, 2, 2])
CLIENTS = base.Clients(
    {"g": jnp.ones((8, 3))}, jnp.asarray(np.append(0, np.cumsum(SIZES)), jnp.int32)
)
HELD_OUT = base.Clients(
    {"g": jnp.ones((10, 3))}, 2 * jnp.arange(6), jnp.array([0, 0, 2, 0, 0])
)
RATE = optax.sgd(0.1)


def one_round(trainer, clients=CLIENTS, **parts):
    algorithm = federated.averaging(TASK, trainer, federated.everyone(5), **parts)
    state = algorithm.init(jax.random.key(0))
    return jax.jit(algorithm.round)(jax.random.key(1), state, clients)


each_empty = pytest.mark.parametrize(
    ("clients", "length"),
    [(CLIENTS, {"num_epochs": 1}), (HELD_OUT, {"num_steps": 1})],
    ids=["empty", "held out"],
)


@each_empty
def test_who_has_no_examples_to_train_reports_too(clients, length):
    state, info = one_round(federated.local_sgd(TASK, RATE, 2, **length), clients)
    np.testing.assert_allclose(state.params, -0.08, atol=1e-6)
    assert info["num_reports"] == 5
    assert info["train_loss"] == 0


@pytest.mark.exhaustive  # everybody reports above, and sums over reports are exact
@each_empty
def test_a_masked_sum_gets_everybodys_report(clients, length):
    """A report that never comes would leave its masks in the sum."""
    masks = smpc.pairwise_masking(smpc.graphs.complete(5, 3), 4.0)
    trainer = federated.local_sgd(TASK, RATE, 2, **length)
    state, info = one_round(trainer, clients, aggregator=masks)
    np.testing.assert_allclose(state.params, -0.08, atol=1e-4)
    assert info["num_reports"] == 5
    assert info["train_loss"] == 0


def test_controls_of_a_client_without_steps_are_zero():
    trainer, server = federated.scaffold(TASK, RATE, 2, num_epochs=1)
    state, _ = one_round(trainer, server=server)
    np.testing.assert_allclose(state.params, -0.08, atol=1e-6)
    np.testing.assert_allclose(state.kept[:, 0], SIZES > 0)


def test_private_steps_of_a_client_without_examples_are_none():
    mechanism = dp.gaussian(10.0, 0.0, privacy_unit="example")
    trainer = federated.local_dp_sgd(TASK, RATE, mechanism, 1.0, 1, 2, method="vmap")
    state, info = one_round(trainer)
    np.testing.assert_allclose(state.params, -0.08, atol=1e-6)
    assert info["train_loss"] == 0


def test_private_steps_tell_norms_before_clipping_and_the_share_clipped():
    """Of two steps on gradients of norms 1, 2, 3 and 4, at a bound of 2.5."""
    mechanism = dp.gaussian(2.5, 0.0, privacy_unit="example")
    trainer = federated.local_dp_sgd(TASK, RATE, mechanism, 1.0, 2, 4, method="vmap")
    gradients = jnp.eye(3)[jnp.array([0, 1, 2, 0])] * jnp.arange(1.0, 5)[:, None]
    clients = base.Clients({"g": jnp.tile(gradients, (5, 1))}, 4 * jnp.arange(6))
    _, info = one_round(trainer, clients, mechanism=dp.gaussian(0.01, 0.0))
    assert info["gradient_norm"] == 2.5
    assert info["gradient_clipped_share"] == 0.5
    assert info["clipped_share"] == 1


def test_a_masked_round_is_traced_from_shapes_on_a_mesh():
    """As programs for chips that are not here are: what a report takes of the round has
    to be handed to every device, for its type says how it lies outside of them.
    """
    mesh = federated.client_mesh(2)
    algorithm = federated.averaging(
        TASK,
        federated.local_sgd(TASK, RATE, 2, num_epochs=1),
        federated.everyone(5),
        aggregator=smpc.pairwise_masking(smpc.graphs.complete(5, 3), 4.0),
        mesh=mesh,
    )
    key = jax.random.key(0)
    like = (key, jax.eval_shape(algorithm.init, key), CLIENTS)
    everywhere = federated.on_every_device(mesh)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        like,
    )
    traced = jax.jit(algorithm.round).trace(*shapes)
    assert jax.tree.map(jnp.shape, traced.out_info[0].params) == (3,)
