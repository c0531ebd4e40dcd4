"""The work that `experiments.throughput` gives to every system, and how it is measured.

Imports numpy alone, so that every system's interpreter can run it. A worker is called

    INTERPRETER NAME_worker.py MODEL SIZES ROUNDS WARM_UP [--option VALUE ...]

and its last line on stdout is one JSON object, `Meter.report`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

BATCH_SIZE, LEARNING_RATE, NUM_CLASSES = 20, 0.1, 10
PARAMETERS = {"2nn": 199_210, "cnn": 1_663_370}
FORWARD_MACS = {
    "2nn": (784 * 200, 200 * 200, 200 * 10),
    "cnn": (28 * 28 * 25 * 32, 14 * 14 * 25 * 32 * 64, 3136 * 512, 512 * 10),
}
"""Multiplications of one example's forward pass, by layer."""


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """A worker's command line; this process's by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=sorted(PARAMETERS))
    parser.add_argument("sizes", choices=["balanced", "log_normal"])
    parser.add_argument("rounds", type=int)
    parser.add_argument("warm_up", type=int)
    parser.add_argument("--num-clients", type=int, default=1000)
    parser.add_argument("--clients-per-round", type=int, default=100)
    parser.add_argument("--examples-per-client", type=int, default=60)
    parser.add_argument("--lanes", type=int, help="the system's choice by default")
    parser.add_argument("--devices", type=int, help="every core by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(command)


def client_sizes(kind: str, num_clients: int, mean: int) -> np.ndarray:
    """Examples of each client: alike, or log-normal with sigma 1, within [4, 1000]."""
    if kind == "balanced":
        return np.full(num_clients, mean)
    drawn = np.random.default_rng(1).lognormal(np.log(mean) - 0.5, 1.0, num_clients)
    return np.clip(np.rint(drawn), 4, 1000).astype(int)


def training_flop(model: str, examples: float) -> float:
    """FLOP of one epoch: forward, and backward without the first layer's input."""
    layers = FORWARD_MACS[model]
    return 2.0 * (3 * sum(layers) - layers[0]) * examples


