"""The tables: real files where the machine has them, tiny ones elsewhere."""

import os
import urllib.request

import numpy as np
import pytest

from ppml_lab import data
from ppml_lab.data import datasets, files, tabular


def load_real(name):
    """A data set from PPML_LAB_DATA, or a skip: tests never download."""
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip(f"PPML_LAB_DATA is not set, so {name} cannot be read")
    if files.missing(name, datasets.sources(name).needed):
        pytest.skip(f"PPML_LAB_DATA has no complete {name}")
    return data.load(name)


def row(x, names):
    """The columns of one row that are not 0, by name."""
    return {name: value for name, value in zip(names, x, strict=True) if value}


def test_hospital_counts():
    heart = load_real("heart_disease")
    for part, users, rows, positives in [
        (heart.train, heart.train_users, [199, 172, 30, 85], [91, 65, 29, 66]),
        (heart.test, heart.test_users, [104, 89, 16, 45], [48, 33, 16, 35]),
    ]:
        assert users is not None
        np.testing.assert_array_equal(np.bincount(users), rows)
        np.testing.assert_array_equal(np.bincount(users, part["y"]), positives)
        assert part["x"].shape == (sum(rows), 13)


def test_hospitals_standardise_alone_and_by_train_rows():
    heart = load_real("heart_disease")
    for user, (file, num_rows) in enumerate(
        zip(tabular.HEART_FILES, tabular._HEART_ROWS, strict=True)
    ):
        path = files.locate("heart_disease", file)
        assert path is not None
        raw, y, names = tabular._hospital(path, num_rows)
        assert tuple(names) == heart.feature_names
        train = heart.train["x"][heart.train_users == user]
        test = heart.test["x"][heart.test_users == user]
        constant = np.ptp(train, axis=0) == 0
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(train.std(axis=0), np.where(constant, 0, 1), 1e-5)
        # Undone with the train rows' moments, both parts together are the file.
        is_train = tabular._stratified(y, 0.66)
        mean, std = raw[is_train].mean(axis=0), raw[is_train].std(axis=0)
        std = np.where(constant, 1, std)
        np.testing.assert_allclose(train * std + mean, raw[is_train], atol=1e-4)
        np.testing.assert_allclose(test * std + mean, raw[~is_train], atol=1e-4)
        constants = np.compress(constant, names).tolist()
        assert constants == (["chol", "cp=2"] if user == 2 else [])
        for name in ("cp", "restecg"):
            dummies = [n.startswith(f"{name}=") for n in names]
            # The category left out has zeros.
            assert set(raw[:, dummies].sum(axis=1)) == {0, 1}


@pytest.mark.parametrize("name", ["heart_disease", "adult"])
def test_public_ranges_take_nothing_from_rows(name):
    plain = load_real(name)
    ranged = getattr(data, name)("public_ranges")
    assert ranged.feature_names == plain.feature_names
    ranges = {"heart_disease": tabular._HEART_RANGES, "adult": tabular._ADULT_RANGES}
    for part in ("train", "test"):
        x, other = getattr(ranged, part)["x"], getattr(plain, part)["x"]
        assert np.abs(x).max() <= 1
        for place, column in enumerate(ranged.feature_names):
            if column in ranges[name]:
                # Within Cleveland or Adult, both scalings are increasing lines.
                own = slice(0, 100)
                pairs = np.unique(np.stack([x[own, place], other[own, place]]), axis=1)
                inside = pairs[:, np.abs(pairs[0]) < 1]
                if inside.shape[1] > 2:
                    assert np.corrcoef(inside)[0, 1] == pytest.approx(1, abs=1e-5)
            else:
                assert set(np.unique(x[:, place])) <= {0, 1}
    # A range's ends become -1 and 1, and what lies outside becomes an end.
    ends = np.array([[-5.0, 3.0], [0.0, 4.0], [5.0, 5.0], [10.0, 6.0], [99.0, 7.0]])
    found = tabular.within_ranges(ends, ["a", "b"], {"a": (0, 10)})
    np.testing.assert_array_equal(found[:, 0], [-1, -1, 0, 1, 1])
    np.testing.assert_array_equal(found[:, 1], ends[:, 1])


def test_first_patient_by_public_ranges():
    load_real("heart_disease")
    heart = data.heart_disease("public_ranges")
    both = np.concatenate([heart.train["x"], heart.test["x"]])
    # 63 years of 20..90; 145 mm Hg of 80..220; 233 mg/dl of 0..600; pulse 150 of
    # 60..220; ST depression 2.3 of -3..7.
    wanted = [16 / 70, 1, -5 / 70, -67 / 300, 1, 10 / 80, -1, 0.06, 0, 0, 0, 0, 1]
    assert np.isclose(both, wanted, atol=1e-6).all(axis=1).any()


