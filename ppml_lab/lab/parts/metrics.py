"""Metrics over all rows of a test set, on device, as parts.

A metric is a part that can be called: `(scores, labels, weights) -> scalars` by name.
Scores are the model's predictions for all rows, `[n, ...]`, labels are the rows' "y",
and weights are 1 for a row that counts and 0 for padding. A metric is NaN where
anything that counts is not finite.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ppml_lab.lab.tree.part import part


class Metric(Protocol):
    """A part that computes metrics from scores."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns scalars by name, computed over all rows together."""
        ...


def _weighted(values: Array, weights: Array) -> Array:
    heard = jnp.where(weights > 0, values, 0.0)
    return jnp.sum(weights * heard) / jnp.sum(weights)


def _or_nan(value: Array, judged: Array, weights: Array) -> Array:
    """Returns the value, or NaN if any row that counts is not finite."""
    finite = jnp.isfinite(judged).reshape(len(weights), -1).all(axis=1)
    return jnp.where(jnp.all(finite | (weights == 0)), value, jnp.nan)


def _labels(name: str, labels: Any, weights: Array) -> Array:
    """Returns one label per row, `[n]`."""
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
    """Returns one score per row, `[n]`; the difference of logits for two classes."""
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
    """The share of rows whose largest score is the score of their label."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns `accuracy`."""
        labels = _labels("Accuracy", labels, weights)
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ValueError(
                "metric Accuracy needs a score for each of two or more classes, got "
                f"scores of shape {list(scores.shape)}; set the setup's metrics, such "
                "as to (MeanSquaredError(),) or (Concordance(),), or to () for the "
                "task's own metrics"
            )
        right = jnp.argmax(scores, axis=-1).astype(labels.dtype) == labels
        largest = jnp.max(scores, axis=-1)  # classes masked by -inf do no harm
        value = _weighted(right.astype(jnp.float32), weights)
        return {"accuracy": _or_nan(value, largest, weights)}


@part
class Auroc:
    """The chance that a row of label 1 scores above one of label 0; ties count half."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns `auroc`."""
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
    """The harmonic mean of precision and recall of label 1, predicted for scores above
    the threshold.
    """

    threshold: float = 0.0
    """Threshold on the single score, or on the difference of two logits."""

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns `f1`."""
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
        """Returns `mse`."""
        scores, labels = _alike("MeanSquaredError", scores, labels, weights)
        squares = jnp.square(scores - labels).mean(axis=1)
        value = _weighted(squares, weights)
        return {"mse": _or_nan(value, squares, weights)}


@part
class R2:
    """The share of the labels' variance that scores explain: 1 - squared errors over
    squared distances from the labels' mean.

    It is below 0 for scores worse than this mean, and NaN for labels that are all the
    same. For several targets it is the mean over the targets.
    """

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns `r2`."""
        scores, labels = _alike("R2", scores, labels, weights)
        share = (weights / jnp.sum(weights))[:, None]
        heard = jnp.where(share > 0, labels, 0.0)
        centred = heard - jnp.sum(share * heard, axis=0)
        errors = jnp.where(share > 0, jnp.square(scores - labels), 0.0)
        spread = jnp.sum(share * jnp.square(centred), axis=0)
        # Rounding may leave labels that are all the same some spread.
        first = labels[jnp.argmax(share[:, 0] > 0)]
        differ = jnp.any((share > 0) & (labels != first), axis=0)
        left = jnp.sum(share * errors, axis=0) / jnp.where(differ, spread, jnp.nan)
        judged = jnp.concatenate([scores, labels], axis=1)
        return {"r2": _or_nan(jnp.mean(1 - left), judged, weights)}


