"""The `main` of experiments and benchmarks: from the command line to the results
folder.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from ppml_lab import arguments, federated
from ppml_lab.data import files
from ppml_lab.dp import cut
from ppml_lab.lab import processes, stopping
from ppml_lab.lab.advance import OnMetrics
from ppml_lab.lab.budget import statement
from ppml_lab.lab.columns import completed
from ppml_lab.lab.command import SWEEP_OPTIONS, again, parse
from ppml_lab.lab.composition import cost_together
from ppml_lab.lab.disk import records
from ppml_lab.lab.disk.provenance import (
    check_own,
    check_writable,
    cost,
    of_runs,
    open_folder,
    provenance,
    total_cost,
)
from ppml_lab.lab.engine import MadeElsewhereError, run_sweep
from ppml_lab.lab.memory import TooLargeError
from ppml_lab.lab.processes import Shard, from_environment, parse_shard, take
from ppml_lab.lab.progress import progress
from ppml_lab.lab.results import Point, Result, run_of
from ppml_lab.lab.tree.identity import described

C = TypeVar("C", bound=Any)

_MADE_BY = {"codes": "codes", "jaxs": "releases of jax", "devices": "kinds of device"}


@arguments.checked
def run_experiment(
    stem: str,
    description: str,
    configs: Mapping[str, C],
    points: Callable[[C], list[Point]],
    table: Callable[[C, list[Result]], list[dict[str, Any]]],
    on_metrics: OnMetrics = lambda run, round, scalars: None,
) -> None:
    """Runs an experiment as its `main`: parse, state epsilon, sweep, write the table.

    The command line names one of `configs` and overrides any of its fields. Results go
    to `results/<stem>` for "paper" and `results/<stem>/<name>` for the others, or to
    `--out`. `--shard` runs a part of the points; `--merge` writes the table of finished
    runs. Before any training, it prints the guarantee of every run and the cost of all
    runs together, which it also writes to privacy.json. Where the environment names
    several processes (`processes.connect`), they run the experiment together.

    Args:
      stem: The experiment's name.
      description: The experiment's docstring, shown by `--help`.
      configs: Frozen dataclasses by name.
      points: Returns the points of a configuration.
      table: Returns the rows of table.csv; the lab adds its own columns, see
        `lab.columns`.
      on_metrics: Called at every evaluation, see `run_sweep`.
    """
    chosen = parse(stem, description, configs, SWEEP_OPTIONS, choices())
    try:
        after = chosen.stop_after and stopping.seconds_of(chosen.stop_after)
    except ValueError as error:
        sys.exit(f"error: {error}")
    federated.use_all_cores()
    processes.connect()
    jax.config.update("jax_compilation_cache_dir", str(compiled_programs()))
    with stopping.asked(after) as stop:
        try:
            _together(stem, chosen, points, table, on_metrics, stop)
        except stopping.StoppedError as reason:
            text = f"stopped after a chunk ({reason}); the same command continues"
            print(text, file=sys.stderr)
            sys.exit(stopping.EXIT_CODE)


def _together(
    stem: str,
    chosen: Any,
    points: Callable[[C], list[Point]],
    table: Callable[[C, list[Result]], list[dict[str, Any]]],
    on_metrics: OnMetrics,
    stop: Callable[[], str],
) -> None:
    """Runs the experiment on joined processes: the first leads, the others compute."""
    with processes.together():
        if processes.is_first():
            try:
                _lead(stem, chosen, points, table, on_metrics, stop)
            except (OSError, TooLargeError) as error:
                notes = getattr(error, "__notes__", [])
                sys.exit("\n".join([f"error: {error}", *notes]))
        elif not chosen.merge:
            part = take(points(chosen.config), _shard(chosen.shard))
            run_sweep(part, chosen.out, **_how(chosen, stop))


def _lead(
    stem: str,
    chosen: Any,
    points: Callable[[C], list[Point]],
    table: Callable[[C, list[Result]], list[dict[str, Any]]],
    on_metrics: OnMetrics,
    stop: Callable[[], str],
) -> None:
    """Does what the first process does: state guarantees, train, write the table."""
    config, out = chosen.config, chosen.out
    try:
        shard = _shard(chosen.shard)
        # Fails early, before noise is calibrated.
        check_writable(out)
        if chosen.merge and not (out / "provenance.json").exists():
            raise ValueError(f"{out} holds no results to merge")
        said = described(config, "config")
        check_own(out, said)
        runs = points(config)
        guarantees = [_guarantee(point) for point in runs]
        open_folder(out, said)
    except ValueError as error:
        sys.exit(f"error: {error}")
    _print_guarantees(runs, guarantees)
    together = cost_together(runs)
    _print_together(together)
    records.write_json(out / "privacy.json", together)
    if not chosen.merge:
        part = take(runs, shard)
        if not part:
            print(f"shard {shard} has nothing to do: there are {len(runs)} runs")
        _train(part, chosen, on_metrics, stop)
    made = [run_of(point, out) for point in runs]
    missing = [run.point for run in made if not run.is_finished]
    if missing:
        text = f"{len(missing)} of {len(runs)} runs are not finished: "
        text += _few([_named(point) for point in missing])
        if chosen.merge:
            sys.exit(f"error: {text}")
        print(f"{text}; the last shard to end, or --merge, writes the table")
        return
    outcomes = [run.outcome() for run in made]
    results = [*map(Result, runs, guarantees, outcomes)]
    options = {name: default is not False for name, _, default in SWEEP_OPTIONS}
    command = again(options | {"out": True})
    begin = time.perf_counter()
    rows = table(config, results)
    # Some tables measure, which may take longer than the runs.
    seconds = time.perf_counter() - begin
    rows = completed(rows, results, experiment=stem, command=command)
    records.write_table(out / "table.csv", rows)
    stamp = records.read_json(out / "provenance.json")
    stamp["cost"] = total_cost(run.folder for run in made) | {"table_seconds": seconds}
    stamp["runs"] = of_runs(run.folder for run in made)
    _print_mixed(stamp["runs"])
    records.write_json(out / "provenance.json", stamp)
    print(f"wrote {out / 'table.csv'}")


def _print_mixed(made: Mapping[str, Sequence[Any]]) -> None:
    """Prints which codes, jax releases and devices made the runs, if there are
    several.
    """
    for name in ("codes", "jaxs", "devices"):
        if len(made[name]) > 1:
            print(
                f"note: these runs were made by {len(made[name])} {_MADE_BY[name]}: "
                f"{', '.join(made[name])}; provenance.json of each run says by which"
            )


def _shard(text: str | None) -> Shard:
    shard = from_environment() if text is None else parse_shard(text)
    if text is None and shard is not None:
        print(f"shard {shard}, by the task of the SLURM array")
    return shard or Shard(1, 1)


def _how(chosen: Any, stop: Callable[[], str]) -> dict[str, Any]:
    """Returns the options for `run_sweep`, the same at all joined processes."""
    return {name: getattr(chosen, name) for name in ("again", "go_on", "keep")} | {
        "stop": stop
    }


def _train(
    points: list[Point], chosen: Any, on_metrics: OnMetrics, stop: Callable[[], str]
) -> None:
    total = sum(point.setup.schedule.num_rounds for point in points)
    try:
        with progress(total, "rounds") as report:
            run_sweep(
                points,
                chosen.out,
                report=report,
                on_metrics=on_metrics,
                **_how(chosen, stop),
            )
    except MadeElsewhereError as others:
        print(others)


def _named(point: Point) -> str:
    return " ".join(f"{name} {_show(value)}" for name, value in point.labels.items())


def _few(names: Sequence[str]) -> str:
    more = [f"and {len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join([*names[:3], *more])


def _guarantee(run: Point) -> dict[str, Any]:
    """Returns a run's columns of guarantees, and the key of its randomness."""
    return statement(run.setup, run.delta) | {"key": run.key[:16]}


