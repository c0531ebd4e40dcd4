"""From a benchmark's command line to its table: experiments that train no sweep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from ppml_lab import arguments, federated
from ppml_lab.lab import records
from ppml_lab.lab.command import parse
from ppml_lab.lab.folders import open_folder
from ppml_lab.lab.identity import described
from ppml_lab.lab.provenance import cost, provenance
from ppml_lab.lab.run import choices

C = TypeVar("C", bound=Any)


@arguments.checked
def run_benchmark(
    stem: str,
    description: str,
    configs: Mapping[str, C],
    measure: Callable[[C], list[dict[str, Any]]],
) -> None:
    """A benchmark's `main`: parse, measure, write the table.

    The command line and the results folder are those of `run_experiment`. Compiled
    programs are not kept on disk, so that times of compilation mean what they say.

    Args:
      stem: The experiment's name.
      description: Its docstring, shown by `--help`.
      configs: Frozen dataclasses by name.
      measure: Rows of table.csv.
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
