"""How fast are shares, masks and whole secure sums, beside peers and the machine?

Claims to check: masks at least 20 times faster than Flower's; additive shares 5 times
faster than SPU's and level with NumPy over AES; a round that adds integers instead of
floats costs at most 5% more; the whole protocol with drop-outs for 1,000 clients takes
seconds, and for 10,000 clients with few neighbours stays below 4 GB.

The work (`secure_throughput_workers/work.py`): a million values shared among 3 and 10
parties and put together again, in each ring; 100,000 secrets in 100 Shamir shares of
which 51 reconstruct; a client's 98 masks of 98,304 words; all of a masked sum of such
vectors, with keys, shares, masks and drop-outs; a training round with each kind of sum.
`ratio` is a row's time over that of our fastest row of the same work, turn by turn; for
a training round it is over the plain sum's. On shares (`matmul` and after): 512^3
products of integers and what they are made of, and the 784-128-10 perceptron on 128
images and a step of logistic regression by three parties with 64-bit words, additive
beside SPU's SEMI2K and CrypTen, replicated beside SPU's ABY3. The `fraction` columns
say what part of the machine's limits, measured in the same run with as many threads, a
row reaches: bytes that must move over the bandwidth of a copy; threefry's integer
operations, 59.5 a word, over the rate of additions and exclusive ors; words over those
of threefry in C.

Peers have their own environments: PPML_LAB_SPU_PYTHON names an interpreter with spu
0.9.5, PPML_LAB_FLOWER_PYTHON one with flwr 1.42.0, PPML_LAB_NUMPY_PYTHON one with numpy
and cryptography (the lab's own, without AES, if it is not named), and
PPML_LAB_CRYPTEN_PYTHON one with crypten 0.4.1 and torch 2.13.0; others that are not
named are left out. Flower's masks and Shamir shares are timed in part (`timed` of `of`)
and scaled. Every row is a process, one at a time, in turns; leave the machine idle
otherwise. `paper` takes about an hour on 2 cores.

    python -m experiments.secure_throughput smoke
    python -m experiments.secure_throughput paper
    python -m experiments.secure_throughput generator

`generator` draws words and normal numbers only, in 2 minutes: `draw_normals` beside
`draw_normals_23_bits`, which they replaced, and masks beside threefry in C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.secure_throughput_workers import work
from experiments.side_by_side import launch
from ppml_lab import lab
from ppml_lab.lab.command import parse
from ppml_lab.smpc import graphs


@dataclass(frozen=True)
class Experiment:
    """How much is timed; who takes part is said by the environment."""

    values: int = 20_000
    """Values that are shared additively."""
    secrets: int = 500
    """Secrets in Shamir shares."""
    masks: int = 10
    """Masks of a client."""
    clients: tuple[int, ...] = (30,)
    """Clients of masked sums; above the first, with few neighbours only."""
    dropouts: tuple[int, ...] = (0, 10)
    """Percent of them that drop out before their upload."""
    words: int = 4096
    """Length of masks and of summed vectors."""
    size: int = 64
    """Rows and columns of matrices."""
    on_shares: tuple[str, ...] = ("mlp",)
    """Tasks of computing on shares."""
    threads: tuple[int, ...] = (1,)
    """Threads of ours and of the machine's limits."""
    only: tuple[str, ...] = ()
    """Tasks that are done, all of them if empty."""
    repetitions: int = 1
    """Turns in which everything short runs once."""
    timed_runs: int = 1
    """Timed runs in a process, of which the median counts."""
    timeout: float = 900.0
    """Seconds after which a system is given up."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        values=1_000_000,
        secrets=100_000,
        masks=98,
        clients=(1000, 10_000),
        dropouts=(0, 10, 30),
        words=98_304,
        size=512,
        on_shares=work.ON_SHARES,
        threads=(1, 2),
        repetitions=3,
        timed_runs=5,
    ),
}
CONFIGS["generator"] = replace(
    CONFIGS["paper"], only=("threefry_c", *work.DRAWN, "masks")
)
LIMITS = ("memory_bandwidth", "integer_rate", "threefry_c")
OPERATIONS_PER_WORD = 59.5
"""A block of two words: 20 rounds of 5 (a rotation is 3), 5 injections of 3, 2 at the
start; and a word is added to a sum."""
TIME, CPU_TIME = "milliseconds", "cpu_milliseconds"
ABOUT = ("system", "version", "task")


def short_tasks(config: Experiment) -> list[tuple[str, launch.Task]]:
    """What a turn runs: a row's variant, and the task."""
    found = []

    def add(system: str, task: str, variant: str, **options: int) -> None:
        options = {"repetitions": config.timed_runs} | options
        if launch.is_here(system):
            found.append((variant, launch.Task(system, (task,), options)))

    for threads in config.threads:
        for task in LIMITS:
            add("machine", task, "", threads=threads, masks=10 * config.masks)
    for task in work.PARTIES:
        for bits in (32, 64, 31, 61):
            share = {"word_bits": bits, "values": config.values}
            for threads in config.threads:
                add("ppml_lab", task, f"{bits} bits", threads=threads, **share)
            for system in ("spu", "numpy") if bits in (32, 64) else ():
                add(system, task, f"{bits} bits", **share)
    for bits in (31, 61):
        for threads in config.threads:
            shamir = {"word_bits": bits, "secrets": config.secrets}
            add("ppml_lab", "shamir", f"{bits} bits", threads=threads, **shamir)
    add("numpy", "shamir", "31 bits", secrets=config.secrets, repetitions=1)
    add("flower", "shamir", "256 bits", secrets=config.secrets)
    for threads in config.threads:
        for task in work.DRAWN:
            add("ppml_lab", task, "", threads=threads, values=config.values)
    vector = {"masks": config.masks, "words": config.words}
    for threads in config.threads:
        add("ppml_lab", "masks", "threefry", threads=threads, **vector)
    add("numpy", "masks", "Philox", **vector)
    if launch.interpreter("numpy") != sys.executable:  # Has what AES needs.
        add("numpy", "masks_aes", "AES", **vector)
    add("flower", "masks", "MT19937", **vector, timed=min(10, config.masks))
    add("ppml_lab", "federated_round", "", threads=max(config.threads))
    return found + tasks_on_shares(config)


