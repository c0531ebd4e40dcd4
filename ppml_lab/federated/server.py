"""Servers: steps along the mean of the clients' updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ppml_lab import arguments, base, guards, trees


@arguments.checked
@guards.returned()
def fedopt(optimizer: optax.GradientTransformation) -> base.Server:
    """A server that takes the mean update for a descent direction of any optax
    optimizer.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021. `optax.sgd(1.0)` is
    FedAvg, with momentum FedAvgM; `optax.adam`, `yogi` and `adagrad` are FedAdam,
    FedYogi and FedAdagrad. The server remembers the optimizer's state.
    """

    def step(
        params: PyTree, memory: PyTree, mean: PyTree, share: Any
    ) -> tuple[PyTree, PyTree]:
        del share
        trees.check_same_shapes(
            "mean: the mean update does not match the model's params", params, mean
        )
        fresh = jax.eval_shape(optimizer.init, params)
        if jax.tree.structure(memory) != jax.tree.structure(fresh):
            raise ValueError(
                "memory must be the optimizer's state, as made by `init` or `step`, "
                f"got {jax.tree.structure(memory)}"
            )
        direction = jax.tree.map(jnp.negative, mean)
        changes, opt_state = optimizer.update(direction, memory, params)
        return optax.apply_updates(params, changes), opt_state

    return base.Server(
        init=optimizer.init,
        send=lambda params, memory: params,
        step=step,
        weighting=None,
    )
