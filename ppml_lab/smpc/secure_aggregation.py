"""Secure sums of client updates for federated rounds.

All but the clear sum are one thing: updates become integers of a ring, a *protection*
hides the integers, the servers add up what is hidden, and only the sum is opened. The
sum does not depend on the protection; what a server sees and what it costs does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, PyTree, UInt32

from ppml_lab import base, checks, random, trees
from ppml_lab.smpc import cost, graphs, mask_keys, masking, sharing
from ppml_lab.smpc.fixed_point import FixedPoint, fixed_point
from ppml_lab.smpc.ring import Z32

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

    begin: base.AggregatorBegin
    protect: Callable[..., PyTree]
    reveal: Callable[..., tuple[PyTree, Any]]
    messages: Callable[[int], cost.Messages]
    can_abort: bool


def clear() -> base.SecureAggregator:
    """The plain float sum: the server sees every update."""
    return base.SecureAggregator(
        begin=_nothing_to_agree,
        encode=lambda key, session, place, update: update,
        aggregate=lambda total, messages: jax.tree.map(
            lambda t, m: t + jnp.sum(m, axis=0), total, messages
        ),
        decode=lambda session, total: (total, jnp.bool_(True)),
        sensitivity=lambda clip_norm, dimension: clip_norm,
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
    mode: str = "full",
) -> base.SecureAggregator:
    """Each client shares its update among `num_parties` servers over Z_2^32.

    The servers add the shares that they receive, and only the sums are opened, so that
    together they learn the sum of the updates and nothing else.

    **Guarantee:** any `num_parties - 1` servers see uniform words that do not depend on
    any update, apart from the sum that is opened (semi-honest servers that do not all
    collude). The decoded sum is the exact integer sum of the rounded updates: within
    `num_clients / scale` per coordinate of the clear sum with stochastic rounding and
    `num_clients / (2 * scale)` with nearest, the same whatever the order, chunking or
    number of devices. The emulation shows the arithmetic, its error and its bytes; it
    sends nothing, keeps no party apart from another, and draws shares from a generator
    that is not cryptographic.

    Args:
      num_parties: Servers, at least 2.
      max_clients: The largest cohort.
      max_abs: Bound of each coordinate of an update: the clip norm where there is one.
        Larger coordinates are clamped.
      scale: Integer steps per unit.
      rounding: "stochastic" or "nearest".
      bits: Of the sum; fewer than 32 emulate a smaller ring. May be traced, as scale
        and max_abs may: then nothing is checked, and with sums that wrap around no
        privacy holds that counts on `sensitivity`.
      mode: "full" makes every share; "identity" adds the integers themselves, which
        gives the same sum and states the same cost.

    Raises:
      ValueError: If the sum would not fit, or for bad arguments.
    """
    checks.at_least("num_parties", num_parties, 2)
    checks.at_least("max_clients", max_clients, 1)
    checks.known("mode", mode, ("identity", "full"))
    encoding = fixed_point(max_clients, max_abs, scale, rounding, bits=bits)
    scheme = sharing.additive(num_parties, encoding.ring)

    def messages(dimension: int) -> cost.Messages:
        return cost.additive_sharing(num_parties, dimension, _word_bits(encoding))

    def shares(key: base.Key, session: PyTree, place: Any, integers: PyTree) -> PyTree:
        # One vector for all leaves: every random array is a generator to compile.
        vector, cut = trees.as_vector(integers)
        return cut(sharing.share(random.seed(key), vector, scheme).shares)

    if mode == "identity":
        return _modular(encoding, unprotected(messages))
    return _modular(
        encoding,
        Protection(
            begin=_nothing_to_agree,
            protect=shares,
            reveal=lambda session, total: (
                jax.tree.map(lambda leaf: encoding.ring.sum_over(leaf, 0), total),
                jnp.bool_(True),
            ),
            messages=messages,
            can_abort=False,
        ),
    )


MODES = ("identity", "ideal", "full")


class MaskSession(NamedTuple):
    """What the participants of a round agree on before they train.

    Attributes:
      places: The place on the graph's ring of each client of the cohort, at random.
      alive: Who is there after each round of the protocol, by place.
      seed: Of everything random in the protocol.
      setup: Everybody's keys; None in the modes that need none.
    """

    places: Int[Array, " cohort"]
    alive: mask_keys.Alive
    seed: UInt32[Array, " 2"]
    setup: mask_keys.Setup | None


def pairwise_masking(
    graph: graphs.Graph,
    max_abs: Any,
    scale: Any = 2.0**16,
    rounding: str = "stochastic",
    *,
    bits: Any = 32,
    mode: str = "full",
) -> base.SecureAggregator:
    """One server adds masked updates whose masks cancel, and unmasks with the help of
    those who stay: Bonawitz et al., CCS 2017, on `graphs.complete`; Bell et al., CCS
    2020, on `graphs.k_regular` (see `masking`).

    A round's participants share keys before they train. Whoever then drops out, as the
    round decides, leaves masks in the sum that the others' shares remove; where too few
    are left for that the protocol aborts, and the round has no sum.

    **Guarantee:** that of the graph: a semi-honest server and fewer than its threshold
    of corrupt clients see uniform words and the sum over those who stay. The decoded
    sum is that of `additive_sharing`, to the bit. That a sum aborts tells how many were
    there: with central DP take a sampler for which that is the same for neighbours,
    such as `federated.fixed_size`; `federated.averaging` asks for it. The emulation
    computes the protocol's numbers with keys far too short to be safe, from a generator
    that is not cryptographic, in one memory.

    Args:
      graph: On as many places as the cohort's arrays are long. Padding counts as
        clients that never came, so a Poisson sampler, whose arrays are longer than the
        expected cohort, wants a threshold below that.
      max_abs: Bound of each coordinate of an update.
      scale: Integer steps per unit.
      rounding: "stochastic" or "nearest".
      bits: Of the sum, as in `additive_sharing`.
      mode: "full" makes every key, mask and share; "ideal" uploads what follows the
        same joint law, uniform given the sum, at one mask per client; "identity" adds
        the integers themselves. Sum, aborts and stated cost are the same in all.

    Raises:
      ValueError: If the sum would not fit, or for bad arguments; when a round is
        traced, if its cohort has not as many places as the graph.
    """
    encoding = fixed_point(graph.num_clients, max_abs, scale, rounding, bits=bits)
    graphs.check(graph)
    checks.known("mode", mode, MODES)

    def begin(key: base.Key, invited: Any, reporting: Any) -> MaskSession:
        if invited.shape != (graph.num_clients,):
            raise ValueError(
                f"the graph has {graph.num_clients} places and the cohort "
                f"{invited.shape[0]}; build it for {invited.shape[0]} clients"
            )
        order_key, seed_key = jax.random.split(key)
        numbers = jnp.arange(graph.num_clients, dtype=jnp.int32)
        places = random.permute(order_key, numbers, graph.num_clients)
        here, stays = (
            jnp.zeros_like(who).at[places].set(who) for who in (invited, reporting)
        )
        seed = random.seed(seed_key)
        setup = mask_keys.setup(seed, graph) if mode == "full" else None
        alive = mask_keys.nested(here, here, stays, stays)
        return MaskSession(places, alive, seed, setup)

    def mask(session: MaskSession, place: Any, length: int) -> Any:
        if session.setup is None:
            seed = random.child(session.seed, place)[None]
            return masking.sum_of_masks(Z32, seed, jnp.ones(1, jnp.int32), length)
        shared = session.alive.shared
        return masking.client_mask(session.setup, graph, shared, place, length)

    def protect(
        key: base.Key, session: MaskSession, place: Any, integers: PyTree
    ) -> PyTree:
        del key
        if mode == "identity":
            return integers
        vector, cut = trees.as_vector(integers)
        return cut(Z32.add(vector, mask(session, session.places[place], vector.size)))

    def reveal(session: MaskSession, total: PyTree) -> tuple[PyTree, Any]:
        alive = session.alive
        if mode == "identity":
            return total, mask_keys.completes(graph, alive)
        vector, cut = trees.as_vector(total)
        if session.setup is None:
            removed = masking.sum_of_masks(
                Z32,
                random.child(session.seed, jnp.arange(graph.num_clients)),
                alive.uploaded.astype(jnp.int32),
                vector.size,
            )
            completed = mask_keys.completes(graph, alive)
            return cut(Z32.subtract(vector, removed)), completed
        unmasking = mask_keys.unmask(session.setup, graph, alive)
        removed = masking.mask_of_sum(unmasking, graph, alive, vector.size)
        return cut(Z32.subtract(vector, removed)), unmasking.completed

    def messages(dimension: int) -> cost.Messages:
        return cost.bonawitz(graph, dimension, _word_bits(encoding))

    return _modular(
        encoding, Protection(begin, protect, reveal, messages, can_abort=True)
    )


def unprotected(messages: Callable[[int], cost.Messages]) -> Protection:
    """Integers as they are: the sum of a protocol that costs `messages`, at no cost."""
    return Protection(
        begin=_nothing_to_agree,
        protect=lambda key, session, place, integers: integers,
        reveal=lambda session, total: (total, jnp.bool_(True)),
        messages=messages,
        can_abort=False,
    )


def _word_bits(encoding: FixedPoint) -> int:
    """Of a message's words; the ring's where fewer are traced."""
    traced = checks.is_traced(encoding.bits)
    return encoding.ring.bits if traced else int(encoding.bits)


def _nothing_to_agree(key: base.Key, invited: Any, reporting: Any) -> PyTree:
    del key, invited, reporting
    return ()


def _modular(encoding: FixedPoint, protection: Protection) -> base.SecureAggregator:
    """The aggregator of fixed-point integers under a protection."""
    ring = encoding.ring

    def encode(key: base.Key, session: PyTree, place: Any, update: PyTree) -> PyTree:
        round_key, hide_key = jax.random.split(key)
        keys = trees.leaf_keys(round_key, update)
        integers = jax.tree.map(encoding.encode, keys, update)
        return protection.protect(hide_key, session, place, integers)

    def aggregate(total: PyTree, messages: PyTree) -> PyTree:
        return jax.tree.map(
            lambda t, m: ring.add(t, ring.sum_over(m, 0)), total, messages
        )

    def decode(session: PyTree, total: PyTree) -> tuple[PyTree, Any]:
        opened, completed = protection.reveal(session, total)
        real = jax.tree.map(encoding.decode, opened)
        return jax.tree.map(lambda leaf: jnp.where(completed, leaf, 0), real), completed

    return base.SecureAggregator(
        begin=protection.begin,
        encode=encode,
        aggregate=aggregate,
        decode=decode,
        sensitivity=lambda clip_norm, dimension: (
            clip_norm + encoding.rounding_norm(dimension)
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
