"""Epsilon against independent accountants, closed forms and dp-accounting's traps."""

from __future__ import annotations

import csv
import logging
import math
import pathlib
import subprocess
import sys
import time
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from ppml_lab import dp
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accountants, accounting, events
from ppml_lab.federated import sampling

REFERENCE = pathlib.Path(__file__).parent / "reference" / "accounting.csv"
ROWS = list(csv.DictReader(REFERENCE.read_text().splitlines()))
rows = pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
# PLD calibration costs seconds: rows with many rounds, without sampling, with tiny
# sampling_prob (PLD far from RDP) and with a large epsilon.
few_rows = pytest.mark.parametrize(
    "name",
    [
        "cifar_de_wrn16_4_eps1",
        "gauss_5_T10",
        pytest.param("tiny_q", marks=pytest.mark.exhaustive),
        pytest.param("bigeps", marks=pytest.mark.exhaustive),
    ],
)


def poisson_run(sampling_prob, noise_multiplier, num_rounds):
    release = events.gaussian(noise_multiplier)
    round_event = events.poisson(sampling_prob, release)
    event = events.compose(round_event, num_rounds)
    return PrivacyEvent(event, "add_or_remove_one", "client")


def gaussian_run(noise_multiplier, num_rounds=1, relation="add_or_remove_one"):
    event = events.compose(events.gaussian(noise_multiplier), num_rounds)
    return PrivacyEvent(event, relation, "client")


def fixed_size_run(noise_multiplier, num_rounds=100, relation="replace_one"):
    release = events.gaussian(noise_multiplier)
    round_event = events.fixed_size(3400, 100, release)
    return PrivacyEvent(events.compose(round_event, num_rounds), relation, "client")


def of(row):
    """A row's event as a function of the noise, its noise and its delta."""
    prob, rounds = float(row["sampling_prob"]), int(row["num_steps"])
    return (
        lambda noise: poisson_run(prob, noise, rounds),
        float(row["noise_multiplier"]),
        float(row["delta"]),
    )


def analytic_gaussian(noise_multiplier, delta):
    """Epsilon of the Gaussian mechanism, exactly (Balle and Wang, "Improving the
    Gaussian Mechanism for Differential Privacy", ICML 2018, Theorem 8).
    """
    mean = 1 / noise_multiplier

    def excess(epsilon):
        upper = stats.norm.cdf(mean / 2 - epsilon / mean)
        lower = math.exp(epsilon + stats.norm.logcdf(-mean / 2 - epsilon / mean))
        return upper - lower - delta

    root: Any = optimize.brentq(excess, 0.0, 600.0, xtol=1e-12)
    return float(root)


@rows
def test_rdp_is_a_bound_no_looser_than_dp_accounting(row):
    make_event, noise, delta = of(row)
    found = accounting.epsilon(make_event(noise), delta)
    assert found <= float(row["rdp_eps_dp_accounting"]) * (1 + 1e-6)
    assert found >= float(row["prv_eps_lower"])


@rows
def test_pld_lies_in_the_bounds_of_prv(row):
    make_event, noise, delta = of(row)
    found = accounting.epsilon(make_event(noise), delta, "pld")
    assert float(row["prv_eps_lower"]) <= found <= float(row["prv_eps_upper"])


@rows
def test_rdp_calibration_inverts_epsilon(row):
    make_event, noise, delta = of(row)
    target = accounting.epsilon(make_event(noise), delta)
    found = accounting.calibrate_noise_multiplier(make_event, target, delta)
    assert found == pytest.approx(noise, rel=3e-6)
    assert accounting.epsilon(make_event(found), delta) <= target
    assert accounting.epsilon(make_event(found * (1 - 1e-5)), delta) > target


@few_rows
def test_pld_calibration_inverts_epsilon(name):
    (row,) = [row for row in ROWS if row["name"] == name]
    make_event, noise, delta = of(row)
    target = accounting.epsilon(make_event(noise), delta, "pld")
    found = accounting.calibrate_noise_multiplier(make_event, target, delta, "pld")
    assert found == pytest.approx(noise, rel=1e-5)
    assert accounting.epsilon(make_event(found), delta, "pld") <= target


