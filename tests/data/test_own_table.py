"""Tables of one's own: what is read of a file, and what is refused."""

import importlib
import importlib.util
import re
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import data, models

TABLE = """\
age,town,work,height,income,side
20,Ulm,nurse,1.5,low,train
30,Bonn,smith,1.6,high,train

40,Ulm,nurse,1.7,low,train
50,Bonn,"smith, master",1.8,high,TEST
60,Ulm,smith,1.9,mid,test
"""
NUMBERS = ("age", "height")


@pytest.fixture
def table(tmp_path):
    """Writes a file and reads it; columns are the numbers if nothing else is said."""

    def read(text=TABLE, name="people.csv", target="income", **options):
        path = tmp_path / name
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
        split = {} if "test_share" in options else {"test_column": "side"}
        given: Any = {"columns": NUMBERS} | split | options
        return data.read_table(path, target, **given)

    return read


def test_columns_target_users_and_split(table):
    found = table(user="town", standardise=False)
    assert found.name == "people.csv"
    assert found.feature_names == NUMBERS
    np.testing.assert_allclose(found.train["x"], [[20, 1.5], [30, 1.6], [40, 1.7]])
    np.testing.assert_allclose(found.test["x"], [[50, 1.8], [60, 1.9]])
    assert found.train["x"].dtype == np.float32
    # Classes in sorted order: high, low, mid.
    assert found.num_classes == 3
    assert found.train["y"].tolist() == [1, 0, 1]
    assert found.test["y"].tolist() == [0, 2]
    assert found.train["y"].dtype == np.int32
    assert found.train_users is not None
    assert found.test_users is not None
    assert found.train_users.tolist() == ["Ulm", "Bonn", "Ulm"]
    assert found.test_users.tolist() == ["Bonn", "Ulm"]
    assert found.notes == ("classes of income from 0 on: high, low, mid",)
    assert table().train_users is None


def test_the_mean_and_std_are_those_of_the_train_rows(table):
    found = table()
    x = found.train["x"]
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(found.test["x"][0, 0], 20 / np.sqrt(200 / 3), rtol=1e-6)
    assert found.notes[0] == "standardised by the 3 train rows: 2 columns"
    # A column that is constant there is only centred.
    flat = table(TABLE.replace("1.6", "1.5").replace("1.7", "1.5"))
    np.testing.assert_allclose(flat.train["x"][:, 1], 0)
    np.testing.assert_allclose(flat.test["x"][:, 1], [0.3, 0.4], rtol=1e-6)


def test_categories_are_columns_where_they_are_asked_for(table):
    found = table(columns=("work", "age"), one_hot=("work",), standardise=False)
    # The test rows' smith with a comma is no category that train rows have.
    assert found.feature_names == ("age", "work=nurse", "work=smith")
    np.testing.assert_array_equal(
        found.train["x"], [[20, 1, 0], [30, 0, 1], [40, 1, 0]]
    )
    np.testing.assert_array_equal(found.test["x"], [[50, 0, 0], [60, 0, 1]])
    with pytest.raises(
        ValueError,
        match=r"row 1 \(line 2\), column 'work': 'nurse' is not a number; put",
    ):
        table(columns=("age", "work"))


def test_all_columns_that_are_left_are_features(table):
    found = table(columns=(), one_hot=("town", "work"), standardise=False)
    assert found.feature_names is not None
    assert found.feature_names[:2] == NUMBERS
    assert set(found.feature_names[2:]) == {
        *("town=Bonn", "town=Ulm", "work=nurse", "work=smith")
    }


def test_a_share_of_the_rows_is_drawn_by_the_seed(table):
    text = "a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40))
    options: Any = {"columns": ("a",), "target": "y", "standardise": False}
    found = table(text, test_share=0.25, **options)
    both = [part["x"][:, 0].tolist() for part in (found.train, found.test)]
    assert [len(rows) for rows in both] == [30, 10]
    assert sorted(both[0] + both[1]) == list(range(40))
    again = table(text, test_share=0.25, **options)
    np.testing.assert_array_equal(found.test["x"], again.test["x"])
    other = table(text, test_share=0.25, seed=1, **options)
    assert not np.array_equal(found.test["x"], other.test["x"])


