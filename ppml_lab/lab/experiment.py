"""From a configuration to an algorithm and its data: the one place for names.

What changes the compiled program (shapes, algorithm) is in the frozen `Config`; what
only changes numbers is in `Hyperparams`, which is traced, so that a sweep over it
compiles once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ppml_lab import base, checks, data, dp, federated, models, smpc


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are dealt to clients."""

    dataset: str = "digits"
    """Name of a data set: digits, mnist, fashion_mnist or synthetic."""
    partition: str = "iid"
    """iid, dirichlet, shards, label_limited, quantity_skew, or natural (the data set's
    own users)."""
    num_clients: int = 100
    """Number of clients; the natural partition has its own, but for synthetic data."""
    dirichlet_alpha: float = 0.5
    """Concentration of the dirichlet partition; small is skewed."""
    shards_per_client: int = 2
    """Shards of sorted labels that each client gets in the shards partition."""
    labels_per_client: int = 2
    """Classes that each client has in the label_limited partition."""
    size_sigma: float = 1.0
    """Log-standard-deviation of client sizes in the quantity_skew partition."""
    synthetic_beta: float = 1.0
    """Variance of the clients' input centres in the synthetic data."""
    data_seed: int = 0
    """Seed of synthetic data and of the partition; runs' seeds do not change them."""


@dataclass(frozen=True)
class Config:
    """Everything about a run that is fixed when it is compiled."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which data, and how they are dealt to clients."""
    model: str = "logistic"
    """Name of a model: logistic, 2nn, cnn or lenet."""
    training: Literal["federated", "central"] = "federated"
    """Federated averaging, or SGD on everybody's pooled examples."""
    algorithm: str = "fedavg"
    """What clients and server do: fedavg, fedprox or scaffold."""
    sampler: str = "poisson"
    """Who takes part: everyone, fixed_size or poisson."""
    cohort: float = 10.0
    """Expected clients per round; with central training, expected examples per step."""
    num_rounds: int = 50
    """Rounds of training."""
    eval_every: int = 10
    """Rounds between evaluations."""
    evals_per_chunk: int = 1
    """Evaluations between two visits to the host; a killed run loses at most so many.
    """
    evaluate_clients: bool = False
    """Whether evaluations also go through every client's own (training) examples."""
    stop_at_accuracy: float | None = None
    """Ends the run after a chunk in which the test accuracy reached this."""
    batch_size: int = 10
    """Examples per local step."""
    local_epochs: int = 1
    """Passes over its data that a client makes per round."""
    steps_per_round: int = 1
    """Steps per round in central training, and per client with privacy "local_dp_sgd".
    """
    client_optimizer: str = "sgd"
    """Optimizer of clients, and of central training: sgd, momentum or adam."""
    server_optimizer: str = "sgd"
    """Optimizer of the server: sgd (FedAvg), momentum, adam, yogi or adagrad."""
    weighting: Literal["uniform", "examples"] = "uniform"
    """Whether clients count the same or by their number of examples."""
    dropout_prob: float = 0.0
    """Chance of a participant to drop out before its upload."""

    privacy: str = "none"
    """Mechanism: none, central, local, example (central training) or local_dp_sgd."""
    secure_sum: Literal["clear", "additive_sharing"] = "clear"
    """How updates are summed."""
    num_parties: int = 3
    """Servers among which updates are shared."""
    scale_bits: int = 16
    """Fixed point: 2^scale_bits steps per unit."""
    max_abs: float = 8.0
    """Bound of a shared coordinate where no clip norm bounds it."""
    num_lanes: int | None = None
    """Clients trained at once on a device; None chooses by backend and model."""
    num_devices: int | None = None
    """Devices that a round's clients are dealt to; None takes all."""


class Hyperparams(NamedTuple):
    """Traced scalars: changing them does not compile again.

    Attributes:
      learning_rate: The clients', or central training's.
      server_learning_rate: Multiplies the mean update (1 is FedAvg).
      clip_norm: L2 bound of a contribution.
      noise_multiplier: Standard deviation of the noise over the clip norm.
      proximal_mu: Weight of FedProx's proximal term.
    """

    learning_rate: Any = 0.1
    server_learning_rate: Any = 1.0
    clip_norm: Any = 1.0
    noise_multiplier: Any = 0.0
    proximal_mu: Any = 0.01


class DataFacts(NamedTuple):
    """What algorithms need to know about the data when they are built."""

    num_clients: int
    num_examples: int
    max_client_size: int
    num_classes: int
    input_shape: tuple[int, ...]


