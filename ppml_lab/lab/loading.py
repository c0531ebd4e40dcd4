"""The data set of a configuration, dealt to clients and put on the devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, data, federated, trees
from ppml_lab.lab.config import DataConfig
from ppml_lab.lab.sharding import lab_mesh


class DataFacts(NamedTuple):
    """What algorithms need to know about the data when they are built.

    Attributes:
      num_clients: How many clients there are.
      num_examples: How many train examples there are.
      max_client_size: The most that one client has of them.
      num_classes: Of labels.
      input_shape: Of one example's x.
      digests: What the train examples are; None for facts about no data, of which
        nothing is trained.
    """

    num_clients: int
    num_examples: int
    max_client_size: int
    num_classes: int
    input_shape: tuple[int, ...]
    digests: data.Digests | None = None


class LabData(NamedTuple):
    """A federated data set, its test set, and the facts about them."""

    clients: base.Clients
    test: PyTree
    facts: DataFacts


@arguments.checked
def load_data(
    config: DataConfig, num_devices: int | None = None, shard_data: bool = False
) -> LabData:
    """The data set of `config`, dealt to clients, on the devices of a sweep.

    Args:
      config: Which data, and how they are dealt.
      num_devices: Devices of one point, see `Config`.
      shard_data: Whether each has its own clients' examples only.

    Raises:
      ValueError: For unknown names or partitions that do not fit.
      FileNotFoundError: If files are missing; says where to put them.
    """
    return _load_data(config, num_devices, shard_data)


@functools.lru_cache(maxsize=256)
def facts_of(config: DataConfig) -> DataFacts:
    """The facts about data, kept for many data sets; raises as `load_data` does."""
    return load_data(config).facts


@functools.lru_cache(maxsize=2)
def _load_data(
    config: DataConfig, num_devices: int | None, shard_data: bool
) -> LabData:
    if config.dataset == "synthetic":
        # Its alpha shifts all logits alike and changes nothing.
        dataset = data.synthetic(
            config.data_seed, config.num_clients, 1.0, config.synthetic_beta
        )
    else:
        dataset = data.load(config.dataset)
    owners = _owners(config, dataset)
    mesh = lab_mesh(num_devices)
    everywhere = federated.on_every_device(mesh)
    clients = data.federate(dataset.train, owners, sharding=everywhere)
    if shard_data:
        clients = data.shard(clients, federated.sharded_by_client(mesh))
    test = trees.place(dataset.test, everywhere)
    facts = DataFacts(
        num_clients=data.num_clients(clients),
        num_examples=len(owners),
        max_client_size=int(np.max(data.client_sizes(clients))),
        num_classes=dataset.num_classes,
        input_shape=dataset.train["x"].shape[1:],
        # Of the data as they are loaded, wherever they lie.
        digests=data.digests(dataset.train, owners),
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
