"""Results tables: where they lie, and their cells as values."""

from __future__ import annotations

import csv
import re
from pathlib import Path

Value = str | int | float | bool | None
Row = dict[str, Value]

RESULTS = Path("results")
_WORDS: dict[str, Value] = {"": None, "True": True, "False": False}
_WORDS |= {"inf": float("inf"), "-inf": float("-inf")}
# A digest such as 12e3456 is none.
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d{1,3})?")


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


def read(path: Path) -> list[Row]:
    """A table's rows; numbers and truth values as such, empty cells as None.

    Raises:
      ValueError: If it cannot be read, has no rows, or a row has other columns.
    """
    try:
        # Spreadsheets put a mark before the first letter.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = filter(None, csv.reader(file, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    except ValueError:
        raise ValueError(f"{path} is empty") from None
    if not lines:
        raise ValueError(f"{path} has a header and no rows")
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has two columns of one name: {', '.join(header)}")
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells, its header {len(header)}"
            )
    return [dict(zip(header, map(value, line), strict=True)) for line in lines]


def value(cell: str) -> Value:
    """A cell's number, truth value or text; None if it is empty."""
    if cell in _WORDS:
        return _WORDS[cell]
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if set(cell) & set(".e") else int(cell)
