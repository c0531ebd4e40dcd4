"""Additive shares with MACs, by which a changed share is detected.

SPDZ. Damgard, Pastro, Smart, Zakarias, "Multiparty Computation from Somewhat
Homomorphic Encryption", CRYPTO 2012; many values are checked at once as in Damgard,
Keller, Larraia, Pastro, Scholl, Smart, "Practical Covertly Secure MPC for Dishonest
Majority - Or: Breaking the SPDZ Limits", ESORICS 2013. The parties share a key alpha
that none of them knows, and with every value x they share its MAC, alpha * x.

Check everything that is opened before you believe it, the masked operands of products
included: a product of wrongly opened operands has a valid MAC.

    product, masked = multiply(seeds[0], x, y, key)
    opened = open_values(product, name="product")
    checked = check(seeds[1], [*masked, opened], key)
    *_, product = verified(checked)

**Guarantee:** up to all parties but one may deviate as they like, if they trust the
dealer of keys, MACs and triples. Any `num_parties - 1` parties' shares of values, MACs
and key are uniform and independent of the secrets, and so is what they receive, up to
what is opened. If any value in a check was opened wrongly, it passes with probability
at most `forgery_probability`: 2 / p, about 2^-60 over `field.F61` and only about 2^-30
over `field.F31`. Cheats can abort, and learn what is opened before others do. That
holds for the arithmetic; the emulation has no network and no adversary, holds all
shares in one place, opens the same to all, counts commitments but computes none, and
its generator is not cryptographic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import sharing, transcript
from ppml_lab.smpc.computing import arithmetic
from ppml_lab.smpc.ring import Element, Ring, Seed
from ppml_lab.smpc.scheme import Shared

COMMITMENT_BITS = 256
"""Bits of a commitment: a hash's length."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Authenticated:
    """A secret and its MAC, as all parties together hold them.

    A pytree, but not an array. `open_values` opens it.

    Attributes:
      value: The secret.
      mac: The key times the secret.
    """

    value: Shared
    mac: Shared

    def __repr__(self) -> str:
        return f"Authenticated({schemes.describe(self.value.scheme)})"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a shared value is neither true nor false; open the value first"
        )

    def __array__(self, *args: Any) -> NoReturn:
        raise TypeError("a shared value is not an array; open the value first")


jax.tree_util.register_dataclass(
    Authenticated, data_fields=["value", "mac"], meta_fields=[]
)


class Opened(NamedTuple):
    """A value that all parties were told, and the MAC with which to check it.

    Attributes:
      value: An element; wrong if a party lied.
      mac: The MAC of the value that it should be.
    """

    value: Element
    mac: Shared


class Checked(NamedTuple):
    """The values of one check, and its outcome; `check` makes it.

    Attributes:
      values: All that was opened, in the check's order.
      passes: Whether all values are what the MACs say.
    """

    values: tuple[Element, ...]
    passes: Bool[Array, "*s"]


def forgery_probability(field: Ring) -> Fraction:
    """An upper bound on the probability that a check passes although shares changed.

    It adds 1 / p that changes of values and MACs fit the key, which amounts to guessing
    the key, and 1 / p that the check's random combination cancels changes that do not.

    Raises:
      ValueError: For a ring that is no prime field.
    """
    _check_field(field)
    return Fraction(2, field.modulus)


def mac_key(seed: Seed, num_parties: int, field: Ring) -> Shared:
    """A random key that nobody knows; each party draws its share, without a message.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses.
      num_parties: At least 2.
      field: `field.F61`, or `field.F31`, where cheats succeed more often.

    Raises:
      ValueError: For too few parties, or a ring that is no prime field.
    """
    _check_field(field)
    scheme = sharing.additive(num_parties, field)
    (shares,) = arithmetic.draws(seed, field, (num_parties,))
    return Shared(shares, scheme)


def authenticate(seed: Seed, secret: Element, key: Shared) -> Authenticated:
    """Shares of `secret` and of its MAC, as made by a dealer who knows the key.

    Notes no message. A dealer knows no inputs: in a deployment it authenticates a
    random value and tells that value to an input's owner, who tells all parties the
    difference, for `add_public`.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses.
      secret: An element of any shape.
      key: A key made by `mac_key`.

    Raises:
      TypeError: If the secret is no element of the key's field.
      ValueError: If the key is not one of `mac_key`.
    """
    scheme = _checked(key)
    field = scheme.ring
    schemes.check_secret(field, secret, 0)
    shape = (scheme.num_parties - 1, *rings.shape_of(secret))
    return _completed(key, secret, *arithmetic.draws(seed, field, shape, shape))


