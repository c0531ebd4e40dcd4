"""Shared values, and the static schemes by which they are shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from ppml_lab import checks
from ppml_lab.smpc import ring, transcript
from ppml_lab.smpc.ring import Element, Ring, Wide


class TracedScale(NamedTuple):
    """A scale that is known only when the program runs, as in a sweep over bits.

    Attributes:
      name: The scale's name; scales of one name are taken to be the same.
      power: How many times the scale multiplies the values.
    """

    name: str
    power: int = 1


Scale = float | TracedScale


class Scheme(NamedTuple):
    """How a value is shared; static and hashable.

    Make it with `sharing.additive`, `sharing.replicated` or `shamir.shamir`.

    Attributes:
      kind: "additive" (the shares' sum is the secret), "replicated" (the secret is the
        sum of three summands, and each party lacks one of them) or "shamir" (the shares
        are values of a polynomial whose value at 0 is the secret).
      ring: The ring of secret and shares.
      num_parties: How many parties hold a share each.
      threshold: How many parties reconstruct the secret; one fewer learn nothing.
      scale: Fixed-point steps per unit; 1.0 for integers.
      ideal: Whether only the secret is kept, and no share is computed. Values, messages
        and the distribution of every rounding are the same as with shares.
    """

    kind: str
    ring: Ring
    num_parties: int
    threshold: int
    scale: Scale
    ideal: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shared:
    """A secret, as all parties together hold it.

    A pytree, but not an array: code that computes with it as if it were the secret
    fails. `sharing.reveal` opens it.

    Attributes:
      shares: An element with the parties along its leading axis, `[parties, *s]`; if
        replicated, the three summands; if ideal, the secret, `[1, *s]`.
      scheme: How it is shared.
    """

    shares: Element
    scheme: Scheme

    def __repr__(self) -> str:
        return f"Shared({describe(self.scheme)})"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a shared value is neither true nor false; reveal the value first"
        )

    def __array__(self, *args: Any) -> NoReturn:
        raise TypeError("a shared value is not an array; reveal the value first")


jax.tree_util.register_dataclass(Shared, data_fields=["shares"], meta_fields=["scheme"])


def shape_of(shared: Shared) -> tuple[int, ...]:
    """The secret's shape."""
    return ring.shape_of(shared.shares)[1:]


def num_shares(scheme: Scheme) -> int:
    """The number of elements that stand for one secret element."""
    return 1 if scheme.ideal else scheme.num_parties


def product_scale(one: Scale, other: Scale) -> Scale:
    """The scale of a product of two values, from the scales of both.

    Raises:
      ValueError: If a traced scale meets a scale that is neither 1 nor of its name.
    """
    if isinstance(one, float) and isinstance(other, float):
        return one * other
    if 1.0 in (one, other):
        return other if one == 1.0 else one
    names = {scale.name for scale in (one, other) if isinstance(scale, TracedScale)}
    if len(names) == 1 and not isinstance(one, float) and not isinstance(other, float):
        return TracedScale(names.pop(), one.power + other.power)
    raise ValueError(
        f"cannot mix scales {one} and {other}; encode both with the same scale"
    )


def at_rank(shares: Element, rank: int) -> Element:
    """The shares with `rank` axes after the parties' axis, which must not broadcast."""

    def spread(leaf: Array) -> Array:
        first, *shape = leaf.shape
        return leaf.reshape(first, *[1] * (rank - len(shape)), *shape)

    return jax.tree.map(spread, shares)


def describe(scheme: Scheme) -> str:
    """A description of the scheme, as error messages print it."""
    ideal = ", ideal" if scheme.ideal else ""
    return (
        f"{scheme.kind}, {scheme.threshold} of {scheme.num_parties} parties over "
        f"{scheme.ring.name}, scale {scheme.scale}{ideal}"
    )


def check_kind(scheme: Scheme, *kinds: str) -> None:
    """Raises ValueError unless the scheme is of one of the kinds."""
    if scheme.kind not in kinds:
        raise ValueError(f"need {' or '.join(kinds)} shares, got {describe(scheme)}")


def check_same(one: Scheme, other: Scheme) -> None:
    """Raises ValueError, naming both, unless two values are shared alike."""
    if one != other:
        raise ValueError(
            f"cannot mix shares: {describe(one)}, and {describe(other)}; share both "
            "with the same scheme"
        )


def check_element(ring: Ring, value: Any, what: str) -> None:
    """Raises TypeError, whose text opens with `what`, unless `value` is an element."""
    words = value if isinstance(value, Wide) else (value,)
    types = [getattr(word, "dtype", type(word).__name__) for word in words]
    if len(words) != (2 if ring.bits > 32 else 1) or any(
        t != jnp.uint32 for t in types
    ):
        wanted = "ring.Wide of uint32 arrays" if ring.bits > 32 else "uint32 array"
        raise TypeError(
            f"{what} must be an element of {ring.name}, a {wanted}, got "
            f"{type(value).__name__} of {', '.join(map(str, types))}; use "
            "ring.from_float or ring.from_integers"
        )


def check_secret(ring: Ring, secret: Any, first_block: Any) -> None:
    """Raises TypeError unless `secret` is an element, ValueError for a part not flat.

    A part begins at a block of a flat stream.
    """
    check_element(ring, secret, "secret")
    shape = jnp.shape(jax.tree.leaves(secret)[0])
    is_whole = isinstance(first_block, int) and first_block == 0
    if len(shape) != 1 and not is_whole:
        raise ValueError(
            f"first_block {first_block} needs a flat secret, got shape {list(shape)}; "
            "flatten the secret"
        )


def check_shares(shared: Shared) -> None:
    """Raises ValueError unless there are as many shares as the scheme has."""
    for part in jax.tree.leaves(shared.shares):
        checks.entries(
            "shared.shares", part, num_shares(shared.scheme), "shares of the scheme"
        )


def check_parties(what: str, parties: Sequence[int], scheme: Scheme) -> None:
    """Raises ValueError unless `parties` are distinct parties of the scheme."""
    known = set(range(scheme.num_parties))
    if len(set(parties)) < len(parties) or not set(parties) <= known:
        raise ValueError(
            f"{what} must be distinct, from 0 to {scheme.num_parties - 1}, got "
            f"{list(parties)}"
        )


def receivers_of(
    scheme: Scheme, receivers: Sequence[transcript.Party] | None
) -> tuple[transcript.Party, ...]:
    """The receivers of a value: all parties by default.

    Raises:
      ValueError: For a number that no party has, no receivers, or a receiver twice.
    """
    if receivers is None:
        return tuple(range(scheme.num_parties))
    numbers = [receiver for receiver in receivers if isinstance(receiver, int)]
    check_parties("receivers", numbers, scheme)
    if not receivers or len(set(receivers)) < len(receivers):
        raise ValueError(
            f"receivers must name one or more distinct parties, got {receivers}"
        )
    return tuple(receivers)
