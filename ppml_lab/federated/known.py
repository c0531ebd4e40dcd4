"""Checks of examples on the host before anything runs: errors in place of NaN."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ppml_lab import base, checks
from ppml_lab.data import columns, storage
from ppml_lab.dp import per_example
from ppml_lab.federated import roles


def check_clients(task: base.Task, clients: base.Clients) -> None:
    """Raises ValueError unless a task's clients can be trained on; on the host.

    Every leaf must have a row for each example that a client owns, and the task must
    take these rows: it gives one loss and one value of each metric per example, and
    `models.classification` names labels that are no classes.
    """
    if isinstance(clients.examples, storage.Generated):
        return
    rows = columns.num_examples("clients.examples", _stored(clients))
    _check_offsets(clients, rows)
    key, model = jax.random.key(0), roles.model(task)
    with _told("task.loss", "(key, params, examples)"):
        check_labels(lambda params, part: task.loss(key, params, part), model, clients)
        per_example.check_loss(task.loss, key, model, _stored(clients), 3, 2)
    with _told("task.evaluate", "(params, examples)"):
        check_metrics(task, model, _stored(clients), 3, 2)


@contextlib.contextmanager
def _told(what: str, arguments: str) -> Iterator[None]:
    """Says of which function of a task an error is that jax or Python raises in it."""
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f"{what} raised TypeError: {error}; {what} takes {arguments}, where leaves "
            "of examples [n, ...] hold all rows of a batch together, and gives one "
            "number per example"
        ) from error


def check_metrics(
    task: base.Task, params: PyTree, examples: PyTree, *counts: int
) -> None:
    """Raises ValueError unless `task.evaluate` gives a dict of one real number per
    example, for each of these `counts` of examples, as `dp.per_example.check_loss` does
    for losses.
    """
    for count in counts:
        some = per_example.resized(examples, count)
        metrics = jax.eval_shape(task.evaluate, params, some)
        if not isinstance(metrics, dict):
            raise ValueError(
                'task.evaluate must return a dict of metrics, such as {"accuracy": [n]}'
                f", got {type(metrics).__name__}"
            )
        for name, values in metrics.items():
            per_example.check_one_each(f"task.evaluate, '{name}',", values, count)
            if jnp.issubdtype(values.dtype, jnp.complexfloating):
                raise ValueError(f"task.evaluate must give real '{name}', got complex")


def check_labels(
    function: Callable[[PyTree, PyTree], Any], params: PyTree, clients: base.Clients
) -> None:
    """Calls `function(params, examples)` on shapes, except that labels whose values the
    host knows (numbers `[n]`) are given, so that `function` may raise for wrong ones.
    """
    leaves, structure = jax.tree.flatten(_stored(clients))
    labels = {place: leaf for place, leaf in enumerate(leaves) if _are_known(leaf)}
    if not labels:
        return

    def call(params: PyTree, others: list[Array]) -> Any:
        rest = iter(others)
        whole = [
            known[place] if place in known else next(rest)
            for place in range(len(leaves))
        ]
        return function(params, jax.tree.unflatten(structure, whole))

    others = [leaf for place, leaf in enumerate(leaves) if place not in labels]
    with jax.ensure_compile_time_eval():
        known = {place: jnp.asarray(leaf) for place, leaf in labels.items()}
    jax.eval_shape(call, params, others)


def _stored(clients: base.Clients) -> PyTree:
    """The rows that are stored; none for clients that are generated."""
    if isinstance(clients.examples, storage.Generated):
        return ()
    if isinstance(clients.examples, storage.ByShard):
        return clients.examples.rows
    return clients.examples


def _are_known(leaf: Any) -> bool:
    if checks.is_traced(leaf) or not hasattr(leaf, "dtype"):
        return False
    is_here = not isinstance(leaf, Array) or leaf.is_fully_addressable
    return np.ndim(leaf) == 1 and leaf.dtype.kind in "iuf" and is_here


def _check_offsets(clients: base.Clients, rows: int) -> None:
    offsets = np.asarray(clients.offsets)
    if offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ValueError(
            f"clients.offsets must rise from 0, got {offsets[:5]}...; client i owns "
            "the rows from offsets[i] to offsets[i + 1], as data.federate makes them"
        )
    if not isinstance(clients.examples, storage.ByShard) and offsets[-1] > rows:
        raise ValueError(
            f"clients.offsets give {offsets[-1]} rows to clients, but clients.examples "
            f"has {rows}; give every leaf one row per example, as data.federate does"
        )
    if clients.held_out is not None:
        held_out = np.asarray(clients.held_out)
        wrong = np.flatnonzero((held_out < 0) | (held_out > np.diff(offsets)))
        if wrong.size:
            raise ValueError(
                f"clients.held_out of client {wrong[0]} is {held_out[wrong[0]]}, which "
                f"must lie between 0 and its {np.diff(offsets)[wrong[0]]} examples"
            )