def add(one: Authenticated, other: Authenticated) -> Authenticated:
    """The sum of two values with MACs by one key, without a message; shapes broadcast.

    Raises:
      ValueError: If the two are not shared alike.
    """
    return Authenticated(
        sharing.add(one.value, other.value), sharing.add(one.mac, other.mac)
    )


def subtract(one: Authenticated, other: Authenticated) -> Authenticated:
    """The difference of two values, without a message; as `add`.

    Raises:
      ValueError: If the two are not shared alike.
    """
    return Authenticated(
        sharing.subtract(one.value, other.value), sharing.subtract(one.mac, other.mac)
    )


def add_public(value: Authenticated, public: Element, key: Shared) -> Authenticated:
    """The sum of a value and a public one, without a message; shapes broadcast.

    Raises:
      TypeError: If `public` is no element of the field.
      ValueError: If value and key are not shared alike.
    """
    _checked(key, value.value)
    return Authenticated(
        sharing.add_public(value.value, public),
        sharing.add(value.mac, sharing.multiply_public(key, public)),
    )


def multiply_public(value: Authenticated, public: Element) -> Authenticated:
    """The product of a value and a public one, without a message; shapes broadcast.

    Raises:
      TypeError: If `public` is no element of the field.
    """
    return Authenticated(
        sharing.multiply_public(value.value, public),
        sharing.multiply_public(value.mac, public),
    )


def multiply(
    seed: Seed, one: Authenticated, other: Authenticated, key: Shared
) -> tuple[Authenticated, tuple[Opened, Opened]]:
    """The product of each pair, by a triple of Beaver's; shapes broadcast. One round.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses.
      one: A value.
      other: Another value.
      key: The key of both values' MACs.

    Returns:
      The product, and the two masked operands that were opened for it: `check` them
      together with what is opened later.

    Raises:
      ValueError: If the two and the key are not shared alike.
    """
    scheme = _checked(key, one.value, other.value)
    shapes = [schemes.shape_of(value.value) for value in (one, other)]
    with transcript.scope("multiply"):
        a, b, c = _triple(seed, shapes, key)
        masked = [subtract(value, mask) for value, mask in ((one, a), (other, b))]
        d, e = [scheme.ring.sum_over(value.value.shares, 0) for value in masked]
        arithmetic.send_to_all("opened", scheme, *shapes, values=(d, e))
    by_masks = add(multiply_public(b, d), multiply_public(a, e))
    product = add_public(add(c, by_masks), scheme.ring.multiply(d, e), key)
    return product, (Opened(d, masked[0].mac), Opened(e, masked[1].mac))


def open_values(value: Authenticated, *, name: str) -> Opened:
    """Tells all parties a value in one round; the transcript records it.

    Args:
      value: The value to open.
      name: The value's name in the transcript.

    Returns:
      The opened value, which has to be checked before it may be used.
    """
    return Opened(sharing.reveal(value.value, name=name), value.mac)


def check(seed: Seed, opened: Sequence[Opened], key: Shared) -> Checked:
    """Checks whether all opened values are what their MACs say. Two rounds.

    With random coefficients r_j, which all parties know, party i makes
    sigma_i = sum_j r_j * (mac_ij - alpha_i * opened_j); it commits to sigma_i and then
    opens it. The sum of all sigma_i is 0 if nobody cheated, and otherwise 0 with
    probability at most `forgery_probability`.

    Args:
      seed: The coefficients' seed, drawn after all was opened; nothing else uses it.
        The messages that agree on it are not counted.
      opened: Values that `open_values` and `multiply` opened, of any shapes.
      key: The key of the MACs.

    Raises:
      ValueError: If there is nothing to check, or key and MACs are not shared alike.
    """
    scheme = _checked(key, *(one.mac for one in opened))
    field, parties = scheme.ring, range(scheme.num_parties)
    if not opened:
        raise ValueError(
            "opened is empty; pass the results of open_values and multiply"
        )
    errors = [
        sharing.subtract(mac, sharing.multiply_public(key, value)).shares
        for value, mac in opened
    ]
    every = _joined(errors, len(parties))
    coefficients = field.uniform(seed, rings.shape_of(every)[1])
    sigma = field.sum_over(field.multiply(every, coefficients), 1)
    with transcript.scope("check"):
        with transcript.scope("commit"):
            for sender in parties:
                for receiver in (p for p in parties if p != sender):
                    transcript.record_message(
                        "commitment", sender, receiver, COMMITMENT_BITS
                    )
        with transcript.scope("open"):
            arithmetic.send_to_all("sigma", scheme, (), values=[sigma])
    total = field.to_unsigned(field.sum_over(sigma, 0))
    values = tuple(value for value, _ in opened)
    return Checked(values, (total.low | total.high) == 0)


