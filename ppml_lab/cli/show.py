"""`show`: prints a results table in the terminal, or as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from ppml_lab.cli import latex as latex_tables
from ppml_lab.cli import tables
from ppml_lab.cli.output import AsJson, Table, print_json, print_table


def show(
    table: Table,
    *,
    columns: tuple[str, ...] = (),
    rows: int | None = None,
    latex: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    as_json: AsJson = False,
) -> None:
    """Prints a results table.

    Columns that have one value in all rows are named below the table, unless `columns`
    asks for them.

    Example: python -m ppml_lab show heterogeneity --columns partition algorithm seed
    best_accuracy --rows 6

    Args:
      table: An experiment, as NAME or NAME/smoke, or the path of a table.
      columns: Show these columns only, in this order.
      rows: Number of rows from the top; all by default.
      latex: Print a LaTeX table (booktabs): a line for each configuration, with means
        and standard deviations over its seeds.
      as_json: Print one JSON array of rows (an infinite number is the string "inf").

    Raises:
      ValueError: If there is no such table or column, `rows` is not at least 1, or
        lines of LaTeX would look alike.
    """
    from ppml_lab import checks

    path = tables.find(table)
    found = tables.read(path)
    if rows is not None:
        checks.at_least("rows", rows, 1)
    for name in columns:
        checks.known("column", name, list(found[0]))
    if latex:
        if as_json:
            raise ValueError("latex and json cannot be combined; choose one")
        print(latex_tables.table(found[:rows], columns))
        return
    alike = () if columns or as_json else _alike(found)
    kept = columns or [name for name in found[0] if name not in alike]
    shown = [{name: row[name] for name in kept} for row in found[:rows]]
    if as_json:
        print_json(shown)
        return
    print(f"{path}: {len(shown)} of {len(found)} rows")
    print_table(shown)
    same = [f"{name} {found[0][name]}" for name in alike if found[0][name] is not None]
    if same:
        print(f"\nIn all rows: {'; '.join(same)}")


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the columns that have one value; none of a single row, or if no others
    remain.
    """
    alike = [name for name in rows[0] if len({row[name] for row in rows}) == 1]
    return alike if len(rows) > 1 and len(alike) < len(rows[0]) else []