def test_first_patient_of_cleveland():
    # 63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0
    load_real("heart_disease")
    path = files.locate("heart_disease", "processed.cleveland.data")
    assert path is not None
    x, y, names = tabular._hospital(path, 303)
    assert y[0] == 0
    assert row(x[0], names) == {
        "age": 63,
        "sex": 1,
        "trestbps": 145,
        "chol": 233,
        "fbs": 1,
        "thalach": 150,
        "oldpeak": 2.3,
        "restecg=2": 1,
    }


def test_adult_counts():
    adult = load_real("adult")
    assert adult.train["x"].shape == (32_561, 107)
    assert adult.test["x"].shape == (16_281, 107)
    np.testing.assert_array_equal(np.bincount(adult.train["y"]), [24_720, 7_841])
    np.testing.assert_array_equal(np.bincount(adult.test["y"]), [12_435, 3_846])
    assert adult.train_users is None
    assert adult.test_users is None


def test_adult_columns():
    adult = load_real("adult")
    names = np.array(adult.feature_names)
    numeric = np.char.find(names, "=") < 0
    assert names[numeric].tolist() == list(tabular._ADULT_NUMERIC)
    x = adult.train["x"]
    np.testing.assert_allclose(x[:, numeric].mean(axis=0, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, numeric].std(axis=0, dtype=float), 1, atol=1e-6)
    sizes = [9, 16, 7, 15, 6, 5, 2, 42]
    for name, size in zip(tabular._ADULT_CATEGORICAL, sizes, strict=True):
        group = np.char.startswith(names, f"{name}=")
        assert group.sum() == size
        for part in (adult.train, adult.test):
            assert set(np.unique(part["x"][:, group])) == {0, 1}
            np.testing.assert_array_equal(part["x"][:, group].sum(axis=1), 1)
    missing = np.isin(
        names, ["workclass=?", "occupation=?", "native-country=?"], assume_unique=True
    )
    assert x[:, missing].any(axis=1).sum() == 2_399
    assert adult.test["x"][:, missing].any(axis=1).sum() == 1_221


def test_first_person_of_adult():
    # 39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family,
    # White, Male, 2174, 0, 40, United-States, <=50K
    adult = load_real("adult")
    first = row(adult.train["x"][0], adult.feature_names)
    # Train has a mean age of 38.58 with std 13.64, and 10.08 and 2.57 years of school.
    assert first.pop("age") == pytest.approx((39 - 38.5816) / 13.6402, abs=1e-3)
    assert first.pop("education-num") == pytest.approx(
        (13 - 10.0807) / 2.5727, abs=1e-3
    )
    for name in ("capital-gain", "capital-loss", "hours-per-week"):
        first.pop(name)
    assert first == {
        "workclass=State-gov": 1,
        "education=Bachelors": 1,
        "marital-status=Never-married": 1,
        "occupation=Adm-clerical": 1,
        "relationship=Not-in-family": 1,
        "race=White": 1,
        "sex=Male": 1,
        "native-country=United-States": 1,
    }
    assert adult.train["y"][0] == 0


@pytest.mark.exhaustive  # rows and counts are above
def test_logistic_regression_on_adult():
    from sklearn import linear_model

    adult = load_real("adult")
    model = linear_model.LogisticRegression(solver="newton-cholesky")
    model.fit(adult.train["x"], adult.train["y"])
    assert model.score(adult.test["x"], adult.test["y"]) == pytest.approx(
        0.852, abs=1e-3
    )


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes files of a data set; any use of the network fails the test."""

    def no_network(*args, **kwargs):
        raise AssertionError("a data set on disk must not use the network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    # Its files are not those that are published.
    monkeypatch.setattr(files, "check_published", lambda path, source: None)
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write_all(dataset, *texts):
        (tmp_path / dataset).mkdir()
        for file, text in zip(datasets.sources(dataset).needed, texts, strict=True):
            (tmp_path / dataset / file).write_text(text)

    return write_all


ADULT_TRAIN = """\
30, Private, 7, 11th, 7, Divorced, ?, Wife, White, Female, 0, 0, 40, Peru, <=50K
50, Private, 9, HS-grad, 9, Divorced, Sales, Wife, White, Male, 2, 2, 20, Peru, >50K

"""
ADULT_TEST = """\
|1x3 Cross validator
60, Private, 5, 11th, 7, Divorced, Sales, Wife, White, Male, 1, 0, 30, Peru, >50K.

