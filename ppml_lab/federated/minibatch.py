"""Local minibatch training, shared by the clients of all algorithms."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

from ppml_lab import base, checks, dp, guards, random, trees
from ppml_lab.federated import optimizers, roles, sampling

LOOKS = {
    "loss": "train_loss",
    "norm": "gradient_norm",
    "clipped": "gradient_clipped_share",
}
"""Names, in a training's report, of the means over the examples of its steps."""


class LocalState(NamedTuple):
    """The state of a client in training.

    Attributes:
      params: The part of the model that the client trains.
      opt_state: The client's optimizer state, fresh in every round.
      round_number: The current round.
      seen: Sums over the examples visited, for reports: their "loss" and, for private
        steps, the "norm" of their gradients and how many were "clipped".
      num_seen: Number of examples visited, with repetition.
      steps: Steps taken.
    """

    params: PyTree
    opt_state: PyTree
    round_number: Int[Array, ""]
    seen: dict[str, Float[Array, ""]]
    num_seen: Float[Array, ""]
    steps: Int[Array, ""]


STATE = guards.one_of(LocalState, "`init` makes the first")
"""The guard of a client's state in training."""


class Batch(NamedTuple):
    """The gradient and the sums of a step's batch.

    Attributes:
      grads: The mean gradient of what is trained.
      seen: Sums over the batch's examples, as in `LocalState`.
      size: Number of examples.
      observed: The leaves that the batch sets, see `base.Task.observe`; None where
        there are none.
    """

    grads: PyTree
    seen: dict[str, Float[Array, ""]]
    size: Float[Array, ""]
    observed: PyTree = None


class Minibatches(NamedTuple):
    """The batches of a client's examples.

    Attributes:
      num_steps: `(size) -> steps`.
      gradient: `(key, part, whole, client, step_number) -> Batch`: the step's batch,
        for the trained `part` of the `whole` model.
    """

    num_steps: Callable[[Int[Array, ""]], Int[Array, ""]]
    gradient: Callable[..., Batch]


def minibatches(
    task: base.Task, batch_size: int, num_epochs: int | None, num_steps: int | None
) -> Minibatches:
    """Batches by epochs: every epoch visits each example once, in a fresh random order.
    Its last batch may hold fewer examples; the gradient is the mean over those in the
    batch.

    Args:
      task: What is learnt.
      batch_size: Examples per step. A client with fewer examples uses all of them.
      num_epochs: Passes over the local data (give this or `num_steps`).
      num_steps: Steps of every client, whatever its size.

    Raises:
      ValueError: For sizes below 1, or unless exactly one length is given.
    """
    checks.at_least("batch_size", batch_size, 1)
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            f"give either num_epochs or num_steps, got num_epochs={num_epochs} and "
            f"num_steps={num_steps}"
        )
    if num_epochs is not None:
        checks.at_least("num_epochs", num_epochs, 1)
    if num_steps is not None:
        checks.at_least("num_steps", num_steps, 1)

    def batches_per_epoch(size: Int[Array, ""]) -> Int[Array, ""]:
        return (size + batch_size - 1) // batch_size

    def steps_of(size: Int[Array, ""]) -> Int[Array, ""]:
        if num_steps is not None:
            return jnp.where(size > 0, num_steps, 0)
        assert num_epochs is not None
        return num_epochs * batches_per_epoch(size)

    def gradient(
        key: base.Key,
        part: PyTree,
        whole: PyTree,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> Batch:
        epoch, batch = jnp.divmod(step_number, batches_per_epoch(client.size))
        place = batch * batch_size + jnp.arange(batch_size, dtype=client.size.dtype)
        weights = (place < client.size).astype(jnp.float32)
        order_key, loss_key = jax.random.split(key)
        order = random.permute(
            jax.random.fold_in(order_key, epoch), place % client.size, client.size
        )
        examples = trees.take(client.examples, client.start + order)
        summed = dp.summed_gradient(roles.loss_of_part(task, whole))
        grad_sum, loss_sum = summed(
            jax.random.fold_in(loss_key, step_number), part, examples, weights
        )
        present = jnp.sum(weights)
        grads, seen = divided(grad_sum, present), {"loss": loss_sum}
        if task.observe is None:
            return Batch(grads, seen, present)
        observed = task.observe(roles.merged(part, whole), examples)
        _check_observed(roles.own(task, whole), observed)
        return Batch(grads, seen, present, observed)

    return Minibatches(steps_of, gradient)


def start(
    task: base.Task,
    optimizer: optimizers.Optimizer,
    sent: PyTree,
    own: PyTree,
    round_number: Int[Array, ""],
    looks: Collection[str] = ("loss",),
) -> LocalState:
    """The state of a client that has just received `sent` and keeps its `own` leaves;
    `looks` names the sums that it collects.
    """
    model = roles.model(task)
    trees.check_same_shapes(
        "sent: the server does not send the task's model", model, sent
    )
    trees.check_same_shapes(
        "kept does not match the leaves that the task's model keeps",
        roles.own(task, model),
        own,
    )
    part = roles.trained(task, roles.of_client(sent, own))
    optimizers.check(optimizer, part)
    rule = optimizers.at_round(optimizer, round_number)
    opt_state = rule.init(trees.widened(part))
    none = jnp.float32(0)
    seen = dict.fromkeys(looks, none)
    return LocalState(part, opt_state, round_number, seen, none, jnp.int32(0))


def descend(
    optimizer: optimizers.Optimizer, state: LocalState, batch: Batch
) -> LocalState:
    """Takes one step of the local optimizer."""
    rule = optimizers.at_round(optimizer, state.round_number)
    # Models in short floats step in float32 and are rounded once.
    wide = trees.widened(state.params)
    changes, opt_state = rule.update(trees.widened(batch.grads), state.opt_state, wide)
    params = trees.cast_like(optax.apply_updates(wide, changes), state.params)
    if batch.observed is not None:
        params = roles.merged(batch.observed, params)
    return state._replace(
        params=params,
        opt_state=opt_state,
        seen={
            name: total + batch.seen[name].astype(jnp.float32)
            for name, total in state.seen.items()
        },
        num_seen=state.num_seen + batch.size,
        steps=state.steps + 1,
    )


def divided(total: PyTree, count: Float[Array, ""]) -> PyTree:
    """Divides a total by the number of its summands, in the total's own types."""
    mean = jax.tree.map(
        lambda leaf: leaf / count.astype(leaf.dtype), trees.widened(total)
    )
    return trees.cast_like(mean, total)


def finish(
    task: base.Task, sent: PyTree, state: LocalState
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """The update (local minus sent parameters) of the trainable leaves, the leaves that
    the client keeps, and means over the examples that it visited: NaN if there are
    none.
    """
    try:
        roles.like(state.params, sent)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"sent does not match the model in training: {error}"
        ) from error
    before = roles.trainable(task, sent)
    after = roles.like(before, state.params)
    own = roles.own(task, roles.merged(state.params, sent))
    means = {LOOKS[name]: total / state.num_seen for name, total in state.seen.items()}
    return jax.tree.map(jnp.subtract, after, before), own, means


def _check_observed(own: PyTree, observed: PyTree) -> None:
    """Raises ValueError unless clients keep the leaves that their batches set."""
    kept = {path for path, _ in jax.tree_util.tree_leaves_with_path(own)}
    for path, _ in jax.tree_util.tree_leaves_with_path(observed):
        if path not in kept:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{where} is observed on batches, like BatchNorm's statistics, and "
                "cannot be averaged like a weight; give this leaf the role 'kept' in "
                "the task"
            )


