"""Small data sets that Python packages bring with them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ppml_lab.data.dataset import Dataset, make_dataset, of_rows

_TEST_SHARE = 0.2


def digits() -> Dataset:
    """Handwritten digits, 8x8, pixels in [0, 1]; comes with scikit-learn.

    1437 train and 360 test examples, stratified by class, split with seed 0. No users.

    Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI, 1998.
    """
    # scikit-learn takes a second to import, and nothing else here needs it
    from sklearn import datasets, model_selection

    x, y = datasets.load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        x.reshape(-1, 8, 8, 1) / 16, y, test_size=360, random_state=0, stratify=y
    )
    return make_dataset(
        "digits",
        (train_x, train_y),
        (test_x, test_y),
        10,
        licence="CC BY 4.0",
        citation="Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI, "
        "1998. doi:10.24432/C50P49",
    )


def breast_cancer() -> Dataset:
    """Breast tumours, malignant (0) or benign (1), by 30 measurements of cells under a
    microscope; comes with scikit-learn.

    455 train and 114 test patients, stratified by class, split with seed 0; columns are
    standardised with the train rows' mean and std. One row is one person; no users.

    **What privacy does not cover:** one row changes the mean and std, and so the
    features of all rows. An epsilon that is stated for training on these features takes
    both as public.

    Wolberg, Mangasarian, Street, Street. Breast Cancer Wisconsin (Diagnostic). UCI,
    1993.
    """
    from sklearn import datasets

    found: Any = datasets.load_breast_cancer()
    train, test = _split(len(found.target), found.target)
    train_x, test_x = _standardised(found.data, train, test)
    return make_dataset(
        "breast_cancer",
        (train_x, found.target[train]),
        (test_x, found.target[test]),
        2,
        feature_names=[str(name) for name in found.feature_names],
        licence="CC BY 4.0",
        citation="Wolberg, Mangasarian, Street, Street. Breast Cancer Wisconsin "
        "(Diagnostic). UCI, 1993. doi:10.24432/C5DW2B",
    )


def diabetes() -> Dataset:
    """Diabetes progression within a year, a number from 25 to 346, by age, sex, body
    mass index, blood pressure and six blood measures of 442 patients; from
    scikit-learn.

    Labels are float32 `[n]`, as measured: there are no classes. 353 train and 89 test
    patients, split with seed 0; columns of x are standardised with the train rows' mean
    and std (scikit-learn's own scaling takes all rows). One row is one person; no
    users.

    **What privacy does not cover:** one row changes the mean and std, and so the
    features of all rows. An epsilon that is stated for training on these features takes
    both as public.

    Efron, Hastie, Johnstone, Tibshirani. Least Angle Regression. Annals of Statistics,
    2004.
    """
    from sklearn import datasets

    found: Any = datasets.load_diabetes(scaled=False)
    train, test = _split(len(found.target), None)
    train_x, test_x = _standardised(found.data, train, test)
    y = found.target.astype(np.float32)
    return of_rows(
        "diabetes",
        {"x": train_x, "y": y[train]},
        {"x": test_x, "y": y[test]},
        None,
        feature_names=found.feature_names,
        licence="none stated; comes with scikit-learn",
        citation="Efron, Hastie, Johnstone, Tibshirani. Least Angle Regression. Annals "
        "of Statistics 32(2), 2004",
    )


def rossi() -> Dataset:
    """Weeks until 432 men who left prison were arrested again, within an observation
    period of one year; comes with the package lifelines.

    Rows are "x" float32 `[n, 7]` (financial aid, age, race, work experience, married,
    on parole, earlier convictions), and "y" is {"time": float32 `[n]` in weeks,
    "event": int32 `[n]`, 1 for the 114 who were arrested within 52 weeks and 0 for the
    others}, as `models.survival` reads it. 345 train and 87 test rows, stratified by
    event, split with seed 0; columns of x are standardised with the train rows' mean
    and std. One row is one person; no users.

    **What privacy does not cover:** one row changes the mean and std, and so the
    features of all rows. An epsilon that is stated for training on these features takes
    both as public.

    Rossi, Berk, Lenihan. Money, Work, and Crime: Experimental Evidence. Academic Press,
    1980.

    Raises:
      ImportError: If lifelines is not installed.
    """
    try:
        # Imported by name: type checkers would look for a package that is optional.
        known: Any = importlib.import_module("lifelines.datasets")
    except ImportError as error:
        raise ImportError(
            f"rossi comes with lifelines, which cannot be imported ({error}): "
            "pip install 'ppml_lab[survival]'"
        ) from error
    table = known.load_rossi()
    names = [name for name in table.columns if name not in ("week", "arrest")]
    time, event = table["week"].to_numpy(np.float32), table["arrest"].to_numpy(np.int32)
    train, test = _split(len(table), event)
    train_x, test_x = _standardised(table[names].to_numpy(np.float64), train, test)
    return of_rows(
        "rossi",
        {"x": train_x, "y": {"time": time[train], "event": event[train]}},
        {"x": test_x, "y": {"time": time[test], "event": event[test]}},
        None,
        feature_names=names,
        licence="none stated; comes with lifelines (MIT)",
        citation="Rossi, Berk, Lenihan. Money, Work, and Crime. Academic Press, 1980",
    )


def _split(count: int, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The train and test rows, drawn with seed 0, stratified by labels if given."""
    from sklearn import model_selection

    train, test = model_selection.train_test_split(
        np.arange(count), test_size=_TEST_SHARE, random_state=0, stratify=labels
    )
    return train, test


def _standardised(
    x: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of train and test, standardised by the mean and std of train."""
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    both = ((x[rows] - mean) / np.where(std == 0, 1, std) for rows in (train, test))
    train_x, test_x = (one.astype(np.float32) for one in both)
    return train_x, test_x
