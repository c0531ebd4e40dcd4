"""The memory report of `doctor`: how many runs of a sweep fit a device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from ppml_lab.cli import experiments
from ppml_lab.units import shown


def rows(experiment: str, config: str, chips: bool) -> list[dict[str, Any]]:
    """Returns a row for every group of runs that share a program, and every device.

    Args:
      experiment: The experiment of the runs; "" for a run of the default setup.
      config: The name of its configuration.
      chips: Whether chips that are not here have rows too.

    Raises:
      ValueError: If there is no such experiment or configuration, or it has no runs.
    """
    # Imported here: versions are checked before jax is imported.
    from ppml_lab.lab import fits, memory, parts
    from ppml_lab.lab.chips import CHIPS
    from ppml_lab.lab.program import group_of
    from ppml_lab.lab.results import Point

    points = [Point(parts.Federated(), 0, {"setup": "Federated()"})]
    if experiment:
        points = _points(experiment, config)
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(group_of(point), []).append(point)
    found = []
    free = memory.bytes_free()
    for group, its in groups.items():
        about = {"runs": len(its), "such as": _labels(its[0].labels)}
        if free is not None:
            fit = fits.here(group, free)
            found.append({"device": "this one", **about, **_columns(fit)})
        for chip in CHIPS if chips else ():
            fit = fits.elsewhere(group, chip)
            found.append(
                {"device": f"{chip.name} (estimate)", **about, **_columns(fit)}
            )
    return found


def printed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with bytes in readable units."""
    return {
        name.removesuffix("_bytes"): shown(value) if name.endswith("_bytes") else value
        for name, value in row.items()
    }


def _columns(fit: Any) -> dict[str, Any]:
    taken = fit.one_bytes
    return {
        "free_bytes": fit.free_bytes,
        "one run_bytes": taken,
        "each more_bytes": fit.state_bytes + fit.side_bytes,
        "lanes": fit.lanes,
        "width": fit.width,
        "fit at once": fit.most,
        "chosen": fit.chosen,
    }


def _points(experiment: str, config: str) -> list[Any]:
    there = experiments.find()
    if experiment not in there:
        raise ValueError(
            f"experiment '{experiment}' must be one of: {', '.join(there)}"
        )
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(experiments.module(there[experiment]))
    finally:
        sys.path.remove("")
    if not hasattr(module, "points"):
        raise ValueError(
            f"experiment '{experiment}' is not a sweep, as it has no function "
            "points(config)"
        )
    if config not in module.CONFIGS:
        raise ValueError(
            f"config '{config}' of {experiment} must be one of: "
            f"{', '.join(module.CONFIGS)}"
        )
    return module.points(module.CONFIGS[config])


def _labels(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{value}" for name, value in labels.items() if name != "seed")
