"""A CSV or Parquet file of one's own, with a column that says the silo."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.silos import sources
from ppml_lab import checks, data, lab
from ppml_lab.data import cells, own_table, tabular
from ppml_lab.lab.parts.table_file import content_of, ranges_of


@lab.part
class Csv:
    """A CSV or Parquet file of your own; rows that lack a cell are left out."""

    path: lab.File = "my.csv"
    """Path of the file; tables show its name alone."""
    target: str = "y"
    """The column to predict, of two values."""
    silo: str = "hospital"
    """The column that says which silo has the row."""
    user: str | None = None
    """The column that says whose each row is, where somebody has several rows: they are
    kept on one side of a split, and clipped together. None where every row is another
    person."""
    columns: tuple[str, ...] = ()
    """The columns of features; empty for all without another use."""
    one_hot: tuple[str, ...] = ()
    """The columns of `columns` that hold categories; each category becomes a column of
    0 and 1."""
    ranges: tuple[str, ...] = ()
    """Ranges of columns that are known without the data, such as age=0:120; values
    outside become the range's end."""
    other_range: str | None = None
    """The range of all other columns of numbers, such as 0:10. None takes their least
    and greatest values from the file, which epsilon does not cover."""
    missing_words: tuple[str, ...] = own_table.MISSING
    """Texts that stand for a missing cell."""
    delimiter: str = ","
    """The character between the cells of a CSV file."""

    is_public = False
    """True if anybody may know the rows."""

    @property
    def title(self) -> str:
        """The file's name, and what was done to its rows."""
        return self._read()[1]

    def rows(self) -> sources.Rows:
        """Reads the file; says on stderr what was done to its rows."""
        return self._read()[0]

    def _read(self) -> tuple[sources.Rows, str]:
        return _read(self, content_of("data.path", self.path))


@functools.lru_cache(maxsize=1)
def _read(table: Csv, content: str) -> tuple[sources.Rows, str]:
    """Returns the rows, and notes on what was done to them."""
    del content  # The cache tells files apart by it.
    _check_columns(table)
    try:
        dataset = data.read_table(
            table.path,
            table.target,
            user=table.silo,
            person=table.user,
            columns=table.columns,
            one_hot=table.one_hot,
            missing_words=table.missing_words,
            delimiter=table.delimiter,
            standardise=False,
            test_share=0.0,
        )
    except ValueError as error:
        text = str(error)
        for theirs, ours in _WORDS.items():
            text = text.replace(theirs, ours)
        raise ValueError(text) from error
    if dataset.num_classes != 2:
        raise ValueError(
            f"data.target {table.target!r} has {dataset.num_classes} different values; "
            "name a column of two"
        )
    assert dataset.train_users is not None
    found, silo = np.unique(dataset.train_users, return_inverse=True)
    names = tuple(map(str, found))
    if 2 * len(names) > len(silo):
        raise ValueError(
            f"data.silo {table.silo!r} has {len(names)} values in {len(silo)} rows; "
            "name the column of the silos"
        )
    if len(names) < 2:
        raise ValueError(
            f"data.silo {table.silo!r} is {names[0]!r} in every row; name a column "
            "that tells two or more silos apart"
        )
    x, scaled = _scaled(table, dataset.train["x"], dataset.feature_names or ())
    y = dataset.train["y"]
    person = dataset.train.get("person", np.arange(len(y)))
    rows = sources.Rows(x, y, silo, names, person)
    _check_people(table, rows)
    shown = ", ".join((dataset.feature_names or ())[:_MOST_SHOWN])
    notes = [f"features: {shown}", *dataset.notes, *scaled, *_repeated(table, rows)]
    for theirs, ours in _WORDS.items():
        notes = [note.replace(theirs, ours) for note in notes]
    print(*(f"{dataset.name}: {one}" for one in notes), sep="\n", file=sys.stderr)
    lacking = [one for one in notes if "missing" in one or "public" in one]
    return rows, "; ".join([dataset.name, *lacking])


