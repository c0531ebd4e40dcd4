"""The work that `throughput` gives to every system, and a worker's report.

It imports only numpy, so that every system's interpreter can run it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.benchmarks import bench

BATCH_SIZE, LEARNING_RATE, NUM_CLASSES = 20, 0.1, 10
PARAMETERS = {"2nn": 199_210, "cnn": 1_663_370}
FORWARD_MACS = {
    "2nn": (784 * 200, 200 * 200, 200 * 10),
    "cnn": (28 * 28 * 25 * 32, 14 * 14 * 25 * 32 * 64, 3136 * 512, 512 * 10),
}
"""Multiplications of one example's forward pass, by layer."""


def arguments(command: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a worker's command line; this process's by default."""
    return bench.arguments(
        {"model": sorted(PARAMETERS), "sizes": ("balanced", "log_normal")},
        command,
        rounds=5,
        warm_up=2,
        num_clients=1000,
        clients_per_round=100,
        examples_per_client=60,
        lanes=None,  # The system's choice.
        devices=None,  # Every core.
        processes=1,
        threads=1,
    )


def client_sizes(kind: str, num_clients: int, mean: int) -> np.ndarray:
    """Examples of each client: equal, or log-normal with sigma 1, within [4, 1000]."""
    if kind == "balanced":
        return np.full(num_clients, mean)
    drawn = np.random.default_rng(1).lognormal(np.log(mean) - 0.5, 1.0, num_clients)
    return np.clip(np.rint(drawn), 4, 1000).astype(int)


def training_flop(model: str, examples: float) -> float:
    """FLOP of one epoch: forward, and backward without the gradient of the inputs."""
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
    """Makes the data, which are the same for every system."""
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
    """Cohorts drawn uniformly without replacement, for systems that let the caller
    draw.
    """
    rng = np.random.default_rng([2, options.seed])
    return [
        rng.choice(options.num_clients, options.clients_per_round, replace=False)
        for _ in range(options.warm_up + options.rounds)
    ]


def report(
    options: argparse.Namespace,
    meter: bench.Meter,
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
      options: The worker's options.
      meter: The meter of rounds, warm-up included.
      system: The worker's system.
      version: The system's version.
      parameters: Number of the model's parameters, which is checked.
      test_accuracy: Test accuracy after the last round.
      compile_seconds: Seconds of compilation, if the worker timed it.
      compiles_in_first_round: Whether the first round's excess is compilation.
      recompilations: Programs compiled after the first round, if counted.
      lanes: Clients that train at once on a device, if the system has lanes.
      devices: Number of devices that share a round's clients, if several can.
    """
    assert parameters == PARAMETERS[options.model], parameters
    peak = meter.peak_mib()
    ends = np.cumsum([lap.units for lap in meter.laps])
    timed = [
        lap
        for lap, end in zip(meter.laps, ends, strict=True)
        if end - lap.units >= options.warm_up
    ]
    per_round = float(np.median([lap.seconds / lap.units for lap in timed]))
    if compiles_in_first_round:
        compile_seconds = meter.laps[0].seconds - per_round
    rounds = sum(lap.units for lap in timed)
    sizes = client_sizes(
        options.sizes, options.num_clients, options.examples_per_client
    )
    bench.report(
        system,
        version,
        model=options.model,
        sizes=options.sizes,
        clients_per_round=options.clients_per_round,
        client_updates_per_second=options.clients_per_round / per_round,
        flop_per_update=training_flop(options.model, float(sizes.mean())),
        seconds_per_round=per_round,
        cpu_seconds_per_round=sum(lap.cpu_seconds for lap in timed) / rounds,
        compile_seconds=compile_seconds,
        peak_mib=peak,
        test_accuracy=test_accuracy,
        recompilations=recompilations,
        lanes=lanes,
        devices=devices,
        laps=meter.laps,
    )