def tasks_on_shares(config: Experiment) -> list[tuple[str, launch.Task]]:
    """Computing on shares, and the products of matrices that it consists of."""
    found = []

    def add(system: str, task: str, variant: str, **options: int) -> None:
        options |= {"repetitions": config.timed_runs, "threads": max(config.threads)}
        if launch.is_here(system):
            found.append((variant, launch.Task(system, (task,), options)))

    for bits in (32, 64):
        product = {"word_bits": bits, "size": config.size}
        for task in ("matmul", "plain_matmul"):
            add("ppml_lab", task, f"{bits} bits", **product)
    add("crypten", "plain_matmul", "64 bits", size=config.size)
    for task in config.on_shares:
        size = {"size": config.size} if task == "shared_matmul" else {}
        for system in ("ppml_lab", "spu"):
            add(system, task, "additive", **size)
            add(system, task, "replicated", replicated=1, **size)
        add("crypten", task, "additive", **size)
    return found


def long_tasks(config: Experiment) -> list[tuple[str, launch.Task]]:
    """Masked sums of all clients, which run once."""
    found, threads = [], max(config.threads)

    def add(task: str, variant: str, **options: int) -> None:
        options |= {"words": config.words, "threads": threads, "repetitions": 1}
        found.append((variant, launch.Task("ppml_lab", (task,), options)))

    for clients in config.clients:
        few = clients > config.clients[0]
        for percent in config.dropouts if not few else config.dropouts[1:2]:
            shape = {"clients": clients, "dropouts": percent}
            # Few neighbours want few drop-outs: the graph is made for what happens.
            share = 0.2 if percent <= 10 else 0.3
            regular = graphs.k_regular(clients, 0.2 if clients >= 100 else 0.0, share)
            complete = graphs.complete(clients)
            for graph in (regular,) if few else (complete, regular):
                about = {"degree": graph.degree, "threshold": graph.threshold}
                variant = "complete" if graph is complete else f"k = {graph.degree}"
                add("masked_round", variant, **shape, **about)
        if not few:
            add("ideal_round", "ideal", clients=clients)
            add("modular_sum", "identity", clients=clients)
    return found


def by_turn(reports: Sequence[launch.Report | None], name: str) -> np.ndarray:
    """A measured column; NaN where a worker failed."""
    return np.array([report[name] if report else np.nan for report in reports])


