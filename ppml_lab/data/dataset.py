"""A data set before it is split among clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.data import columns


class Dataset(NamedTuple):
    """Train and test examples on the host.

    Attributes:
      name: What tables call it.
      train: "x" float32 `[n, ...]` and "y" int32 `[n]`, labels in `[0, num_classes)`.
      test: The same for the examples held out.
      num_classes: How many labels there are.
      train_users: `[n]`, who produced each train example; None without natural users.
      test_users: The same for `test`.
      feature_names: What each column of x is, such as "age", or "education=Bachelors"
        where it is one-hot; None where x is not a table.
    """

    name: str
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    train_users: np.ndarray | None
    test_users: np.ndarray | None
    feature_names: tuple[str, ...] | None = None


@arguments.checked
def make_dataset(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    num_classes: int,
    *,
    train_users: Any = None,
    test_users: Any = None,
    feature_names: Sequence[str] | None = None,
) -> Dataset:
    """Builds a `Dataset` from arrays, checked.

    Args:
      name: What tables call it.
      train: `(x, y)`: numbers `[n, ...]` and integer labels `[n]`.
      test: The same for the examples held out; rows of the same shape.
      num_classes: How many labels there are, at least 2.
      train_users: `[n]`, who produced each train example.
      test_users: The same for `test`.
      feature_names: What each column of x is, where x is `[n, columns]`; no name twice.

    Raises:
      ValueError: Lengths that disagree, a label outside `[0, num_classes)`, a value
        of x that is not finite in float32, no examples, users that are missing.
    """
    checks.at_least("num_classes", num_classes, 2)
    for part, pair in (("train", train), ("test", test)):
        if len(pair) != 2:
            raise ValueError(f"{part} must be the pair (x, y), got {len(pair)} items")
    dataset = Dataset(
        name=name,
        train=_examples("train", *train, num_classes),
        test=_examples("test", *test, num_classes),
        num_classes=num_classes,
        train_users=None if train_users is None else np.asarray(train_users),
        test_users=None if test_users is None else np.asarray(test_users),
        feature_names=None if feature_names is None else tuple(feature_names),
    )
    train_shape, test_shape = dataset.train["x"].shape[1:], dataset.test["x"].shape[1:]
    if train_shape != test_shape:
        raise ValueError(
            f"train and test x must have rows of one shape, got {train_shape} and "
            f"{test_shape}"
        )
    _check_names(feature_names)
    if feature_names is not None and train_shape != (len(feature_names),):
        raise ValueError(
            f"feature_names must name each column of x, whose rows have shape "
            f"{train_shape}, got {len(feature_names)} names"
        )
    _check_users("train_users", train_users, len(dataset.train["y"]))
    _check_users("test_users", test_users, len(dataset.test["y"]))
    return dataset


def _examples(part: str, x: Any, y: Any, num_classes: int) -> dict[str, np.ndarray]:
    columns.nothing_missing(f"{part} y", y)
    y = np.asarray(y)
    checks.integer_labels(f"{part} y", y, num_classes)
    if np.iscomplexobj(x):
        raise ValueError(
            f"{part} x must be real, got complex numbers; stack their parts as columns"
        )
    if np.ma.is_masked(x):
        columns.nothing_missing(f"{part} x", x)
    columns.numeric(f"{part} x", x)
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.float32)
    if x.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{part} x {x.shape} and y {y.shape} differ in length")
    if not len(y):
        raise ValueError(f"{part} holds no examples; give at least one")
    bad = np.flatnonzero((y < 0) | (y >= num_classes))
    if bad.size:
        raise ValueError(
            f"{part} labels must lie in [0, num_classes = {num_classes}), got "
            f"{y[bad[0]]} in row {bad[0]}"
        )
    if not np.isfinite(x).all():
        where = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
        raise ValueError(
            f"{part} x must be finite, got {x[where]} at {list(where)} (row first); "
            "drop or impute such rows"
        )
    return {"x": x, "y": y.astype(np.int32)}


def _check_names(feature_names: Sequence[str] | None) -> None:
    if feature_names is None:
        return
    if isinstance(feature_names, str):
        raise ValueError(
            f"feature_names must be a sequence of names, got the text {feature_names!r}"
        )
    for name in feature_names:
        if not isinstance(name, str):
            raise ValueError(f"feature_names must be texts, got {name!r}")
    twice = [name for name in feature_names if list(feature_names).count(name) > 1]
    if twice:
        raise ValueError(f"feature_names must differ, got {twice[0]!r} twice")


def _check_users(name: str, users: Any, num_examples: int) -> None:
    if users is None:
        return
    shape = np.shape(users)
    if shape != (num_examples,):
        raise ValueError(
            f"{name} must be one id per example ({num_examples}), got {shape}"
        )
    columns.one_axis(name, users)
