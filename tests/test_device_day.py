"""A device day on this machine: nothing differs from a CPU, for it is one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import device_day
from experiments.benchmarks.device_day_cells import close, exact

ROOT = Path(__file__).resolve().parents[1]


def test_digests_tell_one_bit_apart() -> None:
    values = {"a": np.arange(5, dtype=np.uint32), "b": np.ones(3, np.float32)}
    found = exact.digest(values)
    assert found == exact.digest({"a": values["a"].copy(), "b": values["b"]})
    values["a"][3] ^= 1
    assert exact.digest(values) != found
    assert exact.digest(values["a"]) != exact.digest(values["a"].astype(np.int32))
    assert exact.digest(values["b"]) != exact.digest(values["b"][None])


def test_units_in_the_last_place_are_neighbours() -> None:
    values = np.array([-1.5, -1e-45, -0.0, 0.0, 1e-45, 3.0], np.float32)
    up = np.nextafter(values, np.float32(np.inf))
    # Both zeros are one number.
    assert (close.ordered(up) - close.ordered(values)).tolist() == [1] * 6
    assert close.ordered(values)[2] == close.ordered(values)[3]


def test_a_cell_that_fails_says_so_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fails() -> list[dict[str, object]]:
        calls.append("fails")
        raise RuntimeError("out of memory")

    def works() -> list[dict[str, object]]:
        calls.append("works")
        return [device_day.row("speed", 3.0, "1/s")]

    cells = {"first": fails, "second": works}
    monkeypatch.setattr(device_day, "cells", lambda config: cells)
    config = device_day.CONFIGS["smoke"]
    failed, measured = device_day.measure(tmp_path, config)
    assert (failed["quantity"], failed["value"]) == ("failed", "RuntimeError")
    assert failed["holds"] is False
    assert (measured["value"], measured["compared"]) == (3.0, False)
    assert "error: first: out of memory" in capsys.readouterr().err
    # Started again, it keeps what is there and tries again what failed.
    device_day.measure(tmp_path, config)
    assert calls == ["fails", "works", "fails"]
    late, _ = device_day.measure(tmp_path, device_day.Experiment(seconds=-1.0))
    assert late["quantity"] == "left out"


@pytest.mark.slow
@pytest.mark.exhaustive  # for a device; the rest is tested where it is made
def test_its_smoke_runs_here_and_everything_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.device_day", "smoke"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    compared = [row for row in rows if row["compared"] == "True"]
    assert len(compared) > 20
    wrong = [row for row in rows if row["holds"] == "False"]
    assert not wrong, (wrong, done.stderr)
    known = json.loads(exact.DIGESTS.read_text())
    assert {row["case"] for row in rows if row["unit"] == "sha256"} == set(known)
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*")]
    assert {one["about"]["cell"] for one in kept} == {row["cell"] for row in rows}