def measure(folder: Path, config: Experiment) -> list[dict[str, Any]]:
    """Everything short in turns, then the long sums; a row of medians for each."""
    scripts = Path(__file__).with_name("secure_throughput_workers")
    workers = launch.Workers(scripts, folder, config.timeout, headlines=(TIME,))
    tasks, long = (
        [named for named in every if named[1].arguments[0] in config.only]
        if config.only
        else every
        for every in (short_tasks(config), long_tasks(config))
    )
    found = launch.in_turns(workers, [task for _, task in tasks], config.repetitions)
    found += launch.in_turns(workers, [task for _, task in long], 1)
    done = [
        (variant, task, reports)
        for (variant, task), reports in zip(tasks + long, found, strict=True)
        if any(reports)
    ]
    limits = {
        (task.arguments[0], task.options["threads"]): np.nanmedian(
            by_turn(reports, "per_second")
        )
        for _, task, reports in done
        if task.system == "machine"
    }
    rows = []
    for variant, task, reports in done:
        first = next(report for report in reports if report)
        for name, (wall, cpu) in parts(first).items():
            times, divisor = by_turn(reports, wall), reference(done, variant, task)
            ratio = None if divisor is None else np.nanmedian(times / divisor)
            rows.append(
                {label: first[label] for label in ABOUT}
                | {"variant": name or variant}
                | {key: task.options.get(key, "") for key in ("clients", "dropouts")}
                | {
                    "threads": first["options"]["threads"],
                    TIME: np.nanmedian(times),
                    "low": np.nanmin(times),
                    "high": np.nanmax(times),
                    CPU_TIME: np.nanmedian(by_turn(reports, cpu)),
                    "ratio": ratio,
                }
                | fractions(first, np.nanmedian(times), limits)
                | {name: first[name] for name in ("timed", "of")}
                | {
                    "peak_mib": np.nanmedian(by_turn(reports, "peak_mib")),
                    "repetitions": int(np.isfinite(times).sum()),
                }
            )
    return rows


def parts(report: launch.Report) -> dict[str, tuple[str, str]]:
    """Of a report's rows, the variant, and its columns of wall and processor time."""
    if report["task"] not in ("federated_round", "modular_sum"):
        return {"": (TIME, CPU_TIME)}
    ends = [name for name in report if name.endswith(f"_cpu_{TIME}")]
    names = [name.removesuffix(f"_cpu_{TIME}") for name in ends]
    return {name: (f"{name}_{TIME}", f"{name}_cpu_{TIME}") for name in names}


def reference(
    done: Sequence[tuple[str, launch.Task, Any]], variant: str, task: launch.Task
) -> np.ndarray | None:
    """The times, turn by turn, that a row's are divided by, if they are."""
    kind = task.arguments[0]
    if task.system == "machine" or kind in ("masked_round", "ideal_round"):
        return None
    if kind in ("federated_round", "modular_sum"):
        (reports,) = (r for _, t, r in done if t == task)
        return by_turn(reports, f"clear_{TIME}")
    kind = str(kind).removesuffix("_aes").removesuffix("_23_bits")
    kind = kind.removeprefix("plain_")
    by_variant = kind in (*work.PARTIES, "matmul", *work.ON_SHARES)
    times = [
        by_turn(reports, TIME)
        for other, t, reports in done
        if t.system == "ppml_lab" and t.arguments[0] == kind
        if other == variant or not by_variant
    ]
    return min(times, key=np.nanmedian)


def fractions(
    report: launch.Report, milliseconds: float, limits: dict[Any, float]
) -> dict[str, float | None]:
    """What part of the machine's limits was reached, with as many threads."""
    threads = report["options"]["threads"]
    bandwidth, rate, in_c = (limits.get((name, threads), np.nan) for name in LIMITS)
    seconds = milliseconds / 1e3
    moved, drawn = (report.get(name, 0) for name in ("moved_bytes", "drawn_words"))
    return {
        "bandwidth_fraction": moved / seconds / bandwidth if moved else None,
        "integer_fraction": (
            drawn * OPERATIONS_PER_WORD / seconds / rate if drawn else None
        ),
        "threefry_c_fraction": drawn / seconds / in_c if drawn else None,
    }


if __name__ == "__main__":
    folder = parse("secure_throughput", __doc__ or "", CONFIGS).out
    lab.run_benchmark(
        "secure_throughput", __doc__ or "", CONFIGS, partial(measure, folder)
    )
