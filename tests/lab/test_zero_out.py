"""Neighbours that put nothing in a unit's place: from a sampler to the last table."""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import dp_accounting.rdp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from ppml_lab import base, dp, federated, lab
from ppml_lab.__main__ import main
from ppml_lab.dp import accounting, events, ledger, rdp
from ppml_lab.lab import parts

DELTA = 1e-3


def zeroed(sampler: base.ClientSampler) -> base.ClientSampler:
    """The same draws; whose contribution is zeroed stays where it was."""
    return sampler._replace(neighboring_relation="zero_out")


POISSON, EVERYONE = federated.poisson(400, 0.1), federated.everyone(20)
MECHANISMS = {
    "gaussian": dp.gaussian(0.5, 1.1),
    "scheduled": dp.scheduled_gaussian(1.0, optax.exponential_decay(2.0, 1, 0.8)),
    "adaptive": dp.adaptive_gaussian(1.0, 1.1, 40.0),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_sum_moves_as_far_as_when_one_is_removed(name: str) -> None:
    made = MECHANISMS[name].event(zeroed(POISSON), 5)
    removed = MECHANISMS[name].event(POISSON, 5)
    assert made == removed._replace(neighboring_relation="zero_out")


def test_of_everybody_replacing_moves_a_sum_twice_as_far() -> None:
    whole = dp.gaussian(0.5, 1.1).event(zeroed(EVERYONE), 5)
    replaces = EVERYONE._replace(neighboring_relation="replace_one")
    twice = dp.gaussian(0.5, 2.2).event(replaces, 5)
    assert accounting.stated(whole, DELTA) == accounting.stated(twice, DELTA)
    assert accounting.stated(whole, DELTA).accountant == "pld"


def test_rdp_is_that_of_another_implementation() -> None:
    """dp-accounting calls this relation REPLACE_SPECIAL."""
    orders = range(2, 60)
    accountant = dp_accounting.rdp.RdpAccountant(
        [*orders], dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.1))
    accountant.compose(step, 5)
    made = MECHANISMS["gaussian"].event(zeroed(POISSON), 5)
    ours = accounting.rdp_curve(made).values[np.isin(rdp.ORDERS, orders)]
    np.testing.assert_allclose(ours, np.array(accountant.rdp), rtol=1e-6)


def test_what_has_no_bound_under_it_is_refused() -> None:
    drawn = zeroed(federated.fixed_size(20, 5))
    for made in (
        dp.gaussian(1.0, 1.0).event(drawn, 1),
        base.PrivacyEvent(events.randomised_response(0.5, 2), "zero_out", "client"),
    ):
        with pytest.raises(events.UnsupportedEventError, match="replace_one"):
            accounting.epsilon(made, DELTA)
    local = dp.local_gaussian(1.0, 1.0).event(zeroed(POISSON), 1)
    assert local.neighboring_relation == "replace_one"


def test_relations_stand_side_by_side_in_a_ledger() -> None:
    book, made = ledger.Ledger(), dp.gaussian(0.5, 1.1)
    for name, sampler in {
        "a": EVERYONE,
        "b": zeroed(EVERYONE),
        "c": zeroed(EVERYONE),
    }.items():
        book = ledger.add(book, name, made.event(sampler, 5))
    with pytest.raises(ledger.MixedPromisesError, match=r"'b', 'c' promise .*zero_out"):
        ledger.total(book)
    first, second = ledger.report(book, DELTA)["totals"]
    assert [row["names"] for row in (first, second)] == [["a"], ["b", "c"]]
    assert first["neighboring_relation"] == "add_or_remove_one"
    assert second["neighboring_relation"] == "zero_out"
    ten = made.event(zeroed(EVERYONE), 10)
    assert second["epsilon_public"] == accounting.stated(ten, DELTA).epsilon


def test_counts_are_the_same_so_that_sums_may_abort() -> None:
    """And epsilon so far is known inside the program, as when one is removed."""

    def setup(sampler: Any) -> parts.Federated:
        threshold = parts.AdditiveSharing(least_reports=10)
        return replace(SETUP, sampler=sampler, secure_sum=threshold, live_epsilon=True)

    facts = lab.facts_of(SETUP)._replace(delta=DELTA)
    setup(Zeroed()).algorithm(facts)
    with pytest.raises(ValueError, match="keeps the number of reports"):
        setup(parts.Everyone()).algorithm(facts)


@lab.part
class Zeroed:
    """Everybody; whose contribution is zeroed stays."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.everyone`."""
        return zeroed(federated.everyone(population))


SETUP = parts.Federated(
    partition=parts.Iid(20),
    mechanism=parts.Gaussian(1.0, 2.0),
    schedule=lab.Schedule(num_rounds=1, eval_every=1),
)


def points(setup: parts.Federated) -> list[lab.Point]:
    return lab.points(lab.seeds(2), setup, delta=DELTA)


def table(config: Any, results: list[lab.Result]) -> list[dict[str, Any]]:
    return [{**run.point.labels, "loss": run.outcome.last["loss"]} for run in results]


def test_the_lab_says_it_everywhere_and_mixes_it_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zeroed, removed = (
        replace(SETUP, sampler=one) for one in (Zeroed(), parts.Everyone())
    )
    stated = lab.statement(removed, DELTA) | {"neighboring_relation": "zero_out"}
    assert lab.statement(zeroed, DELTA) == stated
    together = lab.cost_together([*points(zeroed), *points(removed)])
    relations = [row["neighboring_relation"] for row in together]
    assert relations == ["zero_out", "add_or_remove_one"]
    assert together[0]["epsilon_rdp"] == together[1]["epsilon_rdp"]

    monkeypatch.setattr(sys, "argv", ["mine", "smoke", "--out", str(tmp_path)])
    lab.run_experiment("mine", "Mine.", {"smoke": zeroed}, points, table)
    said = capsys.readouterr().out
    assert re.search(r"2 runs: epsilon .*, zero_out client, against who", said)
    assert re.search(r"All 2 private runs on Digits .*, zero_out client, ", said)
    made = tmp_path / "table.csv"
    with made.open() as file:
        rows = [*csv.DictReader(file)]
    for row in rows:
        assert row["neighboring_relation"] == "zero_out"
        assert float(row["epsilon_public"]) == pytest.approx(
            stated["epsilon_pld"], 1e-5
        )
    other = tmp_path / "other.csv"
    other.write_text(made.read_text().replace("zero_out", "add_or_remove_one"))
    command = ["compare", str(made), str(other), "--metric", "loss"]
    assert main(command) == 2
    assert "neighboring_relation is zero_out in" in capsys.readouterr().err
    assert main([*command, "--across", "neighboring_relation"]) == 0
