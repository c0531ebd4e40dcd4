"""Messages of few coordinates: the values and their coordinates.

A message's size is the length of its `to_bytes`: float32 values, then the numbers of
their coordinates in as few bits as the largest number needs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, PyTree

from ppml_lab import arguments, base, checks, trees


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse:
    """A tree of float arrays that is zero except at some coordinates.

    Attributes:
      values: Values at the coordinates, `[num_sent]`.
      indices: The coordinates, counted through the tree's leaves in order.
      like: The tree's structure, and the shapes of its leaves.
    """

    values: Any
    indices: Any
    like: Any = dataclasses.field(metadata={"static": True})


def largest(magnitudes: Float[Array, " d"], count: int) -> Int[Array, " count"]:
    """The coordinates of the largest magnitudes; among equal ones the first."""
    _, indices = jax.lax.top_k(magnitudes, count)
    return indices


def of(tree: PyTree, num_sent: int) -> Sparse:
    """Makes a tree into a message of at most `num_sent` coordinates.

    The message's values are NaN if the tree has more coordinates that are not zero, so
    that none is left out silently.
    """
    leaves, structure = jax.tree.flatten(tree)
    vector, _ = trees.as_vector([leaf.astype(jnp.float32) for leaf in leaves])
    indices = largest(jnp.abs(vector), num_sent)
    fits = jnp.sum(vector != 0, dtype=jnp.int32) <= num_sent
    values = jnp.where(fits, vector[indices], jnp.nan)
    return Sparse(values, indices, (structure, tuple(leaf.shape for leaf in leaves)))


def dense(message: Sparse) -> PyTree:
    """The tree of a message, in float32."""
    structure, shapes = message.like
    like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    nothing, cut = trees.as_vector([jnp.zeros(one.shape, one.dtype) for one in like])
    return jax.tree.unflatten(
        structure, cut(nothing.at[message.indices].set(message.values))
    )


@arguments.checked
def to_bytes(
    values: Float[np.ndarray, " n"], indices: Int[np.ndarray, " n"], dimension: int
) -> bytes:
    """The bytes of a message: little-endian float32 values, then coordinates of
    `ceil(log2(dimension))` bits each, the highest bit first; host side.

    Args:
      values: Values at the coordinates.
      indices: The coordinates, in any order.
      dimension: Number of all coordinates.

    Raises:
      ValueError: For coordinates out of range, or not one for each value.
    """
    checks.at_least("dimension", dimension, 1)
    checks.entries("indices", indices, len(values), "values")
    if np.any((indices < 0) | (indices >= dimension)):
        raise ValueError(
            f"indices must lie in [0, {dimension}), got {indices.min()} to "
            f"{indices.max()}"
        )
    bits = indices[:, None] >> np.arange(_index_bits(dimension))[::-1] & 1
    return values.astype("<f4").tobytes() + np.packbits(bits.astype(bool)).tobytes()


@arguments.checked
def from_bytes(
    sent: bytes, num_sent: int, dimension: int
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The values and the coordinates of a message of `num_sent` coordinates; host side.

    Raises:
      ValueError: For a message of another length.
    """
    checks.at_least("num_sent", num_sent, 1)
    checks.at_least("dimension", dimension, 1)
    width = _index_bits(dimension)
    wanted = 4 * num_sent + (num_sent * width + 7) // 8
    if len(sent) != wanted:
        raise ValueError(
            f"sent must have {wanted} bytes, for {num_sent} of {dimension} "
            f"coordinates, got {len(sent)}"
        )
    values = np.frombuffer(sent[: 4 * num_sent], "<f4")
    packed = np.frombuffer(sent[4 * num_sent :], np.uint8)
    bits = np.unpackbits(packed, count=num_sent * width).reshape(num_sent, width)
    indices = bits.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))[::-1]
    return values, indices


def _index_bits(dimension: int) -> int:
    return (dimension - 1).bit_length()


@arguments.checked
def sending_few(
    aggregator: base.SecureAggregator, num_sent: int
) -> base.SecureAggregator:
    """An aggregator whose messages are sent as `Sparse`.

    Args:
      aggregator: Aggregates the messages. Its servers must see each message: a client
        tells them which coordinates it sends.
      num_sent: The largest number of nonzero coordinates of a message.

    Raises:
      ValueError: For an aggregator that shows only sums, or fewer than 1 coordinate.
    """
    checks.at_least("num_sent", num_sent, 1)
    if aggregator.shows != "individual":
        raise ValueError(
            f"num_sent {num_sent}: clients send different coordinates, but "
            f"{aggregator.name} would have to send all coordinates or reveal which; "
            "take smpc.clear() (secure_sum=Clear()), or a trainer that sends all "
            "coordinates"
        )

    def encode(key: base.Key, session: PyTree, place: Any, update: PyTree) -> Sparse:
        return of(aggregator.encode(key, session, place, update), num_sent)

    def empty(like_message: Sparse) -> PyTree:
        return aggregator.empty(jax.eval_shape(dense, like_message))

    def absorb(total: PyTree, messages: Sparse, places: Any, present: Any) -> PyTree:
        return aggregator.absorb(total, jax.vmap(dense)(messages), places, present)

    def cost(dimension: int) -> base.Cost:
        count = min(num_sent, dimension)
        sent = to_bytes(np.zeros(count, np.float32), np.zeros(count, int), dimension)
        return aggregator.cost(dimension)._replace(uplink_bytes=len(sent))

    return aggregator._replace(
        encode=encode,
        empty=lambda like_message: aggregator.empty(
            jax.eval_shape(dense, like_message)
        ),
        absorb=absorb,
        cost=cost,
    )
