"""Federated training as a setup."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, federated, models
from ppml_lab.federated import contributions, roles, scoring
from ppml_lab.lab.fields import Traced
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.part import part
from ppml_lab.lab.parts.data import Data, Digits
from ppml_lab.lab.parts.mechanisms import Mechanism, NoPrivacy
from ppml_lab.lab.parts.metrics import Accuracy, Metric
from ppml_lab.lab.parts.models import Logistic, Model
from ppml_lab.lab.parts.optimizers import Optimizer, Sgd
from ppml_lab.lab.parts.partitions import Iid, Partition
from ppml_lab.lab.parts.samplers import Poisson, Sampler
from ppml_lab.lab.parts.sums import Clear, Sum
from ppml_lab.lab.parts.trainers import FedAvg, Trainer
from ppml_lab.lab.setup import Facts, Layout, Schedule


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
class Federated:
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
    """Of all test rows together, beside the means of the task's own; of neither where
    clients keep a part of the model."""
    client_metrics: bool = False
    """Whether evaluations also go through every client's own rows: those held out, or
    the train rows where none are."""
    held_out: float = 0.0
    """Share of each client's rows that is never trained, by which it judges its own
    model; of one with two rows or more at least one."""
    kept: tuple[str, ...] = ()
    """The model's leaves that each client keeps for itself, by layer: "Dense_1" is a
    personal head, "BatchNorm_*" is FedBN. See `models.personal`."""
    schedule: Schedule = Schedule()
    """How long it runs, and when it is evaluated."""
    layout: Layout = Layout()
    """How it lies on devices."""

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """See `federated.averaging`."""
        task = self.task(facts)
        self._check_judged(task, facts)
        trainer, server = self.trainer.build(task, facts, self.server.build())
        sampler = self.sampler.build(facts.num_clients, self.layout.owners())
        whose = contributions.of_trainer(trainer, sampler)
        expected = whose.sampler.expected_cohort * (1.0 - self.dropout_prob)
        return federated.averaging(
            task,
            trainer,
            sampler,
            server=server,
            mechanism=self.mechanism.build(whose.unit, expected),
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
        """The task's and the metrics' scalars, with `client_metrics` and their spread
        over clients; this spread alone of models that clients keep a part of.
        """
        if self.client_metrics and self.schedule.metric.startswith("client_"):
            raise ValueError(
                f"schedule.metric '{self.schedule.metric}' is of clients' own rows, "
                "which are reported; choose by a metric of validation rows"
            )
        facts, mesh = facts_of(self), self.layout.mesh()
        task = self.task(facts)
        if roles.keeps(task):
            trainer, server = self.trainer.build(task, facts, self.server.build())
            own = federated.personal_evaluator(task, trainer, server, mesh=mesh)
            return federated.client_spread(own(state, clients), clients)
        judge = scoring.scorer(task, self.predict, self.metrics, mesh=mesh)
        found = judge(state.params, rows)
        if self.client_metrics:
            each = federated.client_evaluator(task, mesh=mesh)(state.params, clients)
            found |= federated.client_spread(each, clients)
        return found

    def task(self, facts: Facts) -> base.Task:
        """What is learnt, with what each client keeps of it."""
        task = self.model.build(facts)
        return models.personal(task, self.kept) if self.kept else task

    def _check_judged(self, task: base.Task, facts: Facts) -> None:
        """Raises ValueError unless there are rows by which clients' own models are
        judged, and none that nobody's model fits.
        """
        kept = roles.keeps(task)
        if kept and not facts.num_held_out:
            raise ValueError(
                f"clients keep {kept[0]}, so that each has a model of its own, judged "
                "by own rows that it never trains: set held_out, such as 0.2, or load "
                "clients with held_out"
            )
        if kept and self.metrics not in ((), (Accuracy(),)):
            raise ValueError(
                f"metrics are of all test rows, and clients keep {kept[0]}: no model "
                "fits them all; leave metrics out, the task's are told of every client"
            )
        if kept and self.schedule.validation:
            raise ValueError(
                f"validation {self.schedule.validation:g} holds out rows of nobody's, "
                f"and clients keep {kept[0]}: no model fits them; set validation to 0"
            )

    def with_noise(self, noise: float) -> Federated:
        """With so much noise in its mechanism, or in a trainer that is private."""
        for name in ("mechanism", "trainer"):
            own = getattr(getattr(self, name), "with_noise", None)
            if own is not None:
                return dataclasses.replace(self, **{name: own(noise)})
        raise ValueError(
            f"mechanism {type(self.mechanism).__name__} and trainer "
            f"{type(self.trainer).__name__} have no noise to set; give a mechanism "
            "such as Gaussian, or a with_noise(z) of its own"
        )

    def accounted(self) -> Federated:
        """What costs the same, and bears all the noise that a search tries."""
        own = getattr(self.mechanism, "accounted", None)
        return self if own is None else dataclasses.replace(self, mechanism=own())

    def predict(self, params: PyTree, rows: PyTree) -> Array:
        """The model's scores."""
        return self.model.predict(facts_of(self), params, rows)
