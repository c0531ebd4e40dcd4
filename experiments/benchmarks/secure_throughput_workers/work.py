"""The work that `secure_throughput` gives to every system, and its timing.

It imports only numpy, so that every system's interpreter can run it. Tasks:

    share_3, share_10   additive shares of words for 3 or 10 parties, and their sum
    shamir              Shamir shares of secrets, and the secrets from `--threshold`
    draw_words          words of the generator
    draw_normals        normal numbers of 63 bits
    draw_normals_23_bits  normal numbers of the former generator, from 23 bits of a word
    masks               a client's vector plus all its pairwise masks
    masks_aes           the same, masks by AES-128-CTR
    masked_round        secure aggregation of `--clients` vectors, start to end: keys,
                        shares, masks, `--dropouts` percent gone before they upload
    ideal_round         a simulated transcript with the same distribution
    modular_sum         the sum of rounded vectors alone, and the sum of the vectors
    federated_round     training by 20 clients, with a plain sum and a modular one
    memory_bandwidth    a copy of a large array
    integer_rate        additions and exclusive ors of 32-bit words
    threefry_c          `masks` by threefry2x32-20 written in C
    matmul              a product of integer matrices, `--size` squared, modulo a word
    plain_matmul        the same by the system's own product of float32 or words
    shared_matmul       the product of shared integer matrices, `--size` squared
    shared_layer        128 x 784 by 784 x 128 fixed-point numbers, and a truncation
    linear_layers       two layers 784-128-10 on 128 images, on shares
    mlp                 the same with a ReLU between them
    training_step       logistic regression, 128 x 784, one step, on shares

Tasks on shares have three parties with 64-bit words, additive or `--replicated=1`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import bench

PARTIES = {"share_3": 3, "share_10": 10}
ON_SHARES = ("shared_matmul", "shared_layer", "linear_layers", "mlp", "training_step")
FRACTION_BITS = 18
TIME, CPU_TIME = "milliseconds", "cpu_milliseconds"
DRAWN = ("draw_words", "draw_normals", "draw_normals_23_bits")
_PARTS = {"shamir": "secrets", "masks": "masks", "masks_aes": "masks"}
"""The units of tasks that may be timed in part."""


def arguments(tasks: Sequence[str], **timed: int) -> argparse.Namespace:
    """Parses the command line of a worker that knows these tasks.

    Args:
      tasks: The tasks that the worker knows.
      **timed: By task, the number of its masks or secrets that are timed by default;
        all of them in a task that is not named.
    """
    options = bench.arguments(
        {"task": tasks},
        values=1_000_000,  # Words to share.
        word_bits=32,  # Of a word, 32 or 64; 31 or 61 for a prime field.
        secrets=100_000,  # To share by Shamir's scheme.
        shares=100,  # Of a secret.
        threshold=51,  # Shares that reconstruct.
        masks=98,  # Pairwise masks of a client.
        words=98_304,  # Of a mask.
        clients=100,  # Of a round.
        degree=0,  # Neighbours that a client shares masks with, 0 for all.
        dropouts=0,  # Percent of the clients that drop out.
        mebibytes=256,  # Size of the array that is copied.
        operations=10**10,  # Of integers.
        threads=1,  # For the machine's limits.
        timed=None,  # Masks or secrets, the time of all following.
        repetitions=5,  # Timed runs, of which the median counts.
        size=512,  # Of square matrices.
        replicated=0,  # 1: not additive.
    )
    whole = _parts(options)
    options.timed = min(options.timed or timed.get(options.task, whole), whole)
    return options


def words(options: argparse.Namespace, count: int, bits: int = 32) -> np.ndarray:
    """Uniform words `[count]` to share or mask."""
    rng = np.random.default_rng(options.seed)
    return rng.integers(2**bits, size=count, dtype=f"uint{bits}")


def mlp_inputs(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Inputs of tasks on shares: images, weights of two layers, and labels of one
    output.
    """
    rng = np.random.default_rng(options.seed)
    return {
        "x": rng.normal(size=(128, 784)).astype(np.float32),
        "first": (rng.normal(size=(784, 128)) / 28).astype(np.float32),
        "second": (rng.normal(size=(128, 10)) / 11).astype(np.float32),
        "weights": (rng.normal(size=(784, 1)) / 28).astype(np.float32),
        "labels": rng.integers(2, size=(128, 1)).astype(np.float32),
    }


def report(
    options: argparse.Namespace,
    inputs: Any,
    phases: Mapping[str, Callable[[Any], Any]],
    *,
    system: str,
    version: str,
    **about: Any,
) -> Any:
    """Times a task and prints the worker's line.

    Times are medians over the repetitions, after one that is not counted. `timed` of
    `of` masks or secrets were timed, and all times are scaled to the whole task.

    Args:
      options: The worker's options.
      inputs: The argument of the first phase.
      phases: Functions called in order, each with the result of the one before; they
        return when they are done.
      system: The worker's system.
      version: The system's version.
      **about: Further columns of the report.

    Returns:
    The result of the last phase, to be checked.
    """
    whole, meter = _parts(options), bench.Meter()
    scale = whole / options.timed

    def run() -> tuple[np.ndarray, Any]:
        """Wall and processor milliseconds by phase, and the last phase's result."""
        result = inputs
        meter.skip()
        times = []
        for phase in phases.values():
            result = phase(result)
            times.append(meter.lap().milliseconds)
        return scale * np.array(times), result

    run()  # Compiles, allocates.
    meter.start()
    runs, result = [], None
    for _ in range(options.repetitions):
        result = None  # So that two are never held.
        times, result = run()
        runs.append(times)
    blocks = np.sum(runs, axis=1)
    wall, cpu = np.median(blocks, axis=0)
    amount, unit = _amount(options)
    each = zip(phases, np.median(runs, axis=0), strict=True)
    by_phase = {
        f"{name}_{column}": value
        for name, both in each
        for column, value in zip((TIME, CPU_TIME), both, strict=True)
    }
    bench.report(
        system,
        version,
        task=options.task,
        **{TIME: wall, CPU_TIME: cpu},
        **(by_phase if len(phases) > 1 else {}),
        per_second=1e3 * amount / wall,
        unit=unit,
        timed=options.timed,
        of=whole,
        peak_mib=meter.peak_mib(),
        options=vars(options),
        **about,
        blocks=blocks.tolist(),
    )
    return result


def _parts(options: argparse.Namespace) -> int:
    """Number of masks or secrets of the whole task; 1 if it is always timed whole."""
    name = _PARTS.get(options.task)
    return getattr(options, name) if name else 1


def _amount(options: argparse.Namespace) -> tuple[int, str]:
    """The amount of work of the task, and its unit."""
    if options.task in (*PARTIES, *DRAWN):
        return options.values, "values"
    return {
        "shamir": (options.secrets, "secrets"),
        "masked_round": (options.clients, "clients"),
        "ideal_round": (options.clients, "clients"),
        "modular_sum": (options.clients, "clients"),
        "federated_round": (20, "clients"),
        "memory_bandwidth": (2 * 2**20 * options.mebibytes, "bytes read and written"),
        "integer_rate": (options.operations, "operations"),
        **dict.fromkeys(("matmul", "plain_matmul"), (options.size**3, "products")),
        **dict.fromkeys(ON_SHARES, (1, "runs")),
    }.get(options.task, (options.masks * options.words, "words"))
