"""Results folders: whose they are, of which version, and whether they have room."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ppml_lab import lab
from ppml_lab.lab.disk import records
from ppml_lab.lab.disk.provenance import check_room, check_writable, open_folder
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


def test_infinity_is_a_word(tmp_path: Path) -> None:
    config = {"target_epsilon": float("inf")}
    open_folder(tmp_path, config)
    open_folder(tmp_path, config)
    stored = json.loads((tmp_path / "provenance.json").read_text())["config"]
    assert stored == {"target_epsilon": "inf"}


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
    found = parse("tiny", "", {"smoke": Options()})
    assert (found.config, found.out) == (Options(), Path())


def test_a_folder_may_be_a_text(tmp_path: Path) -> None:
    open_folder(str(tmp_path), {"rounds": 5})
    check_writable(str(tmp_path))
    with pytest.raises(ValueError, match="another configuration"):
        open_folder(tmp_path, {"rounds": 6})


def test_a_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    records.write_json(tmp_path / "provenance.json", {"format": 4, "config": {}})
    with pytest.raises(
        ValueError, match="results format 4, written by a later version"
    ):
        open_folder(tmp_path, {})


def test_runs_of_an_older_version_are_refused_and_a_table_alone_is_made_again(
    tmp_path: Path,
) -> None:
    for version in ({}, {"format": 1}, {"format": 2}):
        stamp = {"config": {"a": 1}} | version
        records.write_json(tmp_path / "provenance.json", stamp)
        old = tmp_path / "runs" / "one" / "result.json"
        old.parent.mkdir(parents=True)
        old.touch()
        with pytest.raises(ValueError, match=r"format [12], whose names and keys"):
            open_folder(tmp_path, {"a": 1})
        assert old.exists()
        assert records.read_json(tmp_path / "provenance.json") == stamp
        shutil.rmtree(tmp_path / "runs")
        open_folder(tmp_path, {"a": 2})
        (tmp_path / "provenance.json").unlink()


def test_a_damaged_stamp_is_refused(tmp_path: Path) -> None:
    for stamp in ([], {"format": "3", "config": {}}, {"format": 3}, {"config": []}):
        records.write_json(tmp_path / "provenance.json", stamp)
        with pytest.raises(ValueError, match=r"provenance\.json is damaged"):
            open_folder(tmp_path, {})


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "results", Path("/proc/results")):
        with pytest.raises(OSError, match=f"no results can be written to.*{folder}"):
            open_folder(folder, {})


def test_a_disk_without_room_is_an_error(tmp_path: Path) -> None:
    check_room(tmp_path, 0)
    with pytest.raises(OSError, match=r"MiB free, but the sweep may write 1048592 MiB"):
        check_room(tmp_path, 2**40)
