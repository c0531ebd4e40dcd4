"""Local training by clients: SGD, private or not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, dp, guards, trees
from ppml_lab.federated import minibatch, optimizers, roles, sampling


@arguments.checked
def local_sgd(
    task: base.Task,
    optimizer: optimizers.Optimizer,
    batch_size: int,
    *,
    num_epochs: int | None = None,
    num_steps: int | None = None,
) -> base.ClientTrainer:
    """A trainer by minibatch SGD on local examples: ClientUpdate of McMahan et al.,
    AISTATS 2017.

    Every epoch visits each example once, in a fresh random order. Its last batch may
    hold fewer examples; the gradient is the mean over those in the batch. With
    `num_steps` the training stops after that many batches. `num_steps=1` with
    `batch_size` no smaller than the client is FedSGD's client.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer, or a function of the round; its state starts
        afresh in every round.
      batch_size: Examples per step. A client with fewer examples uses all of them.
      num_epochs: Passes over the local data (give this or `num_steps`).
      num_steps: Steps of every client, whatever its size.

    Raises:
      ValueError: For sizes below 1, or unless exactly one length is given.
    """
    batches = minibatch.minibatches(task, batch_size, num_epochs, num_steps)
    return minibatch.trainer(
        task, batches, optimizer, lambda grads, params, sent: grads
    )


@arguments.checked
@guards.returned(state=minibatch.STATE)
def local_dp_sgd(
    task: base.Task,
    optimizer: optimizers.Optimizer,
    mechanism: base.PrivacyMechanism,
    sampling_prob: float,
    num_steps: int,
    max_client_size: int,
    *,
    method: str = "auto",
) -> base.ClientTrainer:
    """A trainer by DP-SGD (Abadi et al., CCS 2016) of each client on its own examples.

    Every step draws each local example with probability `sampling_prob`, clips its
    gradient, adds the mechanism's noise to the sum and divides by the expected number
    `sampling_prob * size`. A training's scalars are divided by that number, too; they
    are for the researcher and not private: the loss, `gradient_norm`, of examples
    before clipping, and `gradient_clipped_share`, of examples above the bound.

    **Guarantee:** towards the server and everybody else, a client's single examples are
    protected as `event` states: per participation `num_steps` compositions of the
    Poisson-subsampled mechanism, add-or-remove one example of that client. The number
    of examples that a client has is treated as public. Nothing is promised for whole
    clients.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer, or a function of the round.
      mechanism: An example-level mechanism, such as `dp.gaussian(...,
        privacy_unit="example")`.
      sampling_prob: Chance that an example is in a step's batch.
      num_steps: Steps of every client per round.
      max_client_size: Examples of the largest client. A larger client cannot be drawn
        from: `federated.simulate` refuses it, and in a compiled round its losses and
        its update are NaN.
      method: How examples are clipped, see `dp.clipped_gradient`.

    Raises:
      ValueError: For a probability outside (0, 1], sizes below 1, a mechanism that
        protects clients or carries state, or a task that keeps leaves.
    """
    roles.refuse_kept(
        task,
        "local_dp_sgd adds noise to all leaves that a client trains; leaves kept "
        "without noise would leak examples through the other leaves",
    )
    state = jax.eval_shape(lambda: _state(mechanism, task))
    if jax.tree.leaves(state):
        named = getattr(state, "_fields", ())
        kept = f" ({', '.join(named)})" if named else ""
        raise ValueError(
            "local_dp_sgd restarts the mechanism in every step, but this mechanism "
            f"needs a state carried from release to release{kept}; take a mechanism "
            "without state, such as dp.gaussian, or use averaging or central_sgd, "
            "which carry the state"
        )
    checks.at_least("num_steps", num_steps, 1)
    checks.at_least("max_client_size", max_client_size, 1)
    sampler = sampling.poisson(max_client_size, sampling_prob)

    def gradient_of(whole: PyTree) -> dp.ClippedTotal:
        loss = roles.loss_of_part(task, whole)
        return dp.clipped_total(loss, mechanism, method=method)

    # Each step makes its own; this call checks that the parts go together.
    gradient_of(None)

    def step(
        key: base.Key,
        sent: PyTree,
        state: minibatch.LocalState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> minibatch.LocalState:
        own = jax.random.fold_in(key, step_number)
        draw_key, grad_key, noise_key, start_key = jax.random.split(own, 4)
        batch, _ = sampler.sample(draw_key, sampler.init(start_key))
        weights = jnp.where(batch.indices < client.size, batch.weights, 0.0)
        rows = client.start + jnp.minimum(batch.indices, client.size - 1)
        examples = trees.take(client.examples, rows)
        nothing = mechanism.init(start_key, state.params)
        keys = dp.example_keys(grad_key, sampler.max_cohort)
        grad_sum, seen = gradient_of(sent)(
            keys, nothing, state.params, examples, weights
        )
        noisy, _ = mechanism.privatize(
            noise_key, nothing, grad_sum, mechanism.norm_bound(nothing)
        )
        expected = sampling_prob * client.size.astype(jnp.float32)
        expected = jnp.where(client.size > max_client_size, jnp.nan, expected)
        grads = jax.tree.map(lambda g: g / expected.astype(g.dtype), noisy)
        # Scalars too divide by the expected size: a step may draw no example at all.
        learnt = minibatch.Batch(grads, seen, expected)
        return minibatch.descend(optimizer, state, learnt)

    def event() -> base.PrivacyEvent:
        from ppml_lab.dp import events

        stated = mechanism.event(sampler, num_steps)
        learnt = roles.dimension(task)
        return stated._replace(event=events.on_coordinates(stated.event, learnt))

    return base.ClientTrainer(
        num_steps=lambda size: jnp.where(size > 0, num_steps, 0),
        keep=lambda params: (),
        init=lambda key, sent, kept, round_number: minibatch.start(
            task, optimizer, sent, kept, round_number, ("loss", "norm", "clipped")
        ),
        step=step,
        finish=lambda sent, state: minibatch.finish(task, sent, state),
        model=lambda sent, kept: sent,
        event=event,
        max_client_size=max_client_size,
        still_leaves=lambda: minibatch.still_leaves(task, optimizer),
    )


def _state(mechanism: base.PrivacyMechanism, task: base.Task) -> PyTree:
    key = jax.random.key(0)
    return mechanism.init(key, roles.trainable(task, task.init(key)))
