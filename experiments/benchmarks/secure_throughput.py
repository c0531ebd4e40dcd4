"""How fast are shares, masks and whole secure sums, beside peers and the machine?

Claims to check: masks at least 20 times faster than Flower's; additive shares 5 times
faster than SPU's and level with NumPy over AES; a round that adds integers instead of
floats costs at most 5% more; the whole protocol with drop-outs for 1,000 clients takes
seconds, and for 10,000 clients with few neighbours stays below 4 GB.

The work (`secure_throughput_workers/work.py`) is a million values shared among 3 and 10
parties and reconstructed, in each ring; 100,000 secrets in 100 Shamir shares, 51 of
which reconstruct; a client's 98 masks of 98,304 words; a whole masked sum of such
vectors, with keys, shares, masks and dropouts; and a training round with each kind of
sum. `ratio` is a row's time over that of our fastest row of the same work, turn by
turn; for a training round it is over the plain sum's time. Work on shares (`matmul` and
after) is 512^3 products of integers and their parts, the 784-128-10 perceptron on 128
images, and a step of logistic regression by three parties with 64-bit words: additive
shares beside SPU's SEMI2K and CrypTen, replicated shares beside SPU's ABY3. The
`fraction` columns say what part of the machine's limits a row reaches; the limits are
measured in the same run with the same number of threads. They are bytes that must move,
over the bandwidth of a copy; threefry's integer operations, 59.5 per word, over the
rate of additions and exclusive ors; and words, over those of threefry in C.

Peers have their own environments: PPML_LAB_SPU_PYTHON names an interpreter with spu
0.9.5, PPML_LAB_FLOWER_PYTHON one with flwr 1.42.0, PPML_LAB_NUMPY_PYTHON one with numpy
and cryptography (if not named, the lab's own without AES), and PPML_LAB_CRYPTEN_PYTHON
one with crypten 0.4.1 and torch 2.13.0; other peers without a named interpreter are
left out. Flower's masks and Shamir shares are timed in part (`timed` of `of`) and
scaled. Every row is a process, one at a time, in turns; leave the machine idle
otherwise. `paper` is everything except computing on shares, which is `on_shares`.
`generator` draws only words and normal numbers: `draw_normals` beside
`draw_normals_23_bits`, the former generator, and masks beside threefry in C.

    python -m experiments.benchmarks.secure_throughput smoke
    python -m experiments.benchmarks.secure_throughput paper
    python -m experiments.benchmarks.secure_throughput on_shares
    python -m experiments.benchmarks.secure_throughput generator
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import bench
from experiments.benchmarks.secure_throughput_workers import work
from ppml_lab.smpc import graphs


@dataclass(frozen=True)
class Experiment:
    """The timed work; environment variables decide which peers take part."""

    values: int = 20_000
    """Values that are shared additively."""
    secrets: int = 500
    """Secrets in Shamir shares."""
    masks: int = 10
    """Masks of a client."""
    clients: tuple[int, ...] = (30,)
    """Numbers of clients of masked sums; after the first, only with few neighbours."""
    dropouts: tuple[int, ...] = (0, 10)
    """Percentages of these clients that drop out before their upload."""
    words: int = 4096
    """Length of masks and of summed vectors."""
    size: int = 64
    """Rows and columns of matrices."""
    on_shares: tuple[str, ...] = ("mlp",)
    """Tasks of computing on shares."""
    threads: tuple[int, ...] = (1,)
    """Threads of ours and of the machine's limits."""
    only: tuple[str, ...] = ()
    """Tasks to run; all if empty."""
    repetitions: int = 1
    """Turns in which every short task runs once."""
    timed_runs: int = 1
    """Timed runs in a process; their median counts."""
    timeout: float = 900.0
    """Seconds after which a system is stopped."""


LIMITS = ("memory_bandwidth", "integer_rate", "threefry_c")
SUMS = (*work.PARTIES, "shamir", *work.DRAWN, "masks", "masks_aes", "federated_round")
SUMS += ("masked_round", "ideal_round", "modular_sum")
EVERYTHING = Experiment(
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
)
CONFIGS = {
    "smoke": Experiment(),
    "paper": replace(EVERYTHING, only=(*LIMITS, *SUMS)),
    "on_shares": replace(EVERYTHING, only=("matmul", "plain_matmul", *work.ON_SHARES)),
    "generator": replace(EVERYTHING, only=("threefry_c", *work.DRAWN, "masks")),
}
PAGE = {
    "minutes": {"paper": 45, "on_shares": 25, "generator": 5},
    "tables": [
        {
            "where": {"clients": None},
            "by": ["configuration", "task", "variant", "system", "threads"],
            "of": {
                "milliseconds": ["low", "high"],
                "cpu_milliseconds": [],
                "ratio": [],
                "peak_mib": [],
            },
        },
        {
            "title": "sums of all clients",
            "where": {
                "task": ["masked_round", "ideal_round", "modular_sum"],
            },
            "by": ["task", "variant", "clients", "dropouts", "threads"],
            "of": {"milliseconds": ["low", "high"], "ratio": [], "peak_mib": []},
        },
    ],
}

EXPLORED = "It times secure computation: no accuracy to compare."
OPERATIONS_PER_WORD = 59.5
"""Operations per word of threefry: a block of two words takes 20 rounds of 5 (a
rotation is 3), 5 injections of 3, and 2 at the start; then each word is added to a
sum."""
TIMES = (work.TIME, work.CPU_TIME)
ABOUT = ("system", "version", "task")


