"""The view of the tables in results folders, such as a user's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ppml_lab import tables
from ppml_lab.lab.explorer.view import Setting, View, of_table
from ppml_lab.tables import Value


def made_by(folder: Path) -> dict[str, Value]:
    """Returns the command and commit of a folder's `provenance.json`; {} without it."""
    try:
        stamp = json.loads((folder / "provenance.json").read_text())
        module = Path(stamp["command"][0]).stem
        command = " ".join(["python -m", module, *stamp["command"][1:]])
        return {"command": command, "commit": stamp["git_commit"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def of_folders(folders: Iterable[str | Path]) -> View:
    """The view of results folders, such as a user's own `--out`.

    A folder's tables are its `table.csv` and those of folders below it. The experiment
    is what the table says, else the folder's name.

    Raises:
      ValueError: If a folder is missing or holds no table, or no table has the lab's
        columns; names what is lacking.
    """
    settings: list[Setting] = []
    notes: list[str] = []
    for folder in map(Path, folders):
        paths = sorted(folder.rglob("table.csv"))
        if not paths:
            raise ValueError(
                f"{folder} holds no table.csv; give the --out folder of a sweep, or "
                "results/"
            )
        for path in paths:
            table = tables.read(path)
            own = str(table[0].get("experiment") or path.parent.name)
            try:
                settings += of_table(
                    table,
                    experiment=own,
                    configuration=path.parent.name,
                    made=made_by(path.parent),
                )
            except ValueError as error:
                notes.append(f"{path}: {error}")
    if not settings:
        raise ValueError("no table can be shown: " + "; ".join(notes))
    return View(settings, notes)
