"""How many client updates per second does the lab compute, beside its peers?

Claim: one compiled program that holds the data, draws the cohorts and trains clients of
any sizes computes more client updates per second on the same cores than simulators that
call a framework once per batch; a round's memory does not grow with its cohort; and new
cohorts need no recompilation.

The work (`throughput_workers/work.py`) is 1,000 clients with 60 images of 28x28 each,
or log-normal numbers of images; 100 clients per round, one epoch, batches of 20, SGD,
and federated averaging by examples of McMahan's 2NN and CNN. Every system draws its own
cohorts, uniformly without replacement. The peers FedJAX, pfl-research and Flower have
their own environments; the variables PPML_LAB_FEDJAX_PYTHON, PPML_LAB_PFL_PYTHON and
PPML_LAB_FLOWER_PYTHON name their interpreters, and a peer without one is left out.
Systems run one at a time, in turns, on the CPU; leave the machine idle otherwise.
"growth" and "lanes" are of the lab alone: more clients per round, and more clients that
train at once on a device. `paper` takes about 45 minutes on 2 cores with all peers,
`smoke` a few.

    python -m experiments.benchmarks.throughput smoke
    python -m experiments.benchmarks.throughput paper
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import bench


@dataclass(frozen=True)
class Rounds:
    """Timed rounds of each system; their speeds differ a lot."""

    ppml_lab: int = 20
    fedjax: int = 5
    pfl: int = 5
    flower: int = 3


@dataclass(frozen=True)
class Experiment:
    """The timed work; environment variables decide which peers take part."""

    models: tuple[str, ...] = ("2nn",)
    """Models: "2nn", "cnn"."""
    sizes: tuple[str, ...] = ("balanced",)
    """Kinds of client sizes: "balanced", "log_normal"; the lane curve takes the
    last."""
    repetitions: int = 1
    """Turns in which all systems run once; the curves, of the lab alone, run once."""
    rounds_2nn: Rounds = Rounds()
    """Timed rounds of the 2NN."""
    rounds_cnn: Rounds = Rounds(2, 2, 2, 2)
    """Timed rounds of the CNN."""
    warm_up: int = 2
    """Rounds before the timed ones."""
    cohorts: tuple[int, ...] = (10, 100, 1000)
    """Clients per round of the growth curve (2NN)."""
    population: int = 10_000
    """Clients of the growth curve, with 6 examples each."""
    lanes: tuple[int, ...] = (1, 4)
    """Lanes per device of the lane curve; up to 16 for the CNN."""
    timeout: float = 900.0
    """Seconds after which a system is stopped."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        models=("2nn", "cnn"),
        sizes=("balanced", "log_normal"),
        repetitions=3,
        rounds_2nn=Rounds(100, 20, 20, 6),
        rounds_cnn=Rounds(6, 4, 4, 3),
        cohorts=(10, 30, 100, 300, 1000, 3000, 10_000),
        lanes=(1, 2, 4, 16, 64, 256),
    ),
}
PAGE = {
    "minutes": {"paper": 45},
    "tables": [
        {
            "where": {"what": "comparison"},
            "by": ["model", "sizes", "system", "variant"],
            "of": {
                "client_updates_per_second": ["low", "high"],
                "ratio": [],
                "cpu_seconds_per_round": [],
                "peak_mib": [],
            },
        },
        {
            "title": "clients of a round",
            "where": {"what": "growth"},
            "by": ["clients_per_round"],
            "of": {"client_updates_per_second": [], "peak_mib": []},
        },
        {
            "title": "clients at once on a device",
            "where": {"what": "lanes"},
            "by": ["model", "lanes"],
            "of": {"client_updates_per_second": [], "peak_mib": []},
        },
    ],
}

