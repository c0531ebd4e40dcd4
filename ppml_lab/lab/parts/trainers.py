"""The training that clients do, as parts."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import optax

from ppml_lab import base, dp, federated
from ppml_lab.lab.parts.mechanisms import Rule
from ppml_lab.lab.parts.optimizers import Optimizer, Sgd, for_clients
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class Trainer(Protocol):
    """A part that builds a client's training, and the server that fits it."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """Builds both sides of an algorithm.

        Args:
          task: The task that is learnt.
          facts: Facts about the data.
          server: The server's optimizer.
        """
        ...


@part
class FedAvg:
    """Local SGD and a mean of updates; McMahan et al., AISTATS 2017."""

    optimizer: Optimizer = Sgd(0.1)
    """The clients' optimizer."""
    batch_size: int = 10
    """Examples per local step."""
    local_epochs: int = 1
    """Passes that a client makes over its data per round."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.local_sgd`."""
        trainer = federated.local_sgd(
            task,
            for_clients(self.optimizer),
            self.batch_size,
            num_epochs=self.local_epochs,
        )
        return trainer, federated.fedopt(server)


@part
class FedProx:
    """Local SGD pulled towards the server's model; Li et al., MLSys 2020."""

    optimizer: Optimizer = Sgd(0.1)
    """The clients' optimizer."""
    mu: Traced = 0.01
    """Weight of the proximal term."""
    batch_size: int = 10
    """Examples per local step."""
    local_epochs: int = 1
    """Passes that a client makes over its data per round."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.proximal_sgd`."""
        trainer = federated.proximal_sgd(
            task,
            for_clients(self.optimizer),
            self.batch_size,
            self.mu,
            num_epochs=self.local_epochs,
        )
        return trainer, federated.fedopt(server)


@part
class Scaffold:
    """Local SGD with control variates; Karimireddy et al., ICML 2020."""

    optimizer: Optimizer = Sgd(0.1)
    """The clients' optimizer."""
    batch_size: int = 10
    """Examples per local step."""
    local_epochs: int = 1
    """Passes that a client makes over its data per round."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.scaffold`."""
        return federated.scaffold(
            task,
            for_clients(self.optimizer),
            self.batch_size,
            num_epochs=self.local_epochs,
            server_optimizer=server,
        )


@part
class LocalDpSgd:
    """DP-SGD by each client on its own examples; protects examples, not clients."""

    optimizer: Optimizer = Sgd(0.1)
    """The clients' optimizer."""
    clip_norm: Traced = 1.0
    """L2 bound of an example's gradient."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of a step's noise over the clip norm."""
    batch_size: int = 10
    """Expected number of examples of the largest client in a step."""
    num_steps: int = 1
    """Local steps of every client per round."""
    rule: Rule = "flat"
    """Rule for clipping gradients, see `dp.clipping`."""
    method: Literal["auto", "ghost", "vmap"] = "auto"
    """Method of clipping examples' gradients; auto takes ghost where it supports the
    model."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.local_dp_sgd`."""
        mechanism = dp.gaussian(
            self.clip_norm,
            self.noise_multiplier,
            privacy_unit="example",
            rule=self.rule,
        )
        trainer = federated.local_dp_sgd(
            task,
            for_clients(self.optimizer),
            mechanism,
            sampling_prob=min(1.0, self.batch_size / facts.max_client_size),
            num_steps=self.num_steps,
            max_client_size=facts.max_client_size,
            method=self.method,
        )
        return trainer, federated.fedopt(server)

    def with_noise(self, noise_multiplier: float) -> LocalDpSgd:
        """Returns a copy with this noise multiplier."""
        return dataclasses.replace(self, noise_multiplier=noise_multiplier)


@part
class ExampleGradients:
    """DP-SGD across silos: a client draws some of its people, and sends the sum of one
    clipped gradient per person.

    The mechanism protects people; every client takes part in every round.
    """

    expected_people: float = 32.0
    """Expected number of people of all clients that a round draws."""
    method: Literal["auto", "ghost", "vmap"] = "auto"
    """Method of clipping gradients; auto takes ghost where it supports the model."""
    microbatch_size: int | None = None
    """People of a client whose gradients are clipped at once; None for all."""

    def build(
        self, task: base.Task, facts: Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        """See `federated.example_gradients`."""
        if facts.people is None:
            raise ValueError(
                "trainer ExampleGradients needs to know whose examples these are; let "
                'the data give rows, and if there is a leaf "person", let it hold one '
                "integer per row"
            )
        count = facts.people.count
        if not 0 < self.expected_people <= count:
            raise ValueError(
                f"expected_people {self.expected_people:g} must be above 0 and at most "
                f"the number of people, {count}"
            )
        trainer = federated.example_gradients(
            task,
            facts.people,
            self.expected_people / count,
            method=self.method,
            microbatch_size=self.microbatch_size,
        )
        return trainer, federated.fedopt(server)
