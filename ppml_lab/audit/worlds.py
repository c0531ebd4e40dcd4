"""Neighbouring data sets made to expose bugs: a handful of hand-made contributions.

A contribution (a client's update, an example's gradient) is a row with `DIMENSION`
coordinates, cut into two leaves; a world is two data sets that differ in row 0, the
canary. Whole classes of bugs are invisible without the right world: opposed rows, no
other rows, or a canary on one leaf, not finite, or of a norm just below the square root
of the clip norm.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, PyTree

LEAVES = {"w": 6, "b": 2}
"""The number of coordinates of each leaf."""
DIMENSION = sum(LEAVES.values())
NUM_ROWS = 9
FAR = 1e4
"""The norm of contributions that must be clipped."""


class World(NamedTuple):
    """Two neighbouring data sets; "in" has the canary, which is row 0.

    Attributes:
      rows_in: The contributions with the canary; zeros where absent.
      present_in: True for rows that exist.
      rows_out: The contributions of the neighbour, which does not even hold the
        canary's numbers.
      present_out: True for the neighbour's rows that exist.
    """

    rows_in: Float[np.ndarray, "rows dimension"]
    present_in: Bool[np.ndarray, " rows"]
    rows_out: Float[np.ndarray, "rows dimension"]
    present_out: Bool[np.ndarray, " rows"]


def as_tree(rows: Float[Array, "*n dimension"]) -> PyTree:
    """Rows in the form of the model's parameters."""
    tree, begin = {}, 0
    for name, size in LEAVES.items():
        tree[name] = rows[..., begin : begin + size]
        begin += size
    return tree


def as_nested(rows: Float[Array, "*n dimension"]) -> PyTree:
    """Rows in the form of a deeper model: three layers in two modules, two alike."""
    begin = 0

    def leaf(size: int) -> Array:
        nonlocal begin
        begin += size
        return rows[..., begin - size : begin]

    # In the order of leaves, by name.
    body = {name: {"layer": {"b": leaf(1), "w": leaf(2)}} for name in ("one", "two")}
    return {"body": body, "top": {"w": leaf(2)}}


def as_rows(tree: PyTree) -> Float[Array, "*n dimension"]:
    """The inverse of `as_tree` and of `as_nested`."""
    if "body" in tree:
        parts = jax.tree.leaves({name: tree[name] for name in ("body", "top")})
    else:
        parts = [tree[name] for name in LEAVES]
    return jnp.concatenate(parts, axis=-1)


def adversarial(clip_norm: float, relation: str) -> dict[str, World]:
    """The worlds, by name, for contributions that are clipped to `clip_norm`.

    Under "add_or_remove_one" the neighbour lacks the canary. In the canary's place it
    has zeros under "zero_out", and under "replace_one" the opposite canary (zeros, for
    a canary that is not finite); under both relations absent rows are zeros.
    """
    unit = np.eye(DIMENSION)
    first, bias = unit[0], unit[LEAVES["w"]]
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(NUM_ROWS - 1, DIMENSION)) * (np.arange(DIMENSION) > 0)
    on_weights = mixed * (np.arange(DIMENSION) < LEAVES["w"])
    nothing = np.zeros((0, DIMENSION))
    infinite = np.where(np.arange(DIMENSION) == 0, np.inf, 0.0)
    not_a_number = np.where(np.arange(DIMENSION) == DIMENSION - 1, np.nan, first)
    others_and_canary = {
        "orthogonal": (mixed, FAR * first),
        "one tiny leaf": (on_weights, FAR * bias + 1e-3 * first),
        "both leaves": (mixed, FAR * (first + bias)),
        "opposed": (np.tile(-FAR * first, (8, 1)), 3 * FAR * first),
        "aligned": (np.tile(FAR * first, (8, 1)), FAR * first),
        "empty": (nothing, FAR * first),
        "tiny others": (np.tile(1e-3 * unit[1], (8, 1)), FAR * first),
        "below the root": (nothing, 0.99 * np.sqrt(clip_norm) * first),
        "dense": (mixed, FAR * np.ones(DIMENSION)),
        "two norms": (
            np.concatenate([np.tile(-first, (4, 1)), np.tile(2 * unit[1], (4, 1))]),
            10 * first,
        ),
        "infinite": (mixed, infinite),
        "not a number": (mixed, not_a_number),
    }
    return {
        name: _world(others, canary, relation)
        for name, (others, canary) in others_and_canary.items()
    }


def _world(others: np.ndarray, canary: np.ndarray, relation: str) -> World:
    rows = np.zeros((NUM_ROWS, DIMENSION), np.float32)
    rows[1 : 1 + len(others)] = others
    present = np.arange(NUM_ROWS) <= len(others)
    with_canary = rows.copy()
    with_canary[0] = canary
    if relation != "add_or_remove_one":
        if relation == "replace_one" and np.isfinite(canary).all():
            rows[0] = -canary
        everyone = np.ones(NUM_ROWS, bool)
        return World(with_canary, everyone, rows, everyone)
    return World(with_canary, present, rows, present & (np.arange(NUM_ROWS) > 0))


def nobody(relation: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the presence of a data set that contributes nothing."""
    rows = np.zeros((NUM_ROWS, DIMENSION), np.float32)
    return rows, np.full(NUM_ROWS, relation != "add_or_remove_one")


def one_coordinate_each(clip_norm: float, relation: str) -> tuple[np.ndarray, ...]:
    """A data set whose sum tells who took part.

    Row j is along coordinate j, for all rows but the last.
    """
    rows, present = nobody(relation)
    rows[:DIMENSION] = 10 * clip_norm * np.eye(DIMENSION)
    return rows, present | (np.arange(NUM_ROWS) < DIMENSION)
