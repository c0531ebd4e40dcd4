"""FedProx: local SGD held near the model that the server sent.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous
Networks", MLSys 2020.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.federated import minibatch, optimizers


@arguments.checked
def proximal_sgd(
    task: base.Task,
    optimizer: optimizers.Optimizer,
    batch_size: int,
    mu: Any,
    *,
    num_epochs: int | None = None,
    num_steps: int | None = None,
) -> base.ClientTrainer:
    """A trainer by local SGD on the loss plus `mu / 2` times the squared distance to
    the sent model.

    With `mu = 0` it is `local_sgd`. A client's amount of work depends on the size of
    its data; the paper's stragglers, who stop early, are clients with fewer examples
    here.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer, or a function of the round; its state starts
        afresh in every round.
      batch_size: Examples per step. A client with fewer examples uses all of them.
      mu: Weight of the proximal term, at least 0.
      num_epochs: Passes over the local data (give this or `num_steps`).
      num_steps: Steps of every client, whatever its size.

    Raises:
      ValueError: For a negative `mu`, sizes below 1, or unless exactly one length is
        given.
    """
    checks.non_negative("mu", mu)
    checks.within("mu", mu, 0, float(jnp.finfo(jnp.float32).max))
    batches = minibatch.minibatches(task, batch_size, num_epochs, num_steps)

    if not checks.is_traced(mu) and mu == 0:
        # Adding zeros may change how a program is compiled, and so a last bit.
        return minibatch.trainer(
            task, batches, optimizer, lambda grads, params, sent: grads
        )

    def pull(grads: PyTree, params: PyTree, sent: PyTree) -> PyTree:
        return jax.tree.map(
            lambda grad, here, there: (
                grad + jnp.asarray(mu, grad.dtype) * (here - there)
            ),
            grads,
            params,
            sent,
        )

    return minibatch.trainer(task, batches, optimizer, pull)
