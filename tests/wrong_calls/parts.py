"""Small parts of which good calls are made."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppml_lab import audit, data, dp, federated, lab, models, smpc
from ppml_lab.dp import events

ROWS = {
    "x": np.arange(12, dtype=np.float32).reshape(6, 2),
    "y": np.array([0, 1, 0, 1, 0, 1], np.int32),
}
OWNERS = np.array([0, 0, 1, 1, 2, 2])
CLIENTS = data.federate(ROWS, OWNERS)
PARAMS = {"w": jnp.zeros((2, 3))}
TASK = models.classification(
    lambda key: {"w": jnp.zeros((2, 3))}, lambda params, x: x @ params["w"]
)
TWO_LEAVES = models.classification(
    lambda key: {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)},
    lambda params, x: x @ params["w"] + params["b"],
)
SGD = optax.sgd(0.1)
KEY = jax.random.key(0)
SAMPLER = federated.poisson(3, 0.5)
TRAINER = federated.local_sgd(TASK, SGD, 2, num_steps=1)
CENTRAL = dp.gaussian(0.5, 2.0)
EXAMPLES = dp.gaussian(0.5, 2.0, privacy_unit="example")
ALGORITHM = federated.averaging(TASK, TRAINER, SAMPLER)
EVENT = CENTRAL.event(SAMPLER, 3)
ONE = events.gaussian(2.0)
SETUP = lab.parts.Federated(mechanism=lab.parts.Gaussian(1.0, 1.0))
POINT = lab.Point(SETUP, 0, {"seed": 0})
SEEDS = lab.seeds(2)
ERRORS = audit.evidence.Errors(2, 100, 3, 100, "halves")
GUESSES = audit.one_run.Guesses(100, 50, 40)
SCORES = np.random.default_rng(0).normal(size=(4, 200))
DIRECTIONS = audit.canaries.dirac(PARAMS, np.array([0, 3]))
GRAPH = smpc.graphs.complete(5, 3)
CODE = smpc.lightsecagg.Code(5, 3, 1)
MESSAGES = smpc.cost.bonawitz(GRAPH, 10, 16)
PROTOCOL = smpc.private.protocol("replicated")
MESH = federated.client_mesh(1)
