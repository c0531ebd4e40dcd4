"""Two real processes over gloo: the same bits as one, and an end when one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from ppml_lab.lab import processes
from ppml_lab.lab.disk import records

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from ppml_lab import lab
from ppml_lab.lab import parts, processes

setup = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(8),
    mechanism=parts.Gaussian(1.0, 1.0),
    secure_sum=parts.AdditiveSharing(mode="identity"),
    schedule=lab.Schedule(num_rounds=40, eval_every=2),
)
# Clients by shard on two devices, or a point on each.
layouts = {"shards": lab.Layout(shard_data=True), "rows": lab.Layout(num_devices=1)}
processes.connect()
with processes.together():
    for name in sys.argv[2:]:
        own = replace(setup, layout=layouts[name])
        points = lab.points(lab.seeds(2), own, delta=0.01)
        lab.run_sweep(points, Path(sys.argv[1], name), checkpoint_seconds=0)
"""
DISAGREE = """
import sys
import jax
from ppml_lab import lab
from ppml_lab.lab import parts, processes

processes.connect()
me = jax.process_index()

@lab.part
class Mine(parts.Digits):
    def load(self):
        train, users, test = super().load()
        return {**train, "x": train["x"] + me}, users, test

plain = parts.Federated(partition=parts.Iid(20), sampler=parts.Poisson(8))
mine = parts.Federated(data=Mine(), partition=parts.Iid(20), sampler=parts.Poisson(8))
for seeds, setup in ((2 + me, plain), (2, mine)):
    try:
        lab.run_sweep(lab.points(lab.seeds(seeds), setup), sys.argv[1])
    except ValueError as error:
        print(error, flush=True)
jax.config.update("jax_enable_x64", bool(me))
try:
    lab.run_sweep(lab.points(lab.seeds(2), plain), sys.argv[1])
except ValueError as error:
    print(error, flush=True)
"""
EXACT = ("round", "epsilon", "cohort_size", "num_reports", "params_digest")
CLOSE = ("accuracy", "loss", "train_loss", "update_norm")


@contextlib.contextmanager
def running(
    folder: Path, number: int, devices: int, *layouts: str, program: str = PROGRAM
) -> Iterator[list[subprocess.Popen[str]]]:
    """The program in `number` processes of so many devices each."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    kept = os.environ | {
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(number):
        names = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(number),
            "JAX_PROCESS_ID": str(process),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(folder), *layouts],
                env=kept | (names if number > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    with contextlib.ExitStack() as stack:
        for process in started:
            # Closes its pipes and waits, after the kill.
            stack.enter_context(process)
            stack.callback(process.kill)
        yield started


def end(started: list[subprocess.Popen[str]]) -> None:
    """Waits until all ended well."""
    texts = [process.communicate(timeout=240) for process in started]
    assert all(process.returncode == 0 for process in started), texts


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of runs, which have one name however they lie on devices."""
    paths = folder.glob("runs/*/result.json")
    return {path.parent.name: records.read_json(path) for path in paths}


def found(
    folders: pytest.TempPathFactory, number: int, devices: int, *layouts: str
) -> list[dict[str, dict[str, Any]]]:
    """What that many processes find in each layout, if nobody kills them."""
    folder = folders.mktemp(f"{number}_processes")
    with running(folder, number, devices, *layouts) as started:
        end(started)
    return [results(folder / layout) for layout in layouts]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a sweep of this process, with four devices, finds."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", str(folder), "shards"])
        exec(compile(PROGRAM, "alone", "exec"), {"__name__": "__main__"})
    return results(folder / "shards")


def assert_the_same(
    runs: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    assert runs.keys() == alone.keys()
    for run, result in runs.items():
        assert [result[name] for name in EXACT] == [alone[run][name] for name in EXACT]
        for name in CLOSE:
            assert result[name] == pytest.approx(alone[run][name], rel=1e-5)
    # Seeds differ.
    assert len({result["params_digest"] for result in runs.values()}) == 2


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two processes found that went on where two others had been killed."""
    tmp_path = tmp_path_factory.mktemp("killed")
    folder = tmp_path / "shards"
    with running(tmp_path, 2, 1, "shards") as (first, second):
        deadline = time.monotonic() + 120
        # In the middle of a run: after some of its 20 chunks.
        while not any(
            int(path.name) > 5
            for path in folder.glob("checkpoints/*/*")
            if path.name.isdigit()
        ):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second.send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "error: process 0 of 2 ends" in said
    assert "Start the command again" in said
    saved = {path.parent.name for path in folder.glob("checkpoints/*/*")}
    assert saved, "the first process left no checkpoint to go on from"
    with running(tmp_path, 2, 1, "shards") as pair:
        end(pair)
    return results(folder)


def test_a_killed_process_ends_the_other_and_the_sweep_goes_on_as_one_process_would(
    gone_on: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    assert_the_same(gone_on, alone)


@pytest.mark.exhaustive
def test_two_processes_are_one_with_two_devices_however_points_lie_on_them(
    tmp_path_factory: pytest.TempPathFactory,
    gone_on: dict[str, dict[str, Any]],
    alone: dict[str, dict[str, Any]],
) -> None:
    whole, rows = found(tmp_path_factory, 2, 1, "shards", "rows")
    assert_the_same(whole, alone)
    # How the same run lies on devices does not matter to any bit.
    assert_the_same(rows, alone)
    # A kill changes no digit of any number.
    for run, result in whole.items():
        for name in (*EXACT, *CLOSE):
            assert gone_on[run][name] == result[name]


def test_numbers_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be a whole number"):
        processes.connect()


@pytest.mark.exhaustive
def test_hosts_that_disagree_say_about_what(tmp_path: Path) -> None:
    with running(tmp_path, 2, 1, program=DISAGREE) as pair:
        said = [process.communicate(timeout=240) for process in pair]
    for out, errors in said:
        lines = [line for line in out.splitlines() if "Gloo" not in line]
        assert len(lines) == 3, errors
        for line, what in zip(lines, ("points", "data", "jax_enable_x64"), strict=True):
            assert line.startswith(f"process 1 has other {what}"), lines
            assert line.endswith("on the same data and code, everywhere")
    assert not (tmp_path / "runs").exists()
