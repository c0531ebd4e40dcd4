"""Tables of means and spreads in Markdown, made from the rows of a results table.

A dictionary declares what a table shows:

    {"title": "...", "by": [...], "of": ..., "where": {...}, "across": "...",
     "percent": [...], "ends": "..."}

The table has a line for every value of the columns `by`. It shows rows whose cells
match `where` (one value, or several in a list), and in each line

    "of": ["accuracy", ...]            means over seeds, and standard deviations
    "of": {"accuracy": "its_spread", "bytes": [], "time": ["low", "high"]}
                                       means in the rows, with their spread or range
    "across": "algorithm"              the only column of `of`, once for every value

Columns in `percent` are shown in percent, and `ends` says what a range is, if it is not
that of the values around their median. `by` and `of` are needed, and must tell rows
apart together with `across` and the seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ppml_lab.cli.tables import Value

Row = Mapping[str, Value]
_KEYS = ("title", "by", "of", "where", "across", "percent", "ends")


def table(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Returns a declared table after a line that says what it shows; "" if `where`
    matches no row.

    Raises:
      ValueError: If the declaration does not fit the rows: they lack a column, or rows
        of one cell differ in more than their seeds.
    """
    rows = [row for row in rows if _is_meant(about, row)]
    if not rows:
        return ""
    _check(about, rows)
    by, across, ends = about["by"], about.get("across"), _ends(about)
    lines: dict[tuple[Any, ...], dict[Any, list[Row]]] = {}
    for row in rows:
        line = lines.setdefault(tuple(row.get(name) for name in by), {})
        line.setdefault(across and row.get(across), []).append(row)
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    units = {name: 100 if name in about.get("percent", ()) else 1 for name in ends}
    body = [
        [_text(value) for value in label]
        + [
            _cell(line.get(column, []), name, ends[name], units[name])
            for column in columns
            for name in ends
        ]
        for label, line in lines.items()
    ]
    heads = [*map(_text, columns)] if across else [*ends]
    rule = ["---"] * len(by) + ["--:"] * len(heads)
    counts = sorted({len(cell) for line in lines.values() for cell in line.values()})
    drawn = (f"| {' | '.join(line)} |" for line in ([*by, *heads], rule, *body))
    return "\n".join([_caption(about, counts), "", *drawn])


def _is_meant(about: Mapping[str, Any], row: Row) -> bool:
    for name, cells in about.get("where", {}).items():
        wanted = cells if isinstance(cells, list) else [cells]
        # Infinity has no literal, so that texts match too.
        if row.get(name) not in wanted and _text(row.get(name)) not in wanted:
            return False
    return True


def _ends(about: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the shown columns, each with those of its spread: none, one, or a range's
    ends.
    """
    of = about["of"]
    given = of if isinstance(of, dict) else {name: [] for name in of}
    return {name: [end] if isinstance(end, str) else end for name, end in given.items()}


def _check(about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    from ppml_lab import checks

    for key in about:
        checks.known("key of a table", key, _KEYS)
    if not (about.get("by") and about.get("of")):
        raise ValueError("a table must name its columns in by and in of")
    across = [about["across"]] if about.get("across") else []
    if across and len(about["of"]) != 1:
        raise ValueError(f"a table across {across[0]} must have one column in of")
    beside = [end for ends in _ends(about).values() for end in ends]
    known = sorted({name for row in rows for name in row})
    for name in (*about["by"], *about["of"], *beside, *across):
        checks.known("column", name, known)
    labels = [*about["by"], *across, "seed"]
    seen = set()
    for row in rows:
        label = tuple(row.get(name) for name in labels)
        if label in seen:
            said = zip(labels, map(_text, label), strict=True)
            raise ValueError(
                f"several rows have {', '.join(map(' '.join, said))}; name columns "
                "that distinguish these rows in by or where"
            )
        seen.add(label)


def _caption(about: Mapping[str, Any], counts: Sequence[int]) -> str:
    """Returns a sentence about what the cells are."""
    said = [about["title"]] if "title" in about else []
    if about.get("across"):
        (name,) = about["of"]
        said.append(f"`{name}` by `{about['across']}`")
    if about.get("percent"):
        said.append("accuracies in percent")
    widths = {len(ends) for ends in _ends(about).values()}
    if counts[-1] > 1:
        runs = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
        spread = ", with standard deviations" if 0 in widths else ""
        said.append(f"means of {runs} seeds{spread}")
    if 1 in widths:
        said.append("means, with the standard deviations that the table has")
    if 2 in widths:
        said.append(about.get("ends", "medians, with the range that the table has"))
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _cell(rows: Sequence[Row], name: str, ends: Sequence[str], unit: int) -> str:
    """Returns a mean with its standard deviation (over n - 1), or with the spread that
    the row has.
    """
    values = [row[name] for row in rows if row.get(name) is not None]
    numbers = [value for value in values if isinstance(value, int | float)]
    if not values or len(numbers) < len(values):
        return ", ".join(dict.fromkeys(map(_text, values)))
    mean = _number(statistics.fmean(numbers), unit)
    if ends:
        spreads = [rows[0].get(end) for end in ends]
        shown = [_number(s, unit) for s in spreads if isinstance(s, int | float)]
        known = shown and not (len(shown) == 2 and {*shown} == {mean})
        return f"{mean} ({' to '.join(shown)})" if known else mean
    if len(set(numbers)) < 2 or not all(map(math.isfinite, numbers)):
        return mean
    some = f" of {len(numbers)}" if len(numbers) < len(rows) else ""
    return f"{mean} ({_number(statistics.stdev(numbers), unit)}){some}"


def _number(value: float, unit: int = 1) -> str:
    if unit == 100:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.3g}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", r"\|")