def test_dense_orders_tighten_small_epsilons():
    (row,) = [row for row in ROWS if row["name"] == "smalleps"]
    make_event, noise, delta = of(row)
    found = accounting.epsilon(make_event(noise), delta)
    assert found < 0.97 * float(row["rdp_eps_dp_accounting"])


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize(
    ("noise", "num_rounds", "delta"),
    [(2.0, 1, 1e-5), (1.0, 1, 1e-6), (5.0, 10, 1e-5), (0.3, 1, 1e-5), (0.21, 1, 2e-5)],
)
def test_pld_of_a_gaussian_is_the_analytic_one(noise, num_rounds, delta, relation):
    run = gaussian_run(noise, num_rounds, relation)
    found = accounting.epsilon(run, delta, "pld")
    # Of the noise that ends at 9 standard deviations: the rest of delta is its cut's.
    left = delta * (1 - accounting.cut_share(run, delta))
    exact = analytic_gaussian(noise / math.sqrt(num_rounds), left)
    assert found == pytest.approx(exact, rel=1e-9)
    assert exact < accounting.epsilon(run, delta) < 1.5 * exact


def test_relation_does_not_change_a_gaussian_relative_to_its_sensitivity():
    for accountant in accounting.ACCOUNTANTS:
        found = {
            accounting.epsilon(gaussian_run(2.0, 1, relation), 1e-5, accountant)
            for relation in ("add_or_remove_one", "replace_one")
        }
        assert len(found) == 1
    # The trap that this avoids: dp-accounting's PLD doubles the sensitivity.
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    doubled = (
        dp_accounting.pld.PLDAccountant(relation)
        .compose(gaussian_run(2.0).event)
        .get_epsilon(1e-5)
    )
    assert doubled > 1.8 * accounting.epsilon(
        gaussian_run(2.0, 1, "replace_one"), 1e-5, "pld"
    )


@pytest.mark.parametrize(
    "noise",
    [1, np.float32(1), np.float64(1), np.int64(1), np.array(1.0), jnp.asarray(1.0)],
    ids=lambda value: type(value).__name__,
)
def test_any_number_type_is_counted(noise):
    inner = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.GaussianDpEvent(noise),
            dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), 3),
        ]
    )
    prob: Any = np.float32(0.01)
    count: Any = np.int32(100)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(prob, inner), count
    )
    found = PrivacyEvent(event, "add_or_remove_one", "client")
    # Four releases on one cohort are one with half the noise.
    expected = poisson_run(float(np.float32(0.01)), 0.5, 100)
    assert accounting.epsilon(found, 1e-5) == accounting.epsilon(expected, 1e-5) > 0
    assert type(events.gaussian(noise).noise_multiplier) is float


def test_pld_takes_several_releases_on_one_cohort():
    inner = events.compose(events.gaussian(2.0), 4)
    event = events.poisson(0.01, inner)
    found = PrivacyEvent(event, "add_or_remove_one", "client")
    assert accounting.epsilon(found, 1e-5, "pld") == accounting.epsilon(
        poisson_run(0.01, 1.0, 1), 1e-5, "pld"
    )


def test_results_are_python_floats():
    make_event = poisson_run
    for accountant in accounting.ACCOUNTANTS:
        found = accounting.epsilon(make_event(0.01, 1.0, 10), 1e-5, accountant)
        assert type(found) is float
    noise = accounting.calibrate_noise_multiplier(gaussian_run, np.float32(2.0), 1e-5)
    assert type(noise) is float


