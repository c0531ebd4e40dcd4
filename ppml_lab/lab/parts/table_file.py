"""A CSV or Parquet file of one's own, as a part."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any, Literal

from ppml_lab import data
from ppml_lab.data import files, own_table
from ppml_lab.lab.tree.fields import File
from ppml_lab.lab.tree.part import part


@part
class TableFile:
    """A CSV or Parquet file of your own: a row is an example.

    TableFile("people.csv", target="income", user="town", one_hot=("work",))

    What was done to its rows is printed to stderr when they are read, and rows that
    were left out or filled stand in the column `dataset` of tables. A run is known by
    what the file holds, not by where it lies. See `data.read_table`.
    """

    path: File
    """Of the file: .csv, .tsv, .txt, .parquet or .pq; tables show its name alone."""
    target: str
    """The column to predict."""
    event: str | None = None
    """Where the target is a time: the column that says 1 where the event was seen then
    and 0 where watching ended."""
    user: str | None = None
    """The column that says who produced each row; None for no users."""
    columns: tuple[str, ...] = ()
    """The features; none for all that are left."""
    one_hot: tuple[str, ...] = ()
    """Which of them are categories, each to become a column of 0 and 1."""
    labels: Literal["classes", "numbers"] = "classes"
    """What the target is."""
    test_share: float = 0.2
    """The share of the rows that is test, drawn with `seed`."""
    test_column: str | None = None
    """A column that says train or test of each row, in place of a share."""
    seed: int = 0
    """Of the draw of test rows."""
    missing: Literal["drop", "fill"] = "drop"
    """Rows that lack a feature are left out, or filled by the mean of train."""
    missing_words: tuple[str, ...] = own_table.MISSING
    """Texts that stand for a missing cell in a CSV file."""
    standardise: bool = True
    """Whether numbers are brought to mean 0 and std 1, by the train rows."""
    delimiter: str = ","
    """Between the cells of a CSV file."""

    @property
    def num_classes(self) -> int | None:
        """How many classes the target has; None for numbers."""
        return self._read().num_classes

    @property
    def title(self) -> str:
        """The file's name, what is no default, and which rows are not as they were."""
        default = {field.name: field.default for field in dataclasses.fields(self)}
        given = [
            f"{name}={getattr(self, name)!r}"
            for name in default
            if name != "path" and getattr(self, name) != default[name]
        ]
        notes = [note for note in self._read().notes if "missing" in note]
        inside = ", ".join([Path(self.path).name, *given])
        return "; ".join([f"TableFile({inside})", *notes])

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the file; users are those of the column `user`."""
        dataset = self._read()
        return dataset.train, dataset.train_users, dataset.test

    def _read(self) -> data.Dataset:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"TableFile.path {self.path!r}: there is no such file in {Path.cwd()}"
            )
        return _read(self, files.sha256(path))


@functools.lru_cache(maxsize=2)
def _read(table: TableFile, content: str) -> data.Dataset:
    del content  # Another content is another table.
    fields = {
        field.name: getattr(table, field.name) for field in dataclasses.fields(table)
    }
    dataset = data.read_table(**fields)
    print(*(f"{dataset.name}: {n}" for n in dataset.notes), sep="\n", file=sys.stderr)
    return dataset
