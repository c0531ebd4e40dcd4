"""Optimizers as parts: optax's own steps, with numbers that programs trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts

PAIRS: dict[str, tuple[Any, Any]] = {
    "sgd": (parts.Sgd(0.1, 0.9, nesterov=True), optax.sgd(0.1, 0.9, nesterov=True)),
    "decayed": (
        parts.Sgd(0.1, weight_decay=0.01),
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1)),
    ),
    "adam": (parts.Adam(0.01, 0.8, 0.9, 1e-3), optax.adam(0.01, 0.8, 0.9, 1e-3)),
    "adamw": (
        parts.Adam(0.01, weight_decay=0.1),
        optax.adamw(0.01, weight_decay=0.1),
    ),
    "yogi": (parts.Yogi(0.01, 0.8, 0.9), optax.yogi(0.01, 0.8, 0.9)),
    "adagrad": (parts.Adagrad(0.1, 1e-2), optax.adagrad(0.1, eps=1e-2)),
    "optax": (
        parts.Optax(optax.adamw, 0.01, (("b1", 0.8),)),
        optax.adamw(0.01, b1=0.8),
    ),
}
SETUP = parts.Federated(partition=parts.Iid(20), sampler=parts.FixedSize(2))


def walked(made: optax.GradientTransformation) -> jax.Array:
    """Where five steps along some gradients end."""
    params = jnp.linspace(-1, 1, 7)
    state = made.init(params)
    for step in range(5):
        grads = jnp.cos(jnp.arange(7, dtype=jnp.float32) * (step + 1))
        changes, state = made.update(grads, state, params)
        params = optax.apply_updates(params, changes)
    return jnp.asarray(params)


@pytest.mark.parametrize("name", PAIRS)
def test_steps_with_traced_numbers_are_those_of_optax(name: str) -> None:
    own, other = PAIRS[name]
    found = jax.jit(lambda part: walked(part.build()))(own)
    # Optax's own steps mix integers and floats, whoever calls them.
    with jax.numpy_dtype_promotion("standard"):
        expected = walked(other)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("schedule", [None, parts.Cosine(10)], ids=["plain", "cosine"])
def test_clients_and_servers_train_with_numbers_that_are_traced(
    name: str, schedule: Any
) -> None:
    rule = replace(PAIRS[name][0], schedule=schedule)
    setup = replace(SETUP, trainer=parts.FedAvg(rule), server=rule)
    facts, clients = lab.facts_of(setup), lab.load_data(setup).clients

    def one_round(setup: Any, key: Any) -> Any:
        algorithm = setup.algorithm(facts)
        return algorithm.round(key, algorithm.init(key), clients)

    state, info = jax.eval_shape(one_round, setup, jax.random.key(0))
    assert info["train_loss"].dtype == jnp.float32
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