class Data(NamedTuple):
    """Every client's examples, one client after the other, and a test set.

    Attributes:
      sizes: Examples of each client.
      x: `[examples, 28, 28, 1]`, a class's prototype plus noise.
      y: `[examples]`, classes.
      test_x: 2,000 more inputs.
      test_y: Their classes.
    """

    sizes: np.ndarray
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def of_clients(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Views of each client's rows."""
        ends = np.cumsum(self.sizes)[:-1]
        return list(zip(np.split(self.x, ends), np.split(self.y, ends), strict=True))


def make_data(options: argparse.Namespace) -> Data:
    """The same data for every system."""
    rng = np.random.default_rng(0)
    coarse = 0.2 * rng.standard_normal((NUM_CLASSES, 7, 7, 1), np.float32)
    prototypes = coarse.repeat(4, axis=1).repeat(4, axis=2)  # Smooth, as images are.

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(NUM_CLASSES, size=n, dtype=np.int32)
        x = rng.standard_normal((n, 28, 28, 1), np.float32)
        x *= 0.3
        for row, label in zip(x, y, strict=True):
            row += prototypes[label]
        return x, y

    sizes = client_sizes(
        options.sizes, options.num_clients, options.examples_per_client
    )
    return Data(sizes, *draw(int(sizes.sum())), *draw(2000))


def cohorts(options: argparse.Namespace) -> list[np.ndarray]:
    """Uniform draws without replacement, for systems that let the caller draw."""
    rng = np.random.default_rng([2, options.seed])
    return [
        rng.choice(options.num_clients, options.clients_per_round, replace=False)
        for _ in range(options.warm_up + options.rounds)
    ]


class Lap(NamedTuple):
    """Some rounds, without what measuring them took."""

    rounds: int
    seconds: float
    cpu_seconds: float


class Meter:
    """Times rounds, and watches the processor time and memory of a process tree.

    Memory is what the processes hold, pages that they share counted once, sampled from
    `start` on: often during warm-up, every second afterwards.

    Args:
      options: The worker's.
      root: The tree's root; this process by default.
    """

    def __init__(self, options: argparse.Namespace, root: int | None = None) -> None:
        self._options = options
        self._root = os.getpid() if root is None else root
        self._laps: list[Lap] = []
        self._peak_kib = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Right before the first round, or before compiling it."""
        self._watch.start()
        self._cpu = cpu_seconds(self._root)
        self._begin = time.perf_counter()

    def lap(self, rounds: int = 1) -> None:
        """After every round, or every few that ran as one program."""
        seconds = time.perf_counter() - self._begin
        cpu = cpu_seconds(self._root)
        self._laps.append(Lap(rounds, seconds, cpu - self._cpu))
        self._cpu = cpu_seconds(self._root)
        self._begin = time.perf_counter()

    @property
    def rounds_done(self) -> int:
        """Warm-up included."""
        return sum(lap.rounds for lap in self._laps)

    def report(
        self,
        system: str,
        version: str,
        parameters: int,
        test_accuracy: float,
        *,
        compile_seconds: float | None = None,
        compiles_in_first_round: bool = False,
        recompilations: int | None = None,
        lanes: int | None = None,
        devices: int | None = None,
    ) -> None:
        """Prints the worker's line, after the last lap.

        Args:
          system: Whose worker this is.
          version: The system's.
          parameters: Of the model; checked.
          test_accuracy: After the last round.
          compile_seconds: If the worker timed its compilation.
          compiles_in_first_round: If the first round's excess is compilation.
          recompilations: Programs compiled after the first round, if counted.
          lanes: Clients that train at once on a device, if the system has lanes.
          devices: Among which a round's clients are dealt, if that is what it does.
        """
        self._stop.set()
        self._watch.join()
        assert parameters == PARAMETERS[self._options.model], parameters
        ends = np.cumsum([lap.rounds for lap in self._laps])
        timed = [
            lap
            for lap, end in zip(self._laps, ends, strict=True)
            if end - lap.rounds >= self._options.warm_up
        ]
        per_round = float(np.median([lap.seconds / lap.rounds for lap in timed]))
        if compiles_in_first_round:
            compile_seconds = self._laps[0].seconds - per_round
        rounds = sum(lap.rounds for lap in timed)
        options = self._options
        sizes = client_sizes(
            options.sizes, options.num_clients, options.examples_per_client
        )
        line = {
            "system": system,
            "version": version,
            "model": options.model,
            "sizes": options.sizes,
            "clients_per_round": options.clients_per_round,
            "client_updates_per_second": options.clients_per_round / per_round,
            "flop_per_update": training_flop(options.model, float(sizes.mean())),
            "seconds_per_round": per_round,
            "cpu_seconds_per_round": sum(lap.cpu_seconds for lap in timed) / rounds,
            "compile_seconds": compile_seconds,
            "peak_mib": self._peak_kib / 1024,
            "test_accuracy": test_accuracy,
            "recompilations": recompilations,
            "lanes": lanes,
            "devices": devices,
            "laps": self._laps,
        }
        print(json.dumps(line), flush=True)

    def _sample(self) -> None:
        self._sample_once()
        while not self._stop.wait(
            0.1 if self.rounds_done < self._options.warm_up else 1.0
        ):
            self._sample_once()

    def _sample_once(self) -> None:
        tree = process_tree(self._root)
        # What a lone process shares, it shares with strangers.
        kind = "Rss:" if len(tree) == 1 else "Pss:"
        total = sum(_memory_kib(pid, kind) for pid in tree)
        self._peak_kib = max(self._peak_kib, total)


def process_tree(root: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append(int(entry))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree, with its finished children."""
    ticks = sum(
        sum(map(int, stat[11:15])) for pid in process_tree(root) if (stat := _stat(pid))
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def best_matmul_rate(products: dict[int, Callable[[], Any]], repeats: int) -> float:
    """The highest FLOP per second among products of square matrices, by their size."""
    rates = []
    for size, product in products.items():
        for _ in range(repeats):
            begin = time.perf_counter()
            product()
            rates.append(2 * size**3 / (time.perf_counter() - begin))
    return max(rates)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _memory_kib(pid: int, kind: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith(kind):
                    return int(line.split()[1])
    except OSError:
        pass  # It is gone.
    return 0
