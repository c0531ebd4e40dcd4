"""Byzantine-robust rules: estimates of the mean update from each client's message.

A single client can move a mean anywhere. With a majority of honest clients a median
stays among their values, coordinate by coordinate: Yin, Chen, Kannan and Bartlett,
"Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, PyTree

from ppml_lab import arguments, base, checks, guards, pairs, smpc, trees


class Session(NamedTuple):
    """The session that a round's participants set up.

    Attributes:
      invited: True for the places that were invited.
      carried: The carrier's session.
    """

    invited: Bool[Array, " cohort"]
    carried: PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placed:
    """A message with the number of places of its cohort.

    Attributes:
      carried: The carrier's message.
      num_places: The length of the cohort.
    """

    carried: PyTree
    num_places: int = dataclasses.field(metadata={"static": True})


class Slots(NamedTuple):
    """The messages of a cohort, each at its place.

    Attributes:
      messages: The carrier's messages, leaves `[cohort, ...]`.
      present: True for the places that have a message.
    """

    messages: PyTree
    present: Bool[Array, " cohort"]


_SESSION = guards.one_of(Session, "`begin` makes one")
_TOTAL = guards.one_of(Slots, "`empty` and `absorb` make one")
_PLACED = guards.one_of(Placed, "`encode` makes one")


@arguments.checked
@guards.returned(
    session=_SESSION,
    total=_TOTAL,
    totals=_TOTAL,
    like_message=_PLACED,
    messages=_PLACED,
)
def estimating(
    estimate: Callable[[PyTree, Bool[Array, " cohort"]], PyTree],
    *,
    name: str = "estimating",
    least_reports: int = 1,
    carrier: base.SecureAggregator | None = None,
) -> base.SecureAggregator:
    """An aggregator by a rule of one's own, which estimates the mean from all messages.

    A message with a coordinate that is not finite does not count, as if its client had
    dropped out: it would otherwise decide the estimate, or be mistaken for a large
    number. Places that nobody takes do not count either. Messages are stored at their
    places in the cohort, so that the estimate has the same bits whatever the lanes and
    the devices.

    A round holds `cohort * dimension * 4` bytes of messages on every device, where a
    sum holds one message: three times that while it ends, once more for each device
    whose messages join, and all of it for each run that a sweep has side by side.

    **Guarantee:** none of secrecy: the server sees each message. Robustness is up to
    the rule. An estimate has not the sensitivity of a mean: `federated.averaging`
    refuses noise that a server adds to it. Noise that clients add protects what they
    send, whatever is computed from it; it also moves the estimate, and messages that
    are right only on average, such as those of `dp.randomised_response`, have a median
    of zero.

    Args:
      estimate: `(messages, heard) -> estimate`. The decoded messages are a tree of
        float arrays `[cohort, ...]`; only those that are `heard` (`[cohort]`) count,
        others are zero.
      name: The aggregator's name in errors.
      least_reports: The fewest reports that make an estimate; a round with fewer has
        none.
      carrier: The aggregator that carries messages and shows each to the server;
        `smpc.clear` by default.

    Raises:
      ValueError: For fewer than one report, or a carrier that shows only sums.
    """
    checks.at_least("least_reports", least_reports, 1)
    carrier = smpc.clear() if carrier is None else carrier
    if carrier.shows != "individual":
        raise ValueError(
            f"{name} needs each client's message, but {carrier.name} shows the server "
            "only the sum; take smpc.clear() as carrier (secure_sum=Clear()), or the "
            "mean (rule=Mean())"
        )

    def check(num_places: int, max_abs: Any) -> None:
        carrier.check(num_places, max_abs)
        if num_places < least_reports:
            raise ValueError(
                f"{name} needs at least {least_reports} reports, which a cohort of up "
                f"to {num_places} clients never gives; draw more clients"
            )

    def begin(key: base.Key, invited: Any, reporting: Any, max_abs: Any) -> Session:
        return Session(invited, carrier.begin(key, invited, reporting, max_abs))

    def encode(key: base.Key, session: Session, place: Any, update: PyTree) -> Placed:
        message = carrier.encode(key, session.carried, place, update)
        return Placed(message, session.invited.shape[0])

    def empty(like_message: Placed) -> Slots:
        count = like_message.num_places
        return Slots(
            jax.tree.map(
                lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype),
                like_message.carried,
            ),
            jnp.zeros(count, bool),
        )

    def absorb(total: Slots, messages: Placed, places: Any, present: Any) -> Slots:
        # Empty places get an index out of range, and are dropped.
        at = jnp.where(present, places, total.present.shape[0])
        return Slots(
            jax.tree.map(
                lambda slots, new: slots.at[at].set(new, mode="drop"),
                total.messages,
                messages.carried,
            ),
            total.present.at[at].set(True, mode="drop"),
        )

    def merge(totals: Slots) -> Slots:
        # Messages are picked, not added: a sum would turn -0 to 0.
        holder = jnp.argmax(totals.present, axis=0)
        places = jnp.arange(totals.present.shape[1])
        return Slots(
            jax.tree.map(lambda leaf: leaf[holder, places], totals.messages),
            jnp.any(totals.present, axis=0),
        )

    def read(session: Session, message: PyTree, place: Array) -> tuple[PyTree, Array]:
        """One client's update, and whether it counts."""
        nothing = carrier.empty(message)
        alone = jax.tree.map(lambda leaf: leaf[None], message)
        total = carrier.absorb(nothing, alone, place[None], jnp.ones(1, bool))
        value, _, completed = carrier.finish(session.carried, total)
        update = pairs.value(value)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(update)]
        return update, completed & jnp.all(jnp.stack(finite))

    def finish(session: Session, total: Slots) -> tuple[PyTree, Array, Array]:
        places = jnp.arange(total.present.shape[0])
        updates, can_count = jax.vmap(read, in_axes=(None, 0, 0))(
            session, total.messages, places
        )
        heard = total.present & can_count
        count = jnp.sum(heard, dtype=jnp.float32)
        completed = count >= least_reports
        found = estimate(trees.where(heard, updates, 0.0), heard)
        return (
            trees.where(completed, found, 0.0),
            jnp.where(completed, count, 0.0),
            completed,
        )

    def abort_share(num_invited: Any, num_reports: Any) -> float:
        return float(np.mean(np.asarray(num_reports) < least_reports))

    return base.SecureAggregator(
        begin=begin,
        encode=encode,
        empty=empty,
        absorb=absorb,
        merge=merge,
        finish=finish,
        wrap=lambda session, value: value,
        # No bound holds for the change by one client.
        sensitivity=lambda session, norm, dimension: float("inf"),
        cost=carrier.cost,
        can_abort=least_reports > 1,
        ends_in="estimate",
        needs="individual",
        check=check,
        abort_share=abort_share if least_reports > 1 else None,
        shows=carrier.shows,
        name=name,
    )


