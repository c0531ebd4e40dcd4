"""Means of a task's metrics over a test set and over clients, streamed on device."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, guards, trees
from ppml_lab.data import columns, storage
from ppml_lab.federated import known
from ppml_lab.federated.devices import sum_over_devices
from ppml_lab.federated.server import fedopt

Evaluate = Callable[[PyTree, PyTree], dict[str, Float[Array, ""]]]
"""`(params, examples) -> mean metrics`."""

EvaluateClients = Callable[[PyTree, base.Clients], dict[str, Float[Array, " clients"]]]
"""`(params, clients) -> mean metrics of each client`."""


@arguments.checked
def evaluator(
    task: base.Task, batch_size: int = 250, mesh: Mesh | None = None
) -> Evaluate:
    """A function that averages `task.evaluate` over a test set of any size, weighted by
    `task.weigh` where the task has it.

    The set's leaves `[n, ...]` lie on a device or on the host. The function raises
    ValueError for a set without examples or with leaves of different length, for labels
    that the host knows and the task refuses, and for metrics that are not one number
    per example.

    Args:
      task: Gives per-example metrics.
      batch_size: Examples at once on a device, which bounds memory.
      mesh: Devices that share the work along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1.
    """
    return _evaluator(task, batch_size, mesh)


@functools.lru_cache(maxsize=8)
@guards.returned()
def _evaluator(task: base.Task, batch_size: int, mesh: Mesh | None) -> Evaluate:
    """One function for the same arguments, so that programs with it compile once."""
    of_clients = client_evaluator(task, batch_size, mesh)

    def evaluate(params: PyTree, examples: PyTree) -> dict[str, Float[Array, ""]]:
        total = columns.num_examples("examples: the test set", examples)
        everything = base.Clients(examples, jnp.array([0, total], jnp.int32))
        return jax.tree.map(lambda leaf: leaf[0], of_clients(params, everything))

    return evaluate


@arguments.checked
@guards.returned()
def client_evaluator(
    task: base.Task, batch_size: int = 250, mesh: Mesh | None = None
) -> EvaluateClients:
    """A function that averages `task.evaluate` over each client's own examples: the
    held-out ones where clients hold some out, else all.

    The examples are streamed through the model once, in batches that ignore where
    clients begin; memory grows by one number per client and metric. A client without
    examples, or with none that the task's `weigh` lets count, has NaN for each metric.

    Args:
      task: Gives per-example metrics.
      batch_size: Examples at once on a device, which bounds memory.
      mesh: Devices that share the work along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1.
    """
    checks.at_least("batch_size", batch_size, 1)
    if not callable(getattr(task, "evaluate", None)):
        raise ValueError(
            f"task must have an `evaluate`, got {type(task).__name__}; "
            "models.flax_classification(module, input_shape) makes a task"
        )

    def judge(params: PyTree, examples: PyTree, owners: Array) -> dict[str, Array]:
        return per_example(task, params, examples)

    def evaluate(
        params: PyTree, clients: base.Clients
    ) -> dict[str, Float[Array, " clients"]]:
        known.check_labels(task.evaluate, params, clients)
        return _of_each(judge, task.weigh, batch_size, mesh, params, clients)

    return evaluate


@arguments.checked
@guards.returned()
def personal_evaluator(
    task: base.Task,
    trainer: base.ClientTrainer,
    server: base.Server | None = None,
    batch_size: int = 250,
    mesh: Mesh | None = None,
) -> Callable[[Any, base.Clients], dict[str, Float[Array, " clients"]]]:
    """A function that judges each client's own model on the rows that it holds out.

    It takes the state of `averaging` and the clients. A client predicts with the
    parameters that it would be sent now and those that it keeps (`trainer.model`). A
    client that has not taken part keeps its initial leaves. The results are not
    private.

    Args:
      task: Gives per-example metrics.
      trainer: How clients train.
      server: The algorithm's server, `averaging`'s default if None.
      batch_size: Examples at once on a device, each with its client's own leaves.
      mesh: Devices that share the work along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1. The function raises it for clients that hold
        nothing out.
    """
    checks.at_least("batch_size", batch_size, 1)
    server = fedopt(optax.sgd(1.0)) if server is None else server

    def judge(model: PyTree, examples: PyTree, owners: Array) -> dict[str, Array]:
        sent, kept = model

        def one(owner: Array, example: PyTree) -> dict[str, Array]:
            params = trainer.model(sent, trees.take(kept, owner))
            row = jax.tree.map(lambda leaf: leaf[None], example)
            return jax.tree.map(lambda leaf: leaf[0], per_example(task, params, row))

        return jax.vmap(one)(owners, examples)

    def evaluate(
        state: Any, clients: base.Clients
    ) -> dict[str, Float[Array, " clients"]]:
        if clients.held_out is None:
            raise ValueError(NONE_HELD_OUT)
        sent = server.send(state.params, state.memory)
        first = trainer.model(sent, trees.take(state.kept, jnp.int32(0)))
        known.check_labels(task.evaluate, first, clients)
        model = (sent, state.kept)
        return _of_each(judge, task.weigh, batch_size, mesh, model, clients)

    return evaluate


NONE_HELD_OUT = (
    "clients evaluate their own models on held-out rows, but these clients have none; "
    "give data.federate held_out=data.partition.hold_out(rng, owners, 0.2), or a setup "
    "held_out=0.2"
)


def _of_each(
    judge: Callable[[PyTree, PyTree, Array], dict[str, Array]],
    weigh: Callable[[PyTree], Array] | None,
    batch_size: int,
    mesh: Mesh | None,
    model: PyTree,
    clients: base.Clients,
) -> dict[str, Float[Array, " clients"]]:
    """Each client's mean of `judge(model, examples, owners)` over the rows that judge
    it, weighted by `weigh(examples)` where that is given.
    """
    sums, weights = _sums_of_each(judge, weigh, batch_size, mesh, model, clients)
    if weights is None:
        weights = storage.num_judged(clients).astype(jnp.float32)
    return jax.tree.map(lambda leaf: leaf / weights, sums)


def _sums_of_each(
    judge: Callable[[PyTree, PyTree, Array], dict[str, Array]],
    weigh: Callable[[PyTree], Array] | None,
    batch_size: int,
    mesh: Mesh | None,
    model: PyTree,
    clients: base.Clients,
) -> tuple[dict[str, Float[Array, " clients"]], Float[Array, " clients"] | None]:
    """Each client's sums of metrics times weights, and of weights; None without."""

    def device_sums(
        device: Array, num_devices: int, model: PyTree, clients: base.Clients
    ) -> tuple[dict[str, Float[Array, " clients"]], Float[Array, " clients"] | None]:
        """Sums of metrics, and of weights where the task has them."""
        begin, end, most = storage.share_of_rows(clients, device, num_devices)
        clients = storage.owned(clients, device, num_devices)
        columns.num_examples("clients.examples", clients.examples)
        num_clients = clients.offsets.shape[0] - 1
        size = min(batch_size, most)
        places = begin + jnp.arange(most)
        judged = (places < end) & _is_judged(clients, jnp.minimum(places, end - 1))
        # Rows that count come first; the loop visits no others.
        order = begin + jnp.argsort(~judged)
        count = jnp.sum(judged, dtype=jnp.int32)

        def add(batch: Array, so_far: PyTree) -> PyTree:
            turns = batch * size + jnp.arange(size)
            there = jnp.minimum(order[jnp.minimum(turns, most - 1)], end - 1)
            owners = _owners(clients, there)
            rows = trees.take(clients.examples, there)
            heard = weighed(judge(model, rows, owners), weigh, rows)
            present = trees.where(turns < count, heard, 0.0)
            return jax.tree.map(
                lambda sofar, values: sofar.at[owners].add(values), so_far, present
            )

        few = jnp.zeros(2, jnp.int32)
        names = jax.eval_shape(
            lambda model, examples: judge(model, trees.take(examples, few), few),
            model,
            clients.examples,
        )
        nothing = jnp.zeros(num_clients, jnp.float32)
        zeros = dict.fromkeys(names, nothing), None if weigh is None else nothing
        return jax.lax.fori_loop(0, -(-count // size), add, zeros)

    clients = jax.tree.map(_on_device, clients)
    return sum_over_devices(device_sums, mesh, model, clients)


def weighed(
    metrics: dict[str, Array],
    weigh: Callable[[PyTree], Array] | None,
    examples: PyTree,
) -> tuple[dict[str, Float[Array, " n"]], Float[Array, " n"] | None]:
    """Metrics times weights, and the weights; without `weigh` the metrics and None.

    Raises:
      ValueError: Unless there is one weight per example.
    """
    if weigh is None:
        return metrics, None
    rows = jax.tree.leaves(examples)[0].shape[0]
    weights = weigh(examples)
    if jnp.shape(weights) != (rows,):
        raise ValueError(
            f"task.weigh must give one weight for each of {rows} examples, got shape "
            f"{list(jnp.shape(weights))}"
        )
    weights = weights.astype(jnp.float32)
    # Metrics that do not count may be NaN.
    heard = trees.where(weights != 0, metrics, 0.0)
    return jax.tree.map(lambda values: values * weights, heard), weights


def _owners(clients: base.Clients, rows: Array) -> Array:
    return jnp.searchsorted(clients.offsets, rows, side="right") - 1


def _is_judged(clients: base.Clients, rows: Array) -> Array:
    """True for the rows that judge their clients."""
    if clients.held_out is None:
        return jnp.ones(rows.shape, bool)
    owners = _owners(clients, rows)
    return rows >= clients.offsets[owners + 1] - clients.held_out[owners]


@arguments.checked
def client_spread(
    metrics: dict[str, Float[Array, " clients"]],
    clients: base.Clients,
    higher_is_better: Collection[str] = (),
    lower_is_better: Collection[str] = (),
    task: base.Task | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, ""]]:
    """Summarises the distribution of metrics over clients.

    Clients that no example judges, or none that counts, are left out. NaN is the worst
    value; a mean or a decile that contains NaN is NaN.

    Args:
      metrics: Each client's metrics, as `client_evaluator` gives them.
      clients: The clients; the numbers of examples that judge them are weights.
      higher_is_better: Metrics whose worst values are the lowest.
      lower_is_better: Metrics whose worst values are the highest. Neither needs to hold
        metrics whose names tell by a word, such as "accuracy", "auc", "f1", "recall"
        and "top5", or "loss", "error", "mse" and "perplexity".
      task: Where its `weigh` weighs examples, such as by their tokens, a client's
        weight is the sum over the examples that judge it.
      mesh: Devices that share the work of `weigh` along "clients"; one if None.

    Returns:
      For each metric `x`: `client_x_weighted` (mean by weights), `client_x` (every
      client counts the same), `client_x_std` (over clients) and
      `client_x_worst_decile` (mean over the worst tenth of the clients, at least one).

    Raises:
      ValueError: For a metric whose direction is not known, or is given twice.
    """
    sizes = storage.num_judged(clients).astype(jnp.float32)
    if task is not None and task.weigh is not None:
        nothing = lambda model, rows, owners: {}  # noqa: E731
        _, weights = _sums_of_each(nothing, task.weigh, 250, mesh, (), clients)
        sizes = sizes if weights is None else weights
    there = sizes > 0
    count = jnp.sum(there)
    is_worst = jnp.arange(sizes.shape[0]) < -(-count // 10)
    summary = {}
    for name, values in metrics.items():
        higher = _is_higher_better(name, higher_is_better, lower_is_better)
        goodness = values if higher else -values
        # Sorting puts NaN behind infinity.
        goodness = jnp.where(jnp.isnan(goodness), -jnp.inf, goodness)
        worst = jnp.argsort(jnp.where(there, goodness, jnp.inf))
        summary |= {
            f"client_{name}_weighted": _mean(values, sizes),
            f"client_{name}": _mean(values, there),
            f"client_{name}_std": jnp.std(values, where=there),
            f"client_{name}_worst_decile": _mean(values[worst], is_worst),
        }
    return summary


def _mean(values: Float[Array, " n"], weights: Any) -> Float[Array, ""]:
    """The weighted mean of values with a positive weight; others may be NaN."""
    weights = weights.astype(jnp.float32)
    return jnp.sum(jnp.where(weights > 0, values * weights, 0)) / jnp.sum(weights)


_HIGHER = {"accuracy", "auc", "auroc", "auprc", "f1", "precision", "recall", "r2"}
_HIGHER |= {"sensitivity", "specificity", "dice", "iou", "bleu", "rouge", "concordance"}
_LOWER = {"loss", "error", "mse", "rmse", "mae", "squared", "perplexity", "nll"}
_LOWER |= {"entropy", "brier", "deviance"}


def says_higher_is_better(name: str) -> bool | None:
    """Returns whether a word of a metric's name says that high values are good; None if
    no word says so or the opposite, or if words contradict each other.
    """
    words = set(name.lower().replace("-", "_").split("_"))
    is_top_k = any(re.fullmatch(r"top\d+", word) for word in words)
    says_higher, says_lower = bool(words & _HIGHER) or is_top_k, bool(words & _LOWER)
    return None if says_higher == says_lower else says_higher


def _is_higher_better(
    name: str, higher: Collection[str], lower: Collection[str]
) -> bool:
    """Returns the metric's direction as the caller says, else as its name says."""
    if name in higher or name in lower:
        if name in higher and name in lower:
            raise ValueError(
                f"metric '{name}' is in both higher_is_better and lower_is_better; "
                "name the metric in one of them"
            )
        return name in higher
    said = says_higher_is_better(name)
    if said is None:
        raise ValueError(
            f"metric '{name}' has no known direction; name the metric in "
            "higher_is_better or in lower_is_better"
        )
    return said


def per_example(task: base.Task, params: PyTree, examples: PyTree) -> dict[str, Array]:
    """Calls `task.evaluate` and returns its metrics as float32.

    Raises:
      ValueError: Unless it returns a dict of one number per example.
    """
    rows = jax.tree.leaves(examples)[0].shape[0]
    # A second size too, so that a shape that is right only by chance is found.
    known.check_metrics(task, params, examples, rows, rows + 1)
    metrics = task.evaluate(params, examples)
    return {name: values.astype(jnp.float32) for name, values in metrics.items()}


def _on_device(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
