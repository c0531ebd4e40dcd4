"""A task's metrics over a test set and over clients, as sums streamed on device."""

from __future__ import annotations

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, trees
from ppml_lab.data import storage
from ppml_lab.federated.devices import sum_over_devices

Evaluate = Callable[[PyTree, PyTree], dict[str, Float[Array, ""]]]
"""`(params, examples) -> mean metrics`."""

EvaluateClients = Callable[[PyTree, base.Clients], dict[str, Float[Array, " clients"]]]
"""`(params, clients) -> mean metrics of each client`."""


def evaluator(
    task: base.Task, batch_size: int = 250, mesh: Mesh | None = None
) -> Evaluate:
    """A function that averages `task.evaluate` over a test set of any size.

    Args:
      task: Gives per-example metrics.
      batch_size: Examples at once on a device, which bounds memory.
      mesh: Devices that share the work along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1.
    """
    of_clients = client_evaluator(task, batch_size, mesh)

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, ""]]:
        total = jax.tree.leaves(examples)[0].shape[0]
        everything = base.Clients(examples, jnp.array([0, total], jnp.int32))
        return jax.tree.map(lambda leaf: leaf[0], of_clients(params, everything))

    return evaluate


def client_evaluator(
    task: base.Task, batch_size: int = 250, mesh: Mesh | None = None
) -> EvaluateClients:
    """A function that averages `task.evaluate` over each client's examples.

    The examples are streamed through the model once, in batches that ignore where
    clients begin; memory grows by one number per client and metric.

    Args:
      task: Gives per-example metrics.
      batch_size: Examples at once on a device, which bounds memory.
      mesh: Devices that share the work along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1.
    """
    checks.at_least("batch_size", batch_size, 1)

    def evaluate(
        params: PyTree, clients: base.Clients
    ) -> dict[str, Float[Array, " clients"]]:
        sums = sum_over_devices(device_sums, mesh, params, clients)
        sizes = (clients.offsets[1:] - clients.offsets[:-1]).astype(jnp.float32)
        return jax.tree.map(lambda leaf: leaf / sizes, sums)

    def device_sums(
        device: Array, num_devices: int, params: PyTree, clients: base.Clients
    ) -> dict[str, Float[Array, " clients"]]:
        begin, end, most = storage.share_of_rows(clients, device, num_devices)
        clients = storage.owned(clients, device, num_devices)
        num_clients = clients.offsets.shape[0] - 1
        size = min(batch_size, most)

        def add(sums: dict[str, Array], batch: Array) -> tuple[dict[str, Array], None]:
            rows = begin + batch * size + jnp.arange(size)
            there = jnp.minimum(rows, end - 1)
            metrics = task.evaluate(params, trees.take(clients.examples, there))
            owners = jnp.searchsorted(clients.offsets, there, side="right") - 1
            present = trees.where(rows < end, metrics, 0.0)
            return jax.tree.map(
                lambda sofar, values: sofar.at[owners].add(values), sums, present
            ), None

        first = trees.take(clients.examples, jnp.arange(1))
        names = jax.eval_shape(task.evaluate, params, first)
        zeros = {name: jnp.zeros(num_clients, jnp.float32) for name in names}
        return jax.lax.scan(add, zeros, jnp.arange(-(-most // size)))[0]

    return evaluate


def client_spread(
    metrics: dict[str, Float[Array, " clients"]],
    clients: base.Clients,
    higher_is_better: Collection[str] = ("accuracy",),
) -> dict[str, Float[Array, ""]]:
    """What a distribution over clients is summarised by.

    Args:
      metrics: Of each client, as `client_evaluator` gives them.
      clients: Whose sizes weigh.
      higher_is_better: Metrics whose worst values are the lowest.

    Returns:
      For each metric `x`: `client_x_weighted` (mean by examples), `client_x` (every
      client counts the same), `client_x_std` (over clients) and
      `client_x_worst_decile` (mean over the worst tenth of the clients, at least one).
    """
    sizes = (clients.offsets[1:] - clients.offsets[:-1]).astype(jnp.float32)
    tenth = -(-sizes.shape[0] // 10)
    summary = {}
    for name, values in metrics.items():
        worst_first = jnp.sort(values, descending=name not in higher_is_better)
        summary |= {
            f"client_{name}_weighted": jnp.sum(values * sizes) / jnp.sum(sizes),
            f"client_{name}": jnp.mean(values),
            f"client_{name}_std": jnp.std(values),
            f"client_{name}_worst_decile": jnp.mean(worst_first[:tenth]),
        }
    return summary