@arguments.checked
def coordinate_median(
    carrier: base.SecureAggregator | None = None, *, name: str = "coordinate_median"
) -> base.SecureAggregator:
    """An aggregator by the median of the clients' updates in each coordinate; for an
    even number of updates, the mean of the two in the middle.

    **Guarantee:** while fewer than half of the messages that a round counts are lies,
    every coordinate lies between the smallest and the largest honest value, whatever
    the others send; messages that are not finite are not counted. The median is no
    mean: where honest clients differ it is off by as much as their skew. Lies are
    counted in the round, not in the population. For secrecy, noise and memory see
    `estimating`.

    Args:
      carrier: How a message travels; see `estimating`.
      name: What errors call it.

    Raises:
      ValueError: For a carrier that shows sums alone.
    """

    def middle(messages: Array, heard: Array) -> Array:
        ordered, count = _ordered(messages, heard)
        low, high = ordered[jnp.maximum(count - 1, 0) // 2], ordered[count // 2]
        # Halved before they are added, as lies may be large; one is not halved.
        return jnp.where(low == high, low, low / 2 + high / 2)

    return estimating(_each(middle), name=name, carrier=carrier)


@arguments.checked
def trimmed_mean(
    num_trimmed: int,
    carrier: base.SecureAggregator | None = None,
    *,
    name: str = "trimmed_mean",
) -> base.SecureAggregator:
    """The mean in each coordinate without its lowest and its highest values.

    **Guarantee:** while at most `num_trimmed` of the messages that a round counts are
    lies, every coordinate lies between the least and the largest of the honest ones. A
    round that counts `2 * num_trimmed` messages or fewer has no estimate: fewer are
    never trimmed. For secrecy, noise and memory see `estimating`.

    Args:
      num_trimmed: How many are left out at each end, at least 0.
      carrier: How a message travels; see `estimating`.
      name: What errors call it.

    Raises:
      ValueError: For a negative number, or a carrier that shows sums alone; when a
        cohort is too small, in `federated.averaging`.
    """
    checks.at_least("num_trimmed", num_trimmed, 0)

    def inner_mean(messages: Array, heard: Array) -> Array:
        ordered, count = _ordered(messages, heard)
        ranks = jnp.arange(ordered.shape[0])
        inside = (num_trimmed <= ranks) & (ranks < count - num_trimmed)
        total = jnp.sum(trees.where(inside, ordered, 0.0), axis=0)
        return total / jnp.maximum(count - 2 * num_trimmed, 1).astype(total.dtype)

    return estimating(
        _each(inner_mean),
        name=name,
        least_reports=2 * num_trimmed + 1,
        carrier=carrier,
    )


def _each(estimate: Callable[[Array, Array], Array]) -> Callable[..., PyTree]:
    """A rule that treats every leaf alone."""
    return lambda messages, heard: jax.tree.map(
        lambda leaf: estimate(leaf, heard), messages
    )


def _ordered(messages: Array, heard: Array) -> tuple[Array, Array]:
    """Every coordinate's values in order, those that count first; and how many do."""
    ordered = jnp.sort(trees.where(heard, messages, jnp.inf), axis=0)
    return ordered, jnp.sum(heard, dtype=jnp.int32)
