"""What a whole sweep costs."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import dp_accounting
import pytest

from ppml_lab import base, lab
from ppml_lab.dp import accounting
from ppml_lab.lab import composition
from ppml_lab.lab.budget import whole_run

PLAIN = lab.Config(data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=3)
CENTRAL = dataclasses.replace(PLAIN, privacy="central")
LOCAL = dataclasses.replace(PLAIN, privacy="local")
EXAMPLE = dataclasses.replace(PLAIN, training="central", privacy="example")
DELTA = 1e-4


def point(
    config: lab.Config, noise: float, seed: int, delta: float | None = DELTA
) -> lab.Point:
    rates = lab.Hyperparams(noise_multiplier=noise)
    return lab.Point(config, rates, seed, {"noise": noise, "seed": seed}, delta)


def dealt(config: lab.Config, **fields: Any) -> lab.Config:
    """The same on other data."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def epsilon(config: lab.Config, noise: float, rounds: int, delta: float) -> float:
    """Of that many rounds, as one run."""
    facts = lab.load_data(config.data).facts
    rates = lab.Hyperparams(noise_multiplier=noise)
    return accounting.epsilon(lab.build(config, rates, facts).event(rounds), delta)


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
        "epsilon_server": math.inf,
        "same_release": 0,
        "unprotected": 2,
    }
    assert (local["runs"], local["neighboring_relation"]) == (1, "replace_one")
    # Clients' own noise is there for the server too.
    assert local["epsilon_server"] == local["epsilon_rdp"] < math.inf


def test_each_level_that_a_run_protects_adds_up_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise on the clients' sums beside their own noise on their examples' steps."""

    def both(config: lab.Config, rates: Any, facts: Any) -> base.PrivacyEvent:
        central = whole_run(config, rates, facts)
        steps = dataclasses.replace(config, privacy="local_dp_sgd")
        return central._replace(beside=(whole_run(steps, rates, facts),))

    monkeypatch.setattr(composition, "whole_run", both)
    rows = lab.cost_together([point(CENTRAL, 1.0, seed) for seed in (0, 1)])
    assert [(row["privacy_unit"], row["runs"]) for row in rows] == [
        ("client", 2),
        ("example", 2),
    ]
    assert [math.isinf(row["epsilon_server"]) for row in rows] == [True, False]


def test_another_partition_has_other_clients_but_the_same_examples() -> None:
    for config, runs in ((CENTRAL, [1, 1]), (EXAMPLE, [2])):
        other = dealt(config, data_seed=1)
        rows = lab.cost_together([point(config, 1.0, 0), point(other, 1.0, 0)])
        assert [row["runs"] for row in rows] == runs
    assert lab.cost_together([point(PLAIN, 1.0, 0)]) == []


@pytest.mark.parametrize(
    ("dealing", "field", "values"),
    [
        ({}, "dirichlet_alpha", (0.1, 0.5)),
        ({}, "labels_per_client", (2, 3)),
        ({}, "shards_per_client", (2, 4)),
        ({"partition": "shards"}, "size_sigma", (0.5, 1.0)),
        ({"partition": "dirichlet"}, "synthetic_beta", (0.0, 1.0)),
        (
            {"dataset": "synthetic", "partition": "natural", "num_clients": 6},
            "dirichlet_alpha",
            (0.1, 0.5),
        ),
    ],
)
def test_a_field_that_changes_nothing_parts_no_runs(
    dealing: dict[str, Any], field: str, values: tuple[Any, Any]
) -> None:
    config = dealt(CENTRAL, **dealing)
    points = [point(dealt(config, **{field: value}), 1.0, 0) for value in values]
    (row,) = lab.cost_together(points)
    assert row["runs"] == 2
    # Both draw for themselves: two runs cost as one of twice the rounds.
    assert row["epsilon_rdp"] == pytest.approx(epsilon(config, 1.0, 6, DELTA))


def test_other_data_under_one_name_do_not_add_up() -> None:
    synthetic = dealt(EXAMPLE, dataset="synthetic", num_clients=6)
    other = dealt(synthetic, data_seed=1)
    rows = lab.cost_together([point(synthetic, 1.0, 0), point(other, 1.0, 0)])
    assert [(row["dataset"], row["runs"]) for row in rows] == [("synthetic", 1)] * 2


def test_the_smallest_delta_counts() -> None:
    points = [
        point(CENTRAL, 1.0, seed, delta) for seed, delta in ((0, 2e-3), (1, 1e-3))
    ]
    (row,) = lab.cost_together([*points, point(CENTRAL, 1.0, 2, None)])
    assert (row["runs"], row["delta"]) == (3, 1e-3)
    assert row["epsilon_rdp"] == pytest.approx(epsilon(CENTRAL, 1.0, 9, 1e-3))


def test_one_key_is_one_release_of_the_longest_run() -> None:
    """Same noise and cohorts, so nothing new: but for what only the longest shows."""
    longer = dataclasses.replace(CENTRAL, num_rounds=7, eval_every=1)
    same = [
        point(CENTRAL, 1.0, 0, 1e-3),
        point(longer, 1.0, 0),
        point(dataclasses.replace(CENTRAL, num_lanes=2, num_devices=1), 1.0, 0, 1e-3),
        point(dataclasses.replace(longer, stop_at_accuracy=0.5), 1.0, 0),
    ]
    (row,) = lab.cost_together(same)
    assert (row["runs"], row["same_release"], row["delta"]) == (1, 3, DELTA)
    assert row["epsilon_rdp"] == pytest.approx(epsilon(CENTRAL, 1.0, 7, DELTA))
    (row,) = lab.cost_together([*same, point(CENTRAL, 1.0, 1)])
    assert (row["runs"], row["same_release"]) == (2, 3)
    assert row["epsilon_rdp"] == pytest.approx(epsilon(CENTRAL, 1.0, 10, DELTA))


def test_a_delta_too_large_for_the_population_is_warned_of_once() -> None:
    points = [point(CENTRAL, 1.0, seed, 0.2) for seed in range(3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (row,) = lab.cost_together(points)
    assert row["runs"] == 3
    assert len(caught) == 1
    assert "delta 0.2 is larger than one over the 20 clients" in str(caught[0].message)
