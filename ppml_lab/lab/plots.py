"""Figures of results tables: a metric against epsilon or any swept column, with means
over seeds and their 95% intervals.

    plot = lab.plots.plot("results/heterogeneity", "partition", "loss", by="algorithm")
    plot.save("mine")

A place on a line is one configuration: rows that differ in more than their seed are
never averaged. Epsilons that mean different things share an axis only if the names of
lines tell them apart. Rows that are left out are counted, on the figure too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppml_lab import arguments, checks, tables
from ppml_lab.lab import drawing
from ppml_lab.lab.drawing import Place, Scale
from ppml_lab.tables import Row, Value

_MEANS_OF_EPSILON = ("privacy_unit", "neighboring_relation", "adversary", "delta")
"""Columns that rows must agree on for their epsilons to be comparable; an empty cell
does not agree with a filled one."""
_MEANS_OF_METRICS = ("experiment", "dataset", "metric", "measured_or_projected")
"""Columns that rows must agree on for other values to be comparable."""
_OF_THE_RUN = re.compile(r"(target_)?epsilon(_|$)")
"""Names of the epsilons that the columns above describe; a projected epsilon has its
own delta."""


class Plot(NamedTuple):
    """A figure, the lines that it shows, and notes."""

    figure: Any
    """A `matplotlib.figure.Figure`."""
    lines: dict[tuple[Value, ...], list[Place]]
    """The places of each line, by its values of the `by` columns."""
    notes: tuple[str, ...]
    """Notes below the axes: which rows are left out, and how infinity is drawn."""

    def __repr__(self) -> str:
        places = sum(map(len, self.lines.values()))
        return f"Plot({len(self.lines)} lines, {places} places)"

    def save(self, path: str | Path) -> list[Path]:
        """Writes the figure as PDF and PNG, or as one file if `path` has the suffix of
        a picture; makes its folder.

        Returns:
          The paths that were written.

        Raises:
          OSError: If the files cannot be written.
        """
        path = Path(path)
        known = self.figure.canvas.get_supported_filetypes()
        is_one = path.suffix.lower().removeprefix(".") in known
        names = [path] if is_one else [Path(f"{path}{end}") for end in (".pdf", ".png")]
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            # Without a date, equal figures are equal files.
            dated = {"CreationDate": None} if name.suffix.lower() == ".pdf" else None
            self.figure.savefig(name, dpi=150, metadata=dated)
        return names

    def _repr_png_(self) -> bytes:
        """Returns the PNG that notebooks show."""
        picture = io.BytesIO()
        self.figure.savefig(picture, dpi=100, format="png")
        return picture.getvalue()


@arguments.checked
def plot(
    table: str | Path | Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    by: str | Sequence[str] = (),
    *,
    where: Mapping[str, Any] | None = None,
    x_scale: Scale = "auto",
    y_scale: Scale = "auto",
) -> Plot:
    """Draws one column against another: means over seeds with 95% intervals by
    Student's t, and one line for each value of the columns `by`.

    An infinite x, such as the epsilon of a run without privacy, is a mark "∞" at the
    right of the axis, with a dashed level across. A column with a text or a truth value
    in any row is a column of categories. The scale "auto" is logarithmic where values
    are spaced more like a geometric series than like an arithmetic one.

    Args:
      table: The path of a table.csv or of the folder that holds it, or rows.
      x: The column on the horizontal axis.
      y: The column on the vertical axis, of numbers.
      by: The column, or columns, whose values name the lines.
      where: Draws only rows with these values in these columns.
      x_scale: The scale of numbers on the horizontal axis.
      y_scale: The scale of the vertical axis.

    Raises:
      ValueError: For a table that cannot be read or lacks a column, no row that can be
        drawn, rows of one place that differ in more than the seed, epsilons or data
        sets that differ where the lines' names do not say so, numbers that the scale
        cannot show, or more than 224 lines; says what to add to `by` or `where`.
    """
    rows = _rows(table)
    by = (by,) if isinstance(by, str) else tuple(by)
    where = {} if where is None else where
    for argument, names in (("x", (x,)), ("y", (y,)), ("by", by), ("where", where)):
        for name in names:
            checks.known("column", name, [*rows[0]], argument=argument)
    drawn, notes = _drawable(_chosen(rows, where), x, y)
    _check_alike(drawn, x, y, by)
    lines = _lines(drawn, x, y, by)
    if len(lines) > drawing.MOST_LINES:
        raise ValueError(
            f"by {', '.join(by)} makes {len(lines)} lines, but only "
            f"{drawing.MOST_LINES} can be told apart; choose rows with where, or name "
            "other columns"
        )
    places = [place for line in lines.values() for place in line]
    notes += _about_intervals(drawn, places)
    axis = drawing.across(x, [place.x for place in places], x_scale)
    if axis.edge is not None:
        notes.append(f"∞: {x} is infinite; its level is dashed")
    legend, said = ", ".join(by), "; ".join(notes)
    titles = drawing.Titles(_titled(x, drawn), _titled(y, drawn), legend, said)
    return Plot(drawing.figure(lines, axis, titles, y_scale), lines, tuple(notes))


def _rows(table: Any) -> list[Row]:
    """Returns rows of plain values that all have the same columns."""
    if isinstance(table, str | Path):
        path = Path(table)
        return tables.read(path / "table.csv" if path.is_dir() else path)
    columns = dict.fromkeys(name for row in table for name in row)
    if not columns:
        raise ValueError("table has no rows with columns; give at least one")
    return [{name: _plain(row.get(name)) for name in columns} for row in table]


def _plain(cell: Any) -> Value:
    """Returns a cell as a Python value, also if it is an array's."""
    cell = cell.item() if getattr(cell, "shape", None) == () else cell
    return cell if isinstance(cell, str | int | float | None) else str(cell)