def test_rows_that_lack_something_are_left_out_and_counted(table):
    text = (
        TABLE.replace("40,Ulm", " ? ,Ulm")
        .replace("1.9,mid", "1.9,")
        .replace("1.8,high", "1.8,low")
        .replace("20,Ulm", "20,NA")
    )
    found = table(text, user="town", standardise=False)
    np.testing.assert_allclose(found.train["x"], [[30, 1.6]])
    np.testing.assert_allclose(found.test["x"], [[50, 1.8]])
    assert found.notes[0] == (
        "3 of 5 rows left out: missing income (1), town (1), age (1)"
    )


def test_cells_that_are_missing_are_filled_by_train_rows(table):
    text = TABLE.replace("40,Ulm,nurse", ",Ulm,NaN").replace("60,", "null,")
    found = table(
        text, missing="fill", standardise=False, columns=("age", "work"),
        one_hot=("work",),
    )  # fmt: skip
    assert found.feature_names == ("age", "work=missing", "work=nurse", "work=smith")
    np.testing.assert_allclose(found.train["x"][:, 0], [20, 30, 25])
    np.testing.assert_allclose(found.test["x"][:, 0], [50, 25])
    np.testing.assert_array_equal(found.train["x"][2, 1:], [1, 0, 0])
    assert found.notes[0] == (
        "missing cells filled with the mean of the train rows, or a category "
        '"missing": age (2), work (1)'
    )
    # Another word for what is missing, and then "?" is a text.
    text = TABLE.replace("40,", "-,")
    assert len(table(text, missing_words=("-",)).train["x"]) == 2
    with pytest.raises(
        ValueError, match=r"row 3 \(line 5\), column 'age': '-' is not a"
    ):
        table(text)
    empty = TABLE.replace("20,", ",").replace("30,", ",").replace("40,", ",")
    with pytest.raises(ValueError, match="'age' is missing in every train row"):
        table(empty, missing="fill")
    with pytest.raises(
        ValueError, match=r"each of the 5 rows lacks a cell in age \(5\)"
    ):
        table(empty.replace("50,", ",").replace("60,", ","))


def test_labels_are_numbers_where_that_is_said(table):
    found = table(target="height", columns=("age",), labels="numbers")
    np.testing.assert_allclose(found.train["y"], [1.5, 1.6, 1.7])
    assert found.train["y"].dtype == np.float32
    assert found.num_classes is None
    with pytest.raises(
        ValueError, match=r"target 'height': '1.5' is not a whole number"
    ):
        table(target="height", columns=("age",))
    with pytest.raises(ValueError, match=r"column 'income': 'low' is not a number"):
        table(labels="numbers")


TIMES = "age,weeks,seen,side\n20,3,1,train\n30,52,0,train\n40,7.5,,train\n50,9,1,test\n"


def test_times_stand_beside_what_was_seen(table):
    found = table(TIMES, target="weeks", event="seen", columns=())
    assert found.feature_names == ("age",)
    assert found.num_classes is None
    assert found.notes[0] == "1 of 4 rows left out: missing seen (1)"
    y = found.train["y"]
    assert (y["time"].tolist(), y["event"].tolist()) == ([3, 52], [1, 0])
    assert (y["time"].dtype, y["event"].dtype) == (np.float32, np.int32)
    assert found.test["y"]["time"].tolist() == [9]
    task = models.flax_survival(models.linear(2), (1,), (10.0, 60.0))
    key, rows = jax.random.key(0), jax.tree.map(jnp.asarray, found.train)
    assert task.loss(key, task.init(key), rows).shape == (2,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("20,0,1,train", "line 2.*column 'weeks': a time must be above 0, got 0"),
        ("20,-2,1,train", "'weeks': a time must be above 0, got -2"),
        ("20,soon,1,train", "'soon' is not a number; give times as numbers"),
        ("20,3,2,train", r"'seen': an event must be 1 \(seen\) or 0, got 2"),
        ("20,3,yes,train", "'yes' is not a number; write 1 where the event was"),
    ],
)
def test_times_that_are_none(table, row, message):
    with pytest.raises(ValueError, match=message):
        table(
            TIMES.replace("20,3,1,train", row),
            target="weeks",
            event="seen",
            columns=(),
        )


