"""Private trainings of the handwritten digits, with room for canaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppml_lab import base, data, dp, federated, models
from ppml_lab.audit import canaries

CLIP_NORM = 0.5


class Training(NamedTuple):
    """A private training whose last members may be canaries.

    Attributes:
      make: From a sampler to the algorithm.
      sampler: Of all members.
      clients: Their data.
      gain: From the model's change in a round to the noisy sum over the sensitivity.
      task: What is learnt.
    """

    make: Callable[[base.ClientSampler], base.FederatedAlgorithm]
    sampler: base.ClientSampler
    clients: base.Clients
    gain: float
    task: base.Task


def task_of(module: Any) -> base.Task:
    return models.flax_classification(module, (8, 8, 1))


def pooled(
    sampling_prob: float,
    noise: float,
    task: base.Task,
    rows: dict[str, np.ndarray],
    directions: canaries.Directions | None,
) -> Training:
    """DP-SGD on the digits and, after them, rows that are canaries."""
    count = len(rows["y"])
    numbers = np.full(count, -1) if directions is None else np.arange(count)
    examples = canaries.append(data.load("digits").train, rows, numbers)
    sampler = federated.poisson(len(examples["y"]), sampling_prob)
    mechanism = dp.gaussian(CLIP_NORM, noise, privacy_unit="example")
    method: Any = "auto"
    if directions is not None:
        method = canaries.gradient_canaries(task.loss, directions)
    rate = 2.0
    clients = base.Clients(
        jax.tree.map(jnp.asarray, examples), jnp.array([0, len(examples["y"])])
    )
    return Training(
        lambda sampler: federated.central_sgd(
            task, optax.sgd(rate), sampler, mechanism=mechanism, method=method
        ),
        sampler,
        clients,
        -sampler.expected_cohort / (rate * CLIP_NORM),
        task,
    )


def dealt(
    sampling_prob: float,
    num_clients: int,
    noise: float,
    task: base.Task,
    count: int,
    directions: canaries.Directions,
) -> Training:
    """DP-FedAvg on clients who share the digits and, after them, canary clients."""
    train = data.load("digits").train
    users = data.partition.iid(np.random.default_rng(0), len(train["y"]), num_clients)
    rows = {name: np.repeat(leaf[:1], count, 0) for name, leaf in train.items()}
    examples = canaries.append(train, rows, np.arange(count))
    owners = np.concatenate([users, num_clients + np.arange(count)])
    clients = data.federate(examples, owners)
    sampler = federated.poisson(num_clients + count, sampling_prob)
    trainer = canaries.canary_clients(
        federated.local_sgd(task, optax.sgd(0.5), 8, num_epochs=1), directions
    )
    return Training(
        lambda sampler: federated.averaging(
            task, trainer, sampler, mechanism=dp.gaussian(CLIP_NORM, noise)
        ),
        sampler,
        clients,
        sampler.expected_cohort / CLIP_NORM,
        task,
    )


def untouched(task: base.Task, count: int) -> canaries.Directions:
    """Coordinates that no digit's gradient moves, in a random order."""
    params = task.init(jax.random.key(0))
    places = canaries.untouched_weights(params, data.load("digits").train)
    if len(places) < count:
        raise ValueError(f"{count} canaries, but only {len(places)} coordinates")
    return canaries.dirac(params, np.random.default_rng(0).permutation(places)[:count])


def membership(training: Training, runs: int, canary: int = -1) -> np.ndarray:
    """Who is in: everybody, and the canary in the first half of the runs."""
    included = np.ones((2 * runs, training.sampler.population), bool)
    included[runs:, canary] = False
    return included
