"""Federated learning: where data, models, privacy and secure sums meet."""

from ppml_lab.federated import sparse
from ppml_lab.federated.attacks import lying, sign_flipping
from ppml_lab.federated.averaging import averaging
from ppml_lab.federated.central import central_sgd
from ppml_lab.federated.client import local_dp_sgd, local_sgd
from ppml_lab.federated.contributions import Contributions
from ppml_lab.federated.devices import (
    client_mesh,
    on_every_device,
    sharded_by_client,
    specs,
    use_all_cores,
)
from ppml_lab.federated.estimates import (
    coordinate_median,
    estimating,
    trimmed_mean,
)
from ppml_lab.federated.evaluation import (
    client_evaluator,
    client_spread,
    evaluator,
    personal_evaluator,
)
from ppml_lab.federated.example_gradients import example_gradients
from ppml_lab.federated.fedprox import proximal_sgd
from ppml_lab.federated.on_shares import SharedTraining, training_on_shares
from ppml_lab.federated.sampling import everyone, fixed_size, poisson
from ppml_lab.federated.scaffold import scaffold
from ppml_lab.federated.separated import min_separation
from ppml_lab.federated.server import fedopt
from ppml_lab.federated.simulate import simulate
from ppml_lab.federated.top_k import top_k

__all__ = [
    "Contributions",
    "SharedTraining",
    "averaging",
    "central_sgd",
    "client_evaluator",
    "client_mesh",
    "client_spread",
    "coordinate_median",
    "estimating",
    "evaluator",
    "everyone",
    "example_gradients",
    "fedopt",
    "fixed_size",
    "local_dp_sgd",
    "local_sgd",
    "lying",
    "min_separation",
    "on_every_device",
    "personal_evaluator",
    "poisson",
    "proximal_sgd",
    "scaffold",
    "sharded_by_client",
    "sign_flipping",
    "simulate",
    "sparse",
    "specs",
    "top_k",
    "training_on_shares",
    "trimmed_mean",
    "use_all_cores",
]
