"""A CSV or Parquet file of your own, as a part."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ppml_lab import data
from ppml_lab.data import cells, files, own_table
from ppml_lab.lab.tree.fields import File
from ppml_lab.lab.tree.part import part


@part
class TableFile:
    """A CSV or Parquet file of your own: a row is an example.

    TableFile("people.csv", target="income", user="town", one_hot=("work",))

    Reading it prints to stderr what was done to the rows. The column `dataset` of
    tables says which rows were left out or filled. The file's content, not its path,
    identifies a run. See `data.read_table`.
    """

    path: File
    """Path of the file: .csv, .tsv, .txt, .parquet or .pq; tables show its name alone.
    """
    target: str
    """The column to predict."""
    event: str | None = None
    """The column with 1 where the event was seen at the time in `target`, and 0 where
    watching ended then; None where the target is no time."""
    user: str | None = None
    """The column that says who produced each row; None where rows have no users."""
    person: str | None = None
    """The column that says whose each row is, where a person has several rows; None
    where every row is another person."""
    columns: tuple[str, ...] = ()
    """The columns of features; empty for all columns without another use."""
    one_hot: tuple[str, ...] = ()
    """The columns of `columns` that hold categories; each category becomes a column of
    0 and 1."""
    labels: Literal["classes", "numbers"] = "classes"
    """Kind of the target: classes, or numbers."""
    test_share: float = 0.2
    """Share of the rows that is held out for testing, drawn with `seed`."""
    test_column: str | None = None
    """The column that says train or test for each row; it replaces `test_share`."""
    seed: int = 0
    """Seed of the draw of test rows."""
    missing: Literal["drop", "fill"] = "drop"
    """Treatment of rows that lack a feature: drop leaves them out, fill takes the mean
    of the train rows, the middle of the range in `ranges`, or the category
    "missing"."""
    missing_words: tuple[str, ...] = own_table.MISSING
    """Texts that stand for a missing cell in a CSV file."""
    ranges: tuple[str, ...] = ()
    """Ranges of numeric columns that are known without the data, such as age=0:120;
    these columns go from -1 to 1, and epsilon covers their scaling too."""
    standardise: bool = True
    """If true, numeric columns without a range are scaled to mean 0 and standard
    deviation 1 of the train rows."""
    delimiter: str = ","
    """The character between the cells of a CSV file."""

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the target; None where it is a number."""
        return self._read().num_classes

    @property
    def title(self) -> str:
        """The file's name, the fields that differ from their defaults, and notes on
        missing cells.
        """
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
        """Reads the file; users are the values of the column `user`."""
        dataset = self._read()
        return dataset.train, dataset.train_users, dataset.test

    def _read(self) -> data.Dataset:
        return _read(self, content_of("TableFile.path", self.path))


def content_of(name: str, path: str) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
      FileNotFoundError: If there is no such file; calls the path by `name`.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(
            f"{name} {path!r} is not an existing file, seen from {Path.cwd()}"
        )
    return files.sha256(found)


@functools.lru_cache(maxsize=2)
def _read(table: TableFile, content: str) -> data.Dataset:
    del content  # The cache tells tables apart by it.
    fields = {
        field.name: getattr(table, field.name) for field in dataclasses.fields(table)
    }
    fields["ranges"] = ranges_of(table.ranges)
    dataset = data.read_table(**fields)
    print(*(f"{dataset.name}: {n}" for n in dataset.notes), sep="\n", file=sys.stderr)
    return dataset


def ranges_of(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the ranges that texts such as "age=0:120" give, by column.

    Raises:
      ValueError: For a text of another form, or a column that is named twice.
    """
    found = {}
    for text in texts:
        name, _, ends = text.rpartition("=")
        each = [cells.number(end) for end in ends.split(":")]
        numbers = [number for number in each if number is not None]
        if not name or len(each) != 2 or len(numbers) != 2:
            raise ValueError(
                f"ranges: {text!r} must be the column, its least and its greatest "
                "value, such as age=0:120"
            )
        if name in found:
            raise ValueError(f"ranges names {name!r} twice; give one range for it")
        found[name] = numbers[0], numbers[1]
    return found
