"""The work that `dp_sgd_speed` gives to every system, and its timing.

It imports only numpy, so that every system's interpreter can run it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from experiments.benchmarks import bench

BATCH_SIZE, NUM_BATCHES, NUM_CLASSES = 256, 4, 10
CLIP_NORM, NOISE_MULTIPLIER, LEARNING_RATE = 1.0, 1.1, 0.15
PARAMETERS = {"mlp": 199_210, "mnist_cnn": 26_010, "cnn": 1_663_370}


def arguments(methods: Sequence[str]) -> argparse.Namespace:
    """Parses the command line of a worker that knows these methods."""
    return bench.arguments(
        {"model": sorted(PARAMETERS), "method": methods},
        microbatch=BATCH_SIZE,  # Examples at once.
        blocks=3,
        block_milliseconds=100,
    )


def batches(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of images `[256, 28, 28, 1]` and classes; every step takes the next."""
    rng = np.random.default_rng(seed)
    return [
        (
            0.3 * rng.standard_normal((BATCH_SIZE, 28, 28, 1), np.float32),
            rng.integers(NUM_CLASSES, size=BATCH_SIZE, dtype=np.int32),
        )
        for _ in range(NUM_BATCHES)
    ]


def check_clipped_sum(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> None:
    """Checks a system's sum of clipped gradients against the definition."""
    flat, target = (
        np.concatenate([np.ravel(leaf) for leaf in leaves])
        for leaves in (found, expected)
    )
    error = np.linalg.norm(flat - target) / np.linalg.norm(target)
    assert error < 1e-3, f"the clipped sum is off by {error:.2g} of its norm"


def report(
    options: argparse.Namespace,
    step: Callable[[int], None],
    finish: Callable[[], None],
    *,
    system: str,
    version: str,
    parameters: int,
) -> None:
    """Times steps in blocks, and prints the worker's line.

    Args:
      options: The worker's options.
      step: Makes one step on the batch of that number; may return before it is done.
      finish: Waits for the last step.
      system: The worker's system.
      version: The system's version.
      parameters: Number of the model's parameters, which is checked.
    """
    assert parameters == PARAMETERS[options.model], parameters

    meter = bench.Meter()

    def block(num_steps: int) -> tuple[float, float]:
        """Wall and processor milliseconds per step."""
        meter.skip()
        for number in range(num_steps):
            step(number % NUM_BATCHES)
        finish()
        return meter.lap(num_steps).milliseconds

    block(2)  # Compiles, allocates.
    num_steps = max(1, round(options.block_milliseconds / block(2)[0]))
    block(num_steps)
    meter.start()  # Memory of compiling and checking does not count.
    blocks = [block(num_steps) for _ in range(options.blocks)]
    wall, cpu = np.median(blocks, axis=0)
    bench.report(
        system,
        version,
        model=options.model,
        method=options.method,
        microbatch=options.microbatch,
        milliseconds_per_step=wall,
        cpu_milliseconds_per_step=cpu,
        peak_mib=meter.peak_mib(),
        steps_per_block=num_steps,
        blocks=blocks,
    )