@guards.returned(state=STATE)
def trainer(
    task: base.Task,
    batches: Minibatches,
    optimizer: optimizers.Optimizer,
    adjust: Callable[[PyTree, PyTree, PyTree], PyTree],
) -> base.ClientTrainer:
    """A trainer that descends along adjusted gradients, and keeps what the task says.

    Args:
      task: What is learnt.
      batches: The batches of a client's examples.
      optimizer: The clients' optimizer; its state starts afresh in every round.
      adjust: `(gradient, params, sent) -> gradient`, of trainable parts.
    """

    def step(
        key: base.Key,
        sent: PyTree,
        state: LocalState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> LocalState:
        batch = batches.gradient(key, state.params, sent, client, step_number)
        shared = roles.trainable(task, sent)
        grads, params = (roles.like(shared, t) for t in (batch.grads, state.params))
        # Leaves that a client keeps are not adjusted: no shared model holds them.
        adjusted = roles.merged(adjust(grads, params, shared), batch.grads)
        return descend(optimizer, state, batch._replace(grads=adjusted))

    return base.ClientTrainer(
        num_steps=batches.num_steps,
        keep=lambda params: roles.own(task, params),
        init=lambda key, sent, kept, round_number: start(
            task, optimizer, sent, kept, round_number
        ),
        step=step,
        finish=lambda sent, state: finish(task, sent, state),
        model=lambda sent, kept: roles.of_client(sent, kept),
        event=nothing_promised,
        still_leaves=lambda: still_leaves(task, optimizer),
    )


def still_leaves(task: base.Task, optimizer: optimizers.Optimizer) -> tuple[str, ...]:
    """The trainable leaves of a task's model that a client's optimizer never moves."""
    model = roles.model(task)
    shared = jax.tree_util.tree_leaves_with_path(roles.trainable(task, model))
    names = {jax.tree_util.keystr(path) for path, _ in shared}
    still = optimizers.still_leaves(optimizer, roles.trained(task, model))
    return tuple(name for name in still if name in names)


def nothing_promised() -> base.PrivacyEvent:
    """The event of a trainer without privacy."""
    nothing: Any = dp.no_privacy().event(sampling.everyone(1), 1)
    return nothing
