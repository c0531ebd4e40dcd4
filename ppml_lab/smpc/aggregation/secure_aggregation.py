"""Secure aggregation of client updates in federated rounds.

All aggregators but the clear sum work alike: updates become integers of a ring, a
*protection* hides the integers, the servers add up the hidden integers, and only the
sum is opened. The sum does not depend on the protection; what a server sees, and the
cost, do. Shares for several servers are here, masks for one server in `masked_sums`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, guards, random, trees
from ppml_lab.smpc import sharing
from ppml_lab.smpc.aggregation import cost, sum_encoding, sums
from ppml_lab.smpc.aggregation.sum_encoding import SumEncoding
from ppml_lab.smpc.fixed_point import FixedPoint

_FLOAT_BYTES = 4


class Protection(NamedTuple):
    """A way to hide integers from the servers that add them up.

    Attributes:
      begin: `(key, invited, reporting) -> session`, what the participants agree on.
      protect: `(key, session, place, integers) -> message`; both are trees of elements,
        and those of a message may have axes in front.
      reveal: `(session, sum of messages) -> (sum of integers, completed)`.
      messages: `dimension -> cost.Messages` of a round.
      num_places: The only length of a cohort that is allowed; None for any.
      least_reports: The fewest reports that can make a sum.
      abort_share: As in `base.SecureAggregator`; by default rounds with fewer reports
        than `least_reports` abort.
    """

    begin: Callable[..., PyTree]
    protect: Callable[..., PyTree]
    reveal: Callable[..., tuple[PyTree, Any]]
    messages: Callable[[int], cost.Messages]
    num_places: int | None = None
    least_reports: Any = 1
    abort_share: Callable[[Any, Any], float] | None = None


class Session(NamedTuple):
    """The session that a round's participants agree on.

    Attributes:
      steps: The round's bound and scale.
      protocol: The protection's own session.
    """

    steps: sum_encoding.Steps
    protocol: PyTree


_SESSION = guards.one_of(Session, "`begin` makes one")
_TOTAL = guards.one_of(sums.Total, "`empty` and `absorb` make one")


@guards.returned(total=_TOTAL, totals=_TOTAL)
def clear() -> base.SecureAggregator:
    """The plain sum: the server sees every update.

    Totals are `pairs.Pair`s of float32, whatever the updates' own type: among 100,000
    clients, one client moves the sum by its norm, up to a relative 1e-6.
    """
    made = sums.summing(
        encode=lambda key, session, place, update: update,
        decode=lambda session, total: (total, True),
        cost=_clear_cost,
    )
    return made._replace(
        shows="individual",
        name="clear",
        change=lambda session, norm, dimension: norm,
    )


@arguments.checked
def _clear_cost(dimension: int) -> base.Cost:
    checks.at_least("dimension", dimension, 1)
    return base.Cost(_FLOAT_BYTES * dimension, _FLOAT_BYTES * dimension)


@arguments.checked
def additive_sharing(
    num_parties: int,
    max_clients: int | None = None,
    max_abs: Any = None,
    scale: Any = 2.0**16,
    rounding: str = "stochastic",
    *,
    bits: Any = 32,
    wraps: bool = False,
    least_reports: Any = 1,
    mode: str = "full",
) -> base.SecureAggregator:
    """Secure aggregation by several servers, among which clients share their updates.

    Each client shares its update among `num_parties` servers over Z_2^32. The servers
    add the shares that they receive, and only the sums are opened, so that together
    they learn the sum of the updates and nothing else. All shares but one are expanded
    from seeds: a client sends the first server a vector, the others a seed.

    **Guarantee:** any `num_parties - 1` servers see uniform words that do not depend on
    any update, apart from the sum that is opened (semi-honest servers that do not all
    collude), as far as a generator's words from a seed are uniform. The sum is over
    those who report: with a single report it is that client's update, unless
    `least_reports` is above 1, as sums of fewer reports are not opened. The decoded sum
    is the exact integer sum of the rounded updates: within `num_clients / scale` per
    coordinate of the clear sum with stochastic rounding and
    `num_clients / (2 * scale)` with nearest, the same whatever the order, chunking or
    number of devices. The emulation shows the arithmetic, its error and its bytes; it
    sends nothing, keeps no party apart from another, and draws shares from a generator
    that is not cryptographic.

    Args:
      num_parties: Servers, at least 2.
      max_clients: The largest cohort; by default the rounds' cohort, and never less.
      max_abs: Bound of each coordinate of an update, needed where the mechanism states
        no bound, such as without clipping or with noise at the clients; larger
        coordinates are clamped. A bound that the mechanism states is used by itself; a
        `max_abs` given all the same must not be below that bound, and is raised where
        the bound grows.
      scale: Integer steps per unit. Where the bound is known in a round only, as with
        an adaptive clip norm, a round halves the scale until the sum fits; the
        sensitivity, and with it the noise, follow.
      rounding: "stochastic" or "nearest".
      bits: Bits of the sum; fewer than 32 emulate a smaller ring. May be traced, as
        scale and max_abs may.
      wraps: Whether sums may outgrow these bits and wrap around. Noise that a round
        adds is then taken modulo the same range as the sum (`FixedPoint.wrap`), so that
        its privacy holds; otherwise the sum fits.
      least_reports: The fewest reports that make a sum; may be traced. With central DP,
        a value above 1 needs a sampler with the replace_one neighbouring relation, as
        do other sums that can abort.
      mode: "full" makes every share; "identity" adds the integers themselves, which
        gives the same sum and states the same cost.

    Raises:
      ValueError: If the sum would not fit, or for bad arguments. Also when the
        aggregator begins for a cohort and a mechanism (`federated.averaging` tries it
        when built): if `max_clients` or `max_abs` is below theirs, or is needed and
        missing.
    """
    checks.at_least("num_parties", num_parties, 2)
    checks.at_least("least_reports", least_reports, 1)
    checks.known("mode", mode, ("identity", "full"))
    encoding = sum_encoding.sum_encoding(
        max_clients, max_abs, scale, rounding, bits=bits, wraps=wraps
    )

    def messages(dimension: int) -> cost.Messages:
        return cost.additive_sharing(num_parties, dimension, word_bits(encoding))

    def shares(key: base.Key, session: PyTree, place: Any, integers: PyTree) -> PyTree:
        # One vector for all leaves: every random array is a generator to compile.
        scheme = sharing.additive(num_parties, encoding.ring)
        vector, cut = trees.as_vector(integers)
        return cut(sharing.share(random.seed(key), vector, scheme).shares)

    protection = unprotected(messages)._replace(least_reports=least_reports)
    if mode == "full":
        protection = protection._replace(
            protect=shares,
            reveal=lambda session, total: (
                jax.tree.map(lambda leaf: encoding.ring.sum_over(leaf, 0), total),
                jnp.bool_(True),
            ),
        )
    return modular(encoding, protection)._replace(name="additive_sharing")


def unprotected(messages: Callable[[int], cost.Messages]) -> Protection:
    """The protection that hides nothing, for the sum of a protocol with `messages`."""
    return Protection(
        begin=lambda key, invited, reporting: (),
        protect=lambda key, session, place, integers: integers,
        reveal=lambda session, total: (total, jnp.bool_(True)),
        messages=messages,
    )


def word_bits(encoding: SumEncoding) -> int:
    """The bits of a message's words: the ring's where `encoding.bits` is traced."""
    traced = checks.is_traced(encoding.bits)
    return encoding.ring.bits if traced else int(encoding.bits)


@guards.returned(total=_TOTAL, totals=_TOTAL, session=_SESSION)
def modular(encoding: SumEncoding, protection: Protection) -> base.SecureAggregator:
    """The aggregator of fixed-point integers under a protection."""
    ring, least = encoding.ring, protection.least_reports

    def steps(num_places: int, max_abs: Any) -> sum_encoding.Steps:
        only = protection.num_places
        if only is not None and num_places != only:
            raise ValueError(
                f"the masked sum has {only} places, but the cohort has {num_places}; "
                f"build the sum for {num_places} clients"
            )
        if not checks.is_traced(least) and num_places < least:
            raise ValueError(
                f"the secure sum needs least_reports {least}, which a cohort of up to "
                f"{num_places} clients never gives; lower least_reports or draw more "
                "clients"
            )
        return sum_encoding.of_round(encoding, num_places, max_abs)

    def check(num_places: int, max_abs: Any) -> None:
        steps(num_places, max_abs)

    def begin(key: base.Key, invited: Any, reporting: Any, max_abs: Any) -> Session:
        (num_places,) = invited.shape
        numbers = steps(num_places, max_abs)
        return Session(numbers, protection.begin(key, invited, reporting))

    def of(session: Session) -> FixedPoint:
        return sum_encoding.fixed_point_at(encoding, session.steps)

    def encode(key: base.Key, session: Session, place: Any, update: PyTree) -> PyTree:
        round_key, hide_key = jax.random.split(key)
        keys = trees.leaf_keys(round_key, update)
        integers = jax.tree.map(of(session).encode, keys, update)
        return protection.protect(hide_key, session.protocol, place, integers)

    def decode(session: Session, total: PyTree) -> tuple[PyTree, Any]:
        opened, revealed = protection.reveal(session.protocol, total)
        return jax.tree.map(of(session).decode, opened), revealed

    def abort_share(num_invited: Any, num_reports: Any) -> float:
        return float(np.mean(np.asarray(num_reports) < least))

    can_abort = checks.is_traced(least) or least > 1 or bool(protection.abort_share)
    made = sums.summing(
        encode,
        decode,
        cost=lambda dimension: _cost(protection.messages(dimension), dimension),
        begin=begin,
        addition=sums.modular(ring),
        least_reports=least,
    )
    return made._replace(
        wrap=lambda session, value: jax.tree.map(of(session).wrap, value),
        sensitivity=lambda session, norm, dimension: (
            norm + of(session).rounding_norm(dimension)
        ),
        change=lambda session, norm, dimension: (
            norm + of(session).rounding_change(dimension)
        ),
        can_abort=can_abort,
        check=check,
        sums=lambda dimension: base.Sums(
            dimension, encoding.scale, word_bits(encoding), least
        ),
        abort_share=protection.abort_share or (abort_share if can_abort else None),
    )


def _cost(messages: cost.Messages, dimension: int) -> base.Cost:
    """A client's cost: what it sends and receives in the protocol, and the model."""
    traffic = cost.traffic(messages)
    return base.Cost(
        traffic.uplink_bytes,
        traffic.downlink_bytes + _FLOAT_BYTES * dimension,
        traffic.num_rounds,
        cost.num_exchanges(messages),
    )
