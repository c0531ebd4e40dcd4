"""The guide: every number is a query, and follows its table."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from ppml_lab.cli import experiments
from ppml_lab.lab.advice import guide, template
from ppml_lab.lab.explorer import prices, view
from ppml_lab.lab.explorer.query import Evidence, Source

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "ppml_lab" / "GUIDE.md"
TEXT = guide.TEMPLATE.read_text()
STATEMENTS = TEXT.replace("{{ tables }}", "").replace("{{ leaves }}", "")
EVIDENCE = Evidence.committed()
TABLES = sorted({(s.experiment, s.configuration) for s in EVIDENCE.sources})
NAMED = {
    (experiment, configuration or "paper")
    for experiment, configuration in re.findall(r"\b(\w+)(?:/(\w+))?:\s+\w+=", TEXT)
}
"""The tables that the statements read."""
ABSENT = "Not measured at this version"


def test_it_is_what_the_template_makes() -> None:
    assert guide.render(EVIDENCE) == GUIDE.read_text()


def test_no_digit_is_outside_of_a_query() -> None:
    """Names of code (between backticks) and addresses of links are no statements."""
    left = template.PLACE.sub("", TEXT)
    left = re.sub(r"`[^`]*`", "", left)
    left = re.sub(r"\]\([^)]*\)", "]", left)
    assert not re.findall(r".{0,30}\d.{0,30}", left)


def measures(source: Source, experiment: str) -> set[str]:
    """The columns of a source that a table measures."""
    if not source.is_price:
        labels = {"num_clients", "cohort", "num_rounds", "delta", "epsilon"}
        attacks = {name for name in source.cells if name.count(", ") >= 2}
        return ({"mean", "lower_bound"} | attacks) - labels
    return priced(experiment)


@functools.cache
def priced(experiment: str) -> set[str]:
    declared = experiments.literal(experiments.find()[experiment], "PRICED")
    return {name for about in declared for name in about["of"]}


@functools.cache
def as_they_are() -> str:
    return guide.render(EVIDENCE, STATEMENTS)


def shifted(table: tuple[str, str], factor: float) -> Evidence:
    def one(source: Source) -> Source:
        if (source.experiment, source.configuration) != table:
            return source
        names = measures(source, table[0])
        cells: dict[str, Any] = {
            name: cell * factor if name in names and isinstance(cell, float) else cell
            for name, cell in source.cells.items()
        }
        return source._replace(cells=cells)

    return Evidence([one(source) for source in EVIDENCE.sources])


@pytest.mark.parametrize("table", TABLES, ids="/".join)
def test_a_tenth_more_in_any_table_changes_it(
    table: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    other = shifted(table, 1.1)
    assert guide.render(other) != GUIDE.read_text()
    if table in NAMED:
        assert guide.render(other, STATEMENTS) != as_they_are()


def test_statements_read_these_tables() -> None:
    """Others, made later, are in the list of all tables alone until somebody writes."""
    assert {experiment for experiment, _ in NAMED} == {
        *("audit_epsilon", "bits_accuracy", "dp_fedavg", "dp_sgd", "heterogeneity"),
        *("hospitals", "privacy_utility", "private_inference", "private_training"),
        *("secure_aggregation_cost", "fedavg_rounds"),
    }


def without(*names: str) -> Evidence:
    return Evidence([s for s in EVIDENCE.sources if s.experiment not in names])


def test_statements_of_absent_tables_say_so() -> None:
    text = guide.render(without("dp_fedavg", "dp_sgd", "fedavg_rounds"))
    absent = [line for line in text.splitlines() if ABSENT in line]
    for name in ("dp_fedavg", "dp_sgd", "fedavg_rounds"):
        assert any(f"no table of {name}" in line for line in absent), name
    assert "Not measured at this version" not in guide.render(
        EVIDENCE, STATEMENTS.partition("- **It should fall with")[0]
    )


def made(experiment: str, configuration: str, **cells: Any) -> Source:
    return Source(experiment, configuration, cells, 3, "0123456789", False)


def test_they_come_alive_with_their_tables() -> None:
    found = [
        made("dp_sgd", "paper", name=f"tutorial, {name}", mean=mean, epsilon=epsilon)
        for name, mean, epsilon in (
            ("plain", 0.99, float("inf")),
            ("15 epochs", 0.951, 0.92),
            ("45 epochs", 0.972, 5.1),
        )
    ]
    found += [
        made("dp_sgd", config, name="curve", target_epsilon=epsilon, mean=mean)
        for config in ("curve_mnist", "curve_fashion_mnist")
        for epsilon, mean in ((0.5, 0.9), (8, 0.95))
    ]
    found += [
        made("dp_sgd", "tanh", dataset=dataset, mean=0.98, epsilon=2.4)
        for dataset in ("Mnist", "FashionMnist")
    ]
    cell = {"model": "2nn", "C": 0.1, "E": 1}
    found += [
        made(
            "fedavg_rounds", config, **cell, partition=dealt, B=size, rounds_to_target=n
        )
        for config, dealt, size, n in (
            ("paper", "iid", 10, 33.0),
            ("paper", "shards", 10, 120.0),
            ("full_batch_iid", "iid", 600, 900.0),
        )
    ]
    text = guide.render(
        Evidence([*without("dp_sgd", "fedavg_rounds").sources, *found]), STATEMENTS
    )
    assert ABSENT not in text
    assert "**DP-SGD of a network on MNIST.** It reaches 95.1% at epsilon 0.92" in text
    assert "needs 33 rounds to the target where clients are alike and 120" in text


def test_prose_that_no_longer_holds_is_an_error() -> None:
    def turned(source: Source) -> Source:
        if source.experiment != "bits_accuracy" or source.cells["cohort"] != 50:
            return source
        return source._replace(cells=source.cells | {"mean": 0.99})

    with pytest.raises(ValueError, match="no longer holds"):
        guide.render(Evidence([turned(source) for source in EVIDENCE.sources]))


def test_its_links_lead_somewhere() -> None:
    text = GUIDE.read_text()
    for address in set(re.findall(r"\]\(([^)]*)\)", text)):
        path, _, anchor = address.partition("#")
        if path.startswith("https://"):
            continue
        there = GUIDE.parent / path
        assert there.exists(), address
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}
            assert anchor in slugs, address
    first_screen = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any("ppml_lab/GUIDE.md" in line for line in first_screen)


def test_it_says_what_everybody_asks_for() -> None:
    text = GUIDE.read_text()
    for head in ("Accuracy", "Computation", "Communication", "Complexity of deploym"):
        assert f"\n## {head}" in text
    assert "SHARP_EDGES.md" in text.partition("## Hazards")[2]
    assert "no legal advice" in text
    assert text.count("not measured") + text.count("Not measured") > 10


def test_the_wheel_s_prices_are_those_of_the_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ppml_lab.cli import guided

    monkeypatch.chdir(ROOT)
    assert guided.of_clone().to_json() == prices.KEPT.read_text()
    again = prices.Prices.of_json(prices.KEPT.read_text())
    assert again.to_json() == prices.KEPT.read_text()
    assert Evidence.of(view.committed(), again).sources == EVIDENCE.sources


def test_prices_of_a_table() -> None:
    table: list[Any] = [
        {"kind": k, "seed": s, "bytes": b, "which": w}
        for k, s, b, w in (("a", 0, 2.0, 1), ("a", 1, 4.0, 1), ("b", 0, None, 1))
    ]
    about: list[prices.Priced] = [
        {"by": ["kind"], "of": ["bytes"], "where": {"which": [1, 2]}}
    ]
    names = {"experiment": "mine", "configuration": "paper"}
    one, other = prices.of_table(table, **names, priced=about, commit="abc")
    assert one == prices.Price("mine", "paper", {"kind": "a", "bytes": 3.0}, 2, "abc")
    assert other.cells["bytes"] is None
    with pytest.raises(ValueError, match="the table lacks size, commit"):
        prices.of_table(
            table, **names, priced=[{"by": ["size"], "of": [], "needs": ["commit"]}]
        )
    with pytest.raises(ValueError, match="no row has"):
        prices.of_table(
            table, **names, priced=[{"by": [], "of": ["bytes"], "where": {"which": 3}}]
        )
