"""What a whole sweep costs."""

from __future__ import annotations

import dataclasses

import dp_accounting
import pytest

from ppml_lab import base, lab
from ppml_lab.dp import accounting

PLAIN = lab.Config(data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=3)
CENTRAL = dataclasses.replace(PLAIN, privacy="central")
LOCAL = dataclasses.replace(PLAIN, privacy="local")
EXAMPLE = dataclasses.replace(PLAIN, training="central", privacy="example")
DELTA = 1e-4


def point(config: lab.Config, noise: float, seed: int) -> lab.Point:
    rates = lab.Hyperparams(noise_multiplier=noise)
    return lab.Point(config, rates, seed, {"noise": noise, "seed": seed}, DELTA)


def test_runs_with_the_same_promise_add_up() -> None:
    points = [
        *(point(CENTRAL, noise, seed) for noise in (1.0, 2.0) for seed in (0, 1)),
        point(CENTRAL, 0.0, 0),
        point(PLAIN, 1.0, 0),
        point(LOCAL, 30.0, 0),
    ]
    central, local = lab.cost_together(points)
    facts = lab.load_data(PLAIN.data).facts
    events = [
        lab.build(CENTRAL, lab.Hyperparams(noise_multiplier=noise), facts).event(6)
        for noise in (1.0, 2.0)
    ]
    expected = base.PrivacyEvent(
        dp_accounting.ComposedDpEvent([event.event for event in events]),
        "add_or_remove_one",
        "client",
    )
    assert central == {
        "dataset": "digits",
        "privacy_unit": "client",
        "neighboring_relation": "add_or_remove_one",
        "delta": DELTA,
        "runs": 4,
        "epsilon_rdp": pytest.approx(accounting.epsilon(expected, DELTA), rel=1e-9),
    }
    assert (local["runs"], local["neighboring_relation"]) == (1, "replace_one")


def test_another_partition_has_other_clients_but_the_same_examples() -> None:
    for config, runs in ((CENTRAL, [1, 1]), (EXAMPLE, [2])):
        other = dataclasses.replace(
            config, data=lab.DataConfig(num_clients=20, data_seed=1)
        )
        rows = lab.cost_together([point(config, 1.0, 0), point(other, 1.0, 0)])
        assert [row["runs"] for row in rows] == runs
    assert lab.cost_together([point(PLAIN, 1.0, 0)]) == []
