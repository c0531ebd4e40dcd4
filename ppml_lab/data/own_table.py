"""A CSV or Parquet file of one's own, as a data set."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ppml_lab import arguments, checks, trees
from ppml_lab.data import cells as reading
from ppml_lab.data import persons, table_rows
from ppml_lab.data.cells import Cells
from ppml_lab.data.dataset import Dataset, of_rows
from ppml_lab.data.tabular import within_ranges

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""The default texts that stand for a missing cell."""
_NO_CATEGORY = "missing"
_SIDES = {
    **dict.fromkeys(("train", "false", "0", "0.0"), False),
    **dict.fromkeys(("test", "true", "1", "1.0"), True),
}
_FEWEST_IDS = 30


@arguments.checked
def read_table(
    path: str | Path,
    target: str,
    *,
    event: str | None = None,
    user: str | None = None,
    person: str | None = None,
    columns: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    labels: Literal["classes", "numbers"] = "classes",
    test_share: float = 0.2,
    test_column: str | None = None,
    seed: int = 0,
    missing: Literal["drop", "fill"] = "drop",
    missing_words: Sequence[str] = MISSING,
    ranges: Mapping[str, Sequence[float]] = types.MappingProxyType({}),
    standardise: bool = True,
    delimiter: str = ",",
) -> Dataset:
    """Reads a table from a CSV or Parquet file, with one example per row.

    A CSV file is UTF-8 text whose first line names the columns; blanks around cells are
    dropped. A Parquet file needs pyarrow. Cells are read only as texts and numbers, and
    nothing of a file is executed.

    `Dataset.notes` says what was done: how many cells of each column were missing and
    what happened to their rows, what was standardised, and the classes.

    **What privacy does not cover:** the mean and std of columns, the means that fill
    missing cells, and the categories come from all train rows, and the classes from all
    rows. An epsilon that is stated for training on these features takes them as public.
    Columns with a range in `ranges` take nothing from the rows.

    Args:
      path: The file's path; the ending tells the format: .csv, .tsv or .txt, .parquet
        or .pq.
      target: The column to predict.
      event: The column that is 1 where the target is the time to an observed event, and
        0 where it is the time to the end of observation: "y" becomes {"time": float32,
        "event": int32}, as `models.survival` reads it. None where the target is no such
        time.
      user: The column that says who produced each row; None where rows have no users.
        Whole numbers are numbers, all else is text.
      person: The column that says whose each row is, where a person has several rows,
        such as visits: it becomes the leaf "person" of numbers from 0 on, by which
        `federated.example_gradients` protects a person with all their rows. None where
        every row is another person.
      columns: The columns that are features, in this order; by default all without
        another use.
      one_hot: Columns of categories, among the features: each category of the train
        rows becomes a column "name=category" of 0 and 1, behind the others. A test row
        with a category that no train row has is 0 in all of them.
      labels: "classes": the distinct values of the target become 0, 1, ... in sorted
        order; "numbers": the target stays a float32 number. Without effect with
        `event`.
      test_share: The share of the rows that is test, whoever produced them, drawn with
        `seed`; with `person`, the share of the people. 0 leaves the test side empty,
        for rows that are split elsewhere. Without effect with `test_column`.
      test_column: A column with "test" or "train" for each row (or 1 or 0, true or
        false).
      seed: Seed of the draw of test rows.
      missing: What happens to a row that lacks a feature. "drop": it is left out.
        "fill": the cell becomes the mean of its column's train rows, the middle of its
        range in `ranges`, or the category "missing". A row that lacks its target,
        event, user, person or test_column is always left out.
      missing_words: Texts that stand for a missing cell in a CSV file.
      ranges: For columns that are not one-hot, the least and the greatest value that
        are known without the data, such as {"age": (0, 120)}: the column goes from -1
        to 1 over this range, and values outside become its end.
      standardise: Whether columns that are neither one-hot nor in `ranges` become
        (x - mean) / std, by the train rows; a column that is constant there is only
        centred.
      delimiter: The character between cells of a CSV file; a tabulator for .tsv.

    Raises:
      FileNotFoundError: For a file that does not exist.
      ImportError: For a Parquet file without pyarrow.
      ValueError: For a column that does not exist (names the nearest), is named twice
        or has two uses; a text in a column of numbers (names row, column and cell);
        an empty file; no rows left for train or test; fewer than 2 classes; numbers
        among classes that are not whole; times that are not above 0; events that are
        not 0 or 1; or a range of a column that is no number of x, or that is empty.
    """
    if test_column is None:
        checks.share("test_share", test_share)
    checks.at_least("seed", seed, 0)
    if len(delimiter) != 1:
        raise ValueError(f"delimiter must be one character, got {delimiter!r}")
    path = Path(path).expanduser()
    cells = reading.read(path, delimiter=delimiter, missing=missing_words)
    used = {"target": target, "event": event, "user": user, "person": person}
    used |= {"test_column": test_column}
    used = {argument: name for argument, name in used.items() if name is not None}
    features = _features(cells, used, columns, one_hot)
    known = _known_ranges(ranges, [name for name in features if name not in one_hot])
    cells, notes = _whole_rows(
        cells, list(used.values()), features if missing == "drop" else []
    )
    people = None if person is None else table_rows.numbered(cells.columns[person])
    is_test = _test_rows(cells, test_column, test_share, seed, people)
    if event is None:
        y, num_classes, words = table_rows.labels(cells, target, labels)
    else:
        y, num_classes, words = table_rows.times(cells, target, event), None, []
    with np.errstate(over="ignore", invalid="ignore"):
        # Overflow gives values that are not finite, which are refused below.
        x, names, done = _inputs(
            cells, features, one_hot, ~is_test, known, standardise=standardise
        )
        x = x.astype(np.float32)
    users = None if user is None else table_rows.users(cells.columns[user])
    both = {"x": x, "y": y} | ({} if people is None else {persons.LEAF: people})
    train, test = (trees.take(both, rows) for rows in (~is_test, is_test))
    dataset = of_rows(
        path.name,
        train,
        # An empty side has nothing to be checked.
        test if is_test.any() else train,
        num_classes,
        train_users=None if users is None else users[~is_test],
        feature_names=names,
    )
    if users is not None:
        dataset = dataset._replace(test_users=users[is_test])
    return dataset._replace(test=test, notes=(*notes, *done, *words))