def _alike(
    name: str, scores: Array, labels: Any, weights: Array
) -> tuple[Array, Array]:
    """Returns scores and labels as `[n, targets]`; shapes may differ in axes of length
    one only.
    """
    if isinstance(labels, dict):
        raise ValueError(f'metric {name} needs labels "y", got {sorted(labels)}')
    labels = jnp.asarray(labels)
    shapes = [[n for n in one.shape[1:] if n != 1] for one in (scores, labels)]
    if len(scores) != len(labels) or shapes[0] != shapes[1]:
        raise ValueError(
            f"metric {name} needs scores like labels, got shapes "
            f"{list(scores.shape)} and {list(labels.shape)}"
        )
    rows = len(weights)
    return scores.reshape(rows, -1), labels.reshape(rows, -1).astype(scores.dtype)


@part
class Concordance:
    """Harrell's C: among pairs of rows with a known order, the share in which the row
    that had the event first has the higher score.

    Ties in score count half. Among rows with the same time, a row that had the event
    comes before a censored one. Labels are `{"time": [n], "event": [n]}`, or `[n, 2]`
    of both; event is 1 where the event was seen, 0 where the row was censored.
    """

    def __call__(self, scores: Array, labels: Any, weights: Array) -> dict[str, Array]:
        """Returns `concordance`."""
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
        judged = jnp.stack([score, time.astype(score.dtype)], axis=1)
        score = jnp.where(weights > 0, score, 0.0)
        # A row censored at the time of another's event has its own event later.
        won, pairs = _wins(score, _dense_ranks(time, ~seen), weights)
        counted = jnp.where(seen, weights, 0.0)
        value = jnp.sum(counted * won) / jnp.sum(counted * pairs)
        return {"concordance": _or_nan(value, judged, weights)}


def _dense_ranks(first: Array, second: Array) -> Array:
    """Returns ranks `[n]` by `first`, then by `second`, from 0; equal rows share a
    rank.
    """
    order = jnp.lexsort((second, first))
    ranks = jnp.cumsum(_differs(first[order], second[order]), dtype=jnp.int32) - 1
    return jnp.zeros(len(order), jnp.int32).at[order].set(ranks)


def _differs(*columns: Array) -> Array:
    """Returns `[n]`: True for the first row and where a row differs from its
    predecessor.
    """
    new = [jnp.concatenate([jnp.ones(1, bool), c[1:] != c[:-1]]) for c in columns]
    return functools.reduce(jnp.logical_or, new)


def _wins(score: Array, rank: Array, weights: Array) -> tuple[Array, Array]:
    """Returns for each row two sums of weights: of the rows of higher rank that score
    lower (half the weight where the scores are equal), and of all rows of higher rank.

    Exact for whole weights, in O(n log^2 n) steps and O(n) memory. Two different ranks
    agree above some bit and differ in it: one pass per bit counts rows that agree above
    this bit, sorted by score.
    """
    count = len(score)
    places = jnp.arange(count, dtype=jnp.int32)
    by_score = jnp.argsort(score)

    def level(bit: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        above = rank[by_score] >> (bit + 1)
        order = by_score[jnp.argsort(above, stable=True)]
        segment, value, is_high = rank[order] >> (bit + 1), score[order], rank[order]
        is_high = (is_high >> bit) & 1 == 1
        high = jnp.cumsum(jnp.where(is_high, weights[order], 0.0))
        before = jnp.concatenate([jnp.zeros(1, high.dtype), high])

        def outside(new: Array) -> tuple[Array, Array]:
            """Returns the weight before each row's stretch of equal rows, and up to its
            end.
            """
            starts = jax.lax.cummax(jnp.where(new, places, 0))
            is_last = jnp.concatenate([new[1:], jnp.ones(1, bool)])
            ends = jnp.where(is_last, places + 1, count)
            return before[starts], before[jax.lax.cummin(ends, reverse=True)]

        begin, end = outside(_differs(segment))
        lower, equal = outside(_differs(segment, value))
        won = jnp.where(is_high, 0.0, (lower + equal) / 2 - begin)
        pairs = jnp.where(is_high, 0.0, end - begin)
        return found[0].at[order].add(won), found[1].at[order].add(pairs)

    nothing = (jnp.zeros_like(weights), jnp.zeros_like(weights))
    return jax.lax.fori_loop(0, max(1, (count - 1).bit_length()), level, nothing)