def choices() -> Any:
    """Returns the stock parts that the command line offers by name."""
    # Imported here because the engine knows no part.
    from ppml_lab.lab.parts.choices import CHOICES

    return CHOICES


def compiled_programs() -> Path:
    """Returns the folder of compiled programs: the user's choice, or a folder beside
    the downloaded data.
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    return Path(chosen) if chosen else files.cache() / "xla"


def _print_guarantees(
    points: Sequence[Point], guarantees: Sequence[Mapping[str, Any]]
) -> None:
    """Prints what runs will guarantee, one line for all runs of equal guarantees."""
    print(
        "Privacy of each run, stated before training (epsilon by PLD where it has a "
        "bound, and by RDP):"
    )
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for point, row in zip(points, guarantees, strict=True):
        promise = _promise(row)
        share = point.setup.schedule.validation
        if share and row["privacy_unit"]:
            promise += f"; nothing for the {_show(share)} of the rows held out"
        alike.setdefault(promise, []).append(point.labels)
    for promise, labels in alike.items():
        print(f"  {_in_common(labels)}: {promise}")


def _promise(row: Mapping[str, Any]) -> str:
    """Returns a run's guarantee as a text."""
    if not row["privacy_unit"]:
        return "no privacy"
    epsilon = f"epsilon {_show(row['epsilon_rdp'])} (RDP)"
    if row["accountant"] == "pld":
        epsilon = f"epsilon {_show(row['epsilon_pld'])} (PLD), {epsilon[8:]}"
    note = cut.in_words(row["cut_share"])
    return (
        f"{epsilon} at delta {_show(row['delta'])}, noise_multiplier "
        f"{_show(row['noise_multiplier'])}, {row['neighboring_relation']} "
        f"{row['privacy_unit']}, against who sees the released models; "
        f"{_against_server(row)}{note and '; '}{note}"
    )


