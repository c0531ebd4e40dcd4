"""Tables of people: census income, and heart disease at four hospitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ppml_lab import arguments
from ppml_lab.data import files, published
from ppml_lab.data.dataset import Dataset, make_dataset

ADULT_FILES = published.FILES["adult"].needed
_ADULT_ROWS = (32_561, 16_281)
_ADULT_COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
_ADULT_CLASSES = ("<=50K", ">50K")
_ADULT_NUMERIC = (
    "age",
    "education-num",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
)
# The codes of the census, which top-codes ages and capital gains; hours of a week.
_ADULT_RANGES = {
    "age": (17, 90),
    "education-num": (1, 16),
    "capital-gain": (0, 99_999),
    "capital-loss": (0, 5_000),
    "hours-per-week": (1, 99),
}
_ADULT_CATEGORICAL = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "native-country",
)

HEART_FILES = published.FILES["heart_disease"].needed
_HEART_ROWS = (303, 294, 123, 200)
_HEART_COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)
# Hardly measured outside Cleveland.
_HEART_DROPPED = ("slope", "ca", "thal")
_HEART_CATEGORIES = {"cp": ("1", "2", "3", "4"), "restecg": ("0", "1", "2")}
_HEART_NUMERIC = (
    "age",
    "sex",
    "trestbps",
    "chol",
    "fbs",
    "thalach",
    "exang",
    "oldpeak",
)
# What adults have; 0 where cholesterol was not measured.
_HEART_RANGES = {
    "age": (20, 90),
    "sex": (0, 1),
    "trestbps": (80, 220),
    "chol": (0, 600),
    "fbs": (0, 1),
    "thalach": (60, 220),
    "exang": (0, 1),
    "oldpeak": (-3, 7),
}
_HEART_TRAIN_SHARE = 0.66

Scaling = Literal["train_rows", "public_ranges"]
"""How numeric columns are scaled: by means and stds of the train rows, or by ranges
that are known without the data."""

# The text of each column, by name.
Table = dict[str, np.ndarray]


@arguments.checked
def adult(scaled_by: Scaling = "train_rows") -> Dataset:
    """Adult census income: is it above 50,000 dollars? 107 inputs.

    It has the official 32,561 train and 16,281 test rows, 24 % of them positive. The 5
    numeric columns are standardised with the train set's mean and std, the 8
    categorical columns are one-hot, with missing values as the category "?". The
    sampling weight fnlwgt is dropped. There are no users.

    **What privacy does not cover:** mean and std are of all train rows, so that one row
    changes the features of all rows. An epsilon that is stated for training on these
    features takes the mean and std, and the set of categories, as public. Scaled by
    public ranges, it takes the categories alone as public.

    Becker, Kohavi. Adult. UCI Machine Learning Repository, 1996.

    Args:
      scaled_by: "train_rows" as said above; "public_ranges": numeric columns go from -1
        to 1 over ranges that do not depend on the rows (ages 17 to 90, gains to
        99,999, losses to 5,000), and values outside a range become its end.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded.
      ValueError: A file is damaged.
    """
    paths = files.find("adult", list(ADULT_FILES), sources=ADULT_FILES)
    train, test = (
        _read(path, _ADULT_COLUMNS, num_rows)
        for path, num_rows in zip(paths, _ADULT_ROWS, strict=True)
    )
    categories = {name: np.unique(train[name]).tolist() for name in _ADULT_CATEGORICAL}
    (train_x, train_y, names), (test_x, test_y, _) = (
        _census(path, table, categories)
        for path, table in zip(paths, (train, test), strict=True)
    )
    if scaled_by == "public_ranges":
        train_x, test_x = (
            within_ranges(x, names, _ADULT_RANGES) for x in (train_x, test_x)
        )
    else:
        numeric = np.array([name in _ADULT_NUMERIC for name in names])
        mean = np.where(numeric, train_x.mean(axis=0), 0)
        std = np.where(numeric, train_x.std(axis=0), 1)
        train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    return make_dataset(
        "adult",
        (train_x, train_y),
        (test_x, test_y),
        2,
        feature_names=names,
        licence="CC BY 4.0",
        citation="Becker, Kohavi. Adult. UCI, 1996. doi:10.24432/C5XW20",
    )


@arguments.checked
def heart_disease(scaled_by: Scaling = "train_rows") -> Dataset:
    """Heart disease at four hospitals, the users: does a patient have it? 13 inputs.

    Users 0..3 are Cleveland, Hungary (Budapest), Switzerland (Zurich and Basel) and VA
    Long Beach. By the rule of FLamby's Fed-Heart-Disease, the columns slope, ca and
    thal are dropped, then the rows with a missing value, which leaves 303, 261, 46 and
    130 patients; cp and restecg become dummies without their first category; 66 % of
    each hospital are train. Each hospital standardises all columns, dummies too, with
    the mean and std of its own train rows; a column that is constant there, such as
    chol in Switzerland, where it was not measured, is only centred.

    The split is stratified by label with seed 0, so it is not FLamby's. Switzerland's
    one healthy patient is in train.

    **What privacy does not cover:** one patient changes the mean and std of their
    hospital, and so the features of its other patients. An epsilon that is stated for
    training on these features takes the four means and stds as public. Scaled by public
    ranges, nothing is taken from the rows.

    Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI Machine Learning
    Repository, 1989. Ogier du Terrail et al. FLamby: Datasets and Benchmarks for
    Cross-Silo Federated Learning in Realistic Healthcare Settings. NeurIPS 2022.

    Args:
      scaled_by: "train_rows" as said above; "public_ranges": in all hospitals, the
        eight columns that are no dummies go from -1 to 1 over ranges that do not depend
        on the rows (ages 20 to 90, blood pressures 80 to 220 mm Hg, cholesterol to 600
        mg/dl, pulses 60 to 220, ST depressions -3 to 7), and values outside a range
        become its end.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded.
      ValueError: A file is damaged.
    """
    paths = files.find("heart_disease", list(HEART_FILES), sources=HEART_FILES)
    train, test, names = [], [], []
    for user, (path, num_rows) in enumerate(zip(paths, _HEART_ROWS, strict=True)):
        x, y, names = _hospital(path, num_rows)
        is_train = _stratified(y, _HEART_TRAIN_SHARE)
        if scaled_by == "public_ranges":
            x = within_ranges(x, names, _HEART_RANGES)
        else:
            mean, std = x[is_train].mean(axis=0), x[is_train].std(axis=0)
            x = (x - mean) / np.where(std == 0, 1, std)
        users = np.full(len(y), user)
        train.append((x[is_train], y[is_train], users[is_train]))
        test.append((x[~is_train], y[~is_train], users[~is_train]))
    train_x, train_y, train_users = map(np.concatenate, zip(*train, strict=True))
    test_x, test_y, test_users = map(np.concatenate, zip(*test, strict=True))
    return make_dataset(
        "heart_disease",
        (train_x, train_y),
        (test_x, test_y),
        2,
        train_users=train_users,
        test_users=test_users,
        feature_names=names,
        licence="CC BY 4.0",
        citation="Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI, 1989. "
        "doi:10.24432/C52P4X",
    )


def within_ranges(
    x: np.ndarray, names: Sequence[str], ranges: Mapping[str, tuple[float, float]]
) -> np.ndarray:
    """Scales the columns that have a range to [-1, 1], clipped; leaves the others."""
    x = x.copy()
    for column, name in enumerate(names):
        if name in ranges:
            low, high = ranges[name]
            part = (np.clip(x[:, column], low, high) - low) / (high - low)
            x[:, column] = 2 * part - 1
    return x


def _census(
    path: Path, table: Table, categories: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns (x, y, names of x's columns), not yet standardised."""
    # Labels of the test file end in a dot.
    income = np.array([label.removesuffix(".") for label in table["income"]])
    _check_categories(path, "income", income, _ADULT_CLASSES)
    x, names = _encode(path, table, _ADULT_NUMERIC, categories)
    return x, (income == _ADULT_CLASSES[1]).astype(np.int32), names


