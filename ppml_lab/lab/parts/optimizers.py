"""Optimizers of clients, of servers and of central training, as parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ppml_lab import checks
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class Factor(Protocol):
    """A part that gives what a number is multiplied by, round by round."""

    def at(self, round_number: Any) -> Any:
        """The factor of a round; rounds count from 0."""
        ...


class Optimizer(Protocol):
    """A part that makes an optax optimizer."""

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """An optimizer that lives as long as the run."""
        ...


@part
class ExponentialDecay:
    """Shrinks by the same factor in every round."""

    decay: Traced = 0.99
    """What a round's number is multiplied by for the next."""

    def at(self, round_number: Any) -> Any:
        """The decay to the power of the round."""
        return self.decay ** jnp.float32(round_number)


@part
class Cosine:
    """Falls from 1 along half a cosine; Loshchilov, Hutter, ICLR 2017, no restarts."""

    num_rounds: int = 100
    """Rounds in which it falls."""
    end: Traced = 0.0
    """What it is from then on."""

    def at(self, round_number: Any) -> Any:
        """Falls from 1 to `end`."""
        done = jnp.clip(jnp.float32(round_number) / self.num_rounds, 0, 1)
        return self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * done)) / 2


def for_clients(optimizer: Any) -> Any:
    """What a client's trainer takes of an optimizer part: an optax optimizer, or, where
    its rate follows rounds, the function of the round that makes one.
    """
    own = getattr(optimizer, "for_clients", None)
    return optimizer.build() if own is None else own()


class _Scheduled:
    """What optimizers have in common: `_make(rate)` at the rates of a schedule."""

    def build(self: Any, steps_per_round: int = 1) -> optax.GradientTransformation:
        """For a server or central training, which count the steps of the whole run."""
        rate, schedule = self.learning_rate, self.schedule
        if schedule is None:
            return self._made(rate)
        return self._made(lambda count: rate * schedule.at(count // steps_per_round))

    def for_clients(self: Any) -> Any:
        """For clients, whose optimizers start afresh in every round."""
        rate, schedule = self.learning_rate, self.schedule
        if schedule is None:
            return self._made(rate)
        return lambda round_number: self._made(rate * schedule.at(round_number))

    def _made(self: Any, rate: Any) -> optax.GradientTransformation:
        _check(self)
        made = self._make(rate)

        def init(params: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return made.init(params)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            # Optax takes a decay, traced here, to the power of a count of integers.
            with jax.numpy_dtype_promotion("standard"):
                return made.update(updates, state, params)

        return optax.GradientTransformation(init, update)


_CHECKS = {
    **dict.fromkeys(("learning_rate", "weight_decay", "eps"), checks.non_negative),
    **dict.fromkeys(("momentum", "b1", "b2"), checks.share),
}


def _check(optimizer: Any) -> None:
    """Raises ValueError for numbers that no training has."""
    for name, check in _CHECKS.items():
        value = getattr(optimizer, name, None)
        if value is not None:
            check(name, value)


@part
class Sgd(_Scheduled):
    """Gradient descent, with momentum and weight decay where they are given."""

    learning_rate: Traced = 0.1
    """Of the first round."""
    momentum: Traced | None = None
    """Of Polyak; None for none."""
    weight_decay: Traced | None = None
    """Times the parameters, added to the gradient; None for none."""
    nesterov: bool = False
    """Whether momentum looks ahead."""
    schedule: Factor | None = None
    """What it is multiplied by over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        steps = (
            []
            if self.weight_decay is None
            else [optax.add_decayed_weights(self.weight_decay)]
        )
        if self.momentum is not None:
            steps.append(optax.trace(self.momentum, self.nesterov))
        return optax.chain(*steps, optax.scale_by_learning_rate(rate))


@part
class Adam(_Scheduled):
    """Kingma, Ba, ICLR 2015; as a server's optimizer FedAdam (Reddi et al., ICLR 2021,
    who take b2 = 0.99 and eps = 1e-3), with weight decay AdamW.
    """

    learning_rate: Traced = 0.001
    """Of the first round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.999
    """Decay of the second moment."""
    eps: Traced = 1e-8
    """Added to the root of the second moment: how adaptive it is."""
    weight_decay: Traced | None = None
    """Times rate and parameters, taken off them (AdamW); None for none."""
    schedule: Factor | None = None
    """What it is multiplied by over the rounds; None for 1."""

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


@part
class Yogi(_Scheduled):
    """Zaheer et al., NeurIPS 2018; as a server's optimizer FedYogi."""

    learning_rate: Traced = 0.01
    """Of the first round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.99
    """Decay of the second moment."""
    eps: Traced = 1e-3
    """Added to the root of the second moment."""
    schedule: Factor | None = None
    """What it is multiplied by over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.yogi(rate, self.b1, self.b2, self.eps)


@part
class Adagrad(_Scheduled):
    """Duchi, Hazan, Singer, JMLR 2011; as a server's optimizer FedAdagrad."""

    learning_rate: Traced = 0.01
    """Of the first round."""
    eps: Traced = 1e-3
    """Added to the root of the summed squares."""
    schedule: Factor | None = None
    """What it is multiplied by over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.adagrad(rate, eps=self.eps)


@part
class Optax(_Scheduled):
    """Any optimizer of optax, with any of its arguments.

    Optax(optax.adamw, 1e-3, (("weight_decay", 1e-4),))
    """

    make: Callable[..., optax.GradientTransformation] = optax.sgd
    """A function of the learning rate and `arguments`; it has to be importable."""
    learning_rate: Traced = 0.1
    """Of the first round."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Pairs of names and values, which are compiled."""
    schedule: Factor | None = None
    """What it is multiplied by over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return self.make(rate, **dict(self.arguments))
