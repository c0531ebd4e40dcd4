"""Survival analysis: the time until an event, with censored examples.

Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural
networks", PeerJ 2019; across clients Andreux, Manoel, Menuet, Saillard and Simpson,
"Federated Survival Analysis with Discrete-Time Cox Models", 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.models.tasks import supervised


class Times(NamedTuple):
    """The time each example was observed for, and whether the event ended it."""

    time: Float[Array, " n"]
    event: Integer[Array, " n"]


@arguments.checked
def survival(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n intervals"]],
    edges: Sequence[float],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    train: Callable[[PyTree, Array], tuple[Float[Array, "n intervals"], PyTree]]
    | None = None,
) -> base.Task:
    """Discrete-time survival: the hazard of an event in intervals of time
    (nnet-survival, logistic hazard).

    Examples are `{"x": [n, ...], "y": {"time": float [n], "event": int [n]}}`: event is
    1 where the event came at that time, above 0, and 0 where the example was censored
    then. The k-th output is the logit of the chance that the event comes in the k-th of
    the intervals `[0, edges[0])`, `[edges[0], edges[1])`, ..., given that it has not
    come before. The loss is the negative log-likelihood of surviving the intervals
    before the time, and of the event in the time's own interval. An example that is
    censored in the second half of an interval counts as surviving it. An event at the
    last edge or later counts as not seen.

    This is not Cox's partial likelihood, whose losses are coupled: each of its terms
    compares an example with all that are still at risk. There an example has no loss,
    and no gradient, of its own that could be clipped, and clients would need each
    other's rows. Here every example has its own loss, so that an example without an
    event, and a client without any event, train like all others: they tell for how long
    nothing came. Choose the edges by what is known in advance, such as years of
    follow-up: quantiles of the private times would reveal information about these.

    Args:
      init: Makes parameters from a key; the trainable ones are floats.
      apply: Maps parameters and inputs `[n, ...]` to logits `[n, len(edges)]`.
      edges: Ends of the intervals, above 0 and rising, in the unit of times.
      roles: See `classification`.
      train: See `classification`.

    Returns:
      A task whose only metric is `loss`, in nats; `lab.parts.Concordance` judges all
      rows together by `-mean_survival_time`, which is higher for examples with an
      earlier event. A time that is not above 0 and finite, or an event that is not 0 or
      1, has loss NaN, and is an error where the host knows it. Examples, labels, logits
      and parameters of other shapes or types are errors.

    Raises:
    ValueError: If init or apply is not a function, or edges are empty or do not rise
      from above 0.
    """
    model = supervised.Model(init, apply, roles, train)
    return supervised.task(model, _in_intervals(edges))


@arguments.checked
def flax_survival(
    module: nn.Module,
    input_shape: Sequence[int],
    edges: Sequence[float],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    training: nn.Module | None = None,
) -> base.Task:
    """A task of `survival` by a flax module with inputs `[n, *input_shape]`.

    Args:
      module: The module, called with inputs alone; `models.MLP((8, len(edges)))` has as
        many logits as there are intervals.
      input_shape: Shape of one example.
      edges: See `survival`.
      roles: See `flax_classification`.
      training: See `flax_classification`.

    Raises:
      ValueError: As `survival` does, or if input_shape has no axis or an empty axis.
    """
    example = supervised.floats(input_shape)
    model = supervised.of_flax(module, example, roles, training)
    return supervised.task(model, _in_intervals(edges))


@arguments.checked
def mean_survival_time(
    logits: Float[Array, "n intervals"], edges: Sequence[float]
) -> Float[Array, " n"]:
    """The restricted mean survival time: the expected time until the event or the last
    edge, whichever comes first, in the unit of `edges`.

    It is the area under the survival curve, which is straight within intervals.

    Args:
      logits: Logits of the hazards, as a model of `survival` gives them.
      edges: The task's edges.

    Raises:
      ValueError: For edges that `survival` refuses, or not one logit for each edge.
    """
    _check_edges(edges)
    if logits.shape[1] != len(edges):
        raise ValueError(
            f"logits must be [n, {len(edges)}], one logit for each of the edges, got "
            f"{list(logits.shape)}"
        )
    ends = jnp.exp(-jnp.cumsum(jax.nn.softplus(logits), axis=1))
    begins = jnp.concatenate([jnp.ones_like(ends[:, :1]), ends[:, :-1]], axis=1)
    lengths = jnp.asarray(np.diff(edges, prepend=0.0), ends.dtype)
    return jnp.sum(lengths * (begins + ends) / 2, axis=1)


def _in_intervals(edges: Sequence[float]) -> supervised.Labelled:
    _check_edges(edges)
    ends = np.asarray(edges, np.float32)
    begins = np.concatenate([np.zeros(1, np.float32), ends[:-1]])

    def fitted(logits: Any, times: Times) -> tuple[Array, Times]:
        _check_logits(logits, times, len(edges))
        time = jnp.asarray(times.time).astype(jnp.float32)
        event = jnp.asarray(times.event).astype(jnp.int32)
        return trees.widened(logits), Times(time, event)

    def loss(logits: Array, times: Times) -> Float[Array, " n"]:
        time, had = times.time[:, None], (times.event == 1)[:, None]
        until = jnp.where(had, ends, (begins + ends) / 2)
        survived = time >= until
        failed = had & (time >= begins) & (time < ends)
        costs = jnp.where(survived, jax.nn.softplus(logits), 0.0)
        costs += jnp.where(failed, jax.nn.softplus(-logits), 0.0)
        is_known = (times.time > 0) & jnp.isfinite(times.time)
        is_known &= (times.event == 0) | (times.event == 1)
        return jnp.where(is_known, jnp.sum(costs, axis=1), jnp.nan)

    return supervised.Labelled(_read, fitted, loss, lambda logits, times: {})


def _check_edges(edges: Sequence[float]) -> None:
    if not len(edges):
        raise ValueError("edges is empty; give the ends of intervals, such as (1.0,)")
    last = 0.0
    for place, edge in enumerate(edges):
        checks.positive(f"edges[{place}]", edge)
        if not np.float32(edge) > np.float32(last):
            raise ValueError(
                f"edges[{place}] must be above {last:g}, where the interval begins, "
                f"got {edge:g}"
            )
        last = float(edge)


def _read(examples: PyTree) -> tuple[Any, Times]:
    x, y = _inputs_and_times(examples)
    time, event = (supervised.as_array(y[name]) for name in ("time", "event"))
    if len(time.shape) != 1 or not jnp.issubdtype(time.dtype, jnp.floating):
        raise ValueError(
            f'"time" must hold one float per row, [n], got {supervised.shown(time)}; '
            "convert it with .astype('float32')"
        )
    if event.shape != time.shape or event.dtype.kind not in "iub":
        raise ValueError(
            f'"event" must hold one 0 or 1 per row, integers {list(time.shape)}, got '
            f"{supervised.shown(event)}; convert it with .astype('int32')"
        )
    if not checks.is_traced(time):
        values = np.asarray(time, np.float32)
        bad = np.flatnonzero(~((values > 0) & np.isfinite(values)))
        if bad.size:
            raise ValueError(
                f'"time" must be above 0 and finite, got {values[bad[0]]:g} in row '
                f"{bad[0]}; leave out rows that were never observed"
            )
    if not checks.is_traced(event):
        values = np.asarray(event).astype(np.int64)
        bad = np.flatnonzero((values != 0) & (values != 1))
        if bad.size:
            raise ValueError(
                f'"event" must be 1 where the event was seen and 0 where the row was '
                f"censored, got {values[bad[0]]} in row {bad[0]}"
            )
    return x, Times(time, event)


def _inputs_and_times(examples: PyTree) -> tuple[Any, Mapping[str, Any]]:
    y = examples.get("y") if isinstance(examples, Mapping) else None
    if isinstance(y, Mapping) and {"time", "event"} <= set(y) and "x" in examples:
        return supervised.as_array(examples["x"]), y
    found = type(examples if y is None else y).__name__
    if isinstance(examples, Mapping) and not isinstance(y, Mapping):
        found = f"keys {list(examples)}" if y is None else f'"y" {found}'
    elif isinstance(y, Mapping):
        found = f'keys {list(examples)}, with "y" keys {list(y)}'
    raise ValueError(
        'examples must be {"x": inputs, "y": {"time": ..., "event": ...}}, got '
        f'{found}; turn rows [n, 2] into "y" {{"time": rows[:, 0], "event": '
        'rows[:, 1].astype("int32")}'
    )


def _check_logits(logits: Any, times: Times, count: int) -> None:
    shape = tuple(logits.shape)
    if shape != (len(times.time), count):
        raise ValueError(
            f"apply must give a logit for each of {count} edges, [{len(times.time)}, "
            f"{count}], got {list(shape)}"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply must give real logits, got {logits.dtype}")
