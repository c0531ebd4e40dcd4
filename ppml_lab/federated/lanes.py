"""Trains a cohort of clients of any sizes inside one compiled loop.

`num_lanes` clients train at once; a lane that finishes its client reports it and takes
the next from a queue, longest training first. So there is no padding to the largest
client, reports are folded and never stacked, and the program does not depend on who
takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, PyTree

from ppml_lab import base, trees


class Lane(NamedTuple):
    """One lane: which client it trains and how far that is.

    Attributes:
      client: The client in training.
      key: That client's key in this round.
      state: The trainer's.
      step_number: The next step.
      live: False once the queue is empty.
    """

    client: Int[Array, ""]
    key: base.Key
    state: PyTree
    step_number: Int[Array, ""]
    live: Bool[Array, ""]


Report = Callable[[base.Key, Array, Array, PyTree, dict[str, Array]], PyTree]
"""`(key, client, size, update, info) -> report`, what one client contributes."""

Fold = Callable[[PyTree, PyTree], PyTree]
"""`(total, reports) -> total` for reports stacked over lanes; zeros are empty."""


def default_num_lanes() -> int:
    """1 on a CPU, where one client's weights stay in cache; many on accelerators."""
    return 1 if jax.default_backend() == "cpu" else 64


def train_cohort(
    key: base.Key,
    trainer: base.ClientTrainer,
    params: PyTree,
    clients: base.Clients,
    cohort: base.Cohort,
    report: Report,
    fold: Fold,
    num_lanes: int,
) -> PyTree:
    """Trains every participant of `cohort` from `params` and folds their reports.

    A client's keys are folded from `key` and the client, so that its training and its
    message do not depend on the lane, the order or the rest of the cohort.

    Returns:
      The folded reports; zeros when nobody takes part.
    """
    train_key, report_key = jax.random.split(key)
    cohort_size = cohort.indices.shape[0]
    num_lanes = min(num_lanes, cohort_size)
    sizes = clients.offsets[1:] - clients.offsets[:-1]
    steps = jax.vmap(trainer.num_steps)(sizes[cohort.indices])
    steps = jnp.where(cohort.weights > 0, steps, 0)
    queue = cohort.indices[jnp.argsort(-steps)]
    num_participants = jnp.sum(cohort.weights > 0, dtype=jnp.int32)

    def view(client: Array) -> base.ClientView:
        return base.ClientView(clients.examples, clients.offsets[client], sizes[client])

    def start(position: Array) -> Lane:
        client = queue[jnp.minimum(position, cohort_size - 1)]
        client_key = jax.random.fold_in(train_key, client)
        return Lane(
            client,
            client_key,
            trainer.init(client_key, params),
            jnp.int32(0),
            position < num_participants,
        )

    def advance(lane: Lane) -> Lane:
        state = trainer.step(lane.key, lane.state, view(lane.client), lane.step_number)
        return lane._replace(state=state, step_number=lane.step_number + 1)

    def is_done(lane: Lane) -> Array:
        return lane.live & (lane.step_number >= trainer.num_steps(sizes[lane.client]))

    def finish(lane: Lane) -> PyTree:
        update, info = trainer.finish(lane.state, params)
        client_key = jax.random.fold_in(report_key, lane.client)
        return report(client_key, lane.client, sizes[lane.client], update, info)

    def loop(carry: tuple[Lane, Array, PyTree]) -> tuple[Lane, Array, PyTree]:
        lanes, next_position, total = carry
        lanes = jax.vmap(advance)(lanes)
        done = jax.vmap(is_done)(lanes)

        def flush(lanes: Lane, total: PyTree) -> tuple[Lane, PyTree]:
            reports = trees.where(done, jax.vmap(finish)(lanes), 0)
            positions = next_position + jnp.cumsum(done, dtype=jnp.int32) - 1
            fresh = jax.vmap(start)(positions)
            return _where_lanes(done, fresh, lanes), fold(total, reports)

        lanes, total = jax.lax.cond(
            jnp.any(done), flush, lambda *same: same, lanes, total
        )
        return lanes, next_position + jnp.sum(done, dtype=jnp.int32), total

    lanes = jax.vmap(start)(jnp.arange(num_lanes, dtype=jnp.int32))
    empty = _empty_total(finish, jax.tree.map(lambda leaf: leaf[0], lanes))
    _, _, total = jax.lax.while_loop(
        lambda carry: jnp.any(carry[0].live),
        loop,
        (lanes, jnp.int32(num_lanes), empty),
    )
    return total


def _where_lanes(mask: Array, fresh: Lane, old: Lane) -> Lane:
    def select(new: Any, current: Any) -> Any:
        shape = mask.shape + (1,) * (current.ndim - mask.ndim)
        return jnp.where(mask.reshape(shape), new, current)

    return jax.tree.map(select, fresh, old)


def _empty_total(finish: Callable[[Lane], PyTree], lane: Lane) -> PyTree:
    shapes = jax.eval_shape(finish, lane)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