def test_epsilon_over_time_computes_one_vector():
    accountants.rdp_vector.cache_clear()
    curve = [accounting.epsilon(poisson_run(0.02, 1.3, t), 1e-5) for t in range(1, 51)]
    assert accountants.rdp_vector.cache_info().misses == 1
    assert np.all(np.diff(curve) > 0)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_no_noise_no_privacy(accountant):
    nothing = PrivacyEvent(dp_accounting.NonPrivateDpEvent(), "add_or_remove_one", None)
    mixed = dp_accounting.ComposedDpEvent(
        [dp_accounting.GaussianDpEvent(5.0), dp_accounting.GaussianDpEvent(0)]
    )
    unpromised = gaussian_run(5.0)._replace(privacy_unit=None)
    for event in (
        nothing,
        unpromised,
        gaussian_run(0),
        poisson_run(0.01, 0.0, 10),
        gaussian_run(1e-200),
        PrivacyEvent(mixed, "replace_one", "client"),
    ):
        assert accounting.epsilon(event, 1e-5, accountant) == math.inf
    free = PrivacyEvent(dp_accounting.NoOpDpEvent(), "replace_one", "client")
    assert accounting.epsilon(free, 1e-5, accountant) == 0.0


def test_full_participation_is_a_plain_gaussian():
    gaussian = events.gaussian(2.0)
    assert events.poisson(1, gaussian) == gaussian
    assert events.fixed_size(7, 7, gaussian) == gaussian


def test_fixed_size_sampling_matches_dp_accounting():
    run = fixed_size_run(1.0)
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    expected = theirs.compose(run.event).get_epsilon(1e-5)
    found = accounting.epsilon(run, 1e-5)
    assert 0.9 * expected <= found <= expected * (1 + 1e-6)


def test_fixed_size_calibration_is_safe_and_tight():
    found = accounting.calibrate_noise_multiplier(fixed_size_run, 2.0, 1e-5)
    assert 1.999 < accounting.epsilon(fixed_size_run(found), 1e-5) <= 2.0


def test_what_has_no_bound_is_refused():
    fixed = fixed_size_run(1.0)
    poisson = poisson_run(0.1, 1.0, 10)
    assert accounting.supports(fixed, "rdp")
    assert accounting.stated(fixed, 1e-5) == (accounting.epsilon(fixed, 1e-5), "rdp")
    assert not accounting.supports(fixed, "pld")
    with pytest.raises(events.UnsupportedEventError, match='use accountant "rdp"'):
        accounting.epsilon(fixed, 1e-5, "pld")
    with pytest.raises(ValueError, match="only under replace_one"):
        accounting.epsilon(fixed_size_run(1.0, 10, "add_or_remove_one"), 1e-5)
    for accountant in accounting.ACCOUNTANTS:
        assert accounting.supports(poisson, accountant)
        replaced = poisson._replace(neighboring_relation="replace_one")
        assert not accounting.supports(replaced, accountant)
        with pytest.raises(ValueError, match="Poisson sampling has no bound under"):
            accounting.epsilon(replaced, 1e-5, accountant)
    laplace = dp_accounting.LaplaceDpEvent(1.0)
    for event in (
        dp_accounting.UnsupportedDpEvent(),
        dp_accounting.SampledWithReplacementDpEvent(10, 2, laplace),
        dp_accounting.PoissonSampledDpEvent(0.1, laplace),
        "not an event",
    ):
        unknown = PrivacyEvent(event, "add_or_remove_one", "client")
        assert not accounting.supports(unknown, "rdp")
        with pytest.raises(events.UnsupportedEventError):
            accounting.epsilon(unknown, 1e-5)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_laplace_is_pure(relation):
    run = PrivacyEvent(dp_accounting.LaplaceDpEvent(2), relation, "client")
    assert accounting.epsilon(run, 1e-9, "pld") == pytest.approx(0.5, abs=1e-3)
    assert accounting.epsilon(run, 1e-9) < 0.52


def test_zcdp_is_a_gaussian_to_rdp():
    run = PrivacyEvent(dp_accounting.ZCDpEvent(1 / 8), "replace_one", "client")
    share = accounting.cut_share(gaussian_run(2.0), 1e-5)
    gaussian = accounting.epsilon(gaussian_run(2.0), 1e-5 / (1 - share))
    assert accounting.epsilon(run, 1e-5) == pytest.approx(gaussian, rel=1e-12)
    assert not accounting.supports(run, "pld")