def short_tasks(config: Experiment) -> list[tuple[str, bench.Task]]:
    """The tasks of a turn, each with its row's variant."""
    found = []

    def add(system: str, task: str, variant: str, **options: int) -> None:
        options = {"repetitions": config.timed_runs} | options
        if bench.is_here(system):
            found.append((variant, bench.Task(system, (task,), options)))

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
    if bench.interpreter("numpy") != sys.executable:  # It has the package for AES.
        add("numpy", "masks_aes", "AES", **vector)
    add("flower", "masks", "MT19937", **vector, timed=min(10, config.masks))
    add("ppml_lab", "federated_round", "", threads=max(config.threads))
    return found + tasks_on_shares(config)


def tasks_on_shares(config: Experiment) -> list[tuple[str, bench.Task]]:
    """The tasks of computing on shares, and of the matrix products inside."""
    found = []

    def add(system: str, task: str, variant: str, **options: int) -> None:
        options |= {"repetitions": config.timed_runs, "threads": max(config.threads)}
        if bench.is_here(system):
            found.append((variant, bench.Task(system, (task,), options)))

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


def long_tasks(config: Experiment) -> list[tuple[str, bench.Task]]:
    """The tasks of masked sums of all clients, which run once."""
    found, threads = [], max(config.threads)

    def add(task: str, variant: str, **options: int) -> None:
        options |= {"words": config.words, "threads": threads, "repetitions": 1}
        found.append((variant, bench.Task("ppml_lab", (task,), options)))

    for clients in config.clients:
        few = clients > config.clients[0]
        for percent in config.dropouts if not few else config.dropouts[1:2]:
            shape = {"clients": clients, "dropouts": percent}
            # Few neighbours tolerate few dropouts: the graph is made for their number.
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


def measure(folder: Path, config: Experiment) -> list[dict[str, Any]]:
    """Runs short tasks in turns, then long sums; gives a row of medians for each."""
    scripts = Path(__file__).with_name("secure_throughput_workers")
    workers = bench.Workers(scripts, folder, config.timeout, headlines=(work.TIME,))
    tasks, long = (
        [named for named in every if named[1].words[0] in config.only]
        if config.only
        else every
        for every in (short_tasks(config), long_tasks(config))
    )
    found = bench.in_turns(workers, [task for _, task in tasks], config.repetitions)
    found += bench.in_turns(workers, [task for _, task in long], 1)
    done = [
        (variant, task, reports)
        for (variant, task), reports in zip(tasks + long, found, strict=True)
        if any(reports)
    ]
    limits = {
        (*task.words, task.options["threads"]): bench.median(
            bench.by_turn(reports, "per_second")
        )
        for _, task, reports in done
        if task.system == "machine"
    }
    rows = []
    for variant, task, whole in done:
        divisor = reference(done, variant, task)
        for name, reports in parts(whole):
            first = next(report for report in reports if report)
            measured = bench.over_turns(reports, work.TIME, work.CPU_TIME, "peak_mib")
            ratio = bench.by_turn(reports, work.TIME) / divisor
            rows.append(
                {label: first[label] for label in ABOUT}
                | {"variant": name or variant}
                | {key: task.options.get(key, "") for key in ("clients", "dropouts")}
                | {"threads": first["options"]["threads"]}
                | measured
                | {"ratio": bench.median(ratio)}
                | fractions(first, measured[work.TIME], limits)
                | {name: first[name] for name in ("timed", "of")}
            )
    return rows


def parts(
    reports: Sequence[bench.Report | None],
) -> Iterator[tuple[str, list[bench.Report | None]]]:
    """Yields each row of the reports: its variant, and reports with the row's times."""
    first = next(report for report in reports if report)
    if first["task"] not in ("federated_round", "modular_sum"):
        yield "", [*reports]
        return
    for name in (name for name in first if name.endswith(f"_{work.CPU_TIME}")):
        variant = name.removesuffix(f"_{work.CPU_TIME}")
        columns = {column: f"{variant}_{column}" for column in TIMES}
        yield (
            variant,
            [
                report and report | {to: report[of] for to, of in columns.items()}
                for report in reports
            ],
        )


def reference(
    done: Sequence[tuple[str, bench.Task, Any]], variant: str, task: bench.Task
) -> np.ndarray:
    """The times, turn by turn, that divide a row's; NaN for a row without ratio."""
    (kind,) = task.words
    own = next(reports for _, t, reports in done if t == task)
    nothing = np.full(len(own), np.nan)
    if task.system == "machine" or kind in ("masked_round", "ideal_round"):
        return nothing
    if kind in ("federated_round", "modular_sum"):
        return bench.by_turn(own, f"clear_{work.TIME}")
    kind = kind.removesuffix("_aes").removesuffix("_23_bits").removeprefix("plain_")
    by_variant = kind in (*work.PARTIES, "matmul", *work.ON_SHARES)
    times = [
        bench.by_turn(reports, work.TIME)
        for other, t, reports in done
        if t.system == "ppml_lab" and t.words == (kind,)
        if other == variant or not by_variant
    ]
    return min(times, key=np.nanmedian, default=nothing)


def fractions(
    report: bench.Report, milliseconds: float, limits: dict[Any, float | None]
) -> dict[str, float | None]:
    """The parts of the machine's limits reached, with the same number of threads."""
    threads = report["options"]["threads"]
    bandwidth, rate, in_c = (limits.get((name, threads)) for name in LIMITS)
    drawn = report.get("drawn_words", 0)

    def part(amount: float, limit: float | None) -> float | None:
        return 1e3 * amount / milliseconds / limit if amount and limit else None

    return {
        "bandwidth_fraction": part(report.get("moved_bytes", 0), bandwidth),
        "integer_fraction": part(OPERATIONS_PER_WORD * drawn, rate),
        "threefry_c_fraction": part(drawn, in_c),
    }


if __name__ == "__main__":
    bench.run("secure_throughput", __doc__ or "", CONFIGS, measure)
