"""What a client does with the model that it receives: local SGD, private or not."""

from __future__ import annotations

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


def local_sgd(
    task: base.Task,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    *,
    num_epochs: int | None = None,
    num_steps: int | None = None,
) -> base.ClientTrainer:
    """ClientUpdate of McMahan et al., AISTATS 2017: minibatch SGD on local examples.

    Every epoch visits each example once, in a fresh random order; its last batch may
    hold fewer, and its gradient is the mean over those it holds. With `num_steps` the
    training stops after that many batches. `num_steps=1` with `batch_size` no smaller
    than the client is FedSGD's client.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer; its state starts afresh in every round.
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
    gradient = dp.summed_gradient(task.loss)

    def batches_per_epoch(size: Int[Array, ""]) -> Int[Array, ""]:
        return (size + batch_size - 1) // batch_size

    def steps_of(size: Int[Array, ""]) -> Int[Array, ""]:
        if num_steps is not None:
            return jnp.full_like(size, num_steps)
        assert num_epochs is not None
        return num_epochs * batches_per_epoch(size)

    def step(
        key: base.Key,
        state: LocalState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> LocalState:
        epoch, batch = jnp.divmod(step_number, batches_per_epoch(client.size))
        place = batch * batch_size + jnp.arange(batch_size, dtype=client.size.dtype)
        weights = (place < client.size).astype(jnp.float32)
        order_key, loss_key = jax.random.split(key)
        order = random.permute(
            jax.random.fold_in(order_key, epoch), place % client.size, client.size
        )
        examples = trees.take(client.examples, client.start + order)
        grad_sum, loss_sum = gradient(
            jax.random.fold_in(loss_key, step_number), state.params, examples, weights
        )
        present = jnp.sum(weights)
        return _descend(optimizer, state, grad_sum, loss_sum, present)

    return base.ClientTrainer(
        num_steps=steps_of,
        init=lambda key, params: _start(optimizer, params),
        step=step,
        finish=_finish,
        event=_nothing_promised,
    )


def local_dp_sgd(
    task: base.Task,
    optimizer: optax.GradientTransformation,
    mechanism: base.PrivacyMechanism,
    sampling_prob: float,
    num_steps: int,
    max_client_size: int,
) -> base.ClientTrainer:
    """DP-SGD (Abadi et al., CCS 2016) by each client on its own examples.

    Every step draws each local example with probability `sampling_prob`, clips its
    gradient, adds the mechanism's noise to the sum and divides by the expected number
    `sampling_prob * size`.

    **Guarantee:** towards the server and everybody else, a client's single examples are
    protected as `event` states: per participation `num_steps` compositions of the
    Poisson-subsampled mechanism, add-or-remove one example of that client. The number
    of examples that a client has is treated as public. Nothing is promised for whole
    clients.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer.
      mechanism: Example-level, such as `dp.gaussian(..., privacy_unit="example")`.
      sampling_prob: Chance of an example to be in a step's batch.
      num_steps: Steps of every client per round.
      max_client_size: Examples of the largest client.

    Raises:
      ValueError: For a probability outside (0, 1], sizes below 1, or a mechanism that
        protects clients.
    """
    checks.at_least("num_steps", num_steps, 1)
    checks.at_least("max_client_size", max_client_size, 1)
    sampler = sampling.poisson(max_client_size, sampling_prob)
    gradient = dp.clipped_gradient(task.loss, mechanism)

    def step(
        key: base.Key,
        state: LocalState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> LocalState:
        draw_key, grad_key, noise_key = jax.random.split(
            jax.random.fold_in(key, step_number), 3
        )
        batch = sampler.sample(draw_key)
        weights = jnp.where(batch.indices < client.size, batch.weights, 0.0)
        rows = client.start + jnp.minimum(batch.indices, client.size - 1)
        examples = trees.take(client.examples, rows)
        grad_sum, loss_sum = gradient(grad_key, state.params, examples, weights)
        nothing = mechanism.init()
        noisy, _ = mechanism.privatize(
            noise_key, nothing, grad_sum, mechanism.norm_bound(nothing)
        )
        expected = sampling_prob * client.size.astype(jnp.float32)
        return _descend(optimizer, state, noisy, loss_sum, expected)

    def event() -> base.PrivacyEvent:
        from ppml_lab.dp import events

        single = mechanism.event(sampler)
        return single._replace(event=events.compose(single.event, num_steps))

    return base.ClientTrainer(
        num_steps=lambda size: jnp.full_like(size, num_steps),
        init=lambda key, params: _start(optimizer, params),
        step=step,
        finish=_finish,
        event=event,
    )


def _start(optimizer: optax.GradientTransformation, params: PyTree) -> LocalState:
    return LocalState(params, optimizer.init(params), jnp.float32(0), jnp.int32(0))


def _descend(
    optimizer: optax.GradientTransformation,
    state: LocalState,
    grad_sum: PyTree,
    loss_sum: Float[Array, ""],
    denominator: Float[Array, ""],
) -> LocalState:
    grads = jax.tree.map(lambda g: g / denominator, grad_sum)
    changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return LocalState(
        optax.apply_updates(state.params, changes),
        opt_state,
        state.loss_sum + loss_sum / denominator,
        state.steps + 1,
    )


def _finish(state: LocalState, params: PyTree) -> tuple[PyTree, dict[str, Array]]:
    update = jax.tree.map(jnp.subtract, state.params, params)
    return update, {"train_loss": state.loss_sum / state.steps.astype(jnp.float32)}


def _nothing_promised() -> base.PrivacyEvent:
    nothing: Any = dp.no_privacy().event(sampling.everyone(1))
    return nothing