_MOST_SHOWN = 50
_WORDS = {
    "give labels='numbers'": "name a target of two values",
    "name the columns to use, or fill missing cells": "name others in data.columns",
    "put the column in one_hot, leave it out of columns, name it as user or person if "
    "it says whose the row is,": "name it in data.user if it says whose the row is, in "
    "data.one_hot if it holds categories, leave it out of data.columns,",
    "add it to missing_words": "name it in data.missing_words",
    "name it as user or person, or leave it out of columns": "name it in data.user, or "
    "leave it out of data.columns",
}
"""What messages of `data.read_table` advise, and what does the same here."""


def _check_columns(table: Csv) -> None:
    """Raises ValueError, by the option's name, for a column that is not there or has
    two uses.
    """
    path, used = Path(table.path).expanduser(), {}
    try:
        known = cells.read(path, delimiter=table.delimiter, missing=()).columns
    except ValueError as error:
        text = str(error).replace("give delimiter=", "give --data.delimiter ")
        raise ValueError(text) from error
    for option in ("target", "silo", "user"):
        name = getattr(table, option)
        if name is None:
            continue
        where = f"column of {path.name}"
        checks.known(where, name, known, argument=f"data.{option}")
        if name in used:
            raise ValueError(
                f"data.{option} {name!r} is data.{used[name]} already; name another "
                "column"
            )
        used[name] = option


def _check_people(table: Csv, rows: sources.Rows) -> None:
    """Raises ValueError for people who have rows in several silos."""
    _, own = np.unique(rows.person, return_inverse=True)
    first = np.zeros(own.max() + 1, int)
    first[own] = rows.silo
    apart = np.flatnonzero(first[own] != rows.silo)
    if apart.size:
        one, other = (rows.names[rows.silo[apart[0]]], rows.names[first[own[apart[0]]]])
        raise ValueError(
            f"{len(np.unique(own[apart]))} of the people that data.user {table.user!r} "
            f"tells apart have rows in several silos, such as one in {one!r} and "
            f"{other!r}, where each silo would bound them by itself; leave their rows "
            "of all silos but one out, or give different people different names"
        )


def _repeated(table: Csv, rows: sources.Rows) -> list[str]:
    """Returns a note on rows that equal others, where rows stand for people."""
    if table.user is not None:
        return []
    whole = np.column_stack([rows.x, rows.y, rows.silo])
    count = len(whole) - len(np.unique(whole, axis=0))
    if not count:
        return []
    return [
        f"{count} rows repeat others; each counts as another person: if a column says "
        "whose rows these are, name it in data.user"
    ]


def _scaled(
    table: Csv, x: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Returns x with columns of numbers scaled to [-1, 1], and notes on them."""
    dummies = tuple(f"{name}=" for name in table.one_hot)
    numeric = [n for n in names if not (dummies and n.startswith(dummies))]
    column = {name: x[:, place] for place, name in enumerate(names)}
    ranges = ranges_of(table.ranges)
    for name in ranges:
        checks.known("column of numbers", name, numeric, argument="data.ranges")
    notes, rest = [], [name for name in numeric if name not in ranges]
    if table.one_hot:
        notes.append(
            f"categories of {', '.join(table.one_hot)} are those in the file, which "
            "epsilon takes as public"
        )
    if table.other_range is not None:
        ends = ranges_of([f"other_range={table.other_range}"])["other_range"]
        ranges |= dict.fromkeys(rest, ends)
    for name, (low, high) in ranges.items():
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"the range of {name!r}, {low:g}:{high:g}, must be the least and a "
                "greater value, both finite; mend data.ranges or data.other_range"
            )
        outside = float(np.mean((column[name] < low) | (column[name] > high)))
        if outside == 1:
            raise ValueError(
                f"no value of {name!r} lies within {low:g}:{high:g}, its range; mend "
                "data.ranges or data.other_range"
            )
        if outside:
            notes.append(f"{outside:.1%} of {name} lie outside {low:g}:{high:g}, cut")
    own = [name for name in numeric if name not in ranges]
    constant = [name for name in own if np.ptp(column[name]) == 0]
    if own:
        notes.append(
            f"{len(own)} columns scaled by their least and greatest values in the "
            "file, which epsilon takes as public"
        )
    if constant:
        notes.append(f"constant, and so left at 0: {', '.join(constant)}")
    ranges |= {
        name: (float(column[name].min()), float(column[name].max()))
        for name in own
        if name not in constant
    }
    scaled = tabular.within_ranges(x, names, ranges)
    scaled[:, [name in constant for name in names]] = 0
    return scaled, notes