def test_classes_of_whole_numbers_are_in_their_order(table):
    found = table(target="age", columns=("height",))
    assert found.notes[-1] == "classes of age from 0 on: 20, 30, 40, 50, 60"
    text = "y,a,side\n10,1,train\n9.0,2,train\n9,3,test\n"
    found = table(text, target="y", columns=("a",))
    assert (found.train["y"].tolist(), found.test["y"].tolist()) == ([1, 0], [0])


@pytest.mark.parametrize(
    ("users", "read"),
    [
        (("3", "10", "3"), [3, 10, 3]),
        (("03", "10", "3"), ["03", "10", "3"]),
        (("3", "10", "x"), ["3", "10", "x"]),
    ],
)
def test_users_are_numbers_where_all_are_written_so(table, users, read):
    rows = [f"{u},{i},{i % 2},train\n" for i, u in enumerate(users)]
    text = "u,a,y,side\n" + "".join(rows) + "3,1,0,test\n"
    found = table(text, target="y", user="u", columns=("a",))
    assert found.train_users is not None
    assert found.train_users.tolist() == read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "incme"}, "target: unknown .* 'incme'; did you mean 'income'"),
        ({"user": "twn"}, "user: unknown column of people.csv 'twn'; .* 'town'"),
        ({"columns": ("aeg",)}, "columns: .* did you mean 'age'"),
        ({"one_hot": ("towns",)}, "one_hot: .* did you mean 'town'"),
        ({"test_column": "sid"}, "test_column: .* did you mean 'side'"),
        ({"columns": ("age", "town"), "one_hot": ("town", "town")}, "'town' twice"),
        ({"one_hot": ("town",)}, "'town' is not among the columns of x"),
        (
            {"columns": ("age", "income")},
            "'income' is already named as target; leave it out",
        ),
        ({"columns": ("age", "age")}, "'age' is already named as a column"),
        ({"user": "income"}, "user 'income' is already named as target"),
        ({"test_column": "town"}, r"row 1 \(line 2\), column 'town': must say train"),
        ({"test_share": 1.0}, "test_share"),
        ({"test_share": 0.05}, "test_share 0.05 of 5 rows leaves no row for test"),
        ({"seed": -1}, "seed"),
        ({"labels": "class"}, "labels must be"),
        ({"name": "people.xls"}, "must end in one of .csv"),
    ],
)
def test_arguments_that_do_not_fit(table, options, message):
    with pytest.raises(ValueError, match=message):
        table(**options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "people.csv is empty; its first line"),
        ("\n\n", "is empty"),
        ("age,height,income,side\n", "has a header but no rows"),
        ("age,age,income\n1,2,3\n", "two columns are called 'age'"),
        ("age,,income\n1,2,3\n", "column 2 has no name"),
        (TABLE + "1,2\n", "line 8: 2 cells, but the header names 6"),
        (
            TABLE.replace("30,", "3_0,"),
            r"row 2 \(line 3\), column 'age': '3_0' is not a",
        ),
        (TABLE.replace("60,", "inf,"), r"row 5 \(line 7\), .*'inf' is not a finite"),
        (TABLE.replace("60,", "1e300,"), r"row 5 .*'age': .* more than float32 holds"),
        (
            TABLE.replace("30,", "1e300,"),
            r"row 2 .*1e\+300 is too large .* missing_words",
        ),
        (TABLE.replace("30,", "None,"), "'None' is not a number; .* to missing_words"),
        (TABLE.replace('"smith', 'x"smith').replace("master", '"a"b'), "line 6: "),
        (TABLE.encode("utf-16"), "is not UTF-8 text"),
        (TABLE.replace("high", "low").replace("mid", "low"), "'low' in every row"),
        (TABLE.replace("TEST", "train").replace("test", "train"), "no row for test"),
    ],
)
def test_files_that_are_no_such_table(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_other_ways_to_write_a_table(table, tmp_path):
    plain = table(standardise=False)
    tabbed = table(
        TABLE.replace(",", "\t").replace("smith\t ", "smith, "),
        name="people.tsv",
        standardise=False,
    )
    semicolons = table(TABLE.replace(",", "; "), standardise=False, delimiter=";")
    marked = table(
        b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode(), standardise=False
    )
    for other in (tabbed, semicolons, marked):
        np.testing.assert_array_equal(other.train["x"], plain.train["x"])
        np.testing.assert_array_equal(other.test["y"], plain.test["y"])
    with pytest.raises(FileNotFoundError, match="is not an existing file"):
        data.read_table(tmp_path / "nothing.csv", "y")


def test_parquet_without_its_package_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'ppml_lab\[parquet\]'"):
        table(name="people.parquet")
    old: Any = types.ModuleType("pyarrow")
    old.__version__ = "13.0.0"
    monkeypatch.setitem(sys.modules, "pyarrow", old)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.ModuleType("parquet"))
    with pytest.raises(ImportError, match=r"13.0.0 may run code .* 14.0.1 or later"):
        table(name="people.parquet")


