"""The machine's limits, measured with `--threads` threads.

`memory_bandwidth`: numpy copies an array. `integer_rate`: `kernels.c`, or numpy without
gcc. `threefry_c`: `kernels.c` makes masks and adds them, each thread in its part of the
vector. It is first checked against the published test vectors; a vector of many blocks,
which the compiler computes side by side, is checked against its single blocks.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.secure_throughput_workers import work

OPERATIONS_PER_STEP = 256
TEST_VECTORS = (  # Key, counter, words; from Random123, the authors' library.
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
)


def compiled() -> tuple[ctypes.CDLL, str]:
    """The functions of `kernels.c`, and the compiler's version."""
    version = subprocess.run(
        ["gcc", "-dumpfullversion"], check=True, capture_output=True, text=True
    ).stdout.strip()
    source = Path(__file__).with_name("kernels.c")
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/kernels.so"
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, "-o", library, source], check=True)
        return ctypes.CDLL(library), f"gcc {version}"


def report(
    options: argparse.Namespace,
    part: Callable[[int], Any],
    version: str = f"numpy {np.__version__}",
) -> None:
    """Times `part(thread)`, which releases the lock, in all threads at once."""
    together = threading.Barrier(options.threads)

    def wait_and_do(thread: int) -> None:
        together.wait()  # So that no thread takes two parts.
        part(thread)

    with ThreadPoolExecutor(options.threads) as pool:

        def everything(_: None) -> None:
            list(pool.map(wait_and_do, range(options.threads)))

        work.report(
            options, None, {"limit": everything}, system="machine", version=version
        )


def memory_bandwidth(options: argparse.Namespace) -> None:
    """Copies an array of `--mebibytes`."""
    source = np.ones(options.mebibytes * 2**17)
    sources = np.array_split(source, options.threads)
    targets = np.array_split(np.zeros_like(source), options.threads)
    report(options, lambda thread: np.copyto(targets[thread], sources[thread]))


def integer_rate(options: argparse.Namespace) -> None:
    """Does `--operations` additions and exclusive ors, in registers or in the cache."""
    mine = options.operations // options.threads
    if shutil.which("gcc"):
        library, version = compiled()
        steps = ctypes.c_uint64(mine // OPERATIONS_PER_STEP)
        report(options, lambda seed: library.integer_operations(steps, seed), version)
        return

    def part(seed: int) -> None:
        x, y = np.full(2**12, seed, np.uint32), np.arange(2**12, dtype=np.uint32)
        for _ in range(mine // (2 * x.size)):
            x += y
            y ^= x

    report(options, part)


def threefry_c(options: argparse.Namespace) -> None:
    """Adds `--masks` masks to a vector of `--words`; needs gcc."""
    library, version = compiled()

    def add_masks(total: np.ndarray, keys: np.ndarray, first: int, second: int) -> None:
        pointers = [
            array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
            for array in (total, keys)
        ]
        sizes = [ctypes.c_size_t(len(array) // 2) for array in (total, keys.ravel())]
        counter = [ctypes.c_uint32(word) for word in (first, second)]
        library.add_masks(pointers[0], sizes[0], pointers[1], sizes[1], *counter)

    def words(key: np.ndarray, blocks: int, *counter: int) -> list[tuple[int, int]]:
        """Each block's two words."""
        found = np.zeros(2 * blocks, np.uint32)
        add_masks(found, key, *counter)
        return [(int(x), int(y)) for x, y in found.reshape(2, blocks).T]

    for key, counter, expected in TEST_VECTORS:
        key = np.array(key, np.uint32)
        assert words(key, 1, *counter) == [expected]
        alone = [words(key, 1, block, 5)[0] for block in range(99)]
        assert words(key, 99, 0, 5) == alone
    blocks = options.words // 2 // options.threads
    totals = np.zeros((options.threads, 2 * blocks), np.uint32)
    keys = work.words(options, 2 * options.masks)
    report(
        options,
        lambda thread: add_masks(totals[thread], keys, thread * blocks, 0),
        version,
    )


def main() -> None:
    tasks = {
        "memory_bandwidth": memory_bandwidth,
        "integer_rate": integer_rate,
        "threefry_c": threefry_c,
    }
    options = work.arguments(sorted(tasks))
    tasks[options.task](options)


if __name__ == "__main__":
    main()