def _features(
    cells: Cells,
    others: Mapping[str, str],
    columns: Sequence[str],
    one_hot: Sequence[str],
) -> list[str]:
    """The columns of x, checked."""
    used: dict[str, str] = {}
    for argument, name in others.items():
        _check_column(cells, argument, name)
        if name in used:
            raise ValueError(
                f"{argument} {name!r} is already named as {used[name]}; name another "
                "column"
            )
        used[name] = argument
    for name in columns:
        _check_column(cells, "columns", name)
        if name in used:
            raise ValueError(
                f"columns: {name!r} is already named as {used[name]}; leave it out"
            )
        used[name] = "a column"
    features = list(columns) or [name for name in cells.columns if name not in used]
    for name in one_hot:
        _check_column(cells, "one_hot", name)
        if list(one_hot).count(name) > 1:
            raise ValueError(f"one_hot names {name!r} twice; name it once")
        if name not in features:
            raise ValueError(
                f"one_hot: {name!r} is not among the columns of x; add it to columns"
            )
    if not features:
        raise ValueError(f"{cells.path} has no columns other than {sorted(used)}")
    return features


def _known_ranges(
    ranges: Mapping[str, Sequence[float]], numeric: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The ranges, checked."""
    found = {}
    for name, ends in ranges.items():
        checks.known("column of numbers among x", name, numeric, argument="ranges")
        if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"ranges: {name!r} must have the least and a greater value, both "
                f"finite, such as (0, 120), got {ends}"
            )
        found[name] = float(ends[0]), float(ends[1])
    return found


def _check_column(cells: Cells, argument: str, name: str) -> None:
    checks.known(f"column of {cells.path.name}", name, cells.columns, argument=argument)


def _whole_rows(
    cells: Cells, always: Sequence[str], features: Sequence[str]
) -> tuple[Cells, list[str]]:
    """The rows that have cells in all these columns, and notes on missing cells."""
    counts = {
        name: sum(cell is None for cell in column)
        for name, column in cells.columns.items()
    }
    needed = [*always, *features]
    kept = [
        i
        for i, row in enumerate(zip(*(cells.columns[n] for n in needed), strict=True))
        if not any(cell is None for cell in row)
    ]
    total = len(cells.columns[needed[0]])
    lacking = ", ".join(f"{name} ({counts[name]})" for name in needed if counts[name])
    notes = []
    if lacking:
        notes = [f"{total - len(kept)} of {total} rows left out: missing {lacking}"]
    if not kept:
        raise ValueError(
            f"{cells.path}: each of the {total} rows lacks a cell in {lacking}; name "
            "the columns to use, or fill missing cells"
        )
    return cells.chosen(kept), notes


def _test_rows(
    cells: Cells,
    test_column: str | None,
    test_share: float,
    seed: int,
    people: np.ndarray | None,
) -> np.ndarray:
    """True for test rows, `[n]` bool."""
    if test_column is None:
        rows = len(next(iter(cells.columns.values())))
        count = rows if people is None else int(people.max()) + 1
        is_test = np.zeros(count, bool)
        order = np.random.default_rng(seed).permutation(count)
        is_test[order[: round(test_share * count)]] = True
        is_test = is_test if people is None else is_test[people]
        unit = "rows" if people is None else "people"
        how = f"test_share {test_share:g} of {count} {unit}"
    else:
        sides = []
        for i, cell in enumerate(cells.columns[test_column]):
            side = _SIDES.get(str(cell).lower())
            if side is None:
                raise ValueError(
                    f"{cells.path}: {cells.row(i)}, column {test_column!r}: must say "
                    f"train or test, got {cell!r}"
                )
            sides.append(side)
        is_test, how = np.array(sides), f"test_column {test_column!r}"
        if people is not None:
            _check_sides(cells, is_test, people)
    keeps_all = test_column is None and test_share == 0
    if is_test.all() or not (keeps_all or is_test.any()):
        rest = "train" if is_test.all() else "test"
        raise ValueError(f"{cells.path}: {how} leaves no row for {rest}")
    return is_test


def _check_sides(cells: Cells, is_test: np.ndarray, people: np.ndarray) -> None:
    """Raises ValueError for a person whose rows lie on both sides."""
    both = np.intersect1d(people[is_test], people[~is_test])
    if both.size:
        train, test = (
            cells.row(int(np.flatnonzero((people == both[0]) & side)[0]))
            for side in (~is_test, is_test)
        )
        raise ValueError(
            f"{cells.path}: {train} is train and {test} is test, but both are of one "
            f"person ({len(both)} such people); put all rows of a person on one side, "
            "or leave out test_column, so that test_share draws whole people"
        )


def _inputs(
    cells: Cells,
    features: Sequence[str],
    one_hot: Sequence[str],
    is_train: np.ndarray,
    ranges: Mapping[str, tuple[float, float]],
    *,
    standardise: bool,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns (x `[n, columns]`, the columns' names, notes on what was done)."""
    advice = (
        "put the column in one_hot, leave it out of columns, name it as user or person "
        "if it says whose the row is, or correct the cell"
    )
    found, names, filled, middles, ids = [], [], [], [], []
    numeric = [name for name in features if name not in one_hot]
    for name in numeric:
        column = reading.numbers(cells, name, advice)
        absent = np.isnan(column)
        if absent.any():
            if absent[is_train].all():
                raise ValueError(
                    f"{cells.path}: column {name!r} is missing in every train row; "
                    "leave it out of columns"
                )
            # A range is public, so that nothing of the rows is taken.
            is_known = name in ranges
            own = column[is_train & ~absent]
            column[absent] = np.mean(ranges[name] if is_known else own)
            (middles if is_known else filled).append(f"{name} ({absent.sum()})")
        if _is_like_an_id(column):
            ids.append(name)
        if name in ranges:
            column = within_ranges(column[:, None], [name], ranges)[:, 0]
        elif standardise:
            column = _standardised(cells, name, column, is_train)
        reading.check_single(cells, name, column)
        found.append(column)
        names.append(name)
    for name in one_hot:
        texts = np.array(
            [
                _NO_CATEGORY if cell is None else str(cell)
                for cell in cells.columns[name]
            ]
        )
        absent = sum(cell is None for cell in cells.columns[name])
        if absent:
            filled.append(f"{name} ({absent})")
        for category in np.unique(texts[is_train]).tolist():
            found.append(texts == category)
            names.append(f"{name}={category}")
    notes = []
    if filled:
        notes.append(
            "missing cells filled with the mean of the train rows, or a category "
            f'"{_NO_CATEGORY}": {", ".join(filled)}'
        )
    if middles:
        notes.append(
            f"missing cells filled with the middle of their range: {', '.join(middles)}"
        )
    if ids:
        notes.append(
            f"{', '.join(ids)}: another whole number in every row; if that says whose "
            "the row is, name it as user or person, or leave it out of columns"
        )
    by_rows = len([name for name in numeric if name not in ranges])
    if standardise and by_rows:
        notes.append(
            f"standardised by the {is_train.sum()} train rows: {by_rows} columns"
        )
    if ranges:
        notes.append(f"scaled by given ranges: {len(ranges)} columns")
    return np.stack(found, axis=1).astype(np.float64), names, notes


def _standardised(
    cells: Cells, name: str, column: np.ndarray, is_train: np.ndarray
) -> np.ndarray:
    """A column as (x - mean) / std of the train rows.

    Raises:
      ValueError: If the std is too large for a float, as by a sentinel like -1.8e308.
    """
    own = column[is_train]
    scale = own.std() if np.ptp(own) > 0 else 1.0
    if not math.isfinite(scale):
        far = int(np.argmax(np.abs(column)))
        raise ValueError(
            f"{cells.path}: {cells.row(far)}, column {name!r}: {column[far]:g} is too "
            "large for the column to be standardised; correct the cell, add it to "
            "missing_words if it stands for a missing value, or give the column a range"
        )
    return (column - own.mean()) / scale


def _is_like_an_id(column: np.ndarray) -> bool:
    """Says if a column has another whole number in each of 30 or more rows."""
    count = len(column)
    return (
        count >= _FEWEST_IDS
        and bool(np.all(column == np.round(column)))
        and len(np.unique(column)) == count
    )
