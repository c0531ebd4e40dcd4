"""The ledger: what adds up, what is refused, what is reported."""

from __future__ import annotations

import json
import math
from typing import Any

import dp_accounting
import pytest

from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, conversions, events, ledger

DELTA = 1e-5


def release(noise, unit="client", relation="add_or_remove_one"):
    return PrivacyEvent(events.gaussian(noise), relation, unit)


def sampled(noise, rounds):
    step = events.poisson(0.02, events.gaussian(noise))
    event = events.compose(step, rounds)
    return PrivacyEvent(event, "add_or_remove_one", "client")


def mixed():
    """A run with updates, metrics and example-level noise inside client-level noise."""
    book = ledger.add(ledger.Ledger(), "updates", sampled(1.1, 500))
    book = ledger.add(book, "metrics", release(40.0), 10)
    return ledger.add(book, "local DP-SGD", release(3.0, "example"), 4)


def clients_only():
    return ledger.Ledger(mixed().entries[:2])


def test_a_ledger_is_immutable():
    empty = ledger.Ledger()
    one = ledger.add(empty, "updates", release(1.0))
    two = ledger.add(one, "metrics", release(1.0))
    assert [len(book.entries) for book in (empty, one, two)] == [0, 1, 2]
    with pytest.raises(AttributeError):
        two.entries = ()  # pyrefly: ignore


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_equal_promises_add_up(accountant):
    found = accounting.epsilon(ledger.total(clients_only()), DELTA, accountant)
    together = dp_accounting.ComposedDpEvent(
        [sampled(1.1, 500).event, events.compose(events.gaussian(40.0), 10)]
    )
    expected = release(1.0)._replace(event=together)
    assert found == accounting.epsilon(expected, DELTA, accountant)
    assert found > accounting.epsilon(sampled(1.1, 500), DELTA, accountant)


def test_gaussians_add_up_in_closed_form():
    book = ledger.Ledger()
    for name, noise, times in (("a", 5.0, 1), ("b", 3.0, 2), ("c", 10.0, 7)):
        book = ledger.add(book, name, release(noise), times)
    mu = math.sqrt(1 / 25 + 2 / 9 + 7 / 100)
    found = accounting.epsilon(ledger.total(book), DELTA, "pld")
    assert found == pytest.approx(conversions.gdp_epsilon(mu, DELTA), rel=1e-4)


def test_the_runs_of_a_sweep_add_up():
    book = ledger.Ledger()
    for number, noise in enumerate([1.0, 1.5, 2.0]):
        book = ledger.add(book, f"run {number}", sampled(noise, 100))
    singles = [accounting.epsilon(entry.event, DELTA) for entry in book.entries]
    found = accounting.epsilon(ledger.total(book), DELTA)
    assert max(singles) < found < sum(singles)
    same = ledger.Ledger()
    for number in range(5):
        same = ledger.add(same, f"seed {number}", sampled(1.5, 100))
    whole = accounting.epsilon(sampled(1.5, 500), DELTA)
    assert accounting.epsilon(ledger.total(same), DELTA) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (release(1.0, "example"), r"\(example, add_or_remove_one\)"),
        (release(1.0, "client", "replace_one"), r"\(client, replace_one\)"),
        (release(1.0, None), r"\(None, add_or_remove_one\)"),
    ],
)
def test_different_promises_do_not_add_up(other, said):
    book = ledger.add(clients_only(), "odd one", other)
    with pytest.raises(
        ledger.MixedPromisesError,
        match=r"'updates', 'metrics' promise \(client, add_or_remove_one\);"
        rf" 'odd one' promise {said}; `report` lists",
    ):
        ledger.total(book)


def test_report_states_promises_side_by_side():
    found = ledger.report(mixed(), DELTA)
    assert [row["name"] for row in found["entries"]] == [
        "updates", "metrics", "local DP-SGD",
    ]  # fmt: skip
    clients, examples = found["totals"]
    assert clients["names"] == ["updates", "metrics"]
    assert (clients["privacy_unit"], examples["privacy_unit"]) == ("client", "example")
    total = ledger.total(clients_only())
    assert clients["epsilon_rdp"] == accounting.epsilon(total, DELTA)
    assert clients["epsilon_pld"] == accounting.epsilon(total, DELTA, "pld")
    # Four releases of noise 3 are one of 1.5, but for the cut of their noise.
    expected = accounting.epsilon(release(1.5), DELTA)
    assert examples["epsilon_rdp"] == pytest.approx(expected, rel=1e-9)
    alone = found["entries"][0]
    assert alone["epsilon_rdp"] == accounting.epsilon(sampled(1.1, 500), DELTA)
    assert alone["mechanisms"] == [
        "500 x PoissonSampledDpEvent(sampling_probability=0.02,"
        " event=GaussianDpEvent(noise_multiplier=1.1))"
    ]


