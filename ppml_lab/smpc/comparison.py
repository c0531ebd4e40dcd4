"""The sign of shared values, and what follows: comparing, choosing, maxima.

A sign is the top bit of a sum of two summands that some party, or everybody, knows: bit
by bit it is found with a tree of carries, in as many rounds as the logarithm of the
ring's bits has. Additive shares are opened under a mask that a dealer also shares bit
by bit (Escudero, Ghosh, Keller, Rachuri, Scholl, "Improved Primitives for MPC over
Mixed Arithmetic-Binary Circuits", CRYPTO 2020); replicated ones are two summands
already (Mohassel, Rindal, "ABY3", CCS 2018).

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

from ppml_lab import random
from ppml_lab.smpc import arithmetic, bits, sharing, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.ring import Element, Ring, Seed
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of


def is_negative(seed: Seed, shared: Shared) -> Shared:
    """Whether each value is below 0: a shared bit, of `bits.bit_ring(1)`.

    Right for all values of the ring read as signed numbers.
    """
    scheme = shared.scheme
    _check(scheme)
    with transcript.scope("sign"):
        if scheme.ideal:
            price(_sign, shared)
            bit = bits.top_bit(scheme.ring, scheme.ring.sum_over(shared.shares, 0))
            return Shared(bit[None], _of_bits(scheme, bits.bit_ring(1)))
        return _sign(seed, shared)


def _sign(seed: Seed, shared: Shared) -> Shared:
    summands = _summands(random.child(seed, 0), shared)
    top = _top_bit(summands.propagated)
    return _added(top, _carry(random.child(seed, 1), summands))


def less_than(seed: Seed, one: Shared, other: Shared) -> Shared:
    """Whether `one < other`: a shared bit. The difference must fit into the ring."""
    return is_negative(seed, sharing.subtract(one, other))


def to_bits(seed: Seed, shared: Shared) -> Shared:
    """All bits of each value ("A2B"): a word of `bits.bit_ring`, read as unsigned.

    By a prefix adder after Kogge and Stone.
    """
    scheme = shared.scheme
    _check(scheme)
    with transcript.scope("to_bits"):
        if scheme.ideal:
            price(_all_bits, shared)
            out = _of_bits(scheme, bits.bit_ring(scheme.ring.bits))
            wide = scheme.ring.to_unsigned(shared.shares)
            return Shared(out.ring.from_unsigned(wide), out)
        return _all_bits(seed, shared)


def _all_bits(seed: Seed, shared: Shared) -> Shared:
    propagated, generated, carry = _summands(random.child(seed, 0), shared)
    ring, width = propagated.scheme.ring, propagated.scheme.ring.bits
    # A carry from below the lowest place enters there.
    if carry:
        lowest = rings.from_integers(ring, 1)
        generated = _added(generated, sharing.multiply_public(propagated, lowest))
    group = propagated
    for level in range((width - 1).bit_length()):
        distance = 1 << level
        below = _moved_up(_both(generated, group), distance)
        product = arithmetic.multiply(random.child(seed, 1 + level), group, below)
        generated = _added(generated, _part(product, 0))
        group = _part(product, 1)
    carries = _moved_up(generated, 1)
    total = _added(propagated, carries)
    if carry:
        total = sharing.add_public(total, rings.from_integers(ring, 1))
    return total


def from_bits(seed: Seed, shared: Shared, ring: Ring) -> Shared:
    """Words of bits as elements of Z_2^32 or Z_2^64 ("B2A"), modulo the ring."""
    converted = places(seed, shared, ring)
    count = shape_of(converted)[-1]
    weights = rings.from_integers(ring, [2**place for place in range(count)])
    weighted = sharing.multiply_public(converted, weights)
    summed = jax.vmap(lambda share: ring.sum_over(share, -1))(weighted.shares)
    return Shared(summed, converted.scheme)


def places(seed: Seed, shared: Shared, ring: Ring) -> Shared:
    """The bits of words, lowest first, as numbers 0 and 1 of a ring along a new last
    axis.
    """
    return from_bit(seed, _unpacked(shared), ring)


def from_bit(seed: Seed, bit: Shared, ring: Ring) -> Shared:
    """Shared bits as the numbers 0 and 1 of a ring, at scale 1.

    Additive: the bit is opened under a dealt random bit that is shared both ways (a
    "daBit"). Replicated: the first party knows the sum of two of the bit's summands.
    """
    scheme, shape = bit.scheme, shape_of(bit)
    out = scheme._replace(ring=ring, scale=1.0)
    with transcript.scope("from_bit"):
        if scheme.kind == "additive":
            return _from_bit_by_dealer(seed, bit, out)
        if scheme.ideal:
            share_of_first(out, shape)
            with transcript.scope("multiply"):
                arithmetic.resend("resent", out, shape)
            return Shared(_number(ring, bit.shares), out)
        two = _number(ring, bit.shares[0] ^ bit.shares[1])
        two = _dealt_by_first(random.child(seed, 0), two, out)
        last = _known(_number(ring, bit.shares[2]), 2, out)
        product = arithmetic.multiply(random.child(seed, 1), two, last)
        return sharing.subtract(sharing.add(two, last), sharing.add(product, product))


def _from_bit_by_dealer(seed: Seed, bit: Shared, out: Scheme) -> Shared:
    scheme, shape, ring = bit.scheme, shape_of(bit), out.ring
    arithmetic.deal("mask", ring, shape)
    if scheme.ideal:
        arithmetic.send_to_all("opened", scheme, shape)
        return Shared(_number(ring, bit.shares), out)
    (mask,) = arithmetic.draws(random.child(seed, 0), scheme.ring, shape)
    opened = scheme.ring.sum_over(bit.shares, 0) ^ mask
    arithmetic.send_to_all("opened", scheme, shape, values=[opened])
    (others,) = arithmetic.draws(
        random.child(seed, 1), ring, (out.num_parties - 1, *shape)
    )
    return arithmetic.completed(_number(ring, opened ^ mask), others, out)


def chosen(seed: Seed, bit: Shared, shared: Shared) -> Shared:
    """The value where the bit is set, and 0 elsewhere; the bit is shared as a number of
    scale 1 (`from_bit`).
    """
    with transcript.scope("choose"):
        return arithmetic.multiply(seed, bit, shared)


def select(seed: Seed, bit: Shared, if_set: Shared, if_not: Shared) -> Shared:
    """`if_set` where the bit is set, else `if_not`."""
    difference = sharing.subtract(if_set, if_not)
    return sharing.add(if_not, chosen(seed, bit, difference))


def is_positive(seed: Seed, shared: Shared) -> Shared:
    """1 where a value is above 0, as a number of scale 1; the least value of the ring
    counts as positive, as it is its own negative.
    """
    negative = Shared(rings.negative(shared.scheme.ring, shared.shares), shared.scheme)
    bit = is_negative(random.child(seed, 0), negative)
    return from_bit(random.child(seed, 1), bit, shared.scheme.ring)


def relu(seed: Seed, shared: Shared) -> Shared:
    """The value where it is above 0, else 0."""
    with transcript.scope("relu"):
        bit = is_positive(random.child(seed, 0), shared)
        return chosen(random.child(seed, 1), bit, shared)


def maximum(seed: Seed, one: Shared, other: Shared) -> Shared:
    """The larger of each pair."""
    return sharing.add(other, relu(seed, sharing.subtract(one, other)))


def max_over(seed: Seed, shared: Shared, axis: int) -> Shared:
    """The largest along an axis of the secret: a tree of maxima."""
    axis = axis % len(shape_of(shared)) + 1
    level = 0
    while (count := rings.shape_of(shared.shares)[axis]) > 1:
        pairs = [
            _cut(shared, axis, begin, begin + count // 2) for begin in (0, count // 2)
        ]
        larger = maximum(random.child(seed, level), *pairs)
        if count % 2:
            larger = _joined(larger, _cut(shared, axis, count - 1, count), axis)
        shared, level = larger, level + 1
    return Shared(
        jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis), shared.shares),
        shared.scheme,
    )


def place_of_max(seed: Seed, shared: Shared) -> Shared:
    """Where the largest of the last axis is, the first of equal ones: a tree of
    neighbours, the later of which wins only if it is larger.
    """
    whole = shared.scheme._replace(scale=1.0)
    count = shape_of(shared)[-1]
    places = sharing.constant(
        jax.tree.map(
            lambda word: jnp.broadcast_to(word, shape_of(shared)),
            rings.from_integers(whole.ring, list(range(count))),
        ),
        whole,
    )
    both, level = _both(Shared(shared.shares, whole), places), 0
    while (count := shape_of(both)[-1]) > 1:
        earlier, later = (_strided(both, begin, 2 * (count // 2)) for begin in (0, 1))
        difference = sharing.subtract(later, earlier)
        bit = is_positive(random.child(seed, level, 0), _part(difference, 0))
        moved = chosen(random.child(seed, level, 1), bit, difference)
        larger = sharing.add(earlier, moved)
        if count % 2:
            axis = len(shape_of(both))
            larger = _joined(larger, _cut(both, axis, count - 1, count), axis)
        both, level = larger, level + 1
    places = _part(both, 1)
    return Shared(jax.tree.map(lambda leaf: leaf[..., 0], places.shares), whole)


def _strided(shared: Shared, begin: int, end: int) -> Shared:
    """Every second place of the last axis."""
    shares = jax.tree.map(lambda leaf: leaf[..., begin:end:2], shared.shares)
    return Shared(shares, shared.scheme)


def _check(scheme: Scheme) -> None:
    schemes.check_kind(scheme, "additive", "replicated")
    if scheme.ring not in (rings.Z32, rings.Z64):
        raise ValueError(f"{scheme.ring.name} has no sign: use ring.Z32 or ring.Z64")


def _of_bits(scheme: Scheme, ring: Ring) -> Scheme:
    return scheme._replace(ring=ring, scale=1.0)


class _Sum(NamedTuple):
    """Two words whose sum, with `carry` (0 or 1) at the lowest place, is a value.

    Attributes:
      propagated: The words' XOR.
      generated: Their AND.
      carry: From below.
    """

    propagated: Shared
    generated: Shared
    carry: int


def _summands(seed: Seed, shared: Shared) -> _Sum:
    """The value as a sum of two words that are shared bit by bit."""
    scheme, shape = shared.scheme, shape_of(shared)
    ring = scheme.ring
    words = bits.bit_ring(ring.bits)
    out = _of_bits(scheme, words)
    whole = ring.sum_over(shared.shares, 0)
    if scheme.kind == "additive":
        # x = (x + r) + (all bits of r the other way) + 1.
        (mask,) = arithmetic.draws(random.child(seed, 0), ring, shape)
        opened = ring.add(whole, mask)
        with transcript.scope("mask"):
            arithmetic.send_to_all("opened", scheme, shape, values=[opened])
            dealt = arithmetic.dealt(random.child(seed, 1), "bits", mask, out)
        other = sharing.add_public(dealt, bits.ones(words, shape))
        return _Sum(
            sharing.add_public(other, opened), sharing.multiply_public(other, opened), 1
        )
    with transcript.scope("share"):
        if scheme.ideal:
            share_of_first(out, shape)
            one, other = (
                _known(whole, 0, out),
                _known(rings.zeros(words, shape), 0, out),
            )
        else:
            first = ring.add(rings.row(shared.shares, 0), rings.row(shared.shares, 1))
            one = _dealt_by_first(random.child(seed, 0), first, out)
            other = _known(rings.row(shared.shares, 2), 2, out)
    generated = arithmetic.multiply(random.child(seed, 1), one, other)
    return _Sum(_added(one, other), generated, 0)


def _known(value: Element, place: int, scheme: Scheme) -> Shared:
    """What everybody, or who have this summand, know: the others' are 0."""
    count = schemes.num_shares(scheme)
    place = min(place, count - 1)

    def put(leaf: Array) -> Array:
        rows = [jnp.zeros_like(leaf)] * count
        rows[place] = leaf
        return jnp.stack(rows)

    return Shared(jax.tree.map(put, value), scheme)


