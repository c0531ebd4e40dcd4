"""A shared value as a sum of two words, and the carries of that sum, bit by bit.

Additive shares are opened under a mask that a dealer also shares bit by bit (Escudero,
Ghosh, Keller, Rachuri, Scholl, "Improved Primitives for MPC over Mixed
Arithmetic-Binary Circuits", CRYPTO 2020); replicated ones are two summands already
(Mohassel, Rindal, "ABY3", CCS 2018). A tree finds the carry into the top place, a
prefix adder the carries into all places, each in as many rounds as the logarithm of the
number of the ring's bits.

**Guarantee:** that of `arithmetic`: semi-honest parties, and nothing opened but what is
masked with words of the whole ring or with bits that are used once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ppml_lab.smpc import bits, loops, sharing, streams, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.computing import arithmetic
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of
from ppml_lab.smpc.streams import Source, Stream


def sign(seed: Source, shared: Shared) -> Shared:
    """The top bit of each value: a tree of carries."""
    stream = streams.of(seed)
    summands = _summands(stream, shared)
    return sharing.add(_top_bit(summands.propagated), _carry(stream, summands))


def all_bits(seed: Source, shared: Shared) -> Shared:
    """All bits of each value as a word: a prefix adder after Kogge and Stone."""
    stream = streams.of(seed)
    propagated, generated, carry = _summands(stream, shared)
    ring, width = propagated.scheme.ring, propagated.scheme.ring.bits
    # A carry from below the lowest place enters there.
    if carry:
        lowest = rings.from_integers(ring, 1)
        generated = sharing.add(generated, sharing.multiply_public(propagated, lowest))

    def join(
        stream: Stream, groups: tuple[Shared, Shared], distance: Array
    ) -> tuple[Shared, Shared]:
        generated, group = groups
        below = _moved_up(paired(generated, group), distance)
        product = arithmetic.multiply(stream, group, below)
        return sharing.add(generated, part(product, 0)), part(product, 1)

    distances = [1 << level for level in range((width - 1).bit_length())]
    groups = (generated, propagated)
    generated, _ = loops.in_turn(stream, join, groups, jnp.uint32(distances))
    carries = _moved_up(generated, 1)
    total = sharing.add(propagated, carries)
    if carry:
        total = sharing.add_public(total, rings.from_integers(ring, 1))
    return total


def of_bits(scheme: Scheme, ring: Ring) -> Scheme:
    """The scheme by which the same parties share words of bits."""
    return scheme._replace(ring=ring, scale=1.0)


class _Sum(NamedTuple):
    """Two words whose sum, with `carry` (0 or 1) at the lowest place, is a value.

    Attributes:
      propagated: The words' XOR.
      generated: The words' AND.
      carry: The carry into the lowest place.
    """

    propagated: Shared
    generated: Shared
    carry: int


def _summands(stream: Stream, shared: Shared) -> _Sum:
    """The value as a sum of two words that are shared bit by bit."""
    scheme, shape = shared.scheme, shape_of(shared)
    ring = scheme.ring
    words = bits.bit_ring(ring.bits)
    out = of_bits(scheme, words)
    whole = rings.total(ring, shared.shares)
    if scheme.kind == "additive":
        # x = (x + r) + (r with all bits flipped) + 1.
        (mask,) = arithmetic.draws(stream, ring, shape)
        opened = ring.add(whole, mask)
        with transcript.scope("mask"):
            arithmetic.send_to_all("opened", scheme, shape, values=[opened])
            dealt = arithmetic.dealt(stream, "bits", mask, out)
        other = sharing.add_public(dealt, bits.ones(words, shape))
        return _Sum(
            sharing.add_public(other, opened), sharing.multiply_public(other, opened), 1
        )
    with transcript.scope("share"):
        if scheme.ideal:
            share_of_first(out, shape)
            one, other = (
                known(whole, 0, out),
                known(rings.zeros(words, shape), 0, out),
            )
        else:
            first = ring.add(rings.row(shared.shares, 0), rings.row(shared.shares, 1))
            one = dealt_by_first(stream, first, out)
            other = known(rings.row(shared.shares, 2), 2, out)
    generated = arithmetic.multiply(stream, one, other)
    return _Sum(sharing.add(one, other), generated, 0)


def known(value: Element, place: int, scheme: Scheme) -> Shared:
    """Shares of a value that all know, or the holders of a summand; other shares are 0.

    The value is the summand at `place`.
    """
    count = schemes.num_shares(scheme)
    place = min(place, count - 1)

    def put(leaf: Array) -> Array:
        rows = [jnp.zeros_like(leaf)] * count
        rows[place] = leaf
        return jnp.stack(rows)

    return Shared(jax.tree.map(put, value), scheme)


def dealt_by_first(stream: Stream, value: Element, scheme: Scheme) -> Shared:
    """Replicated shares of a value that party 0 knows.

    Parties 0 and 1 draw one summand, party 2 receives the other, the third is 0.
    """
    shape = rings.shape_of(value)
    share_of_first(scheme, shape)
    (drawn,) = arithmetic.draws(stream, scheme.ring, shape)
    sent = scheme.ring.subtract(value, drawn)
    transcript.record_view("shared", (2,), sent)
    rows = (sent, drawn, rings.zeros(scheme.ring, shape))
    return Shared(jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), scheme)


def share_of_first(scheme: Scheme, shape: tuple[int, ...]) -> None:
    """Notes that party 0 shares what it knows: its first summand goes to party 2."""
    num_bits = scheme.ring.bits * math.prod(shape)
    transcript.record_message("shared", 0, 2, num_bits)


def _carry(stream: Stream, summands: _Sum) -> Shared:
    """The carry into the top place: a tree over (generates, propagates) of all below.

    Place 0 takes the carry from outside; the places of both words follow.
    """
    propagated, generated, carry = summands
    ring = propagated.scheme.ring

    def placed(value: Shared, first: int) -> Shared:
        moved = _each(lambda share: bits.shifted_in(ring, share, 0), value)
        if first:
            moved = sharing.add_public(moved, rings.from_integers(ring, 1))
        return _each(lambda share: bits.spread_places(ring, share), moved)

    generated, propagated = placed(generated, carry), placed(propagated, 0)
    while ring.bits > 1:
        (low_g, high_g, half), (low_p, high_p, _) = (
            _halved(value) for value in (generated, propagated)
        )
        # Whether the last pair propagates is never needed.
        below = paired(low_g, low_p) if half.bits > 1 else _alone(low_g)
        product = arithmetic.multiply(stream, high_p, below)
        generated = sharing.add(high_g, part(product, 0))
        propagated = part(product, -1)
        ring = half
    return generated


def _top_bit(shared: Shared) -> Shared:
    ring = shared.scheme.ring
    top = bits.top_bit(ring, shared.shares)
    return Shared(top, of_bits(shared.scheme, bits.bit_ring(1)))


def _each(function: Callable[[Element], Element], shared: Shared) -> Shared:
    return Shared(function(shared.shares), shared.scheme)


def _moved_up(shared: Shared, distance: Array | int) -> Shared:
    ring = shared.scheme.ring
    return _each(lambda share: rings.shift_left(ring, share, distance), shared)


def _halved(shared: Shared) -> tuple[Shared, Shared, Ring]:
    low, high, half = bits.halves(shared.scheme.ring, shared.shares)
    scheme = of_bits(shared.scheme, half)
    return Shared(low, scheme), Shared(high, scheme), half


def unpacked(shared: Shared) -> Shared:
    """The bits of words, lowest first, along a new last axis."""
    places = bits.unpacked(shared.scheme.ring, shared.shares)
    return Shared(places, of_bits(shared.scheme, bits.bit_ring(1)))


def paired(one: Shared, other: Shared) -> Shared:
    """Two values along a new first axis of the secret."""
    shares = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1), one.shares, other.shares
    )
    return Shared(shares, one.scheme)


def _alone(shared: Shared) -> Shared:
    return Shared(
        jax.tree.map(lambda leaf: leaf[:, None], shared.shares), shared.scheme
    )


def part(shared: Shared, number: int) -> Shared:
    """One of two values that `paired` has joined."""
    return Shared(
        jax.tree.map(lambda leaf: leaf[:, number], shared.shares), shared.scheme
    )
