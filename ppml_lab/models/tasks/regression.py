"""Regression by any pure `(init, apply)` pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.models.tasks import supervised

Loss = Literal["squared", "absolute", "huber"]


@arguments.checked
def regression(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n *targets"]],
    *,
    loss: Loss = "squared",
    huber_delta: float = 1.0,
    roles: Callable[[PyTree], PyTree] | None = None,
    train: Callable[[PyTree, Array], tuple[Float[Array, "n *targets"], PyTree]]
    | None = None,
) -> base.Task:
    """Regression of `{"x": [n, ...], "y": float [n] or [n, d]}` by any model.

    An example with several targets has one loss, the mean over the targets. Targets are
    taken as they are: scale them beforehand by public numbers. A mean over the examples
    is not public.

    Args:
      init: Makes parameters from a key; the trainable ones are floats.
      apply: Maps parameters and inputs `[n, ...]` to outputs of the targets' shape;
        an axis of one may be there or not.
      loss: For the error `e`, "squared" is `e^2`, "absolute" is `|e|`, and "huber" is
        `e^2 / 2` up to `huber_delta` and linear beyond (Huber, "Robust Estimation of a
        Location Parameter", 1964). "absolute" and "huber" bound an example's gradient
        at the outputs.
      huber_delta: Threshold in units of the targets; only "huber" uses it.
      roles: See `classification`.
      train: See `classification`.

    Returns:
      A task whose metrics are `loss`, `mse` (the mean of squared errors over an
      example's targets) and `mae` (the mean of absolute errors). Its functions raise
      ValueError for examples, targets, outputs and parameters of other shapes or types,
      and for targets `[n]` that the host knows and that are not finite.

    Raises:
    ValueError: If init or apply is not a function, the loss is unknown, or
      huber_delta is not positive.
    """
    model = supervised.Model(init, apply, roles, train)
    return supervised.task(model, _targets_of(loss, huber_delta))


@arguments.checked
def flax_regression(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    loss: Loss = "squared",
    huber_delta: float = 1.0,
    roles: Callable[[PyTree], PyTree] | None = None,
    training: nn.Module | None = None,
) -> base.Task:
    """A task of `regression` by a flax module with inputs `[n, *input_shape]`.

    Args:
      module: The module, called with inputs alone; `models.MLP((8, 1))` fits targets
        `[n]`.
      input_shape: Shape of one example.
      loss: See `regression`.
      huber_delta: See `regression`.
      roles: See `flax_classification`.
      training: See `flax_classification`.

    Raises:
      ValueError: As `regression` does, or if input_shape has no axis or an empty axis.
    """
    example = supervised.floats(input_shape)
    model = supervised.of_flax(module, example, roles, training)
    return supervised.task(model, _targets_of(loss, huber_delta))


def errors(outputs: Array, targets: Array) -> dict[str, Float[Array, " n"]]:
    """The metrics `mse` and `mae` of each example."""
    wrong = (outputs - targets).reshape(len(targets), -1)
    return {"mse": jnp.mean(wrong**2, axis=1), "mae": jnp.mean(jnp.abs(wrong), axis=1)}


def _targets_of(loss: Loss, huber_delta: float) -> supervised.Labelled:
    checks.positive("huber_delta", huber_delta)

    def huber(outputs: Array, targets: Array) -> Float[Array, " n"]:
        losses = optax.huber_loss(outputs, targets, delta=huber_delta)
        return jnp.mean(losses.reshape(len(losses), -1), axis=1)

    losses = {
        "squared": lambda outputs, targets: errors(outputs, targets)["mse"],
        "absolute": lambda outputs, targets: errors(outputs, targets)["mae"],
        "huber": huber,
    }
    return supervised.Labelled(
        supervised.inputs_and_labels, _fitted, losses[loss], errors
    )


def _fitted(outputs: Any, y: Any) -> tuple[Array, Array]:
    """Checks that outputs and targets fit each other, and returns both."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(
            '"y" must hold real targets, floats [n] or [n, d], got '
            f"{supervised.shown(y)}; convert it with .astype('float32'), or use "
            "models.classification for classes"
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(f"apply must give real outputs, got {outputs.dtype}")
    shapes = [[size for size in one.shape[1:] if size != 1] for one in (outputs, y)]
    if shapes[0] != shapes[1] or outputs.shape[:1] != y.shape[:1] or not y.shape:
        raise ValueError(
            'apply must give outputs of the shape of the targets "y", '
            f"{list(y.shape)}, got {list(outputs.shape)}; give the model one output "
            "per target, for a whole batch at once"
        )
    supervised.check_finite("y", y)
    wide = trees.widened(outputs).reshape(y.shape)
    return wide, jnp.asarray(y).astype(wide.dtype)
