"""Sweeps on a device: killed and resumed, at several widths, and their speed.

    python -m experiments.benchmarks.device_day_cells.sweeps kill FOLDER
    python -m experiments.benchmarks.device_day_cells.sweeps widths NUMBER

`measure` starts both as processes: the first to be killed, the second with its own
flags.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.device_day_cells.row import Row, row
from ppml_lab import lab
from ppml_lab.lab import parts

ROOT = Path(__file__).resolve().parents[3]
SETUP = parts.Federated(
    partition=parts.Iid(50),
    sampler=parts.Poisson(10),
    mechanism=parts.Gaussian(0.5, 1.0),
    schedule=lab.Schedule(num_rounds=20, eval_every=2),
)
WHOLE = ("round", "cohort_size", "num_reports")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def points(number: int) -> list[lab.Point]:
    return lab.points(lab.seeds(number), SETUP, delta=1e-3)


def killed_and_resumed() -> list[Row]:
    """Compares a sweep killed by SIGKILL after a checkpoint and resumed with a whole
    one.
    """
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        with _process("kill", folder) as killed:
            assert killed.stdout is not None
            for _ in range(3):
                killed.stdout.readline()
            killed.send_signal(signal.SIGKILL)
        saved = [*there.glob("checkpoints/*/*")]
        resumed = lab.run_sweep(points(2), there)
        whole = lab.run_sweep(points(2), there / "whole")
    same = [one.last["params_digest"] for one in resumed] == [
        one.last["params_digest"] for one in whole
    ]
    return [
        row("checkpoints at the kill", len(saved), "", limit=1, holds=bool(saved)),
        row("killed and resumed", int(same), "to the bit", limit=1, holds=same),
    ]


def widths(number: int) -> list[Row]:
    """Compares a sweep at width 1 and at `number`: whole numbers to the bit, floats to
    the bit or by their difference; on a GPU once more with operations in a fixed order.
    """
    rows = _as_rows(_compared(number), number, "")
    if jax.default_backend() == "gpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
        with _process("widths", str(number), XLA_FLAGS=flags) as other:
            said, _ = other.communicate(timeout=200)
        assert other.returncode == 0, said
        fixed = json.loads(said.splitlines()[-1])
        rows += _as_rows(fixed, number, DETERMINISTIC)
    return rows


def speed(numbers: tuple[int, ...], repeats: int) -> list[Row]:
    """Runs per second at each width, without compilation."""
    rows = []
    for number in numbers:
        best = min(_run(number, number)[2] for _ in range(repeats))
        rows.append(row("sweep", number / best, "runs/s", size=number))
    return rows


def _run(number: int, width: int) -> tuple[list[lab.Outcome], list[Any], float]:
    """The outcomes, their parameters, and the seconds of their chunks."""
    with tempfile.TemporaryDirectory() as folder:
        done = lab.run_sweep(
            points(number), folder, width=width, slice_size=number, keep="last"
        )
        params = [jax.tree.map(np.asarray, one.params()) for one in done]
    return done, params, sum(one.last["seconds"] for one in done)


def _compared(number: int) -> dict[str, Any]:
    """The differences of one sweep's results at two widths."""
    one, narrow, alone = _run(number, 1)
    other, wide, together = _run(number, number)
    apart = [
        float(np.abs(a - b).max() / np.abs(a).max())
        for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True)
    ]
    return {
        "integers": all(
            a.last[name] == b.last[name]
            for a, b in zip(one, other, strict=True)
            for name in WHOLE
        ),
        "apart": max(apart),
        "seconds": {"1": alone, str(number): together},
    }


def _as_rows(found: dict[str, Any], number: int, flags: str) -> list[Row]:
    case = f"1 and {number}" + (f" {flags}" if flags else "")
    integers, apart = found["integers"], found["apart"]
    rows = [
        row("whole numbers at two widths", int(integers), "to the bit", case=case,
            limit=1, holds=integers),
        row("parameters at two widths", apart, "relative", case=case, limit=0,
            holds=apart == 0 if flags else None),
    ]  # fmt: skip
    for width, seconds in found["seconds"].items():
        rows.append(row("sweep", seconds, "s", case=flags, size=int(width)))
    return rows


def _process(*words: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    what, argument = sys.argv[1:]
    if what == "widths":
        print(json.dumps(_compared(int(argument))))
    else:
        lab.run_sweep(
            points(2),
            argument,
            checkpoint_seconds=0,
            report=lambda done, text: print(done, flush=True),
        )


if __name__ == "__main__":
    main()