"""


def test_tiny_adult(write, monkeypatch):
    monkeypatch.setattr(tabular, "_ADULT_ROWS", (2, 1))
    write("adult", ADULT_TRAIN, ADULT_TEST)
    adult = data.load("adult")
    always = {
        "workclass=Private": 1,
        "marital-status=Divorced": 1,
        "relationship=Wife": 1,
        "race=White": 1,
        "native-country=Peru": 1,
    }
    assert row(adult.train["x"][0], adult.feature_names) == always | {
        "age": -1,
        "education-num": -1,
        "capital-gain": -1,
        "capital-loss": -1,
        "hours-per-week": 1,
        "education=11th": 1,
        "occupation=?": 1,
        "sex=Female": 1,
    }
    assert row(adult.test["x"][0], adult.feature_names) == always | {
        "age": 2,
        "education-num": -1,
        "capital-loss": -1,
        "education=11th": 1,
        "occupation=Sales": 1,
        "sex=Male": 1,
    }
    assert adult.train["y"].tolist() == [0, 1]
    assert adult.test["y"].tolist() == [1]


HEART = """\
40,1,1,120,200,0,0,150,0,0.5,?,?,?,0
50.0,0.0,2.0,130.0,210.0,0.0,2.0,140.0,1.0,1.5,1.0,0.0,3.0,3
60,1,4,140,?,0,0,130,1,2.5,?,?,?,1
70,1,4,150,220,0,1,120,1,3.5,?,?,?,1
"""


def test_tiny_heart_disease(write, monkeypatch):
    monkeypatch.setattr(tabular, "_HEART_ROWS", (4,) * 4)
    write("heart_disease", *[HEART] * 4)
    heart = data.load("heart_disease")
    # One train row per hospital: its std is 0, so it is only centred.
    np.testing.assert_array_equal(heart.train["x"], np.zeros((4, 13)))
    np.testing.assert_array_equal(heart.train_users, [0, 1, 2, 3])
    np.testing.assert_array_equal(heart.test_users, np.repeat(range(4), 2))
    assert np.concatenate([heart.train["y"], heart.test["y"]]).mean() == 2 / 3


def test_split_keeps_shares():
    y = np.arange(46) < 45
    is_train = tabular._stratified(y.astype(np.int32), 0.66)
    assert is_train.sum() == 30
    assert is_train[45]
    y = np.arange(100) < 30
    is_train = tabular._stratified(y.astype(np.int32), 0.66)
    assert (is_train.sum(), is_train[:30].sum()) == (66, 20)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",150,0,0.5", ",150,0.5", r"cleveland.*14 columns, got \['40'"),
        ("40,1,1", "40,1,5", r"cleveland.*cp must be one of .* got \['5'\]"),
        ("40,1,1", "forty,1,1", "cleveland.*age must be a number .*forty"),
        ("40,1,1,", "40,1,1,120,200,0,0,150,0,0.5,?,?,?,0\n40,1,1,", "4 rows, got 5"),
        (HEART, "", "4 rows, got 0"),
        (HEART, "\0\xff", "14 columns"),
    ],
)
def test_damaged_heart_disease(write, monkeypatch, old, new, message):
    monkeypatch.setattr(tabular, "_HEART_ROWS", (4,) * 4)
    write("heart_disease", HEART.replace(old, new), *[HEART] * 3)
    with pytest.raises(ValueError, match=f"{message}.*fetch it again"):
        data.load("heart_disease")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (">50K.", ">50", "income must be one of"),
        ("Sales", "Selling", r"occupation must be one of .* got \['Selling'\]"),
        ("60,", "?,", "age must be a number"),
    ],
)
def test_damaged_adult(write, monkeypatch, old, new, message):
    monkeypatch.setattr(tabular, "_ADULT_ROWS", (2, 1))
    write("adult", ADULT_TRAIN, ADULT_TEST.replace(old, new))
    with pytest.raises(ValueError, match=rf"adult\.test: {message}.*fetch it again"):
        data.load("adult")


def test_feature_names_are_checked():
    part = (np.zeros((3, 2)), np.array([0, 1, 1]))
    table = data.make_dataset("toy", part, part, 2, feature_names=["age", "sex=Male"])
    assert table.feature_names == ("age", "sex=Male")
    assert data.make_dataset("toy", part, part, 2).feature_names is None
    with pytest.raises(ValueError, match=r"rows have shape \(2,\), got 1 names"):
        data.make_dataset("toy", part, part, 2, feature_names=["age"])
