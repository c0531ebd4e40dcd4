"""Ranking by membership scores: AUC, and true positives at few false positives.

Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022: an
average over all thresholds hides an attack that is sure of a few members.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from ppml_lab import arguments, checks
from ppml_lab.audit import evidence
from ppml_lab.audit.evidence import Scores

_NO_SPREAD = 1e-24
"""The largest variance of ranks that is due to rounding alone."""


class Interval(NamedTuple):
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


@arguments.checked
def curve(members: Scores, others: Scores) -> tuple[np.ndarray, np.ndarray]:
    """The false and true positive rates at every distinct score, from (0, 0) on.

    Equal scores are one point, because no threshold separates them.
    """
    inside, outside = evidence.check_scores(members, others)
    for name, group in (("members", inside), ("others", outside)):
        checks.at_least(f"the number of {name}", len(group), 1)
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    rates = [
        (len(group) - np.searchsorted(np.sort(group), thresholds)) / len(group)
        for group in (outside, inside)
    ]
    fpr, tpr = (np.concatenate([[0.0], rate]) for rate in rates)
    return fpr, tpr


@arguments.checked
def auc(members: Scores, others: Scores, *, alpha: float = 0.05) -> Interval:
    """The probability that a member scores above a non-member, with its interval.

    Ties count half (Mann-Whitney); the interval is the normal interval of DeLong et
    al., Biometrics 1988. Scores that are separated without an error, or all equal, have
    no spread, and this interval would be a point. They get the Clopper-Pearson interval
    of the largest number of disjoint pairs, which all agree.

    Raises:
      ValueError: For NaN, fewer than two scores of either, or an alpha outside (0, 1).
    """
    checks.probability("alpha", alpha, allow_one=False)
    inside, outside = evidence.check_scores(members, others)
    if min(len(inside), len(outside)) < 2:
        raise ValueError(
            "an AUC's interval needs at least two members and two others, got "
            f"{len(inside)} members and {len(outside)} others"
        )
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    above = (ranks[: len(inside)] - stats.rankdata(inside)) / len(outside)
    below = 1 - (ranks[len(inside) :] - stats.rankdata(outside)) / len(inside)
    value = float(above.mean())
    variance = above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside)
    reach = float(stats.norm.isf(alpha / 2) * np.sqrt(variance))
    if variance <= _NO_SPREAD:
        pairs = min(len(inside), len(outside))
        reach = float(evidence.upper_limit(0, pairs, alpha / 2))
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


@arguments.checked
def tpr_at_fpr(
    members: Scores, others: Scores, fpr: float, *, alpha: float = 0.05
) -> Interval:
    """The true positive rate at the last threshold with at most `fpr` false positives.

    The rate is not interpolated. Its Clopper-Pearson interval is over members; the
    spread of the threshold itself is not included.

    Raises:
      ValueError: For NaN, or fewer than 10 / fpr others.
    """
    checks.probability("fpr", fpr, allow_one=False)
    checks.probability("alpha", alpha, allow_one=False)
    inside, outside = evidence.check_scores(members, others)
    least = math.ceil(10 / fpr - 1e-9)
    if len(outside) < least:
        raise ValueError(
            f"others: too few scores of non-members for a false positive rate of "
            f"{fpr:g}: got {len(outside)}, make at least {least}"
        )
    checks.at_least("the number of members", len(inside), 1)
    rates_fpr, rates_tpr = curve(inside, outside)
    value = float(rates_tpr[rates_fpr <= fpr][-1])
    found, runs = round(value * len(inside)), len(inside)
    low = 1 - float(evidence.upper_limit(runs - found, runs, alpha / 2))
    return Interval(value, low, float(evidence.upper_limit(found, runs, alpha / 2)))
