"""The signs of shared values, and comparisons, choices and maxima made from signs.

A sign is the top bit of a sum of two summands that some party, or everybody, knows. A
tree of carries finds the sign bit by bit (`carries`).

**Guarantee:** that of `arithmetic`: semi-honest parties, and nothing opened but what is
masked with words of the whole ring or with bits that are used once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ppml_lab.smpc import bits, loops, sharing, streams, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.computing import arithmetic, carries
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of
from ppml_lab.smpc.streams import Source, Stream


def is_negative(seed: Source, shared: Shared) -> Shared:
    """A shared bit, of `bits.bit_ring(1)`, that is set where a value is below 0.

    The bit is right for all values of the ring read as signed numbers.
    """
    scheme = shared.scheme
    _check(scheme)
    with transcript.scope("sign"):
        if scheme.ideal:
            price(carries.sign, shared)
            bit = bits.top_bit(scheme.ring, rings.total(scheme.ring, shared.shares))
            return Shared(bit[None], carries.of_bits(scheme, bits.bit_ring(1)))
        return carries.sign(seed, shared)


def less_than(seed: Source, one: Shared, other: Shared) -> Shared:
    """A shared bit that is set where `one < other`.

    The difference must fit into the ring.
    """
    return is_negative(seed, sharing.subtract(one, other))


def to_bits(seed: Source, shared: Shared) -> Shared:
    """All bits of each value ("A2B"): a word of `bits.bit_ring`, read as unsigned.

    By a prefix adder after Kogge and Stone.
    """
    scheme = shared.scheme
    _check(scheme)
    with transcript.scope("to_bits"):
        if scheme.ideal:
            price(carries.all_bits, shared)
            out = carries.of_bits(scheme, bits.bit_ring(scheme.ring.bits))
            wide = scheme.ring.to_unsigned(shared.shares)
            return Shared(out.ring.from_unsigned(wide), out)
        return carries.all_bits(seed, shared)


def from_bits(seed: Source, shared: Shared, ring: Ring) -> Shared:
    """Words of bits as elements of Z_2^32 or Z_2^64 ("B2A"), modulo the ring."""
    converted = places(seed, shared, ring)
    count = shape_of(converted)[-1]
    weights = rings.from_integers(ring, [2**place for place in range(count)])
    weighted = sharing.multiply_public(converted, weights)
    summed = jax.vmap(lambda share: ring.sum_over(share, -1))(weighted.shares)
    return Shared(summed, converted.scheme)


def places(seed: Source, shared: Shared, ring: Ring) -> Shared:
    """Bits of words as numbers 0 and 1 of a ring, lowest first, on a new last axis."""
    return from_bit(seed, carries.unpacked(shared), ring)


def from_bit(seed: Source, bit: Shared, ring: Ring) -> Shared:
    """Shared bits as the numbers 0 and 1 of a ring, at scale 1.

    Additive: the bit is opened under a dealt random bit that is shared both ways (a
    "daBit"). Replicated: the first party knows the sum of two of the bit's summands.
    """
    scheme, shape = bit.scheme, shape_of(bit)
    out = scheme._replace(ring=ring, scale=1.0)
    stream = streams.of(seed)
    with transcript.scope("from_bit"):
        if scheme.kind == "additive":
            return _from_bit_by_dealer(stream, bit, out)
        if scheme.ideal:
            carries.share_of_first(out, shape)
            with transcript.scope("multiply"):
                arithmetic.resend("resent", out, shape)
            return Shared(_number(ring, bit.shares), out)
        two = _number(ring, bit.shares[0] ^ bit.shares[1])
        two = carries.dealt_by_first(stream, two, out)
        last = carries.known(_number(ring, bit.shares[2]), 2, out)
        product = arithmetic.multiply(stream, two, last)
        return sharing.subtract(sharing.add(two, last), sharing.add(product, product))


def _from_bit_by_dealer(stream: Stream, bit: Shared, out: Scheme) -> Shared:
    scheme, shape, ring = bit.scheme, shape_of(bit), out.ring
    arithmetic.deal("mask", ring, shape)
    if scheme.ideal:
        arithmetic.send_to_all("opened", scheme, shape)
        return Shared(_number(ring, bit.shares), out)
    (mask,) = arithmetic.draws(stream, scheme.ring, shape)
    opened = rings.total(scheme.ring, bit.shares) ^ mask
    arithmetic.send_to_all("opened", scheme, shape, values=[opened])
    (others,) = arithmetic.draws(stream, ring, (out.num_parties - 1, *shape))
    return arithmetic.completed(_number(ring, opened ^ mask), others, out)


def chosen(seed: Source, bit: Shared, shared: Shared) -> Shared:
    """The value where the bit is set, and 0 elsewhere.

    The bit must be shared as a number of scale 1 (`from_bit`).
    """
    with transcript.scope("choose"):
        return arithmetic.multiply(seed, bit, shared)


def select(seed: Source, bit: Shared, if_set: Shared, if_not: Shared) -> Shared:
    """`if_set` where the bit is set, else `if_not`."""
    difference = sharing.subtract(if_set, if_not)
    return sharing.add(if_not, chosen(seed, bit, difference))


def is_positive(seed: Source, shared: Shared) -> Shared:
    """The number 1, of scale 1, where a value is above 0, else 0.

    The least value of the ring counts as positive, as it is its own negative.
    """
    negative = Shared(rings.negative(shared.scheme.ring, shared.shares), shared.scheme)
    stream = streams.of(seed)
    bit = is_negative(stream, negative)
    return from_bit(stream, bit, shared.scheme.ring)


def relu(seed: Source, shared: Shared) -> Shared:
    """The value where it is above 0, else 0."""
    stream = streams.of(seed)
    with transcript.scope("relu"):
        return chosen(stream, is_positive(stream, shared), shared)


def maximum(seed: Source, one: Shared, other: Shared) -> Shared:
    """The larger of each pair."""
    return sharing.add(other, relu(seed, sharing.subtract(one, other)))


def max_over(seed: Source, shared: Shared, axis: int) -> Shared:
    """The largest along an axis of the secret: a tree of maxima."""
    moved = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, axis % len(shape_of(shared)) + 1, -1),
        shared.shares,
    )
    return loops.tournament(streams.of(seed), maximum, Shared(moved, shared.scheme))


def place_of_max(seed: Source, shared: Shared) -> Shared:
    """The place of the largest value along the last axis, the first of equal values.

    A tree compares neighbours, and the later one wins only if it is larger.
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

    def winner(stream: Stream, earlier: Shared, later: Shared) -> Shared:
        difference = sharing.subtract(later, earlier)
        bit = is_positive(stream, carries.part(difference, 0))
        return sharing.add(earlier, chosen(stream, bit, difference))

    both = carries.paired(Shared(shared.shares, whole), places)
    return carries.part(loops.tournament(streams.of(seed), winner, both), 1)


def _check(scheme: Scheme) -> None:
    schemes.check_kind(scheme, "additive", "replicated")
    if scheme.ring not in (rings.Z32, rings.Z64):
        raise ValueError(f"{scheme.ring.name} has no sign: use ring.Z32 or ring.Z64")


def price(protocol: Callable[[Source, Shared], Shared], shared: Shared) -> None:
    """Notes the messages of a protocol without computing it."""
    if not transcript.active():
        return
    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def shares(seed: Source, shares: Element) -> Element:
        return protocol(seed, Shared(shares, shared.scheme)).shares

    jax.eval_shape(shares, seed, shared.shares)


def _number(ring: Ring, word: Element) -> Element:
    """Bits 0 and 1 as numbers of a ring."""
    return ring.from_unsigned(rings.Wide(word, jnp.zeros_like(word)))
