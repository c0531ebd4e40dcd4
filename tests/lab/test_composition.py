"""What a whole sweep costs."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import dp_accounting
import numpy as np
import pytest

from ppml_lab import base, lab
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab import composition, parts
from ppml_lab.lab.budget import whole_run

PLAIN = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=3),
)
CENTRAL = replace(PLAIN, mechanism=parts.Gaussian(1.0, 1.0))
LOCAL = replace(PLAIN, mechanism=parts.LocalGaussian(1.0, 1.0))
EXAMPLE = parts.Central(
    partition=parts.Iid(20),
    batch=parts.Poisson(5),
    mechanism=parts.Gaussian(1.0, 1.0),
    schedule=lab.Schedule(num_rounds=3),
)
DELTA = 1e-4


def point(
    setup: Any, noise: float, seed: int, delta: float | None = DELTA
) -> lab.Point:
    if not isinstance(setup.mechanism, parts.NoPrivacy):
        setup = setup.with_noise(noise)
    return lab.Point(setup, seed, {"noise": noise, "seed": seed}, delta)


def scheduled(setup: Any, **fields: Any) -> Any:
    """The same with other fields of its schedule."""
    return replace(setup, schedule=replace(setup.schedule, **fields))


def event(setup: Any, noise: float, rounds: int) -> base.PrivacyEvent:
    """Of that many rounds, as one run."""
    return setup.with_noise(noise).algorithm(lab.facts_of(setup)).event(rounds)


def epsilon(setup: Any, noise: float, rounds: int, delta: float) -> float:
    """Of that many rounds, as one run."""
    return accounting.epsilon(event(setup, noise, rounds), delta)


def test_rows_that_clients_hold_out_for_themselves_are_looked_at() -> None:
    """They are in no client's promise, and another run may train on them."""
    judging = replace(CENTRAL, held_out=0.25)
    points = [point(CENTRAL, 1.0, 0), point(judging, 1.0, 0)]
    (row,) = lab.cost_together(points)
    # The same clients, each with some of its rows: whoever it is pays for both.
    assert (row["runs"], row["elsewhere"], row["unprotected"]) == (2, 0, 1)
    (alone,) = lab.cost_together(points[1:])
    assert (alone["runs"], alone["unprotected"]) == (1, 0)
    plain = point(replace(PLAIN, held_out=0.25), 0.0, 0)
    (beside,) = lab.cost_together([points[0], plain])
    assert (beside["runs"], beside["unprotected"]) == (1, 1)


def test_runs_with_the_same_promise_add_up() -> None:
    points = [
        *(point(CENTRAL, noise, seed) for noise in (1.0, 2.0) for seed in (0, 1)),
        point(CENTRAL, 0.0, 0),
        point(PLAIN, 1.0, 0),
        point(LOCAL, 30.0, 0),
    ]
    central, local = lab.cost_together(points)
    events = [event(CENTRAL, noise, 6).event for noise in (1.0, 2.0)]
    expected = base.PrivacyEvent(
        dp_accounting.ComposedDpEvent(events),
        "add_or_remove_one",
        "client",
    )
    assert central == {
        "dataset": "Digits",
        "privacy_unit": "client",
        "neighboring_relation": "add_or_remove_one",
        "delta": DELTA,
        "runs": 4,
        "epsilon_rdp": pytest.approx(accounting.epsilon(expected, DELTA), rel=1e-9),
        "epsilon_server": math.inf,
        "same_release": 0,
        "elsewhere": 1,
        "unprotected": 2,
    }
    assert (local["runs"], local["neighboring_relation"]) == (1, "replace_one")
    # Clients' own noise is there for the server too.
    assert local["epsilon_server"] == local["epsilon_rdp"] < math.inf


