"""Shared parts of benchmarks: workers, their measurements and reports, and turns.

A worker is a script NAME_worker.py that times one system in one process, with an
interpreter of the system's own. It is called

    INTERPRETER NAME_worker.py WORD ... --option=NUMBER ... --seed=TURN

with the repository on its path. `arguments` reads the command line, a `Meter` times the
work, `report` prints the result. `in_turns` runs workers one at a time and keeps their
reports. Workers import this file in their own environment: for them it needs only
numpy; running workers needs the lab.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
# The caller's variables must not change how many threads or devices a system uses.
_PRIVATE = ("JAX_", "XLA_", "OMP_", "MKL_", "OPENBLAS_", "PYTHONPATH")

C = TypeVar("C", bound=Any)
Report = dict[str, Any]
"""The columns that a worker printed."""


def arguments(
    words: Mapping[str, Sequence[str]],
    command: Sequence[str] | None = None,
    /,
    **numbers: int | None,
) -> argparse.Namespace:
    """Parses a worker's command line.

    Args:
      words: The positional arguments, in this order, with the values of each.
      command: The command line; this process's by default.
      **numbers: Options and their defaults; `seed`, the number of the turn, is always
        one of them.
    """
    parser = argparse.ArgumentParser()
    for name, choices in words.items():
        parser.add_argument(name, choices=choices)
    for name, default in ({"seed": 0} | numbers).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser.parse_args(command)


def report(system: str, version: str, **columns: Any) -> None:
    """Prints a worker's report as one line."""
    line = {"system": system, "version": version} | columns
    print(json.dumps(line), flush=True)


class Lap(NamedTuple):
    """Time of some units of work (rounds, steps, runs), without that of measuring."""

    units: int
    seconds: float
    cpu_seconds: float

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Wall and processor time of a unit."""
        each = 1e3 / self.units
        return each * self.seconds, each * self.cpu_seconds


class Meter:
    """Times laps, and watches processor time and memory of processes.

    This process's memory is its largest resident set. The memory of a tree of processes
    is the sum over its processes, with shared pages counted once. It is sampled ten
    times a second during warm-up and every second afterwards, so that sampling does not
    slow down the timed work.

    Args:
      root: The tree's root; this process without its children if None.
      warm_up: Units of a tree's warm-up.
    """

    def __init__(self, root: int | None = None, warm_up: int = 0) -> None:
        self.laps: list[Lap] = []
        self._root, self._warm_up = root, warm_up
        self._tree_kib = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Starts the clock; memory held before does not count."""
        if self._root is None:
            Path("/proc/self/clear_refs").write_text("5")
        else:
            self._watch.start()
        self.skip()

    def skip(self) -> None:
        """Excludes the time since the last lap."""
        self._cpu = self._cpu_seconds()
        self._begin = time.perf_counter()

    def lap(self, units: int = 1) -> Lap:
        """Ends a lap of `units` since the start or last lap; returns its times."""
        seconds = time.perf_counter() - self._begin
        self.laps.append(Lap(units, seconds, self._cpu_seconds() - self._cpu))
        self.skip()
        return self.laps[-1]

    def peak_mib(self) -> float:
        """The largest memory since the start; ends the sampling of a tree."""
        if self._root is None:
            status = Path("/proc/self/status").read_text()
            return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024
        self._stop.set()
        self._watch.join()
        return self._tree_kib / 1024

    def _cpu_seconds(self) -> float:
        if self._root is None:
            return time.process_time()
        stats = filter(None, map(_stat, _process_tree(self._root)))
        # User and system time, including finished children's.
        ticks = sum(sum(map(int, stat[11:15])) for stat in stats)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _sample(self) -> None:
        assert self._root is not None
        while True:
            tree = _process_tree(self._root)
            # A lone process shares pages only with processes outside the tree.
            kind = "Rss:" if len(tree) == 1 else "Pss:"
            held = sum(_memory_kib(pid, kind) for pid in tree)
            self._tree_kib = max(self._tree_kib, held)
            warm = sum(lap.units for lap in self.laps) >= self._warm_up
            if self._stop.wait(1.0 if warm else 0.1):
                return