def _against_server(row: Mapping[str, Any]) -> str:
    """Returns a text: what the run promises against whoever runs the protocol."""
    epsilon = row["epsilon_server"]
    promised = "nothing" if math.isinf(epsilon) else f"epsilon {_show(epsilon)}"
    return f"{promised} against who runs it and sees who takes part"


def _in_common(labels: Sequence[Mapping[str, Any]]) -> str:
    """Returns a text of the labels of several runs; labels of many values are left
    out.
    """
    shown = []
    for name in labels[0]:
        values = list(dict.fromkeys(_show(label[name]) for label in labels))
        if name != "seed" and len(values) <= 3:
            shown.append(f"{name} {', '.join(values)}")
    return f"{len(labels)} runs" + (", " + " | ".join(shown) if shown else "")


def _print_together(together: Sequence[Mapping[str, Any]]) -> None:
    """Prints the privacy cost of all runs together, as if all results are shown."""
    for row in together:
        print(
            f"All {row['runs']} private runs on {row['dataset']} together: epsilon "
            f"{_show(row['epsilon_rdp'])} (RDP) at delta {_show(row['delta'])}, "
            f"{row['neighboring_relation']} {row['privacy_unit']}, against who sees "
            f"the released models; {_against_server(row)}{_left_out(row)}"
        )


def _left_out(row: Mapping[str, Any]) -> str:
    """Returns a text: the runs that a row of `cost_together` does not count."""
    parts = {
        "same_release": "runs that repeat one of these or its first rounds",
        "elsewhere": "runs on some of the same examples, for other units",
        "unprotected": "runs on some of the same examples, without a promise",
    }
    said = [f"{row[name]} {text}" for name, text in parts.items() if row[name]]
    return f"; not counted: {' and '.join(said)}" if said else ""


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


C = TypeVar("C", bound=Any)


@arguments.checked
def run_benchmark(
    stem: str,
    description: str,
    configs: Mapping[str, C],
    measure: Callable[[C], list[dict[str, Any]]],
) -> None:
    """Runs a benchmark as its `main`: parse, measure, write the table.

    The command line and the results folder are those of `run_experiment`. Compiled
    programs are not kept on disk, so that times of compilation are real.

    Args:
      stem: The experiment's name.
      description: The benchmark's docstring, shown by `--help`.
      configs: Frozen dataclasses by name.
      measure: Returns the rows of table.csv.
    """
    chosen = parse(stem, description, configs, choices=choices())
    config, out = chosen.config, chosen.out
    federated.use_all_cores()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        open_folder(out, described(config, "config"))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    begin = time.perf_counter()
    rows = measure(config)
    seconds = time.perf_counter() - begin
    records.write_table(out / "table.csv", rows)
    stamp = provenance(described(config, "config")) | {"cost": cost(None, seconds)}
    records.write_json(out / "provenance.json", stamp)
    print(f"wrote {out / 'table.csv'}")