def test_silence_about_orders_that_do_not_converge(caplog):
    run = poisson_run(0.5, 10.0, 2)
    logger = logging.getLogger("absl")
    logger.addHandler(caplog.handler)
    try:
        # The setting does make dp-accounting talk.
        dp_accounting.rdp.RdpAccountant([1.5]).compose(run.event)
        assert "failed to converge" in caplog.text
        caplog.clear()
        assert math.isfinite(accounting.epsilon(run, 1e-5))
        assert caplog.text == ""
    finally:
        logger.removeHandler(caplog.handler)
    assert not logger.disabled


def test_pld_of_little_noise_is_quick():
    start = time.process_time()
    found = accounting.epsilon(poisson_run(0.01, 0.25, 30), 1e-5, "pld")
    assert 20 < found < accounting.epsilon(poisson_run(0.01, 0.25, 30), 1e-5) < 60
    assert time.process_time() - start < 10


@settings(max_examples=15, deadline=None)
@given(
    noise=st.floats(0.3, 50), num_rounds=st.integers(1, 2000), extra=st.floats(1.01, 3)
)
def test_epsilon_is_monotone(noise, num_rounds, extra):
    base = accounting.epsilon(gaussian_run(noise, num_rounds), 1e-5)
    assert accounting.epsilon(gaussian_run(noise * extra, num_rounds), 1e-5) < base
    assert accounting.epsilon(gaussian_run(noise, num_rounds + 1), 1e-5) > base
    assert accounting.epsilon(gaussian_run(noise, num_rounds), 1e-6) > base


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
@pytest.mark.parametrize("target", [0.01, 1.0, 30.0])
def test_calibration_over_targets(target, accountant):
    found = accounting.calibrate_noise_multiplier(
        gaussian_run, target, 1e-5, accountant
    )
    reached = accounting.epsilon(gaussian_run(found), 1e-5, accountant)
    assert target * (1 - 1e-4) <= reached <= target


def test_calibration_without_a_target_asks_for_no_noise():
    assert accounting.calibrate_noise_multiplier(gaussian_run, math.inf, 1e-5) == 0.0


def test_calibration_of_a_mechanism_that_refuses_to_have_no_noise():
    def run(noise):
        return dp.local_laplace(1.0, noise).event(sampling.everyone(10), 3)

    found = accounting.calibrate_noise_multiplier(run, 2.0, 1e-5, "best")
    # Pure: three times 2 / noise_multiplier.
    assert found == pytest.approx(3.0, rel=1e-3)
    assert accounting.epsilon(run(found), 1e-5) <= 2.0


def test_calibration_refuses_events_of_which_more_noise_costs_more():
    with pytest.raises(ValueError, match=r"^make_event returns an event whose epsilon"):
        accounting.calibrate_noise_multiplier(
            lambda noise: gaussian_run(1e-2 / max(noise, 1e-2)), 2.0, 1e-5
        )


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_calibration_names_an_unreachable_target(accountant):
    def leaky(noise):
        parts = [events.gaussian(noise), events.gaussian(1.0)]
        return gaussian_run(1.0)._replace(event=dp_accounting.ComposedDpEvent(parts))

    least = accounting.epsilon(gaussian_run(1.0), 1e-5, accountant)
    with pytest.raises(
        ValueError,
        match=rf"target_epsilon 2 is out of reach at delta 1e-05: .* is {least:.4g}"
        rf" by {accountant}; raise target_epsilon",
    ):
        accounting.calibrate_noise_multiplier(leaky, 2.0, 1e-5, accountant)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_noise_multiplier(bad):
    with pytest.raises(ValueError, match="noise_multiplier must be finite and not neg"):
        events.gaussian(bad)
    handmade = PrivacyEvent(
        dp_accounting.GaussianDpEvent(bad), "add_or_remove_one", "client"
    )
    with pytest.raises(ValueError, match="noise_multiplier must be finite and not neg"):
        accounting.epsilon(handmade, 1e-5)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan])
