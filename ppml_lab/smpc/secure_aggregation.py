"""Secure sums of client updates for federated rounds.

All but the clear sum are one thing: updates become integers of a ring, a *protection*
hides the integers, the servers add up what is hidden, and only the sum is opened. The
sum does not depend on the protection; what a server sees and what it costs does. Shares
for several servers are here, masks for one server in `masked_sums`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, pairs, random, trees
from ppml_lab.smpc import cost, sharing
from ppml_lab.smpc.fixed_point import FixedPoint, fixed_point

_FLOAT_BYTES = 4


class Protection(NamedTuple):
    """How integers are hidden from those who add them up.

    Attributes:
      begin: As `base.SecureAggregator`'s.
      protect: `(key, session, place, integers) -> message`; integers are a tree of
        elements, a message is one of elements that may have axes in front.
      reveal: `(session, sum of messages) -> (sum of integers, completed)`.
      messages: `dimension -> cost.Messages` of a round.
      can_abort: As `base.SecureAggregator`'s.
    """

    begin: Callable[..., PyTree]
    protect: Callable[..., PyTree]
    reveal: Callable[..., tuple[PyTree, Any]]
    messages: Callable[[int], cost.Messages]
    can_abort: bool


class Total(NamedTuple):
    """A running total: of messages, and of how many they are."""

    messages: PyTree
    count: Float[Array, ""]


def clear() -> base.SecureAggregator:
    """The plain sum: the server sees every update.

    Totals are `pairs.Pair`s of float32, whatever the updates' own type: at 100,000
    clients one of them moves the sum by its norm, up to a relative 1e-6.
    """

    def absorb(total: Total, messages: PyTree, places: Any, present: Any) -> Total:
        del places
        heard = pairs.sum_over(trees.where(present, messages, 0.0))
        added = pairs.merge(total.messages, heard)
        return Total(added, total.count + jnp.sum(present, dtype=jnp.float32))

    return base.SecureAggregator(
        begin=nothing_to_agree,
        encode=lambda key, session, place, update: update,
        empty=lambda like_message: Total(pairs.zero(like_message), jnp.float32(0)),
        absorb=absorb,
        merge=lambda totals: Total(
            pairs.sum_over(totals.messages), jnp.sum(totals.count)
        ),
        finish=lambda session, total: (*total, jnp.bool_(True)),
        wrap=lambda session, total: total,
        sensitivity=lambda session, norm, dimension: norm,
        cost=lambda dimension: base.Cost(
            _FLOAT_BYTES * dimension, _FLOAT_BYTES * dimension
        ),
        can_abort=False,
    )


def additive_sharing(
    num_parties: int,
    max_clients: int,
    max_abs: Any,
    scale: Any = 2.0**16,
    rounding: str = "stochastic",
    *,
    bits: Any = 32,
    wraps: bool = False,
    mode: str = "full",
) -> base.SecureAggregator:
    """Each client shares its update among `num_parties` servers over Z_2^32.

    The servers add the shares that they receive, and only the sums are opened, so that
    together they learn the sum of the updates and nothing else. All shares but one are
    expanded from seeds: a client sends the first server a vector, the others a seed.

    **Guarantee:** any `num_parties - 1` servers see uniform words that do not depend on
    any update, apart from the sum that is opened (semi-honest servers that do not all
    collude), as far as a generator's words from a seed are uniform. The decoded sum is
    the exact integer sum of the rounded updates: within `num_clients / scale` per
    coordinate of the clear sum with stochastic rounding and `num_clients / (2 * scale)`
    with nearest, the same whatever the order, chunking or number of devices. The
    emulation shows the arithmetic, its error and its bytes; it sends nothing, keeps no
    party apart from another, and draws shares from a generator that is not
    cryptographic.

    Args:
      num_parties: Servers, at least 2.
      max_clients: The largest cohort.
      max_abs: Bound of each coordinate of an update: the clip norm where there is one.
        Larger coordinates are clamped.
      scale: Integer steps per unit.
      rounding: "stochastic" or "nearest".
      bits: Of the sum; fewer than 32 emulate a smaller ring. May be traced, as scale
        and max_abs may: then nothing is checked.
      wraps: Whether sums may outgrow these bits and wrap around. Noise that a round
        adds is then reduced with the sum (`FixedPoint.wrap`), so that its privacy
        holds; otherwise that the sum fits is checked.
      mode: "full" makes every share; "identity" adds the integers themselves, which
        gives the same sum and states the same cost.

    Raises:
      ValueError: If the sum would not fit, or for bad arguments.
    """
    checks.at_least("num_parties", num_parties, 2)
    checks.at_least("max_clients", max_clients, 1)
    checks.known("mode", mode, ("identity", "full"))
    encoding = fixed_point(
        max_clients, max_abs, scale, rounding, bits=bits, wraps=wraps
    )
    scheme = sharing.additive(num_parties, encoding.ring)

    def messages(dimension: int) -> cost.Messages:
        return cost.additive_sharing(num_parties, dimension, word_bits(encoding))

    def shares(key: base.Key, session: PyTree, place: Any, integers: PyTree) -> PyTree:
        # One vector for all leaves: every random array is a generator to compile.
        vector, cut = trees.as_vector(integers)
        return cut(sharing.share(random.seed(key), vector, scheme).shares)

    if mode == "identity":
        return modular(encoding, unprotected(messages))
    return modular(
        encoding,
        Protection(
            begin=nothing_to_agree,
            protect=shares,
            reveal=lambda session, total: (
                jax.tree.map(lambda leaf: encoding.ring.sum_over(leaf, 0), total),
                jnp.bool_(True),
            ),
            messages=messages,
            can_abort=False,
        ),
    )


def unprotected(messages: Callable[[int], cost.Messages]) -> Protection:
    """Integers as they are: the sum of a protocol that costs `messages`, at no cost."""
    return Protection(
        begin=nothing_to_agree,
        protect=lambda key, session, place, integers: integers,
        reveal=lambda session, total: (total, jnp.bool_(True)),
        messages=messages,
        can_abort=False,
    )


def word_bits(encoding: FixedPoint) -> int:
    """Of a message's words; the ring's where fewer are traced."""
    traced = checks.is_traced(encoding.bits)
    return encoding.ring.bits if traced else int(encoding.bits)


def nothing_to_agree(
    key: base.Key, invited: Any, reporting: Any, max_abs: Any
) -> PyTree:
    """The session of a sum whose participants need none."""
    del key, invited, reporting, max_abs
    return ()


def zeros_like(messages: PyTree) -> PyTree:
    """Zeros of these shapes, of arrays or of what stands for them."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), messages)


