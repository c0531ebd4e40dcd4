"""The named data sets: real files where the machine has them, tiny ones elsewhere."""

import gzip
import hashlib
import os
import struct
import urllib.request

import numpy as np
import pytest

from ppml_lab import data
from ppml_lab.data import datasets, files, published


def load_real(name):
    """A data set from PPML_LAB_DATA, or a skip: tests never download."""
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip(f"PPML_LAB_DATA is not set, so {name} cannot be read")
    known = datasets.sources(name)
    if files.missing(name, [*known.needed, *known.optional]):
        pytest.skip(f"PPML_LAB_DATA has no complete {name}")
    return data.load(name)


def locate_real(name, file):
    """A file of PPML_LAB_DATA, or a skip."""
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip(f"PPML_LAB_DATA is not set, so {name} cannot be read")
    path = files.locate(name, file)
    if path is None:
        pytest.skip(f"PPML_LAB_DATA has no {file} of {name}")
    return path


def check(dataset):
    """What every data set promises."""
    for part, users in [
        (dataset.train, dataset.train_users),
        (dataset.test, dataset.test_users),
    ]:
        assert part["x"].dtype == np.float32
        assert part["y"].dtype == np.int32
        assert len(part["x"]) == len(part["y"])
        assert set(np.unique(part["y"])) == set(range(dataset.num_classes))
        assert users is None or users.shape == part["y"].shape


def users_of(dataset, part):
    """The users of "train" or "test", which must exist."""
    users = {"train": dataset.train_users, "test": dataset.test_users}[part]
    assert users is not None
    return users


def test_digits():
    digits = data.load("digits")
    check(digits)
    assert digits.train["x"].shape == (1437, 8, 8, 1)
    assert digits.test["x"].shape == (360, 8, 8, 1)
    assert digits.train["x"].max() == 1
    assert digits.train["x"].min() == 0
    assert digits.train_users is None
    # Stratified, and the same split on every machine and day.
    assert np.ptp(np.bincount(digits.test["y"])) <= 3
    fingerprint = hashlib.sha256(digits.test["x"].tobytes()).hexdigest()[:16]
    assert fingerprint == "53d6a8c3d406e86d"


def test_mnist():
    mnist = load_real("mnist")
    check(mnist)
    assert mnist.train["x"].shape == (60_000, 28, 28, 1)
    assert mnist.test["x"].shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(
        np.bincount(mnist.train["y"]),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(mnist.test["y"]),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    assert mnist.train["x"].mean() == pytest.approx(0.1307, abs=5e-5)
    assert mnist.train["x"].std() == pytest.approx(0.3081, abs=5e-5)


def test_mnist_writers():
    mnist = load_real("mnist")
    clients = data.federate(mnist.train, mnist.train_users)
    sizes = data.client_sizes(clients)
    assert data.num_clients(clients) == 539
    assert (sizes.min(), np.median(sizes), sizes.max()) == (19, 116, 131)
    writers, sizes = np.unique(users_of(mnist, "test"), return_counts=True)
    assert len(writers) == 297
    assert (sizes.min(), np.median(sizes), sizes.max()) == (8, 21, 130)
    assert not set(writers) & set(users_of(mnist, "train"))


def test_fashion_mnist():
    fashion = load_real("fashion_mnist")
    check(fashion)
    assert fashion.train["x"].shape == (60_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(fashion.train["y"]), 6000)
    np.testing.assert_array_equal(np.bincount(fashion.test["y"]), 1000)
    assert fashion.train["x"].mean() == pytest.approx(0.2860, abs=5e-5)
    assert fashion.train["x"].std() == pytest.approx(0.3530, abs=5e-5)
    assert fashion.train_users is None


def write_idx(path, array):
    code = {1: 0x08, 4: 0x0C}[array.itemsize]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    path.write_bytes(
        gzip.compress(header + array.astype(f">i{array.itemsize}").tobytes())
    )


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """A folder with a 3 + 2 example MNIST; any use of the network fails the test."""

    def no_network(*args, **kwargs):
        raise AssertionError("a data set on disk must not use the network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    # Its files are not those that are published.
    monkeypatch.setattr(files, "check_published", lambda path, source: None)
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "own" / "mnist"
    folder.mkdir(parents=True)
    images = np.zeros((3, 28, 28), np.uint8)
    images[1] = 255
    write_idx(folder / "train-images-idx3-ubyte.gz", images)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.array([7, 0, 9], np.uint8))
    write_idx(folder / "t10k-images-idx3-ubyte.gz", images[:2])
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.array([1, 2], np.uint8))
    return folder