def _dealt_by_first(seed: Seed, value: Element, scheme: Scheme) -> Shared:
    """Replicated shares of what party 0 knows: it and party 1 draw one summand, party 2
    gets the other, the third is 0.
    """
    shape = rings.shape_of(value)
    share_of_first(scheme, shape)
    (drawn,) = arithmetic.draws(seed, scheme.ring, shape)
    sent = scheme.ring.subtract(value, drawn)
    transcript.record_view("shared", (2,), sent)
    rows = (sent, drawn, rings.zeros(scheme.ring, shape))
    return Shared(jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), scheme)


def share_of_first(scheme: Scheme, shape: tuple[int, ...]) -> None:
    """Notes that party 0 shares what it knows: its first summand goes to party 2."""
    num_bits = scheme.ring.bits * math.prod(shape)
    transcript.record_message("shared", 0, 2, num_bits)


def _carry(seed: Seed, summands: _Sum) -> Shared:
    """The carry into the top place: a tree over (generates, propagates) of all below.

    Place 0 takes the carry from outside, the places of both words follow.
    """
    propagated, generated, carry = summands
    ring = propagated.scheme.ring

    def placed(value: Shared, first: int) -> Shared:
        moved = _each(lambda share: bits.shifted_in(ring, share, 0), value)
        if first:
            moved = sharing.add_public(moved, rings.from_integers(ring, 1))
        return _each(lambda share: bits.spread_places(ring, share), moved)

    generated, propagated = placed(generated, carry), placed(propagated, 0)
    level = 0
    while ring.bits > 1:
        (low_g, high_g, half), (low_p, high_p, _) = (
            _halved(value) for value in (generated, propagated)
        )
        # Of the last pair nobody asks whether it propagates.
        below = _both(low_g, low_p) if half.bits > 1 else _alone(low_g)
        product = arithmetic.multiply(random.child(seed, level), high_p, below)
        generated = _added(high_g, _part(product, 0))
        propagated = _part(product, -1)
        ring, level = half, level + 1
    return generated


