"""Local minibatch training, which the algorithms' clients share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

from ppml_lab import base, checks, dp, random, trees
from ppml_lab.federated import sampling


class LocalState(NamedTuple):
    """A client in training.

    Attributes:
      params: Its model.
      opt_state: Its optimizer's state, fresh in every round.
      loss_sum: Sum of the mean losses of its batches, for reports.
      steps: Steps taken.
    """

    params: PyTree
    opt_state: PyTree
    loss_sum: Float[Array, ""]
    steps: Int[Array, ""]


class Minibatches(NamedTuple):
    """How a client walks through its examples.

    Attributes:
      num_steps: `size -> steps`.
      gradient: `(key, params, client, step_number) -> (mean gradient, mean loss)` of
        the step's batch.
    """

    num_steps: base.TrainerNumSteps
    gradient: Callable[..., tuple[PyTree, Float[Array, ""]]]


def minibatches(
    task: base.Task, batch_size: int, num_epochs: int | None, num_steps: int | None
) -> Minibatches:
    """Every epoch visits each example once, in a fresh random order; its last batch may
    hold fewer, and its gradient is the mean over those it holds.

    Args:
      task: What is learnt.
      batch_size: Examples per step. A client with fewer uses all it has.
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
    summed = dp.summed_gradient(task.loss)

    def batches_per_epoch(size: Int[Array, ""]) -> Int[Array, ""]:
        return (size + batch_size - 1) // batch_size

    def steps_of(size: Int[Array, ""]) -> Int[Array, ""]:
        if num_steps is not None:
            return jnp.full_like(size, num_steps)
        assert num_epochs is not None
        return num_epochs * batches_per_epoch(size)

    def gradient(
        key: base.Key,
        params: PyTree,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> tuple[PyTree, Float[Array, ""]]:
        epoch, batch = jnp.divmod(step_number, batches_per_epoch(client.size))
        place = batch * batch_size + jnp.arange(batch_size, dtype=client.size.dtype)
        weights = (place < client.size).astype(jnp.float32)
        order_key, loss_key = jax.random.split(key)
        order = random.permute(
            jax.random.fold_in(order_key, epoch), place % client.size, client.size
        )
        examples = trees.take(client.examples, client.start + order)
        grad_sum, loss_sum = summed(
            jax.random.fold_in(loss_key, step_number), params, examples, weights
        )
        present = jnp.sum(weights)
        return jax.tree.map(lambda g: g / present, grad_sum), loss_sum / present

    return Minibatches(steps_of, gradient)


def start(
    task: base.Task, optimizer: optax.GradientTransformation, params: PyTree
) -> LocalState:
    """A client that has just received `params`."""
    model = jax.eval_shape(task.init, jax.random.key(0))
    trees.check_same_shapes("the server does not send the task's model", model, params)
    return LocalState(params, optimizer.init(params), jnp.float32(0), jnp.int32(0))


def descend(
    optimizer: optax.GradientTransformation,
    state: LocalState,
    grads: PyTree,
    loss: Float[Array, ""],
) -> LocalState:
    """One step of the local optimizer."""
    changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return LocalState(
        optax.apply_updates(state.params, changes),
        opt_state,
        state.loss_sum + loss,
        state.steps + 1,
    )


def finish(sent: PyTree, state: LocalState) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """The update (local minus sent parameters), nothing kept, and the mean loss."""
    update = jax.tree.map(jnp.subtract, state.params, sent)
    info = {"train_loss": state.loss_sum / state.steps.astype(jnp.float32)}
    return update, (), info


def trainer(
    task: base.Task,
    batches: Minibatches,
    optimizer: optax.GradientTransformation,
    adjust: Callable[[PyTree, PyTree, PyTree], PyTree],
) -> base.ClientTrainer:
    """A client that keeps nothing and descends along adjusted gradients.

    Args:
      task: What is learnt.
      batches: How it walks through its examples.
      optimizer: Its state starts afresh in every round.
      adjust: `(gradient, params, sent) -> gradient`.
    """

    def step(
        key: base.Key,
        sent: PyTree,
        state: LocalState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> LocalState:
        grads, loss = batches.gradient(key, state.params, client, step_number)
        return descend(optimizer, state, adjust(grads, state.params, sent), loss)

    return base.ClientTrainer(
        num_steps=batches.num_steps,
        keep=lambda params: (),
        init=lambda key, sent, kept: start(task, optimizer, sent),
        step=step,
        finish=finish,
        event=nothing_promised,
    )


def nothing_promised() -> base.PrivacyEvent:
    """The event of a trainer without privacy."""
    nothing: Any = dp.no_privacy().event(sampling.everyone(1), 1)
    return nothing
