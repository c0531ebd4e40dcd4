"""`plot`: a figure of one column of a results table against another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ppml_lab.cli import tables
from ppml_lab.cli.output import AsJson, Table, print_json

Scale = Literal["auto", "linear", "log", "symlog"]


def plot(
    table: Table,
    *,
    x: str,
    y: str,
    by: tuple[str, ...] = (),
    where: tuple[str, ...] = (),
    out: Path | None = None,
    x_scale: Scale = "auto",
    y_scale: Scale = "auto",
    as_json: AsJson = False,
) -> None:
    """Draws means over seeds with 95% intervals, one line for each value of `by`.

    Rows that differ in more than the seed are never averaged: the error names the
    columns to add to --by, or to choose rows by with --where. The epsilon of a run
    without privacy is infinite: a mark at the right, with a dashed level across.

    Example: python -m ppml_lab plot heterogeneity --x partition --y best_accuracy --by
    algorithm

    Args:
      table: An experiment, as NAME or NAME/smoke, or the path of a table.
      x: The column on the horizontal axis; values that are not numbers are
        categories.
      y: The column on the vertical axis, of numbers.
      by: Columns whose values name the lines.
      where: Draw only rows with these values, each as COLUMN=VALUE.
      out: The figure's file; its ending sets the format, and without an ending both a
        PDF and a PNG are written. By default Y_against_X in this folder.
      x_scale: Scale of numbers on the horizontal axis; auto takes log for numbers with
        logarithmic spacing.
      y_scale: Scale of the vertical axis.
      as_json: Print one JSON object: files, lines, places, and notes on what is drawn.

    Raises:
      ValueError: If there is no such table or column, nothing can be drawn, or rows do
        not belong on one line or axis.
    """
    # Imported here so that the command line starts without jax and matplotlib.
    from ppml_lab.lab import plots

    path = tables.find(table)
    named = dict(map(_choice, where))
    drawn = plots.plot(path, x, y, by, where=named, x_scale=x_scale, y_scale=y_scale)
    try:
        files = drawn.save(out or Path(f"{y}_against_{x}"))
    except OSError as error:
        raise ValueError(f"out {out} cannot be written: {error}") from error
    if as_json:
        places = sum(map(len, drawn.lines.values()))
        found = {"files": [*map(str, files)], "lines": len(drawn.lines)}
        print_json({**found, "places": places, "notes": drawn.notes})
        return
    for note in drawn.notes:
        print(note)
    for file in files:
        print(f"wrote {file}")


def _choice(text: str) -> tuple[str, tables.Value]:
    """Returns the column and the value of a text COLUMN=VALUE."""
    name, found, cell = text.partition("=")
    if not found:
        raise ValueError(f"where must be COLUMN=VALUE, got {text!r}")
    return name, tables.value(cell)
