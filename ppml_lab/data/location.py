"""Location-30: where people in Bangkok checked in."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib

import numpy as np

from ppml_lab.data import files, published
from ppml_lab.data.dataset import Dataset, make_dataset

_MEMBER = "bangkok"
_COLUMNS = 446
_CLASS_ROWS = (
    *(169, 178, 147, 155, 97, 182, 120, 308, 145, 210, 189, 184, 141, 122, 229),
    *(110, 176, 128, 180, 254, 228, 117, 158, 170, 139, 139, 155, 152, 149, 179),
)
_TEST_SHARE = 0.2


def location30() -> Dataset:
    """Location-30: which of 30 clusters does a person belong to, by the places visited?

    It has 5,010 people, each one row of 446 columns that are 0 or 1: the regions and
    kinds of places of Bangkok that they visited. 4,008 are train and 1,002 test,
    stratified by class, split with seed 0. There are no users: a row is a person, so
    that a guarantee for rows is one for people. It is the small data set of the papers
    on membership inference, which attack models of half the rows; draw these with a
    seed of their own.

    No SHA-256 of the file is published, so its content is checked.

    Shokri, Stronati, Song, Shmatikov. Membership Inference Attacks Against Machine
    Learning Models. IEEE S&P 2017. Yang, Zhang, Qu. Participatory Cultural Mapping
    Based on Collective Behavior Data in Location-Based Social Networks. ACM TIST 7(3),
    2016.

    Raises:
      FileNotFoundError: If the file is missing; says where to put it.
      ValueError: If it is another file, or damaged.
    """
    from sklearn import model_selection

    known = published.FILES["location30"].needed
    (path,) = files.find("location30", list(known), sources=known)
    try:
        with gzip.open(path) as file:
            # Read to its end, where gzip compares its checksum.
            unzipped = file.read(files.MOST_BYTES + 1)
        if len(unzipped) > files.MOST_BYTES:
            raise OSError(f"it unpacks to more than {files.MOST_BYTES} bytes")
        with tarfile.open(fileobj=io.BytesIO(unzipped)) as archive:
            member = archive.getmember(_MEMBER)
            found = archive.extractfile(member) if member.isfile() else None
            text = b"" if found is None else found.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as error:
        raise files.damaged(
            path, f"not an archive with a file {_MEMBER} ({error})"
        ) from (error)
    rows = [line.split(b",") for line in text.splitlines()]
    wrong = {len(row) for row in rows} - {_COLUMNS + 1}
    if wrong or len(rows) != sum(_CLASS_ROWS):
        raise files.damaged(
            path,
            f"must have {sum(_CLASS_ROWS)} rows of {_COLUMNS + 1} columns, got "
            f"{len(rows)} of {sorted(wrong or {_COLUMNS + 1})}",
        )
    try:
        y = np.array([int(row[0].strip(b'"')) for row in rows]) - 1
        x = np.array([row[1:] for row in rows]).astype(np.uint8)
    except (ValueError, OverflowError) as error:
        raise files.damaged(
            path, f"has a cell that is not a number ({error})"
        ) from error
    of_class = np.bincount(np.clip(y, 0, len(_CLASS_ROWS))).tolist()
    if y.min() < 0 or tuple(of_class) != _CLASS_ROWS or x.max() > 1:
        raise files.damaged(
            path,
            f"its classes must have {list(_CLASS_ROWS)} rows and its columns be 0 or 1,"
            f" got {of_class}",
        )
    train, test = model_selection.train_test_split(
        np.arange(len(y)), test_size=_TEST_SHARE, random_state=0, stratify=y
    )
    return make_dataset(
        "location30",
        (x[train], y[train]),
        (x[test], y[test]),
        len(_CLASS_ROWS),
        licence="none stated; research use by custom",
        citation="Shokri, Stronati, Song, Shmatikov. IEEE S&P 2017; Yang, Zhang, Qu. "
        "ACM TIST 7(3), 2016",
    )
