"""Stock metrics: independent values, ties, weights, and labels of other shapes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from ppml_lab.lab import parts

RNG = np.random.default_rng(0)
N = 120
LABELS = RNG.integers(0, 2, N).astype(np.int32)
WEIGHTS = RNG.integers(0, 4, N).astype(np.float32)
SCORES = np.round(RNG.normal(size=N) + LABELS, 1).astype(np.float32)
TIME = np.round(RNG.exponential(size=N), 1).astype(np.float32)
SURVIVAL = {"time": TIME, "event": LABELS}


def judged(metric: Any, scores: Any, labels: Any, weights: Any) -> Any:
    """The metric's one value, of device arrays."""
    (value,) = metric(*jax.tree.map(jnp.asarray, (scores, labels, weights))).values()
    return value


def concordance(scores: Any, time: Any, event: Any, weights: Any) -> float:
    """Harrell's C, pair by pair."""
    known, won = 0.0, 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                pair = weights[i] * weights[j]
                known += pair
                won += pair * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    return won / known


def test_metrics_are_those_of_other_code() -> None:
    given = {"sample_weight": WEIGHTS}
    for metric, other in (
        (parts.Auroc(), metrics.roc_auc_score(LABELS, SCORES, **given)),
        (parts.F1(), metrics.f1_score(LABELS, SCORES > 0, **given)),
    ):
        for labels in (LABELS, LABELS[:, None]):
            for scores in (SCORES, SCORES[:, None], np.stack([-SCORES, SCORES], 1)):
                found = judged(metric, scores, labels, WEIGHTS)
                np.testing.assert_allclose(found, other, rtol=1e-5)
    want = concordance(SCORES, TIME, LABELS, WEIGHTS)
    both = np.stack([TIME, LABELS.astype(np.float32)], 1)
    for labels in (SURVIVAL, both):
        found = judged(parts.Concordance(), SCORES, labels, WEIGHTS)
        np.testing.assert_allclose(found, want, rtol=1e-5)
    for metric, other in (
        (parts.MeanSquaredError(), metrics.mean_squared_error),
        (parts.R2(), metrics.r2_score),
    ):
        judge = jax.jit(metric.__call__)
        # Of one target, with an axis for it or without, and of two.
        for scores, targets in (
            (SCORES, TIME[:, None]),
            (SCORES.reshape(-1, 2), TIME.reshape(-1, 2)),
        ):
            weights = WEIGHTS[: len(targets)]
            (found,) = judge(scores, targets, weights).values()
            want = other(targets, scores, sample_weight=weights)
            np.testing.assert_allclose(found, want, rtol=1e-5)
    two = np.stack([-SCORES, SCORES], 1)
    right = metrics.accuracy_score(LABELS, two.argmax(1), **given)
    for labels in (LABELS, LABELS[:, None]):
        found = judged(parts.Accuracy(), two, labels, WEIGHTS)
        np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 65, 300])
def test_concordance_is_that_of_all_pairs_to_the_last_bit(count: int) -> None:
    """Times and scores that few values have, rows that are padding, rows censored."""
    rng, judge = np.random.default_rng(count), jax.jit(parts.Concordance().__call__)
    for values in (3, 1000):
        time = rng.integers(-values, values, count).astype(np.float32)
        scores = rng.integers(0, values, count).astype(np.float32) - 0.5
        event = rng.integers(0, 2, count)
        event[np.argmin(time)] = 1
        weights = (rng.random(count) < 0.8).astype(np.float32)
        weights[[np.argmin(time), np.argmax(time)]] = 1
        if time.max() == time.min():
            continue
        want = np.float32(concordance(scores, time, event, weights))
        labels = {"time": time, "event": event}
        assert judge(scores, labels, weights)["concordance"] == want


def test_concordance_of_many_rows_takes_memory_for_the_rows_alone() -> None:
    def concordance(scores: Any, time: Any) -> Any:
        labels = {"time": time, "event": jnp.ones(20_000, jnp.int32)}
        return parts.Concordance()(scores, labels, jnp.ones(20_000))["concordance"]

    rows = jnp.linspace(0, 1, 20_000)
    compiled: Any = jax.jit(concordance).lower(rows, rows).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 200 * 20_000
    assert compiled(rows, -rows) == 1
    assert compiled(rows, rows) == 0


def test_what_is_not_finite_counts_where_its_row_does() -> None:
    nan_time = {"time": np.where(np.arange(N) == 5, np.nan, TIME), "event": LABELS}
    nan_score = np.where(np.arange(N) == 5, np.nan, SCORES).astype(np.float32)
    silent = np.where(np.arange(N) == 5, 0, 1).astype(np.float32)
    judge = parts.Concordance()
    for scores, labels in ((nan_score, SURVIVAL), (SCORES, nan_time)):
        assert np.isnan(judged(judge, scores, labels, np.ones_like(silent)))
        found = judged(judge, scores, labels, silent)
        want = concordance(SCORES, TIME, LABELS, silent)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_r2_of_a_mean_is_zero_and_of_labels_that_are_alike_not_there() -> None:
    judge, ones = jax.jit(parts.R2().__call__), np.ones(N, np.float32)
    mean = np.full(N, TIME.mean(), np.float32)
    np.testing.assert_allclose(judge(mean, TIME, ones)["r2"], 0, atol=1e-6)
    assert np.isnan(judge(SCORES, ones, ones)["r2"])
    # A row that does not count does no harm.
    broken = np.where(np.arange(N) == 5, np.nan, TIME).astype(np.float32)
    assert np.isnan(judge(SCORES, broken, ones)["r2"])
    few = np.where(np.arange(N) == 5, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(judge(SCORES, broken, few)["r2"],
                                  judge(SCORES, TIME, few)["r2"])  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "scores", "labels", "message"),
    [
        (parts.Accuracy(), SCORES, LABELS, "Accuracy needs a score for each of two"),
        (parts.Accuracy(), SCORES[:, None], LABELS, "Accuracy needs a score for each"),
        (parts.Auroc(), SCORES, np.stack([LABELS] * 2, 1), "Auroc needs one label per"),
        (parts.F1(), SCORES, SURVIVAL, 'F1 needs labels "y"'),
        (parts.Concordance(), SCORES, TIME, "Concordance needs labels"),
        (parts.R2(), SCORES, np.stack([TIME] * 2, 1), "R2 needs scores like labels"),
        (parts.R2(), SCORES, SURVIVAL, r"R2 needs labels \"y\", got \['event', 'time'"),
        (
            parts.MeanSquaredError(),
            np.ones((N, 2, 3), np.float32),
            np.ones((N, 3, 2), np.float32),
            r"MeanSquaredError needs scores like labels.*2, 3\].*3, 2\]",
        ),
    ],
)
def test_scores_and_labels_that_do_not_fit(
    metric: Any, scores: Any, labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judged(metric, scores, labels, WEIGHTS)
