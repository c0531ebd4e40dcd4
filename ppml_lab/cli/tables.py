"""Results tables: finding their files, and their rows."""

from __future__ import annotations

from pathlib import Path

from ppml_lab.tables import Row, Value, read, value

__all__ = ["RESULTS", "Row", "Value", "find", "read", "value"]

RESULTS = Path("results")


def find(name: str) -> Path:
    """Returns the path of the table that a command's argument names.

    Args:
      name: The path of a table, a folder with a table.csv, or the <name> in
        results/<name>/table.csv, such as "dp_sgd" or "privacy_utility/smoke".

    Raises:
      ValueError: If there is no such table; names those below results.
    """
    from ppml_lab import checks

    if not name.strip():
        raise ValueError(f"table must be a name or a path, got {name!r}")
    candidates = [Path(name), RESULTS / name / "table.csv", Path(name) / "table.csv"]
    for path in candidates:
        if _is_file(path):
            return path
    if _is_folder(Path(name) / "runs"):
        raise ValueError(
            f"{name} holds runs of a sweep and no table.csv; in Python, `runs.save()` "
            "of what run_sweep returned writes it"
        )
    tables = sorted(RESULTS.rglob("table.csv"))
    if not tables:
        raise ValueError(
            f"no table {name}, and no tables in {RESULTS.resolve()}; go to the folder "
            "where experiments were run, or give the path of a table"
        )
    known = [str(path.parent.relative_to(RESULTS)) for path in tables]
    checks.known("results table", name, known)
    raise ValueError(f"no table {candidates[1]}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for a file system
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example, the name is too long
        return False
