"""Trains a cohort of clients of any sizes inside one compiled loop.

`num_lanes` clients train at once. A lane that finishes its client reports it and takes
the next from a queue, longest training first. So there is no padding to the largest
client, reports are folded and never stacked, and the program does not depend on the
participants. Each device has its own queue and its own lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Int, PyTree

from ppml_lab import base, pairs, target, trees
from ppml_lab.data import storage
from ppml_lab.federated.devices import add_up, gather, over_devices


class Lane(NamedTuple):
    """One lane: the client that it trains, and the progress of the training.

    Attributes:
      place: The client's place in the cohort.
      state: The trainer's state.
      step_number: The next step.
      live: False once the queue is empty.
      examples: The client's examples, if they are generated; see `data.generated`.
    """

    place: Int[Array, ""]
    state: PyTree
    step_number: Int[Array, ""]
    live: Bool[Array, ""]
    examples: PyTree


class Queue(NamedTuple):
    """The clients of one device, longest training first.

    Attributes:
      places: The clients' places in the cohort; arbitrary beyond `length`.
      length: Number of clients.
    """

    places: Int[Array, " cohort"]
    length: Int[Array, ""]


Report = Callable[[base.Key, Array, Array, PyTree, dict[str, Array]], PyTree]
"""`(key, place in the cohort, size, update, info)`: one client's contribution."""


class Fold(NamedTuple):
    """Functions that fold reports to a total, like a `base.SecureAggregator`'s
    messages.

    Attributes:
      empty: `(like_report) -> total`, the total of no reports.
      absorb: `(total, reports, places, present) -> total`, for stacked reports; only
        those `present` count.
      merge: `(totals) -> total`, for stacked totals.
    """

    empty: Callable[[PyTree], PyTree]
    absorb: Callable[[PyTree, PyTree, Array, Array], PyTree]
    merge: Callable[[PyTree], PyTree]


_SMALL_MODEL = 16_384
ON_ACCELERATORS = 64
"""Number of lanes on an accelerator, for any model."""


def default_num_lanes(dimension: int) -> int:
    """The default number of lanes for a model of `dimension` parameters.

    On a CPU it is 1, so that one client's weights stay in cache, or 2 where the model
    is so small that the cost of starting operations counts for more; on accelerators it
    is 64.
    """
    if target.platform() != "cpu":
        return ON_ACCELERATORS
    return 2 if dimension <= _SMALL_MODEL else 1


