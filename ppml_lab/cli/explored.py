"""The view of all committed tables, which the explorer and the guide read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ppml_lab import tables
from ppml_lab.cli import experiments
from ppml_lab.cli.tables import RESULTS
from ppml_lab.lab.explorer import folders, view

KEPT = Path("ppml_lab/lab/explorer/runs.json")
"""The view, below the current folder."""


def texts() -> dict[Path, str]:
    """Returns the view's file and its text, {} outside of a clone.

    Raises:
      ValueError: If an experiment has a table and says nothing of it.
    """
    return {KEPT: of_clone().to_json()} if KEPT.parent.is_dir() else {}


def of_folders(named: Iterable[Path]) -> view.View:
    """Returns the view of results folders; those in this clone's results/ are read as
    its experiments declare.

    A folder below another of them counts once.

    Raises:
      ValueError: If a folder is missing or holds no table, or no table has the lab's
        columns; names what is lacking.
    """
    each = [*dict.fromkeys(folder.resolve() for folder in named)]
    each = [one for one in each if not any(up in each for up in one.parents)]
    settings: list[view.Setting] = []
    notes: list[str] = []
    others: list[Path] = []
    for folder in each:
        found = of_clone(folder) if _is_of_clone(folder) else view.View([], [])
        settings += found.settings
        notes += found.notes
        if not (found.settings or found.notes):
            others.append(folder)
    if others:
        found = folders.of_folders(others)
        settings, notes = settings + found.settings, notes + found.notes
    if not settings:
        raise ValueError("no table can be shown: " + "; ".join(notes))
    return view.View(settings, notes)


def _is_of_clone(folder: Path) -> bool:
    return KEPT.parent.is_dir() and folder.is_relative_to(RESULTS.resolve())


def of_clone(within: Path | None = None) -> view.View:
    """Returns the view of the tables below the current folder.

    Args:
      within: Only tables in this folder; all of them if None.

    Raises:
      ValueError: If an experiment has a table and says nothing of it.
    """
    settings: list[view.Setting] = []
    notes: list[str] = []
    for path in experiments.find().values():
        declared = experiments.literal(path, "EXPLORED")
        for name, folder in experiments.tables_of(path.stem).items():
            if within and not folder.resolve().is_relative_to(within.resolve()):
                continue
            if declared is None:
                raise ValueError(
                    f"{path} has a table of `{name}` and says nothing of it: add "
                    "EXPLORED = {}, or the reason why it has no place in the explorer"
                )
            if is_left_out(name, declared):
                continue
            try:
                settings += view.of_table(
                    tables.read(folder / "table.csv"),
                    experiment=path.stem,
                    configuration=name,
                    declared=declared,
                    made=made(path, folder),
                )
            except ValueError as error:
                notes.append(f"{path.stem} {name}: {error}")
    return view.View(settings, notes)


def made(path: Path, folder: Path) -> dict[str, tables.Value]:
    """Returns the command, with the experiment's module, and the commit of a table."""
    found = folders.made_by(folder)
    _, _, arguments = str(found.get("command", "")).partition(f"{path.stem} ")
    return found | {"command": f"python -m {experiments.module(path)} {arguments}"}


def is_left_out(name: str, declared: Any) -> bool:
    """Returns whether a configuration has no place in the view, by its EXPLORED."""
    if isinstance(declared, str):
        return True
    return any(name.startswith(begin) for begin in declared.get("left_out", {}))
