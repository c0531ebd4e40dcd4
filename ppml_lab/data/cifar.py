"""CIFAR-10, from its official archive or from JPEG files of its images."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ppml_lab.data import files, published
from ppml_lab.data.dataset import Dataset, make_dataset

JPEG_NAME = "CIFAR-10 (JPEG q75)"
"""The data set's name in tables where images were JPEG files of quality 75."""

_CLASSES = 10
_SIDE = 32
_ROW_BYTES = 1 + 3 * _SIDE * _SIDE
_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
# Rows of each class, of train and of test.
_CLASS_ROWS = {"train": 5_000, "test": 1_000}
_Rows = tuple[np.ndarray, np.ndarray]


def cifar10() -> Dataset:
    """CIFAR-10: 32x32 images in colour, in [0, 1], 50,000 train and 10,000 test.

    It is read from the official archive in its binary form, `cifar-10-binary.tar.gz`;
    where that is not on disk, from `cifar10_jpeg_q75.npz`, which holds every image as a
    JPEG file of quality 75, in the same order. Those images are similar, not the same,
    and models are a little worse, so that the data set's name is then "CIFAR-10 (JPEG
    q75)". Without either file the archive is downloaded (170 MB). Decoded JPEG pixels
    may differ by 1 of 255 between releases of the decoder, and with them the data's
    digest.

    There are no users: split it by a partition, such as `partition.dirichlet`. Classes
    0..9: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.

    Raises:
      FileNotFoundError: If files are missing and could not be downloaded.
      ValueError: If a file is another than expected, or damaged.
    """
    if reads_jpeg():
        instead = published.FILES["cifar10"].instead
        (path,) = files.find("cifar10", list(instead), sources=instead)
        name, (train, test) = JPEG_NAME, read_jpeg(path)
    else:
        needed = published.FILES["cifar10"].needed
        (path,) = files.find("cifar10", list(needed), sources=needed)
        name, (train, test) = "cifar10", read_archive(path)
    return make_dataset(
        name,
        (_in_unit(train[0]), train[1]),
        (_in_unit(test[0]), test[1]),
        _CLASSES,
        licence="none stated; research use by custom",
        citation="Krizhevsky. Learning Multiple Layers of Features from Tiny Images. "
        "2009",
    )


def reads_jpeg() -> bool:
    """Returns whether `cifar10` reads JPEG files: they are on disk, no archive is."""
    return bool(
        files.missing("cifar10", [published.CIFAR_ARCHIVE])
    ) and not files.missing("cifar10", [published.CIFAR_JPEG])


def read_archive(path: Path) -> tuple[_Rows, _Rows]:
    """Reads (images uint8 `[n, 32, 32, 3]`, labels `[n]`) of train and of test from the
    archive in binary form; nothing is unpacked onto the disk.

    Raises:
      ValueError: If it is another file, or damaged.
    """
    batches: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and name in (*_BATCHES[0], *_BATCHES[1]):
                    batches[name] = _batch(path, name, file.read(files.MOST_BYTES))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise files.damaged(path, f"not an archive of CIFAR-10 ({error})") from error
    parts = []
    for part, names in zip(_CLASS_ROWS, _BATCHES, strict=True):
        if absent := [name for name in names if name not in batches]:
            raise files.damaged(path, f"lacks {', '.join(absent)}")
        rows = np.concatenate([batches[name] for name in names])
        _check_labels(path, part, rows[:, 0])
        images = rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        parts.append((images, rows[:, 0]))
    return parts[0], parts[1]


def read_jpeg(path: Path) -> tuple[_Rows, _Rows]:
    """Reads the same as `read_archive` from JPEG files that lie end to end in an npz
    file.

    It holds `train_jpeg` uint8 `[bytes]`, in which image i is `train_offsets[i]` to
    `train_offsets[i + 1]`, `train_labels`, and the same for test. Nothing is unpickled.

    Raises:
      ValueError: If it is another file, or damaged.
    """
    arrays = _arrays(path)
    parts = []
    for part in _CLASS_ROWS:
        names = [f"{part}_{leaf}" for leaf in ("jpeg", "offsets", "labels")]
        if absent := [name for name in names if name not in arrays]:
            raise files.damaged(path, f"lacks {', '.join(absent)}")
        jpeg, offsets, labels = (arrays[name] for name in names)
        _check_labels(path, part, labels)
        if (
            jpeg.dtype != np.uint8
            or offsets.shape != (len(labels) + 1,)
            or offsets.dtype.kind not in "iu"
            or (np.diff(offsets) <= 0).any()
            or (offsets[0], offsets[-1]) != (0, jpeg.size)
        ):
            raise files.damaged(
                path,
                f"{part}_offsets do not divide {part}_jpeg into {len(labels)} images",
            )
        parts.append((_decoded(path, part, jpeg, offsets), labels))
    return parts[0], parts[1]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file, unless they are implausibly large."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > files.MOST_BYTES:
            raise ValueError(f"it holds {size} bytes, more than {files.MOST_BYTES}")
        with np.load(path, allow_pickle=False) as held:
            found = {name: held[name] for name in held.files}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is no array")
        return found
    except (
        *(zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error),
        # Of a header with an impossible shape; encrypted; another compression.
        *(MemoryError, OverflowError, RuntimeError),
    ) as error:
        raise files.damaged(path, f"not an npz file of arrays ({error})") from error


def _batch(path: Path, name: str, content: bytes) -> np.ndarray:
    """The rows of a batch, `[n, 1 + 3072]` uint8: a label, then red, green, blue."""
    if not content or len(content) % _ROW_BYTES:
        raise files.damaged(
            path,
            f"{name} must be rows of {_ROW_BYTES} bytes, got {len(content)} bytes",
        )
    return np.frombuffer(content, np.uint8).reshape(-1, _ROW_BYTES)


def _check_labels(path: Path, part: str, labels: Any) -> None:
    """Raises ValueError unless each class has as many labels as in CIFAR-10."""
    wanted = [_CLASS_ROWS[part]] * _CLASSES
    found = "none"
    if labels.ndim == 1 and labels.dtype == np.uint8:
        found = np.bincount(labels, minlength=_CLASSES).tolist()
    if found != wanted:
        raise files.damaged(
            path, f"{part} must have {wanted} labels of classes 0 to 9, got {found}"
        )


def _decoded(path: Path, part: str, jpeg: np.ndarray, offsets: np.ndarray) -> Any:
    """The images of JPEG files, `[n, 32, 32, 3]` uint8."""
    from PIL import Image  # matplotlib brings it

    images = np.empty((len(offsets) - 1, _SIDE, _SIDE, 3), np.uint8)
    for i in range(len(images)):
        try:
            file = io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())
            one = Image.open(file, formats=["JPEG"])
            if one.size != (_SIDE, _SIDE) or one.mode != "RGB":
                raise files.damaged(
                    path,
                    f"{part} image {i} is {one.mode} of size {one.size}, not RGB of "
                    "size 32 x 32",
                )
            images[i] = np.asarray(one)
        except OSError as error:
            raise files.damaged(path, f"{part} image {i}: {error}") from error
    return images


def _in_unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255