def write_writers(folder, train_classes=(7, 0, 9)):
    train = np.zeros((3, 8), np.int32)
    train[:, 0], train[:, 2] = train_classes, [30, 10, 30]
    test = np.zeros((5, 8), np.int32)
    test[:, 0], test[:, 2] = [1, 2, 3, 4, 5], [301, 302, 303, 304, 305]
    write_idx(folder / "qmnist-train-labels-idx2-int.gz", train)
    write_idx(folder / "qmnist-test-labels-idx2-int.gz", test)


def test_mnist_on_disk_without_writers(tiny_mnist):
    mnist = data.load("mnist")
    assert mnist.train_users is None
    assert mnist.test_users is None
    np.testing.assert_array_equal(mnist.train["x"].max(axis=(1, 2, 3)), [0, 1, 0])
    np.testing.assert_array_equal(mnist.train["y"], [7, 0, 9])


def test_mnist_on_disk_with_writers(tiny_mnist):
    write_writers(tiny_mnist)
    mnist = data.load("mnist")
    np.testing.assert_array_equal(mnist.train_users, [30, 10, 30])
    np.testing.assert_array_equal(mnist.test_users, [301, 302])


def test_files_that_are_not_mnist_are_refused(tiny_mnist, monkeypatch):
    labels = tiny_mnist / "t10k-labels-idx1-ubyte.gz"
    images = tiny_mnist / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(labels.read_bytes())
    with pytest.raises(ValueError, match=r"t10k files must hold images \[n, 28, 28\]"):
        data.load("mnist")
    monkeypatch.undo()
    monkeypatch.setenv("PPML_LAB_DATA", str(tiny_mnist.parent))
    with pytest.raises(ValueError, match=r"train-images.* is not the file that"):
        data.load("mnist")


@pytest.mark.parametrize("zipped", ["as published", "otherwise", "not at all"])
def test_fashion_mnist_in_the_folder_of_mnist_is_no_mnist(
    monkeypatch, tmp_path, zipped
):
    name = "t10k-labels-idx1-ubyte.gz"
    real = locate_real("fashion_mnist", name)
    content = gzip.decompress(real.read_bytes())
    files_of_mnist = published.FILES["mnist"].needed
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path))
    here = tmp_path / "mnist" / name
    here.parent.mkdir()
    if zipped == "as published":
        here.write_bytes(real.read_bytes())
    elif zipped == "otherwise":
        here.write_bytes(gzip.compress(content, 1))
    else:
        here = here.with_suffix("")
        here.write_bytes(content)
    with pytest.raises(ValueError, match="move it into that data set's folder") as said:
        files.find("mnist", [name], sources=files_of_mnist)
    of_mnist, found = files_of_mnist[name], files.sha256(here)
    wanted = of_mnist.content if zipped == "not at all" else of_mnist.sha256
    for word in (here, f"is fashion_mnist's {name}", found, of_mnist.url, wanted):
        assert str(word) in str(said.value)


