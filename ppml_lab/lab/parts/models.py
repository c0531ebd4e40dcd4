"""Models and the tasks that they learn, as parts."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax

from ppml_lab import base, models
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.part import part


class Model(Protocol):
    """A part that builds a task, and predicts with its parameters."""

    def build(self, facts: Facts) -> base.Task:
        """Builds the task for data with these facts."""
        ...

    def predict(self, facts: Facts, params: Any, rows: Any) -> jax.Array:
        """Returns scores `[n, ...]` of rows, such as one logit per class."""
        ...


def inputs(facts: Facts) -> tuple[int, ...]:
    """Returns the shape of one example's x.

    Raises:
      ValueError: If the data's examples have no x.
    """
    if not isinstance(facts.example, Mapping) or "x" not in facts.example:
        raise ValueError(
            'model reads examples {"x", "y"}, but the data have '
            f"{jax.tree.structure(facts.example)}; give a model part of your own"
        )
    return facts.example["x"].shape


def num_classes(facts: Facts) -> int:
    """Returns the number of labels.

    Raises:
      ValueError: If the data do not say how many labels there are.
    """
    if facts.num_classes is None:
        raise ValueError(
            "model has one score per class, but the data have no num_classes; where "
            "the target is a number, give model=parts.Regression() and "
            "metrics=(parts.R2(),), else give the data part a num_classes"
        )
    return facts.num_classes


class FlaxClassifier(abc.ABC):
    """The base of flax classifiers: `module(classes)` gives one logit per class."""

    @abc.abstractmethod
    def module(self, num_classes: int) -> nn.Module:
        """Returns the network."""

    def build(self, facts: Facts) -> base.Task:
        """Builds softmax classification; see `models.flax_classification`."""
        make = _task.__wrapped__ if jax.tree.leaves(self) else _task
        return make(self, num_classes(facts), inputs(facts))

    def predict(self, facts: Facts, params: Any, rows: Any) -> Any:
        """Returns logits `[n, classes]`."""
        return self.module(num_classes(facts)).apply(params, rows["x"])


@functools.lru_cache(maxsize=32)
def _task(model: Any, num_classes: int, input_shape: tuple[int, ...]) -> base.Task:
    """Returns one object for equal models, so that jax finds what it traced before."""
    return models.flax_classification(model.module(num_classes), input_shape)


@part
class Logistic(FlaxClassifier):
    """Multinomial logistic regression, starting from zero."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns one layer."""
        return models.logistic(num_classes)


@part
class TwoNN(FlaxClassifier):
    """McMahan's 2NN: two hidden layers of width 200."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns three layers."""
        return models.two_nn(num_classes)


@part
class Mlp(FlaxClassifier):
    """A ReLU network with hidden layers of these widths."""

    widths: tuple[int, ...] = (128,)
    """Widths of the hidden layers."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns a network with one layer more than `widths`."""
        return models.MLP((*self.widths, num_classes))


@part
class BatchNormMlp(FlaxClassifier):
    """An Mlp with BatchNorm; each client keeps its running statistics.

    With `kept=("BatchNorm_*",)` in the setup, each client keeps scales and biases too:
    FedBN.
    """

    widths: tuple[int, ...] = (128,)
    """Widths of the hidden layers."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns a network with one layer more than `widths`."""
        return models.BatchNormMLP((*self.widths, num_classes))


@part
class Cnn(FlaxClassifier):
    """McMahan's CNN: 1,663,370 parameters on MNIST."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns two convolutions and two layers."""
        return models.CNN(num_classes)


@part
class LeNet(FlaxClassifier):
    """LeNet-5, as in NIID-Bench."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns two convolutions and three layers."""
        return models.LeNet(num_classes)


@part
class TutorialCnn(FlaxClassifier):
    """The small CNN of DP-SGD tutorials."""

    activation: Callable[..., Any] = jax.nn.relu
    """Activation between layers; jax.nn.tanh bounds gradients."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns two convolutions and two layers."""
        return models.TutorialCNN(num_classes, activation=self.activation)


@part
class Flax(FlaxClassifier):
    """A flax module of your own, with one logit per class.

    Flax(my_module)    # a function of the number of classes, at a module's top
    """

    make: Callable[[int], nn.Module] = models.logistic
    """A function from the number of classes to the module; it must be importable."""

    def module(self, num_classes: int) -> nn.Module:
        """Returns the module that `make` makes."""
        return self.make(num_classes)