def test_each_unit_may_have_its_delta():
    found = ledger.report(mixed(), {"client": 1e-3, "example": 1e-7})
    assert [row["delta"] for row in found["totals"]] == [1e-3, 1e-7]
    expected = accounting.epsilon(release(1.5), 1e-7)
    assert found["totals"][1]["epsilon_rdp"] == pytest.approx(expected, rel=1e-8)
    with pytest.raises(
        ValueError, match="delta has no entry for privacy_unit 'example', only"
    ):
        ledger.report(mixed(), {"client": 1e-3})


def test_report_is_plain_and_strict_json():
    book = ledger.add(mixed(), "logits", release(1.0, None))
    fixed = events.fixed_size(100, 7, events.gaussian(2.0))
    book = ledger.add(book, "votes", PrivacyEvent(fixed, "replace_one", "client"))
    found = json.loads(ledger.to_json(book, DELTA))
    logits, votes = found["totals"][2:]
    assert (logits["privacy_unit"], logits["delta"]) == (None, None)
    assert logits["epsilon_rdp"] == logits["epsilon_pld"] == "inf"
    assert votes["epsilon_pld"] is None
    assert votes["epsilon_rdp"] > 0
    kept = {row["name"]: row for row in ledger.report(book, DELTA)["entries"]}
    assert kept["logits"]["epsilon_rdp"] == math.inf
    assert ledger.report(ledger.Ledger(), DELTA) == {"entries": [], "totals": []}


def test_a_total_keeps_the_smallest_population():
    book = ledger.Ledger()
    for name, population in (("a", 100), ("b", None), ("c", 80)):
        event = sampled(1.1, 10)._replace(population=population)
        book = ledger.add(book, name, event)
    total = ledger.total(book)
    assert total.population == 80
    with pytest.warns(UserWarning, match="larger than one over the 80 clients"):
        accounting.epsilon(total, 0.05)
    assert ledger.total(clients_only()).population is None


def test_report_says_against_whom_and_by_which_accountant():
    book = ledger.add(ledger.Ledger(), "updates", sampled(1.1, 50))
    own = events.participating(0.1, events.gaussian(2.0))
    book = ledger.add(book, "sent", PrivacyEvent(own, "replace_one", "client"), 9)
    central, local = ledger.report(book, DELTA)["totals"]
    assert central["epsilon_server"] == math.inf
    assert central["epsilon_public"] == central["epsilon_pld"] < central["epsilon_rdp"]
    assert local["epsilon_server"] == local["epsilon_public"] < math.inf
    assert central["accountant"] == local["accountant"] == "pld"
    assert central["cut"] == ""
    little = ledger.add(ledger.Ledger(), "updates", release(0.25))
    (row,) = ledger.report(little, DELTA)["totals"]
    assert "of delta is the chance that noise" in row["cut"]


@pytest.mark.skipif("beside" not in PrivacyEvent._fields, reason="no such field yet")
def test_what_stands_beside_an_event_is_stated_too():
    inner = release(3.0, "example")
    beside: dict[str, Any] = {"beside": (inner,)}
    event = sampled(1.1, 1)._replace(**beside)
    book = ledger.add(ledger.Ledger(), "updates", event, 20)
    found = ledger.report(book, DELTA)
    names = [row["name"] for row in found["entries"]]
    assert names == ["updates", "updates (example)"]
    clients, examples = found["totals"]
    assert (clients["privacy_unit"], examples["privacy_unit"]) == ("client", "example")
    expected = accounting.epsilon(
        inner._replace(event=events.compose(inner.event, 20)), DELTA, "pld"
    )
    assert examples["epsilon_public"] == expected
    assert clients["epsilon_public"] == accounting.epsilon(
        sampled(1.1, 20), DELTA, "pld"
    )


def test_failures_of_all_entries_count():
    cut = sampled(1.1, 1)._replace(event=events.failing(sampled(1.1, 1).event, 1e-8))
    book = ledger.add(ledger.Ledger(), "updates", cut, 300)
    book = ledger.add(book, "more updates", cut, 200)
    found = accounting.epsilon(ledger.total(book), DELTA)
    expected = accounting.epsilon(sampled(1.1, 500), DELTA - 500e-8)
    assert found == pytest.approx(expected, rel=1e-9)


def test_bad_entries_are_refused():
    book = ledger.add(ledger.Ledger(), "updates", release(1.0))
    with pytest.raises(
        ValueError, match=r"name must be new.*'updates'; names in use: 'upd"
    ):
        ledger.add(book, "updates", release(2.0))
    with pytest.raises(ValueError, match="got ''; names in use: none"):
        ledger.add(ledger.Ledger(), "", release(2.0))
    with pytest.raises(ValueError, match="times must be an integer of at least 1"):
        ledger.add(book, "metrics", release(2.0), 0)
    with pytest.raises(events.UnsupportedEventError, match="Poisson sampling has no"):
        ledger.add(
            book, "m", sampled(1.0, 5)._replace(neighboring_relation="replace_one")
        )
    with pytest.raises(ValueError, match="the ledger has no entries"):
        ledger.total(ledger.Ledger())