def test_bad_probabilities(bad):
    gaussian = events.gaussian(1.0)
    with pytest.raises(ValueError, match=r"sampling_prob must lie in \(0, 1\]"):
        events.poisson(bad, gaussian)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\)"):
        accounting.epsilon(gaussian_run(1.0), bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, math.nan, math.inf])
def test_bad_counts(bad):
    gaussian = events.gaussian(1.0)
    with pytest.raises(ValueError, match="num_rounds must be an integer"):
        events.compose(gaussian, bad)
    with pytest.raises(ValueError, match="population must be an integer"):
        events.fixed_size(bad, 1, gaussian)
    with pytest.raises(ValueError, match="cohort_size must be an integer"):
        events.fixed_size(10, bad, gaussian)
    handmade = dp_accounting.SelfComposedDpEvent(gaussian, bad)
    with pytest.raises(ValueError, match="count must be an integer"):
        accounting.epsilon(PrivacyEvent(handmade, "replace_one", "client"), 1e-5)


def test_other_bad_arguments():
    gaussian = events.gaussian(1.0)
    with pytest.raises(ValueError, match="cohort_size must be at most population 10"):
        events.fixed_size(10, 11, gaussian)
    with pytest.raises(
        ValueError, match="unknown accountant 'rpd'; did you mean 'rdp'"
    ):
        accounting.epsilon(gaussian_run(1.0), 1e-5, "rpd")
    with pytest.raises(ValueError, match="unknown neighboring_relation 'zeroed'"):
        accounting.epsilon(gaussian_run(1.0, 1, "zeroed"), 1e-5)
    for target in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="target_epsilon must be positive"):
            accounting.calibrate_noise_multiplier(gaussian_run, target, 1e-5)
    with pytest.raises(ValueError, match="noise_multiplier must be known before trac"):
        jax.jit(lambda noise: events.gaussian(noise) and noise)(1.0)


