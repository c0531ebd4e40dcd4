"""Prices from committed tables that have no place in the view, kept in `prices.json`.

Such tables time or price a protocol and train nothing, or have columns that a setting
of the view lacks. An experiment declares beside itself, as a literal, which of their
numbers the advice and the guide read:

    PRICED = [{"by": ["model", "protocol"], "of": ["rounds"], "where": {"layer": "m"}}]

`Priced` lists the names. `python -m ppml_lab pages` writes the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ppml_lab import tables
from ppml_lab.tables import Row, Value

KEPT = Path(__file__).with_name("prices.json")
"""The prices of the committed tables."""


class Priced(TypedDict, total=False):
    """What an experiment says about the prices in its tables, in a list `PRICED`."""

    by: list[str]
    """The columns that tell prices apart."""
    of: list[str]
    """The columns of numbers; rows that agree in `by` are averaged, as seeds are."""
    where: dict[str, Value | list[Value]]
    """Rows count whose cells are these, or one of these."""
    needs: list[str]
    """Columns without which a table is of an older version, and has no prices."""


class Price(NamedTuple):
    """A row of prices: what it is a price of, and its numbers."""

    experiment: str
    configuration: str
    cells: dict[str, Value]
    """The cells of `by`, and the means of `of` over `count` rows; None where a row has
    no number."""
    count: int
    """The number of rows that were averaged."""
    commit: Value


class Prices(NamedTuple):
    """Prices of many tables, and what is missing."""

    prices: list[Price]
    notes: list[str]
    """Tables without the columns, and which they lack."""

    def to_json(self) -> str:
        """The prices as text, a price a line."""
        lines = ",\n".join(_line(one) for one in self.prices)
        return f'{{"prices":[\n{lines}\n],\n"notes":{json.dumps(self.notes)}}}\n'

    @staticmethod
    def of_json(text: str) -> Prices:
        """The prices that `to_json` wrote."""
        found = json.loads(text)
        prices = [
            Price(
                one["experiment"],
                one["configuration"],
                {name: _of_text(cell) for name, cell in one["cells"].items()},
                one["count"],
                one["commit"],
            )
            for one in found["prices"]
        ]
        return Prices(prices, found["notes"])


def committed() -> Prices:
    """The prices of the tables that are committed with the lab."""
    return Prices.of_json(KEPT.read_text())


def of_table(
    table: Sequence[Row],
    *,
    experiment: str,
    configuration: str,
    priced: Iterable[Priced],
    commit: Value = None,
) -> list[Price]:
    """Returns a table's prices.

    Raises:
      ValueError: If the table lacks columns, or no row is meant; names them.
    """
    found = []
    for about in priced:
        where = about.get("where", {})
        named = [*about["by"], *about["of"], *where, *about.get("needs", [])]
        lacking = [name for name in dict.fromkeys(named) if name not in table[0]]
        if lacking:
            raise ValueError(
                f"the table lacks {', '.join(lacking)}: make it again with this "
                "version of the lab, or change PRICED in the experiment's file"
            )
        groups: dict[str, list[Row]] = {}
        for row in table:
            if all(_is(row[name], cell) for name, cell in where.items()):
                key = json.dumps([row[name] for name in about["by"]])
                groups.setdefault(key, []).append(row)
        if not groups:
            raise ValueError(f"no row has {where}, which PRICED asks for")
        for rows in groups.values():
            cells: dict[str, Value] = {name: rows[0][name] for name in about["by"]}
            cells |= {name: _mean([row[name] for row in rows]) for name in about["of"]}
            found.append(Price(experiment, configuration, cells, len(rows), commit))
    return found


def _is(cell: Value, wanted: Any) -> bool:
    return cell in wanted if isinstance(wanted, list) else cell == wanted


def _mean(cells: Sequence[Value]) -> float | None:
    numbers = [float(cell or 0) for cell in cells if tables.is_finite(cell)]
    return sum(numbers) / len(numbers) if len(numbers) == len(cells) else None


def _line(price: Price) -> str:
    cells = {
        name: float(f"{cell:.6g}")
        if isinstance(cell, float) and math.isfinite(cell)
        else _to_text(cell)
        for name, cell in price.cells.items()
    }
    return json.dumps(price._asdict() | {"cells": cells}, separators=(",", ":"))


def _to_text(cell: Value) -> Value:
    return str(cell) if isinstance(cell, float) else cell


def _of_text(cell: Any) -> Value:
    return float(cell) if cell in ("inf", "-inf", "nan") else cell
