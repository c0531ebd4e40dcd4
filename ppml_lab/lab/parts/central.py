"""Central training as a setup: everybody's examples in one place."""

from __future__ import annotations

from typing import Any, Literal

from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, federated
from ppml_lab.lab.parts.data import Data, Digits
from ppml_lab.lab.parts.mechanisms import Mechanism, NoPrivacy
from ppml_lab.lab.parts.metrics import Accuracy, Metric
from ppml_lab.lab.parts.modelled import Modelled
from ppml_lab.lab.parts.models import Logistic, Model
from ppml_lab.lab.parts.optimizers import Optimizer, Sgd
from ppml_lab.lab.parts.partitions import Iid, Partition
from ppml_lab.lab.parts.samplers import Poisson, Sampler
from ppml_lab.lab.setup import Facts, Layout, Schedule
from ppml_lab.lab.tree.part import part


@part
class Central(Modelled):
    """SGD on pooled examples; with a mechanism, DP-SGD, which protects examples."""

    pattern = "central"
    """The name of this kind of training in tables."""

    data: Data = Digits()
    """The data set."""
    partition: Partition = Iid(1)
    """Dealing of rows to clients; batches are drawn from all rows alike."""
    model: Model = Logistic()
    """The model that is trained."""
    optimizer: Optimizer = Sgd(0.1)
    """The optimizer of the training steps."""
    batch: Sampler = Poisson(256)
    """The sampler of the examples of a step."""
    steps_per_round: int = 1
    """Training steps per round."""
    mechanism: Mechanism = NoPrivacy()
    """The privacy mechanism that protects examples."""
    method: Literal["auto", "ghost", "vmap"] = "auto"
    """Method of clipping examples' gradients; auto takes ghost where it supports the
    model."""
    microbatch_size: int | None = None
    """Examples whose gradients are clipped at once; None for the whole batch."""
    live_epsilon: bool = False
    """If true, every round computes the epsilon spent so far, inside the compiled
    program."""
    metrics: tuple[Metric, ...] = (Accuracy(),)
    """Metrics of all test rows together, beside the means of the task's own metrics."""
    schedule: Schedule = Schedule()
    """Length of the run, and times of its evaluations."""
    layout: Layout = Layout()
    """Layout of the run on devices."""

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """See `federated.central_sgd`."""
        if self.layout.shard_data:
            raise ValueError(
                "shard_data deals examples by client, but central training draws from "
                "all examples; leave shard_data out"
            )
        sampler = self.batch.build(facts.num_examples)
        return federated.central_sgd(
            self.model.build(facts),
            self.optimizer.build(self.steps_per_round),
            sampler,
            mechanism=self.mechanism.build("example", sampler.expected_cohort),
            steps_per_round=self.steps_per_round,
            method=self.method,
            microbatch_size=self.microbatch_size,
            live_delta=facts.delta if self.live_epsilon else None,
            mesh=self.layout.mesh(),
        )

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Returns the scalars of the task and of the metrics."""
        return self.judged(state, rows)