def _hospital(path: Path, num_rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns (x, y, names of x's columns) of complete rows, not yet standardised."""
    table = _read(path, _HEART_COLUMNS, num_rows)
    kept = [name for name in _HEART_COLUMNS if name not in _HEART_DROPPED]
    complete = np.all([table[name] != "?" for name in kept], axis=0)
    table = {name: table[name][complete] for name in kept}
    for name in _HEART_CATEGORIES:
        # Cleveland writes 1.0 where the others write 1.
        table[name] = np.array([value.removesuffix(".0") for value in table[name]])
    x, names = _encode(path, table, _HEART_NUMERIC, _HEART_CATEGORIES)
    # Without the first category of each, as in FLamby.
    redundant = [f"{name}={known[0]}" for name, known in _HEART_CATEGORIES.items()]
    used = [column for column, name in enumerate(names) if name not in redundant]
    y = (_numbers(path, table, "num") > 0).astype(np.int32)
    return x[:, used], y, [names[column] for column in used]


def _stratified(y: np.ndarray, share: float) -> np.ndarray:
    """True for train rows, `[n]` bool: `share` of all rows and of each label's."""
    num_train = int(share * len(y))
    num_positive = round(num_train * y.mean())
    order = np.random.default_rng(0).permutation(len(y))
    is_train = np.zeros(len(y), bool)
    is_train[order[y[order] == 1][:num_positive]] = True
    is_train[order[y[order] == 0][: num_train - num_positive]] = True
    return is_train


def _read(path: Path, columns: Sequence[str], num_rows: int) -> Table:
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    # Adult's test file begins with a comment, and both of its files end in a blank.
    lines = [line for line in lines if line and not line.startswith("|")]
    rows = [[value.strip() for value in line.split(",")] for line in lines]
    for row in rows:
        if len(row) != len(columns):
            raise _damaged(path, f"a row must have {len(columns)} columns, got {row}")
    if len(rows) != num_rows:
        raise _damaged(path, f"must have {num_rows} rows, got {len(rows)}")
    return dict(zip(columns, np.array(rows).T, strict=True))


def _encode(
    path: Path,
    table: Table,
    numeric: Sequence[str],
    categories: Mapping[str, Sequence[str]],
) -> tuple[np.ndarray, list[str]]:
    """Returns (x, names of its columns): numbers, then one column per category."""
    x = {name: _numbers(path, table, name) for name in numeric}
    for name, known in categories.items():
        _check_categories(path, name, table[name], known)
        x |= {f"{name}={value}": table[name] == value for value in known}
    return np.stack(list(x.values()), axis=1).astype(np.float64), list(x)


def _numbers(path: Path, table: Table, name: str) -> np.ndarray:
    try:
        return table[name].astype(np.float64)
    except ValueError as error:
        raise _damaged(path, f"{name} must be a number ({error})") from error


def _check_categories(
    path: Path, name: str, values: np.ndarray, known: Sequence[str]
) -> None:
    unknown = set(values.tolist()) - set(known)
    if unknown:
        raise _damaged(path, f"{name} must be one of {known}, got {sorted(unknown)}")


def _damaged(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path}: {problem}; delete the file and fetch it again")
