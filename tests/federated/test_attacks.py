"""Clients that lie: who they are, what they send, and what rules make of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, federated

KEY = jax.random.key(2)
# Client i's two examples are what it sends.
VECTORS = np.random.default_rng(3).normal([2, -1, 4], 0.2, (9, 3)).astype(np.float32)
CLIENTS = base.Clients(
    jnp.asarray(np.repeat(VECTORS, 2, axis=0)), 2 * jnp.arange(10, dtype=jnp.int32)
)
TASK = base.Task(
    init=lambda key: jnp.zeros(3),
    loss=lambda key, params, examples: -examples @ params,
    evaluate=lambda params, examples: {},
)
OWN = federated.local_sgd(TASK, optax.sgd(1.0), 2, num_steps=1)
ATTACKERS = [7, 0, 3, 4]


def after_a_round(trainer, aggregator=None, sampler=None):
    sampler = federated.everyone(9) if sampler is None else sampler
    algorithm = federated.averaging(
        TASK, trainer, sampler, aggregator=aggregator, num_lanes=2
    )
    state, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), CLIENTS)
    return np.asarray(state.params), info


def test_attackers_turn_a_mean_around_and_a_median_bears_them():
    trainer = federated.sign_flipping(OWN, ATTACKERS, 1.5)
    lies = VECTORS * np.where(np.isin(np.arange(9), ATTACKERS), -1.5, 1)[:, None]
    mean, info = after_a_round(trainer)
    np.testing.assert_allclose(mean, lies.mean(0), rtol=1e-5)
    # Four times 2.5 are more than nine.
    assert (np.sign(mean) == [-1, 1, -1]).all()
    median, same = after_a_round(trainer, federated.coordinate_median())
    np.testing.assert_allclose(median, np.median(lies, axis=0), rtol=1e-6)
    honest = np.delete(VECTORS, ATTACKERS, axis=0)
    assert (honest.min(0) <= median).all()
    assert (median <= honest.max(0)).all()
    # What training tells the researcher is honest.
    assert info["train_loss"] == same["train_loss"]


@pytest.mark.exhaustive
def test_a_client_lies_wherever_it_stands_in_a_cohort():
    cohort = base.Cohort(jnp.array([5, 3, 8], jnp.int32), jnp.ones(3))
    sampler = federated.fixed_size(9, 3)._replace(
        sample=lambda key, state: (cohort, state)
    )
    told = federated.lying(OWN, ATTACKERS, lambda update: update + 100.0)
    mean, _ = after_a_round(told, sampler=sampler)
    expected = VECTORS[[5, 3, 8]].mean(0) + 100 / 3
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_a_trainer_that_sends_few_goes_on_sending_few():
    few = federated.top_k(TASK, OWN, num_sent=1)
    trainer = federated.sign_flipping(few, [*range(9)])
    assert trainer.num_sent == 1
    state = trainer.init(KEY, jnp.zeros(3), few.keep(jnp.zeros(3)), jnp.int32(0))
    view = base.ClientView(CLIENTS.examples, *map(jnp.int32, (12, 2, 6)))
    state = trainer.step(KEY, jnp.zeros(3), state, view, jnp.int32(0))
    update, kept, _ = trainer.finish(jnp.zeros(3), state)
    np.testing.assert_allclose(update, [0, 0, -VECTORS[6, 2]], rtol=1e-6)
    # What it keeps is what an honest client would.
    np.testing.assert_allclose(kept.unsent, [*VECTORS[6, :2], 0], rtol=1e-6)


def test_what_is_wrong_is_refused():
    cases: list[tuple[Any, str]] = [
        ([0, -1], "attackers must lie in .* got -1"),
        ([1, 1], r"attackers names a client twice: \[1, 1\]"),
        ([0.5], "attackers must be"),
    ]
    for attackers, message in cases:
        with pytest.raises(ValueError, match=message):
            federated.sign_flipping(OWN, attackers)
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            federated.sign_flipping(OWN, [0], scale)
    shorter = federated.lying(OWN, [0], lambda update: update[1:])
    with pytest.raises(
        ValueError, match="the attacker's message must have the update's"
    ):
        federated.averaging(TASK, shorter, federated.everyone(9))
