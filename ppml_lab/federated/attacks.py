"""Trainers some of whose clients lie: they send something else than their update.

An attacker is a client of the population. It trains on its own data as other clients do
and makes its message from its own update alone: it sees no other client's update (it is
not omniscient) and does not collude within a round. It lies in every round that it
takes part in, and otherwise follows the protocol: its update is bounded like any other.
A server that sees messages could enforce the bound; under a secure sum, which shows no
message, only honesty would. Attackers are chosen in the population, so their number in
a cohort is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int, PyTree

from ppml_lab import arguments, base, checks, guards, trees


class Lying(NamedTuple):
    """The state of a client in training.

    Attributes:
      own: The trainer's state.
      is_attacker: Whether the client is an attacker; known from its first step on.
    """

    own: PyTree
    is_attacker: Bool[Array, ""]


_STATE = guards.one_of(Lying, "`init` makes the first")


@arguments.checked
@guards.returned(state=_STATE)
def lying(
    trainer: base.ClientTrainer,
    attackers: Sequence[int],
    lie: Callable[[PyTree], PyTree],
) -> base.ClientTrainer:
    """A trainer some of whose clients send `lie(update)` instead of their update.

    The threat model is that of this module. What attackers keep for themselves, and the
    scalars of their training, are honest.

    Args:
      trainer: How clients train.
      attackers: The clients that lie, by index (`base.ClientView.client`).
      lie: `(update) -> update` of the same shapes; for a trainer that sends few
        coordinates (`top_k`), with no more nonzero coordinates than it sends.

    Raises:
      ValueError: For places that are negative or named twice.
    """
    for place in attackers:
        checks.within("attackers", place, 0, 2**31 - 1)
    if len({*attackers}) < len(attackers):
        raise ValueError(f"attackers names a client twice: {[*attackers]}")
    who = np.asarray([*attackers], np.int32)

    def init(
        key: base.Key, sent: PyTree, kept: PyTree, round_number: Int[Array, ""]
    ) -> Lying:
        return Lying(trainer.init(key, sent, kept, round_number), jnp.bool_(False))

    def step(
        key: base.Key,
        sent: PyTree,
        state: Lying,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> Lying:
        own = trainer.step(key, sent, state.own, client, step_number)
        return Lying(own, jnp.any(client.client == who))

    def finish(sent: PyTree, state: Lying) -> tuple[PyTree, PyTree, dict[str, Array]]:
        update, keeps, info = trainer.finish(sent, state.own)
        told = lie(update)
        trees.check_same_shapes(
            "the attacker's message must have the update's shapes", update, told
        )
        return trees.where(state.is_attacker, told, update), keeps, info

    return trainer._replace(init=init, step=step, finish=finish)


@arguments.checked
def sign_flipping(
    trainer: base.ClientTrainer, attackers: Sequence[int], scale: Any = 1.0
) -> base.ClientTrainer:
    """A trainer some of whose clients send `-scale` times their update.

    If all n clients would send the same update, f attackers reverse a mean as soon as
    f (1 + scale) > n; a median is right while f < n / 2. The threat model is that of
    this module.

    Args:
      trainer: How clients train.
      attackers: The clients that lie, by index.
      scale: Factor of the lie, positive; 1 sends the opposite update.

    Raises:
      ValueError: For places that are negative or named twice, or a scale that is not
        positive.
    """
    checks.positive("scale", scale)

    def flipped(update: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: -jnp.asarray(scale, leaf.dtype) * leaf, update)

    return lying(trainer, attackers, flipped)