def test_parquet_is_read_like_csv(table, tmp_path):
    if not importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is not installed: pip install 'ppml_lab[parquet]'")
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    columns = {
        "age": pyarrow.array([20, 30, 40, 50, None], pyarrow.int64()),
        "height": [1.5, 1.6, 1.7, 1.8, float("nan")],
        "town": pyarrow.array([1, 2, 1, 2, 1], pyarrow.int32()),
        "income": ["low", "high", "low", "high", "mid"],
        "side": [False, False, False, True, True],
    }
    path = tmp_path / "people.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    options: Any = {"user": "town", "test_column": "side", "standardise": False}
    found = data.read_table(path, "income", **options)
    np.testing.assert_allclose(found.train["x"], [[20, 1.5], [30, 1.6], [40, 1.7]])
    np.testing.assert_allclose(found.test["x"], [[50, 1.8]])
    assert found.train_users is not None
    assert found.train_users.tolist() == [1, 2, 1]
    assert found.notes[0].startswith(
        "1 of 5 rows left out: missing age (1), height (1)"
    )
    with pytest.raises(
        ValueError, match=r"row 1, column 'income': 'low' is not a number"
    ):
        data.read_table(path, "age", test_column="side")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        data.read_table(path, "income")


VISITS = "age,who,y\n" + "".join(f"{n},p{n // 3},{n % 2}\n" for n in range(60))


def test_a_persons_rows_stay_on_one_side(table):
    found = table(VISITS, "v.csv", "y", columns=("age",), person="who", test_share=0.25)
    # 20 people of three rows each.
    assert found.train["person"].dtype == np.int32
    train, test = set(found.train["person"]), set(found.test["person"])
    assert not train & test
    assert len(test) == 5
    counts = np.bincount(np.concatenate([found.train["person"], found.test["person"]]))
    assert counts.tolist() == [3] * 20
    # Names are sorted as texts: p0, p1, p10, ...
    ages = dict(zip(found.train["x"][:, 0], found.train["person"], strict=True))
    assert len(set(ages.values())) == 15


def test_a_person_written_as_1_and_1_0_is_one_person(table):
    rows = [f"{who},{30 + i},{i % 2},train" for i, who in enumerate(("1", "1.0", "2"))]
    text = "\n".join(["who,age,y,side", *rows, "3,50,1,test", ""])
    found = table(text, target="y", columns=("age",), person="who")
    assert found.train["person"].tolist() == [0, 0, 1]
    found = table(text, target="y", columns=("age",), user="who")
    assert found.train_users is not None
    assert found.train_users.tolist() == [1, 1, 2]


