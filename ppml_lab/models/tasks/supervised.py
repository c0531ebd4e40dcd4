"""Shared parts of tasks with inputs and labels: models as `(init, apply)` pairs, also
from flax modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, guards

Roles = Callable[[PyTree], PyTree]
"""`(params)`: the role of each leaf, see `base.Task`."""
Train = Callable[[PyTree, Array], tuple[Any, PyTree]]
"""`(params, inputs)`: outputs, and the leaves that a batch sets."""


class Model(NamedTuple):
    """A model with its roles; the fields are arguments of the tasks' builders."""

    init: base.TaskInit
    """`(key)`: the model's parameters."""
    apply: Callable[[PyTree, Array], Any]
    """`(params, inputs [n, ...])`: outputs `[n, ...]` for predictions."""
    roles: Roles | None = None
    """`(params)`: the role of each leaf; None if all leaves are trained."""
    train: Train | None = None
    """`(params, inputs)`: outputs in training, and leaves; None if `apply` trains."""


class Labelled(NamedTuple):
    """A kind of task: functions that read examples and judge a model's outputs."""

    read: Callable[[PyTree], tuple[Any, Any]]
    """`(examples)`: inputs and labels; raises for examples of another form."""
    fit: Callable[[Any, Any], tuple[Any, Any]]
    """`(outputs, labels)`: both, as `loss` and `metrics` take them; raises unless they
    fit each other."""
    loss: Callable[[Any, Any], Float[Array, " n"]]
    """`(outputs, labels)`: each example's loss."""
    metrics: Callable[[Any, Any], dict[str, Float[Array, " n"]]]
    """`(outputs, labels)`: each example's metrics beside the loss."""
    weigh: Callable[[PyTree], Float[Array, " n"]] | None = None
    """`(examples)`: each example's weight, see `base.Task`."""


@guards.returned()
def task(model: Model, labelled: Labelled) -> base.Task:
    """Builds a task from a model and from how its outputs are judged.

    The task's functions raise ValueError for parameters of another shape than `init`'s,
    and for whatever `labelled` refuses.
    """
    init, apply, roles, train = model
    for name, function in (("init", init), ("apply", apply)):
        if not callable(function):
            raise ValueError(f"{name} must be a function, got {function!r}")

    def checked_init(key: base.Key) -> PyTree:
        params = init(key)
        check_floats(params, roles)
        return params

    def predict(
        params: PyTree, examples: PyTree, function: Callable[[PyTree, Array], Any]
    ) -> tuple[Any, Any]:
        x, labels = labelled.read(examples)
        try:
            return labelled.fit(function(params, x), labels)
        except Exception as error:
            _check_params(init, params, error)
            raise

    def loss(key: base.Key, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        del key
        forward = apply if train is None else (lambda *given: train(*given)[0])
        return labelled.loss(*predict(params, examples, forward))

    def observe(params: PyTree, examples: PyTree) -> PyTree:
        assert train is not None
        return train(params, labelled.read(examples)[0])[1]

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, " n"]]:
        found = predict(params, examples, apply)
        return {"loss": labelled.loss(*found)} | labelled.metrics(*found)

    observes = None if train is None else observe
    return base.Task(checked_init, loss, evaluate, roles, observes, labelled.weigh)


def of_flax(
    module: nn.Module,
    example: jax.ShapeDtypeStruct,
    roles: Roles | None,
    training: nn.Module | None,
) -> Model:
    """Makes a flax module, called with inputs alone, into a model.

    Args:
      module: The module for predictions.
      example: Shape and type of one example's inputs.
      roles: If None, the collection "params" is trainable, and every other collection
        stays as the module makes it; with `training` each client keeps the floats of
        other collections for itself.
      training: The module in training, where it differs. By default the same module
        with its field `training` set, where it has one.
    """

    def init(key: base.Key) -> PyTree:
        return module.init(key, jnp.zeros((1, *example.shape), example.dtype))

    def apply(params: PyTree, x: Array) -> Any:
        with _of_shape(x, example):
            return module.apply(params, x)

    if training is None and getattr(module, "training", None) is False:
        training = module.clone(training=True)
    if training is None:
        return Model(init, apply, roles or _by_collection("constant"))

    def train(params: PyTree, x: Array) -> Any:
        others = [name for name in params if name != "params"]
        with _of_shape(x, example):
            outputs, written = training.apply(params, x, mutable=others)
        return outputs, jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if _is_set(path, leaf) else None,
            {**params, **written},
        )

    return Model(init, apply, roles or _by_collection("kept"), train)


