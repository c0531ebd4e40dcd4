"""Noise that ends: what of delta it costs, in every event, and who says so."""

from __future__ import annotations

import math

import dp_accounting
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from ppml_lab import base, dp, federated
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, cut, events
from ppml_lab.federated import sampling


def run(event, relation="add_or_remove_one"):
    return PrivacyEvent(event, relation, "client")


def outside(event):
    return sum(
        count * part.probability
        for part, count in events.flatten(event).items()
        if isinstance(part, events.Failure) and part.reason == "support"
    )


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.5, 1.0, 4.0])
def test_one_coordinate_is_the_tail_beyond_the_cut(noise):
    exact = stats.norm.sf(cut.NORMAL_CUT - 1 / noise)
    assert cut.of_gaussian(noise) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("coordinates", [1, 2, 100, 10**4, 10**6, 2**24])
@pytest.mark.parametrize("noise", [0.15, 0.5, 1.0, 30.0])
def test_no_way_to_spread_the_distance_has_more(coordinates, noise):
    most = cut.of_gaussian(noise) + cut.spread(noise, coordinates)
    for share in np.linspace(0, 1, 30):
        one = share / noise
        rest = math.sqrt((1 - share**2) / max(coordinates - 1, 1)) / noise
        # Differences of tiny parts are their width times the density.
        small = rest * stats.norm.pdf(cut.NORMAL_CUT)
        masses = stats.norm.sf(cut.NORMAL_CUT - np.array([one, rest]))
        masses = np.maximum(masses - stats.norm.sf(cut.NORMAL_CUT), [0, small])
        assert masses[0] + (coordinates - 1) * masses[1] <= most * (1 + 1e-9)


def test_a_known_dimension_adds_its_spread():
    for mechanism, sampler, change, chance in (
        (dp.gaussian(1.0, 2.0), sampling.poisson(100, 0.1), 1, 0.1),
        (dp.gaussian(1.0, 2.0), sampling.everyone(100), 1, 1.0),
        (dp.gaussian(1.0, 2.0), sampling.fixed_size(100, 10), 2, 0.2),
        (dp.local_gaussian(1.0, 2.0), sampling.poisson(100, 0.1), 2, 0.1),
    ):
        plain = mechanism.event(sampler, 3)
        wide = plain._replace(event=events.on_coordinates(plain.event, 10**6))
        more = outside(wide.event) - outside(plain.event)
        expected = 3 * chance * cut.spread(2.0 / change, 10**6)
        assert more == pytest.approx(expected)
        assert accounting.epsilon(wide, 1e-5) >= accounting.epsilon(plain, 1e-5)
        assert events.made_by_clients(wide.event) == (mechanism.trust == "local")
    free = dp.gaussian(1.0, 0.0).event(sampling.everyone(100), 3).event
    assert events.on_coordinates(free, 10**6) == free


@pytest.mark.parametrize("kind", ["clients", "pooled", "their examples"])
def test_trainings_tell_how_many_coordinates_they_release(kind):
    task = base.Task(
        lambda key: jnp.zeros((10, 100)), lambda *_: jnp.zeros(1), lambda *_: {}
    )
    example = dp.gaussian(1.0, 2.0, privacy_unit="example")
    everyone, rate = federated.everyone(10), optax.sgd(0.1)
    if kind == "pooled":
        algorithm = federated.central_sgd(task, rate, everyone, mechanism=example)
    elif kind == "clients":
        algorithm = federated.averaging(
            task,
            federated.local_sgd(task, rate, 1, num_steps=1),
            everyone,
            mechanism=dp.gaussian(1.0, 2.0),
        )
    else:
        trainer = federated.local_dp_sgd(task, rate, example, 1.0, 1, 4, method="vmap")
        algorithm = federated.averaging(task, trainer, everyone)
    more = outside(algorithm.event(3).event) - 3 * cut.of_gaussian(2.0)
    assert more == pytest.approx(3 * cut.spread(2.0, 1000), rel=1e-6)


