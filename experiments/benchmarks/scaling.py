"""How does the lab scale over devices, hosts, cohorts, populations and sweep widths?

Claim: the same compiled round serves one device and many; its time grows with the
cohort, its memory does not; a population of ten million clients costs a coin and four
bytes per client, because clients' data are generated when they train; and a sweep costs
a small part of what its runs cost when started one by one.

Clients have 20 examples, one batch: a round is one local step of each participant, so
that overheads are visible. "logistic" has 610 parameters, "2nn" McMahan's 199,210.
Devices are virtual ones on CPU cores; four devices are more than a machine of two cores
has. Hosts are processes of one machine over gloo. A sweep of 200 runs on digits (10
noise levels, 4 clip norms, 5 seeds; 50 rounds each) is compared with the same runs
started one by one; `separate` of these are timed, imports and compilation included.
Workers run one at a time, in turns. The projection only extends the measured curves to
many hosts by a cost model:

    seconds per round = fixed + per client * cohort / hosts + (sum of `dimension`
                        numbers between two hosts) * log2(hosts)

`paper` takes about 15 minutes on 2 cores, `smoke` two. `--platform cuda` times a GPU.

    python -m experiments.benchmarks.scaling smoke
    python -m experiments.benchmarks.scaling paper
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import bench


@dataclass(frozen=True)
class Experiment:
    """The sizes and repetitions of the timed work."""

    devices: tuple[int, ...] = (1, 2)
    """Numbers of devices of the device curves."""
    hosts: tuple[int, ...] = (2,)
    """Numbers of processes, with one device each, of the host curve."""
    cohorts: tuple[int, ...] = (10, 1000)
    """Clients per round, from the largest population."""
    populations: tuple[int, ...] = (10_000, 1_000_000)
    """Numbers of clients to draw from, by a coin for each."""
    widths: tuple[int, ...] = (1, 4)
    """Points of a sweep that run vmapped on one device."""
    sweep_runs: int = 8
    """Runs of the timed sweep."""
    separate: int = 1
    """Number of these runs that are timed as processes of their own."""
    projected_hosts: tuple[int, ...] = (1, 4, 16)
    """Numbers of hosts of the projection."""
    rounds: int = 2
    """Rounds in a timed chunk of 100 clients; more clients, fewer rounds."""
    repetitions: int = 1
    """Turns in which all workers run once."""
    platform: str = "cpu"
    """Platform of jax: cpu, cuda or tpu. Except on CPU, all existing devices are
    used."""
    timeout: float = 900.0
    """Seconds after which a worker is stopped."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        devices=(1, 2, 4),
        cohorts=(10, 100, 1000, 10_000, 100_000),
        populations=(1000, 10_000, 100_000, 1_000_000, 10_000_000),
        widths=(1, 2, 4, 16, 64),
        sweep_runs=200,
        separate=8,
        projected_hosts=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        rounds=50,
        repetitions=3,
    ),
}
PAGE = {
    "minutes": {"paper": 15},
    "tables": [
        {
            "title": "clients per second",
            "where": {"what": ["devices", "shards", "hosts", "sweep"]},
            "by": ["model", "what"],
            "across": "devices",
            "of": {"clients_per_second": ["low", "high"]},
        },
        {
            "where": {"what": ["cohort", "population", "width"]},
            "by": ["what", "cohort", "population", "points", "width"],
            "of": {
                "clients_per_second": ["low", "high"],
                "seconds_per_round": [],
                "peak_mib": [],
            },
        },
        {
            "title": "a sweep beside its runs started one by one",
            "where": {"what": ["one sweep", "separate"]},
            "by": ["what", "points"],
            "of": {
                "seconds_per_run": ["least_seconds_per_run", "most_seconds_per_run"],
                "compiled_chunks": [],
            },
        },
        {
            "title": "projected, not measured",
            "where": {"what": "projection"},
            "by": ["hosts", "cohort"],
            "of": ["clients_per_second"],
        },
    ],
}

EXPLORED = "It times sizes of a simulation: no accuracy to compare."
COHORTS = {"logistic": 1000, "2nn": 100}
MEASURED = ("seconds_per_round", "compile_seconds", "peak_mib", "device_peak_mib")
RATE = "clients_per_second"
Row = dict[str, Any]


