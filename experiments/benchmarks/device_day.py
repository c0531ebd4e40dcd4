"""What does the device that is here compute, how exactly, and how fast?

Claim: on any accelerator words, coins, modular sums, shares, masks and products of
limbs are equal to the CPU's to the bit; normal numbers lie within 4 units in the last
place of the CPU's and ghost norms within 1e-5 of float64's; a killed and resumed sweep
ends like one that ran through; and a sweep gives the same whole numbers at every width.

It is one command for a machine that is available for minutes. The most valuable cells
come first, each cell's rows are saved at once (started again, the command goes on after
them), and cells for which no time is left are reported as left out. Data are synthetic.
Rows with a limit say whether it holds; speeds are of this device alone and are not
compared. Without a name the configuration is `paper`, at most five minutes on an
accelerator, or `cpu` without an accelerator, at most five minutes on two cores; `smoke`
takes one minute there.

    python -m experiments.benchmarks.device_day
    python -m experiments.benchmarks.device_day smoke
"""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Cells that start a process need memory beside this one's.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from experiments.benchmarks import bench
from experiments.benchmarks.device_day_cells import close, exact, speed, sweeps
from experiments.benchmarks.device_day_cells.row import row
from ppml_lab import federated
from ppml_lab.lab.disk import records

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """The sizes of the work."""

    seconds: float = 300.0
    """Seconds after which no further cell begins."""
    normals: int = 1 << 16
    """Normal numbers that are compared."""
    norm_examples: int = 4
    """Examples whose ghost norms are compared."""
    models: tuple[str, ...] = ("2nn",)
    """Models of rounds, steps and norms: 2nn, cnn."""
    cohort: int = 32
    """Clients of a timed round."""
    lanes: tuple[int, ...] = (1, 16)
    """Numbers of clients that train side by side."""
    batches: tuple[int, ...] = (64,)
    """Examples of a timed step."""
    words: int = 1 << 16
    """Words, shares and masks that are timed."""
    masks: int = 4
    """Masks of a client."""
    size: int = 128
    """Rows and columns of a product."""
    inference: tuple[int, ...] = (8,)
    """Images of private inference."""
    width: int = 4
    """Width of the sweep that is compared with the same sweep at width 1."""
    widths: tuple[int, ...] = (1, 4)
    """Widths of timed sweeps; a sweep has as many runs as its width."""
    repeats: int = 1
    """Number of timed calls; their median counts, or for sweeps their minimum."""


CONFIGS = {
    "smoke": Experiment(),
    "cpu": Experiment(
        normals=1 << 20,
        norm_examples=16,
        models=("2nn", "cnn"),
        cohort=64,
        lanes=(1, 4, 16),
        batches=(64, 256),
        words=1 << 20,
        masks=16,
        size=512,
        inference=(8, 64),
        width=32,
        widths=(1, 8, 32),
        repeats=3,
    ),
    "paper": Experiment(
        normals=1 << 22,
        norm_examples=64,
        models=("2nn", "cnn"),
        cohort=4096,
        lanes=(1, 16, 64, 512, 4096),
        batches=(256, 4096),
        words=1 << 24,
        masks=64,
        size=2048,
        inference=(128, 1024),
        width=32,
        widths=(1, 32, 1024),
        repeats=3,
    ),
}
PAGE = {
    "minutes": {"paper": 5, "cpu": 5},
    "tables": [
        {
            "title": "what is compared",
            "where": {"compared": True},
            "by": ["device", "cell", "case", "size", "quantity", "unit"],
            "of": ["value", "limit", "holds"],
        },
        {
            "title": "what is measured",
            "where": {"compared": False},
            "by": ["device", "cell", "case", "size", "quantity", "unit"],
            "of": ["value"],
        },
    ],
}

EXPLORED = "It measures an accelerator: no accuracy to compare."


def cells(config: Experiment) -> dict[str, Callable[[], Rows]]:
    """The cells to compute, the most valuable first."""
    found: dict[str, Callable[[], Rows]] = {
        "integers": exact.measure,
        "floats": lambda: close.measure(
            config.normals, config.norm_examples, config.models
        ),
        "killed sweep": sweeps.killed_and_resumed,
        "two widths": lambda: sweeps.widths(config.width),
    }
    repeats, words = config.repeats, (config.words, config.masks, config.size)
    for name in config.models:
        found[f"rounds of the {name}"] = functools.partial(
            speed.rounds, name, config.cohort, config.lanes, repeats
        )
        found[f"steps of the {name}"] = functools.partial(
            speed.private_steps, name, config.batches, repeats
        )
    return found | {
        "shares": lambda: speed.shares(*words, repeats),
        "inference": lambda: speed.private_inference(config.inference, repeats),
        "sweep widths": lambda: sweeps.speed(config.widths, repeats),
    }


def measure(folder: Path, config: Experiment) -> Rows:
    device, begin = jax.devices()[0], time.monotonic()
    about = {"device": device.device_kind, "jax": jax.__version__}
    rows: Rows = []
    for name, compute in cells(config).items():
        used = time.monotonic() - begin
        if used > config.seconds:
            found = [row("left out", used, "s", limit=config.seconds)]
        else:
            found = _rows(folder, {"cell": name, **about, **asdict(config)}, compute)
        rows += [{"cell": name, **one, **about} for one in found]
        _show(name, found, time.monotonic() - begin - used)
    return [one | {"compared": one["limit"] is not None} for one in rows]


def _rows(folder: Path, about: dict[str, Any], compute: Callable[[], Rows]) -> Rows:
    """A cell's rows, saved once computed; for a cell that fails, a row that says so."""
    try:
        return records.once(folder / "cells", about, compute)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {about['cell']}: {error}", file=sys.stderr)
        return [row("failed", type(error).__name__, "", limit="nothing", holds=False)]


def _show(name: str, found: Rows, seconds: float) -> None:
    wrong = [one["quantity"] for one in found if one["holds"] is False]
    said = f"not within limits: {', '.join(wrong)}" if wrong else f"{len(found)} rows"
    print(f"{name}: {said} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        federated.use_all_cores()
        sys.argv.append("cpu" if jax.default_backend() == "cpu" else "paper")
    bench.run("device_day", __doc__ or "", CONFIGS, measure)
