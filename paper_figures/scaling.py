"""Clients per second over devices, cohorts, populations, sweep widths, and hosts.

    python paper_figures/scaling.py [results folder]

Reads table.csv of the folder (results/scaling by default) and writes the figure as PDF
and PNG: beside this file, or into the folder if one was named.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
LAYOUTS = {  # curve: label, colour (safe for the colour-blind), marker
    "devices": ("clients dealt, whole data", "#0072B2", "o"),
    "shards": ("clients by shard", "#009E73", "s"),
    "hosts": ("processes of one device", "#D55E00", "D"),
    "sweep": ("points of a sweep", "#CC79A7", "^"),
}
CURVES = {  # curve: column, text below, place
    "cohort": ("cohort", "clients a round, of the largest population", (0, 2)),
    "population": ("population", "population, about 100 clients a round", (1, 0)),
    "width": ("width", "points of a sweep vmapped on one device", (1, 1)),
}
Rows = list[dict[str, str]]


def column(rows: Rows, name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def rates(rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """Medians, and how far minimum and maximum are from them."""
    middle = column(rows, "clients_per_second")
    return middle, [middle - column(rows, "low"), column(rows, "high") - middle]


def draw_devices(axis: plt.Axes, rows: Rows, model: str) -> None:
    """Rates relative to one device."""
    own = [row for row in rows if row["model"] == model]
    base = {
        what: float(row["clients_per_second"])
        for row in own
        for what in LAYOUTS
        if row["what"] == ("sweep" if what == "sweep" else "devices")
        and row["devices"] == "1"
    }
    for what, (label, colour, marker) in LAYOUTS.items():
        found = [row for row in own if row["what"] == what]
        if found:
            middle, spread = rates(found)
            axis.errorbar(
                column(found, "devices"), middle / base[what],
                np.array(spread) / base[what], fmt=f"{marker}-", capsize=3,
                color=colour, label=label,
            )  # fmt: skip
    axis.set(xlabel=f"devices ({model}; the machine has 2 cores)", ylim=(0, None))
    axis.set(ylabel="rate, in those of one device", xticks=[1, 2, 4])
    axis.axhline(1, color="0.7", lw=0.8)
    axis.legend(fontsize=7)


def draw_curve(axis: plt.Axes, rows: Rows, what: str) -> None:
    """Clients per second and memory over a column."""
    over, text, _ = CURVES[what]
    found = [row for row in rows if row["what"] == what]
    middle, spread = rates(found)
    axis.errorbar(
        column(found, over), middle, spread, fmt="o-", capsize=3, color="#0072B2"
    )
    axis.set(xscale="log", xlabel=text, ylabel="clients per second", ylim=(0, None))
    memory, mib = axis.twinx(), column(found, "peak_mib")
    memory.plot(column(found, over), mib, "x:", color="0.4", label="memory")
    memory.set(ylabel="peak memory, MiB", ylim=(0, 2 * mib.max()))
    memory.legend(fontsize=7, loc="lower right")


def draw_projection(axis: plt.Axes, rows: Rows) -> None:
    found = [row for row in rows if row["what"] == "projection"]
    if not found:
        return
    hosts, rate = column(found, "hosts"), column(found, "clients_per_second")
    axis.plot(hosts, rate, "o--", color="#D55E00", label="projection, not measured")
    axis.plot(hosts, rate[0] * hosts, ":", color="0.5", label="linear")
    cohort = int(found[0]["cohort"])
    axis.set(xscale="log", yscale="log", ylabel="clients per second")
    axis.set(xlabel=f"hosts like this one, {cohort:,} clients a round")
    axis.legend(fontsize=7)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    draw_devices(axes[0, 0], rows, "2nn")
    draw_devices(axes[0, 1], rows, "logistic")
    for what, (_, _, place) in CURVES.items():
        draw_curve(axes[place], rows, what)
    draw_projection(axes[1, 2], rows)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"scaling.{suffix}", dpi=130)
    print(f"wrote {out / 'scaling.png'}")


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:2]]
    main(*(named * 2 or [HERE.parent / "results" / "scaling", HERE]))
