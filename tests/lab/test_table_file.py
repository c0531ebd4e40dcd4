"""A file of one's own as a part: what it is called, what it is known by, a run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.command import parse
from ppml_lab.lab.parts.choices import CHOICES
from ppml_lab.lab.parts.table_file import ranges_of
from ppml_lab.lab.tree.identity import digest


def write(path: Path, change: str = "") -> Path:
    """Sixty rows of five users, of which one lacks a cell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    lines = ["a,b,who,label"]
    for i, (a, b) in enumerate(x):
        lines.append(f"{a:.3f},{b:.3f},u{i % 5},{'yes' if a > b else 'no'}")
    lines[7] = f"?{lines[7][lines[7].index(',') :]}"
    path.write_text("\n".join(lines).replace("u4", change or "u4") + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> parts.TableFile:
    return parts.TableFile(
        str(write(tmp_path / "mine.csv")), target="label", user="who"
    )


def setup(table: Any) -> parts.Federated:
    return parts.Federated(
        data=table,
        partition=parts.Natural(),
        sampler=parts.Everyone(),
        trainer=parts.FedAvg(parts.Sgd(0.5)),
        schedule=lab.Schedule(num_rounds=4, eval_every=4),
        layout=lab.Layout(num_devices=1),
    )


def test_a_file_of_ones_own_is_read_once_and_says_what_was_done(
    table: Any, capsys: Any
) -> None:
    facts = lab.facts_of(setup(table))
    assert (facts.num_clients, facts.num_examples, facts.num_classes) == (5, 47, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "mine.csv: 1 of 60 rows left out: missing a (1)",
        "mine.csv: standardised by the 47 train rows: 2 columns",
        "mine.csv: classes of label from 0 on: no, yes",
    ]
    # Read once, whatever is asked.
    loaded = lab.load_data(setup(table))
    assert loaded.facts == facts
    assert {key: leaf.shape for key, leaf in loaded.test.items()} == {
        "x": (12, 2), "y": (12,),
    }  # fmt: skip
    assert capsys.readouterr().err == ""


@pytest.mark.exhaustive
def test_a_run_on_a_file_of_ones_own(table: Any, tmp_path: Path) -> None:
    points = lab.points(lab.seeds(1), setup(table))
    (found,) = lab.run_sweep(points, tmp_path / "runs")
    assert found.last["accuracy"] > 0.8


def test_tables_show_the_name_of_the_file_and_what_became_of_its_rows(
    table: Any,
) -> None:
    assert table.title == (
        "TableFile(mine.csv, target='label', user='who'); 1 of 60 rows left out: "
        "missing a (1)"
    )
    filled = replace(table, missing="fill")
    assert filled.title.endswith('or a category "missing": a (1)')


def test_a_file_is_what_it_holds(table: Any, tmp_path: Path) -> None:
    here, path = digest(table), Path(table.path)
    shutil.copy(path, tmp_path / "other.csv")
    assert digest(replace(table, path=str(tmp_path / "other.csv"))) == here
    os.utime(path, (1, 1))
    assert digest(table) == here
    about, facts = path.stat(), lab.facts_of(setup(table))
    # As large, and of the same time.
    write(path, "u3")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size
    assert path.stat().st_mtime_ns == about.st_mtime_ns
    assert digest(table) != here
    assert facts.num_clients == 5
    assert lab.facts_of(setup(table)).num_clients == 4
    assert digest(replace(table, user=None)) != digest(table)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    table = parts.TableFile(str(tmp_path / "gone.csv"), target="y")
    with pytest.raises(FileNotFoundError, match=r"gone.csv.* cannot be read"):
        lab.facts_of(setup(table))
    with pytest.raises(FileNotFoundError, match=r"TableFile.path .*gone.csv"):
        table.load()


def test_a_file_is_chosen_on_the_command_line(
    table: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["data:table-file", "--data.path", table.path, "--data.target", "label"]
    words += ["--data.columns", "a", "b", "--data.user", "who"]
    monkeypatch.setattr("sys.argv", ["x", "smoke", *words])
    configs = {"smoke": replace(setup(parts.Digits()), sampler=parts.Poisson(3))}
    chosen = parse("x", "What for?", configs, (), CHOICES).config
    assert chosen.data == replace(table, columns=("a", "b"))
    monkeypatch.setattr("sys.argv", ["x", "smoke", *words[:3]])
    with pytest.raises(SystemExit):
        parse("x", "What for?", configs, (), CHOICES)
    assert "target" in capsys.readouterr().err


def test_ranges_and_persons_as_texts(tmp_path: Path) -> None:
    path = str(write(tmp_path / "mine.csv"))
    table = parts.TableFile(path, target="label", person="who", ranges=("a=-4:4",))
    train, _, _ = table.load()
    assert sorted(train) == ["person", "x", "y"]
    assert np.abs(train["x"][:, 0]).max() <= 1
    assert "person='who', ranges=('a=-4:4',)" in table.title


@pytest.mark.parametrize("text", ["a", "a=1", "a=1:2:3", "=1:2", "a=low:2", "a=nan:1"])
def test_texts_that_are_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="such as age=0:120"):
        ranges_of([text])


def test_a_column_with_two_ranges() -> None:
    with pytest.raises(ValueError, match="names 'a' twice"):
        ranges_of(["a=1:2", "a=1:3"])