def _process_tree(root: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append(int(entry))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _memory_kib(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # It is gone.
    return next((int(line.split()[1]) for line in lines if line.startswith(kind)), 0)


def run(
    stem: str,
    description: str,
    configs: Mapping[str, C],
    measure: Callable[[Path, C], list[dict[str, Any]]],
) -> None:
    """Calls `lab.run_benchmark`; `measure` also gets the results folder for reports."""
    from ppml_lab import lab
    from ppml_lab.lab.command import parse

    folder = parse(stem, description, configs).out
    lab.run_benchmark(stem, description, configs, functools.partial(measure, folder))


class Task(NamedTuple):
    """A worker's arguments, beside the turn's seed."""

    system: str
    words: tuple[str, ...]
    options: dict[str, int]

    def __str__(self) -> str:
        flags = [f"--{name} {value}" for name, value in self.options.items()]
        return " ".join([self.system, *self.words, *flags])


class Workers(NamedTuple):
    """Settings for running an experiment's workers.

    Attributes:
      scripts: The folder of NAME_worker.py.
      results: The folder for reports and for the output of failing workers.
      timeout: Seconds after which a worker is stopped.
      headlines: Columns of a report that are shown.
      platform: The platform on which jax computes.
    """

    scripts: Path
    results: Path
    timeout: float
    headlines: tuple[str, ...]
    platform: str = "cpu"


def interpreter(system: str) -> str | None:
    """The Python interpreter of a system's worker; None leaves the system out."""
    if system in ("ppml_lab", "machine", "sweep"):
        return sys.executable
    ours = sys.executable if system == "numpy" else None
    return os.environ.get(_variable(system), ours)


@functools.cache
def is_here(system: str) -> bool:
    """Returns whether a system's interpreter is known; prints a note once if not."""
    found = interpreter(system) is not None
    if not found:
        print(
            f"{system} is left out; set {_variable(system)} to its Python interpreter"
        )
    return found


def in_turns(
    workers: Workers, tasks: Sequence[Task], repetitions: int
) -> list[list[Report | None]]:
    """Every task's reports by repetition; each repetition runs all tasks in order.

    A worker that fails, or takes too long, gives an error line on stderr and the report
    None; its output stays beside the reports. Reports that an earlier run left in the
    same folder are used again.
    """
    reports: list[list[Report | None]] = [[] for _ in tasks]
    for seed in range(repetitions):
        for task, found in zip(tasks, reports, strict=True):
            made = _report(workers, task, seed)
            found.append(made)
            shown = "failed"
            if made is not None:
                names = [name for name in workers.headlines if name in made]
                shown = " ".join(f"{name} {made[name]:.4g}" for name in names)
            print(f"{seed + 1}/{repetitions} {task}: {shown}", flush=True)
    return reports


def by_turn(reports: Sequence[Report | None], name: str) -> np.ndarray:
    """A measured column; NaN where a worker failed or does not report it."""
    found = [report and report.get(name) for report in reports]
    return np.array([np.nan if one is None else one for one in found], float)


def median(values: np.ndarray) -> float | None:
    """The median of the values that are not NaN; None without such values."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def over_turns(
    reports: Sequence[Report | None], headline: str, *others: str
) -> dict[str, Any]:
    """Columns of a table's row: the headline's median, lowest and highest, the others'
    medians, and the number of turns.
    """
    values = by_turn(reports, headline)
    ends = {"low": float(np.nanmin(values)), "high": float(np.nanmax(values))}
    medians = {name: median(by_turn(reports, name)) for name in others}
    count = {"repetitions": int(np.isfinite(values).sum())}
    return {headline: median(values)} | ends | medians | count


def _report(workers: Workers, task: Task, seed: int) -> Report | None:
    from ppml_lab.lab.disk import records

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
    command = [python, str(worker), *task.words, *flags]
    code = _wait(command, _environment(workers.platform), log, workers.timeout)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line]
    found = [line for line in lines if line.startswith('{"system"')]
    if code != 0 or not found:
        why = "took too long" if code is None else f"ended with status {code}"
        said = lines[-1][:200] if lines else "nothing"
        print(
            f"error: {task} {why}, last line '{said}'; see {log}",
            file=sys.stderr,
        )
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
        # In a session of its own, so that processes that it starts can be ended with
        # it.
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
