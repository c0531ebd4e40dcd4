"""Metrics over all rows of a test set, on device, as parts.

A metric is a part that is called: `(scores, labels, weights) -> scalars` by name, where
scores are what the model predicts for all rows, `[n, ...]`, labels the rows' "y" and
weights 1 for a row that counts, 0 for padding. Where anything that counts is not
finite, so is the metric: NaN.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

from ppml_lab.lab.tree.part import part


class Metric(Protocol):
    """A part that judges scores."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Scalars by name, of all rows together."""
        ...


def _weighted(values: Array, weights: Array) -> Array:
    heard = jnp.where(weights > 0, values, 0.0)
    return jnp.sum(weights * heard) / jnp.sum(weights)


def _or_nan(value: Array, judged: Array, weights: Array) -> Array:
    """The value, or NaN where a row that counts is not finite."""
    finite = jnp.isfinite(judged).reshape(len(weights), -1).all(axis=1)
    return jnp.where(jnp.all(finite | (weights == 0)), value, jnp.nan)


def _labels(name: str, labels: Any, weights: Array) -> Array:
    """`[n]`: one label per row."""
    if isinstance(labels, dict):
        raise ValueError(f'metric {name} needs labels "y", got {sorted(labels)}')
    found = jnp.asarray(labels)
    if found.shape == (*weights.shape, 1):
        return found[:, 0]
    if found.shape != weights.shape:
        raise ValueError(
            f"metric {name} needs one label per row, got labels of shape "
            f"{list(found.shape)} for {len(weights)} rows"
        )
    return found


def _one_score(name: str, scores: Array) -> Array:
    """`[n]`: a score, or of two classes' logits their difference."""
    if scores.ndim == 1:
        return scores
    if scores.ndim == 2 and scores.shape[1] == 1:
        return scores[:, 0]
    if scores.ndim == 2 and scores.shape[1] == 2:
        return scores[:, 1] - scores[:, 0]
    raise ValueError(
        f"metric {name} needs one score per row, or two classes' logits, got scores of "
        f"shape {list(scores.shape)}"
    )


@part
class Accuracy:
    """The share of rows whose largest score is their label's."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """`accuracy`."""
        labels = _labels("Accuracy", labels, weights)
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ValueError(
                "metric Accuracy needs a score for each of two or more classes, got "
                f"scores of shape {list(scores.shape)}"
            )
        right = jnp.argmax(scores, axis=-1).astype(labels.dtype) == labels
        largest = jnp.max(scores, axis=-1)  # classes masked by -inf do no harm
        value = _weighted(right.astype(jnp.float32), weights)
        return {"accuracy": _or_nan(value, largest, weights)}


@part
class Auroc:
    """The chance that a row of label 1 scores above one of label 0; ties count half."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """`auroc`."""
        score = _one_score("Auroc", scores)
        labels = _labels("Auroc", labels, weights)
        ups = jnp.where(labels == 1, weights, 0.0)
        downs = jnp.where(labels == 1, 0.0, weights)
        order = jnp.argsort(score)
        ranked = score[order]
        below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(downs[order])])
        first = below[jnp.searchsorted(ranked, score, side="left")]
        last = below[jnp.searchsorted(ranked, score, side="right")]
        pairs = jnp.sum(ups) * jnp.sum(downs)
        value = jnp.sum(ups * (first + last) / 2) / pairs
        return {"auroc": _or_nan(value, score, weights)}


@part
class F1:
    """The harmonic mean of precision and recall of label 1, whose scores are above the
    threshold.
    """

    threshold: float = 0.0
    """On one score, or on the difference of two logits."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """`f1`."""
        score = _one_score("F1", scores)
        labels = _labels("F1", labels, weights)
        said, true = score > self.threshold, labels == 1
        both = jnp.sum(jnp.where(said & true, weights, 0.0))
        either = jnp.sum(jnp.where(said, weights, 0.0) + jnp.where(true, weights, 0.0))
        return {"f1": _or_nan(2 * both / either, score, weights)}


@part
class MeanSquaredError:
    """The mean of squared differences between scores and labels."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """`mse`."""
        labels = jnp.asarray(labels)
        # Scores and labels may differ in an axis of one alone.
        shapes = [[n for n in one.shape[1:] if n != 1] for one in (scores, labels)]
        if len(scores) != len(labels) or shapes[0] != shapes[1]:
            raise ValueError(
                "metric MeanSquaredError needs scores like labels, got shapes "
                f"{list(scores.shape)} and {list(labels.shape)}"
            )
        errors = scores.reshape(labels.shape) - labels
        squares = jnp.square(errors).reshape(len(weights), -1).mean(axis=1)
        value = _weighted(squares, weights)
        return {"mse": _or_nan(value, squares, weights)}


@part
class Concordance:
    """Harrell's C: of the pairs of rows whose order is known, the share in which who
    had the event first has the higher score; ties in score count half. Of rows of one
    time who had the event comes before who was censored.

    Labels are `{"time": [n], "event": [n]}`, or `[n, 2]` of both; event is 1 where it
    was seen, 0 where the row was censored.
    """

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """`concordance`."""
        score = _one_score("Concordance", scores)
        if isinstance(labels, dict):
            time, event = labels["time"], labels["event"]
        elif jnp.shape(labels) == (len(weights), 2):
            time, event = labels[:, 0], labels[:, 1]
        else:
            raise ValueError(
                'metric Concordance needs labels {"time": [n], "event": [n]} or [n, 2]'
                f" of both, got shape {list(jnp.shape(labels))}"
            )
        time = _labels("Concordance", time, weights)
        seen = _labels("Concordance", event, weights) > 0
        # Who was censored when another had the event had it later.
        later = (time[:, None] < time) | ((time[:, None] == time) & ~seen)
        pair = jnp.where(later & seen[:, None], weights[:, None] * weights, 0.0)
        judged = jnp.stack([score, time.astype(score.dtype)], axis=1)
        score = jnp.where(weights > 0, score, 0.0)
        # Half a win where the scores are equal.
        wins = 0.5 * (1 + jnp.sign(score[:, None] - score))
        value = jnp.sum(pair * wins) / jnp.sum(pair)
        return {"concordance": _or_nan(value, judged, weights)}
