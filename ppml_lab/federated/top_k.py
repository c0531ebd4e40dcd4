"""Top-k compression with error feedback: clients send their largest coordinates.

Seide, Fu, Droppo, Li and Yu, "1-Bit Stochastic Gradient Descent and its Application to
Data-Parallel Distributed Training of Speech DNNs", Interspeech 2014, for the memory;
Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, for the largest
coordinates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, guards, trees
from ppml_lab.federated import compatible, sparse
from ppml_lab.federated.server import fedopt


class Kept(NamedTuple):
    """A client's memory between rounds, and its state within a round.

    Attributes:
      own: What the wrapped trainer keeps; within a round, that trainer's state.
      unsent: The part of the client's updates that it has not sent yet.
    """

    own: PyTree
    unsent: PyTree


_KEPT = guards.one_of(Kept, "`keep` and `init` make the first")


@arguments.checked
@guards.returned(state=_KEPT, kept=_KEPT)
def top_k(
    task: base.Task,
    trainer: base.ClientTrainer,
    *,
    num_sent: int | None = None,
    share: float | None = None,
    server: base.Server | None = None,
    error_feedback: bool = True,
) -> base.ClientTrainer:
    """A trainer whose clients send the `num_sent` largest coordinates of their update
    plus what earlier rounds left unsent.

    If e is what a client has not sent yet, it sends C(e + update) in a round and keeps
    e + update - C(e + update). C keeps the coordinates of the largest magnitude in all
    leaves together, among equal ones the first. A client that drops out before its
    upload, or does not take part, keeps its e. A message is the values and their
    coordinates (`sparse`); the bytes that `averaging` states are those of
    `sparse.to_bytes`.

    **Guarantee:** none of its own, and a mechanism's guarantee stands as it is.
    `averaging` clips, and therefore bounds, the round's message, whatever of earlier
    rounds is in it; what a client keeps leaves it only in messages. The part of a
    message that clipping takes is lost, not kept. The coordinates that a client sends
    tell of its data: this trainer goes with sums that show each message, and with noise
    that is added to the sum.

    Args:
      task: What is learnt.
      trainer: How clients train; it may keep something itself.
      num_sent: Number of coordinates that are sent (give this or `share`).
      share: The part of an update's coordinates that is sent, rounded to the nearest
        number of coordinates, but at least 1.
      server: The trainer's partner; the default of `averaging` if None.
      error_feedback: Whether what is not sent is kept for later rounds. Without it, C
        is biased in every round, and training may stall away from any optimum.

    Raises:
      ValueError: For fewer than 1 coordinate or more than an update has, or unless
        exactly one of `num_sent` and `share` is given.
    """
    server = fedopt(optax.sgd(1.0)) if server is None else server
    like = compatible.update_shapes(task, trainer, server)
    dimension = sum(leaf.size for leaf in jax.tree.leaves(like))
    count = _count(num_sent, share, dimension)

    def keep(params: PyTree) -> Kept:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        return Kept(trainer.keep(params), zeros if error_feedback else ())

    def init(
        key: base.Key, sent: PyTree, kept: Kept, round_number: Int[Array, ""]
    ) -> Kept:
        return Kept(trainer.init(key, sent, kept.own, round_number), kept.unsent)

    def step(
        key: base.Key,
        sent: PyTree,
        state: Kept,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> Kept:
        own = trainer.step(key, sent, state.own, client, step_number)
        return state._replace(own=own)

    def finish(sent: PyTree, state: Kept) -> tuple[PyTree, Kept, dict[str, Array]]:
        update, own, info = trainer.finish(sent, state.own)
        wanted = trees.widened(update)
        if error_feedback:
            wanted = jax.tree.map(jnp.add, wanted, state.unsent)
        chosen = _largest(wanted, count)
        message = jax.tree.map(lambda leaf, c: jnp.where(c, leaf, 0), wanted, chosen)
        unsent = ()
        if error_feedback:
            # Values that diverged are not kept: they would never be finite again.
            unsent = jax.tree.map(
                lambda leaf, c: jnp.where(c | ~jnp.isfinite(leaf), 0, leaf),
                wanted,
                chosen,
            )
        return message, Kept(own, unsent), info

    return trainer._replace(
        keep=keep,
        init=init,
        step=step,
        finish=finish,
        model=lambda sent, kept: trainer.model(sent, kept.own),
        num_sent=count,
    )


def _count(num_sent: int | None, share: float | None, dimension: int) -> int:
    if (num_sent is None) == (share is None):
        raise ValueError(
            f"give exactly one of num_sent and share, got num_sent={num_sent} and "
            f"share={share}"
        )
    if num_sent is None:
        checks.probability("share", share, allow_one=True)
        assert share is not None
        return max(1, round(share * dimension))
    checks.at_least("num_sent", num_sent, 1)
    if num_sent > dimension:
        raise ValueError(
            f"num_sent is {num_sent}, but an update has {dimension} coordinates; set "
            f"num_sent to {dimension} or less"
        )
    return num_sent


def _largest(tree: PyTree, count: int) -> PyTree:
    """True for the coordinates of the largest magnitudes, in the shape of the tree."""
    sizes: Any = jax.tree.map(lambda leaf: jnp.abs(leaf).astype(jnp.float32), tree)
    vector, cut = trees.as_vector(sizes)
    chosen = jnp.zeros(vector.shape, bool).at[sparse.largest(vector, count)].set(True)
    return cut(chosen)