def _chosen(rows: list[Row], where: Mapping[str, Any]) -> list[Row]:
    wanted = {name: _plain(value) for name, value in where.items()}
    found = [row for row in rows if all(row[n] == v for n, v in wanted.items())]
    if not found:
        shown = " and ".join(f"{name} {value}" for name, value in wanted.items())
        raise ValueError(f"where: no row of the table has {shown}")
    return found


def _drawable(rows: list[Row], x: str, y: str) -> tuple[list[Row], list[str]]:
    """Returns the rows with an x and a finite y, and notes on how many lack them."""
    placed = [row for row in rows if not _is_missing(row[x])]
    drawn = [row for row in placed if tables.is_finite(row[y])]
    if not drawn:
        raise ValueError(
            f"no row has both x ({x}) and a finite y ({y}); choose other columns"
        )
    lost = {f"no {x}": len(rows) - len(placed)}
    lost[f"no finite {y}"] = len(placed) - len(drawn)
    return drawn, [
        f"{count} of {len(rows)} rows left out: {why}"
        for why, count in lost.items()
        if count
    ]


def _is_missing(cell: Value) -> bool:
    """Returns whether a cell has no place on an axis; tables spell out nan."""
    return cell in (None, "nan", -math.inf) or cell != cell


def _check_alike(rows: list[Row], x: str, y: str, by: Sequence[str]) -> None:
    """Raises ValueError if values on one axis mean different things that the names of
    lines do not tell apart.
    """
    for axis in (x, y):
        is_epsilon = tables.is_epsilon(axis)
        # An infinite epsilon promises nothing, whatever the unit.
        own = [row for row in rows if tables.is_finite(row[axis]) or not is_epsilon]
        for name in _MEANS_OF_EPSILON if is_epsilon else _MEANS_OF_METRICS:
            values = [row.get(name) for row in own]
            if is_epsilon:
                # An empty cell does not agree with a filled one.
                values = ["not said" if v is None else v for v in values]
            found = [*dict.fromkeys(map(str, (v for v in values if v is not None)))]
            if len(found) > 1 and name not in (x, *by):
                raise ValueError(
                    f"{axis} does not mean the same in all rows: {name} is "
                    f"{' and '.join(found)}; add {name} to by to tell lines apart, or "
                    "choose rows with where"
                )


def _lines(
    rows: list[Row], x: str, y: str, by: Sequence[str]
) -> dict[tuple[Value, ...], list[Place]]:
    """Returns each line's places; numbers ascend, and categories keep the table's
    order.
    """
    found: dict[tuple[Value, ...], dict[Value, list[Mapping[str, Value]]]] = {}
    for its in tables.over_seeds(rows, by):
        line = found.setdefault(tuple(its[0][name] for name in by), {})
        at = _at(its, x)
        if at in line:
            there, here = line[at][0], its[0]
            names = [n for n in tables.labels(rows) if there[n] != here[n]]
            raise ValueError(
                f"several rows of one line have {x} {at}, but differ in "
                f"{', '.join(names)}; add this to by, or choose rows with where"
            )
        line[at] = its
    lines = {
        name: [
            Place(at, tables.mean(float(row[y] or 0) for row in its))
            for at, its in line.items()
        ]
        for name, line in found.items()
    }
    if all(tables.is_number(place.x) for line in lines.values() for place in line):
        for line in lines.values():
            line.sort(key=lambda place: float(place.x or 0))
    return lines


def _at(rows: Sequence[Mapping[str, Value]], x: str) -> Value:
    """Returns a configuration's x: the value that its rows share, or their mean."""
    values = [row[x] for row in rows]
    if len(set(values)) == 1:
        return values[0]
    if not all(map(tables.is_finite, values)):
        shown = ", ".join(map(drawing.word, values))
        raise ValueError(f"x: {x} is not a number and differs between seeds: {shown}")
    return tables.mean(float(value or 0) for value in values).mean


def _about_intervals(rows: list[Row], places: Sequence[Place]) -> list[str]:
    if tables.SEED not in rows[0]:
        return ["no column 'seed': each row is a point without an interval"]
    counts = [place.y.count for place in places]
    least, most = min(counts), max(counts)
    if most == 1:
        return ["one seed: no intervals"]
    span = f"{least}" if least == most else f"{least} to {most}"
    return [
        f"means over {span} seeds, 95% "
        f"intervals{'; points of one seed have none' if least == 1 else ''}"
    ]


def _titled(name: str, rows: list[Row]) -> str:
    """Returns a column's name; for a run's epsilon, also what it means in all rows."""
    if not _OF_THE_RUN.match(name):
        return name
    private = [row for row in rows if tables.is_finite(row[name])]
    found = []
    for column in _MEANS_OF_EPSILON:
        values = {row.get(column) for row in private}
        if len(values) == 1 and None not in values:
            text = drawing.word(values.pop())
            found.append(f"delta {text}" if column == "delta" else text)
    return f"{name} ({', '.join(found)})" if found else name
