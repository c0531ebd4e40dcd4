"""The data sets that the lab knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.data import files
from ppml_lab.data.dataset import Dataset, make_dataset
from ppml_lab.data.synthetic import synthetic
from ppml_lab.data.tabular import ADULT_FILES, HEART_FILES, adult, heart_disease

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_QMNIST_URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

_MNIST_SHA256: Mapping[str, tuple[str, str]] = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
_QMNIST_SHA256: Mapping[str, tuple[str, str]] = {
    "qmnist-train-labels-idx2-int.gz": (
        "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f",
        "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
    ),
    "qmnist-test-labels-idx2-int.gz": (
        "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
        "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
    ),
}
_FASHION_SHA256: Mapping[str, tuple[str, str]] = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def _sources(
    url: str, sha256: Mapping[str, tuple[str, str]]
) -> dict[str, files.Source]:
    """Sources of zipped files, by name: SHA-256 of the files, and of what they hold."""
    return {name: files.Source(url + name, *both) for name, both in sha256.items()}


class Files(NamedTuple):
    """The files of a data set, by name. Without the optional ones, less is known."""

    needed: Mapping[str, files.Source]
    optional: Mapping[str, files.Source]


_FILES = {
    "adult": Files(ADULT_FILES, {}),
    "fashion_mnist": Files(_sources(_FASHION_URL, _FASHION_SHA256), {}),
    "heart_disease": Files(HEART_FILES, {}),
    "mnist": Files(
        _sources(_MNIST_URL, _MNIST_SHA256), _sources(_QMNIST_URL, _QMNIST_SHA256)
    ),
}


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
    return make_dataset("digits", (train_x, train_y), (test_x, test_y), 10)


def mnist() -> Dataset:
    """MNIST, 28x28, pixels in [0, 1], 60,000 train and 10,000 test examples.

    Users are the writers, 539 for train and 297 others for test, known from QMNIST's
    labels. They are optional: where those two files are missing, users are None. If
    MNIST itself is on disk, nothing is downloaded.

    LeCun, Bottou, Bengio, Haffner. Gradient-Based Learning Applied to Document
    Recognition. Proc. IEEE, 1998. Yadav, Bottou. Cold Case: The Lost MNIST Digits.
    NeurIPS 2019.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded.
      ValueError: A file is damaged.
    """
    known = sources("mnist")
    on_disk = not files.missing("mnist", known.needed)
    train, test = _read_images("mnist")
    train_users, test_users = _writers(
        train[1], test[1], known.optional, download=not on_disk
    )
    return make_dataset(
        "mnist", train, test, 10, train_users=train_users, test_users=test_users
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
    return make_dataset("fashion_mnist", train, test, 10)


def _synthetic() -> Dataset:
    return synthetic(seed=0, num_clients=100, alpha=1.0, beta=1.0)


_LOADERS = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "synthetic": _synthetic,
    "adult": adult,
    "heart_disease": heart_disease,
}


def names() -> list[str]:
    """The names that `load` knows."""
    return sorted(_LOADERS)


def sources(name: str) -> Files:
    """The files of a data set that `load` knows; none if it needs no files.

    Raises:
      ValueError: An unknown name.
    """
    checks.known("data set", name, _LOADERS, argument="name")
    return _FILES.get(name, Files({}, {}))


@arguments.checked
def load(name: str) -> Dataset:
    """A data set by name: "adult", "digits", "fashion_mnist", "heart_disease", "mnist"
    or "synthetic".

    "synthetic" is `synthetic(seed=0, num_clients=100, alpha=1.0, beta=1.0)`; call that
    function for other settings.

    Raises:
      ValueError: An unknown name, or a damaged file.
      FileNotFoundError: Files are missing and could not be downloaded; says where to
        put them.
    """
    checks.known("data set", name, _LOADERS, argument="name")
    return _LOADERS[name]()


def _read_images(dataset: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images `[n, 28, 28, 1]` in [0, 1], labels `[n]`) of train and of test."""
    needed = sources(dataset).needed
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
    qmnist: Mapping[str, files.Source],
    *,
    download: bool,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    absent = files.missing("mnist", qmnist)
    if absent and not download:
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
                f"{path}: its classes are not those of MNIST's labels; delete the file "
                "and fetch it again"
            )
        users.append(rows[:, 2])
    return users[0], users[1]