def plan(config: Experiment) -> list[tuple[str, bench.Task]]:
    """The tasks of a repetition, each with the curve that it belongs to."""
    runs: list[tuple[str, bench.Task]] = []

    def add(what: str, model: str, storage: str, **options: int) -> None:
        work = options["cohort"] * options.get("points", 1)
        work *= {"logistic": 1, "2nn": 10}[model]
        options["rounds"] = max(1, config.rounds * 100 // work)
        runs.append((what, bench.Task("ppml_lab", (model, storage), options)))

    for model, cohort in COHORTS.items():
        both = {"cohort": cohort, "population": 10 * cohort}
        for devices in config.devices:
            add("devices", model, "whole", devices=devices, **both)
            if devices > 1:
                shards = {"devices": devices, "poisson": 1}
                add("shards", model, "by_shard", **shards, **both)
            points = {"columns": 1, "points": max(config.devices)}
            add("sweep", model, "whole", devices=devices, **points, **both)
        for hosts in config.hosts:
            several = {"devices": hosts, "hosts": hosts, "poisson": 1}
            add("hosts", model, "by_shard", **several, **both)
    most, all_devices = max(config.populations), min(2, max(config.devices))
    for cohort in config.cohorts:
        people = {"cohort": cohort, "population": most}
        add("cohort", "logistic", "generated", devices=all_devices, **people)
    for population in config.populations:
        people = {"cohort": 100, "population": population, "poisson": 1}
        add("population", "logistic", "generated", devices=all_devices, **people)
    for width in config.widths:
        sweep = {"cohort": 10, "points": max(config.widths), "width": width}
        add("width", "logistic", "whole", columns=1, population=1000, **sweep)
    count, step = config.sweep_runs, config.sweep_runs // config.separate
    runs.append(("one sweep", bench.Task("sweep", (), {"count": count, "devices": 1})))
    for first in range(0, step * config.separate, step):
        runs.append(("separate", bench.Task("sweep", (), {"first": first, "count": 1})))
    return runs


def measure(folder: Path, config: Experiment) -> list[Row]:
    """Runs workers in turns; gives a row of medians for each, and the projection."""
    runs = plan(config)
    workers = bench.Workers(
        Path(__file__).with_name("scaling_workers"),
        folder,
        config.timeout,
        headlines=(RATE, "peak_mib", "seconds"),
        platform=config.platform,
    )
    tasks = [task for _, task in runs]
    found = bench.in_turns(workers, tasks, config.repetitions)
    rows = []
    sweeps: dict[str, list[bench.Report]] = {"one sweep": [], "separate": []}
    for (what, task), reports in zip(runs, found, strict=True):
        if what in sweeps:
            sweeps[what] += [report for report in reports if report]
        elif any(reports):
            rows.append(row_of(what, task, reports))
    rows += projection(rows, config.projected_hosts)
    rows += [sweep_row(what, reports) for what, reports in sweeps.items() if reports]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def row_of(what: str, task: bench.Task, reports: Sequence[bench.Report | None]) -> Row:
    """A row of medians over repetitions, with the rate's lowest and highest."""
    model, storage = task.words
    names = ("devices", "hosts", "columns", "cohort", "population", "points", "width")
    first = next(report for report in reports if report)
    return (
        {"what": what, "model": model, "storage": storage}
        | {name: task.options.get(name, 1) for name in names}
        | {"dimension": first["dimension"], "device": first["device"]}
        | bench.over_turns(reports, RATE, *MEASURED)
    )


def sweep_row(what: str, reports: Sequence[bench.Report]) -> Row:
    """A row of the seconds per run, from the start of its process on, as part of a
    sweep or by itself.
    """
    each = np.array([report["seconds"] / report["runs"] for report in reports])
    programs = max(report["chunk_programs"] for report in reports)
    return {
        "what": what,
        "model": "logistic",
        "points": reports[0]["runs"],
        "seconds_per_run": float(np.median(each)),
        "least_seconds_per_run": float(each.min()),
        "most_seconds_per_run": float(each.max()),
        "compiled_chunks": programs,
        "repetitions": len(reports),
    }


def projection(rows: Sequence[Row], hosts: Sequence[int]) -> list[Row]:
    """The largest cohort on many hosts like this one, by the measured costs."""
    curve = [row for row in rows if row["what"] == "cohort"]
    apart = {row["model"]: row for row in rows if row["what"] == "hosts"}
    beside = {
        row["model"]: row
        for row in rows
        if row["what"] == "shards" and row["devices"] == 2
    }
    if len(curve) < 2 or not apart.keys() == beside.keys() >= {"logistic"}:
        return []
    seconds = np.array([row["seconds_per_round"] for row in curve])
    cohorts = np.array([row["cohort"] for row in curve])
    # Relative errors are minimised, as seconds span four orders of magnitude.
    design = np.stack([1 / seconds, cohorts / seconds], axis=1)
    fixed, per_client = np.linalg.lstsq(design, np.ones_like(seconds))[0]
    crossing = (
        apart["logistic"]["seconds_per_round"] - beside["logistic"]["seconds_per_round"]
    )
    cohort = int(cohorts.max())
    rows = []
    for count in hosts:
        time = fixed + per_client * cohort / count + max(crossing, 0) * np.log2(count)
        rows.append(
            {"what": "projection", "model": "logistic", "storage": "generated"}
            | {"hosts": count, "cohort": cohort, "population": curve[0]["population"]}
            | {"dimension": curve[0]["dimension"], RATE: cohort / time}
            | {"seconds_per_round": time, "repetitions": 0}
        )
    return rows


if __name__ == "__main__":
    bench.run("scaling", __doc__ or "", CONFIGS, measure)
