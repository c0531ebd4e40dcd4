"""Sweeps that are asked to stop: by SIGTERM, or after a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts, stopping
from ppml_lab.lab.disk import records

ROOT = Path(__file__).resolve().parents[2]
SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=40, eval_every=1),
)
EXPERIMENT = """
import dataclasses
from ppml_lab import lab
from tests.lab.test_stopping import SETUP

@dataclasses.dataclass(frozen=True)
class Experiment:
    '''Two runs of forty rounds.'''
    setup: lab.parts.Federated = SETUP
    num_seeds: int = 2

def points(config):
    return lab.points(lab.seeds(config.num_seeds), config.setup)

def table(config, results):
    return [{**r.point.labels, "loss": r.outcome.last["loss"]} for r in results]

if __name__ == "__main__":
    lab.run_experiment("own", "", {"smoke": Experiment()}, points, table)
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h", 10800), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1h2m3s", 3723)],
)
def test_times_are_written_with_units(text: str, seconds: float) -> None:
    assert stopping.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "1.5h", "-1h", "3h2", "1m1h", "3 h"])
def test_other_times_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"like 3h, 90m, 1h30m or 45s, got"):
        stopping.seconds_of(text)


def test_sigterm_is_a_reason_inside_and_ends_the_process_outside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.asked() as why:
        assert why() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert why() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    with stopping.asked(0.0) as why:
        assert why() == "time limit reached"


def untimed(outcomes: list[lab.Outcome]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in one.last.items() if not k.endswith("seconds")}
        for one in outcomes
    ]


# The command that ends at SIGTERM does it too.
def test_a_sweep_stops_after_a_chunk_and_goes_on(tmp_path: Path) -> None:
    points = lab.points(lab.seeds(3), SETUP)
    asked = iter(["", "", "enough"])
    with pytest.raises(lab.StoppedError, match="enough"):
        # Slices of two runs: the third is not begun.
        lab.run_sweep(
            points, tmp_path / "a", slice_size=2, stop=lambda: next(asked, "enough")
        )
    (saved,) = tmp_path.glob("a/checkpoints/*/*")
    assert saved.name == "3"
    assert len([*tmp_path.glob("a/runs/*")]) == 2
    # Each time that it is called it comes one chunk further.
    with pytest.raises(lab.StoppedError):
        lab.run_sweep(points, tmp_path / "a", slice_size=2, stop=lambda: "again")
    assert [path.name for path in tmp_path.glob("a/checkpoints/*/*")] == ["4"]
    gone_on = lab.run_sweep(points, tmp_path / "a", slice_size=2)
    assert untimed(gone_on) == untimed(lab.run_sweep(points, tmp_path / "b"))


@pytest.mark.exhaustive  # its two halves are above
@pytest.mark.slow
def test_a_command_ends_at_sigterm_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "own", "smoke", "--setup.schedule.num-rounds"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    start: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    start |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command += ["4000"]
    with subprocess.Popen(command, **start) as process:
        runs = tmp_path / "results" / "own" / "smoke" / "runs"
        deadline = time.monotonic() + 100
        while not [path for path in runs.glob("*/rounds.jsonl") if path.stat().st_size]:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == stopping.EXIT_CODE, said
    assert "stopped after a chunk (SIGTERM); the same command continues" in said
    checkpoints = [*runs.parent.glob("checkpoints/*/*")]
    assert checkpoints
    reached = int(checkpoints[0].name)
    assert 0 < reached < 4000
    lines = [records.read_lines(path) for path in runs.glob("*/rounds.jsonl")]
    assert {len(its) for its in lines} == {reached}
    # With a time that is over at once it comes a chunk further, and no more.
    command += ["--stop-after"]
    done = subprocess.run([*command, "0s"], check=False, **start)
    assert done.returncode == stopping.EXIT_CODE, done.stderr
    assert "time limit reached" in done.stderr
    (checkpoint,) = {path.name for path in runs.parent.glob("checkpoints/*/*")}
    assert int(checkpoint) == reached + 1
    wrong = subprocess.run([*command, "soon"], check=False, **start)
    assert wrong.returncode == 1
    assert "must be written like 3h, 90m" in wrong.stderr
