"""Metrics of all rows of a test set together, beside means over rows.

Some metrics, such as the area under a curve, need the scores of all rows. One pass
computes the task's own metrics, whose means are reported, and the scores of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.data import columns
from ppml_lab.federated import devices
from ppml_lab.federated.evaluation import per_example, weighed

Predict = Callable[[PyTree, PyTree], Array]
"""`(params, rows) -> scores [n, ...]`."""

Metric = Callable[[Array, Any, Array], Mapping[str, Array]]
"""`(scores, labels, weights) -> scalars` of all rows. `labels` is the rows' "y", or the
rows themselves where they have no "y"; `weights` are 1 for a row that counts and 0 for
padding."""


@arguments.checked
def scorer(
    task: base.Task,
    predict: Predict,
    metrics: Sequence[Metric],
    batch_size: int = 250,
    mesh: Mesh | None = None,
) -> Callable[[PyTree, PyTree], dict[str, Float[Array, ""]]]:
    """A function `(params, rows) -> scalars` with the means of `task.evaluate`,
    weighted by `task.weigh` if it has one, and the metrics of the scores of all rows. A
    metric replaces a mean of the same name. Without metrics there are no scores.

    Args:
      task: Gives per-example metrics.
      predict: Gives scores.
      metrics: Metrics of all rows.
      batch_size: Rows at once on a device.
      mesh: Devices that share the rows along "clients"; one device if None.

    Raises:
      ValueError: If batch_size is below 1. The function raises it for rows without
        examples, metrics that are not scalars or share a name, or scores that are not
        one per row.
    """
    checks.at_least("batch_size", batch_size, 1)

    def on_device(
        device: Array, num_devices: int, params: PyTree, rows: PyTree
    ) -> PyTree:
        """Metrics, weights and scores of a device's rows, `[batches * size, ...]`."""
        count = columns.num_examples("the test set", rows)
        share = -(-count // num_devices)
        size = min(batch_size, share)

        def judged(batch: Array) -> PyTree:
            places = device * share + batch * size + jnp.arange(size)
            some = trees.take(rows, jnp.minimum(places, count - 1))
            found = weighed(per_example(task, params, some), task.weigh, some)
            if not metrics:
                return *found, None
            scores = predict(params, some)
            if scores.shape[:1] != (size,):
                raise ValueError(
                    f"predict must give one score (or row of scores) for each of {size}"
                    f" rows, got shape {list(scores.shape)}"
                )
            return *found, scores.astype(jnp.float32)

        found = jax.lax.map(judged, jnp.arange(-(-share // size)))
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:share], found
        )

    def evaluate(params: PyTree, rows: PyTree) -> dict[str, Float[Array, ""]]:
        rows = jax.tree.map(jnp.asarray, rows)
        count = columns.num_examples("the test set", rows)
        found = devices.over_devices(on_device, _joined, mesh, params, rows)
        each, counted, scores = jax.tree.map(lambda leaf: leaf[:count], found)
        total = count if counted is None else jnp.sum(counted)
        means = {name: jnp.sum(values) / total for name, values in each.items()}
        labels = rows["y"] if isinstance(rows, Mapping) and "y" in rows else rows
        weights = jnp.ones(count, jnp.float32)
        judged: dict[str, Array] = {}
        for metric in metrics:
            scalars = _scalars(metric, metric(scores, labels, weights))
            twice = sorted(scalars.keys() & judged.keys())
            if twice:
                raise ValueError(
                    f"two metrics give '{twice[0]}', so that one value would be lost; "
                    "rename one metric, or leave one out"
                )
            judged |= scalars
        return means | judged

    return evaluate


def _joined(mine: PyTree) -> PyTree:
    """All devices' rows, in order."""
    gathered = devices.gather(mine)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), gathered)


def _scalars(metric: Any, found: Any) -> dict[str, Array]:
    name = getattr(metric, "__name__", type(metric).__name__)
    if not isinstance(found, Mapping):
        found = {name.lower(): found}
    for key, value in found.items():
        if jnp.shape(value) != ():
            raise ValueError(
                f"metric {name} must give scalars by name, got '{key}' of shape "
                f"{list(jnp.shape(value))}"
            )
    return {key: jnp.asarray(value, jnp.float32) for key, value in found.items()}
