"""CIFAR-10: archives that the tests make, and the real JPEG files where there are."""

import io
import os
import tarfile
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from ppml_lab import data
from ppml_lab.data import cifar, files, published

RNG = np.random.default_rng(0)
LABELS = {
    name: RNG.permutation(10).astype(np.uint8)
    for name in (*cifar._BATCHES[0], *cifar._BATCHES[1])
}
PIXELS = {name: RNG.integers(0, 256, (10, 3, 32, 32), np.uint8) for name in LABELS}


def batches():
    """The bytes of each batch: a label, then red, green and blue of every row."""
    return {
        name: np.concatenate(
            [labels[:, None], PIXELS[name].reshape(10, -1)], axis=1
        ).tobytes()
        for name, labels in LABELS.items()
    }


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The folder of a CIFAR-10 with one test image of each class, and five to train."""

    def no_network(*args, **kwargs):
        raise AssertionError("a data set on disk must not use the network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(files, "check_published", lambda path, source: None)
    monkeypatch.setattr(cifar, "_CLASS_ROWS", {"train": 5, "test": 1})
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar10").mkdir()
    return tmp_path / "cifar10"


def pack(folder, contents):
    with tarfile.open(folder / published.CIFAR_ARCHIVE, "w:gz") as archive:
        readme = tarfile.TarInfo("cifar-10-batches-bin/readme.html")
        archive.addfile(readme, io.BytesIO())
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def jpegs():
    """The arrays of the npz file: every image as a JPEG."""
    arrays = {}
    for part, names in zip(("train", "test"), cifar._BATCHES, strict=True):
        found = []
        for pixels in np.concatenate([PIXELS[name] for name in names]):
            file = io.BytesIO()
            Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=75)
            found.append(file.getvalue())
        ends = np.cumsum([0, *map(len, found)])
        arrays |= {
            f"{part}_jpeg": np.frombuffer(b"".join(found), np.uint8),
            f"{part}_offsets": ends.astype(np.int64),
            f"{part}_labels": np.concatenate([LABELS[name] for name in names]),
        }
    return arrays


def test_the_official_archive(folder):
    pack(folder, dict(reversed(batches().items())))
    found = data.load("cifar10")
    assert found.name == "cifar10"
    assert not cifar.reads_jpeg()
    assert (found.train_users, found.num_classes) == (None, 10)
    for part, names in zip((found.train, found.test), cifar._BATCHES, strict=True):
        pixels = np.concatenate([PIXELS[name] for name in names])
        np.testing.assert_array_equal(
            part["y"], np.concatenate([LABELS[name] for name in names])
        )
        np.testing.assert_allclose(
            part["x"] * 255, pixels.transpose(0, 2, 3, 1), atol=1e-4
        )
    owners = data.partition.dirichlet(RNG, found.train["y"], 4, alpha=1.0)
    assert data.num_clients(data.federate(found.train, owners)) == 4


def test_jpeg_files_in_their_place_say_so(folder):
    np.savez(folder / published.CIFAR_JPEG, **jpegs())
    found = data.load("cifar10")
    assert found.name == "CIFAR-10 (JPEG q75)"
    assert found.train["x"].shape == (50, 32, 32, 3)
    np.testing.assert_array_equal(found.test["y"], LABELS["test_batch.bin"])
    # Noise suffers from the colours' coarser grid, and is yet the same image.
    want = PIXELS["test_batch.bin"].transpose(0, 2, 3, 1) / 255
    own = np.abs(found.test["x"] - want).mean(axis=(1, 2, 3))
    other = np.abs(found.test["x"] - np.roll(want, 1, axis=0)).mean(axis=(1, 2, 3))
    assert (own < 0.7 * other).all()
    # The archive is preferred where both are.
    pack(folder, batches())
    assert data.load("cifar10").name == "cifar10"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("data_batch_3.bin"), "lacks data_batch_3.bin"),
        (
            lambda b: b.update({"test_batch.bin": b["test_batch.bin"][:-1]}),
            "test_batch.bin must be rows of 3073 bytes, got 30729 bytes",
        ),
        (
            lambda b: b.update({"test_batch.bin": b["test_batch.bin"] * 2}),
            r"test must have \[1, .*\] labels of classes 0 to 9, got \[2, ",
        ),
        (
            lambda b: b.update({"data_batch_1.bin": b"\x0a" + bytes(3072)}),
            r"train must have \[5, .* got \[4, ",
        ),
    ],
)
def test_other_archives_are_refused(folder, change, message):
    contents = batches()
    change(contents)
    pack(folder, contents)
    with pytest.raises(ValueError, match=message):
        data.load("cifar10")
    (folder / published.CIFAR_ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not an archive of CIFAR-10"):
        data.load("cifar10")


class Harmful:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("test_offsets"), "lacks test_offsets"),
        (
            lambda a: a.update(train_offsets=a["train_offsets"][:-1]),
            "train_offsets do not divide train_jpeg into 50",
        ),
        (
            lambda a: a.update(test_labels=np.zeros(10, np.uint8)),
            r"test must have \[1, .* got \[10, 0",
        ),
        (lambda a: a.update(test_labels=np.eye(10)), "got none"),
        (
            lambda a: a.update(test_jpeg=np.zeros_like(a["test_jpeg"])),
            "test image 0: cannot identify",
        ),
    ],
)
def test_other_jpeg_files_are_refused(folder, change, message):
    arrays = jpegs()
    change(arrays)
    np.savez(folder / published.CIFAR_JPEG, **arrays)
    with pytest.raises(ValueError, match=message):
        data.load("cifar10")


def test_nothing_is_unpickled(folder):
    trace = folder / "trace"
    arrays = jpegs() | {"test_labels": np.array([Harmful(trace)], object)}
    np.savez(folder / published.CIFAR_JPEG, **arrays)
    with pytest.raises(ValueError, match=r"not an npz file .*allow_pickle=False"):
        data.load("cifar10")
    assert not trace.exists()
    with zipfile.ZipFile(folder / published.CIFAR_JPEG, "w") as archive:
        archive.writestr("test_labels", b"no array")
    with pytest.raises(ValueError, match="test_labels is no array"):
        data.load("cifar10")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10**22,), }"
    for size in (10**14, 10**22):
        full = header.replace(b"10**22", str(size).encode()).ljust(117) + b"\n"
        with zipfile.ZipFile(folder / published.CIFAR_JPEG, "w") as archive:
            archive.writestr("test_labels.npy", b"\x93NUMPY\x01\x00\x76\x00" + full)
        with pytest.raises(ValueError, match="not an npz file"):
            data.load("cifar10")
    (folder / published.CIFAR_JPEG).write_bytes(b"no npz")
    with pytest.raises(ValueError, match="not an npz file"):
        data.load("cifar10")


def real_npz():
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip("PPML_LAB_DATA is not set, so CIFAR-10 cannot be read")
    path = files.locate("cifar10", published.CIFAR_JPEG)
    if path is None:
        pytest.skip(f"PPML_LAB_DATA has no {published.CIFAR_JPEG}")
    return path


def test_real_jpeg_files_have_their_labels_and_some_images():
    with np.load(real_npz(), allow_pickle=False) as held:
        labels = {part: held[f"{part}_labels"] for part in ("train", "test")}
        jpeg, offsets = held["test_jpeg"], held["test_offsets"]
    for part, each in (("train", 5_000), ("test", 1_000)):
        assert np.bincount(labels[part]).tolist() == [each] * 10
    path = real_npz()
    images = cifar._decoded(path, "test", jpeg[: offsets[200]], offsets[:201])
    assert images.shape == (200, 32, 32, 3)
    assert 100 < images.mean() < 140


@pytest.mark.exhaustive
def test_real_jpeg_files():
    real_npz()
    if not cifar.reads_jpeg():
        pytest.skip("PPML_LAB_DATA has the official archive, which is preferred")
    found = data.load("cifar10")
    assert found.name == cifar.JPEG_NAME
    assert found.train["x"].shape == (50_000, 32, 32, 3)
    assert found.test["x"].shape == (10_000, 32, 32, 3)
    x = found.train["x"].reshape(-1, 3)
    np.testing.assert_allclose(
        x.mean(axis=0, dtype=float), [0.4913, 0.4821, 0.4465], atol=1e-4
    )
    np.testing.assert_allclose(
        x.std(axis=0, dtype=float), [0.2452, 0.2428, 0.2606], atol=1e-4
    )
