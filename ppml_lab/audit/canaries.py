"""Canaries: records put into training to see whether it reveals that they were there.

In gradient space a canary's gradient (or, for a client, its update) is a chosen
direction, far too long, so that clipping makes it exactly as long as the mechanism
allows. In input space a canary is an image that is mislabelled, blank, or unlike the
others. An example's leaf "canary" is the number of the canary that it is, or -1 for
none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from ppml_lab import arguments, base, checks, dp, guards, pairs, trees

FAR = 1e4
"""The norm of a gradient-space canary before it is clipped."""


class Directions(NamedTuple):
    """Unit vectors in parameter space, by number.

    Attributes:
      count: The number of directions.
      squared_norms: `numbers [n] -> ` the squared norms of the directions' leaves,
        `[n]` each.
      weighted_sum: `(numbers [n], weights [n]) -> ` the sum of weighted directions.
      project: `tree -> ` the tree's inner products with all directions, `[count]`.
    """

    count: int
    squared_norms: Callable[[Array], PyTree]
    weighted_sum: Callable[[Array, Array], PyTree]
    project: Callable[[PyTree], Float[Array, " count"]]


_OWN: dict[str, guards.Guard] = {
    "numbers": guards.row_of("iu", "integers"),
    "tree": trees.check_arrays,
}


@arguments.checked
@guards.returned(**_OWN)
def dirac(params: PyTree, coordinates: Int[np.ndarray, " count"]) -> Directions:
    """Directions that are one coordinate each of the flattened parameters.

    The best coordinates are those that no other example's gradient touches, such as
    first-layer weights of a pixel that is always black (`untouched_weights`).

    Raises:
      ValueError: For coordinates that are out of range or not distinct.
    """
    trees.check_arrays("params", params)
    places = np.asarray(coordinates, np.int32)
    vector, cut = trees.as_vector(params)
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])
    if (
        len(np.unique(places)) != len(places)
        or not ((places >= 0) & (places < vector.size)).all()
    ):
        raise ValueError(
            f"coordinates must be distinct and lie in [0, {vector.size}), the "
            "coordinates of params"
        )
    leaves = np.searchsorted(ends, places, side="right")
    structure = jax.tree.structure(params)

    def squared_norms(numbers: Array) -> PyTree:
        leaf = jnp.asarray(leaves)[numbers]
        hits = [(leaf == i).astype(jnp.float32) for i in range(len(ends))]
        return jax.tree.unflatten(structure, hits)

    def weighted_sum(numbers: Array, weights: Array) -> PyTree:
        flat = jnp.zeros(vector.size).at[jnp.asarray(places)[numbers]].add(weights)
        return cut(flat)

    return Directions(
        len(places),
        squared_norms,
        weighted_sum,
        lambda tree: trees.as_vector(tree)[0][jnp.asarray(places)],
    )


@arguments.checked
@guards.returned(**_OWN)
def isotropic(key: base.Key, params: PyTree, count: int) -> Directions:
    """Random directions, uniform on the sphere.

    With many parameters they are nearly orthogonal to each other and to everything
    else. They take `count` times the model's memory.

    Raises:
      ValueError: For a count below 1.
    """
    checks.at_least("count", count, 1)
    trees.check_arrays("params", params)
    vector, cut = trees.as_vector(params)
    rows = jax.random.normal(key, (count, vector.size))
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    by_leaf = jax.tree.map(
        lambda leaf: jnp.sum(leaf.reshape(count, -1) ** 2, axis=1), cut(rows)
    )
    return Directions(
        count,
        lambda numbers: trees.take(by_leaf, numbers),
        lambda numbers, weights: cut(weights @ rows[numbers]),
        lambda tree: rows @ trees.as_vector(tree)[0],
    )


@arguments.checked
def gradient_canaries(
    loss: base.TaskLoss, directions: Directions, *, method: str = "auto"
) -> Callable[..., dp.PerExample]:
    """A `method` of per-example gradients that gives canaries their directions.

    It is for `dp.clipped_gradient` and `federated.central_sgd`. Examples that are
    canaries have their direction, of norm `FAR`, as gradient, and go through the
    mechanism's own clipping, sampling and noise like all others.

    Args:
      loss: The task's loss; where the task has roles, the loss of the trainable part
        (`federated.roles.loss_of_part`), and the directions are of this part too.
      directions: The canaries' directions, by the number in the examples' leaf
        "canary".
      method: The method for the other examples, see `dp.clipped_gradient`.
    """
    plain = dp.per_example_method(loss, method)

    def gradients(keys: base.Key, params: PyTree, examples: Any) -> dp.PerExample:
        numbers = examples["canary"]
        others = {name: leaf for name, leaf in examples.items() if name != "canary"}
        found = plain(keys, params, others)
        is_canary = numbers >= 0
        known = jnp.maximum(numbers, 0)
        squared_norms = jax.tree.map(
            lambda ours, theirs: jnp.where(is_canary, FAR**2 * ours, theirs),
            directions.squared_norms(known),
            found.squared_norms,
        )

        def weighted_sum(factors: PyTree) -> pairs.Pair:
            quiet = jax.tree.map(lambda f: jnp.where(is_canary, 0.0, f), factors)
            # Canaries are clipped as a whole: one factor for all leaves.
            loud = jnp.where(is_canary, jax.tree.leaves(factors)[0], 0.0)
            total = found.weighted_sum(quiet)
            return pairs.add(total, directions.weighted_sum(known, FAR * loud))

        return dp.PerExample(found.losses, squared_norms, weighted_sum)

    return gradients


@arguments.checked
def canary_clients(
    trainer: base.ClientTrainer, directions: Directions
) -> base.ClientTrainer:
    """A trainer whose canary clients send their direction, of norm `FAR`, as update.

    The mechanism, the secure sum and the sampling treat canaries like all others. A
    client is a canary if its first example is. The update must be shaped like the
    model.
    """

    def step(
        key: base.Key,
        sent: PyTree,
        state: PyTree,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> PyTree:
        trained = trainer.step(key, sent, state[0], client, step_number)
        return trained, client.examples["canary"][client.start]

    def finish(sent: PyTree, state: PyTree) -> tuple[PyTree, PyTree, dict[str, Array]]:
        update, keeps, info = trainer.finish(sent, state[0])
        number = state[1]
        weight = jnp.full((1,), FAR)
        ours = directions.weighted_sum(jnp.maximum(number, 0)[None], weight)
        return trees.where(number >= 0, ours, update), keeps, info

    return trainer._replace(
        init=lambda key, sent, kept, round_number: (
            trainer.init(key, sent, kept, round_number),
            jnp.int32(-1),
        ),
        step=step,
        finish=finish,
        # Directions may have many coordinates.
        num_sent=None,
    )


@arguments.checked
def only(
    sampler: base.ClientSampler, present: Bool[Array, " population"]
) -> base.ClientSampler:
    """The sampler of the neighbouring data set that has only the `present` members.

    For samplers that draw members independently this is exactly sampling from the
    smaller data set, with the same public expected cohort; under "zero_out" an absent
    member contributes nothing. Under "replace_one" nobody may be absent, and `present`
    has to be all true.
    """

    def sample(key: base.Key, state: PyTree) -> tuple[base.Cohort, PyTree]:
        cohort, after = sampler.sample(key, state)
        heard = jnp.where(present[cohort.indices], cohort.weights, 0.0)
        return cohort._replace(weights=heard), after

    return sampler._replace(sample=sample)


@arguments.checked
def mislabelled(examples: Mapping[str, Any], row: int, num_classes: int) -> Any:
    """One example with the next class as its label, as rows of one.

    Raises:
      ValueError: For a row that does not exist, or fewer than 2 classes.
    """
    _check_examples("examples", examples)
    checks.within("row", row, 0, len(examples["y"]) - 1)
    checks.at_least("num_classes", num_classes, 2)
    checks.within("num_classes", num_classes, 2, 2**31)
    label = (np.asarray(examples["y"])[row] + 1) % num_classes
    return {
        "x": np.asarray(examples["x"])[row][None],
        "y": np.asarray([label], np.asarray(examples["y"]).dtype),
    }


@arguments.checked
def blank(examples: Mapping[str, Any], label: int) -> Any:
    """An image without content, as rows of one.

    Raises:
      ValueError: For a label below 0 or above all of the examples'.
    """
    _check_examples("examples", examples)
    _check_label(label, examples)
    x, y = np.asarray(examples["x"]), np.asarray(examples["y"])
    return {"x": np.zeros_like(x[:1]), "y": np.asarray([label], y.dtype)}


@arguments.checked
def rarest_direction(examples: Mapping[str, Any], norm: float, label: int) -> Any:
    """An image along the direction in which the data vary least, as rows of one.

    ClipBKD of Jagielski, Ullman, Oprea, NeurIPS 2020.

    Raises:
      ValueError: For a norm that is not positive, or a label below 0 or above all of
        the examples'.
    """
    _check_examples("examples", examples)
    checks.positive("norm", norm)
    checks.within("norm", norm, 1e-30, 1e30)
    _check_label(label, examples)
    x, y = np.asarray(examples["x"]), np.asarray(examples["y"])
    flat = x.reshape(len(x), -1).astype(np.float64)
    direction = np.linalg.svd(flat, full_matrices=False)[2][-1]
    image = norm * direction.reshape(1, *x.shape[1:])
    return {"x": image.astype(x.dtype), "y": np.asarray([label], y.dtype)}


@arguments.checked
def untouched_weights(
    params: PyTree, examples: Mapping[str, Any]
) -> Int[np.ndarray, " weights"]:
    """Places, among the flattened parameters, of weights that no gradient ever moves.

    They are the first dense layer's weights from inputs that are zero in every example,
    such as an image's margin.

    Raises:
      ValueError: If no weight matrix has the inputs as rows.
    """
    _check_examples("examples", examples)
    x = np.asarray(examples["x"])
    dead = np.flatnonzero(~x.reshape(len(x), -1).any(axis=0))
    inputs, begin = int(np.prod(x.shape[1:])), 0
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 2 and leaf.shape[0] == inputs:
            width = leaf.shape[1]
            return (begin + dead[:, None] * width + np.arange(width)).reshape(-1)
        begin += leaf.size
    raise ValueError(
        f"params has no weight matrix with a row for each of the {inputs} inputs; "
        "choose coordinates by hand"
    )


@arguments.checked
def append(
    examples: Mapping[str, Any], rows: Mapping[str, Any], numbers: Any
) -> dict[str, np.ndarray]:
    """Appends canary rows to examples, and marks both in the leaf "canary".

    Examples are marked as no canaries, rows by their numbers; -1 is for input-space
    canaries, whose gradient is their own.

    Raises:
      ValueError: Unless `rows` has the examples' leaves, and `numbers` one integer from
        -1 on for each of them.
    """
    _check_examples("examples", examples)
    _check_examples("rows", rows)
    marks = np.asarray(numbers)
    if marks.shape != (len(rows["y"]),) or marks.dtype.kind not in "iu":
        raise ValueError(
            f"numbers must be one integer for each of {len(rows['y'])} rows, got "
            f"{marks.dtype}{list(marks.shape)}"
        )
    checks.at_least("numbers", int(marks.min()), -1)
    joined = {
        name: np.concatenate([np.asarray(examples[name]), np.asarray(rows[name])])
        for name in examples
    }
    others = np.full(len(np.asarray(examples["y"])), -1, np.int32)
    return joined | {"canary": np.concatenate([others, marks.astype(np.int32)])}


def _check_examples(name: str, examples: Mapping[str, Any]) -> None:
    if not {"x", "y"} <= set(examples) or not len(examples["y"]):
        raise ValueError(
            f'{name} must have rows of "x" and "y", got leaves {sorted(examples)}'
        )


def _check_label(label: int, examples: Mapping[str, Any]) -> None:
    """Raises ValueError for a label below 0 or above all of the examples'."""
    checks.within("label", label, 0, int(np.max(examples["y"])))
