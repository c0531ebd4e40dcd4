"""Means over seeds, and which rows are told apart by more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ppml_lab import tables


def test_a_mean_s_interval_is_student_s() -> None:
    values = np.random.default_rng(0).normal(size=7)
    found = tables.mean(values)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (found.mean, found.std) == pytest.approx(
        (values.mean(), values.std(ddof=1)), rel=1e-12
    )
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert found.count == 7
    assert tables.mean([3]) == tables.Mean(3.0, None, None, None, 1)
    assert tables.mean([2.0, 2.0]) == tables.Mean(2.0, 0.0, 2.0, 2.0, 2)
    for wrong in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="values must hold one or more finite"):
            tables.mean(wrong)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    drawn = np.random.default_rng(1).normal(3.0, 2.0, size=(4000, 3))
    found = [tables.mean(row) for row in drawn]
    covered = sum((one.low or 0) <= 3 <= (one.high or 0) for one in found)
    assert stats.binomtest(covered, 4000, 0.95).pvalue > 1e-4
    # A normal quantile in place of Student's would cover four fifths.
    assert stats.binomtest(covered, 4000, 0.81).pvalue < 1e-9


def row(**cells: Any) -> dict[str, Any]:
    return {"method": "a", "seed": 0, "dataset": "x", "accuracy": 0.5} | cells


def test_rows_that_differ_in_the_seed_alone_are_one_configuration() -> None:
    rows = [row(seed=s, method=m, accuracy=s) for m in "ab" for s in range(3)]
    found = tables.over_seeds(rows)
    assert [[one["seed"] for one in its] for its in found] == [[0, 1, 2]] * 2
    # What says which data these are counts right of the seed too; results do not.
    assert tables.labels(rows) == ["method", "dataset"]
    parted = tables.over_seeds([row(seed=0), row(seed=1, dataset="y")])
    assert [len(its) for its in parted] == [1, 1]
    parted = tables.over_seeds([row(seed=0), row(seed=1, accuracy=1)], ["accuracy"])
    assert [len(its) for its in parted] == [1, 1]
    # Without a seed every row is by itself.
    alone = [{"method": "a", "loss": loss} for loss in (1, 2)]
    assert [len(its) for its in tables.over_seeds(alone)] == [1, 1]


def test_one_seed_twice_is_refused_with_what_differs() -> None:
    rows = [row(seed=1), row(seed=1, accuracy=0.7)]
    with pytest.raises(ValueError, match=r"seed 1 .* method, dataset: .* accuracy"):
        tables.over_seeds(rows)
    with pytest.raises(ValueError, match="they are equal"):
        tables.over_seeds([row(), row()])


def test_numbers_and_what_is_none() -> None:
    assert [tables.is_number(c) for c in (1, 1.5, math.nan, True, None, "1")] == [
        *(True, True, True, False, False, False),
    ]
    assert [tables.is_finite(c) for c in (0, -1.5, math.nan, math.inf, "nan")] == [
        *(True, True, False, False, False),
    ]
