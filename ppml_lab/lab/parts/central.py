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
    """SGD on pooled examples; with a mechanism DP-SGD, which protects examples."""

    pattern = "central"
    """What tables call it."""

    data: Data = Digits()
    """Which data."""
    partition: Partition = Iid(1)
    """Whose rows are whose; batches are drawn from all alike."""
    model: Model = Logistic()
    """What is learnt."""
    optimizer: Optimizer = Sgd(0.1)
    """Of the steps."""
    batch: Sampler = Poisson(256)
    """Which examples a step takes."""
    steps_per_round: int = 1
    """Steps in a round."""
    mechanism: Mechanism = NoPrivacy()
    """What protects examples."""
    method: Literal["auto", "ghost", "vmap"] = "auto"
    """How examples' gradients are clipped; auto for ghost where it knows the model."""
    microbatch_size: int | None = None
    """Examples that are clipped at once; None for the whole batch."""
    live_epsilon: bool = False
    """Whether every round says what it has spent so far, inside the program."""
    metrics: tuple[Metric, ...] = (Accuracy(),)
    """Of all test rows together, beside the means of the task's own."""
    schedule: Schedule = Schedule()
    """How long it runs, and when it is evaluated."""
    layout: Layout = Layout()
    """How it lies on devices."""

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """See `federated.central_sgd`."""
        if self.layout.shard_data:
            raise ValueError(
                "shard_data deals examples by client, and central training draws from "
                "all of them; leave it out"
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
        """The task's and the metrics' scalars."""
        return self.judged(state, rows)
