"""A CSV or Parquet file of one's own, with a column that says the silo."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.silos import sources
from ppml_lab import checks, data, lab
from ppml_lab.data import cells, files, tabular
from ppml_lab.lab.parts.table_file import ranges_of


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
    """The range of all other columns of numbers, such as -1:1. None takes their least
    and greatest values from the file, which epsilon does not cover."""

    @property
    def title(self) -> str:
        """The file's name, and what was done to its rows."""
        return self._read()[1]

    def rows(self) -> sources.Rows:
        """Reads the file; says on stderr what was done to its rows."""
        return self._read()[0]

    def _read(self) -> tuple[sources.Rows, str]:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"data.path {self.path!r} is not an existing file, seen from "
                f"{Path.cwd()}; give the path of your table"
            )
        return _read(self, files.sha256(path))


@functools.lru_cache(maxsize=1)
def _read(table: Csv, content: str) -> tuple[sources.Rows, str]:
    """Returns the rows, and notes on what was done to them."""
    del content  # The cache tells files apart by it.
    _check_columns(table)
    given = ranges_of(table.ranges)
    dataset = data.read_table(
        table.path,
        table.target,
        user=table.silo,
        person=table.user,
        columns=table.columns,
        one_hot=table.one_hot,
        ranges=given,
        standardise=False,
        # Any split will do, for both sides are joined again.
        test_share=0.5,
    )
    if dataset.num_classes != 2:
        raise ValueError(
            f"data.target {table.target!r} has {dataset.num_classes} different values; "
            "name a column of two"
        )
    assert dataset.train_users is not None
    assert dataset.test_users is not None
    silos = np.concatenate([dataset.train_users, dataset.test_users])
    found, silo = np.unique(silos, return_inverse=True)
    names = tuple(map(str, found))
    if len(names) < 2:
        raise ValueError(
            f"data.silo {table.silo!r} is {names[0]!r} in every row; name a column "
            "that tells two or more silos apart"
        )
    rows = sources.rows_of(dataset, silo, names)
    _check_people(table, rows)
    x, note = _scaled(table, rows.x, dataset.feature_names or (), given)
    notes = [*dataset.notes, *note]
    print(*(f"{dataset.name}: {one}" for one in notes), sep="\n", file=sys.stderr)
    lacking = [one for one in notes if "missing" in one or "public" in one]
    return rows._replace(x=x), "; ".join([dataset.name, *lacking])


def _check_columns(table: Csv) -> None:
    """Raises ValueError, by the option's name, for a column that is not there."""
    path = Path(table.path).expanduser()
    known = cells.read(path, delimiter=",", missing=()).columns
    for option in ("target", "silo", "user"):
        name = getattr(table, option)
        if name is not None:
            where = f"column of {path.name}"
            checks.known(where, name, known, argument=f"data.{option}")


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


def _scaled(
    table: Csv, x: np.ndarray, names: Sequence[str], given: Mapping[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """Returns x with the columns scaled that have no range yet, and a note on them."""
    dummies = tuple(f"{name}=" for name in table.one_hot)
    rest = [n for n in names if n not in given and not n.startswith(dummies)]
    if not rest:
        return x, []
    if table.other_range is not None:
        ends = ranges_of([f"other_range={table.other_range}"])["other_range"]
        if not ends[0] < ends[1]:
            raise ValueError(
                f"data.other_range {table.other_range!r} must be the least and a "
                "greater value, such as -1:1"
            )
        ranges = dict.fromkeys(rest, ends)
        note = f"scaled by data.other_range: {len(rest)} columns"
    else:
        own = {name: x[:, place] for place, name in enumerate(names) if name in rest}
        ranges = {
            name: (float(column.min()), float(column.max()))
            for name, column in own.items()
            if column.min() < column.max()
        }
        note = (
            f"{len(rest)} columns scaled by their least and greatest values in the "
            "file, which epsilon takes as public"
        )
    return tabular.within_ranges(x, names, ranges), [note]
