"""The cells of a CSV or Parquet file, by column; nothing of it is executed."""

from __future__ import annotations

import csv
import decimal
import importlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CSV_ENDINGS = (".csv", ".tsv", ".txt")
PARQUET_ENDINGS = (".parquet", ".pq")
# Older releases run code that some files hold.
_LEAST_PYARROW = (14, 0, 1)


class Cells(NamedTuple):
    """The cells of a table, as read from a file."""

    path: Path
    """The file's path."""
    columns: dict[str, list[Any]]
    """Each column's cells, one per row; None where missing, texts in a CSV file."""
    lines: list[int] | None
    """The line where each row begins, from 1 on; None for a file without lines."""
    numbers: list[int]
    """The number of each row in the file, from 1 on."""

    def row(self, i: int) -> str:
        """Names the row at place `i`, for errors."""
        line = "" if self.lines is None else f" (line {self.lines[i]})"
        return f"row {self.numbers[i]}{line}"

    def chosen(self, places: Sequence[int]) -> Cells:
        """The table with only the rows at some places."""
        return Cells(
            self.path,
            {name: [cells[i] for i in places] for name, cells in self.columns.items()},
            None if self.lines is None else [self.lines[i] for i in places],
            [self.numbers[i] for i in places],
        )


def read(path: Path, *, delimiter: str, missing: Sequence[str]) -> Cells:
    """Reads all cells of a file, as the ending of its name says.

    Args:
      path: The file's path.
      delimiter: The character between the cells of a CSV file; a tabulator for .tsv.
      missing: Texts that stand for a missing cell in a CSV file, ignoring blanks
        around.

    Raises:
      FileNotFoundError: For a file that does not exist.
      ImportError: For a Parquet file without pyarrow.
      ValueError: For an unknown ending, an empty file, no rows, columns of the same
        name, rows of another length than the header, or a file that is not text or not
        Parquet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path {str(path)!r} is not an existing file")
    ending = path.suffix.lower()
    if ending == ".tsv" and delimiter == ",":
        delimiter = "\t"
    if ending in CSV_ENDINGS:
        cells = _read_csv(path, delimiter, frozenset(missing))
    elif ending in PARQUET_ENDINGS:
        cells = _read_parquet(path)
    else:
        known = ", ".join((*CSV_ENDINGS, *PARQUET_ENDINGS))
        raise ValueError(f"path {str(path)!r} must end in one of {known}")
    if not next(iter(cells.columns.values())):
        raise ValueError(f"{path} has a header but no rows; give at least two rows")
    return cells


def _read_csv(path: Path, delimiter: str, missing: frozenset[str]) -> Cells:
    rows, lines, begin = [], [], 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(
                file, delimiter=delimiter, skipinitialspace=True, strict=True
            )
            for row in reader:
                if row:  # no blank line
                    rows.append([cell.strip() for cell in row])
                    lines.append(begin)
                begin = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {begin}: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty; its first line must name its columns")
    header, rows = _checked(path, rows[0]), rows[1:]
    between = [one for one in (";", "\t", ",", "|") if one in header[0]]
    if len(header) == 1 and between:
        raise ValueError(
            f"{path}: the first line is a single cell, {header[0][:60]!r}; give "
            f"delimiter={between[0]!r}"
        )
    for row, line in zip(rows, lines[1:], strict=True):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells, but the header names "
                f"{len(header)} columns; quote cells that hold {delimiter!r}"
            )
    columns = {
        name: [None if row[i] in missing else row[i] for row in rows]
        for i, name in enumerate(header)
    }
    return Cells(path, columns, lines[1:], list(range(1, len(rows) + 1)))


def _read_parquet(path: Path) -> Cells:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            f"{path}: Parquet files need pyarrow, which cannot be imported ({error}): "
            "pip install 'ppml_lab[parquet]', or save the table as CSV"
        ) from error
    release = tuple(int(part) for part in pyarrow.__version__.split(".")[:3])
    if release < _LEAST_PYARROW:
        raise ImportError(
            f"pyarrow {pyarrow.__version__} may run code contained in a file; install "
            f"{'.'.join(map(str, _LEAST_PYARROW))} or later"
        )
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file ({error})") from error
    names = _checked(path, list(table.column_names)) if table.num_columns else []
    if not names:
        raise ValueError(f"{path} is empty: it has no columns")
    columns = {}
    for i, name in enumerate(names):
        held = table.column(i).to_pylist()
        columns[name] = [None if _is_nan(cell) else cell for cell in held]
    return Cells(path, columns, None, list(range(1, table.num_rows + 1)))


def _checked(path: Path, header: list[str]) -> list[str]:
    if "" in header:
        raise ValueError(
            f"{path}: column {header.index('') + 1} has no name; name it in the header"
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: two columns are called {twice[0]!r}; rename one")
    return header


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float) and math.isnan(cell)


def numbers(cells: Cells, name: str, advice: str) -> np.ndarray:
    """A column as float64 `[n]`, NaN where a cell is missing.

    Args:
      cells: The table.
      name: The column's name.
      advice: What errors advise for a cell that is no number.

    Raises:
      ValueError: For a cell that is no finite number; says which.
    """
    found = np.empty(len(cells.columns[name]))
    for i, cell in enumerate(cells.columns[name]):
        value = math.nan if cell is None else number(cell)
        if value is None and cells.lines is not None:
            advice += "; if it stands for a missing cell, add it to missing_words"
        if value is None or math.isinf(value):
            raise ValueError(
                f"{cells.path}: {cells.row(i)}, column {name!r}: {cell!r} is not a "
                f"{'number' if value is None else 'finite number'}; {advice}"
            )
        found[i] = value
    return found


def check_single(cells: Cells, name: str, column: np.ndarray) -> None:
    """Raises ValueError for a number that float32, which training uses, cannot hold."""
    far = np.abs(np.nan_to_num(column)) > np.finfo(np.float32).max
    if far.any():
        at = int(np.argmax(far))
        raise ValueError(
            f"{cells.path}: {cells.row(at)}, column {name!r}: {column[at]:g} is more "
            "than float32 holds; correct the cell, or write the column in another unit"
        )


def number(cell: Any) -> float | None:
    """The number in a cell; None if the cell holds no number."""
    if isinstance(cell, int | float | decimal.Decimal):
        return float(cell)
    # Python takes 1_000 for a number.
    if not isinstance(cell, str) or "_" in cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if math.isnan(value) else value
