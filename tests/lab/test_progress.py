"""The time left of a sweep, of work done now alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts, progress


def test_rounds_of_an_earlier_call_say_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.progress(100, "rounds", seconds_between_lines=0.0) as report:
        report(progress.Restored(60), "a")
        report(10, "b")
        report(0, "a message")
        report(30, "c")
    # The clock begins at 0 and is read twice for each line that has a time left:
    # 10 rounds after 20 seconds, so 30 rounds take another 60.
    assert capsys.readouterr().out.splitlines() == [
        "60/100 rounds: a",
        "70/100 rounds, about 60 s left: b",
        "a message",
        "100/100 rounds: c",
    ]


def test_a_sweep_shows_a_line_where_someone_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    setup = parts.Federated(
        partition=parts.Iid(20), schedule=lab.Schedule(num_rounds=2, eval_every=1)
    )
    points = lab.points(lab.axis("trainer.optimizer.learning_rate", [0.1]), setup)
    lab.run_sweep(points, tmp_path / "nobody")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    lab.run_sweep(points, tmp_path / "silent", report=None)
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        lab.run_sweep(points, tmp_path / "watched")
        told = capsys.readouterr().err
        assert told.startswith("\r")
        assert told.endswith("\n")
        assert "2/2 rounds: " in told
