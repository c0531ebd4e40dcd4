"""The prices of committed tables, and the guide that is made of all tables."""

from __future__ import annotations

from pathlib import Path

from ppml_lab import tables
from ppml_lab.cli import experiments, explored
from ppml_lab.lab.advice import guide
from ppml_lab.lab.explorer import prices, query

PRICES = Path("ppml_lab/lab/explorer/prices.json")
GUIDE = Path("ppml_lab/GUIDE.md")


def texts() -> dict[Path, str]:
    """Returns the files of prices and of the guide, {} outside of a clone.

    Raises:
      ValueError: If a statement of the guide no longer holds, or its query fits no
        setting of a table that is there.
    """
    if not PRICES.parent.is_dir():
        return {}
    found = of_clone()
    evidence = query.Evidence.of(explored.of_clone(), found)
    return {PRICES: found.to_json(), GUIDE: guide.render(evidence)}


def of_clone() -> prices.Prices:
    """Returns the prices of the tables below the current folder."""
    found: list[prices.Price] = []
    notes: list[str] = []
    for path in experiments.find().values():
        priced = experiments.literal(path, "PRICED")
        if priced is None:
            continue
        for name, folder in experiments.tables_of(path.stem).items():
            declared = experiments.literal(path, "EXPLORED")
            if isinstance(declared, dict) and explored.is_left_out(name, declared):
                continue
            try:
                found += prices.of_table(
                    tables.read(folder / "table.csv"),
                    experiment=path.stem,
                    configuration=name,
                    priced=priced,
                    commit=explored.made(path, folder)["commit"],
                )
            except ValueError as error:
                notes.append(f"{path.stem} {name}: {error}")
    return prices.Prices(found, notes)