def price(protocol: Callable[[Seed, Shared], Shared], shared: Shared) -> None:
    """Notes the messages of a protocol where nobody computes it."""
    if not transcript.is_recording():
        return
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def shares(seed: Seed, shares: Element) -> Element:
        return protocol(seed, Shared(shares, shared.scheme)).shares

    jax.eval_shape(shares, seed, shared.shares)


def _added(one: Shared, other: Shared) -> Shared:
    return sharing.add(one, other)


def _top_bit(shared: Shared) -> Shared:
    ring = shared.scheme.ring
    top = bits.top_bit(ring, shared.shares)
    return Shared(top, _of_bits(shared.scheme, bits.bit_ring(1)))


def _each(function: Callable[[Element], Element], shared: Shared) -> Shared:
    return Shared(function(shared.shares), shared.scheme)


def _moved_up(shared: Shared, distance: int) -> Shared:
    ring = shared.scheme.ring
    return _each(lambda share: rings.shift_left(ring, share, distance), shared)


def _halved(shared: Shared) -> tuple[Shared, Shared, Ring]:
    low, high, half = bits.halves(shared.scheme.ring, shared.shares)
    scheme = _of_bits(shared.scheme, half)
    return Shared(low, scheme), Shared(high, scheme), half


def _unpacked(shared: Shared) -> Shared:
    places = bits.unpacked(shared.scheme.ring, shared.shares)
    return Shared(places, _of_bits(shared.scheme, bits.bit_ring(1)))


def _both(one: Shared, other: Shared) -> Shared:
    """Along a new first axis of the secret."""
    shares = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1), one.shares, other.shares
    )
    return Shared(shares, one.scheme)


def _alone(shared: Shared) -> Shared:
    return Shared(
        jax.tree.map(lambda leaf: leaf[:, None], shared.shares), shared.scheme
    )


def _part(shared: Shared, number: int) -> Shared:
    return Shared(
        jax.tree.map(lambda leaf: leaf[:, number], shared.shares), shared.scheme
    )


def _cut(shared: Shared, axis: int, begin: int, end: int) -> Shared:
    shares = jax.tree.map(
        lambda leaf: jax.lax.slice_in_dim(leaf, begin, end, axis=axis), shared.shares
    )
    return Shared(shares, shared.scheme)


def _joined(one: Shared, other: Shared, axis: int) -> Shared:
    shares = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis=axis), one.shares, other.shares
    )
    return Shared(shares, one.scheme)


def _number(ring: Ring, word: Element) -> Element:
    """Bits 0 and 1 as numbers of a ring."""
    return ring.from_unsigned(rings.Wide(word, jnp.zeros_like(word)))
