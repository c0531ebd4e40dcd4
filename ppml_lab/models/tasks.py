"""Tasks: what is learnt, from any pure `(init, apply)` pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Integer, PyTree

from ppml_lab import arguments, base, checks, guards


@arguments.checked
@guards.returned()
def classification(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n classes"]],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    train: Callable[[PyTree, Array], tuple[Float[Array, "n classes"], PyTree]]
    | None = None,
) -> base.Task:
    """Softmax classification of `{"x": [n, ...], "y": int [n]}` by any model.

    What cannot be judged has no metrics: where an example's label lies outside `[0,
    classes)`, or its largest logit is not finite, as that of a model that has diverged,
    `loss` or `accuracy` or both are NaN, and so are means over it. Where labels are
    known on the host, such a label is an error.

    Args:
      init: Makes parameters from a key; the trainable ones are floats.
      apply: Maps parameters and inputs `[n, ...]` to logits `[n, classes]`.
      roles: From parameters to the role of each leaf, "trainable", "constant" or
        "kept"; all are trainable if None. Only trainable ones does any algorithm clip,
        noise, send or sum: constant ones, such as the weights of a frozen layer, stay,
        and kept ones each client trains for itself (`personal`).
      train: Where training differs from predicting, as with BatchNorm: from parameters
        and a batch to logits and the leaves that the batch sets, None in the place of
        all others; these leaves are kept.

    Returns:
      A task whose loss is the cross-entropy in nats, and whose metrics are `loss` and
      `accuracy` (in [0, 1]). Its functions raise ValueError for examples, labels,
      logits and parameters of other shapes and types than these.

    Raises:
      ValueError: init or apply is not a function.
    """
    for name, function in (("init", init), ("apply", apply)):
        if not callable(function):
            raise ValueError(f"{name} must be a function, got {function!r}")

    def checked_init(key: base.Key) -> PyTree:
        params = init(key)
        _check_floats(params, roles)
        return params

    def predict(
        params: PyTree, examples: PyTree, function: Callable[[PyTree, Array], Any]
    ) -> tuple[Float[Array, "n classes"], Integer[Array, " n"]]:
        x, y = _inputs_and_labels(examples)
        try:
            logits = function(params, x)
        except Exception as error:
            _check_params(init, params, error)
            raise
        _check_logits(logits, y)
        return logits, _as_labels(y, logits.shape[1])

    def loss(key: base.Key, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        del key
        forward = apply if train is None else (lambda *given: train(*given)[0])
        return _cross_entropy(*predict(params, examples, forward))

    def observe(params: PyTree, examples: PyTree) -> PyTree:
        assert train is not None
        return train(params, _inputs_and_labels(examples)[0])[1]

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, " n"]]:
        logits, labels = predict(params, examples, apply)
        is_right = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
        # The argmax of NaNs is class 0. Classes that are masked by -inf do no harm.
        can_judge = _is_class(labels, logits) & jnp.isfinite(jnp.max(logits, axis=-1))
        return {
            "loss": _cross_entropy(logits, labels),
            "accuracy": jnp.where(can_judge, is_right.astype(jnp.float32), jnp.nan),
        }

    observes = None if train is None else observe
    return base.Task(checked_init, loss, evaluate, roles, observes)


@arguments.checked
def flax_classification(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    training: nn.Module | None = None,
) -> base.Task:
    """`classification` by a flax module whose inputs have shape `[n, *input_shape]`.

    Args:
      module: Called with inputs alone.
      input_shape: Of one example.
      roles: From the module's variables to the role of each leaf, as in
        `classification`. If None, the collection "params" is trainable, and every
        other, such as the "batch_stats" of a BatchNorm, stays as the module makes it;
        with `training` each client keeps its floats for itself.
      training: The module as it is trained, where that differs, such as one whose
        BatchNorms take a batch's statistics; it sets the floats of other collections in
        every local step. Batches have all their rows then, also an epoch's last one,
        which the client's earlier rows fill up. By default the same module with its
        field `training` set, where it has one.

    Raises:
      ValueError: input_shape has no axis, or an axis without entries.
    """
    if not len(input_shape):
        raise ValueError(
            "input_shape is empty; give x a feature axis, [n, 1], and input_shape (1,)"
        )
    for place, size in enumerate(input_shape):
        checks.at_least(f"input_shape[{place}]", size, 1)

    def init(key: base.Key) -> PyTree:
        return module.init(key, jnp.zeros((1, *input_shape), jnp.float32))

    def apply(params: PyTree, x: Array) -> Any:
        return module.apply(params, x)

    if training is None and getattr(module, "training", None) is False:
        training = module.clone(training=True)
    if training is None:
        return classification(init, apply, roles=roles or _by_collection("constant"))

    def train(params: PyTree, x: Array) -> Any:
        others = [name for name in params if name != "params"]
        logits, written = training.apply(params, x, mutable=others)
        return logits, jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if _is_set(path, leaf) else None,
            {**params, **written},
        )

    return classification(
        init, apply, roles=roles or _by_collection("kept"), train=train
    )


def _by_collection(others: str) -> Callable[[PyTree], PyTree]:
    """The roles of a flax module's variables: parameters are trainable, the floats of
    other collections what is said, and all else constant.
    """

    def role(path: Any, leaf: Any) -> str:
        if path[0].key == "params":
            return "trainable"
        return others if _is_set(path, leaf) else "constant"

    return lambda params: jax.tree_util.tree_map_with_path(role, params)


def _is_set(path: Any, leaf: Any) -> bool:
    """Whether a variable is a float that is no parameter, as running statistics are."""
    is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return path[0].key != "params" and is_float


def _cross_entropy(
    logits: Float[Array, "n classes"], labels: Integer[Array, " n"]
) -> Float[Array, " n"]:
    """In nats; NaN for a label that is no class, where an index would wrap around."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(_is_class(labels, logits), losses, jnp.nan)


def _is_class(
    labels: Integer[Array, " n"], logits: Float[Array, "n classes"]
) -> Bool[Array, " n"]:
    return (labels >= 0) & (labels < logits.shape[1])


def _inputs_and_labels(examples: PyTree) -> tuple[Any, Any]:
    if not isinstance(examples, Mapping) or not {"x", "y"} <= set(examples):
        found = (
            f"keys {list(examples)}"
            if isinstance(examples, Mapping)
            else type(examples).__name__
        )
        raise ValueError(
            f'examples must be a dict of "x" (inputs) and "y" (labels), got {found}; '
            'federate({"x": ..., "y": ...}, user_ids) makes it so'
        )
    x, y = (
        part if hasattr(part, "dtype") else np.asarray(part)
        for part in (examples["x"], examples["y"])
    )
    return x, y


def _check_params(init: base.TaskInit, params: PyTree, error: Exception) -> None:
    """Raises ValueError unless these have the structure and shapes of init's."""
    made = jax.eval_shape(init, jax.random.key(0))
    wanted, found = jax.tree.structure(made), jax.tree.structure(params)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(t)] for t in (made, params)]
    if wanted != found or shapes[0] != shapes[1]:
        raise ValueError(
            f"params are not like those that init makes: {found} of shapes {shapes[1]},"
            f" in place of {wanted} of shapes {shapes[0]}"
        ) from error


def _check_logits(logits: Any, y: Any) -> None:
    """Raises ValueError unless these are `[n, classes]` and `[n]`."""
    shape = tuple(logits.shape)
    num_classes = shape[-1] if shape else 0
    checks.integer_labels('"y"', y, num_classes)
    if len(shape) != 2 or shape[0] != len(y):
        raise ValueError(
            f"apply must give one row of logits per example, [n, classes], got "
            f'{list(shape)} for {len(y)} labels in "y"; it maps a whole batch at once '
            "(jax.vmap makes such a function of one for a single example)"
        )
    if num_classes < 2:
        raise ValueError(
            f"apply gives logits {list(shape)}, of {num_classes} classes; give at "
            "least 2, one per class, also where the answer is yes or no"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply must give real logits, got {logits.dtype}")


def _as_labels(y: Any, num_classes: int) -> Integer[Array, " n"]:
    """The labels, in a type that holds every class; in range, where that is known."""
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


def _check_floats(
    params: PyTree, roles: Callable[[PyTree], PyTree] | None = None
) -> None:
    """Raises ValueError unless all leaves that are trained are floats."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    given = ["trainable"] * len(leaves)
    if roles is not None:
        given = jax.tree.leaves(roles(params))
    # Roles of another shape than the model are an error where they are read.
    for (path, leaf), role in zip(leaves, given, strict=False):
        dtype = jnp.result_type(leaf)
        if role != "constant" and not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"init makes params{jax.tree_util.keystr(path)} of {dtype}, which has "
                "no gradient; make it floats, or 'constant' by the task's roles, or "
                "keep it out of the parameters, such as in apply"
            )
