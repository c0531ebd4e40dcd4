"""`pages`: brings the parts of results pages that are made from tables up to date.

An experiment's file declares, as a literal,

    PAGE = {"minutes": {"paper": 33}, "tables": [...]}

`minutes` is the expected time of a configuration on two cores, which the page shows
until the configuration's provenance has the real time; for `tables` see `means`. Where
several configurations have tables, the page joins them, with a column `configuration`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from ppml_lab.cli import experiments, means, tables
from ppml_lab.cli.output import AsJson, print_json
from ppml_lab.cli.tables import RESULTS, Row

Check = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def pages(*, check: Check = False, as_json: AsJson = False) -> None:
    """Brings results pages up to date with the tables.

    In results/NAME/README.md it writes the title, which is the experiment's question;
    the means between the lines `<!-- table -->` and `<!-- end -->`; and the commands,
    devices and commits between `<!-- made -->` and `<!-- end -->`. In results/README.md
    it writes the list between `<!-- list -->` and `<!-- end -->`. It writes all of the
    page of each configuration other than "paper" and "smoke", the view of all tables
    that the explorer reads, the prices beside it, and the guide.

    Example: python -m ppml_lab pages --check

    Args:
      check: Change nothing; exit with 1 if a page is not up to date.
      as_json: Print one JSON array: the pages that were not up to date.

    Raises:
      ValueError: If a page or one of its lines is missing, or a PAGE does not fit its
        tables.
      SystemExit: If `check` finds a page that is not up to date.
    """
    # Imported here so that the command line starts without jax.
    from ppml_lab.cli import explored, guided

    declared = {
        path: about
        for path in experiments.find().values()
        if (about := experiments.literal(path, "PAGE")) is not None
    }
    texts: dict[Path, str] = {}
    for path, about in declared.items():
        if {"minutes", "tables"} != {*about}:
            raise ValueError(
                f"PAGE of {path} must have the keys minutes and tables, got {[*about]}"
            )
        try:
            texts |= _pages(path, about)
        except ValueError as error:
            raise ValueError(f"PAGE of {path}: {error}") from error
    texts |= _overview(declared, texts) if texts else {}
    texts |= explored.texts()
    texts |= guided.texts()
    stale = [path for path, text in texts.items() if _read(path) != text]
    for path in [] if check else stale:
        path.write_text(texts[path])
    if as_json:
        print_json([*map(str, stale)])
    else:
        did = "is not up to date" if check else "brought up to date"
        print(
            "\n".join(f"{path} {did}" for path in stale) or ("all pages are up to date")
        )
    if check and stale:
        raise SystemExit(1)


def _pages(path: Path, about: Mapping[str, Any]) -> dict[Path, str]:
    """Returns an experiment's page, and those of its configurations other than
    "paper".
    """
    folders = experiments.tables_of(path.stem)
    if not folders and not (RESULTS / path.stem / "README.md").exists():
        return {}
    rows = {
        name: [
            row | {"configuration": name} for row in tables.read(folder / "table.csv")
        ]
        for name, folder in folders.items()
    }
    page, title = RESULTS / path.stem / "README.md", f"# {experiments.question(path)}"
    _, _, text = _read(page).partition("\n")
    everything = [row for own in rows.values() for row in own]
    text = _between(page, f"{title}\n{text}", "table", _tables(about, everything))
    minutes = about["minutes"] | {n: None for n in folders if n not in about["minutes"]}
    text = _between(page, text, "made", _made(page, path, minutes))
    texts = {page: text}
    for name, folder in folders.items():
        if name == "paper":
            continue
        own = folder / "README.md"
        parts = (
            title,
            f"The configuration `{name}` of [{path.stem}](../README.md), by itself.",
            _tables(about, rows[name]),
            _made(own, path, {name: minutes[name]}),
        )
        texts[own] = "\n\n".join(parts) + "\n"
    return texts


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _between(page: Path, text: str, name: str, content: str) -> str:
    """Returns the text with new content between a mark and the next `<!-- end -->`."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, _, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not closed:
        raise ValueError(f"{page} must have the lines {begin.strip()} and {end}")
    return f"{before}{begin}{content}\n{end}{after}"


