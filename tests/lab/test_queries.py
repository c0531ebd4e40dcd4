"""Queries on tables, and texts whose numbers are queries."""

from __future__ import annotations

import pytest

from ppml_lab.lab.advice import template
from ppml_lab.lab.explorer.query import AbsentTableError, Evidence, Source, parse

SOURCES = Evidence(
    [
        Source(
            "mine", "paper", {"n": n, "kind": kind, "mean": m}, 3, "abcdef123", False
        )
        for n, kind, m in ((1, "a, b", 0.5), (2, "c", 0.25), (2, "d", 0.75))
    ]
)


def asked(text: str) -> float:
    return SOURCES.number(parse(text)).value


def test_queries() -> None:
    assert asked("mine: n=1 -> mean") == 0.5
    assert asked('mine/paper: kind="a, b" -> mean') == 0.5
    assert template.render("{{ mine: kind=c -> mean | percent }}", SOURCES).text == (
        "25.0%"
    )
    minus = "{{ mine: kind=d -> mean minus kind=c -> mean | points }}"
    assert template.statement(minus, SOURCES) == (
        "50.0 points (mine, 3 seeds, commit abcdef1)"
    )
    over = "{{ mine: kind=d -> mean over kind=c -> mean | times }}"
    assert template.render(over, SOURCES).text == "3 times"
    assert template.render("{{ mine: n=1 -> mean above kind=c -> mean }}x", SOURCES)[
        0
    ] == ("x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine: n=3 -> mean", "no setting fits; n is 3 nowhere, but 1 or 2"),
        ("mine: n=2 -> mean", r"2 settings fit, say which: \(paper: kind=c\), \(paper"),
        ("mine: m=2 -> mean", "settings have no 'm'"),
        ("mine: n=1 -> loss", "has no number 'loss'; it has n, mean"),
        ("mine: n=1", "is not `table: name=value"),
        ("mine: n -> mean", "is not name=value"),
        ("mine: n=1, kind=c -> mean", "kind is 'c' nowhere"),
    ],
)
def test_queries_that_fit_nothing_or_too_much(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asked(text)


def test_statements_of_absent_tables() -> None:
    with pytest.raises(AbsentTableError, match="no table of other"):
        asked("other: n=1 -> mean")
    text = "- **How much?** It is {{ other: n=1 -> mean | percent }}."
    shown = template.statement(text, SOURCES)
    assert shown.startswith("- **How much?** Not measured at this version: no table")
    with pytest.raises(ValueError, match="no longer holds"):
        template.render("{{ mine: n=1 -> mean below kind=c -> mean }}", SOURCES)
    with pytest.raises(ValueError, match="ends in no known format"):
        template.render("{{ mine: n=1 -> mean | furlongs }}", SOURCES)