@contextlib.contextmanager
def _of_shape(x: Array, example: jax.ShapeDtypeStruct) -> Iterator[None]:
    """Says of an error inside if rows have another shape than the model was built for,
    which some modules take, or if the module wants random numbers.
    """
    try:
        yield
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            "the module asks for random numbers, as Dropout does, which tasks of flax "
            "modules do not give; leave such layers out, or write a base.Task whose "
            f"loss gives apply its key as rngs ({str(error).splitlines()[0]})"
        ) from error
    except flax.errors.FlaxError as error:
        own = tuple(jnp.shape(x)[1:])
        if own == example.shape:
            raise
        raise ValueError(
            f'examples "x" have rows of shape {own}, but the model was built for '
            f"input_shape {example.shape}, and cannot take them; give the input_shape "
            "of the rows, or mend the rows (the test rows too)"
        ) from error


def floats(input_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """Shape and type of one example's float32 inputs.

    Raises:
      ValueError: If the shape has no axis, or an axis without entries.
    """
    if not len(input_shape):
        raise ValueError(
            "input_shape is empty; give x a feature axis, [n, 1], and input_shape (1,)"
        )
    for place, size in enumerate(input_shape):
        checks.at_least(f"input_shape[{place}]", size, 1)
    return jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)


def inputs_and_labels(examples: PyTree) -> tuple[Any, Any]:
    """Reads `x` and `y` of examples as arrays.

    Raises:
      ValueError: For examples of another form.
    """
    if not isinstance(examples, Mapping) or not {"x", "y"} <= set(examples):
        found = (
            f"keys {list(examples)}"
            if isinstance(examples, Mapping)
            else type(examples).__name__
        )
        raise ValueError(
            f'examples must be a dict of "x" (inputs) and "y" (labels), got {found}; '
            'federate({"x": ..., "y": ...}, user_ids) makes clients of these'
        )
    return as_array(examples["x"]), as_array(examples["y"])


def as_array(values: Any) -> Any:
    """Returns an array as it is, and a list of numbers as an array."""
    return values if hasattr(values, "dtype") else np.asarray(values)


def shown(array: Any) -> str:
    """Shows an array's type and shape, for an error."""
    return f"{array.dtype}{list(array.shape)}"


def check_finite(name: str, values: Any) -> None:
    """Raises ValueError unless an array that the host knows is finite everywhere."""
    if checks.is_traced(values):
        return
    known = np.asarray(values)
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(known.astype(np.float32)))
    if len(bad):
        raise ValueError(
            f'"{name}" must be finite, got {known[tuple(bad[0])]} in row {bad[0][0]}; '
            "leave out rows that float32 cannot hold, or take another unit"
        )


def check_floats(params: PyTree, roles: Roles | None = None) -> None:
    """Raises ValueError unless all trained leaves are floats."""
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
                "no gradient; make it a float, give it the role 'constant' in the "
                "task, or keep it out of the parameters, for example in apply"
            )


def _check_params(init: base.TaskInit, params: PyTree, error: Exception) -> None:
    """Raises ValueError unless parameters have the structure and shapes of init's."""
    made = jax.eval_shape(init, jax.random.key(0))
    wanted, found = jax.tree.structure(made), jax.tree.structure(params)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(t)] for t in (made, params)]
    if wanted != found or shapes[0] != shapes[1]:
        raise ValueError(
            f"params must be like those of init, {wanted} of shapes {shapes[0]}, got "
            f"{found} of shapes {shapes[1]}"
        ) from error


def _by_collection(others: str) -> Roles:
    """The roles of a flax module's variables: parameters are trainable, floats of other
    collections have the role `others`, and all else is constant.
    """

    def role(path: Any, leaf: Any) -> str:
        if path[0].key == "params":
            return "trainable"
        return others if _is_set(path, leaf) else "constant"

    return lambda params: jax.tree_util.tree_map_with_path(role, params)


def _is_set(path: Any, leaf: Any) -> bool:
    """Returns whether a variable is a float but no parameter, like running means."""
    is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return path[0].key != "params" and is_float