def verified(checked: Checked) -> tuple[Element, ...]:
    """The values of a check that passed, outside of compiled programs.

    Only these values have passed: values of another check, or values that were opened
    and left out, have not. A product of masked operands that were left out is no
    product.

    Args:
      checked: The result of `check`, with all that led to what is wanted; several
        results where mapped.

    Raises:
      ValueError: If the check failed.
    """
    outcomes = np.asarray(checked.passes)
    if not outcomes.all():
        raise ValueError(
            f"a share was tampered with: {(~outcomes).sum()} of {outcomes.size} MAC "
            "checks failed; discard the opened values, and start again with a new key, "
            "newly authenticated values and new triples"
        )
    return checked.values


def _triple(
    seed: Seed, shapes: Sequence[tuple[int, ...]], key: Shared
) -> list[Authenticated]:
    """A triple: random a and b of two shapes, and their product."""
    field, num_parties = key.scheme.ring, key.scheme.num_parties
    all_shapes = [*shapes, jnp.broadcast_shapes(*shapes)]
    x, y, z = sizes = [math.prod(shape) for shape in all_shapes]
    # Parties expand seeds: shares of a and b need no correction, those of c and of
    # all MACs do.
    arithmetic.deal("triple", field, (x + y + 2 * z,))
    masks = (num_parties - 1, x + y + z)
    a, b, *others = arithmetic.draws(seed, field, *shapes, masks, masks)
    joined = _joined([a, b, field.multiply(a, b)], 1)
    together = _completed(key, jax.tree.map(lambda leaf: leaf[0], joined), *others)
    ends = np.cumsum(sizes).tolist()
    return [
        jax.tree.map(
            lambda leaf, e=end, n=size, s=shape: leaf[:, e - n : e].reshape(-1, *s),
            together,
        )
        for end, size, shape in zip(ends, sizes, all_shapes, strict=True)
    ]


def _completed(
    key: Shared, secret: Element, for_value: Element, for_mac: Element
) -> Authenticated:
    """All shares of a secret and its MAC, given all shares but the first of each."""
    field = key.scheme.ring
    mac = field.multiply(field.sum_over(key.shares, 0), secret)
    return Authenticated(
        arithmetic.completed(secret, for_value, key.scheme),
        arithmetic.completed(mac, for_mac, key.scheme),
    )


def _joined(elements: Sequence[Element], rows: int) -> Element:
    """The elements joined into one array of `rows` rows."""

    def join(*leaves: Array) -> Array:
        return jnp.concatenate([leaf.reshape(rows, -1) for leaf in leaves], axis=1)

    return jax.tree.map(join, *elements)


def _check_field(field: Ring) -> None:
    if field.modulus % 2 == 0:
        raise ValueError(
            f"{field.name} is not a prime field; use field.F61 (over Z_2^k a MAC needs "
            "SPDZ2k's longer ring, which the lab does not have)"
        )


def _checked(key: Shared, *values: Shared) -> schemes.Scheme:
    """Returns the scheme of key and values, after checking that it is one.

    Raises:
      ValueError: If the key is not one of `mac_key`, or a value not shared like it.
    """
    scheme = key.scheme
    _check_field(scheme.ring)
    schemes.check_same(scheme, sharing.additive(scheme.num_parties, scheme.ring))
    if schemes.shape_of(key):
        raise ValueError(
            f"key must be one element, got shape {list(schemes.shape_of(key))}; make "
            "the key with mac_key"
        )
    for value in values:
        schemes.check_same(value.scheme, scheme)
    return scheme
