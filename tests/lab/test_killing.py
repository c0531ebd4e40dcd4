"""SIGKILL at any moment: the sweep goes on and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.disk import records

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
import sys
from pathlib import Path
from ppml_lab import lab
from tests.lab.test_killing import points
try:
    lab.run_sweep(
        points(int(sys.argv[2])), Path(sys.argv[1]), slice_size=3, checkpoint_seconds=0,
        report=lambda done, text: print(done, flush=True),
    )
except lab.MadeElsewhereError as error:
    print(error)
"""


def points(num_rounds: int) -> list[lab.Point]:
    plain = parts.Federated(
        partition=parts.Iid(20),
        sampler=parts.Poisson(5),
        schedule=lab.Schedule(num_rounds=num_rounds, eval_every=2),
    )
    private = [replace(plain, mechanism=parts.Gaussian(1.0, z)) for z in (0.5, 2.0)]
    kinds = {"loud": private[0], "plain": plain, "quiet": private[1]}
    sweep = lab.product(lab.variants("kind", kinds), lab.seeds(2))
    return lab.points(sweep, delta=0.01)


def start(folder: Path, num_rounds: int) -> subprocess.Popen[str]:
    cache = jax.config.values["jax_compilation_cache_dir"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-c", SWEEP, str(folder), str(num_rounds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def killed(folder: Path, num_rounds: int, reports: int, seconds: float) -> bool:
    """Whether a sweep was killed, `seconds` after its so-manieth report."""
    with start(folder, num_rounds) as process:
        assert process.stdout is not None
        for _ in range(reports):
            process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def left(folder: Path) -> dict[str, Any]:
    """Everything that a sweep recorded, but for times."""
    found: dict[str, Any] = {}
    for path in folder.glob("runs/*"):
        rows = records.read_lines(path / "rounds.jsonl")
        rows.append(records.read_result(path))
        found[path.name] = [
            {k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows
        ]
    return found


@pytest.mark.slow
@pytest.mark.exhaustive  # once: test_examples; joined: test_multiprocess
@pytest.mark.parametrize("kills", [1, 20])
def test_a_sweep_that_is_killed_ends_with_the_same_records(
    tmp_path: Path, kills: int
) -> None:
    seed, num_rounds = random.randrange(2**32), 18 * kills
    rng = random.Random(seed)
    moments = [(rng.randint(3, 9), rng.uniform(0, 0.2)) for _ in range(kills)]
    story = f"seed {seed}, killed after (reports, seconds) {moments}"
    resumed = 0
    for moment in moments:
        resumed += bool([*tmp_path.glob("killed/checkpoints/*/*")])
        assert killed(tmp_path / "killed", num_rounds, *moment), story
    resumed += bool([*tmp_path.glob("killed/checkpoints/*/*")])
    assert resumed > 0, f"no sweep had a checkpoint to go on from: {story}"
    # Several at once share the rest.
    last = [start(tmp_path / "killed", num_rounds) for _ in range(min(kills, 2))]
    said = [process.communicate()[0] for process in last]
    assert not any(process.returncode for process in last), (story, said)

    outcomes = lab.run_sweep(points(num_rounds), tmp_path / "whole", slice_size=2)
    assert left(tmp_path / "killed") == left(tmp_path / "whole"), story
    assert outcomes[0].last["epsilon"] > outcomes[4].last["epsilon"] > 0
    assert not [*tmp_path.glob("killed/checkpoints/*")], story