@pytest.mark.exhaustive
def test_importing_does_not_pay_for_dp_accounting():
    code = (
        "import sys, ppml_lab.dp.accounting; sys.exit('dp_accounting' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_epsilons_are_those_of_one_event_each(accountant):
    noises = [0.0, 0.7, np.float32(1.3), 5]
    found = accounting.epsilons(noises, 0.02, 50, 1e-5, accountant)
    assert found == [
        accounting.epsilon(poisson_run(0.02, float(noise), 50), 1e-5, accountant)
        for noise in noises
    ]
    assert all(type(value) is float for value in found)


def test_a_sweep_of_noise_is_quick():
    noises = np.linspace(0.5, 10, 200)
    accounting.epsilons([1.0], 0.01, 10_000, 1e-5)
    accountants.rdp_vector.cache_clear()
    start = time.process_time()
    found = accounting.epsilons(noises, 0.01, 10_000, 1e-5)
    # A quarter of a second where nothing else runs.
    assert time.process_time() - start < 2
    assert np.all(np.diff(found) < 0)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_epsilon_curve(accountant):
    once = poisson_run(0.02, 1.3, 1)._replace(
        event=events.poisson(0.02, events.gaussian(1.3))
    )
    rounds = [1, 10, 100]
    found = accounting.epsilon_curve(once, rounds, 1e-5, accountant)
    assert found == [
        accounting.epsilon(poisson_run(0.02, 1.3, count), 1e-5, accountant)
        for count in rounds
    ]
    with pytest.raises(ValueError, match=r"^rounds must be an integer"):
        accounting.epsilon_curve(once, [0], 1e-5, accountant)


def test_delta_curve_of_a_gaussian():
    run = gaussian_run(2.0, 4)
    points = [0.0, 0.5, 1.0, 3.0]
    mean = 1.0
    exact = [
        stats.norm.cdf(mean / 2 - e / mean)
        - math.exp(e) * stats.norm.cdf(-mean / 2 - e / mean)
        for e in points
    ]
    by_pld = accounting.delta_curve(run, points, "pld")
    assert by_pld == pytest.approx(exact, rel=1e-4)
    by_rdp = accounting.delta_curve(run, points)
    assert all(np.array(exact) < by_rdp)
    assert all(np.array(by_rdp) < 5 * np.array(exact))
    assert all(type(value) is float for value in by_rdp + by_pld)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_delta_curve_inverts_epsilon(accountant):
    run = poisson_run(0.02, 1.3, 100)
    deltas = [1e-8, 1e-5, 1e-3]
    points = [accounting.epsilon(run, delta, accountant) for delta in deltas]
    found = accounting.delta_curve(run, points, accountant)
    assert found == pytest.approx(deltas, 1e-3, 0)
    assert accounting.delta_curve(gaussian_run(0), [1.0], accountant) == [1.0]
    with pytest.raises(ValueError, match="epsilons must be finite and not negative"):
        accounting.delta_curve(run, [-1.0], accountant)


def failing_run(probability, num_rounds=100):
    step = events.failing(events.poisson(0.02, events.gaussian(1.3)), probability)
    event = events.compose(step, num_rounds)
    return PrivacyEvent(event, "add_or_remove_one", "client")


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_failures_are_part_of_delta(accountant):
    sound = poisson_run(0.02, 1.3, 100)
    found = accounting.epsilon(failing_run(1e-7), 3e-5, accountant)
    assert found == pytest.approx(accounting.epsilon(sound, 2e-5, accountant), rel=1e-9)
    assert found > accounting.epsilon(sound, 3e-5, accountant)
    (delta,) = accounting.delta_curve(failing_run(1e-7), [found], accountant)
    assert delta == pytest.approx(3e-5, rel=1e-3)
    assert accounting.delta_curve(failing_run(0.1), [1.0], accountant) == [1.0]


def test_failures_that_use_up_delta_are_named():
    assert failing_run(0) == poisson_run(0.02, 1.3, 100)
    with pytest.raises(
        ValueError, match=r"delta 1e-05 must exceed 2e-05, the prob.*; raise delta"
    ):
        accounting.epsilon(failing_run(2e-7), 1e-5)
    with pytest.raises(ValueError, match=r"probability must lie in \(0, 1\), got 1.0"):
        events.failing(events.gaussian(1.0), 1)
    # What is not private anyway does not care.
    naked = failing_run(1e-7)._replace(privacy_unit=None)
    assert accounting.epsilon(naked, 1e-5) == math.inf


def test_a_delta_above_one_over_the_population_warns():
    event = dp.gaussian(1.0, 1.0).event(sampling.poisson(200, 0.1), 3)
    with pytest.warns(UserWarning, match="larger than one over the 200 clients"):
        accounting.epsilon(event, 0.006)
    accounting.epsilon(event, 0.005)
    nothing = dp.no_privacy().event(sampling.poisson(200, 0.1), 3)
    assert accounting.epsilon(nothing, 0.1) == np.inf


def test_what_cuts_samples_may_not_be_sampled_again():
    inner = events.failing(events.gaussian(1.0), 1e-12)
    run = poisson_run(0.1, 1.0, 1)._replace(event=events.poisson(0.1, inner))
    with pytest.raises(events.UnsupportedEventError, match="only Gaussian releases"):
        accounting.epsilon(run, 1e-5)


@pytest.mark.parametrize(
    ("noise", "batch", "epochs", "printed"),
    [(1.3, 256, 15, 1.19), (1.1, 256, 60, 3.01), (0.7, 256, 45, 7.10)],
)
def test_the_old_conversion_gives_what_tutorials_printed(noise, batch, epochs, printed):
    """The MNIST tutorial of TensorFlow Privacy, at its coarser grid of orders."""
    step = events.poisson(batch / 60_000, events.gaussian(noise))
    run = PrivacyEvent(
        events.compose(step, 60_000 // batch * epochs), "add_or_remove_one", "example"
    )
    old = accounting.old_conversion_epsilon(run, 1e-5)
    assert printed - 0.015 < old < printed + 0.005
    assert accounting.epsilon(run, 1e-5) < old
    with pytest.raises(ValueError, match="delta"):
        accounting.old_conversion_epsilon(run, 1.0)
