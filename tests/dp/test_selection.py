"""Private selection: the theorems' formulas, their limits, and exact divergences of
small mechanisms, which they must bound.
"""

from __future__ import annotations

import math
from typing import Any

import dp_accounting.rdp.rdp_privacy_accountant as theirs
import numpy as np
import pytest

from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, events, rdp, selection

ORDERS = rdp.ORDERS
RUN = PrivacyEvent(
    events.compose(events.poisson(0.01, events.gaussian(1.0)), 1000),
    "add_or_remove_one",
    "client",
)
LAWS = {
    "geometric": selection.geometric(10),
    "logarithmic": selection.logarithmic(10),
    "poisson": selection.poisson(10),
    "heavy": selection.negative_binomial(4, -0.5),
    "light": selection.negative_binomial(4, 3.0),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def counts(law, most=20_000):
    """Probabilities of 0, 1, ... runs, from the definition."""
    k = np.arange(1, most)
    if math.isinf(law.shape):
        logs = k * math.log(law.mean) - np.cumsum(np.log(k)) - law.mean
        return np.concatenate([[math.exp(-law.mean)], np.exp(logs)])
    factors = (k - 1 + law.shape) / k
    factors[0] = 1.0  # in proportion only; shape 0 would be zero
    weights = np.cumprod(factors * -math.expm1(-law.stop))
    return np.concatenate([[0.0], weights / weights.sum()])


def divergence(p, q, orders):
    """Rényi divergences of p from q, which have the same support."""
    log_p, log_q = np.log(p[p > 0]), np.log(q[p > 0])
    terms = orders[:, None] * log_p + (1 - orders[:, None]) * log_q
    top = terms.max(axis=1)
    return (top + np.log(np.exp(terms - top[:, None]).sum(axis=1))) / (orders - 1)


def best_of(scores, probabilities):
    """The law of the best score over a random number of draws; last, of no draw."""
    cumulative = np.concatenate([[0.0], np.cumsum(scores)])
    powers = np.minimum(cumulative, 1.0)[:, None] ** np.arange(len(probabilities))
    generating = powers @ probabilities
    return np.concatenate([np.diff(generating), probabilities[:1]])


@laws
def test_mean_and_gamma_belong_together(law):
    probabilities = counts(law)
    found = probabilities @ np.arange(len(probabilities))
    assert found == pytest.approx(law.mean, rel=1e-6)


def test_geometric_stops_with_one_over_its_mean():
    assert math.exp(-selection.geometric(8).stop) == pytest.approx(1 / 8)
    gamma = math.exp(-selection.logarithmic(5).stop)
    assert (1 / gamma - 1) / math.log(1 / gamma) == pytest.approx(5)


@laws
@pytest.mark.parametrize("tilt", [0.05, 0.5, 2.0])
def test_bounds_exact_divergences(law, tilt):
    """Five scores whose probabilities differ between neighbours."""
    p = np.array([0.4, 0.3, 0.2, 0.07, 0.03])
    q = p * np.exp(tilt * np.array([-0.3, 0.1, 0.2, 0.6, 1.0]))
    q = q / q.sum()
    one_run = np.maximum(divergence(p, q, ORDERS), divergence(q, p, ORDERS))
    bound = selection.rdp_of_best(law, one_run, ORDERS)
    probabilities = counts(law, 3000)
    best_p, best_q = best_of(p, probabilities), best_of(q, probabilities)
    exact = np.maximum(
        divergence(best_p, best_q, ORDERS), divergence(best_q, best_p, ORDERS)
    )
    assert np.all(exact <= bound + 1e-9)
    # And they come near it at some order: the test has teeth.
    assert np.max(exact / bound) > 0.15


@laws
def test_the_theorems_formulas(law):
    """Evaluated order by order in plain Python."""
    values = (1000 * rdp.subsampled_gaussian(0.01, 1.0, ORDERS)).tolist()
    orders = ORDERS.tolist()
    found = selection.rdp_of_best(law, np.array(values), ORDERS)
    for i in (0, 20, 60, 120):
        a = orders[i]
        by_formula = []
        for above in range(i, len(orders)):
            b = orders[above]
            bound = values[above] + math.log(law.mean) / (b - 1)
            if math.isinf(law.shape):
                e = math.log(1 + 1 / (b - 1))
                profile = (
                    math.exp((o - 1) * (r - e)) * (1 - 1 / o) ** (o - 1) / o
                    if (o - 1) * (r - e) < 700
                    else 1.0
                    for o, r in zip(orders, values, strict=True)
                )
                total_variation = math.sqrt(1 - math.exp(-values[0]))
                bound += law.mean * min(1.0, total_variation, *profile)
            else:
                second = [
                    (1 - 1 / o) * r + law.stop / o
                    for o, r in zip(orders, values, strict=True)
                ]
                bound += (1 + law.shape) * min(law.stop, *second)
            by_formula.append(bound)
        assert found[i] == pytest.approx(min(by_formula), rel=1e-9), a


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 4.0, math.inf])
@pytest.mark.parametrize("mean", [1.5, 10.0, 300.0])
def test_no_looser_than_dp_accounting(shape, mean):
    values = 100 * rdp.subsampled_gaussian(0.02, 1.0, ORDERS)
    law = (
        selection.poisson(mean)
        if math.isinf(shape)
        else selection.negative_binomial(mean, shape)
    )
    found = selection.rdp_of_best(law, values, ORDERS)
    computed: Any = theirs._compute_rdp_repeat_and_select(
        ORDERS.tolist(), values.tolist(), mean, shape
    )
    # For Poisson it does not use that the divergence grows with the order.
    expected = np.minimum.accumulate(np.array(computed)[::-1])[::-1]
    assert np.all(found <= expected * (1 + 1e-9))
    if mean > 5:
        # The second order of 1 helps only if there are few runs.
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_limits():
    values = 1000 * rdp.subsampled_gaussian(0.01, 1.0, ORDERS)
    # One run for certain costs what one run costs.
    for law in (selection.geometric(1), selection.logarithmic(1)):
        np.testing.assert_array_equal(
            selection.rdp_of_best(law, values, ORDERS), values
        )
    # What costs nothing costs nothing, but for the bound's own log(mean) term.
    nothing = selection.rdp_of_best(selection.poisson(1), 0 * values, ORDERS)
    np.testing.assert_array_equal(nothing, 0 * values)
    # Geometric: at most three times the pure epsilon as the number of runs grows.
    pure = np.full_like(ORDERS, 0.3)
    found = selection.rdp_of_best(selection.geometric(20), pure, ORDERS)
    assert 3 * 0.3 < found[-1] < 3 * 0.3 + 0.01
    unknown = selection.rdp_of_best(LAWS["poisson"], pure * math.inf, ORDERS)
    assert np.all(np.isinf(unknown))