def test_half_of_the_writers_is_said(tiny_mnist):
    write_writers(tiny_mnist)
    (tiny_mnist / "qmnist-test-labels-idx2-int.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"qmnist-train.* is there, but qmnist"):
        data.load("mnist")


def test_writers_of_other_digits_are_refused(tiny_mnist):
    write_writers(tiny_mnist, train_classes=(7, 0, 8))
    with pytest.raises(ValueError, match=r"qmnist-train.*differ from MNIST"):
        data.load("mnist")


def test_mnist_downloaded_without_writers(tiny_mnist, monkeypatch):
    # MNIST can be fetched (here from file URLs), QMNIST cannot.
    monkeypatch.undo()
    monkeypatch.setenv("PPML_LAB_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_mnist / "cache"))
    needed, optional, _ = published.FILES["mnist"]
    here = published.Files(
        {
            name: published.Source(
                (tiny_mnist / name).as_uri(),
                hashlib.sha256((tiny_mnist / name).read_bytes()).hexdigest(),
            )
            for name in needed
        },
        {
            name: published.Source((tiny_mnist / name).as_uri(), "0" * 64)
            for name in optional
        },
    )
    monkeypatch.setattr(published, "FILES", {"mnist": here})
    mnist = data.load("mnist")
    assert len(mnist.train["y"]) == 3
    assert mnist.train_users is None


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.load("mnits")
    assert data.names() == [
        *("adult", "breast_cancer", "cifar10", "diabetes", "digits", "fashion_mnist"),
        *("heart_disease", "location30", "mnist", "rossi", "shakespeare", "synthetic"),
    ]
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        datasets.sources("mnits")
    assert datasets.sources("digits") == ({}, {}, {})


def test_default_synthetic():
    synthetic = data.load("synthetic")
    check(synthetic)
    assert synthetic.train["x"].shape[1:] == (60,)
    assert set(users_of(synthetic, "train")) == set(range(100))


def test_synthetic_inputs_have_the_papers_moments():
    dataset = data.synthetic(3, 400, 0.0, 0.0, mean_size=200, size_sigma=0.0)
    x, users = dataset.train["x"], dataset.train_users
    centres = np.stack([x[users == k].mean(axis=0) for k in range(400)])
    within = (x - centres[users]).var(axis=0) * 180 / 179
    np.testing.assert_allclose(within, np.arange(1, 61) ** -1.2, rtol=0.03)
    # Centres have entries from N(0, 1), independent over inputs.
    assert centres.std() == pytest.approx(1, rel=0.03)
    assert abs(centres.mean()) < 0.03
    assert centres.mean(axis=1).std() == pytest.approx(60**-0.5, rel=0.15)


def test_beta_moves_the_centres_and_is_a_variance():
    dataset = data.synthetic(4, 1000, 0.0, 4.0, mean_size=50, size_sigma=0.0)
    x, users = dataset.train["x"], dataset.train_users
    means = np.array([x[users == k].mean() for k in range(1000)])
    assert means.std() == pytest.approx((4 + 1 / 60) ** 0.5, rel=0.08)


def test_labels_come_from_one_linear_model_per_client():
    dataset = data.synthetic(5, 2, 1.0, 1.0, mean_size=2000, size_sigma=0.0)
    from sklearn import linear_model

    def accuracy(fit_on, score_on):
        model = linear_model.LogisticRegression(max_iter=300, C=10)
        mine, theirs = (dataset.train_users == u for u in (fit_on, score_on))
        model.fit(dataset.train["x"][mine], dataset.train["y"][mine])
        return model.score(dataset.train["x"][theirs], dataset.train["y"][theirs])

    assert accuracy(0, 0) > 0.95
    assert accuracy(0, 1) < 0.6


def test_alpha_does_not_change_the_data():
    # It moves all logits of a client alike; the docstring warns of it.
    low, high = (data.synthetic(6, 50, alpha, 1.0) for alpha in (0.0, 9.0))
    np.testing.assert_array_equal(low.train["x"], high.train["x"])
    assert np.mean(low.train["y"] == high.train["y"]) > 0.999


def test_synthetic_sizes():
    dataset = data.synthetic(7, 500, 1.0, 1.0)
    train = np.bincount(users_of(dataset, "train"), minlength=500)
    test = np.bincount(users_of(dataset, "test"), minlength=500)
    sizes = train + test
    assert sizes.min() >= 50
    np.testing.assert_array_equal(train, (0.9 * sizes).astype(int))
    log_excess = np.log(sizes[sizes > 50] - 50)
    assert np.median(log_excess) == pytest.approx(4, abs=0.3)
    assert log_excess.std() == pytest.approx(2, abs=0.25)
    tiny = data.synthetic(8, 500, 1.0, 1.0, mean_size=1.5, min_size=1)
    assert set(users_of(tiny, "train")) == set(range(500))


def test_synthetic_is_a_function_of_its_seed():
    first, again, other = (data.synthetic(s, 3, 1.0, 1.0) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.train["x"], again.train["x"])
    assert not np.array_equal(first.train["x"][:100], other.train["x"][:100])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": 1e39}, "alpha must be at most 1e.12"),
        ({"beta": 1e39}, "beta must be at most 1e.12"),
        ({"size_sigma": 50.0}, "size_sigma must be at most 10, got 50"),
        ({"beta": -0.5}, "beta"),
        ({"num_clients": 0}, "num_clients"),
        ({"mean_size": 49}, "at least min_size = 50, got 49"),
        ({"min_size": 0}, "min_size"),
        ({"mean_size": 1, "min_size": 1}, "test holds no examples"),
    ],
)
def test_synthetic_errors(options, message):
    settings = {"seed": 0, "num_clients": 3, "alpha": 1.0, "beta": 1.0} | options
    with pytest.raises(ValueError, match=message):
        data.synthetic(**settings)