class LabData(NamedTuple):
    """A federated data set, its test set, and the facts about them."""

    clients: base.Clients
    test: PyTree
    facts: DataFacts


Optimizer = Callable[[Any], optax.GradientTransformation]

_OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    # Reddi et al., ICLR 2021, take 1e-3 for the adaptivity of all three.
    "adam": lambda rate: optax.adam(rate, b2=0.99, eps=1e-3),
    "yogi": lambda rate: optax.yogi(rate, b2=0.99, eps=1e-3),
    "adagrad": lambda rate: optax.adagrad(rate, eps=1e-3),
}
_MODELS: Mapping[str, Callable[[int], Any]] = {
    "logistic": models.logistic,
    "2nn": models.two_nn,
    "cnn": models.CNN,
    "lenet": models.LeNet,
}
_SAMPLERS: Mapping[str, Callable[[int, float], base.ClientSampler]] = {
    "everyone": lambda population, cohort: federated.everyone(population),
    "fixed_size": lambda population, cohort: federated.fixed_size(
        population, _whole_cohort(cohort)
    ),
    "poisson": lambda population, cohort: federated.poisson(
        population, _cohort_prob(population, cohort)
    ),
}
ALGORITHMS = ("fedavg", "fedprox", "scaffold")
PRIVACIES = ("none", "central", "local", "example", "local_dp_sgd")


def load_data(config: DataConfig, num_devices: int | None = None) -> LabData:
    """The data set of `config`, dealt to clients, whole on each of the devices.

    Raises:
      ValueError: For unknown names or partitions that do not fit.
      FileNotFoundError: If files are missing; says where to put them.
    """
    return _load_data(config, num_devices)


@functools.lru_cache(maxsize=2)
def _load_data(config: DataConfig, num_devices: int | None) -> LabData:
    if config.dataset == "synthetic":
        # Its alpha shifts all logits alike and changes nothing.
        dataset = data.synthetic(
            config.data_seed, config.num_clients, 1.0, config.synthetic_beta
        )
    else:
        dataset = data.load(config.dataset)
    owners = _owners(config, dataset)
    sharding = federated.on_every_device(federated.client_mesh(num_devices))
    clients = data.federate(dataset.train, owners, sharding=sharding)
    test = jax.device_put(dataset.test, sharding)
    facts = DataFacts(
        num_clients=data.num_clients(clients),
        num_examples=len(owners),
        max_client_size=int(np.max(data.client_sizes(clients))),
        num_classes=dataset.num_classes,
        input_shape=dataset.train["x"].shape[1:],
    )
    return LabData(clients, test, facts)


def _owners(config: DataConfig, dataset: data.Dataset) -> np.ndarray:
    deal = data.partition
    rng, count = np.random.default_rng(config.data_seed), config.num_clients
    labels = dataset.train["y"]
    partitions: Mapping[str, Callable[[], np.ndarray]] = {
        "iid": lambda: deal.iid(rng, len(labels), count),
        "dirichlet": lambda: deal.dirichlet(rng, labels, count, config.dirichlet_alpha),
        "shards": lambda: deal.shards(rng, labels, count, config.shards_per_client),
        "label_limited": lambda: deal.label_limited(
            rng, labels, count, config.labels_per_client
        ),
        "quantity_skew": lambda: deal.quantity_skew(
            rng, len(labels), count, config.size_sigma
        ),
        "natural": lambda: deal.natural(dataset.train_users),
    }
    checks.known("partition", config.partition, partitions)
    return partitions[config.partition]()


def make_task(config: Config, facts: DataFacts) -> base.Task:
    """The task of `config.model` on data with these facts."""
    checks.known("model", config.model, _MODELS)
    module = _MODELS[config.model](facts.num_classes)
    return models.flax_classification(module, facts.input_shape)


