"""What is written to disk, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ppml_lab.lab.disk import records


def test_lines_after_the_last_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    records.append_lines(path, [{"round": 1}, {"round": 2}])
    records.append_lines(path, [{"round": 3}])
    records.keep_rounds(path, 2)
    assert records.read_lines(path) == [{"round": 1}, {"round": 2}]


def test_a_corrupt_line_is_skipped_with_a_warning_and_nothing_else_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rounds.jsonl"
    records.append_lines(path, [{"round": t} for t in range(1, 6)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b'{"rou\xff\x00\n'
    path.write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match=r"rounds.jsonl, line 2 is not a JSON row"):
        # Cut by what lines say, not by their number.
        records.keep_rounds(path, 4)
    assert records.read_lines(path) == [{"round": 1}, {"round": 3}, {"round": 4}]


def test_what_is_no_number_is_null_in_lines_and_a_word_in_configurations(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rounds.jsonl"
    records.append_lines(path, [{"a": np.float32("nan"), "b": [float("inf"), 1.5]}])
    assert path.read_text() == '{"a": null, "b": [null, 1.5]}\n'
    config = {"target_epsilon": float("inf")}
    assert records.described(config) == {"target_epsilon": "inf"}


def test_a_table_has_empty_cells_for_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    records.write_table(path, [{"a": None, "b": 0.123456789, "c": np.float32(2)}])
    with path.open() as file:
        assert list(csv.DictReader(file)) == [{"a": "", "b": "0.123457", "c": "2"}]


def test_no_half_file_is_left(tmp_path: Path) -> None:
    records.write_json(tmp_path / "deep" / "x.json", {"a": 1})
    with pytest.raises(TypeError, match="cannot record"):
        records.write_json(tmp_path / "deep" / "x.json", {"a": object()})
    assert records.read_json(tmp_path / "deep" / "x.json") == {"a": 1}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.json"]


def test_what_is_computed_once_is_read_after_that(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, object]:
        calls.append(1)
        return {"times": np.array([1.5, np.nan]), "name": ("a",)}

    about = {"graph": [3, 2], "epsilon": float("inf")}
    found = records.once(tmp_path / "runs", about, compute)
    assert found == {"times": [1.5, None], "name": ["a"]}
    assert records.once(tmp_path / "runs", dict(reversed(about.items())), compute) == (
        found
    )
    assert len(calls) == 1
    records.once(tmp_path / "runs", about | {"graph": [3, 1]}, compute)
    assert len(calls) == 2
    (path,) = (tmp_path / "runs").glob(f"{records.name_of(about)}.json")
    assert records.read_json(path)["about"] == {"graph": [3, 2], "epsilon": "inf"}
    path.write_text(path.read_text()[:-20])
    with pytest.raises(records.DamagedError, match=f"{path.name} is damaged"):
        records.once(tmp_path / "runs", about, compute)
    path.write_text("[1]")
    with pytest.raises(records.DamagedError, match="holds no result; delete it"):
        records.once(tmp_path / "runs", about, compute)
    # No result is tried again.
    assert records.once(tmp_path, about, lambda: None) is None
    assert records.once(tmp_path, about, lambda: 0) == 0
    assert records.once(tmp_path, about, lambda: 1) == 0
