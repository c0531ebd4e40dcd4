"""Clients that lie: trainers some of whose clients send something else.

An attacker is a client of the population. It has data of its own and trains on them as
everybody does, then makes its message of its own update alone: it sees no other
client's (it is not omniscient) and agrees with nobody in a round. It lies in every
round that it takes part in, and keeps to the protocol otherwise: what bounds updates
bounds its own, as a server that sees messages could see to; under a secure sum, which
shows no message, nothing but honesty would. How many lie is said of the population; of
a cohort, chance decides.
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
    """A client in training.

    Attributes:
      own: The trainer's state.
      is_attacker: Whether it is one; known from its first step on.
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
    """A trainer some of whose clients send a lie of one's own, made of their update.

    The threat model is that of this module. What attackers keep for themselves, and
    what their training tells the researcher, is honest.

    Args:
      trainer: What clients do.
      attackers: Who lies: places among all clients (`base.ClientView.client`).
      lie: `(update) -> update`, of the same shapes, and of a trainer that sends few
        coordinates (`top_k`) with no more that are not zero.

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
        trees.check_same_shapes("the lie is not like the update", update, told)
        return trees.where(state.is_attacker, told, update), keeps, info

    return trainer._replace(init=init, step=step, finish=finish)


@arguments.checked
def sign_flipping(
    trainer: base.ClientTrainer, attackers: Sequence[int], scale: Any = 1.0
) -> base.ClientTrainer:
    """A trainer some of whose clients send `-scale` times their update.

    Of n clients who would all send the same, f attackers turn a mean around as soon as
    f (1 + scale) > n; a median bears them while f < n / 2. The threat model is that of
    this module.

    Args:
      trainer: What clients do.
      attackers: Who lies: places among all clients.
      scale: By how much, positive; 1 sends the opposite.

    Raises:
      ValueError: For places that are negative or named twice, or a scale that is not
        positive.
    """
    checks.positive("scale", scale)

    def flipped(update: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: -jnp.asarray(scale, leaf.dtype) * leaf, update)

    return lying(trainer, attackers, flipped)