def modular(encoding: FixedPoint, protection: Protection) -> base.SecureAggregator:
    """The aggregator of fixed-point integers under a protection."""
    ring = encoding.ring

    def encode(key: base.Key, session: PyTree, place: Any, update: PyTree) -> PyTree:
        round_key, hide_key = jax.random.split(key)
        keys = trees.leaf_keys(round_key, update)
        integers = jax.tree.map(encoding.encode, keys, update)
        return protection.protect(hide_key, session, place, integers)

    def absorb(total: Total, messages: PyTree, places: Any, present: Any) -> Total:
        del places
        heard = trees.where(present, messages, 0)
        added = jax.tree.map(
            lambda t, m: ring.add(t, ring.sum_over(m, 0)), total.messages, heard
        )
        return Total(added, total.count + jnp.sum(present, dtype=jnp.float32))

    def merge(totals: Total) -> Total:
        added = jax.tree.map(lambda t: ring.sum_over(t, 0), totals.messages)
        return Total(added, jnp.sum(totals.count))

    def finish(session: PyTree, total: Total) -> tuple[PyTree, Array, Any]:
        opened, completed = protection.reveal(session, total.messages)
        real = jax.tree.map(encoding.decode, opened)
        found = jax.tree.map(lambda leaf: jnp.where(completed, leaf, 0), real)
        return found, jnp.where(completed, total.count, 0.0), completed

    return base.SecureAggregator(
        begin=protection.begin,
        encode=encode,
        empty=lambda like_message: Total(zeros_like(like_message), jnp.float32(0)),
        absorb=absorb,
        merge=merge,
        finish=finish,
        wrap=lambda session, total: jax.tree.map(encoding.wrap, total),
        sensitivity=lambda session, norm, dimension: (
            norm + encoding.rounding_norm(dimension)
        ),
        cost=lambda dimension: _cost(protection.messages(dimension), dimension),
        can_abort=protection.can_abort,
    )


def _cost(messages: cost.Messages, dimension: int) -> base.Cost:
    """What a client sends in the protocol, and receives with the model."""
    traffic = cost.traffic(messages)
    return base.Cost(
        traffic.uplink_bytes, traffic.downlink_bytes + _FLOAT_BYTES * dimension
    )
