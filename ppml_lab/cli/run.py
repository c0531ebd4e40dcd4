"""`run` and `merge`: run an experiment of this folder with any of its options."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ppml_lab.cli import experiments, tables
from ppml_lab.cli.output import AsJson, print_json

Experiment = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")]
Options = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="OPTIONS")
]

_WROTE = re.compile(r"^wrote (.+)$", re.MULTILINE)


def run(
    experiment: Experiment,
    options: Options = (),
    *,
    as_json: AsJson = False,
) -> None:
    """Runs an experiment from the folder experiments/ here.

    Example: python -m ppml_lab run dp_fedavg smoke --num-seeds 2 --out /tmp/mine

    Args:
      experiment: Name of the experiment, as `list` prints it.
      options: A configuration and any option of the experiment; --help lists them.
      as_json: Print one JSON object at the end: table, rows, seconds and provenance.
        The table is null if this run did not complete it. The experiment's own output
        goes to stderr.

    Raises:
      ValueError: If there is no such experiment.
      SystemExit: If the experiment stops with an exit code.
    """
    if not as_json:
        _run(experiment, options)
        return
    started = time.perf_counter()
    with contextlib.redirect_stdout(_Relay()) as printed:
        _run(experiment, options)
    print_json(
        {
            **_written(printed.getvalue()),
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


def merge(
    experiment: Experiment,
    options: Options = (),
    *,
    as_json: AsJson = False,
) -> None:
    """Makes an experiment's table from its finished runs, without training.

    Example: python -m ppml_lab merge dp_fedavg smoke --out /tmp/mine

    Args:
      experiment: Name of the experiment, as `list` prints it.
      options: The configuration and options that the runs were made with.
      as_json: Print one JSON object at the end, as `run` does.

    Raises:
      ValueError: If there is no such experiment.
      SystemExit: If runs are missing.
    """
    run(experiment, (*options, "--merge"), as_json=as_json)


class _Relay(io.StringIO):
    """Keeps printed text and passes it on to stderr."""

    def write(self, text: str, /) -> int:
        sys.stderr.write(text)
        return super().write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def _run(experiment: str, options: Sequence[str]) -> None:
    """Runs the experiment in this process, as `python -m` does."""
    found = experiments.find()
    if experiment not in found:
        from ppml_lab import checks

        checks.known("experiment", experiment, found)
    # An installed `ppml-lab` does not find modules in this folder by itself.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    sys.argv = [experiment, *options]
    try:
        runpy.run_module(
            experiments.module(found[experiment]), run_name="__main__", alter_sys=True
        )
    except ValueError:
        # An error of the experiment, not of an argument here: show its traceback.
        traceback.print_exc()
        sys.exit(1)


def _written(printed: str) -> dict[str, str | int | None]:
    """Returns the table that an experiment printed that it wrote, and its
    provenance.
    """
    said = _WROTE.findall(printed)
    if not said:
        return {"table": None, "rows": None, "provenance": None}
    table = Path(said[-1])
    return {
        "table": str(table),
        "rows": len(tables.read(table)),
        "provenance": str(table.with_name("provenance.json")),
    }
