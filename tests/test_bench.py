"""What benchmarks share measures what it says, and keeps what workers report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.benchmarks import bench

WORKER = """
import sys
from experiments.benchmarks import bench
options = bench.arguments({"task": ("good", "bad", "silent", "slow")}, size=3)
print("noise")
if options.task == "bad":
    sys.exit("out of luck")
if options.task == "slow":
    import time
    time.sleep(60)
if options.task == "good":
    bench.report("machine", "1.0", seconds=options.size + options.seed)
"""


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_laps_are_of_what_was_done_since_the_last():
    meter = bench.Meter()
    meter.start()
    spin(0.02)
    meter.skip()
    time.sleep(0.02)
    idle = meter.lap()
    spin(0.03)
    busy = meter.lap(3)
    assert meter.laps == [idle, busy]
    assert idle.cpu_seconds < 0.02 <= idle.seconds
    assert busy.seconds >= busy.cpu_seconds * 0.9 >= 0.9 * 0.03
    assert busy.milliseconds == pytest.approx(
        (1e3 * busy.seconds / 3, 1e3 * busy.cpu_seconds / 3)
    )


def test_memory_is_the_most_since_the_start():
    size = 64 * 2**20
    before = np.ones(2 * size, np.uint8)
    del before
    meter = bench.Meter()
    meter.start()
    base = meter.peak_mib()
    held = np.ones(size, np.uint8)
    del held
    assert 60 < meter.peak_mib() - base < 70


def test_a_tree_counts_its_children():
    meter = bench.Meter(os.getpid())
    meter.start()
    code = "import time; held = b'a' * 2**26\nwhile time.process_time() < 0.3: pass"
    alone = meter.lap()
    subprocess.run([sys.executable, "-c", code], check=True)
    lap = meter.lap()
    assert lap.cpu_seconds >= 0.25
    assert alone.cpu_seconds < 0.2
    assert meter.peak_mib() > 64


def test_options_are_words_and_numbers():
    words = {"model": ("a", "b"), "task": ("x",)}
    found = bench.arguments(words, ["b", "x", "--num-runs=4"], num_runs=1, words=None)
    assert vars(found) == {
        "model": "b",
        "task": "x",
        "seed": 0,
        "num_runs": 4,
        "words": None,
    }
    with pytest.raises(SystemExit):
        bench.arguments(words, ["c", "x"])


def test_turns(tmp_path, capsys):
    (tmp_path / "machine_worker.py").write_text(WORKER)
    workers = bench.Workers(tmp_path, tmp_path / "out", 120.0, ("seconds",))
    tasks = [
        bench.Task("machine", ("good",), {"size": 5}),
        bench.Task("machine", ("bad",), {}),
        bench.Task("machine", ("silent",), {}),
    ]
    good, bad, silent = bench.in_turns(workers, tasks, 2)
    assert [report and report["seconds"] for report in good] == [5, 6]
    assert bad == silent == [None, None]
    printed = capsys.readouterr()
    assert "1/2 machine good --size 5: seconds 5" in printed.out
    assert "ended with status 1, last line 'out of luck'" in printed.err
    assert "silent ended with status 0, last line 'noise'" in printed.err
    # What was reported is kept, logs of failures too.
    (tmp_path / "machine_worker.py").write_text("")
    assert bench.in_turns(workers, tasks[:1], 2) == [good]
    kept = sorted((tmp_path / "out" / "runs").iterdir())
    assert [path.suffix for path in kept].count(".json") == 2
    assert json.loads(next(p for p in kept if p.suffix == ".json").read_text())


def test_who_takes_too_long_is_given_up(tmp_path, capsys):
    (tmp_path / "machine_worker.py").write_text(WORKER)
    workers = bench.Workers(tmp_path, tmp_path / "out", 1.0, ())
    begin = time.perf_counter()
    found = bench.in_turns(workers, [bench.Task("machine", ("slow",), {})], 1)
    assert found == [[None]]
    assert time.perf_counter() - begin < 30
    assert "took too long" in capsys.readouterr().err


def test_rows_of_turns():
    reports = [{"t": 3.0, "m": 7}, None, {"t": 1.0, "m": None}, {"t": 2.0, "m": 9}]
    np.testing.assert_array_equal(bench.by_turn(reports, "t"), [3, np.nan, 1, 2])
    assert bench.over_turns(reports, "t", "m", "other") == {
        "t": 2.0,
        "low": 1.0,
        "high": 3.0,
        "m": 8.0,
        "other": None,
        "repetitions": 3,
    }
    assert bench.median(np.array([np.nan])) is None


def test_a_peer_that_is_not_named_is_left_out(monkeypatch, capsys):
    monkeypatch.delenv("PPML_LAB_PEER_PYTHON", raising=False)
    assert not bench.is_here("peer")
    assert not bench.is_here("peer")
    assert capsys.readouterr().out.count("left out; set PPML_LAB_PEER_PYTHON") == 1
    monkeypatch.setenv("PPML_LAB_OTHER_PYTHON", "/usr/bin/python3")
    assert bench.interpreter("other") == "/usr/bin/python3"
    assert bench.interpreter("ppml_lab") == sys.executable
