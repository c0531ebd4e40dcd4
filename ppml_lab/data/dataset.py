"""A data set before it is split among clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ppml_lab import arguments, checks, shown
from ppml_lab.data import columns


class Dataset(NamedTuple):
    """Train and test examples on the host.

    Attributes:
      name: The data set's name in tables.
      train: "x" float32 `[n, ...]` and "y" int32 `[n]`, labels in `[0, num_classes)`.
        Where rows are not classified, the leaves that the data set's builder states,
        such as "y" `{"time": [n], "event": [n]}`.
      test: The same for the test examples.
      num_classes: Number of classes; None where labels are no classes.
      train_users: `[n]`, who produced each train example; None without natural users.
      test_users: The same for `test`.
      feature_names: Names of x's columns, such as "age", or "education=Bachelors" for a
        one-hot column; None where x is not a table.
      licence: The licence of the data, in words; "" where none is stated.
      citation: Whom to cite; "" for data of one's own.
      notes: What was done to the rows, in words, where it depends on the rows.
    """

    name: str
    train: dict[str, Any]
    test: dict[str, Any]
    num_classes: int | None
    train_users: np.ndarray | None
    test_users: np.ndarray | None
    feature_names: tuple[str, ...] | None = None
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        classes = [] if self.num_classes is None else [f"{self.num_classes} classes"]
        lengths = [
            f"{len(jax.tree.leaves(part)[0])} {name}"
            for name, part in (("train", self.train), ("test", self.test))
        ]
        about = ", ".join([*lengths, *classes])
        return f"Dataset({self.name}: {about}: {shown.rows(self.train)})"


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
    licence: str = "",
    citation: str = "",
) -> Dataset:
    """Builds a `Dataset` from arrays, and checks them.

    Args:
      name: The data set's name in tables.
      train: `(x, y)`: numbers `[n, ...]` and integer labels `[n]`.
      test: The same for the test examples; rows of the same shape.
      num_classes: Number of classes, at least 2.
      train_users: `[n]`, who produced each train example.
      test_users: The same for `test`.
      feature_names: Different names of x's columns, where x is `[n, columns]`.
      licence: The licence of the data, in words.
      citation: Whom to cite.

    Raises:
      ValueError: For lengths that disagree, a label outside `[0, num_classes)`, a value
        of x that is not finite in float32, no examples, or missing users.
    """
    checks.at_least("num_classes", num_classes, 2)
    for part, pair in (("train", train), ("test", test)):
        if len(pair) != 2:
            raise ValueError(f"{part} must be the pair (x, y), got {len(pair)} items")
    return of_rows(
        name,
        _examples("train", *train, num_classes),
        _examples("test", *test, num_classes),
        num_classes,
        train_users=train_users,
        test_users=test_users,
        feature_names=feature_names,
        licence=licence,
        citation=citation,
    )


def of_rows(
    name: str,
    train: dict[str, Any],
    test: dict[str, Any],
    num_classes: int | None,
    *,
    train_users: Any = None,
    test_users: Any = None,
    feature_names: Sequence[str] | None = None,
    licence: str = "",
    citation: str = "",
) -> Dataset:
    """Builds a `Dataset` of any rows, such as sequences, or rows whose labels are
    numbers.

    Args:
      name: The data set's name in tables.
      train: Leaves `[n, ...]` of finite numbers; a pytree of dicts.
      test: The same for the test examples; rows of the same leaves and shapes.
      num_classes: Number of classes; None where labels are no classes.
      train_users: See `make_dataset`.
      test_users: See `make_dataset`.
      feature_names: See `make_dataset`.
      licence: See `make_dataset`.
      citation: See `make_dataset`.

    Raises:
      ValueError: For leaves or users of different length, rows of different shape, a
        value that is not finite, or no examples.
    """
    lengths = []
    for part, rows in (("train", train), ("test", test)):
        lengths.append(columns.num_examples(part, rows))
        for leaf, values in shown.named(rows):
            _check_finite(f"{part} {leaf}", np.asarray(values))
    shapes = [
        {leaf: np.shape(values)[1:] for leaf, values in shown.named(rows)}
        for rows in (train, test)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"train and test x must have rows of the same shape, got {shapes[0]} and "
            f"{shapes[1]}"
        )
    _check_names(feature_names)
    if feature_names is not None and shapes[0].get("x") != (len(feature_names),):
        raise ValueError(
            f"feature_names must name each column of x, whose rows have shape "
            f"{shapes[0].get('x')}, got {len(feature_names)} names"
        )
    _check_users("train_users", train_users, lengths[0])
    _check_users("test_users", test_users, lengths[1])
    return Dataset(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        train_users=None if train_users is None else np.asarray(train_users),
        test_users=None if test_users is None else np.asarray(test_users),
        feature_names=None if feature_names is None else tuple(feature_names),
        licence=licence,
        citation=citation,
    )


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
    return {"x": x, "y": y.astype(np.int32)}


def _check_finite(name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {values[where]} at {list(where)} (row first); "
            "drop or impute rows that are not finite"
        )


def _check_names(feature_names: Sequence[str] | None) -> None:
    if feature_names is None:
        return
    if isinstance(feature_names, str):
        raise ValueError(
            "feature_names must be a sequence of names, got the string "
            f"{feature_names!r}"
        )
    for name in feature_names:
        if not isinstance(name, str):
            raise ValueError(f"feature_names must be strings, got {name!r}")
    twice = [name for name in feature_names if list(feature_names).count(name) > 1]
    if twice:
        raise ValueError(f"feature_names must be distinct, got {twice[0]!r} twice")


def _check_users(name: str, users: Any, num_examples: int) -> None:
    if users is None:
        return
    shape = np.shape(users)
    if shape != (num_examples,):
        raise ValueError(
            f"{name} must be one id per example ({num_examples}), got {shape}"
        )
    columns.one_axis(name, users)
