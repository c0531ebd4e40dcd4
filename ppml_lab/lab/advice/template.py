"""Texts whose numbers are queries: `{{ query | format }}` in prose.

A place holds a query of `lab.explorer.query`, or two with "minus" or "over" between
them, of which the second may leave out its table. With "above", "below" or "near"
between them the place shows nothing: it is what the sentence takes for granted, and an
error where tables no longer say so. "near" is within the larger standard deviation over
seeds.

    It costs {{ private_training: case=heart, method=pooled -> mean minus case=heart,
    method=shares + DP, target_epsilon=1 -> mean | points }} of accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ppml_lab.lab.explorer.query import (
    AbsentTableError,
    Evidence,
    Number,
    Source,
    parse,
)

ABSENT = "Not measured at this version"
"""What stands in place of a statement whose table is not committed."""

PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_BETWEEN = re.compile(r"(?<=\w)\s+(minus|over|above|below|near)\s+")
_LEAD = re.compile(r"\s*(?:[-*] )?\*\*.*?\*\*", re.DOTALL)
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


class Text(NamedTuple):
    """A rendered text, and where its numbers come from."""

    text: str
    sources: list[Source]


def number(value: float) -> str:
    """A number with three digits, and commas between thousands."""
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1000:
        return f"{rounded:,.0f}"
    return f"{rounded:g}"


def in_bytes(value: float) -> str:
    """A number of bytes in the largest decimal unit of which there is one."""
    each, unit = next((u for u in _UNITS if abs(value) >= u[0]), _UNITS[-1])
    return f"{number(value / each)} {unit}"


FORMATS: dict[str, Callable[[float], str]] = {
    "number": number,
    "count": lambda value: f"{value:,.0f}",
    "percent": lambda value: f"{100 * value:.1f}%",
    "points": lambda value: f"{100 * value:.1f} points",
    "bytes": in_bytes,
    "seconds": lambda value: f"{number(value)} s",
    "milliseconds": lambda value: f"{number(value / 1000)} s",
    "more": lambda value: f"{100 * (value - 1):.1f}% more",
    "times": lambda value: f"{number(value)} times",
}
"""How a number is shown, by the name after the bar."""


def render(text: str, evidence: Evidence) -> Text:
    """Fills the places of a text.

    Raises:
      AbsentTableError: If a table that a place reads is not committed.
      ValueError: If a place is no query, its query fits no setting or several, or what
        it takes for granted no longer holds.
    """
    sources: list[Source] = []

    def filled(place: re.Match[str]) -> str:
        inner, _, shown = place[1].partition("|")
        told, found = _value(" ".join(inner.split()), evidence)
        sources.extend(one.source for one in found)
        if told is None:
            return ""
        if shown.strip() not in FORMATS:
            raise ValueError(
                f"{place[1].strip()!r} ends in no known format: | "
                + ", | ".join(FORMATS)
            )
        return FORMATS[shown.strip()](told)

    filled_text = PLACE.sub(filled, text)
    return Text(re.sub(r" +(?=[,.;:)]| |$)", "", filled_text), sources)


def statement(
    text: str, evidence: Evidence, link: Callable[[str], str] = lambda name: name
) -> str:
    """Fills a statement and says behind it where its numbers come from.

    A statement of which a table is absent becomes its lead, which is what stands
    between the first `**`, and `ABSENT`.

    Args:
      text: The statement.
      evidence: The tables that its queries read.
      link: Makes of an experiment's name what is shown.
    """
    try:
        found = render(text, evidence)
    except AbsentTableError as error:
        lead = _LEAD.match(text)
        return f"{lead[0] if lead else ''} {ABSENT}: {error}.".strip()
    if not found.sources:
        return found.text
    return f"{found.text} ({cited(found.sources, link)})"


def cited(
    sources: Iterable[Source], link: Callable[[str], str] = lambda name: name
) -> str:
    """Sources in a row, each table once: "privacy_utility, 5 seeds, commit ce2b7ad"."""
    tables: dict[tuple[str, str], list[Source]] = {}
    for one in sources:
        key = (one.experiment, str(one.commit)[:7] if one.commit else "")
        tables.setdefault(key, []).append(one)
    told = []
    for (experiment, commit), each in tables.items():
        seeds = sorted({one.seeds for one in each if one.seeds is not None})
        parts = [link(experiment)]
        if seeds:
            plural = "" if seeds == [1] else "s"
            parts.append(f"{' and '.join(map(str, seeds))} seed{plural}")
        parts += [f"commit {commit}"] if commit else []
        parts += ["projected, not run"] if any(s.is_projected for s in each) else []
        told.append(", ".join(parts))
    return "; ".join(told)


def _value(inner: str, evidence: Evidence) -> tuple[float | None, list[Number]]:
    """Returns a place's number, None for what is taken for granted, and its reads."""
    parts = _BETWEEN.split(inner)
    first = parse(parts[0])
    one = evidence.number(first)
    if len(parts) == 1:
        return one.value, [one]
    if len(parts) > 3:
        raise ValueError(f"{inner!r} has more than two queries")
    other = evidence.number(parse(parts[2], first.table))
    difference = one.value - other.value
    if parts[1] == "minus":
        return difference, [one, other]
    if parts[1] == "over":
        return one.value / other.value, [one, other]
    spread = max(float(n.source.cells.get("std") or 0.0) for n in (one, other))
    holds = {
        "above": difference > 0,
        "below": difference < 0,
        "near": abs(difference) <= spread + 1e-12,
    }
    if not holds[parts[1]]:
        raise ValueError(
            f"{inner!r} no longer holds: {one.value:g} and {other.value:g} (spread "
            f"{spread:g}); write the statement anew"
        )
    return None, [one, other]
