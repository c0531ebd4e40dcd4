"""Runs workers one at a time and keeps what they report.

A worker is a script NAME_worker.py that times one system in one process, with an
interpreter of the system's own. It is called

    INTERPRETER NAME_worker.py ARGUMENTS --option=VALUE ... --seed=REPETITION

and prints one JSON object in a line, "system" first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppml_lab.lab import records

ROOT = Path(__file__).resolve().parents[2]
# Nothing of the caller's may change how many threads or devices a system uses.
_PRIVATE = ("JAX_", "XLA_", "OMP_", "MKL_", "OPENBLAS_", "PYTHONPATH")


Report = dict[str, Any]
"""What a worker printed."""


class Task(NamedTuple):
    """What a worker is called with, beside the repetition's seed."""

    system: str
    arguments: tuple[str | int, ...]
    options: dict[str, int]

    def __str__(self) -> str:
        flags = [f"--{name} {value}" for name, value in self.options.items()]
        return " ".join(map(str, (self.system, *self.arguments, *flags)))


def interpreter(system: str) -> str | None:
    """The python that runs a system's worker; None leaves the system out."""
    if system in ("ppml_lab", "machine", "sweep"):
        return sys.executable
    ours = sys.executable if system == "numpy" else None
    return os.environ.get(_variable(system), ours)


@functools.cache
def is_here(system: str) -> bool:
    """Whether a system's interpreter is known; says once if not."""
    found = interpreter(system) is not None
    if not found:
        print(f"{system} is left out: {_variable(system)} names no interpreter")
    return found


class Workers(NamedTuple):
    """How an experiment's workers are run.

    Attributes:
      scripts: The folder of NAME_worker.py.
      results: The folder that keeps reports, and what failing workers printed.
      timeout: Seconds after which a worker is given up.
      headlines: What is shown of a report.
      platform: What jax computes on.
    """

    scripts: Path
    results: Path
    timeout: float
    headlines: tuple[str, ...]
    platform: str = "cpu"


def in_turns(
    workers: Workers, tasks: Sequence[Task], repetitions: int
) -> list[list[Report | None]]:
    """Every task's reports by repetition; each repetition runs all tasks in order.

    A worker that fails, or takes too long, gets an error line on stderr, and None; what
    it printed stays beside the reports. Reports of an earlier run into the same folder
    are not made again.
    """
    reports: list[list[Report | None]] = [[] for _ in tasks]
    for seed in range(repetitions):
        for task, found in zip(tasks, reports, strict=True):
            report = _report(workers, task, seed)
            found.append(report)
            shown = "failed"
            if report is not None:
                names = [name for name in workers.headlines if name in report]
                shown = " ".join(f"{name} {report[name]:.4g}" for name in names)
            print(f"{seed + 1}/{repetitions} {task}: {shown}", flush=True)
    return reports


def _report(workers: Workers, task: Task, seed: int) -> Report | None:
    about = {**task._asdict(), "seed": seed}
    folder = workers.results / "runs"
    log = folder / f"{records.name_of(about)}.log"
    return records.once(folder, about, lambda: _run(workers, task, seed, log))


def _run(workers: Workers, task: Task, seed: int, log: Path) -> Report | None:
    options = task.options | {"seed": seed}
    flags = [f"--{name.replace('_', '-')}={n}" for name, n in options.items()]
    worker = workers.scripts / f"{task.system}_worker.py"
    python = interpreter(task.system)
    assert python is not None
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [python, str(worker), *map(str, task.arguments), *flags]
    code = _wait(command, _environment(workers.platform), log, workers.timeout)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line]
    found = [line for line in lines if line.startswith('{"system"')]
    if code != 0 or not found:
        why = "took too long" if code is None else f"ended with status {code}"
        said = lines[-1][:200] if lines else "nothing"
        print(f"error: {task} {why}, saying '{said}'; see {log}", file=sys.stderr)
        return None
    log.unlink()
    return json.loads(found[-1])


def _variable(system: str) -> str:
    return f"PPML_LAB_{system.upper()}_PYTHON"


def _environment(platform: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_PRIVATE)}
    return kept | {"JAX_PLATFORMS": platform, "PYTHONPATH": str(ROOT)}


def _wait(
    command: list[str], environment: dict[str, str], log: Path, timeout: float
) -> int | None:
    """The command's exit status; None if it had to be ended."""
    with log.open("w") as out:
        # A session of its own, so that what it starts can be ended with it.
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # A launcher passes it on.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
