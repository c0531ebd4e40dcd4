"""AUC against scikit-learn, its interval's coverage, and true positives by hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from ppml_lab.audit import roc


@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_auc_equals_sklearn(levels):
    rng = np.random.default_rng(0)
    members = np.floor(levels * rng.beta(3, 2, size=150))
    others = np.floor(levels * rng.beta(2, 2, size=150))
    labels = np.repeat([1, 0], 150)
    expected = metrics.roc_auc_score(labels, np.concatenate([members, others]))
    found = roc.auc(members, others)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.low < found.value < found.high
    # As the area under the curve, whose corners are tied scores.
    fpr, tpr = roc.curve(members, others)
    assert np.trapezoid(tpr, fpr) == pytest.approx(expected, rel=1e-12)
    turned = roc.auc(others, members)
    assert turned == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))


def test_numbers_of_members_and_others_need_not_be_equal():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, size=40), rng.normal(size=90)
    labels = np.repeat([1, 0], [40, 90])
    expected = metrics.roc_auc_score(labels, np.concatenate([members, others]))
    assert roc.auc(members, others).value == pytest.approx(expected, rel=1e-12)
    fpr, tpr = roc.curve(members, others)
    assert fpr.shape == tpr.shape == (131,)


def test_curve_has_one_point_for_equal_scores():
    fpr, tpr = roc.curve(np.array([3.0, 2, 2, 0]), np.array([2.0, 1, 0, 0]))
    np.testing.assert_allclose(fpr, [0, 0, 0.25, 0.5, 1], atol=1e-12)
    np.testing.assert_allclose(tpr, [0, 0.25, 0.75, 0.75, 1], atol=1e-12)


def test_auc_of_extremes():
    ones, zeros = np.ones(5), np.zeros(5)
    assert roc.auc(ones, zeros).value == 1.0
    assert roc.auc(zeros, ones).value == 0.0
    assert roc.auc(zeros, zeros).value == 0.5


def test_an_interval_without_errors_is_no_point():
    ones, zeros = np.ones(20), np.zeros(30)
    # Clopper and Pearson's, of 20 disjoint pairs that all say the same.
    unseen = 1 - 0.025 ** (1 / 20)
    assert roc.auc(ones, zeros) == pytest.approx((1.0, 1 - unseen, 1.0))
    assert roc.auc(zeros, ones) == pytest.approx((0.0, 0.0, unseen))
    assert roc.auc(ones, ones) == pytest.approx((0.5, 0.5 - unseen, 0.5 + unseen))


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_auc_interval_misses_as_often_as_it_says(shift, alpha):
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(shift / math.sqrt(2))
    repeats = 200
    missed = 0
    for _ in range(repeats):
        found = roc.auc(rng.normal(shift, size=100), rng.normal(size=100), alpha=alpha)
        missed += not found.low <= truth <= found.high
    spread = math.sqrt(alpha * (1 - alpha) / repeats)
    assert missed / repeats == pytest.approx(alpha, abs=3 * spread)


def test_tpr_at_fpr_takes_the_last_threshold_before():
    # Thresholds 9, 7 and 1: false positives 4, 14, 1000 of 1000; true 5, 13, 20 of 20.
    members = np.repeat([9.0, 7.0, 1.0], [5, 8, 7])
    others = np.repeat([9.0, 7.0, 0.0, 1.0], [4, 10, 900, 86])
    members = np.resize(members, 1000)  # 250 and 650 of 1000
    assert roc.tpr_at_fpr(members, others, 0.013).value == pytest.approx(0.25)
    assert roc.tpr_at_fpr(members, others, 0.015).value == pytest.approx(0.65)


@pytest.mark.parametrize("false", [10, 14, 29, 57, 70, 110])
def test_tpr_at_fpr_reaches_the_rate_itself(false):
    others = np.repeat([2.0, 0.0], [false, 1000 - false])
    members = np.repeat([2.0, 0.0], [300, 700])
    found = roc.tpr_at_fpr(members, others, false / 1000)
    assert found.value == pytest.approx(0.3)


def test_tpr_at_fpr_may_be_none_at_all():
    # The highest score is one non-member's too often for the rate.
    others = np.repeat([5.0, 0.0], [20, 980])
    members = np.repeat([5.0, 0.0], [600, 400])
    found = roc.tpr_at_fpr(members, others, 0.01)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 0.01


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_tpr_at_fpr_has_a_clopper_pearson_interval(alpha):
    others = np.repeat([9.0, 0.0], [3, 997])
    members = np.repeat([10.0, 0.0], [37, 963])
    found = roc.tpr_at_fpr(members, others, 0.01, alpha=alpha)
    exact = stats.binomtest(37, 1000).proportion_ci(1 - alpha, method="exact")
    assert found == pytest.approx((0.037, exact.low, exact.high), rel=1e-9)


@pytest.mark.parametrize(("fpr", "least"), [(0.01, 1000), (0.001, 10_000)])
def test_too_few_non_members_name_the_least(fpr, least):
    few = np.linspace(0, 1, least - 1)
    with pytest.raises(ValueError, match=f"make at least {least}$"):
        roc.tpr_at_fpr(few, few, fpr)
    enough = np.linspace(0, 1, least)
    assert roc.tpr_at_fpr(enough + 2, enough, fpr).value == 1.0


def test_ten_false_positives_are_needed_in_full():
    # 10 / 0.3 is 33.3, and 33 scores have 9.9.
    few = np.linspace(0, 1, 33)
    with pytest.raises(ValueError, match="make at least 34"):
        roc.tpr_at_fpr(few, few, 0.3)


def test_bad_input_is_named():
    scores, bad = np.arange(20.0), np.append(np.arange(19.0), math.nan)
    for call in (roc.curve, roc.auc, functools.partial(roc.tpr_at_fpr, fpr=0.9)):
        for pair in ((scores, bad), (bad, scores)):
            with pytest.raises(ValueError, match="1 of 20 scores are NaN"):
                call(*pair)
    with pytest.raises(ValueError, match="1 members and 1 others"):
        roc.auc(scores[:1], scores[:1])
    for fpr in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="fpr must lie in"):
            roc.tpr_at_fpr(scores, scores, fpr)
