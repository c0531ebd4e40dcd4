"""Trainers that wrap other trainers, as parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import optax

from ppml_lab import base, checks, federated
from ppml_lab.lab.parts.trainers import FedAvg, Trainer
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


def with_noise(own: Any, noise: float) -> Any:
    """Returns `own` with its noise, or that of the trainer in it, set to `noise`.

    Returns None for a part that has no noise to set.
    """
    if hasattr(own, "with_noise"):
        return own.with_noise(noise)
    inner = getattr(own, "trainer", None)
    noisy = None if inner is None else with_noise(inner, noise)
    return None if noisy is None else dataclasses.replace(own, trainer=noisy)


@part
class TopK:
    """Clients send the largest coordinates of their update, and the rest in later
    rounds.
    """

    trainer: Trainer = FedAvg()
    """The training whose updates are sent."""
    share: float = 0.01
    """Share of an update's coordinates that is sent; at least one coordinate."""
    error_feedback: bool = True
    """If true, clients keep the coordinates that they do not send for later rounds."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.top_k`."""
        trainer, partner = self.trainer.build(task, facts, server)
        compressed = federated.top_k(
            task,
            trainer,
            share=self.share,
            server=partner,
            error_feedback=self.error_feedback,
        )
        return compressed, partner


@part
class SignFlipping:
    """The first clients are attackers and send the opposite of their update.

    `federated.attacks` states the threat model.
    """

    trainer: Trainer = FedAvg()
    """The training that all clients do."""
    num_attackers: int = 1
    """Number of attackers among all clients."""
    scale: Traced = 1.0
    """Factor by which attackers multiply the opposite of their update."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.sign_flipping`."""
        checks.at_least("num_attackers", self.num_attackers, 0)
        if self.num_attackers > facts.num_clients:
            raise ValueError(
                f"num_attackers {self.num_attackers} is more than the number of "
                f"clients, {facts.num_clients}"
            )
        trainer, partner = self.trainer.build(task, facts, server)
        attackers = range(self.num_attackers)
        return federated.sign_flipping(trainer, attackers, self.scale), partner
