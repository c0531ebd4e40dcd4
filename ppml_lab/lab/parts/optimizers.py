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
    """A part that gives the factor of a number, round by round."""

    def at(self, round_number: Any) -> Any:
        """Returns the factor of a round; rounds count from 0."""
        ...


class Optimizer(Protocol):
    """A part that builds an optax optimizer."""

    def build(self, steps_per_round: int = 1) -> optax.GradientTransformation:
        """Builds an optimizer whose state lasts for the whole run."""
        ...


@part
class ExponentialDecay:
    """Exponential decay: the factor shrinks by the same ratio in every round."""

    decay: Traced = 0.99
    """The ratio of a round's factor to that of the round before."""

    def at(self, round_number: Any) -> Any:
        """Returns the decay to the power of the round."""
        return self.decay ** jnp.float32(round_number)


@part
class Cosine:
    """Cosine decay from 1 to `end`, without restarts; Loshchilov, Hutter, ICLR 2017."""

    num_rounds: int = 100
    """Number of rounds in which the factor falls."""
    end: Traced = 0.0
    """The factor after these rounds."""

    def at(self, round_number: Any) -> Any:
        """Returns the factor, which falls from 1 to `end`."""
        done = jnp.clip(jnp.float32(round_number) / self.num_rounds, 0, 1)
        return self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * done)) / 2


def for_clients(optimizer: Any) -> Any:
    """Returns what a client's trainer takes for an optimizer part: an optax optimizer,
    or a function from the round to one where the learning rate has a schedule.
    """
    own = getattr(optimizer, "for_clients", None)
    return optimizer.build() if own is None else own()


class _Scheduled:
    """The base of optimizers: calls `_make(rate)` with the learning rates of a
    schedule.
    """

    def build(self: Any, steps_per_round: int = 1) -> optax.GradientTransformation:
        """Builds the optimizer of a server or of central training, which count the
        steps of the whole run.
        """
        rate, schedule = self.learning_rate, self.schedule
        if schedule is None:
            return self._made(rate)
        return self._made(lambda count: rate * schedule.at(count // steps_per_round))

    def for_clients(self: Any) -> Any:
        """Builds the optimizer of clients, which starts from its initial state in every
        round.
        """
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
    """Raises ValueError for a hyperparameter outside its range."""
    for name, check in _CHECKS.items():
        value = getattr(optimizer, name, None)
        if value is not None:
            check(name, value)


@part
class Sgd(_Scheduled):
    """Stochastic gradient descent, with momentum and weight decay where they are
    given.
    """

    learning_rate: Traced = 0.1
    """Learning rate of the first round."""
    momentum: Traced | None = None
    """Polyak momentum; None for no momentum."""
    weight_decay: Traced | None = None
    """Weight decay: this times the parameters is added to the gradient; None for none.
    """
    nesterov: bool = False
    """If true, momentum is Nesterov's, which looks ahead."""
    schedule: Factor | None = None
    """Factor of the learning rate over the rounds; None for 1."""

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
    """Adam; Kingma, Ba, ICLR 2015.

    As a server's optimizer it is FedAdam (Reddi et al., ICLR 2021, who take b2 = 0.99
    and eps = 1e-3), with weight decay AdamW.
    """

    learning_rate: Traced = 0.001
    """Learning rate of the first round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.999
    """Decay of the second moment."""
    eps: Traced = 1e-8
    """Added to the root of the second moment; a larger eps is less adaptive."""
    weight_decay: Traced | None = None
    """Weight decay of AdamW: this times learning rate and parameters is subtracted from
    the parameters; None for none."""
    schedule: Factor | None = None
    """Factor of the learning rate over the rounds; None for 1."""

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
    """Yogi; Zaheer et al., NeurIPS 2018. As a server's optimizer it is FedYogi."""

    learning_rate: Traced = 0.01
    """Learning rate of the first round."""
    b1: Traced = 0.9
    """Decay of the first moment."""
    b2: Traced = 0.99
    """Decay of the second moment."""
    eps: Traced = 1e-3
    """Added to the root of the second moment."""
    schedule: Factor | None = None
    """Factor of the learning rate over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.yogi(rate, self.b1, self.b2, self.eps)


@part
class Adagrad(_Scheduled):
    """Adagrad; Duchi, Hazan, Singer, JMLR 2011. As a server's optimizer it is
    FedAdagrad.
    """

    learning_rate: Traced = 0.01
    """Learning rate of the first round."""
    eps: Traced = 1e-3
    """Added to the root of the summed squares."""
    schedule: Factor | None = None
    """Factor of the learning rate over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return optax.adagrad(rate, eps=self.eps)


@part
class Optax(_Scheduled):
    """Any optimizer of optax, with any of its arguments.

    Optax(optax.adamw, 1e-3, (("weight_decay", 1e-4),))
    """

    make: Callable[..., optax.GradientTransformation] = optax.sgd
    """A function of the learning rate and `arguments`; it must be importable."""
    learning_rate: Traced = 0.1
    """Learning rate of the first round."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Further arguments, as pairs of name and value; their values are compiled in."""
    schedule: Factor | None = None
    """Factor of the learning rate over the rounds; None for 1."""

    def _make(self, rate: Any) -> optax.GradientTransformation:
        return self.make(rate, **dict(self.arguments))
