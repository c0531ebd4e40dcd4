"""Federated training as a setup."""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, checks, federated, models
from ppml_lab.federated import contributions, roles
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.parts.data import Data, Digits
from ppml_lab.lab.parts.mechanisms import Mechanism, NoPrivacy
from ppml_lab.lab.parts.metrics import Accuracy, Metric
from ppml_lab.lab.parts.modelled import Modelled
from ppml_lab.lab.parts.models import Logistic, Model
from ppml_lab.lab.parts.optimizers import Optimizer, Sgd
from ppml_lab.lab.parts.partitions import Iid, Partition
from ppml_lab.lab.parts.rules import Mean, Rule
from ppml_lab.lab.parts.samplers import Poisson, Sampler
from ppml_lab.lab.parts.sums import Clear, Sum
from ppml_lab.lab.parts.trainers import FedAvg, Trainer
from ppml_lab.lab.setup import Facts, Layout, Schedule
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


@part
class Federated(Modelled):
    """Rounds of clients that train, and of a server that learns a private sum."""

    pattern = "federated"
    """What tables call it."""

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
        checks.share("dropout_prob", self.dropout_prob)
        whose = contributions.of_trainer(trainer, sampler)
        expected = whose.sampler.expected_cohort * (1.0 - self.dropout_prob)
        summed = self.secure_sum.build(sampler)
        summed = summed._replace(name=type(self.secure_sum).__name__)
        return federated.averaging(
            task,
            trainer,
            sampler,
            server=server,
            mechanism=self.mechanism.build(whose.unit, expected),
            # What servers see is the sum's matter, whatever the rule makes of it.
            aggregator=self.rule.build(summed)._replace(shows=summed.shows),
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
        found = self.judged(state, rows)
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
                f"and clients keep {kept[0]}: no model fits them. A personal model has "
                "no best by validation rows: use keep='last' (of the schedule and of "
                "run_sweep), without stop_at, and validation=0"
            )
