"""Sharing and revealing values, and the operations on shares that need no message."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import UInt32

from ppml_lab import arguments, checks, random
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import shamir, transcript
from ppml_lab.smpc.ring import Element, Ring, Seed
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of

__all__ = [
    "Scheme",
    "Shared",
    "add",
    "add_public",
    "additive",
    "constant",
    "held",
    "multiply_public",
    "party_seeds",
    "record_inputs",
    "replicated",
    "reveal",
    "shape_of",
    "share",
    "share_by_seeds",
    "subtract",
    "view",
    "zero_sharing",
]


@arguments.checked
def additive(
    num_parties: int,
    ring: Ring = rings.Z32,
    scale: schemes.Scale = 1.0,
    *,
    ideal: bool = False,
) -> Scheme:
    """The additive scheme: shares are summands of the secret, all but one from seeds.

    **Guarantee:** any `num_parties - 1` shares are uniform and independent of the
    secret, as far as a generator's words from a seed are uniform. That holds for the
    arithmetic; the emulation keeps all shares in one place and draws them from a
    generator that is not cryptographic.

    Args:
      num_parties: At least 2.
      ring: The ring of secret and shares.
      scale: Fixed-point steps per unit; 1.0 for integers.
      ideal: Whether to keep the secret only, as fast as computing in the clear.

    Raises:
      ValueError: For bad arguments.
    """
    checks.at_least("num_parties", num_parties, 2)
    return Scheme(
        "additive", ring, num_parties, num_parties, _checked_scale(scale), ideal
    )


@arguments.checked
def replicated(
    ring: Ring = rings.Z32, scale: schemes.Scale = 1.0, *, ideal: bool = False
) -> Scheme:
    """The replicated scheme: of three summands, party i holds the i-th and the next.

    Araki, Furukawa, Lindell, Nof, Ohara, "High-Throughput Semi-Honest Secure
    Three-Party Computation with an Honest Majority", CCS 2016.

    Two summands are expanded from seeds.

    **Guarantee:** what one party holds is uniform and independent of the secret, which
    any two know, as far as a generator's words from a seed are uniform. That holds for
    the arithmetic; the emulation keeps all summands in one place, once each, and draws
    them from a generator that is not cryptographic.

    Args:
      ring: The ring of secret and summands.
      scale: Fixed-point steps per unit; 1.0 for integers.
      ideal: Whether to keep the secret only, as fast as computing in the clear.

    Raises:
      ValueError: If the scale is not positive.
    """
    return Scheme("replicated", ring, 3, 2, _checked_scale(scale), ideal)


def _checked_scale(scale: schemes.Scale) -> schemes.Scale:
    if isinstance(scale, schemes.TracedScale):
        return scale
    checks.positive("scale", scale)
    return float(scale)


@arguments.checked
def share(
    seed: Seed,
    secret: Element,
    scheme: Scheme,
    first_block: Array | int = 0,
) -> Shared:
    """Splits `secret` among the parties; the guarantee is the scheme's.

    Every summand but one is expanded from a seed, so a message with such a summand is
    `transcript.SEED_BITS` long; the remaining summand is the secret minus the others
    (`record_inputs`).

    Notes no message: only the caller knows who owns the secret and so sends shares.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses.
      secret: An element of any shape.
      scheme: How to share.
      first_block: For a part of a flat secret, the number of elements before the part
        divided by `random.BLOCK`. The shares are then those of the whole secret.

    Raises:
      TypeError: If the secret is no element of the scheme's ring.
      ValueError: If a part of a secret is not flat.
    """
    if scheme.kind == "shamir":
        return shamir.share(seed, secret, scheme, first_block)
    seeds = party_seeds(seed, scheme)
    return share_by_seeds(seeds, secret, scheme, first_block)


def party_seeds(seed: Seed, scheme: Scheme) -> UInt32[Array, "parties 2"]:
    """The seeds that an owner sends to share a secret: `[parties, 2]`, one per summand.

    The seed of the corrected summand is not used.
    """
    return random.child(seed, jnp.arange(scheme.num_parties))


def share_by_seeds(
    seeds: UInt32[Array, "parties 2"],
    secret: Element,
    scheme: Scheme,
    first_block: Array | int = 0,
    corrected: int = 0,
) -> Shared:
    """Additive or replicated shares, of which all summands but one come from seeds.

    Summand i is the stream of `seeds[i]`; the summand at `corrected` is the secret
    minus all others.

    A tree of secrets takes one seed per summand, and each leaf a `random.child` of it.

    Raises:
      TypeError: If the secret is no element of the scheme's ring.
      ValueError: For another scheme, if a part of a secret is not flat, or if there is
        no such summand.
    """
    schemes.check_kind(scheme, "additive", "replicated")
    schemes.check_secret(scheme.ring, secret, first_block)
    schemes.check_parties("corrected", [corrected], scheme)
    checks.entries("seeds", seeds, scheme.num_parties, "parties")
    if scheme.ideal:
        return Shared(jax.tree.map(lambda leaf: leaf[None], secret), scheme)
    ring, shape = scheme.ring, rings.shape_of(secret)
    expanded = [n for n in range(scheme.num_parties) if n != corrected]
    masks = ring.uniform(seeds[jnp.array(expanded)], math.prod(shape), first_block)
    # XLA would draw the masks a second time inside the sum.
    masks = lax.optimization_barrier(masks)
    masks = jax.tree.map(lambda leaf: leaf.reshape(len(expanded), *shape), masks)
    rest = ring.subtract(secret, ring.sum_over(masks, 0))

    def placed(rest: Array, masks: Array) -> Array:
        return jnp.concatenate([masks[:corrected], rest[None], masks[corrected:]])

    return Shared(jax.tree.map(placed, rest, masks), scheme)


def record_inputs(
    scheme: Scheme,
    owner: transcript.Party,
    size: int,
    *,
    corrected: int = 0,
    offline: bool = False,
) -> None:
    """Notes what an owner sends to share secrets of `size` elements in all.

    A party receives the seeds of the summands that it holds, and the corrected summand
    itself. An owner that is a party keeps its own summands.
    """
    for party in range(scheme.num_parties):
        if party == owner:
            continue
        for summand in held(scheme, party):
            if summand == corrected:
                name, num_bits = "inputs", scheme.ring.bits * size
            else:
                name, num_bits = "seeds", transcript.SEED_BITS
            transcript.record_message(name, owner, party, num_bits, offline=offline)


def held(scheme: Scheme, party: int) -> tuple[int, ...]:
    """The numbers of the shares that a party has: its own, or two of three summands."""
    if scheme.kind == "replicated":
        return (party, (party + 1) % 3)
    return (party,)


def constant(public: Element, scheme: Scheme) -> Shared:
    """A public value as a shared value: takes no message, and is no secret.

    Raises:
      TypeError: If `public` is no element of the ring.
    """
    shape = (schemes.num_shares(scheme), *rings.shape_of(public))
    return add_public(Shared(rings.zeros(scheme.ring, shape), scheme), public)


def zero_sharing(seed: Seed, shape: tuple[int, ...], scheme: Scheme) -> Shared:
    """Random shares of zeros; adding them to a value makes its shares fresh.

    In a deployment, parties that have agreed on pairwise keys draw these shares without
    a message; the emulation draws from the same distribution at once.
    """
    return share(seed, rings.zeros(scheme.ring, shape), scheme)


def view(shared: Shared, party: int) -> tuple[Element, ...]:
    """The elements that one party holds: its share, or two of three summands.

    Raises:
      ValueError: If there is no such party, or the scheme is ideal.
    """
    scheme = shared.scheme
    schemes.check_parties("party", [party], scheme)
    if scheme.ideal:
        raise ValueError(
            "ideal values have no shares to look at; share them without ideal=True"
        )
    return tuple(rings.row(shared.shares, number) for number in held(scheme, party))


@arguments.checked
def reveal(
    shared: Shared, *, name: str, receivers: Sequence[transcript.Party] | None = None
) -> Element:
    """Opens a value with one round of messages; the transcript records it.

    In Shamir's scheme the first parties send their shares; `shamir.reveal` takes any.

    Args:
      shared: The value.
      name: The value's name in the transcript.
      receivers: Who learns the value: parties' numbers, and names of others, such as
        "client". By default all parties.

    Returns:
      The secret, `[*s]`.

    Raises:
      ValueError: For a number that no party has, no receivers, or a receiver twice.
    """
    scheme = shared.scheme
    schemes.check_shares(shared)
    if scheme.kind == "shamir":
        return shamir.reveal(shared, name=name, receivers=receivers)
    learners, shape = schemes.receivers_of(scheme, receivers), shape_of(shared)
    transcript.record_reveal(name, scheme, shape, learners)
    with transcript.scope(name):
        num_bits = scheme.ring.bits * math.prod(shape)
        for receiver in learners:
            for sender in _senders(scheme, receiver):
                transcript.record_message("share", sender, receiver, num_bits)
    return scheme.ring.sum_over(shared.shares, 0)


def _senders(scheme: Scheme, receiver: transcript.Party) -> list[int]:
    """The parties that send a summand each to a receiver that lacks it."""
    if scheme.kind == "replicated" and isinstance(receiver, int):
        # The summand that party i lacks is the first of party i - 1's two.
        return [(receiver - 1) % 3]
    return [party for party in range(scheme.num_parties) if party != receiver]


def add(one: Shared, other: Shared) -> Shared:
    """The sum of two shared values, without a message; shapes broadcast.

    Raises:
      ValueError: If the two are not shared alike.
    """
    return _combined(one.scheme.ring.add, one, other)


def subtract(one: Shared, other: Shared) -> Shared:
    """The difference of two shared values, without a message; shapes broadcast.

    Raises:
      ValueError: If the two are not shared alike.
    """
    return _combined(one.scheme.ring.subtract, one, other)


def add_public(shared: Shared, public: Element) -> Shared:
    """The sum of a shared and a public value at the same scale; shapes broadcast.

    Raises:
      TypeError: If `public` is no element of the ring.
    """
    scheme = shared.scheme
    schemes.check_element(scheme.ring, public, "public")
    shape = jnp.broadcast_shapes(shape_of(shared), rings.shape_of(public))
    shares = schemes.at_rank(shared.shares, len(shape))
    # Only one summand takes the public value; a polynomial takes it at every point.
    first = jnp.arange(schemes.num_shares(scheme)) == 0
    takes = (first | (scheme.kind == "shamir")).reshape(-1, *[1] * len(shape))
    added = jax.tree.map(lambda leaf: jnp.where(takes, leaf, jnp.uint32(0)), public)
    return Shared(scheme.ring.add(shares, added), scheme)


def multiply_public(shared: Shared, public: Element) -> Shared:
    """The product of a shared value and public integers; shapes broadcast.

    The scale stays as it is: after a fixed-point factor the product must be truncated.

    Raises:
      TypeError: If `public` is no element of the ring.
    """
    scheme = shared.scheme
    schemes.check_element(scheme.ring, public, "public")
    rank = max(len(shape_of(shared)), len(rings.shape_of(public)))
    shares = schemes.at_rank(shared.shares, rank)
    return Shared(scheme.ring.multiply(shares, public), scheme)


def _combined(
    operation: Callable[[Element, Element], Element], one: Shared, other: Shared
) -> Shared:
    schemes.check_same(one.scheme, other.scheme)
    rank = max(len(shape_of(one)), len(shape_of(other)))
    shares = operation(
        schemes.at_rank(one.shares, rank), schemes.at_rank(other.shares, rank)
    )
    return Shared(shares, one.scheme)