def _tables(about: Mapping[str, Any], rows: list[Row]) -> str:
    if not rows:
        return "No table is committed yet."
    return "\n\n".join(
        filter(None, (means.table(one, rows) for one in about["tables"]))
    )


def _made(page: Path, path: Path, minutes: Mapping[str, float | None]) -> str:
    """Returns a table of commands, devices, minutes and commits that made each
    table.
    """
    folders = experiments.tables_of(path.stem)
    lines = ["| configuration | command | device | minutes | commits | format |"]
    lines += ["|---|---|---|--:|---|--:|"]
    for name in minutes:
        stamp, shown = _stamp(folders.get(name)), name
        if name in folders:
            shown = f"[{name}]({folders[name].relative_to(page.parent) / 'table.csv'})"
        arguments = " ".join(stamp["command"][1:] if stamp else [name])
        command = f"`python -m {experiments.module(path)} {arguments}`"
        took, made = _minutes(stamp, minutes[name]), _device_and_commits(stamp)
        lines.append(
            f"| {shown} | {command} | {made[0]} | {took} | {made[1]} | {made[2]} |"
        )
    return "\n".join(lines)


def _stamp(folder: Path | None) -> dict[str, Any] | None:
    """Returns a configuration's provenance.json; None if it has no table."""
    if folder is None:
        return None
    path = folder / "provenance.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _device_and_commits(stamp: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if stamp is None:
        return "-", "not made by itself", "-"
    cores, jax = stamp.get("cpu_count"), stamp["packages"]["jax"]
    device = f"{stamp['device_count']} x {stamp['device']}, {cores} cores, jax {jax}"
    commits = [
        str(one["git_commit"])[:7] + (" with changes" if one["git_dirty"] else "")
        for one in stamp.get("runs", {}).get("commits", [stamp])
    ]
    return device, ", ".join(dict.fromkeys(commits)), str(stamp.get("format", 1))


def _minutes(stamp: Mapping[str, Any] | None, expected: float | None) -> str:
    """Returns the minutes that a table took if they are recorded, else those
    expected.
    """
    spent = (stamp or {}).get("cost", {})
    if spent.get("run_seconds") is not None:
        names = ("run_seconds", "compile_seconds", "table_seconds")
        minutes = sum(spent.get(name) or 0.0 for name in names) / 60
        return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.2g}"
    return "-" if expected is None else f"about {expected:g}"


def _overview(
    declared: Mapping[Path, Mapping[str, Any]], texts: Mapping[Path, str]
) -> dict[Path, str]:
    """Returns results/README.md, with every experiment's question and answer in a
    line.
    """
    page = RESULTS / "README.md"
    lines = ["| experiment | question | answer | configurations (minutes) |"]
    lines += ["|---|---|---|---|"]
    for path, about in declared.items():
        answered, folders = (
            RESULTS / path.stem / "README.md",
            experiments.tables_of(path.stem),
        )
        if answered in texts:
            each = ", ".join(
                f"`{name}` ({_minutes(_stamp(folders.get(name)), minutes)})"
                for name, minutes in about["minutes"].items()
            )
            cells = (
                f"[{path.stem}]({path.stem}/README.md)",
                experiments.question(path),
                _answer(answered, texts[answered]),
                f"`python -m {experiments.module(path)}` {each}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return {page: _between(page, _read(page), "list", "\n".join(lines))}


def _answer(page: Path, text: str) -> str:
    """Returns a page's first paragraph, which must be bold, as one line."""
    first = " ".join([*text.split("\n\n"), ""][1].split())
    if not (first.startswith("**") and first.endswith("**")):
        raise ValueError(f"{page} must begin with the answer, a paragraph in **bold**")
    return first.strip("*")
