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

from ppml_lab.lab import hosts, records

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from ppml_lab import lab
from ppml_lab.lab import hosts, program

BASE = lab.Config(
    data=lab.DataConfig(num_clients=20), cohort=8, num_rounds=40, eval_every=2,
    privacy="central", secure_sum="additive_sharing", secure_mode="identity",
    shard_data=True,
)

def digest(config):
    data = lab.load_data(config.data, config.num_devices, config.shard_data)
    rates = lab.Hyperparams(clip_norm=0.3, noise_multiplier=1.0)
    rates = jax.tree.map(lambda value: np.full(2, value, np.float32), rates)
    seeds = np.arange(2, dtype=np.uint32)
    states = jax.jit(program.mapped_init(config, data.facts))(rates, seeds)
    chunk = program.mapped_chunk(config, data.facts, program.Chunk(1, 3), 1)
    states, *_ = jax.jit(chunk)(rates, seeds, states, *data[:2], np.int32(0))
    params = jax.tree.leaves(hosts.to_host(states.params))
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in params)).hexdigest()

hosts.connect()
with hosts.together():
    if sys.argv[2:] == ["digest"]:
        for row, by_shard in [(None, True), (1, False)]:
            found = digest(replace(BASE, num_devices=row, shard_data=by_shard))
            print("digest", found, flush=True)
    rates = lab.Hyperparams(noise_multiplier=1.0)
    points = lab.points(lab.seeds(2), BASE, rates, delta=0.01)
    lab.run_sweep(points, Path(sys.argv[1]), checkpoint_seconds=0)
"""
EXACT = ("round", "epsilon", "cohort_size", "num_reports", "accuracy")
CLOSE = ("loss", "train_loss", "update_norm")


@contextlib.contextmanager
def processes(
    folder: Path, number: int, devices: int, *arguments: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """The program in `number` processes of so many devices each."""
    private = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    kept = {name: text for name, text in os.environ.items() if name not in private}
    kept |= {
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
                [sys.executable, "-c", PROGRAM, str(folder), *arguments],
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


def ended(started: list[subprocess.Popen[str]]) -> str:
    """What the first printed, once all ended well."""
    texts = [process.communicate(timeout=240) for process in started]
    assert all(process.returncode == 0 for process in started), texts
    return texts[0][0]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    paths = folder.glob("runs/*/result.json")
    return {path.parent.name: records.read_json(path) for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The sweep of two processes with a device each, and what they printed."""
    folder = tmp_path_factory.mktemp("pair")
    with processes(folder, 2, 1, "digest") as pair:
        return folder, ended(pair)


def test_two_processes_are_one_with_two_devices(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = whole
    with processes(tmp_path, 1, 2, "digest") as one:
        alone = ended(one)
    digests = [line for line in printed.splitlines() if line.startswith("digest")]
    # Clients owned by two devices, or a point on each: no bit differs.
    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert digests == [line for line in alone.splitlines() if "digest" in line]
    together, by_itself = results(folder), results(tmp_path)
    assert together.keys() == by_itself.keys()
    assert len(together) == 2
    for run, found in together.items():
        assert [found[k] for k in EXACT] == [by_itself[run][k] for k in EXACT]
        for name in CLOSE:
            assert found[name] == pytest.approx(by_itself[run][name], rel=1e-5)


def test_a_killed_process_ends_the_other_and_the_sweep_goes_on(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    with processes(tmp_path, 2, 1) as (first, second):
        deadline = time.monotonic() + 120
        # In the middle of a run: after some of its 20 chunks.
        while not any(
            int(path.name) > 5
            for path in tmp_path.glob("checkpoints/*/*")
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
    saved = {path.parent.name for path in tmp_path.glob("checkpoints/*/*")}
    assert saved, "the first process left no checkpoint to go on from"
    with processes(tmp_path, 2, 1) as pair:
        ended(pair)
    expected = results(whole[0])
    found = results(tmp_path)
    assert found.keys() == expected.keys()
    for run, result in expected.items():
        for name in (*EXACT, *CLOSE):
            assert found[run][name] == result[name]


def test_numbers_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be a whole number"):
        hosts.connect()
