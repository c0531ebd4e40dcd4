"""Trainers around other trainers, as parts."""

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
    """A part with so much noise, its own or that of the trainer in it; None for a part
    that has none to set.
    """
    if hasattr(own, "with_noise"):
        return own.with_noise(noise)
    inner = getattr(own, "trainer", None)
    noisy = None if inner is None else with_noise(inner, noise)
    return None if noisy is None else dataclasses.replace(own, trainer=noisy)


@part
class TopK:
    """Clients send the largest part of their update, and later what is left."""

    trainer: Trainer = FedAvg()
    """What clients do beside."""
    share: float = 0.01
    """The part of an update's coordinates that is sent, one of them at least."""
    error_feedback: bool = True
    """Whether clients keep for later rounds what they do not send."""

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
    """The first clients are attackers, who send the opposite of their update; see
    `federated.attacks` for what else they do and do not.
    """

    trainer: Trainer = FedAvg()
    """What all clients do."""
    num_attackers: int = 1
    """How many of all clients lie."""
    scale: Traced = 1.0
    """What attackers multiply the opposite by."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.sign_flipping`."""
        checks.at_least("num_attackers", self.num_attackers, 0)
        if self.num_attackers > facts.num_clients:
            raise ValueError(
                f"num_attackers {self.num_attackers} is more than the "
                f"{facts.num_clients} clients there are"
            )
        trainer, partner = self.trainer.build(task, facts, server)
        attackers = range(self.num_attackers)
        return federated.sign_flipping(trainer, attackers, self.scale), partner
