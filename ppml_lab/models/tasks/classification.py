"""Classification by any pure `(init, apply)` pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Integer, PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.models.tasks import supervised


@arguments.checked
def classification(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n classes"]],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    train: Callable[[PyTree, Array], tuple[Float[Array, "n classes"], PyTree]]
    | None = None,
) -> base.Task:
    """Softmax classification of `{"x": [n, ...], "y": int [n]}` by any model.

    Examples that cannot be judged have NaN metrics: where a label lies outside `[0,
    classes)`, or the largest logit is not finite, as in a model that has diverged,
    `loss` or `accuracy` or both are NaN, and so are means with them. Where labels are
    known on the host, a label outside the classes is an error.

    Args:
      init: Makes parameters from a key; the trainable ones are floats.
      apply: Maps parameters and inputs `[n, ...]` to logits `[n, classes]`.
      roles: Maps parameters to the role of each leaf, "trainable", "constant" or
        "kept"; all are trainable if None. Algorithms clip, noise, send and sum only
        trainable leaves. Constant leaves, such as the weights of a frozen layer, stay
        as they are; each client trains kept leaves for itself (`personal`).
      train: Needed where training differs from predicting, as with BatchNorm: maps
        parameters and a batch to logits and the leaves that the batch sets, with None
        in the place of all others; these leaves are kept.

    Returns:
      A task whose loss is the cross-entropy in nats, and whose metrics are `loss` and
      `accuracy` (in [0, 1]). Its functions raise ValueError for examples, labels,
      logits and parameters of other shapes or types.

    Raises:
      ValueError: If init or apply is not a function.
    """
    model = supervised.Model(init, apply, roles, train)
    return supervised.task(model, _CLASSES)


@arguments.checked
def flax_classification(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    training: nn.Module | None = None,
) -> base.Task:
    """A task of `classification` by a flax module with inputs `[n, *input_shape]`.

    Args:
      module: The module; it is called with inputs alone.
      input_shape: Shape of one example.
      roles: Maps the module's variables to the role of each leaf, as in
        `classification`. If None, the collection "params" is trainable, and every other
        collection, such as the "batch_stats" of a BatchNorm, stays as the module makes
        it; with `training` each client keeps the floats of other collections for
        itself.
      training: The module in training, where it differs, such as one whose BatchNorms
        take a batch's statistics; it sets the floats of other collections in every
        local step. All batches are then full, also an epoch's last one, which the
        client's earlier rows fill up. By default the same module with its field
        `training` set, where it has one.

    Raises:
      ValueError: If input_shape has no axis, or an axis without entries.
    """
    example = supervised.floats(input_shape)
    model = supervised.of_flax(module, example, roles, training)
    return supervised.task(model, _CLASSES)


def _accuracy(
    logits: Float[Array, "n classes"], labels: Integer[Array, " n"]
) -> dict[str, Float[Array, " n"]]:
    is_right = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    # The argmax of NaNs is class 0. Classes that are masked by -inf are harmless.
    can_judge = _is_class(labels, logits) & jnp.isfinite(jnp.max(logits, axis=-1))
    return {"accuracy": jnp.where(can_judge, is_right.astype(jnp.float32), jnp.nan)}


def _cross_entropy(
    logits: Float[Array, "n classes"], labels: Integer[Array, " n"]
) -> Float[Array, " n"]:
    """The loss in nats; NaN for a label that is no class, where an index would wrap."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(_is_class(labels, logits), losses, jnp.nan)


def _is_class(
    labels: Integer[Array, " n"], logits: Float[Array, "n classes"]
) -> Bool[Array, " n"]:
    return (labels >= 0) & (labels < logits.shape[1])


def _fitted(
    logits: Any, y: Any
) -> tuple[Float[Array, "n classes"], Integer[Array, " n"]]:
    """Checks that logits and labels fit each other, and returns both."""
    _check_logits(logits, y)
    return logits, _as_labels(y, logits.shape[1])


def _check_logits(logits: Any, y: Any) -> None:
    """Raises ValueError unless logits are `[n, classes]` and labels `[n]`."""
    shape = tuple(logits.shape)
    num_classes = shape[-1] if shape else 0
    checks.integer_labels('"y"', y, num_classes)
    if len(shape) != 2 or shape[0] != len(y):
        raise ValueError(
            "apply must give one row of logits per example, [n, classes], got "
            f'{list(shape)} for {len(y)} labels in "y"; apply maps a whole batch at '
            "once (use jax.vmap if your function takes a single example)"
        )
    if num_classes < 2:
        raise ValueError(
            f"apply must give logits of at least 2 classes, got {num_classes} (shape "
            f"{list(shape)}); give one logit per class, for yes-or-no answers too"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply must give real logits, got {logits.dtype}")


def _as_labels(y: Any, num_classes: int) -> Integer[Array, " n"]:
    """The labels in a type that holds every class; raises for known bad labels."""
    if not checks.is_traced(y):
        values = np.asarray(y)
        bad = np.flatnonzero((values < 0) | (values >= num_classes))
        if bad.size:
            raise ValueError(
                f'"y" must lie in [0, {num_classes}), as the model has {num_classes} '
                f"logits, got {values[bad[0]]} in row {bad[0]}; number the classes "
                "from 0, or give the model more logits"
            )
    return jnp.asarray(y) if y.dtype.itemsize >= 4 else jnp.asarray(y, jnp.int32)


_CLASSES = supervised.Labelled(
    supervised.inputs_and_labels, _fitted, _cross_entropy, _accuracy
)