def test_the_best_run_costs_less_than_all():
    found = selection.sweep_costs(RUN, 10, 1e-5)
    assert found["one_run"] == accounting.epsilon(RUN, 1e-5)
    for name in ("best_geometric", "best_logarithmic", "best_poisson"):
        assert found["one_run"] < found[name] < found["all_runs"]
        assert type(found[name]) is float
    once = selection.sweep_costs(RUN, 1, 1e-5)
    assert once["one_run"] == once["all_runs"] == once["best_geometric"]


def test_failures_count_for_every_expected_run():
    failing = RUN._replace(event=events.failing(RUN.event, 1e-7))
    law = selection.geometric(10)
    found = selection.epsilon(failing, 1e-5, law)
    assert found == pytest.approx(selection.epsilon(RUN, 1e-5 - 1e-6, law), rel=1e-9)
    with pytest.raises(ValueError, match="delta 1e-05 must exceed 2e-05"):
        selection.epsilon(failing, 1e-5, selection.geometric(200))


def test_no_privacy_is_not_selected_away():
    naked = RUN._replace(privacy_unit=None)
    for law in LAWS.values():
        assert selection.epsilon(naked, 1e-5, law) == math.inf


def test_bad_arguments_are_named():
    for bad in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="mean must be finite and at least 1"):
            selection.geometric(bad)
        with pytest.raises(ValueError, match="mean must be finite and at least 1"):
            selection.poisson(bad)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="shape must be finite and above -1"):
            selection.negative_binomial(10, bad)
    with pytest.raises(ValueError, match=r"mean 1e\+06 is out of reach.*raise shape"):
        selection.negative_binomial(1e6, -0.999)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\)"):
        selection.epsilon(RUN, 0.0, selection.geometric(2))
