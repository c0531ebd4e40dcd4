"""Models of other tasks than classification, as parts."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax

from ppml_lab import base, models
from ppml_lab.lab.parts.models import inputs
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class FlaxTask(abc.ABC):
    """The base of flax modules for tasks other than classification."""

    @abc.abstractmethod
    def network(self, facts: Facts) -> nn.Module:
        """Returns the network for data with these facts."""

    @abc.abstractmethod
    def task(self, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """Returns the task of the network for inputs of this shape."""

    def build(self, facts: Facts) -> base.Task:
        """Builds the task for data with these facts."""
        network = self.network(facts)
        try:
            hash((self, network))
            make = _task.__wrapped__ if jax.tree.leaves(self) else _task
        except TypeError:  # of a network with arrays for fields
            make = _task.__wrapped__
        return make(self, network, inputs(facts))

    def predict(self, facts: Facts, params: Any, rows: Any) -> Any:
        """Returns the network's outputs for rows, `[n, ...]`."""
        return self.network(facts).apply(params, rows["x"])


@functools.lru_cache(maxsize=32)
def _task(own: FlaxTask, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
    """Returns one object for equal parts, so that jax finds what it traced before."""
    return own.task(network, shape)


def _targets(facts: Facts) -> int:
    """Returns the number of targets of an example."""
    y = facts.example.get("y") if isinstance(facts.example, Mapping) else None
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) > 1:
        raise ValueError(
            'model predicts targets "y", [n] or [n, d], but the data have '
            f"{facts.example}; give a model part of your own"
        )
    return shape[0] if shape else 1


class Regressor(FlaxTask):
    """The base of flax modules with one output per target.

    Fields `loss` and `huber_delta` say what is minimised.
    """

    def task(self: Any, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_regression`."""
        return models.flax_regression(
            network, shape, loss=self.loss, huber_delta=self.huber_delta
        )


@part
class FlaxRegression(Regressor):
    """Regression by a flax module of your own.

    FlaxRegression(my_module)    # a function of the number of targets
    """

    make: Callable[[int], nn.Module] = models.linear
    """A function from the number of targets to the module; it must be importable."""
    loss: Literal["squared", "absolute", "huber"] = "squared"
    """The loss that is minimised; see `models.regression`."""
    huber_delta: float = 1.0
    """The error from which the loss "huber" is linear, in units of the targets."""

    def network(self, facts: Facts) -> nn.Module:
        """Returns the module that `make` makes."""
        return self.make(_targets(facts))


@part
class Regression(Regressor):
    """Regression by a linear model that starts from zero, or by a ReLU network."""

    widths: tuple[int, ...] = ()
    """Widths of the hidden layers; none for a linear model."""
    loss: Literal["squared", "absolute", "huber"] = "squared"
    """The loss that is minimised; see `models.regression`."""
    huber_delta: float = 1.0
    """The error from which the loss "huber" is linear, in units of the targets."""

    def network(self, facts: Facts) -> nn.Module:
        """Returns a network with one layer more than `widths`."""
        return _mlp(self.widths, _targets(facts))


class Hazards(FlaxTask):
    """The base of flax modules with one hazard per interval of time.

    A field `edges` says where the intervals end.
    """

    def task(self: Any, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_survival`."""
        return models.flax_survival(network, shape, self.edges)

    def predict(self: Any, facts: Facts, params: Any, rows: Any) -> Any:
        """Returns risks `[n]`: minus the expected time until the event."""
        logits = self.network(facts).apply(params, rows["x"])
        return -models.mean_survival_time(logits, self.edges)


@part
class LogisticHazard(Hazards):
    """The hazard of an event in intervals of time, by a linear model or a ReLU network;
    see `models.survival`.
    """

    edges: tuple[float, ...]
    """The ends of the intervals, in the unit of times; choose them in advance, not from
    the data."""
    widths: tuple[int, ...] = ()
    """Widths of the hidden layers; none for a linear model."""

    def network(self, facts: Facts) -> nn.Module:
        """Returns a network with one layer more than `widths`."""
        return _mlp(self.widths, len(self.edges))


@part
class FlaxSurvival(Hazards):
    """Survival by a flax module of your own.

    FlaxSurvival(my_module, (1.0, 2.0))    # a function of the number of intervals
    """

    make: Callable[[int], nn.Module]
    """A function from the number of intervals to the module; it must be importable."""
    edges: tuple[float, ...]
    """The ends of the intervals, in the unit of times; choose them in advance, not from
    the data."""

    def network(self, facts: Facts) -> nn.Module:
        """Returns the module that `make` makes."""
        return self.make(len(self.edges))


@part
class Factorisation:
    """Ratings from vectors of items, which all clients learn together, and the vector
    of a user, which each client keeps; see `models.factorisation`.

    The setup must set `held_out`, the rows that judge each user's model.
    """

    num_items: int
    """Number of items."""
    rank: int = 8
    """Length of the vectors."""
    mean: Traced = 0.0
    """The rating that is expected before training, such as the middle of the scale."""
    scale: Traced = 0.1
    """Standard deviation of the vectors before training."""

    def build(self, facts: Facts) -> base.Task:
        """Builds the task for data with these facts."""
        return models.factorisation(
            self.num_items, self.rank, mean=self.mean, scale=self.scale
        )

    def predict(self, facts: Facts, params: Any, rows: Any) -> Any:
        """Raises ValueError: no user's vector is among the parameters."""
        raise ValueError(
            "clients keep their users' vectors, so that each has its own model, and no "
            "parameters predict for all users; use the `client_` metrics"
        )


def _mlp(widths: tuple[int, ...], outputs: int) -> nn.Module:
    return models.MLP((*widths, outputs)) if widths else models.linear(outputs)