def test_laplace_has_its_own():
    assert cut.of_laplace(1.0) == pytest.approx(math.e * 2.0**-64)
    assert 0.5 < cut.of_laplace(1 / 60) <= 1


def test_sampling_multiplies_it():
    release, mass = events.gaussian(0.25), cut.of_gaussian(0.25)
    assert outside(release) == mass
    assert outside(events.compose(release, 7)) == pytest.approx(7 * mass)
    assert outside(events.poisson(0.01, release)) == pytest.approx(0.01 * mass)
    fixed = events.fixed_size(100, 5, release)
    assert outside(fixed) == pytest.approx(2 * 0.05 * mass)
    taking = events.compose(events.participating(0.1, events.compose(release, 3)), 2)
    assert outside(taking) == pytest.approx(0.6 * mass)
    # Several releases on one cohort are one with less noise.
    inner = events.compose(events.gaussian(0.5), 4)
    assert outside(events.poisson(0.01, inner)) == pytest.approx(0.01 * mass)


@pytest.mark.parametrize(
    ("mechanism", "laplace"),
    [
        (dp.gaussian(1.0, 0.25), False),
        (dp.adaptive_gaussian(1.0, 0.25, 10.0), False),
        (dp.scheduled_gaussian(1.0, lambda step: 0.25), False),
        (dp.local_gaussian(1.0, 0.5), False),
        (dp.local_laplace(1.0, 0.05), True),
    ],
    ids=["gaussian", "adaptive", "scheduled", "local", "laplace"],
)
def test_every_noisy_mechanism_has_it(mechanism, laplace):
    event = mechanism.event(sampling.poisson(100, 0.1), 5)
    release = cut.of_gaussian(0.25)
    if laplace:
        release = cut.of_laplace(0.025)
    assert outside(event.event) == pytest.approx(5 * 0.1 * release)
    assert accounting.cut_share(event, 1e-4) == outside(event.event) / 1e-4


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_it_is_part_of_delta_without_a_factor(accountant):
    steps = run(events.compose(events.poisson(0.02, events.gaussian(0.4)), 50))
    delta = 2 * outside(steps.event)
    ideal = cut.NORMAL_CUT
    found = accounting.epsilon(steps, delta, accountant)
    try:
        cut.NORMAL_CUT = 1e3
        cut.of_gaussian.cache_clear()
        assert found == pytest.approx(
            accounting.epsilon(steps, delta / 2, accountant), rel=1e-6
        )
    finally:
        cut.NORMAL_CUT = ideal
        cut.of_gaussian.cache_clear()


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
@pytest.mark.parametrize(
    ("prob", "noise", "rounds"), [(1, 0.05, 10**6), (0.01, 0.05, 1000), (1, 0.05, 1)]
)
def test_too_little_noise_has_no_epsilon_and_says_why(prob, noise, rounds, accountant):
    steps = run(events.compose(events.poisson(prob, events.gaussian(noise)), rounds))
    assert accounting.epsilon(steps, 1e-5, accountant) == math.inf
    assert "no epsilon holds at this delta" in accounting.cut_note(steps, 1e-5)
    assert accounting.old_conversion_epsilon(steps, 1e-5) == math.inf
    assert accounting.delta_curve(steps, [1.0], accountant)[0] >= 1e-5


def test_the_note_is_silent_below_a_thousandth_of_delta():
    steps = run(events.compose(events.gaussian(0.5), 100))
    share = accounting.cut_share(steps, 5e-8)
    assert 1e-3 < share < 2e-3
    assert f"{share:.2g} of delta" in accounting.cut_note(steps, 5e-8)
    assert accounting.cut_note(steps, 1e-6) == ""
    assert accounting.cut_note(run(dp_accounting.NonPrivateDpEvent()), 1e-9) == ""


def test_calibration_meets_large_targets_with_enough_noise():
    found = accounting.calibrate_noise_multiplier(
        lambda noise: run(events.gaussian(noise)), 1000.0, 1e-5
    )
    assert outside(events.gaussian(found)) < 1e-5
    assert accounting.epsilon(run(events.gaussian(found)), 1e-5) <= 1000
