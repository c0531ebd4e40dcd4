"""Results tables: cells as values, rows that differ only in the seed, and means over
seeds with intervals.
"""

from __future__ import annotations

import csv
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Value = str | int | float | bool | None
Row = dict[str, Value]

SEED = "seed"
"""The column that tells the runs of one configuration apart. Swept columns stand before
it."""
TOLD_APART_BY = (
    *("experiment", "dataset", "data_digest", "model", "pattern", "metric", "trust"),
    *("privacy_unit", "neighboring_relation", "adversary", "delta", "accountant"),
    "measured_or_projected",
)
"""Columns that say what a run is, wherever they stand: no mean mixes their values."""

_EPSILON = re.compile(r"(^|_)epsilon(_|$)")
_WORDS: dict[str, Value] = {"": None, "True": True, "False": False}
_WORDS |= {"inf": math.inf, "-inf": -math.inf}
# A digest such as 12e3456 is not a number.
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d{1,3})?")


class Table(list[Row]):
    """Rows of the same columns; text, and a table in a notebook, where it is shown."""

    def means(self) -> Table:
        """One row for each configuration: the number of seeds, and of each number after
        the seed its mean over them and the ends of its 95% interval (`mean`).

        A mean of values that are not all finite is nan.

        Raises:
          ValueError: If two rows of one configuration have the same seed.
        """
        return Table(_mean_row(rows, labels(self)) for rows in over_seeds(self))

    def __repr__(self) -> str:
        columns = ", ".join(self[0] if self else ())
        return f"Table({len(self)} rows: {columns})"

    def __str__(self) -> str:
        """Lines of columns that stand below each other."""
        cells = [[*map(str, self[0])], *self._cells()] if self else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The first `SHOWN` rows as HTML."""

        def line(cells: Iterable[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        left = len(self) - SHOWN
        more = f"<caption>and {left} more rows</caption>" if left > 0 else ""
        head = line(map(str, self[0]), "th") if self else ""
        body = "".join(line(cells, "td") for cells in self._cells()[:SHOWN])
        return f"<table>{more}<thead>{head}</thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[list[str]]:
        return [[*map(shown_value, row.values())] for row in self]


def _mean_row(rows: Sequence[Mapping[str, Value]], names: Sequence[str]) -> Row:
    found: Row = {name: rows[0][name] for name in names} | {"seeds": len(rows)}
    for column in [name for name in rows[0] if name not in (*names, SEED)]:
        values = [row[column] for row in rows]
        if all(map(is_finite, values)):
            told = mean([float(value or 0) for value in values])
            found[column] = told.mean
            found |= {f"{column}_low": told.low, f"{column}_high": told.high}
        elif all(map(is_number, values)):
            found[column] = math.nan
    return found


SHOWN = 100
"""The most rows of a table that a notebook shows."""


def shown_value(value: Value) -> str:
    """A cell for a person: four digits of a number, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(path: Path) -> Table:
    """Reads a table's rows, with numbers and truth values as such and empty cells as
    None.

    Raises:
      ValueError: If the file cannot be read, has no rows, or a row has other columns.
    """
    try:
        # Spreadsheets put a mark before the first letter.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = filter(None, csv.reader(file, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    except ValueError:
        raise ValueError(f"{path} is empty") from None
    if not lines:
        raise ValueError(f"{path} has a header but no rows")
    if len(set(header)) < len(header):
        raise ValueError(
            f"{path} has two columns with the same name: {', '.join(header)}"
        )
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells, but the header has "
                f"{len(header)}"
            )
    return Table(dict(zip(header, map(value, line), strict=True)) for line in lines)


def value(cell: str) -> Value:
    """A cell's number, truth value or text; None if it is empty."""
    if cell in _WORDS:
        return _WORDS[cell]
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if set(cell) & set(".e") else int(cell)


def is_epsilon(column: str) -> bool:
    """Returns whether a column holds epsilons, by its name."""
    return bool(_EPSILON.search(column))


def is_number(cell: Value) -> bool:
    """Returns whether a cell holds a number, finite or not; a truth value is none."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def is_finite(cell: Value) -> bool:
    """Returns whether a cell holds a finite number."""
    return is_number(cell) and math.isfinite(float(cell or 0))


class Mean(NamedTuple):
    """A mean over seeds with its interval."""

    mean: float
    std: float | None
    """The sample's standard deviation; None for a single value."""
    low: float | None
    """Lower end of the mean's 95% interval; None for a single value."""
    high: float | None
    """Upper end of the mean's 95% interval; None for a single value."""
    count: int
    """Number of values."""


def mean(values: Iterable[float]) -> Mean:
    """The mean of independent values and its 95% interval by Student's t, which assumes
    that they are normally distributed.

    Raises:
      ValueError: For no values, or a value that is not finite.
    """
    import numpy as np
    from scipy import special

    found = np.array([*values], np.float64)
    if not found.size or not np.isfinite(found).all():
        raise ValueError(f"values must hold one or more finite numbers, got {found}")
    middle, count = float(found.mean()), len(found)
    if count == 1:
        return Mean(middle, None, None, None, 1)
    std = float(found.std(ddof=1))
    half = float(special.stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return Mean(middle, std, middle - half, middle + half, count)


def labels(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    """The columns that tell configurations apart: those before the seed, and
    `TOLD_APART_BY`; all columns where there is no seed.
    """
    columns = [*rows[0]]
    if SEED not in columns:
        return columns
    swept = columns[: columns.index(SEED)]
    return [*swept, *(n for n in TOLD_APART_BY if n in columns and n not in swept)]


def over_seeds(
    rows: Sequence[Mapping[str, Value]], by: Sequence[str] = ()
) -> list[list[Mapping[str, Value]]]:
    """Groups rows by configuration; `labels` and `by` tell configurations apart.

    Raises:
      ValueError: If two rows of one configuration have the same seed; names the columns
        in which these rows differ.
    """
    names = [*dict.fromkeys([*labels(rows), *by])]
    found: dict[tuple[Value, ...], list[Mapping[str, Value]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    for its in found.values():
        seeds = [row.get(SEED) for row in its]
        if len(set(seeds)) < len(its):
            again = [row for row in its if seeds.count(row.get(SEED)) > 1]
            raise ValueError(
                f"several rows have {SEED} {again[0].get(SEED)} and the same "
                f"{', '.join(names) or 'columns'}: {differing(again[:2])}"
            )
    return [*found.values()]


def differing(rows: Sequence[Mapping[str, Value]]) -> str:
    """Says, for an error, in which columns rows differ."""
    columns = [n for n in rows[0] if len({row[n] for row in rows}) > 1]
    return f"they differ in {', '.join(columns)}" if columns else "they are equal"
