"""The epsilon that a budget means, and against whom; the least of several bounds."""

from __future__ import annotations

import math
import time

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from ppml_lab import dp
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, conversions, events, rdp
from ppml_lab.federated import sampling


def run(step, num_rounds=1, relation="add_or_remove_one", unit="client"):
    return PrivacyEvent(events.compose(step, num_rounds), relation, unit)


def poisson_run(prob, noise, num_rounds):
    return run(events.poisson(prob, events.gaussian(noise)), num_rounds)


@pytest.mark.parametrize(
    ("prob", "noise", "rounds", "delta", "most"),
    [
        (1e-6, 1.0, 10**6, 1e-7, 0.0061),
        (1e-3, 10.0, 10**6, 1e-6, 0.3983),
        pytest.param(1e-5, 1.0, 10**5, 1e-8, 0.0179, marks=pytest.mark.exhaustive),
    ],
)
def test_pld_is_tight_where_every_round_costs_little(prob, noise, rounds, delta, most):
    steps = poisson_run(prob, noise, rounds)
    # What is imported late does not count.
    accounting.epsilon(poisson_run(0.5, 2.0, 1), delta, "pld")
    start = time.process_time()
    found = accounting.epsilon(steps, delta, "pld")
    assert time.process_time() - start < 5
    assert accounting.epsilon_from_below(steps, delta) <= found <= most
    # The central limit is no bound, but it is near.
    shift = prob * math.sqrt(rounds * math.expm1(noise**-2))
    assert found > 0.9 * conversions.gdp_epsilon(shift, delta)


@pytest.mark.parametrize(
    ("prob", "noise", "rounds"),
    [(1e-4, 0.5, 1000), (0.3, 3.0, 20), (0.3, 300.0, 1), (1.0, 0.4, 30)],
)
def test_pld_is_never_above_rdp(prob, noise, rounds):
    for delta in (1e-3, 1e-10, 1e-16):
        steps = poisson_run(prob, noise, rounds)
        by_rdp = accounting.epsilon(steps, delta)
        assert accounting.epsilon(steps, delta, "pld") <= by_rdp
        points = [0.1, 1.0, 5.0]
        deltas = accounting.delta_curve(steps, points)
        tighter = accounting.delta_curve(steps, points, "pld")
        assert np.all(np.array(tighter) <= deltas)


def test_below_the_numerical_domain_pld_is_rdp():
    steps = poisson_run(0.00033, 10.0, 3)
    assert 0 < accounting.epsilon(steps, 1e-15, "pld") < math.inf
    assert accounting.epsilon(steps, 1e-15, "pld") == accounting.epsilon(steps, 1e-15)


def test_pld_agrees_with_another_implementation():
    from dp_accounting import pld

    parts = [
        events.compose(events.poisson(0.02, events.gaussian(0.9)), 30),
        events.compose(events.poisson(0.1, events.gaussian(2.0)), 10),
        events.compose(events.laplace(20.0), 5),
        events.gaussian(3.0),
    ]
    mixed = run(events.together(parts))
    theirs = pld.PLDAccountant().compose(mixed.event).get_epsilon(1e-5)
    found = accounting.epsilon(mixed, 1e-5, "pld")
    assert found == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize(
    ("prob", "rounds", "target", "delta", "most"),
    [
        (1.0, 1, 1e-3, 1e-5, 1726.0),
        (0.9, 100, 1e-3, 1e-6, 21_960.0),
        (0.01, 200, 2.0, 1e-5, 0.80),
    ],
)
def test_calibration_ends_by_the_best_accountant(prob, rounds, target, delta, most):
    def steps(noise):
        return poisson_run(prob, noise, rounds)

    found = accounting.calibrate_noise_multiplier(steps, target, delta, "best")
    assert found <= most
    epsilon, accountant = accounting.stated(steps(found), delta)
    assert accountant == "pld"
    assert target * (1 - 2e-3) <= epsilon <= target
    if prob < 0.9:
        by_rdp = accounting.calibrate_noise_multiplier(steps, target, delta)
        assert found < by_rdp


