"""The common part of all sums of clients' messages, however messages are hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, pairs, trees
from ppml_lab.smpc.ring import Ring


class Total(NamedTuple):
    """A running total: the sum of messages so far, and their number."""

    messages: PyTree
    count: Float[Array, ""]


class Addition(NamedTuple):
    """The operations by which messages are added up.

    Attributes:
      zero: `(like message) -> sum of no messages`.
      over: `(messages stacked along a leading axis) -> their sum`.
      add: `(sum, sum) -> sum`.
      merge: `(sums stacked along a leading axis) -> their sum`.
      one: `(sum) -> a tree with the shapes of a message`.
    """

    zero: Callable[[PyTree], PyTree]
    over: Callable[[PyTree], PyTree]
    add: Callable[[PyTree, PyTree], PyTree]
    merge: Callable[[PyTree], PyTree]
    one: Callable[[PyTree], PyTree] = lambda total: total


REAL = Addition(
    pairs.zero,
    pairs.sum_over,
    pairs.merge,
    pairs.sum_over,
    one=lambda total: total.high,
)
"""The addition of floats: sums are `pairs.Pair`s, to which 100,000 clients add without
loss.
"""


def modular(ring: Ring) -> Addition:
    """The addition of a ring, for trees of its elements."""

    def over(messages: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: ring.sum_over(leaf, 0), messages)

    return Addition(
        zero=lambda like: jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like
        ),
        over=over,
        add=lambda one, other: jax.tree.map(ring.add, one, other),
        merge=over,
    )


def _no_session(key: Any, invited: Any, reporting: Any, max_abs: Any) -> PyTree:
    return ()


@arguments.checked
def summing(
    encode: Callable[[base.Key, PyTree, Array, PyTree], PyTree],
    decode: Callable[[PyTree, PyTree], tuple[PyTree, Any]],
    cost: Callable[[int], base.Cost],
    *,
    begin: Callable[[base.Key, Array, Array, Any], PyTree] = _no_session,
    addition: Addition = REAL,
    least_reports: Any = 1,
) -> base.SecureAggregator:
    """An aggregator of your own, from how clients encode and how servers decode.

    Put the error of the sum, such as by rounding, into its `sensitivity`, and how the
    sum wraps around into `wrap`: `summing(...)._replace(sensitivity=...)`. Rules that
    need each message, such as `federated.coordinate_median`, refuse the aggregator
    unless its servers see the messages: `summing(...)._replace(shows="individual")`.

    **Guarantee:** none about who learns what: that is up to `encode`. Without a
    `sensitivity` of its own the sum has to be exact, or privacy is claimed for noise
    that does not cover the sum's error.

    Args:
      encode: `(key, session, place, update) -> message`, a tree of arrays.
      decode: `(session, sum of messages) -> (sum of updates, whether it completed)`.
      cost: `(dimension) -> base.Cost` of one client.
      begin: `(key, invited, reporting, max_abs) -> session`.
      addition: How messages are added up.
      least_reports: The fewest reports that make a sum.

    Returns:
      An aggregator, such as `federated.averaging` takes.
    """
    if not checks.is_traced(least_reports):
        checks.at_least("least_reports", least_reports, 1)
    can_abort = checks.is_traced(least_reports) or least_reports > 1

    def absorb(total: Total, messages: PyTree, places: Any, present: Any) -> Total:
        _check_messages(addition.one(total.messages), messages, places)
        heard = addition.over(trees.where(present, messages, 0))
        added = addition.add(total.messages, heard)
        return Total(added, total.count + jnp.sum(present, dtype=jnp.float32))

    def finish(session: PyTree, total: Total) -> tuple[PyTree, Array, Any]:
        found, completed = decode(session, total.messages)
        if completed is True and not can_abort:
            return found, total.count, jnp.bool_(True)
        whole = completed & (total.count >= jnp.asarray(least_reports, jnp.float32))
        found = jax.tree.map(lambda leaf: jnp.where(whole, leaf, 0), found)
        return found, jnp.where(whole, total.count, 0.0), whole

    return base.SecureAggregator(
        begin=begin,
        encode=encode,
        empty=lambda like_message: Total(addition.zero(like_message), jnp.float32(0)),
        absorb=absorb,
        merge=lambda totals: Total(
            addition.merge(totals.messages), jnp.sum(totals.count)
        ),
        finish=finish,
        wrap=lambda session, value: value,
        sensitivity=lambda session, norm, dimension: norm,
        cost=cost,
        can_abort=can_abort,
        shows="sum",
        name="summing",
    )


def _check_messages(one: PyTree, messages: PyTree, places: Any) -> None:
    """Raises ValueError unless `messages` are like `one`, stacked by `places`."""
    wanted = [(len(places), *leaf.shape) for leaf in jax.tree.leaves(one)]
    found = [leaf.shape for leaf in jax.tree.leaves(messages)]
    if wanted != found or jax.tree.structure(one) != jax.tree.structure(messages):
        raise ValueError(
            "messages must be stacked along a leading axis, one per place, each like "
            f"the messages of the total's first place: shapes {wanted}, got {found}"
        )
