"""Client updates per second of the lab and its peers, and how ours grow.

    python paper_figures/throughput.py [results folder]

Reads table.csv of the folder (results/throughput by default) and writes the figure as
PDF and PNG: beside this file, or into the folder if one was named.
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
STYLE = {  # system, variant: colour (safe for the colour-blind), hatch
    ("ppml_lab", "all cores"): ("#0072B2", ""),
    ("ppml_lab", "1 device"): ("#56B4E9", ""),
    ("FedJAX", "jit"): ("#D55E00", ""),
    ("pfl-research", "2 processes"): ("#009E73", ""),
    ("pfl-research", "1 process, 2 threads"): ("#009E73", "///"),
    ("pfl-research", "1 process, 1 thread"): ("#009E73", "..."),
    ("Flower", "2 actors"): ("#CC79A7", ""),
}
KINDS = ("comparison", "growth", "lanes")
Rows = list[dict[str, str]]


def column(rows: Rows, name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def rates(rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """Medians, and how far minimum and maximum are from them."""
    middle = column(rows, "client_updates_per_second")
    return middle, [middle - column(rows, "low"), column(rows, "high") - middle]


def draw_comparison(axis: plt.Axes, rows: Rows) -> None:
    """A group of bars for every model and kind of sizes, a bar for every system."""
    cells = list(dict.fromkeys((row["model"], row["sizes"]) for row in rows))
    for place, (name, (color, hatch)) in enumerate(STYLE.items()):
        found = [row for row in rows if (row["system"], row["variant"]) == name]
        if not found:
            continue
        cell = [cells.index((row["model"], row["sizes"])) for row in found]
        middle, spread = rates(found)
        bars = axis.bar(
            np.array(cell) + (place - 3) * 0.125, middle, 0.125, yerr=spread, capsize=2,
            color=color, hatch=hatch, edgecolor="white", label=", ".join(name),
        )  # fmt: skip
        shown = [f"{m:,.0f}" if m >= 100 else f"{m:.3g}" for m in middle]
        axis.bar_label(bars, shown, fontsize=6, padding=2)
    names = [f"{m.upper()}, {s.replace('_', '-')} sizes" for m, s in cells]
    axis.set_xticks(range(len(cells)), names)
    axis.set(yscale="log", ylabel="client updates per second")
    axis.set_ylim(1, axis.get_ylim()[1] * 3)
    axis.legend(fontsize=7, ncols=2, loc="upper right")


def draw_curve(axis: plt.Axes, rows: Rows, over: str, text: str) -> None:
    """Updates per second over a column, a line for every model."""
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [row for row in rows if row["model"] == model]
        middle, spread = rates(found)
        axis.errorbar(
            column(found, over), middle, spread, capsize=3, color="#0072B2",
            fmt="o-" if model == "2nn" else "s--", label=f"{model.upper()}, rate",
        )  # fmt: skip
    ticks = sorted(set(column(rows, over).astype(int)))
    axis.set(xscale="log", yscale="log", xlabel=text)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = {what: [row for row in table if row["what"] == what] for what in KINDS}
    figure = plt.figure(figsize=(10, 6.4), layout="constrained")
    top, bottom = figure.add_gridspec(2, 1, height_ratios=[1.25, 1])
    draw_comparison(figure.add_subplot(top), rows["comparison"])
    grid = bottom.subgridspec(1, 2)
    left, right = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    over, text = "clients_per_round", "clients per round, of 10,000 with 6 examples"
    draw_curve(left, rows["growth"], over, text)
    left.set_ylabel("client updates per second")
    memory, mib = left.twinx(), column(rows["growth"], "peak_mib")
    memory.plot(column(rows["growth"], over), mib, "x:", color="0.3", label="memory")
    memory.set(ylabel="peak memory, MiB", ylim=(0, 2 * mib.max()))
    memory.legend(fontsize=7, loc="lower right")
    draw_curve(right, rows["lanes"], "lanes", "clients that train at once on a device")
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"throughput.{suffix}", dpi=150)
    print(f"wrote {out / 'throughput.png'}")


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:2]]
    main(*(named * 2 or [HERE.parent / "results" / "throughput", HERE]))