def test_calibration_by_rdp_where_there_is_no_pld():
    def steps(noise):
        rho = 0.5 / max(noise, 1e-9) ** 2
        return run(dp_accounting.ZCDpEvent(rho), 10, "replace_one")

    best = accounting.calibrate_noise_multiplier(steps, 3.0, 1e-3, "best")
    assert best == accounting.calibrate_noise_multiplier(steps, 3.0, 1e-3)
    assert accounting.stated(steps(best), 1e-3).accountant == "rdp"


@pytest.mark.parametrize("accountant", ["best", "rdp", "pld"])
def test_a_target_for_what_promises_nothing_is_refused(accountant):
    sampler = sampling.poisson(50, 0.2)
    with pytest.raises(
        ValueError, match=r"promises nothing .*take a privacy mechanism"
    ):
        accounting.calibrate_noise_multiplier(
            lambda noise: dp.no_privacy().event(sampler, 2), 1.0, 1e-3, accountant
        )


def response(epsilon, rounds):
    step = events.randomised_response(2 / (1 + math.exp(epsilon)), 2)
    return run(step, rounds, "replace_one")


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
@pytest.mark.parametrize(
    ("epsilon", "rounds"), [(1e-10, 1), (0.01, 1), (0.1, 4), (1.0, 1), (5.0, 3)]
)
def test_pure_mechanisms_cost_no_more_than_their_sum(epsilon, rounds, accountant):
    most = epsilon * rounds * (1 + 1e-9)
    laplace = run(events.laplace(1 / epsilon), rounds, "replace_one")
    # More noise than a million counts as a million.
    for steps in (response(epsilon, rounds), laplace)[: 2 if epsilon > 1e-6 else 1]:
        assert accounting.epsilon(steps, 1e-5, accountant) <= most + 1e-15
        exact = accounting.epsilon(steps, 0.0, accountant)
        assert exact == pytest.approx(most, rel=1e-5)
        # And the count counts: four of 0.1 are not one.
        assert accounting.epsilon(steps, 1e-9, "pld") > 0.95 * most - 2e-8


def test_pure_ones_stand_beside_others():
    noise = events.gaussian(50.0)
    both = run(events.together([response(0.2, 1).event, noise]), relation="replace_one")
    alone = accounting.epsilon(run(noise, relation="replace_one"), 1e-5)
    assert accounting.epsilon(both, 1e-5) <= 0.2 + alone + 1e-9


def test_delta_zero_is_for_pure_mechanisms():
    for impure in (events.gaussian(1.0), events.failing(events.laplace(1.0), 1e-9)):
        with pytest.raises(
            ValueError, match=r"delta must lie in \(0, 1\), got 0; delta 0"
        ):
            accounting.epsilon(run(impure), 0)
    nothing = run(dp_accounting.NonPrivateDpEvent(), unit=None)
    assert accounting.epsilon(nothing, 0) == math.inf


def test_response_of_any_epsilon_has_an_event():
    sampler = sampling.everyone(5)
    for epsilon in (700.0, 709.5, 800.0, 1e5):
        event = dp.randomised_response(1.0, epsilon).event(sampler, 2)
        found = accounting.epsilon(event, 1e-5)
        assert found == pytest.approx(1400) if epsilon == 700 else found == math.inf


@pytest.mark.parametrize("prob", [0.001, 0.1, 0.7, 1.0])
def test_random_participation_is_the_divergence_of_the_pair(prob):
    noise, orders = 0.8, np.array([1.5, 2.0, 3.3, 8.0])
    found = rdp.random_participation(orders / (2 * noise**2), orders, prob)
    x = np.linspace(-30, 30, 200_001)
    one, other = stats.norm.pdf(x, 1, noise), stats.norm.pdf(x, 0, noise)
    for order, value in zip(orders, found, strict=True):
        ratio = np.exp(
            order * np.log(one + 1e-300) - (order - 1) * np.log(other + 1e-300)
        )
        moment = 1 - prob + prob * np.trapezoid(ratio, x)
        assert value == pytest.approx(math.log(moment) / (order - 1), rel=1e-6)


def test_random_participation_survives_extremes():
    found = rdp.random_participation(
        np.array([0.0, 1e-12, 1e5, np.inf]), np.array([2.0, 2.0, 9.0, 9.0]), 0.25
    )
    exact = [0.0, 0.25e-12, 1e5 + math.log(0.25) / 8, math.inf]
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-30)
    with pytest.raises(ValueError, match="participation_prob must lie in"):
        rdp.random_participation(found, np.full(4, 2.0), 0.0)


