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
    """Rounds in which clients train, and the server learns a private sum of updates."""

    pattern = "federated"
    """The name of this kind of training in tables."""

    data: Data = Digits()
    """The data set."""
    partition: Partition = Iid(100)
    """Dealing of rows to clients."""
    model: Model = Logistic()
    """The model that is trained."""
    trainer: Trainer = FedAvg()
    """The training that clients do in a round."""
    server: Optimizer = Sgd(1.0)
    """The server's optimizer; it steps along the mean update."""
    sampler: Sampler = Poisson(10)
    """The sampler of the clients that take part in a round."""
    mechanism: Mechanism = NoPrivacy()
    """The privacy mechanism that protects clients."""
    rule: Rule = Mean()
    """Rule by which the server combines updates."""
    secure_sum: Sum = Clear()
    """The secure aggregation, which decides who sees which updates."""
    dropout_prob: Traced = 0.0
    """Probability that a participant drops out before its upload."""
    live_epsilon: bool = False
    """If true, every round computes the epsilon spent so far, inside the compiled
    program."""
    metrics: tuple[Metric, ...] = (Accuracy(),)
    """Metrics of all test rows together, beside the means of the task's own metrics;
    both are left out where clients keep a part of the model."""
    client_metrics: bool = False
    """If true, evaluations also cover every client's own rows: the held-out rows, or
    the train rows where no rows are held out."""
    held_out: float = 0.0
    """Share of each client's rows (or of its people, where rows name their person) that
    is never trained and judges the client's own model; at least one of two or more."""
    kept: tuple[str, ...] = ()
    """The model's leaves that each client keeps for itself, by layer: "Dense_1" is a
    personal head, "BatchNorm_*" is FedBN. See `models.personal`."""
    schedule: Schedule = Schedule()
    """Length of the run, and times of its evaluations."""
    layout: Layout = Layout()
    """Layout of the run on devices."""

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
            # The secure aggregation decides what servers see, whatever the rule.
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
        """Returns the scalars of the task and of the metrics.

        With `client_metrics` it adds the spread over clients. Where clients keep a part
        of the model, it returns this spread alone.
        """
        if self.client_metrics and self.schedule.metric.startswith("client_"):
            raise ValueError(
                f"schedule.metric '{self.schedule.metric}' is computed on clients' own "
                "rows, which are only reported; choose a metric of validation rows"
            )
        facts, mesh = facts_of(self), self.layout.mesh()
        task = self.task(facts)
        if roles.keeps(task):
            trainer, server = self.trainer.build(task, facts, self.server.build())
            own = federated.personal_evaluator(task, trainer, server, mesh=mesh)
            each = own(state, clients)
            return federated.client_spread(each, clients, task=task, mesh=mesh)
        found = self.judged(state, rows)
        if self.client_metrics:
            each = federated.client_evaluator(task, mesh=mesh)(state.params, clients)
            found |= federated.client_spread(each, clients, task=task, mesh=mesh)
        return found

    def task(self, facts: Facts) -> base.Task:
        """Returns the model's task; each client keeps the leaves that `kept` names."""
        task = self.model.build(facts)
        return models.personal(task, self.kept) if self.kept else task

    def _check_judged(self, task: base.Task, facts: Facts) -> None:
        """Raises ValueError if clients keep a part of the model, and no rows are held
        out to judge their models, or metrics or validation rows need one model for all.
        """
        kept = roles.keeps(task)
        if kept and not facts.num_held_out:
            raise ValueError(
                f"clients keep {kept[0]}, so that each has its own model, evaluated on "
                "its own held-out rows; set held_out, such as 0.2, or load clients "
                "with held_out"
            )
        if kept and self.metrics not in ((), (Accuracy(),)):
            raise ValueError(
                "metrics need one model for all test rows, but clients keep "
                f"{kept[0]}; leave metrics out (the task's own metrics are reported "
                "for every client)"
            )
        if kept and self.schedule.validation:
            raise ValueError(
                f"validation {self.schedule.validation:g} holds out rows of no client, "
                f"but clients keep {kept[0]}, so that no model fits these rows; set "
                "validation=0, and use keep='last' (in the schedule and in run_sweep) "
                "without stop_at"
            )
