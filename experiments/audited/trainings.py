"""Private trainings of the handwritten digits, with room for canaries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppml_lab import base, data, dp, federated, models
from ppml_lab.audit import canaries, planted
from ppml_lab.federated.simulate import run_chunk

CLIP_NORM = 0.5
RATE = 2.0


def task_of(module: Any) -> base.Task:
    return models.flax_classification(module, (8, 8, 1))


def dp_sgd(
    noise: float, task: base.Task, sampler: base.ClientSampler, method: Any = "auto"
) -> base.FederatedAlgorithm:
    """DP-SGD, which protects examples."""
    mechanism = dp.gaussian(CLIP_NORM, noise, privacy_unit="example")
    return federated.central_sgd(
        task, optax.sgd(RATE), sampler, mechanism=mechanism, method=method
    )


def pooled(
    prob: float, noise: float, task: base.Task, directions: canaries.Directions
) -> planted.Planted:
    """DP-SGD on the digits, with canaries among the examples."""
    return planted.in_examples(
        lambda sampler, method: dp_sgd(noise, task, sampler, method),
        task.loss,
        data.load("digits").train,
        directions,
        lambda count: federated.poisson(count, prob),
        moves=-RATE * CLIP_NORM,
    )


def alone(prob: float, noise: float, num_rounds: int, task: base.Task) -> Any:
    """DP-SGD as a function of a key and examples."""

    def train(key: base.Key, examples: Any) -> Any:
        count = len(examples["y"])
        algorithm = dp_sgd(noise, task, federated.poisson(count, prob))
        clients = base.Clients(examples, jnp.array([0, count]))
        state = algorithm.init(jax.random.fold_in(key, num_rounds))
        return run_chunk(key, algorithm, state, clients, 0, num_rounds)[0].params

    return train


def dealt(
    prob: float,
    num_clients: int,
    noise: float,
    task: base.Task,
    directions: canaries.Directions,
    count: int,
) -> planted.Planted:
    """DP-FedAvg on clients who share the digits, with canary clients among them."""
    train = data.load("digits").train
    users = data.partition.iid(np.random.default_rng(0), len(train["y"]), num_clients)
    mechanism = dp.gaussian(CLIP_NORM, noise)
    return planted.in_clients(
        lambda sampler, trainer: federated.averaging(
            task, trainer, sampler, mechanism=mechanism
        ),
        federated.local_sgd(task, optax.sgd(0.5), 8, num_epochs=1),
        train,
        users,
        directions,
        lambda population: federated.poisson(population, prob),
        moves=CLIP_NORM,
        num_canaries=count,
    )
