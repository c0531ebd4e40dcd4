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
    """What flax modules that learn something else than classes have in common."""

    @abc.abstractmethod
    def network(self, facts: Facts) -> nn.Module:
        """The network, for data with these facts."""

    @abc.abstractmethod
    def task(self, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """What it learns of inputs of this shape."""

    def build(self, facts: Facts) -> base.Task:
        """What is learnt."""
        make = _task.__wrapped__ if jax.tree.leaves(self) else _task
        return make(self, self.network(facts), inputs(facts))

    def predict(self, facts: Facts, params: Any, rows: Any) -> Any:
        """What the network says of rows, `[n, ...]`."""
        return self.network(facts).apply(params, rows["x"])


@functools.lru_cache(maxsize=32)
def _task(own: FlaxTask, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
    """One object for equal parts, so that jax knows what it traced of another."""
    return own.task(network, shape)


def _targets(facts: Facts) -> int:
    """How many numbers are predicted of an example."""
    y = facts.example.get("y") if isinstance(facts.example, Mapping) else None
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) > 1:
        raise ValueError(
            'model predicts targets "y", [n] or [n, d], and the data have '
            f"{facts.example}; give a model part of your own"
        )
    return shape[0] if shape else 1


class Regressor(FlaxTask):
    """What flax modules with an output for each target have in common. Fields `loss`
    and `huber_delta` say what is minimised.
    """

    def task(self: Any, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_regression`."""
        return models.flax_regression(
            network, shape, loss=self.loss, huber_delta=self.huber_delta
        )


@part
class FlaxRegression(Regressor):
    """Regression by a flax module of one's own.

    FlaxRegression(my_module)    # a function of the number of targets
    """

    make: Callable[[int], nn.Module] = models.linear
    """From the number of targets to the module; it has to be importable."""
    loss: Literal["squared", "absolute", "huber"] = "squared"
    """What is minimised; see `models.regression`."""
    huber_delta: float = 1.0
    """Where the loss "huber" becomes straight, in units of the targets."""

    def network(self, facts: Facts) -> nn.Module:
        """What `make` makes."""
        return self.make(_targets(facts))


@part
class Regression(Regressor):
    """Regression by a linear model that starts from zero, or by a ReLU network."""

    widths: tuple[int, ...] = ()
    """Of the hidden layers."""
    loss: Literal["squared", "absolute", "huber"] = "squared"
    """What is minimised; see `models.regression`."""
    huber_delta: float = 1.0
    """Where the loss "huber" becomes straight, in units of the targets."""

    def network(self, facts: Facts) -> nn.Module:
        """One layer more than widths."""
        return _mlp(self.widths, _targets(facts))


class Hazards(FlaxTask):
    """What flax modules with a hazard for each interval have in common. A field `edges`
    says where these end.
    """

    def task(self: Any, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_survival`."""
        return models.flax_survival(network, shape, self.edges)

    def predict(self: Any, facts: Facts, params: Any, rows: Any) -> Any:
        """Risks `[n]`: minus the time until the event that is to be expected."""
        logits = self.network(facts).apply(params, rows["x"])
        return -models.mean_survival_time(logits, self.edges)


@part
class LogisticHazard(Hazards):
    """The hazard of an event in intervals of time, linear or by a ReLU network; see
    `models.survival`.
    """

    edges: tuple[float, ...]
    """Where intervals end, in the unit of times; known in advance, not from the data.
    """
    widths: tuple[int, ...] = ()
    """Of the hidden layers."""

    def network(self, facts: Facts) -> nn.Module:
        """One layer more than widths."""
        return _mlp(self.widths, len(self.edges))


@part
class FlaxSurvival(Hazards):
    """Survival by a flax module of one's own.

    FlaxSurvival(my_module, (1.0, 2.0))    # a function of the number of intervals
    """

    make: Callable[[int], nn.Module]
    """From the number of intervals to the module; it has to be importable."""
    edges: tuple[float, ...]
    """Where intervals end, in the unit of times; known in advance, not from the data.
    """

    def network(self, facts: Facts) -> nn.Module:
        """What `make` makes."""
        return self.make(len(self.edges))


@part
class Factorisation:
    """Ratings by vectors of items, which all learn, and of a user, which each client
    keeps; see `models.factorisation`. The setup has to set `held_out`, by which users
    are judged.
    """

    num_items: int
    """How many items there are."""
    rank: int = 8
    """Length of the vectors."""
    mean: Traced = 0.0
    """What is known of ratings beforehand, such as the middle of their scale."""
    scale: Traced = 0.1
    """Standard deviation of the vectors before training."""

    def build(self, facts: Facts) -> base.Task:
        """What is learnt."""
        return models.factorisation(
            self.num_items, self.rank, mean=self.mean, scale=self.scale
        )

    def predict(self, facts: Facts, params: Any, rows: Any) -> Any:
        """Nothing: nobody's vector is among the parameters."""
        raise ValueError(
            "clients keep their users' vectors, so that each has a model of its own; "
            "`client_` metrics judge these, and no parameters predict for all users"
        )


def _mlp(widths: tuple[int, ...], outputs: int) -> nn.Module:
    return models.MLP((*widths, outputs)) if widths else models.linear(outputs)