def test_a_split_of_the_file_may_not_divide_a_person(table):
    rows = ["p1,30,0,train", "p2,40,1,test", "p2,50,0,test", "p1,60,1,test"]
    text = "\n".join(["who,age,y,side", *rows, ""])
    message = r"row 1 \(line 2\) is train and row 4 \(line 5\) is test.*1 such people"
    with pytest.raises(ValueError, match=message):
        table(text, target="y", columns=("age",), person="who")
    found = table(text.replace("1,test\n", "1,train\n"), target="y", columns=("age",))
    assert len(found.train["y"]) == 3


@pytest.mark.parametrize("other", ["0", "120", "1000000000"])
def test_what_is_missing_within_a_range_is_filled_without_any_row(table, other):
    rows = [f"{30 + i},{i % 2},train" for i in range(8)]
    rows += [",1,train", f"{other},0,train", "50,1,test"]
    text = "\n".join(["age,y,side", *rows, ""])
    options = {"missing": "fill", "ranges": {"age": (0, 120)}}
    found = table(text, target="y", columns=("age",), **options)
    assert found.train["x"][8, 0] == 0
    assert any("the middle of their range: age (1)" in note for note in found.notes)


def test_classes_that_floats_cannot_tell_apart_and_codes_stay_apart(table):
    for names in (("9007199254740993", "9007199254740992"), ("007", "7")):
        rows = [f"{i},{names[i % 2]},{'test' if i > 3 else 'train'}" for i in range(6)]
        found = table("\n".join(["a,y,side", *rows]), target="y", columns=("a",))
        assert len(set(found.train["y"].tolist())) == 2
        assert all(name in found.notes[-1] for name in names)


def test_ranges_need_no_rows(table):
    plain = table(ranges={"age": (0, 100), "height": (1.5, 2)})
    np.testing.assert_allclose(plain.train["x"][:, 0], [-0.6, -0.4, -0.2], atol=1e-6)
    np.testing.assert_allclose(plain.test["x"][:, 1], [0.2, 0.6], atol=1e-6)
    assert plain.notes[0] == "scaled by given ranges: 2 columns"
    # Other columns go on being standardised.
    mixed = table(ranges={"age": (25, 35)})
    np.testing.assert_allclose(mixed.train["x"][:, 0], [-1, 0, 1])
    assert mixed.train["x"][:, 1].mean() == pytest.approx(0, abs=1e-6)
    assert "standardised by the 3 train rows: 1 columns" in mixed.notes


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"agee": (0, 1)}, "unknown column of numbers among x 'agee'"),
        ({"work": (0, 1)}, "unknown column of numbers among x 'work'"),
        ({"age": (1, 1)}, "must have the least and a greater value"),
        ({"age": (0, float("inf"))}, "both finite"),
        ({"age": (0, 1, 2)}, "such as"),
    ],
)
def test_ranges_that_are_none(table, ranges, said):
    with pytest.raises(ValueError, match=said):
        table(ranges=ranges, columns=("age", "height", "work"), one_hot=("work",))


def test_a_number_that_says_whose_the_row_is_may_not_be_a_feature(table):
    rows = "id,age,y\n" + "".join(f"{100 + n},{n % 50},{n % 2}\n" for n in range(60))
    found = table(rows, "v.csv", "y", columns=(), test_share=0.2)
    assert any("id: another whole number in every row" in n for n in found.notes)
    named = table(rows, "v.csv", "y", columns=(), user="id", test_share=0.2)
    assert not any("another whole number" in note for note in named.notes)


def test_no_share_for_testing_leaves_all_rows_to_train(table):
    found = table(VISITS, "v.csv", "y", columns=("age",), user="who", test_share=0.0)
    assert len(found.train["y"]) == 60
    assert len(found.test["y"]) == len(found.test_users) == 0


@pytest.mark.parametrize("sign", [";", "|"])
def test_another_sign_between_cells_is_named(table, sign):
    with pytest.raises(ValueError, match=re.escape(f"give delimiter={sign!r}")):
        table(TABLE.replace(",", sign).replace('"', ""))
