"""Dividing shared fixed-point values by a power of two, after a product.

All but "exact" round at random, to one of the two nearest results, with probabilities
that make the mean exact; the error's standard deviation is 0.41 of the result's step.

- "local": two additive parties shift their own shares, without a message. Wrong by far
  with probability abs(x) / 2^bits.
- "pair": additive, one round: opens x masked by a dealer's number of bits - 2 uniform
  bits, which hides x up to a statistical distance of abs(x) / 2^(bits - 2).
- "msb": additive in one round with a dealer, or replicated in two: opens x masked by a
  uniform word, and corrects for the top bit.
- "exact": finds all bits of x and rounds to the nearest, halves up, in 9 or 10 rounds
  (32 bits) with 10 times the messages of "msb" and more.

"pair" and "msb" are never wrong by more than a step for abs(x) < 2^(bits - 2), "exact"
by no more than half of one wherever x + half a step fits into the ring.

"local" is SecureML's (Mohassel, Zhang, S&P 2017), except that the second party rounds
the other way; otherwise every result would be a step low. "msb" is Catrina and de
Hoogh's idea with Dalskov, Escudero, Keller's correction ("Secure Evaluation of
Quantized Neural Networks", PoPETs 2020, and "Fantastic Four", USENIX Security 2021).
With three parties "local" is refused: the shares' sum wraps around up to twice, and a
result in four would be wrong by far.

**Guarantee:** semi-honest parties; what is opened is masked with uniform words ("msb":
the whole ring) that are known to a dealer who sees no input. In the replicated scheme
the third party deals and the result is shared again, so that no party has both the mask
and the masked value. Without that second sharing, two parties' messages give the secret
away.

Rounding at random shows more than the result: the messages alone are independent of x,
but together with the *result* they are not. Whoever has seen the masked value and later
learns the result (or anything that follows from it alone) knows which x round to the
result under this mask: 2^num_bits values, where the result alone leaves
2^(num_bits + 1) - 1. Each new run on the same x narrows them down, and a few hundred
runs leave one (Li et al., USENIX Security 2023; Santos et al., ePrint 2024/1127, state
the functionality that is met instead). "local", "pair" and "msb" therefore promise to
show no more than the result and the bits of x that it cuts. "exact" depends on x only
through its result and shows no more.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppml_lab import checks
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import sharing, streams, transcript
from ppml_lab.smpc.computing import arithmetic, comparison
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Scheme, Shared, TracedScale, shape_of
from ppml_lab.smpc.streams import Source, Stream

METHODS = ("local", "pair", "msb", "exact")


def truncate(
    seed: Source, shared: Shared, num_bits: Array | int, method: str = "msb"
) -> Shared:
    """The integers of a shared value, and its scale, divided by `2^num_bits`.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses, or a stream of it.
      shared: A value in Z_2^32 or Z_2^64, additive or replicated.
      num_bits: Bits to cut; may be traced where the scale is.
      method: "local", "pair", "msb" or "exact".

    Raises:
      ValueError: For a method that would be wrong for the scheme.
    """
    out = shared.scheme._replace(scale=_divided(shared.scheme.scale, num_bits))
    return Shared(divide(seed, shared, num_bits, method).shares, out)


def divide(
    seed: Source, shared: Shared, num_bits: Array | int, method: str = "msb"
) -> Shared:
    """A shared value divided by `2^num_bits`, at the scale that it has.

    As `truncate`, except that `num_bits` may be an array that broadcasts to the value's
    shape.
    """
    scheme, stream = shared.scheme, streams.of(seed)
    check_method(scheme, method)
    with transcript.scope("truncate"):
        if method == "local":
            shares = _local(stream, shared, num_bits)
        elif method == "exact":
            shares = _exact(stream, shared, num_bits)
        elif scheme.kind == "replicated":
            shares = _by_third_party(stream, shared, num_bits)
        else:
            whole = rings.total(scheme.ring, shared.shares)
            shares = _by_dealer(stream, shared, whole, num_bits, method)
    return Shared(rings.materialised(shares), scheme)


def check_method(scheme: Scheme, method: str) -> None:
    """Raises ValueError for a method that would be wrong for the scheme."""
    checks.known("truncation", method, METHODS, argument="truncation_method")
    schemes.check_kind(scheme, "additive", "replicated")
    if scheme.ring not in (rings.Z32, rings.Z64):
        raise ValueError(
            f"cannot shift in {scheme.ring.name}: use ring.Z32 or ring.Z64"
        )
    if method == "local" and scheme.num_parties != 2:
        raise ValueError(
            f"truncation 'local' is for 2 parties, got {scheme.num_parties}; with more "
            "parties, one result in four is wrong; use 'msb'"
        )
    if method == "pair" and scheme.kind != "additive":
        raise ValueError(
            "truncation 'pair' is for additive shares, got "
            f"{schemes.describe(scheme)}; use 'msb'"
        )


def _divided(scale: schemes.Scale, num_bits: Array | int) -> schemes.Scale:
    if isinstance(scale, TracedScale):
        if scale.power < 2:
            raise ValueError(
                f"scale {scale} is not the scale of a product, so that there is "
                "nothing to truncate"
            )
        return scale._replace(power=scale.power - 1)
    if checks.is_traced(num_bits):
        raise ValueError("num_bits may be traced only where the scale is a TracedScale")
    return scale / 2.0 ** float(num_bits)


def _local(stream: Stream, shared: Shared, num_bits: Array | int) -> Element:
    ring = shared.scheme.ring
    shares = shared.shares
    if shared.scheme.ideal:
        # The shares that the parties would have: uniform given the secret.
        (drawn,) = arithmetic.draws(stream, ring, shape_of(shared))
        shares = _stacked(ring.subtract(rings.row(shares, 0), drawn), drawn)
    first = rings.shift_right(ring, rings.row(shares, 0), num_bits, signed=True)
    negated = rings.negative(ring, rings.row(shares, 1))
    second = rings.negative(
        ring, rings.shift_right(ring, negated, num_bits, signed=True)
    )
    if shared.scheme.ideal:
        return _stacked(ring.add(first, second))
    return _stacked(first, second)


def _exact(stream: Stream, shared: Shared, num_bits: Array | int) -> Element:
    """Rounds to the nearest: adds half a step and keeps all bits from `num_bits` on."""
    ring = shared.scheme.ring
    step = rings.shift_left(ring, _constant(ring, 1), num_bits)
    raised = sharing.add_public(shared, rings.shift_right(ring, step, 1))

    def by_bits(seed: Source, raised: Shared) -> Shared:
        stream = streams.of(seed)
        word = comparison.to_bits(stream, raised)
        places = comparison.places(stream, word, ring)
        powers = rings.from_integers(ring, [2**place for place in range(ring.bits)])
        distance = jnp.asarray(num_bits)[..., None]
        weights = rings.shift_right(ring, powers, distance)
        # The top place counts as negative.
        top = jnp.arange(ring.bits) == ring.bits - 1
        weights = jax.tree.map(
            lambda w, n: jnp.where(top, n, w), weights, rings.negative(ring, weights)
        )
        weighted = jax.vmap(lambda share: ring.multiply(share, weights))(places.shares)
        return Shared(ring.sum_over(weighted, -1), places.scheme)

    if shared.scheme.ideal:
        comparison.price(by_bits, raised)
        return rings.shift_right(ring, raised.shares, num_bits, signed=True)
    return by_bits(stream, raised).shares


def _by_dealer(
    stream: Stream, shared: Shared, whole: Element, num_bits: Array | int, method: str
) -> Element:
    """Opens the value under a mask whose truncation is dealt too."""
    scheme, shape = shared.scheme, shape_of(shared)
    ring = scheme.ring
    mask = stream.coins(ring, shape)
    if method == "pair":
        mask = rings.shift_right(ring, mask, 2)
        opened = ring.subtract(whole, mask)
    else:
        opened = ring.add(_raised(ring, whole), mask)
    parts = _mask_parts(ring, mask, num_bits, method)
    arithmetic.send_to_all("opened", scheme, shape, values=[opened])
    if method == "pair":
        arithmetic.deal("mask", ring, shape)
    total = _corrected(ring, opened, parts, num_bits, method)
    for name in parts:
        arithmetic.deal(name, ring, shape)
    if scheme.ideal:
        return _stacked(total)
    # All but the first party's shares of a linear function of dealt, uniform shares.
    (others,) = arithmetic.draws(stream, ring, (scheme.num_parties - 1, *shape))
    return arithmetic.completed(total, others, scheme).shares


def _by_third_party(stream: Stream, shared: Shared, num_bits: Array | int) -> Element:
    """The last party deals to the first two, who hold two summands of the value."""
    scheme, shape = shared.scheme, shape_of(shared)
    ring = scheme.ring
    whole = rings.total(ring, shared.shares)
    mask = stream.coins(ring, shape)
    opened = ring.add(_raised(ring, whole), mask)
    parts = _mask_parts(ring, mask, num_bits, "msb")
    bits = ring.bits * math.prod(shape)
    for name in parts:
        transcript.record_message(name, 2, 1, bits, offline=True)
    for sender, receiver in ((0, 1), (1, 0)):
        transcript.record_message("opened", sender, receiver, bits)
        transcript.record_message("renewed", sender, receiver, bits, 1)
    total = _corrected(ring, opened, parts, num_bits, "msb")
    if scheme.ideal:
        return _stacked(total)
    transcript.record_view("opened", (0, 1), opened)
    # Summands 0 and 2 come from keys that the third party has with each of the others.
    (drawn,) = arithmetic.draws(stream, ring, (2, *shape))
    rest = ring.subtract(total, rings.total(ring, drawn))
    return _stacked(rings.row(drawn, 0), rest, rings.row(drawn, 1))


def _raised(ring: Ring, value: Element) -> Element:
    """The value plus a quarter of the ring, so that it is above zero."""
    return ring.add(value, _constant(ring, 2 ** (ring.bits - 2)))


def _mask_parts(
    ring: Ring, mask: Element, num_bits: Array | int, method: str
) -> dict[str, Element]:
    """The parts of the mask that the dealer deals, by name."""
    if method == "pair":
        return {"truncated": rings.shift_right(ring, mask, num_bits)}
    without_top = rings.shift_right(ring, rings.shift_left(ring, mask, 1), 1)
    return {
        "truncated": rings.shift_right(ring, without_top, num_bits),
        "top": rings.shift_right(ring, mask, ring.bits - 1),
    }


def _corrected(
    ring: Ring,
    opened: Element,
    parts: dict[str, Element],
    num_bits: Array | int,
    method: str,
) -> Element:
    """The sum of all parties' results, each linear in what was dealt to it."""
    if method == "pair":
        # Two roundings down lose a step, or none where both are exact.
        below = ring.subtract(opened, _constant(ring, 1))
        shifted = rings.shift_right(ring, below, num_bits, signed=True)
        return ring.add(ring.add(shifted, parts["truncated"]), _constant(ring, 1))
    top = rings.shift_right(ring, opened, ring.bits - 1)
    without_top = rings.shift_right(ring, rings.shift_left(ring, opened, 1), 1)
    shifted = rings.shift_right(ring, without_top, num_bits)
    # Did the sum of value and mask reach the top bit? Linear, as `top` is known.
    both = ring.multiply(top, parts["top"])
    carried = ring.subtract(ring.add(top, parts["top"]), ring.add(both, both))
    distance = ring.bits - 1 - jnp.asarray(num_bits)
    carried = rings.shift_left(ring, carried, distance)
    quarter = rings.shift_right(ring, _constant(ring, 2 ** (ring.bits - 2)), num_bits)
    result = ring.subtract(shifted, parts["truncated"])
    return ring.subtract(ring.add(result, carried), quarter)


def _constant(ring: Ring, value: int) -> Element:
    return rings.from_integers(ring, value)


def _stacked(*rows: Any) -> Element:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
