"""Where results tables lie, and their rows."""

from __future__ import annotations

from pathlib import Path

from ppml_lab.tables import Row, Value, read, value

__all__ = ["RESULTS", "Row", "Value", "find", "read", "value"]

RESULTS = Path("results")


def find(name: str) -> Path:
    """The table that a command's argument means.

    Args:
      name: A table, a folder with a table.csv, or what stands for
        results/<name>/table.csv: "dp_sgd", "privacy_utility/smoke".

    Raises:
      ValueError: If there is none; names those below results.
    """
    from ppml_lab import checks

    if not name.strip():
        raise ValueError(f"table must be a name or a path, got {name!r}")
    candidates = [Path(name), RESULTS / name / "table.csv", Path(name) / "table.csv"]
    for path in candidates:
        if _is_file(path):
            return path
    tables = sorted(RESULTS.rglob("table.csv"))
    if not tables:
        raise ValueError(
            f"no table {name}, and none in {RESULTS.resolve()}: go to the folder that "
            "experiments were run in, or give a table's path"
        )
    known = [str(path.parent.relative_to(RESULTS)) for path in tables]
    checks.known("results table", name, known)
    raise ValueError(f"no table {candidates[1]}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long for one
        return False
