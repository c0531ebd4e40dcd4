"""Federated training as a setup."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, checks, federated
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.parts.data import Data, Digits
from ppml_lab.lab.parts.mechanisms import Mechanism, NoPrivacy
from ppml_lab.lab.parts.metrics import Accuracy, Metric
from ppml_lab.lab.parts.modelled import Modelled
from ppml_lab.lab.parts.models import Logistic, Model
from ppml_lab.lab.parts.optimizers import Optimizer, Sgd
from ppml_lab.lab.parts.partitions import Iid, Partition
from ppml_lab.lab.parts.samplers import Poisson, Sampler
from ppml_lab.lab.parts.sums import Clear, Sum
from ppml_lab.lab.parts.trainers import FedAvg, Trainer
from ppml_lab.lab.setup import Facts, Layout, Schedule
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class Rule(Protocol):
    """A part that says what is made of a cohort's updates."""

    @property
    def weighting(self) -> str:
        """How they count; see `federated.averaging`."""
        ...

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """What the server makes of messages that this secure sum would add up."""
        ...


@part
class Mean:
    """The mean of updates."""

    weighting: Literal["uniform", "realised", "examples"] = "uniform"
    """Whether clients count the same (the mean divides by the expected or by the
    realised number of reports) or by their examples."""

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """The sum itself, which averaging divides."""
        return summed


@part
class Federated(Modelled):
    """Rounds of clients that train, and of a server that learns a private sum."""

    data: Data = Digits()
    """Which data."""
    partition: Partition = Iid(100)
    """How they are dealt to clients."""
    model: Model = Logistic()
    """What is learnt."""
    trainer: Trainer = FedAvg()
    """What clients do."""
    server: Optimizer = Sgd(1.0)
    """The server's optimizer, which takes the mean update for a direction."""
    sampler: Sampler = Poisson(10)
    """Who takes part in a round."""
    mechanism: Mechanism = NoPrivacy()
    """What protects clients."""
    rule: Rule = Mean()
    """What is made of updates."""
    secure_sum: Sum = Clear()
    """Who sees which updates."""
    dropout_prob: Traced = 0.0
    """Chance of a participant to drop out before its upload."""
    live_epsilon: bool = False
    """Whether every round says what it has spent so far, inside the program."""
    metrics: tuple[Metric, ...] = (Accuracy(),)
    """Of all test rows together, beside the means of the task's own."""
    client_metrics: bool = False
    """Whether evaluations also go through every client's own train rows."""
    schedule: Schedule = Schedule()
    """How long it runs, and when it is evaluated."""
    layout: Layout = Layout()
    """How it lies on devices."""

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """See `federated.averaging`."""
        task = self.model.build(facts)
        trainer, server = self.trainer.build(task, facts, self.server.build())
        sampler = self.sampler.build(facts.num_clients, self.layout.owners())
        checks.share("dropout_prob", self.dropout_prob)
        expected = sampler.expected_cohort * (1.0 - self.dropout_prob)
        return federated.averaging(
            task,
            trainer,
            sampler,
            server=server,
            mechanism=self.mechanism.build("client", expected),
            aggregator=self.rule.build(self.secure_sum.build(sampler)),
            weighting=self.rule.weighting,
            dropout_prob=self.dropout_prob,
            live_delta=facts.delta if self.live_epsilon else None,
            num_lanes=self.layout.num_lanes,
            mesh=self.layout.mesh(),
        )

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """The task's and the metrics' scalars; with `client_metrics` their spread."""
        found = self.judged(state, rows)
        if self.client_metrics:
            task, mesh = self.model.build(facts_of(self)), self.layout.mesh()
            each = federated.client_evaluator(task, mesh=mesh)(state.params, clients)
            found |= federated.client_spread(each, clients)
        return found
