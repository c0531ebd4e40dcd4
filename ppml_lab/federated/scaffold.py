"""SCAFFOLD: control variates against the drift of clients with different data.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: Stochastic Controlled
Averaging for Federated Learning", ICML 2020.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, guards, trees
from ppml_lab.federated import minibatch, optimizers, roles, server


class Model(NamedTuple):
    """A model with its control variate, as sent to clients; updates are changes of
    both.

    Attributes:
      params: The model.
      control: The server's control variate: the mean of all clients' controls.
    """

    params: PyTree
    control: PyTree


class ScaffoldState(NamedTuple):
    """The state of a client in training.

    Attributes:
      local: The state as in plain SGD.
      control: The control that the client kept from its last round.
      grad_sum: Sum of the client's uncorrected gradients, of the trainable leaves.
    """

    local: minibatch.LocalState
    control: PyTree
    grad_sum: PyTree


_STATE = guards.one_of(ScaffoldState, "`init` makes the first")


def _sent(name: str, value: Any) -> None:
    _check_partner(name, "server", value)


def _mean(name: str, value: Any) -> None:
    _check_partner(name, "trainer", value)


def _check_partner(name: str, which: str, sent: Any) -> None:
    """Raises ValueError unless SCAFFOLD's other half sent this value."""
    if not isinstance(sent, Model):
        raise ValueError(
            f"{name}: this {which} is not SCAFFOLD's, as it sends no model with a "
            "control; take both trainer and server from one scaffold(...)"
        )


def _memory(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(
            f"{name} must be the optimizer's state and the control, got {value!r}; "
            "`init` makes the first"
        )


@arguments.checked
@guards.returned(
    sent=_sent, mean=_mean, memory=_memory, state=_STATE, share=guards.no_negative
)
def scaffold(
    task: base.Task,
    optimizer: optimizers.Optimizer,
    batch_size: int,
    *,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
) -> tuple[base.ClientTrainer, base.Server]:
    """The trainer and the server of SCAFFOLD, for `averaging`.

    A client corrects each gradient by the server's control minus its own, and keeps for
    its next round the mean of its uncorrected gradients. For plain SGD that mean is the
    paper's option II, `c_i - c + (x - y_i) / (K lr)`; unlike option II it is right for
    any local optimizer. All controls start at zero, so that a first round is FedAvg. A
    client that drops out before its upload keeps its old control. Leaves that the task
    keeps have no control: nobody averages them, and a client trains them without
    correction.

    The update is twice as large as the model: the change of the parameters and of the
    control. A mechanism clips both together, and the secure sum adds both. With noise,
    clipping or rounding, the server's control is only approximately the mean of the
    clients' controls.

    Args:
      task: What is learnt.
      optimizer: The clients' optimizer; its state starts afresh in every round.
      batch_size: Examples per step. A client with fewer examples uses all of them.
      num_epochs: Passes over the local data (give this or `num_steps`).
      num_steps: Steps of every client, whatever its size.
      server_optimizer: `optax.sgd(1.0)` by default, the paper's global step size 1.

    Raises:
      ValueError: For sizes below 1, or unless exactly one length is given.
    """
    batches = minibatch.minibatches(task, batch_size, num_epochs, num_steps)
    model_server = server.fedopt(server_optimizer or optax.sgd(1.0))

    def keep(params: PyTree) -> PyTree:
        """A control of zero, joined with the leaves that the task keeps."""
        zeros = jax.tree.map(jnp.zeros_like, roles.trainable(task, params))
        return roles.of_client(zeros, roles.own(task, params))

    def own_of(params: PyTree, kept: PyTree) -> PyTree:
        return roles.own(task, roles.merged(kept, params))

    def init(
        key: base.Key, sent: Any, kept: PyTree, round_number: Int[Array, ""]
    ) -> ScaffoldState:
        trained = roles.trained(task, sent.params)
        trees.check_same_shapes("kept does not match the model", trained, kept)
        own = own_of(sent.params, kept)
        local = minibatch.start(task, optimizer, sent.params, own, round_number)
        control = roles.like(roles.trainable(task, sent.params), kept)
        zeros = jax.tree.map(jnp.zeros_like, control)
        return ScaffoldState(local, control, zeros)

    def step(
        key: base.Key,
        sent: Model,
        state: ScaffoldState,
        client: base.ClientView,
        step_number: Int[Array, ""],
    ) -> ScaffoldState:
        local = state.local
        batch = batches.gradient(key, local.params, sent.params, client, step_number)
        grads = roles.like(state.control, batch.grads)
        corrected = jax.tree.map(
            lambda grad, everyones, own: grad + everyones.astype(own.dtype) - own,
            grads, sent.control, state.control,
        )  # fmt: skip
        # Leaves that a client keeps cannot drift from others', and have no control.
        whole = roles.merged(corrected, batch.grads)
        return ScaffoldState(
            minibatch.descend(optimizer, local, batch._replace(grads=whole)),
            state.control,
            jax.tree.map(jnp.add, state.grad_sum, grads),
        )

    def finish(
        sent: Model, state: ScaffoldState
    ) -> tuple[Model, PyTree, dict[str, Array]]:
        update, own, info = minibatch.finish(task, sent.params, state.local)
        steps = jnp.maximum(state.local.steps, 1).astype(jnp.float32)
        control = minibatch.divided(state.grad_sum, steps)
        change = jax.tree.map(jnp.subtract, control, state.control)
        return Model(update, change), roles.of_client(control, own), info

    def server_init(params: PyTree) -> tuple[PyTree, PyTree]:
        return model_server.init(params), jax.tree.map(jnp.zeros_like, params)

    def server_step(
        params: PyTree, memory: tuple[PyTree, PyTree], mean: Any, share: Any
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        opt_state, control = memory
        params, opt_state = model_server.step(params, opt_state, mean.params, share)
        control = jax.tree.map(lambda c, d: c + share * d, control, mean.control)
        return params, (opt_state, control)

    trainer = base.ClientTrainer(
        num_steps=batches.num_steps,
        keep=keep,
        init=init,
        step=step,
        finish=finish,
        model=lambda sent, kept: roles.of_client(
            sent.params, own_of(sent.params, kept)
        ),
        event=minibatch.nothing_promised,
        still_leaves=lambda: minibatch.still_leaves(task, optimizer),
    )
    # With weights by examples the control would not be the mean of the clients'
    # controls.
    return trainer, base.Server(
        init=server_init,
        send=lambda params, memory: Model(params, memory[1]),
        step=server_step,
        weighting="uniform",
    )