@pytest.mark.parametrize(("prob", "rounds"), [(0.1, 40), (0.6, 3)])
def test_participations_are_a_binomial_number_of_gaussians(prob, rounds):
    noise = 2.0
    steps = run(events.participating(prob, events.gaussian(noise)), rounds)
    number = np.arange(rounds + 1)
    chances = stats.binom.pmf(number, rounds, prob)
    points = [0.0, 0.5, 2.0, 5.0]
    exact = [
        sum(
            chance * conversions.gdp_delta(math.sqrt(k) / noise, point)
            for k, chance in zip(number, chances, strict=True)
        )
        for point in points
    ]
    by_pld = accounting.delta_curve(steps, points, "pld")
    assert by_pld == pytest.approx(exact, rel=2e-3)
    assert np.all(np.array(by_pld) >= np.array(exact) * (1 - 1e-9))
    assert np.all(np.array(accounting.delta_curve(steps, points)) >= exact)


def test_epsilon_two_against_the_public_is_seven_to_nine_against_the_server():
    prob, rounds, delta = 50 / 539, 200, 1e-3
    noise = accounting.calibrate_noise_multiplier(
        lambda noise: poisson_run(prob, noise, rounds), 2.0, delta
    )
    own = run(events.participating(prob, events.gaussian(noise)), rounds)
    assert (
        7 < accounting.epsilon(own, delta, "pld") < accounting.epsilon(own, delta) < 9
    )
    assert accounting.epsilon_server(own, delta) == accounting.epsilon_public(
        own, delta
    )


def test_the_server_that_adds_the_noise_is_promised_nothing():
    sampler = sampling.poisson(539, 50 / 539)
    central = dp.gaussian(1.0, 2.0).event(sampler, 20)
    assert accounting.epsilon_public(central, 1e-3) < 2
    assert accounting.epsilon_server(central, 1e-3) == math.inf
    both = events.together(
        [central.event, events.participating(1, events.gaussian(9.0))]
    )
    mixed = central._replace(event=both)
    assert accounting.epsilon_server(mixed, 1e-3) == math.inf


@pytest.mark.parametrize(
    "mechanism",
    [
        dp.local_gaussian(1.0, 8.0),
        dp.local_laplace(1.0, 8.0),
        dp.randomised_response(1.0, 0.25),
    ],
    ids=["gaussian", "laplace", "response"],
)
@pytest.mark.parametrize(
    "sampler",
    [sampling.poisson(100, 0.1), sampling.fixed_size(100, 10), sampling.everyone(100)],
    ids=["poisson", "fixed_size", "everyone"],
)
def test_local_noise_costs_the_rounds_that_a_client_takes_part_in(mechanism, sampler):
    event = mechanism.event(sampler, 20)
    assert event.neighboring_relation == "replace_one"
    found = accounting.epsilon_server(event, 1e-5)
    assert found == accounting.epsilon_public(event, 1e-5)
    every = mechanism.event(sampling.everyone(100), 20)
    all_rounds = accounting.epsilon_server(every, 1e-5)
    once = accounting.epsilon_server(mechanism.event(sampling.everyone(100), 1), 1e-5)
    if sampler.max_cohort < 100:
        assert once < found < all_rounds
    else:
        assert found == all_rounds


@pytest.mark.parametrize(
    ("prob", "noise", "rounds", "delta"),
    [(0.01, 1.0, 2000, 1e-5), (1.0, 5.0, 10, 1e-5), (0.1, 0.6, 20, 1e-4)],
)
def test_the_bound_from_below_lies_below(prob, noise, rounds, delta):
    steps = poisson_run(prob, noise, rounds)
    low = accounting.epsilon_from_below(steps, delta)
    high = accounting.epsilon(steps, delta, "pld")
    assert 0.99 * high < low <= high
    if prob == 1:
        exact = conversions.gdp_epsilon(math.sqrt(rounds) / noise, delta)
        assert low == exact


def test_only_gaussian_releases_are_bounded_from_below():
    with pytest.raises(ValueError, match="only Gaussian releases"):
        accounting.epsilon_from_below(run(events.laplace(2.0)), 1e-5)


def test_text_is_no_number():
    for value in ("1.0", b"1"):
        with pytest.raises(ValueError, match="noise must be a number, got"):
            events.to_float("noise", value)
