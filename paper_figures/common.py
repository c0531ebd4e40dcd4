"""Shared parts of figures: reading tables, means over seeds, looks of series, files.

A figure is a script with a function from a table's rows to a matplotlib figure:

    python -m paper_figures.STEM [results folder]

It reads results/STEM and writes STEM.pdf and STEM.png beside itself; with a folder as
argument it reads from and writes to the folder. It needs only numpy and matplotlib.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = (  # Okabe and Ito's, which the colour-blind can distinguish; yellow is grey
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#E69F00", "#000000", "#737373"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LARGEST = 300_000
"""Largest size of a figure's file in bytes."""
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""97.5% quantiles of Student's t with 1, 2, ... degrees of freedom."""

Rows = list[dict[str, str]]
"""Rows of a table: cells as text, by column."""
Name = TypeVar("Name", bound=Hashable)


class Look(NamedTuple):
    """Colour and marker of a series."""

    color: str
    marker: str


def looks(names: Iterable[Name]) -> dict[Name, Look]:
    """A different look for every name: neither colour nor marker repeats among the
    first eight, and no pair of both ever repeats.

    Raises:
      ValueError: For more names than there are looks.
    """
    distinct = list(dict.fromkeys(names))
    colours, markers = len(COLOURS), len(MARKERS)
    if len(distinct) > colours * markers:
        raise ValueError(
            f"{len(distinct)} series are more than the {colours * markers} looks; draw "
            "fewer series"
        )
    return {
        name: Look(COLOURS[i % colours], MARKERS[(i + i // colours) % markers])
        for i, name in enumerate(distinct)
    }


def read(folder: Path) -> Rows:
    """Reads a folder's table, and those of its named configurations except `smoke`; the
    column `configuration` has the name ("" for the folder's own table).

    Raises:
      FileNotFoundError: If there is no table.
    """
    tables = [folder / "table.csv", *sorted(folder.glob("*/table.csv"))]
    rows = []
    for table in tables:
        name = "" if table.parent == folder else table.parent.name
        if table.exists() and name != "smoke":
            with table.open(newline="") as file:
                rows += [row | {"configuration": name} for row in csv.DictReader(file)]
    if not rows:
        raise FileNotFoundError(f"no table.csv with rows in {folder}")
    return rows


def where(rows: Rows, **wanted: str) -> Rows:
    """The rows with the wanted cells."""
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def distinct(rows: Rows, *names: str) -> list[Any]:
    """A column's distinct cells, or tuples of several columns' cells, in order."""
    cells = [tuple(row[name] for name in names) for row in rows]
    return list(dict.fromkeys(cell[0] if len(names) == 1 else cell for cell in cells))


def numbers(rows: Rows, *names: str) -> list[str]:
    """The distinct cells of a column, sorted as numbers."""
    return sorted(distinct(rows, *names), key=float)


def column(rows: Rows, name: str) -> np.ndarray:
    """A column's numbers; an empty cell is NaN."""
    return np.array([float(row[name] or "nan") for row in rows])


def check_known(rows: Rows, name: str, known: Collection[Any]) -> None:
    """Raises ValueError for values that have no place in the figure."""
    strangers = [cell for cell in distinct(rows, name) if cell not in known]
    if strangers:
        raise ValueError(
            f"the figure has no place for {name} {', '.join(map(str, strangers))}"
        )


def mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """The mean and the standard deviation (over n - 1; NaN for a single run) over runs
    that differ in their seeds, without runs that have no value.
    """
    known = values[~np.isnan(values)]
    spread = known.std(ddof=1) if len(known) > 1 else np.nan
    return float(known.mean()) if len(known) else np.nan, float(spread)


def half_interval(values: np.ndarray) -> float:
    """Half of the 95% interval of the mean, by Student's t; NaN for a single run."""
    degrees = len(values) - 1
    if degrees < 1:
        return np.nan
    quantile = (*T_QUANTILES, 1.96)[min(degrees, 10) - 1]
    return quantile * float(values.std(ddof=1)) / len(values) ** 0.5


def over(
    rows: Rows, x: str, y: str, scale: float = 1.0
) -> tuple[list[float], list[float], list[float]]:
    """The points of a line: sorted x, and mean and spread of y at each."""
    places = numbers(rows, x)
    found = [mean_and_spread(scale * column(where(rows, **{x: p}), y)) for p in places]
    means, spreads = zip(*found, strict=True)
    return [*map(float, places)], list(means), list(spreads)


def accountants(rows: Rows) -> str:
    """The accountants by which epsilon is stated; RDP for tables without the column."""
    names = {row.get("accountant", "rdp").upper() for row in rows} - {""}
    return " or ".join(sorted(names))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PDF and PNG, the same bytes for the same figure.

    Raises:
      ValueError: If a file would be too large.
    """
    png, pdf = path.with_suffix(".png"), path.with_suffix(".pdf")
    for dpi in (150, 125, 100, 75):
        figure.savefig(png, dpi=dpi)
        if png.stat().st_size < LARGEST:
            break
    figure.savefig(pdf, metadata={"CreationDate": None})
    plt.close(figure)
    for file in (png, pdf):
        if file.stat().st_size >= LARGEST:
            raise ValueError(f"{file} has {LARGEST} bytes or more; draw fewer points")
    print(f"wrote {png}")


def main(script: str, draw: Callable[[Rows], Figure]) -> None:
    """Runs a figure's script: reads the table, draws and saves the figure.

    Args:
      script: The script's __file__.
      draw: Makes the figure from a table's rows.
    """
    here, stem = Path(script).resolve().parent, Path(script).stem
    named = [*map(Path, sys.argv[1:])]
    if len(named) > 1 or any(str(one).startswith("-") for one in named):
        sys.exit(f"usage: python -m paper_figures.{stem} [results folder]")
    folder = named[0] if named else here.parent / "results" / stem
    try:
        rows = read(folder)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    save(draw(rows), (folder if named else here) / stem)