def test_each_level_that_a_run_protects_adds_up_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise on the clients' sums beside their own noise on their examples' steps."""
    steps = replace(PLAIN, trainer=parts.LocalDpSgd(noise_multiplier=1.0))

    def both(setup: Any) -> base.PrivacyEvent:
        return whole_run(setup)._replace(beside=(whole_run(steps),))

    monkeypatch.setattr(composition, "whole_run", both)
    rows = lab.cost_together([point(CENTRAL, 1.0, seed) for seed in (0, 1)])
    assert [(row["privacy_unit"], row["runs"]) for row in rows] == [
        ("client", 2),
        ("example", 2),
    ]
    assert [math.isinf(row["epsilon_server"]) for row in rows] == [True, False]


def test_another_partition_has_other_clients_but_the_same_examples() -> None:
    for setup, runs in ((CENTRAL, [1, 1]), (EXAMPLE, [2])):
        other = replace(setup, partition=parts.Iid(20, seed=1))
        rows = lab.cost_together([point(setup, 1.0, 0), point(other, 1.0, 0)])
        assert [row["runs"] for row in rows] == runs
    assert lab.cost_together([point(PLAIN, 1.0, 0)]) == []


@lab.part
class Named:
    """The clients of another partition, under a name of their own."""

    like: parts.Partition = parts.Iid(20)
    name: str = ""

    def deal(self, train: Any, users: Any) -> Any:
        """As the other does."""
        return self.like.deal(train, users)


def test_what_changes_no_data_parts_no_runs() -> None:
    setups = [
        CENTRAL,
        replace(CENTRAL, partition=Named()),
        replace(CENTRAL, partition=Named(name="other")),
    ]
    (row,) = lab.cost_together([point(setup, 1.0, 0) for setup in setups])
    assert row["runs"] == 3
    # All draw for themselves: three runs cost as one of three times the rounds.
    assert row["epsilon_rdp"] == pytest.approx(epsilon(CENTRAL, 1.0, 9, DELTA))


def test_other_data_under_one_name_do_not_add_up() -> None:
    made = [
        replace(EXAMPLE, data=parts.Synthetic(6, seed=seed), partition=parts.Natural())
        for seed in (0, 1)
    ]
    rows = lab.cost_together([point(setup, 1.0, 0) for setup in made])
    assert [(row["dataset"], row["runs"]) for row in rows] == [("Synthetic", 1)] * 2
    assert [row["elsewhere"] for row in rows] == [0, 0]


def composed(*setups: Any) -> float:
    """Epsilon of these runs, each of them whole."""
    runs = ledger.Ledger()
    for number, setup in enumerate(setups):
        runs = ledger.add(runs, str(number), whole_run(setup))
    return accounting.epsilon(ledger.total(runs)._replace(population=None), DELTA)


def counts(rows: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """Of each row: what it counts, and what it does not."""
    return [(row["runs"], row["elsewhere"], row["unprotected"]) for row in rows]


def test_who_is_in_two_data_sets_pays_for_both() -> None:
    """Other validation shares train on other rows, most of which are the same."""
    (whole, part) = (scheduled(EXAMPLE, validation=share) for share in (0.0, 0.2))
    (row,) = lab.cost_together([point(setup, 1.0, 0) for setup in (whole, part)])
    assert row["epsilon_rdp"] == pytest.approx(
        composed(*(setup.with_noise(1.0) for setup in (whole, part)))
    )
    # The second promises nothing to rows of the first that it holds out.
    assert counts([row]) == [(2, 0, 1)]
    assert row["dataset"] == "Digits"
    # One share alone holds out nobody's rows that another run trains on.
    assert counts(lab.cost_together([point(part, 1.0, n) for n in (0, 1)])) == [
        (2, 0, 0)
    ]
    plain = replace(part, mechanism=parts.NoPrivacy())
    rows = lab.cost_together([point(whole, 1.0, 0), point(plain, 1.0, 0)])
    assert counts(rows) == [(1, 0, 1)]


@lab.part
class Fewer:
    """Some rows of every user."""

    step: int = 1

    num_classes = 10

    def load(self) -> Any:
        """Leaves out every so-manieth."""
        train, users, test = parts.Synthetic(6).load()
        kept = np.arange(len(users)) % self.step != 1
        return {name: leaf[kept] for name, leaf in train.items()}, users[kept], test


def test_users_are_the_same_with_other_rows_and_beside_others() -> None:
    own = replace(CENTRAL, partition=parts.Natural(), sampler=parts.Everyone())
    setups = [
        replace(own, data=Fewer()),
        replace(own, data=Fewer(5)),
        # Whole users are held out.
        scheduled(replace(own, data=Fewer()), validation=0.4),
    ]
    (row,) = lab.cost_together([point(setup, 1.0, 0) for setup in setups])
    assert counts([row]) == [(3, 0, 1)]
    assert row["epsilon_rdp"] == pytest.approx(
        composed(*(setup.with_noise(1.0) for setup in setups))
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(CENTRAL, partition=parts.Iid(50)),
        replace(CENTRAL, sampler=parts.FixedSize(5)),
        EXAMPLE,
        scheduled(EXAMPLE, validation=0.2),
        scheduled(CENTRAL, validation=0.2),
    ],
    ids=["clients", "relation", "examples", "fewer examples", "dealt anew"],
)
def test_runs_for_other_units_of_the_same_rows_are_said(other: Any) -> None:
    points = [point(CENTRAL, 1.0, 0), point(other, 1.0, 0), point(other, 1.0, 1)]
    rows = lab.cost_together(points)
    assert [row[:2] for row in counts(rows)] == [(1, 2), (2, 1)]
    share = other.schedule.validation
    assert [row[2] for row in counts(rows)] == [2 * bool(share), 0]


def test_the_smallest_delta_counts() -> None:
    points = [
        point(CENTRAL, 1.0, seed, delta) for seed, delta in ((0, 2e-3), (1, 1e-3))
    ]
    (row,) = lab.cost_together([*points, point(CENTRAL, 1.0, 2, None)])
    assert (row["runs"], row["delta"]) == (3, 1e-3)
    assert row["epsilon_rdp"] == pytest.approx(epsilon(CENTRAL, 1.0, 9, 1e-3))


def test_one_key_is_one_release_of_the_longest_run() -> None:
    """Same noise and cohorts, so nothing new: but for what only the longest shows."""
    longer = scheduled(CENTRAL, num_rounds=7, eval_every=1)
    layout = lab.Layout(num_lanes=2, num_devices=1)
    same = [
        point(CENTRAL, 1.0, 0, 1e-3),
        point(longer, 1.0, 0),
        point(replace(CENTRAL, layout=layout), 1.0, 0, 1e-3),
        point(scheduled(longer, evals_per_chunk=2, metric="loss"), 1.0, 0),
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