EXPLORED = "It times libraries: no accuracy to compare."
VARIANTS: list[tuple[str, str, dict[str, int]]] = [
    ("ppml_lab", "all cores", {}),
    ("ppml_lab", "1 device", {"devices": 1}),
    ("fedjax", "jit", {}),
    ("pfl", "1 process, 1 thread", {}),
    ("pfl", "1 process, 2 threads", {"threads": 2}),
    ("pfl", "2 processes", {"processes": 2}),
    ("flower", "2 actors", {"processes": 2}),
]


# Columns that workers report: those equal in every repetition, and measured ones.
LABELS = (
    *("system", "version", "model", "sizes", "clients_per_round"),
    *("lanes", "devices"),
)
MEASURED = (
    *("seconds_per_round", "cpu_seconds_per_round", "compile_seconds", "peak_mib"),
    *("test_accuracy", "recompilations"),
)
RATE = "client_updates_per_second"


def plan(config: Experiment) -> list[tuple[str, str, bench.Task]]:
    """The tasks of a repetition, in order, with `what` and `variant` of their rows."""
    rounds = {"2nn": config.rounds_2nn, "cnn": config.rounds_cnn}
    runs = []

    def add(
        what: str, run: tuple[str, str, dict[str, int]], *words: str, **more: int
    ) -> None:
        system, variant, options = run
        options = options | {"warm_up": config.warm_up} | more
        task = bench.Task(system, words, options)
        if bench.is_here(system):
            runs.append((what, variant, task))

    for model, sizes in itertools.product(config.models, config.sizes):
        for run in VARIANTS:
            timed = getattr(rounds[model], run[0])
            add("comparison", run, model, sizes, rounds=timed)
    base = config.rounds_2nn.ppml_lab
    for cohort in config.cohorts:
        timed = int(np.clip(100 * base // cohort, 3, base))
        people = {"num_clients": config.population, "examples_per_client": 6}
        more = people | {"clients_per_round": cohort, "rounds": timed}
        add("growth", VARIANTS[0], "2nn", "balanced", **more)
    for model, lanes in itertools.product(config.models, config.lanes):
        # The 2NN's rounds have all clients, so that every lane finds clients.
        cohort, most = {"2nn": (1000, 1000), "cnn": (100, 16)}[model]
        timed = max(3, 100 * rounds[model].ppml_lab // cohort)
        more = {"clients_per_round": cohort, "lanes": lanes, "rounds": timed}
        if lanes <= most:
            add("lanes", VARIANTS[0], model, config.sizes[-1], **more)
    return runs


def measure(folder: Path, config: Experiment) -> list[dict[str, Any]]:
    """Runs systems in turns, then the curves; gives a row of medians for each."""
    runs = plan(config)
    compared_tasks = [task for what, _, task in runs if what == "comparison"]
    workers = bench.Workers(
        Path(__file__).with_name("throughput_workers"),
        folder,
        config.timeout,
        headlines=(RATE, "matmul_flops"),
    )
    machine, *found = bench.in_turns(
        workers, [bench.Task("machine", (), {}), *compared_tasks], config.repetitions
    )
    curves = [task for what, _, task in runs if what != "comparison"]
    found += bench.in_turns(workers, curves, 1)
    matmul = np.nanmax(bench.by_turn(machine, "matmul_flops"))
    ours: dict[Any, np.ndarray] = {}
    rows = []
    for (what, variant, task), reports in zip(runs, found, strict=True):
        rates = bench.by_turn(reports, RATE)
        # A comparison's first run is the lab's.
        compared = ours.setdefault((what, *task.words), rates)
        done = [report for report in reports if report]
        if not done:
            print(f"no row for {task}, as every repetition failed")
            continue
        ratio = bench.median(compared / rates) if what == "comparison" else None
        rows.append(
            {"what": what, "variant": variant}
            | {name: done[0][name] for name in LABELS}
            | bench.over_turns(reports, RATE, *MEASURED)
            | {
                "matmul_fraction": np.nanmedian(rates)
                * done[0]["flop_per_update"]
                / matmul,
                "ratio": ratio,
            }
        )
    return rows


if __name__ == "__main__":
    bench.run("throughput", __doc__ or "", CONFIGS, measure)
