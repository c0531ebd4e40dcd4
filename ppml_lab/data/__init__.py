"""Federated data: load it by name, split it among clients, or bring your own.

    from ppml_lab import data

    digits = data.load("digits")
    owners = data.partition.dirichlet(rng, digits.train["y"], 20, alpha=0.3)
    clients = data.federate(digits.train, owners)

Your own arrays need one call: `data.federate({"x": x, "y": y}, user_ids)`.
"""

from ppml_lab.data import partition, scattering, storage
from ppml_lab.data.clients import client_sizes, federate, num_clients, view
from ppml_lab.data.dataset import Dataset, make_dataset
from ppml_lab.data.datasets import load, names
from ppml_lab.data.digests import Digests, digests
from ppml_lab.data.own_table import read_table
from ppml_lab.data.persons import People, people
from ppml_lab.data.plays import shakespeare
from ppml_lab.data.storage import generated, shard
from ppml_lab.data.synthetic import synthetic
from ppml_lab.data.tabular import adult, heart_disease

__all__ = [
    "Dataset",
    "Digests",
    "People",
    "adult",
    "client_sizes",
    "digests",
    "federate",
    "generated",
    "heart_disease",
    "load",
    "make_dataset",
    "names",
    "num_clients",
    "partition",
    "people",
    "read_table",
    "scattering",
    "shakespeare",
    "shard",
    "storage",
    "synthetic",
    "view",
]
