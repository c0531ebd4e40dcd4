"""Results folders: whose they are, of which version, and whether they have room."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ppml_lab import lab
from ppml_lab.lab import records
from ppml_lab.lab.folders import check_room, check_writable, open_folder
from ppml_lab.lab.run import parse


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    open_folder(tmp_path, {"rounds": 5, "base": {"model": "cnn"}})
    open_folder(tmp_path, {"rounds": 5, "base": {"model": "cnn"}})
    with pytest.raises(
        ValueError, match=r"another configuration \(base.model: cnn there, 2nn here\)"
    ):
        open_folder(tmp_path, {"rounds": 5, "base": {"model": "2nn"}})
    with pytest.raises(ValueError, match=r"\(rounds: 5 there, 6 here\)"):
        open_folder(tmp_path, {"rounds": 6, "base": {"model": "cnn"}})


def test_a_folder_from_before_an_option_came_or_went_can_be_used(
    tmp_path: Path,
) -> None:
    open_folder(tmp_path, {"base": {"model": "cnn", "gone": 1}})
    config = {"base": {"model": "cnn", "lanes": 2}, "rounds": 5}
    open_folder(tmp_path, config)
    assert records.read_json(tmp_path / "provenance.json")["config"] == config


def test_named_tuples_are_known_by_name(tmp_path: Path) -> None:
    class Rates(NamedTuple):
        client: float
        server: float

    open_folder(tmp_path, {"rates": [Rates(0.1, 1.0)]})
    stored = records.read_json(tmp_path / "provenance.json")["config"]
    assert stored == {"rates": [{"client": 0.1, "server": 1.0}]}
    other = {"rates": [Rates(0.1, 2.0)]}
    with pytest.raises(ValueError, match="another configuration"):
        open_folder(tmp_path, other)
    # From before there were names, and a second rate.
    records.write_json(tmp_path / "provenance.json", {"config": {"rates": [0.1]}})
    open_folder(tmp_path, {"rates": Rates(0.1, 2.0)})


def test_infinity_is_a_word_and_was_a_number(tmp_path: Path) -> None:
    config = {"target_epsilon": float("inf")}
    (tmp_path / "provenance.json").write_text(json.dumps({"config": config}))
    open_folder(tmp_path, config)
    open_folder(tmp_path, config)


def test_an_empty_path_is_not_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        rounds: int = 1

    for empty in ("", " "):
        with pytest.raises(ValueError, match=r"^folder must be the path of"):
            open_folder(empty, {})
        with pytest.raises(ValueError, match=r"^folder must be the path of"):
            lab.run_sweep([], empty)
        monkeypatch.setattr(sys, "argv", ["tiny", "smoke", "--out", empty])
        with pytest.raises(SystemExit):
            parse("tiny", "", {"smoke": Options()})
        assert "out must be the path of" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["tiny", "smoke", "--out", "."])
    assert parse("tiny", "", {"smoke": Options()}) == (Options(), Path())


def test_a_folder_may_be_a_text(tmp_path: Path) -> None:
    open_folder(str(tmp_path), {"rounds": 5})
    check_writable(str(tmp_path))
    with pytest.raises(ValueError, match="another configuration"):
        open_folder(tmp_path, {"rounds": 6})


def test_a_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    records.write_json(tmp_path / "provenance.json", {"format": 3, "config": {}})
    with pytest.raises(ValueError, match="results format 3, which a later version"):
        open_folder(tmp_path, {})


def test_unfinished_runs_of_an_older_version_start_again(tmp_path: Path) -> None:
    records.write_json(tmp_path / "provenance.json", {"config": {"a": 1}})
    for run in ("one", "two"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    old = tmp_path / "runs" / "one" / "checkpoint.npz"
    old.touch()
    kept = tmp_path / "runs" / "two" / "result.json"
    kept.touch()
    with pytest.raises(ValueError, match="another configuration"):
        open_folder(tmp_path, {"a": 2})
    assert old.exists()
    with pytest.warns(UserWarning, match="its 1 unfinished runs start again"):
        open_folder(tmp_path, {"a": 1})
    assert (old.exists(), kept.exists()) == (False, True)
    open_folder(tmp_path, {"a": 1})


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "results", Path("/proc/results")):
        with pytest.raises(OSError, match=f"no results can be written to.*{folder}"):
            open_folder(folder, {})


def test_a_disk_without_room_is_an_error(tmp_path: Path) -> None:
    check_room(tmp_path, 0)
    with pytest.raises(OSError, match=r"MiB free, and the sweep may write 1048592 MiB"):
        check_room(tmp_path, 2**40)
