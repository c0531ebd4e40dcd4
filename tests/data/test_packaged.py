"""Location-30, and the data sets that come with packages."""

import importlib.util
import io
import os
import sys
import tarfile

import numpy as np
import pytest

from ppml_lab import data
from ppml_lab.data import files, location, published


def check_tables(found, names, train, test):
    """Standardised by the train rows, and cited."""
    assert found.feature_names is not None
    assert [*found.feature_names] == names
    assert (len(found.train["x"]), len(found.test["x"])) == (train, test)
    x = found.train["x"]
    assert x.dtype == found.test["x"].dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0, dtype=float), 1, atol=1e-5)
    assert found.train_users is found.test_users is None
    assert found.licence
    assert found.citation


def test_diabetes():
    found = data.load("diabetes")
    names = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    check_tables(found, names, 353, 89)
    assert found.num_classes is None
    y = np.concatenate([found.train["y"], found.test["y"]])
    assert y.dtype == np.float32
    assert (len(y), y.min(), y.max()) == (442, 25, 346)
    assert y.mean() == pytest.approx(152.13, abs=0.01)


def test_linear_regression_on_diabetes():
    from sklearn import linear_model

    found = data.load("diabetes")
    model = linear_model.LinearRegression().fit(found.train["x"], found.train["y"])
    assert 0.25 < model.score(found.test["x"], found.test["y"]) < 0.6


def test_breast_cancer():
    found = data.load("breast_cancer")
    assert found.feature_names is not None
    check_tables(found, [*found.feature_names], 455, 114)
    assert (len(found.feature_names), found.num_classes) == (30, 2)
    # 212 malignant and 357 benign, in the same shares.
    assert np.bincount(found.train["y"]).tolist() == [170, 285]
    assert np.bincount(found.test["y"]).tolist() == [42, 72]


def test_rossi():
    if not importlib.util.find_spec("lifelines"):
        pytest.skip("lifelines is not installed: pip install 'ppml_lab[survival]'")
    check_rossi(data.load("rossi"))


def check_rossi(found):
    names = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    check_tables(found, names, 345, 87)
    train, test = found.train["y"], found.test["y"]
    time, event = (np.concatenate([train[n], test[n]]) for n in ("time", "event"))
    assert (time.dtype, event.dtype) == (np.float32, np.int32)
    assert (time.min(), time.max(), event.sum()) == (1, 52, 114)
    # Who was not arrested was watched for the whole year.
    assert set(time[event == 0]) == {52}
    assert (train["event"].sum(), test["event"].sum()) == (91, 23)


def test_rossi_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lifelines", None)
    monkeypatch.setitem(sys.modules, "lifelines.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'ppml_lab\[survival\]'"):
        data.load("rossi")


def test_location30():
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip("PPML_LAB_DATA is not set, so location30 cannot be read")
    if files.locate("location30", published.LOCATION_ARCHIVE) is None:
        pytest.skip("PPML_LAB_DATA has no location30")
    found = data.load("location30")
    assert found.num_classes == 30
    assert (found.train_users, found.test_users) == (None, None)
    assert (found.train["x"].shape, found.test["x"].shape) == ((4008, 446), (1002, 446))
    x = np.concatenate([found.train["x"], found.test["x"]])
    y = np.concatenate([found.train["y"], found.test["y"]])
    assert set(np.unique(x)) == {0, 1}
    assert x.mean() == pytest.approx(0.1204, abs=1e-4)
    counts = np.bincount(y)
    assert (counts.min(), np.median(counts), counts.max()) == (97, 156.5, 308)
    assert len(np.unique(x, axis=0)) == 5_010
    shares = np.bincount(found.test["y"]) / counts
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a location30 of two classes and two columns."""
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(location, "_COLUMNS", 2)
    monkeypatch.setattr(location, "_CLASS_ROWS", (5, 5))

    def pack(text, member="bangkok"):
        folder = tmp_path / "location30"
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / published.LOCATION_ARCHIVE, "w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))

    return pack


TOY = '"1",0,1\n"2",1,0\n' * 5


def test_a_made_location30(write):
    with pytest.raises(FileNotFoundError, match="privacytrustlab"):
        data.load("location30")
    write(TOY)
    found = data.load("location30")
    assert found.train["x"].shape == (8, 2)
    np.testing.assert_array_equal(found.train["x"][:, 0], found.train["y"])


@pytest.mark.parametrize("change", ["a bit", "no end", "a link to itself"])
def test_a_damaged_location30_is_refused(write, tmp_path, change):
    write(TOY)
    path = tmp_path / "location30" / published.LOCATION_ARCHIVE
    content = bytearray(path.read_bytes())
    if change == "a bit":
        content[-8] ^= 64  # of the checksum
        path.write_bytes(content)
    elif change == "no end":
        path.write_bytes(content[:-8])
    else:
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("bangkok")
            info.type, info.linkname = tarfile.SYMTYPE, "bangkok"
            archive.addfile(info)
    with pytest.raises(ValueError, match=r"dataset_location\.tgz"):
        data.load("location30")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"1",0,1\n"2"', '"1",300,2\n"2"', "not a number|columns be 0 or 1"),
        ('"1",0,1\n', '"2000000000",0,1\n', r"must have \[5, 5\] rows"),
        ('"1",0,1\n"2"', '"1",0,2\n"2"', "columns be 0 or 1"),
        ('"2",1,0\n', '"1",1,0\n', r"got \[10\]"),
        ('"1",0,1\n', '"1",0\n', r"10 rows of 3 columns, got 10 of \[2\]"),
        (TOY, TOY + '"1",0,1\n', "got 11 of"),
        ('"1",0,1\n', '"1",x,1\n', "not a number"),
        (TOY, "", "got 0 of"),
    ],
)
def test_another_location30_is_refused(write, old, new, message):
    write(TOY.replace(old, new))
    with pytest.raises(ValueError, match=message):
        data.load("location30")


def test_another_archive_is_no_location30(write):
    write(TOY, "berlin")
    with pytest.raises(ValueError, match="not an archive with a file bangkok"):
        data.load("location30")
    path = files.locate("location30", published.LOCATION_ARCHIVE)
    assert path is not None
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not an archive with a file bangkok"):
        data.load("location30")
