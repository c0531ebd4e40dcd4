"""Federated learning: where data, models, privacy and secure sums meet."""

from ppml_lab.federated.averaging import averaging
from ppml_lab.federated.central import central_sgd
from ppml_lab.federated.client import local_dp_sgd, local_sgd
from ppml_lab.federated.evaluation import evaluator
from ppml_lab.federated.sampling import everyone, fixed_size, poisson
from ppml_lab.federated.simulate import simulate

__all__ = [
    "averaging",
    "central_sgd",
    "evaluator",
    "everyone",
    "fixed_size",
    "local_dp_sgd",
    "local_sgd",
    "poisson",
    "simulate",
]
