"""MNIST, with the writers of its digits, and Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppml_lab.data import files, published
from ppml_lab.data.dataset import Dataset, make_dataset


def mnist() -> Dataset:
    """MNIST, 28x28, pixels in [0, 1], 60,000 train and 10,000 test examples.

    Users are the writers, 539 for train and 297 others for test, known from QMNIST's
    labels. Users are optional: they are None where QMNIST's two files are missing. If
    MNIST itself is on disk, nothing is downloaded.

    LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document
    Recognition. Proc. IEEE, 1998. Yadav, Bottou. Cold Case: The Lost MNIST Digits.
    NeurIPS 2019.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded.
      ValueError: A file is damaged.
    """
    known = published.FILES["mnist"]
    on_disk = not files.missing("mnist", known.needed)
    train, test = _read_images("mnist")
    train_users, test_users = _writers(
        train[1], test[1], known.optional, download=not on_disk
    )
    return make_dataset(
        "mnist",
        train,
        test,
        10,
        train_users=train_users,
        test_users=test_users,
        licence="CC BY-SA 3.0, as usually stated; QMNIST's labels BSD",
        citation="LeCun, Bottou, Bengio, Haffner. Proc. IEEE, 1998; Yadav, Bottou. "
        "NeurIPS 2019",
    )


def fashion_mnist() -> Dataset:
    """Fashion-MNIST, 28x28, pixels in [0, 1], 60,000 train and 10,000 test examples.

    No users. Classes 0..9: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt,
    sneaker, bag, ankle boot.

    Xiao, Rasul, Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms. 2017.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded.
      ValueError: A file is damaged.
    """
    train, test = _read_images("fashion_mnist")
    return make_dataset(
        "fashion_mnist",
        train,
        test,
        10,
        licence="MIT",
        citation="Xiao, Rasul, Vollgraf. arXiv:1708.07747, 2017",
    )


def _read_images(dataset: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images `[n, 28, 28, 1]` in [0, 1], labels `[n]`) of train and of test."""
    needed = published.FILES[dataset].needed
    train_x, train_y, test_x, test_y = (
        files.read_idx(path)
        for path in files.find(dataset, list(needed), sources=needed)
    )
    for part, x, y in (("train", train_x, train_y), ("t10k", test_x, test_y)):
        if x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
            raise ValueError(
                f"{dataset}: the {part} files must hold images [n, 28, 28] and labels "
                f"[n], got {list(x.shape)} and {list(y.shape)}; put the right files "
                f"into {files.folders(dataset)[0]}"
            )
    return [
        (x[..., None].astype(np.float32) / 255, y)
        for x, y in [(train_x, train_y), (test_x, test_y)]
    ]


def _writers(
    train_y: np.ndarray,
    test_y: np.ndarray,
    qmnist: Mapping[str, published.Source],
    *,
    download: bool,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    absent = files.missing("mnist", qmnist)
    if absent and not download:
        if len(absent) < len(qmnist):
            there = next(name for name in qmnist if name not in absent)
            raise FileNotFoundError(
                f"mnist: {there} is there, but {', '.join(absent)} is missing; put it "
                "beside the other, or take that away for MNIST without writers"
            )
        return None, None
    try:
        paths = files.find("mnist", list(qmnist), sources=qmnist)
    except (FileNotFoundError, ValueError):
        if not absent:
            raise
        return None, None
    users = []
    for path, labels in zip(paths, (train_y, test_y), strict=True):
        # QMNIST's test file goes on with 50,000 digits that MNIST does not have.
        rows = files.read_idx(path)[: len(labels)]
        if not np.array_equal(rows[:, 0], labels):
            raise ValueError(
                f"{path}: its classes differ from MNIST's labels; delete the file and "
                "fetch it again"
            )
        users.append(rows[:, 2])
    return users[0], users[1]