def build(
    config: Config, hyperparams: Hyperparams, facts: DataFacts
) -> base.FederatedAlgorithm:
    """The algorithm of a configuration.

    Called with numbers it checks them all and can state its event; called with traced
    hyperparameters inside jit it is the same algorithm, compiled for any of them.

    Raises:
      ValueError: For unknown names (the nearest is suggested), bad numbers, or parts
        that do not go together.
    """
    checks.known("algorithm", config.algorithm, ALGORITHMS)
    checks.known("privacy", config.privacy, PRIVACIES)
    checks.known("sampler", config.sampler, _SAMPLERS)
    checks.known("client_optimizer", config.client_optimizer, _OPTIMIZERS)
    checks.known("server_optimizer", config.server_optimizer, _OPTIMIZERS)
    checks.positive("learning_rate", hyperparams.learning_rate)
    checks.positive("server_learning_rate", hyperparams.server_learning_rate)
    task = make_task(config, facts)
    optimizer = _OPTIMIZERS[config.client_optimizer](hyperparams.learning_rate)
    if config.training == "central":
        return _build_central(config, hyperparams, facts, task, optimizer)
    if config.privacy == "example":
        raise ValueError(
            "privacy 'example' belongs to central training; clients protect their "
            "examples with 'local_dp_sgd'"
        )
    sampler = _SAMPLERS[config.sampler](facts.num_clients, config.cohort)
    trainer, server = _parts(config, hyperparams, facts, task, optimizer)
    return federated.averaging(
        task,
        trainer,
        sampler,
        server=server,
        mechanism=_mechanism(config, hyperparams),
        aggregator=_aggregator(config, hyperparams, sampler),
        weighting=config.weighting,
        dropout_prob=config.dropout_prob,
        num_lanes=config.num_lanes,
        mesh=federated.client_mesh(config.num_devices),
    )


def _build_central(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> base.FederatedAlgorithm:
    if config.privacy not in ("none", "example") or config.secure_sum != "clear":
        raise ValueError(
            f"central training has no clients: privacy '{config.privacy}' with secure "
            f"sum '{config.secure_sum}' has no meaning; use privacy 'none' or 'example'"
        )
    return federated.central_sgd(
        task,
        optimizer,
        _SAMPLERS[config.sampler](facts.num_examples, config.cohort),
        mechanism=_mechanism(config, hyperparams),
        steps_per_round=config.steps_per_round,
    )


def _parts(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> tuple[base.ClientTrainer, base.Server]:
    """What the algorithm's clients do, and its server."""
    server_optimizer = _OPTIMIZERS[config.server_optimizer](
        hyperparams.server_learning_rate
    )
    server = federated.fedopt(server_optimizer)
    size, epochs = config.batch_size, config.local_epochs
    if config.privacy == "local_dp_sgd":
        return _private_trainer(config, hyperparams, facts, task, optimizer), server
    if config.algorithm == "fedprox":
        mu = hyperparams.proximal_mu
        return federated.proximal_sgd(
            task, optimizer, size, mu, num_epochs=epochs
        ), server
    if config.algorithm == "scaffold":
        return federated.scaffold(
            task, optimizer, size, num_epochs=epochs, server_optimizer=server_optimizer
        )
    return federated.local_sgd(task, optimizer, size, num_epochs=epochs), server


def _private_trainer(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> base.ClientTrainer:
    if config.algorithm != "fedavg":
        raise ValueError(
            "privacy 'local_dp_sgd' noises the gradients of plain local SGD, of which "
            f"algorithm '{config.algorithm}' has no version; use 'fedavg'"
        )
    mechanism = dp.gaussian(
        hyperparams.clip_norm, hyperparams.noise_multiplier, privacy_unit="example"
    )
    return federated.local_dp_sgd(
        task,
        optimizer,
        mechanism,
        sampling_prob=min(1.0, config.batch_size / facts.max_client_size),
        num_steps=config.steps_per_round,
        max_client_size=facts.max_client_size,
    )


def _mechanism(config: Config, hyperparams: Hyperparams) -> base.PrivacyMechanism:
    clip_norm, noise = hyperparams.clip_norm, hyperparams.noise_multiplier
    if config.privacy == "central":
        return dp.gaussian(clip_norm, noise)
    if config.privacy == "local":
        return dp.local_gaussian(clip_norm, noise)
    if config.privacy == "example":
        return dp.gaussian(clip_norm, noise, privacy_unit="example")
    return dp.no_privacy()


def _aggregator(
    config: Config, hyperparams: Hyperparams, sampler: base.ClientSampler
) -> base.SecureAggregator:
    if config.secure_sum == "clear":
        return smpc.clear()
    # A clipped update's coordinates are at most the clip norm; local noise is not.
    bounded = config.privacy == "central"
    return smpc.additive_sharing(
        config.num_parties,
        sampler.max_cohort,
        hyperparams.clip_norm if bounded else config.max_abs,
        2.0**config.scale_bits,
    )


def _whole_cohort(cohort: float) -> int:
    if cohort != int(cohort):
        raise ValueError(f"cohort must be whole for a fixed size, got {cohort}")
    return int(cohort)


def _cohort_prob(population: int, cohort: float) -> float:
    if cohort > population:
        raise ValueError(
            f"cohort {cohort} is larger than the population {population}; choose at "
            f"most {population}"
        )
    return cohort / population
