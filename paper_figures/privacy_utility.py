"""Accuracy against epsilon, one line per pattern, and what each pattern costs.

    python paper_figures/privacy_utility.py [results folder]

Reads table.csv of the folder (results/privacy_utility by default) and writes the figure
as PDF and PNG: beside this file, or into the folder if one was named.
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
DASHED = (0, (4, 4))
STYLE = {  # colour, marker, line: safe for the colour-blind, and distinct where equal
    "central training": ("0.15", "", "-"),
    "federated": ("#0072B2", "", "-"),
    "federated + secure sum": ("#D55E00", "", DASHED),
    "central training + DP": ("0.15", "v", ":"),
    "federated + central DP": ("#0072B2", "o", "-"),
    "federated + central DP + secure sum": ("#D55E00", "s", DASHED),
    "federated + local DP": ("#009E73", "^", "-"),
}
T_QUANTILE = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
Rows = list[dict[str, str]]


def values(rows: Rows, name: str, **where: str) -> np.ndarray:
    """A column of the rows that match, without its empty cells."""
    chosen = [row for row in rows if all(row[key] == where[key] for key in where)]
    return np.array([float(row[name]) for row in chosen if row[name]])


def draw_accuracy(axis: plt.Axes, rows: Rows) -> None:
    """Means over seeds with their 95% t intervals; horizontal lines have no epsilon."""
    targets = sorted({row["target_epsilon"] for row in rows} - {"inf"}, key=float)
    for pattern, (color, marker, line) in STYLE.items():
        look = {"color": color, "linestyle": line, "label": pattern}
        plain = values(rows, "accuracy", pattern=pattern, target_epsilon="inf")
        if len(plain):
            axis.axhline(plain.mean(), linewidth=1, **look)
            continue
        seeds = [
            values(rows, "accuracy", pattern=pattern, target_epsilon=t) for t in targets
        ]
        halves = [
            T_QUANTILE.get(len(s), 2.0) * s.std(ddof=1) / len(s) ** 0.5
            if len(s) > 1
            else 0
            for s in seeds
        ]
        means = [s.mean() for s in seeds]
        axis.errorbar(
            [*map(float, targets)], means, halves, marker=marker, capsize=3, **look
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks([*map(float, targets)], targets)
    # Tables without the column met their targets by RDP.
    kinds = {row.get("accountant", "rdp").upper() for row in rows} - {""}
    xlabel = f"ε of the whole run ({' or '.join(sorted(kinds))})"
    axis.set(xlabel=xlabel, ylabel="test accuracy", ylim=(0, 1))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="center")


def draw_cost(axis: plt.Axes, rows: Rows, name: str, unit: float, text: str) -> None:
    """A bar per pattern, with quartiles where the table has them."""
    for place, (pattern, (color, _, _)) in enumerate(STYLE.items()):
        found = [row for row in rows if row["pattern"] == pattern and row[name]]
        if not found:
            axis.text(0, place, " not applicable", va="center", fontsize=7, color="0.5")
            continue
        middle, low, high = (
            float(found[0].get(name + end, found[0][name])) / unit
            for end in ("", "_low", "_high")
        )
        spread = [[middle - low], [high - middle]]
        axis.barh(place, middle, xerr=spread, color=color, alpha=0.75, height=0.6)
        axis.text(high, place, f"  {middle:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(STYLE)), list(STYLE), fontsize=7)
    axis.set_ylim(len(STYLE) - 0.4, -0.6)
    axis.margins(x=0.2)
    axis.set_xlabel(text, fontsize=8)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure = plt.figure(figsize=(10, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1])
    bytes_axis, time_axis = (
        figure.add_subplot(grid[0, 1]),
        figure.add_subplot(grid[1, 1]),
    )
    draw_accuracy(figure.add_subplot(grid[:, 0]), rows)
    draw_cost(bytes_axis, rows, "uplink_bytes", 1e3, "uplink, kB per client and round")
    draw_cost(
        time_axis, rows, "compute_overhead", 1, "compute time over plain federated"
    )
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"privacy_utility.{suffix}", dpi=150)
    print(f"wrote {out / 'privacy_utility.png'}")


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:2]]
    main(*(named * 2 or [HERE.parent / "results" / "privacy_utility", HERE]))
