"""The time left of a sweep, of work done now alone."""

from __future__ import annotations

import pytest

from ppml_lab.lab import progress


def test_rounds_of_an_earlier_call_say_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.progress(100, "rounds", seconds_between_lines=0.0) as report:
        report(progress.Restored(60), "a")
        report(10, "b")
        report(30, "c")
    # The clock begins at 0 and is read twice for each line that has a time left:
    # 10 rounds after 20 seconds, so 30 rounds take another 60.
    assert capsys.readouterr().out.splitlines() == [
        "60/100 rounds: a",
        "70/100 rounds, about 60 s left: b",
        "100/100 rounds: c",
    ]
