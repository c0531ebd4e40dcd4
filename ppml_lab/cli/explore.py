"""`explore`: a page of all settings, with filters and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ppml_lab.cli.output import AsJson, print_json

Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]


def explore(
    folders: Folders = (),
    *,
    out: Path = Path("explorer.html"),
    as_json: AsJson = False,
) -> None:
    """Writes a page that shows what each setting promises, reaches and costs.

    The page is one file, which opens in any browser without a network: filters (data
    set, unit of privacy, adversary, epsilon, metric, upload, seconds, trusted server,
    drop-outs, clients), the metric against epsilon, bytes and seconds, attacks beside
    the promise, and the settings that qualify with the command that makes each anew.
    Above them stand the questions of `advise`.

    Example: python -m ppml_lab explore --out explorer.html

    Args:
      folders: Results folders, such as results/ or a sweep's --out; by default the
        tables that are committed with the lab, which need no clone. Folders in the
        results/ of a clone are read as its experiments declare.
      out: The page's file.
      as_json: Print one JSON object: file, number of settings, and notes on tables
        that the page leaves out.

    Raises:
      ValueError: If a folder holds no table, no table has the lab's columns (it names
        what is lacking), or the file cannot be written.
    """
    # Imported here so that the command line starts without jax.
    from ppml_lab.cli import explored
    from ppml_lab.lab import explorer
    from ppml_lab.lab.advice import asked
    from ppml_lab.lab.explorer import page

    view = explored.of_folders(folders) if folders else explorer.committed()
    try:
        out.write_text(page.html(view, extra=asked.html()), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out {out} cannot be written: {error}") from error
    if as_json:
        found = {"file": str(out), "settings": len(view.settings)}
        print_json({**found, "notes": view.notes})
        return
    for note in view.notes:
        print(f"left out: {note}")
    print(f"wrote {out}: {len(view.settings)} settings; open it in a browser")
