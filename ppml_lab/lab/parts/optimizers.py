"""Optimizers of clients, of servers and of central training, as parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
import optax

from ppml_lab.lab.part import Traced, is_part, part


class Rate(Protocol):
    """A part that gives a learning rate at each round."""

    def at(self, round_number: Any) -> Any:
        """The rate of a round; rounds count from 0."""
        ...


class Optimizer(Protocol):
    """A part that makes an optax optimizer."""

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """An optimizer that lives as long as the run."""
        ...


@part
class Constant:
    """The same rate in every round."""

    value: Traced = 0.1
    """Learning rate."""

    def at(self, round_number: Any) -> Any:
        """The value."""
        return self.value


@part
class ExponentialDecay:
    """A rate that shrinks by the same factor in every round."""

    start: Traced = 0.1
    """Rate of the first round."""
    factor: Traced = 0.99
    """What a round's rate is multiplied by for the next."""

    def at(self, round_number: Any) -> Any:
        """The start times the factor to the power of the round."""
        return self.start * self.factor ** jnp.float32(round_number)


@part
class Cosine:
    """A rate that falls along half a cosine; Loshchilov, Hutter, ICLR 2017, without
    restarts.
    """

    start: Traced = 0.1
    """Rate of the first round."""
    end: Traced = 0.0
    """Rate from round `num_rounds` on."""
    num_rounds: int = 100
    """Rounds in which it falls."""

    def at(self, round_number: Any) -> Any:
        """From start to end."""
        done = jnp.clip(jnp.float32(round_number) / self.num_rounds, 0, 1)
        return self.end + (self.start - self.end) * (1 + jnp.cos(jnp.pi * done)) / 2


def for_clients(optimizer: Any) -> Any:
    """What a client's trainer takes of an optimizer part: an optax optimizer, or, where
    its rate follows rounds, the function of the round that makes one.
    """
    own = getattr(optimizer, "for_clients", None)
    return optimizer.build() if own is None else own()


def over_steps(
    rate: Any,
    make: Callable[[Any], optax.GradientTransformation],
    steps_per_round: int,
) -> optax.GradientTransformation:
    """`make(rate)` for an optimizer that counts the steps of the whole run."""
    if not is_part(rate):
        return make(rate)
    return make(lambda count: rate.at(count // steps_per_round))


def over_rounds(rate: Any, make: Callable[[Any], optax.GradientTransformation]) -> Any:
    """`make(rate)` for clients, whose optimizer starts afresh in every round."""
    if not is_part(rate):
        return make(rate)
    return lambda round_number: make(rate.at(round_number))


@part
class Sgd:
    """Gradient descent, with momentum and weight decay where they are given."""

    learning_rate: Traced | Rate = 0.1
    """A number, or a part that gives one for each round."""
    momentum: Traced | None = None
    """Of Polyak; None for none."""
    weight_decay: Traced | None = None
    """Times the parameters, added to the gradient; None for none."""
    nesterov: bool = False
    """Whether momentum looks ahead."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        # A momentum that is traced would be read as "none" by optax's own `if`.
        steps = (
            []
            if self.weight_decay is None
            else [optax.add_decayed_weights(self.weight_decay)]
        )
        if self.momentum is not None:
            steps.append(optax.trace(self.momentum, self.nesterov))
        return optax.chain(*steps, optax.scale_by_learning_rate(rate))

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training."""
        return over_steps(self.learning_rate, self._make, steps_per_round)

    def for_clients(self) -> Any:
        """For clients."""
        return over_rounds(self.learning_rate, self._make)


@part
class Adam:
    """Kingma, Ba, ICLR 2015; as a server's optimizer FedAdam (Reddi et al., ICLR 2021,
    who take b2 = 0.99 and eps = 1e-3), with weight decay AdamW.
    """

    learning_rate: Traced | Rate = 0.001
    """A number, or a part that gives one for each round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.999
    """Decay of the second moment."""
    eps: Traced = 1e-8
    """Added to the root of the second moment: how adaptive it is."""
    weight_decay: Traced | None = None
    """Times rate and parameters, taken off them (AdamW); None for none."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        decay = (
            []
            if self.weight_decay is None
            else [optax.add_decayed_weights(self.weight_decay)]
        )
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            *decay,
            optax.scale_by_learning_rate(rate),
        )

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training."""
        return over_steps(self.learning_rate, self._make, steps_per_round)

    def for_clients(self) -> Any:
        """For clients."""
        return over_rounds(self.learning_rate, self._make)


@part
class Yogi:
    """Zaheer et al., NeurIPS 2018; as a server's optimizer FedYogi."""

    learning_rate: Traced | Rate = 0.01
    """A number, or a part that gives one for each round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.99
    """Decay of the second moment."""
    eps: Traced = 1e-3
    """Added to the root of the second moment."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.yogi(rate, self.b1, self.b2, self.eps)

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training."""
        return over_steps(self.learning_rate, self._make, steps_per_round)

    def for_clients(self) -> Any:
        """For clients."""
        return over_rounds(self.learning_rate, self._make)


@part
class Adagrad:
    """Duchi, Hazan, Singer, JMLR 2011; as a server's optimizer FedAdagrad."""

    learning_rate: Traced | Rate = 0.01
    """A number, or a part that gives one for each round."""
    eps: Traced = 1e-3
    """Added to the root of the summed squares."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.adagrad(rate, eps=self.eps)

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training."""
        return over_steps(self.learning_rate, self._make, steps_per_round)

    def for_clients(self) -> Any:
        """For clients."""
        return over_rounds(self.learning_rate, self._make)


@part
class Optax:
    """Any optimizer of optax, with any of its arguments.

    Optax(optax.adamw, 1e-3, (("weight_decay", 1e-4),))
    """

    make: Callable[..., optax.GradientTransformation] = optax.sgd
    """A function of the learning rate and `arguments`; it has to be importable."""
    learning_rate: Traced | Rate = 0.1
    """A number, or a part that gives one for each round."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Pairs of names and values, which are compiled."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return self.make(rate, **dict(self.arguments))

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training."""
        return over_steps(self.learning_rate, self._make, steps_per_round)

    def for_clients(self) -> Any:
        """For clients."""
        return over_rounds(self.learning_rate, self._make)