def train_cohort(
    key: base.Key,
    trainer: base.ClientTrainer,
    sent: PyTree,
    kept: PyTree,
    clients: base.Clients,
    cohort: base.Cohort,
    round_number: Int[Array, ""],
    report: Report,
    fold: Fold,
    num_lanes: int,
    mesh: Mesh | None = None,
) -> tuple[PyTree, PyTree]:
    """Trains every participant of `cohort` and folds their reports.

    A client's keys are folded from `key` and the client, so that its training and its
    message do not depend on the lane, the device, the order or the rest of the cohort.

    Args:
      key: The round's key.
      trainer: How clients train.
      sent: What clients receive.
      kept: What all clients keep, leaves `[clients, ...]`.
      clients: The clients' data.
      cohort: The participants.
      round_number: Rounds done before this one.
      report: Gives a trained client's contribution; a pytree of the arrays that it
        uses, such as `jax.tree_util.Partial`.
      fold: Folds reports to a total.
      num_lanes: Clients trained at once on a device.
      mesh: If given, the devices along its axis "clients" share the cohort, and their
        totals are merged; sums of integers are the same to the bit. A client whose
        examples lie on one device trains there.

    Returns:
      The folded reports, or the empty total without participants; and `kept` with what
      the participants keep now.
    """

    def train(
        device: Array,
        num_devices: int,
        key: base.Key,
        sent: PyTree,
        kept: PyTree,
        clients: base.Clients,
        cohort: base.Cohort,
        round_number: Array,
        report: Report,
    ) -> tuple[PyTree, PyTree]:
        steps = _num_steps(trainer, clients, cohort)
        queue = _queue(clients, cohort, steps, device, num_devices)
        mine = storage.owned(clients, device, num_devices)
        lanes = min(num_lanes, cohort.indices.shape[0])
        return _run_queue(
            key,
            trainer,
            round_number,
            sent,
            kept,
            mine,
            cohort,
            queue,
            report,
            fold,
            lanes,
        )

    def join(mine: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        total, fresh = mine
        return fold.merge(gather(total)), add_up(fresh)

    total, fresh = over_devices(
        train, join, mesh, key, sent, kept, clients, cohort, round_number, report
    )
    # Padding gets an index out of range, and is dropped.
    population = clients.offsets.shape[0] - 1
    rows = jnp.where(cohort.weights > 0, cohort.indices, population)
    scattered = jax.tree.map(
        lambda old, new: old.at[rows].set(new, mode="drop"), kept, fresh
    )
    return total, scattered


def _num_steps(
    trainer: base.ClientTrainer, clients: base.Clients, cohort: base.Cohort
) -> Int[Array, " cohort"]:
    """Steps of each participant, 0 for padding. A participant without steps counts one,
    since a secure sum counts on its report.
    """
    steps = jax.vmap(trainer.num_steps)(storage.sizes(clients, cohort.indices))
    return jnp.where(cohort.weights > 0, jnp.maximum(steps, 1), 0)


def _queue(
    clients: base.Clients,
    cohort: base.Cohort,
    steps: Int[Array, " cohort"],
    device: Array,
    num_devices: int,
) -> Queue:
    """The queue of `device`: the clients whose examples it holds or, where every device
    holds all examples, its share of the work.
    """
    order = jnp.argsort(-steps)
    if num_devices == 1:
        return Queue(order, jnp.sum(steps > 0, dtype=jnp.int32))
    if isinstance(clients.examples, storage.ByShard):
        population = clients.offsets.shape[0] - 1
        first, end = storage.owned_range(device, num_devices, population)
        owned = (first <= cohort.indices[order]) & (cohort.indices[order] < end)
    else:
        owned = _deal(steps[order], num_devices) == device
    mine = owned & (steps[order] > 0)
    return Queue(order[jnp.argsort(~mine)], jnp.sum(mine, dtype=jnp.int32))


def _deal(steps: Int[Array, " cohort"], num_devices: int) -> Int[Array, " cohort"]:
    """The device of each client when clients go in turn to the least loaded device."""

    def give(loads: Array, more: Array) -> tuple[Array, Array]:
        owner = jnp.argmin(loads)
        return loads.at[owner].add(more), owner

    _, owners = jax.lax.scan(give, jnp.zeros(num_devices, steps.dtype), steps)
    return owners


def _run_queue(
    key: base.Key,
    trainer: base.ClientTrainer,
    round_number: Int[Array, ""],
    sent: PyTree,
    kept: PyTree,
    clients: base.Clients,
    cohort: base.Cohort,
    queue: Queue,
    report: Report,
    fold: Fold,
    num_lanes: int,
) -> tuple[PyTree, PyTree]:
    """The folded reports of a queue, and what its clients keep, `[cohort, ...]`."""
    cohort_size = cohort.indices.shape[0]
    # A single lane has no axis of its own: batches of one compute slower.
    alone = num_lanes == 1
    each = (lambda function: function) if alone else jax.vmap

    def view(lane: Lane) -> base.ClientView:
        return storage.client_view(clients, cohort.indices[lane.place], lane.examples)

    # Keys are folded where they are used: carried through the loop they would look
    # reused to jax's key checker.
    def training_key(client: Array) -> base.Key:
        return jax.random.fold_in(jax.random.fold_in(key, client), 0)

    def report_key(client: Array) -> base.Key:
        return jax.random.fold_in(jax.random.fold_in(key, client), 1)

    def start(position: Array) -> Lane:
        place = queue.places[jnp.minimum(position, cohort_size - 1)]
        client = cohort.indices[place]
        state = trainer.init(
            training_key(client), sent, trees.take(kept, client), round_number
        )
        live = position < queue.length
        return Lane(place, state, jnp.int32(0), live, storage.made(clients, client))

    def advance(lane: Lane) -> Lane:
        client = cohort.indices[lane.place]
        state = trainer.step(
            training_key(client), sent, lane.state, view(lane), lane.step_number
        )
        trees.check_same_shapes(
            "the trainer's step changes its state", lane.state, state
        )
        return lane._replace(state=state, step_number=lane.step_number + 1)

    def is_done(lane: Lane) -> Array:
        return lane.live & (lane.step_number >= trainer.num_steps(view(lane).size))

    def finish(lane: Lane) -> tuple[PyTree, PyTree]:
        client = cohort.indices[lane.place]
        update, keeps, info = trainer.finish(sent, lane.state)
        size = view(lane).size
        return report(report_key(client), lane.place, size, update, info), keeps

    def loop(carry: tuple[Lane, Array, PyTree, PyTree]) -> tuple[Any, ...]:
        lanes, next_position, total, fresh = carry
        # A vmapped loop also steps for runs that have ended.
        lanes = jax.lax.while_loop(
            lambda lanes: jnp.any(lanes.live) & ~jnp.any(each(is_done)(lanes)),
            each(advance),
            lanes,
        )
        done = each(is_done)(lanes)
        reports, keeps = each(finish)(lanes)
        places = jnp.where(done, lanes.place, cohort_size)
        fresh = jax.tree.map(
            lambda old, new: old.at[places].set(new, mode="drop"), fresh, keeps
        )
        if alone:  # and therefore done
            following = start(next_position)
            reports = jax.tree.map(lambda leaf: leaf[None], reports)
        else:
            turns = jnp.cumsum(done, dtype=jnp.int32) - 1
            started = each(start)(next_position + turns)
            following = trees.where(done, started, lanes)
        next_position += jnp.sum(done, dtype=jnp.int32)
        present = jnp.atleast_1d(done)
        where = jnp.atleast_1d(lanes.place)
        total = fold.absorb(total, reports, where, present)
        return following, next_position, total, fresh

    first = start(jnp.int32(0))
    lanes = first if alone else each(start)(jnp.arange(num_lanes, dtype=jnp.int32))
    shapes, kept_shapes = jax.eval_shape(finish, first)
    empty = fold.empty(shapes)
    fresh = jax.tree.map(
        lambda leaf: jnp.zeros((cohort_size, *leaf.shape), leaf.dtype), kept_shapes
    )
    _, _, total, fresh = pairs.while_loop(
        lambda carry: jnp.any(carry[0].live),
        loop,
        (lanes, jnp.int32(num_lanes), empty, fresh),
    )
    return total, fresh
