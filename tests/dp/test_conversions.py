"""zCDP and Gaussian DP against closed forms, 60-digit values and published numbers."""

from __future__ import annotations

import csv
import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from ppml_lab import base
from ppml_lab.dp import accounting, conversions, events, rdp

REFERENCE = pathlib.Path(__file__).parent / "reference" / "accounting.csv"
UNSAMPLED = [
    row
    for row in csv.DictReader(REFERENCE.read_text().splitlines())
    if float(row["sampling_prob"]) == 1
]

# mpmath, 60 digits: Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu).
EXACT = [
    (1.0, 0.0, 0.382924922548026),
    (1.0, 1.0, 0.126936737506644),
    (0.1, 1.0, 1.2308359836427e-25),
    (10.0, 1.0, 0.99999905917978),
    (3.0, 100.0, 9.62521346947630e-224),
    (100.0, 100.0, 1.0),
]


def naive_delta(mu, epsilon):
    upper = stats.norm.cdf(mu / 2 - epsilon / mu)
    return upper - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("mu", "epsilon", "exact"), EXACT)
def test_gdp_delta_in_the_tails(mu, epsilon, exact):
    assert conversions.gdp_delta(mu, epsilon) == pytest.approx(exact, 1e-11, 0)


@pytest.mark.parametrize("mu", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.2, 3.0])
def test_gdp_delta_is_the_textbook_formula(mu, epsilon):
    found = conversions.gdp_delta(mu, epsilon)
    assert found == pytest.approx(naive_delta(mu, epsilon), 1e-9, 0)


def test_gdp_of_nothing():
    assert conversions.gdp_delta(0, 0) == conversions.gdp_delta(0, 5) == 0.0
    assert conversions.gdp_epsilon(0, 1e-5) == 0.0
    assert conversions.gdp_epsilon(0.1, 0.5) == 0.0
    # No epsilon: the total variation of two unit Gaussians is at most delta.
    mu = conversions.gdp_mu(0, 0.2)
    assert 2 * stats.norm.cdf(mu / 2) - 1 == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("mu", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.01])
def test_gdp_epsilon_and_mu_invert_delta(mu, delta):
    epsilon = conversions.gdp_epsilon(mu, delta)
    assert conversions.gdp_delta(mu, epsilon) == pytest.approx(delta, 1e-9, 0)
    assert conversions.gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-9)


@pytest.mark.parametrize("row", UNSAMPLED, ids=[row["name"] for row in UNSAMPLED])
def test_gaussians_compose_as_gdp(row):
    noise, steps = float(row["noise_multiplier"]), int(row["num_steps"])
    delta = float(row["delta"])
    found = conversions.gdp_epsilon(math.sqrt(steps) / noise, delta)
    assert float(row["prv_eps_lower"]) < found < float(row["prv_eps_upper"])
    assert found == pytest.approx(float(row["pld_eps_dp_accounting"]), rel=1e-5)
    # The other way: the noise of one release with the sensitivity of all of them.
    stddev = conversions.analytic_gaussian_stddev(found, delta, math.sqrt(steps))
    assert stddev == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_analytic_gaussian_is_enough_and_no_more(epsilon, delta):
    sensitivity = 3.0
    stddev = conversions.analytic_gaussian_stddev(epsilon, delta, sensitivity)
    spent = conversions.gdp_delta(sensitivity / stddev, epsilon)
    less_noise = sensitivity / (stddev * (1 - 1e-7))
    assert spent <= delta * (1 + 1e-12)
    assert conversions.gdp_delta(less_noise, epsilon) > delta


def test_analytic_gaussian_beats_the_classical_one():
    # Dwork and Roth 2014, Theorem A.1, for epsilon below 1.
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5
    found = conversions.analytic_gaussian_stddev(0.5, 1e-5, 1.0)
    assert 0.6 * classical < found < 0.9 * classical
    # By PLD, which discretises privacy loss.
    event = base.PrivacyEvent(events.gaussian(found), "replace_one", "client")
    assert accounting.epsilon(event, 1e-5, "pld") == pytest.approx(0.5, abs=1e-3)


def test_published_epsilons_at_delta_1e_10():
    """papers.md: rho as printed, so that epsilon is known to half its last digit."""
    # Gboard's tree aggregation, by zCDP.
    assert conversions.zcdp_epsilon(0.805, 1e-10) < 8.90
    assert conversions.zcdp_epsilon(0.815, 1e-10) > 8.90
    # Banded factorisations, which are Gaussian mechanisms.
    for rho, published in ((0.1507, 3.424), (0.01434, 0.9936)):
        found = conversions.gdp_epsilon(math.sqrt(2 * rho), 1e-10)
        assert found == pytest.approx(published, rel=2e-4)


@pytest.mark.parametrize("rho", [1e-4, 0.1, 2.0, 50.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.01])
def test_zcdp_epsilon_is_that_of_the_best_order(rho, delta):
    found = conversions.zcdp_epsilon(rho, delta)
    best = math.sqrt(math.log(1 / delta) / rho)
    orders = 1 + best * np.geomspace(0.2, 5, 20001)
    over_orders = float(rdp.epsilon_of_rdp(rho * orders, orders, delta))
    assert found <= over_orders * (1 + 1e-9)
    assert found == pytest.approx(over_orders, rel=1e-6)
    assert found <= rho + 2 * math.sqrt(rho * math.log(1 / delta))
    reached = conversions.zcdp_delta(rho, found)
    assert reached == pytest.approx(delta, 1e-6, 0) or (reached < delta and found == 0)
    # A Gaussian release has rho-zCDP, and less epsilon than that allows.
    assert conversions.gdp_epsilon(math.sqrt(2 * rho), delta) <= found


def test_zcdp_of_nothing_and_of_much():
    assert conversions.zcdp_epsilon(0, 1e-5) == conversions.zcdp_delta(0, 1) == 0.0
    assert conversions.zcdp_delta(5.0, 0.0) <= 1.0
    assert conversions.zcdp_epsilon(1e-12, 0.9) == pytest.approx(0, abs=1e-5)


def test_zcdp_agrees_with_its_event():
    import dp_accounting

    event = base.PrivacyEvent(dp_accounting.ZCDpEvent(0.125), "replace_one", "client")
    found = accounting.epsilon(event, 1e-5)
    assert found == pytest.approx(conversions.zcdp_epsilon(0.125, 1e-5), rel=1e-3)


def test_results_are_python_floats():
    one = np.float32(1)
    for value in (
        conversions.gdp_delta(one, one),
        conversions.gdp_epsilon(one, 1e-5),
        conversions.gdp_mu(one, 1e-5),
        conversions.zcdp_delta(one, one),
        conversions.zcdp_epsilon(one, 1e-5),
        conversions.analytic_gaussian_stddev(one, 1e-5, one),
    ):
        assert type(value) is float


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_numbers_are_named(bad):
    for name, call in {
        "mu": lambda: conversions.gdp_delta(bad, 1.0),
        "epsilon": lambda: conversions.gdp_mu(bad, 1e-5),
        "rho": lambda: conversions.zcdp_epsilon(bad, 1e-5),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be finite and not negative"):
            call()
    with pytest.raises(ValueError, match="sensitivity must be positive"):
        conversions.analytic_gaussian_stddev(1.0, 1e-5, bad)
    for call in (conversions.gdp_epsilon, conversions.gdp_mu, conversions.zcdp_epsilon):
        with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\)"):
            call(1.0, bad)