X, Y = np.zeros((3, 2)), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ((X, Y[:2]), {}, "train x .* differ in length"),
        ((X, np.array([0, 2, 5])), {}, "got 2 in row 1"),
        ((X, np.array([0, 1, -1])), {}, "got -1 in row 2"),
        ((X, Y.astype(float)), {}, "one integer label per row"),
        ((X, np.eye(3, dtype=int)), {}, "one integer label per row"),
        ((np.where(np.eye(3, 2, k=-1), np.nan, X), Y), {}, r"got nan at \[1, 0\]"),
        ((X[:0], Y[:0]), {}, "train holds no examples"),
        ((X[:, :1], Y), {}, "rows of the same shape"),
        ((X, Y), {"train_users": [1, 2]}, "train_users must be one id per example"),
        ((X, Y), {"test_users": [1, 2]}, "test_users"),
        ((X, Y), {"train_users": [1, np.nan, 2]}, "train_users has 1 missing"),
        ((X, Y), {"train_users": ["a", None, "b"]}, "train_users has 1 missing"),
        ((X, Y), {"train_users": ["a", np.nan, "b"]}, "train_users has 1 missing"),
        ((X, Y), {"test_users": ["1", 1, "b"]}, "test_users mixes strings"),
        ((X, np.array([0, np.nan, 1])), {}, "train y has 1 missing"),
        ((X, np.ma.masked_array(Y, [True, False, False])), {}, "train y has 1 missing"),
        ((X, Y[:, None]), {}, r"one integer label per row.*\[:, 0\]"),
        ((X * 1j, Y), {}, "train x must be real"),
        ((X.astype(str), Y), {}, "train x has dtype <U"),
        ((X.astype(object), Y), {}, "train x has dtype object"),
        ((np.ma.masked_array(X, X == X), Y), {}, "train x has 6 missing"),
        ((X + 1e39, Y), {}, "train x must be finite, got inf"),
        ((X, Y), {"feature_names": ["a", "a"]}, "'a' twice"),
        (
            (X, Y),
            {"feature_names": "ab"},
            "feature_names must be a sequence whose items are each a string",
        ),
        ((X, Y), {"feature_names": ["a"]}, "got 1 names"),
    ],
)
def test_make_dataset_errors(train, options, message):
    with pytest.raises(ValueError, match=message):
        data.make_dataset("toy", train, (X, Y), 2, **options)


def test_make_dataset():
    dataset = data.make_dataset("toy", (X, Y), (X, Y), 2, train_users=["a", "b", "a"])
    check(dataset)
    assert dataset.test_users is None
