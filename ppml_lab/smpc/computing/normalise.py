"""Shared fixed-point values as a mantissa times a power of two, whatever their size.

The place of the top bit is found among shared bits, as ones and zeros. Powers of two,
and everything else that depends on that place alone, are then sums of these with known
weights, without a message. A polynomial of the mantissa is then good over the whole
range.

**Guarantee:** that of `comparison`: only masked words are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppml_lab.smpc import bits, loops, sharing, streams, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.computing import arithmetic, comparison
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Shared, shape_of
from ppml_lab.smpc.streams import Source, Stream

Weights = Callable[[Any, Any], Element]
"""A function of `(ring, places)` to an element for each place of a top bit."""


class Normalised(NamedTuple):
    """A value as `mantissa * 2^(place + 1 - fraction_bits)`.

    Attributes:
      mantissa: The mantissa of the value's size, in [1/2, 1]; for 0 that of one step.
      weighted: From each table of weights, the weight of the top bit's place, with the
        value's sign where signs are asked for.
    """

    mantissa: Shared
    weighted: list[Shared]


def highest_place(ring: Ring) -> int:
    """The place of a normalised value's top bit, as values stay below an eighth of the
    ring.
    """
    return ring.bits - 4


def normalised(
    run: Any, value: Shared, weights: Sequence[tuple[Any, bool]], *, signed: bool
) -> Normalised:
    """The mantissa of a value, and weights that follow from its top bit's place.

    Args:
      run: The evaluation.
      value: Reals, of a size below an eighth of the ring's.
      weights: Tables of elements `[bits]`, one element for each place, and whether 0
        has the weight of place 0 (else it has none).
      signed: Whether the value may be negative.
    """
    ring, top = run.scheme.ring, highest_place(run.scheme.ring)
    with transcript.scope("normalise"):
        places = top_places(run.stream, value)
        is_zero, sign = (_place(places, p) for p in (ring.bits - 2, ring.bits - 1))
        raising = rings.from_integers(
            ring, [2 ** (top - p) if p <= top else 0 for p in range(ring.bits)]
        )
        tables = [(raising, True), *weights]
        found = [_weighed(places, table, zero) for table, zero in tables]
        if signed:
            both = values.stacked(*found, is_zero)
            where = arithmetic.multiply(run.stream, both, sign)
            found = [
                sharing.subtract(one, values.scaled(values.part(where, n), 2))
                for n, one in enumerate(found)
            ]
            is_zero = sharing.subtract(is_zero, values.part(where, len(found)))
        product = arithmetic.multiply(run.stream, value, found[0])
        # A step in place of 0.
        step = values.scaled(is_zero, 2**top)
        product = sharing.add(product, Shared(step.shares, product.scheme))
        mantissa = values.divided(run, product, top + 1 - run.fraction_bits)
    return Normalised(mantissa, found[1:])


def powers(ring: Ring, exponents: Any, least: Any, most: Any) -> Element:
    """2 to `exponents` at places from `least` to below `most`, and 0 at all others."""
    place = jnp.arange(ring.bits)
    kept = (place >= least) & (place < most)
    distance = jnp.where(kept, exponents, 0)
    power = rings.shift_left(ring, rings.from_integers(ring, 1), distance)
    return jax.tree.map(lambda w: jnp.where(kept, w, jnp.uint32(0)), power)


def top_places(seed: Source, shared: Shared) -> Shared:
    """Ones at the place of each value's top bit, zeros elsewhere, on a new last axis.

    For a negative value the top bit of `-1 - value` counts. The last place but one says
    whether there is no top bit, the last place whether the value is negative.
    """
    ring = shared.scheme.ring
    stream = streams.of(seed)
    marked = _marked(stream, comparison.to_bits(stream, shared))
    return comparison.places(stream, marked, ring)


def _marked(stream: Stream, word: Shared) -> Shared:
    ring = word.scheme.ring
    sign = _each(lambda w: _spread_top(ring, w), word)
    unset = _inverted(sharing.add(word, sign))

    def reach(stream: Stream, unset: Shared, distance: Array) -> Shared:
        above = _each(lambda w: rings.shift_right(ring, w, distance), unset)
        all_set = bits.ones(ring, ())
        full = rings.shift_left(ring, all_set, jnp.uint32(ring.bits) - distance)
        return arithmetic.multiply(stream, unset, sharing.add_public(above, full))

    # Turns each bit into whether all bits from its place up are unset.
    distances = [1 << level for level in range((ring.bits - 1).bit_length())]
    unset = loops.in_turn(stream, reach, unset, jnp.uint32(distances))
    following = _each(lambda w: rings.shift_right(ring, w, 1), unset)
    following = sharing.add_public(following, _mask(ring, ring.bits - 1, ring.bits))
    place = sharing.multiply_public(
        sharing.add(unset, following), _mask(ring, 0, ring.bits - 2)
    )
    none = _each(lambda w: rings.shift_left(ring, w, ring.bits - 1), unset)
    none = _each(lambda w: rings.shift_right(ring, w, 1), none)
    top = sharing.multiply_public(sign, _mask(ring, ring.bits - 1, ring.bits))
    return sharing.add(sharing.add(place, none), top)


def _weighed(places: Shared, table: Element, zero: bool) -> Shared:
    ring = places.scheme.ring
    place = jnp.arange(ring.bits)

    def with_zero(weight: Any) -> Any:
        of_zero = weight[0] if zero else jnp.uint32(0)
        weight = jnp.where(place == ring.bits - 2, of_zero, weight)
        return jnp.where(place == ring.bits - 1, jnp.uint32(0), weight)

    table = jax.tree.map(with_zero, table)
    return values.summed(sharing.multiply_public(places, table), -1)


def _place(places: Shared, number: int) -> Shared:
    return Shared(
        jax.tree.map(lambda leaf: leaf[..., number], places.shares), places.scheme
    )


def _mask(ring: Ring, begin: int, end: int) -> Element:
    """The word whose bits from `begin` to below `end` are set."""
    word = 2**end - 2**begin
    halves = (np.uint32(word & 0xFFFFFFFF), np.uint32(word >> 32))
    return ring.from_unsigned(rings.Wide(*map(jnp.asarray, halves)))


def _spread_top(ring: Ring, word: Element) -> Element:
    """The words whose bits at every place are the top bit."""
    top = bits.top_bit(ring, word)
    full = jnp.uint32(0) - top
    return ring.from_unsigned(rings.Wide(full, full))


def _inverted(word: Shared) -> Shared:
    return sharing.add_public(word, bits.ones(word.scheme.ring, shape_of(word)))


def _each(function: Callable[[Element], Element], shared: Shared) -> Shared:
    return Shared(function(shared.shares), shared.scheme)
