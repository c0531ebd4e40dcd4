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
STYLE = {  # colour, marker, line; colour-blind safe, and distinct in grey
    "central training": ("0.15", None, "-"),
    "federated": ("#0072B2", None, "-"),
    "federated + secure sum": ("#D55E00", None, (0, (4, 4))),
    "central training + DP": ("0.15", "v", ":"),
    "federated + central DP": ("#0072B2", "o", "-"),
    "federated + central DP + secure sum": ("#D55E00", "s", (0, (4, 4))),
    "federated + local DP": ("#009E73", "^", "-"),
}


def columns(rows: list[dict[str, str]], pattern: str, name: str) -> dict[float, list]:
    """The values of a column by target epsilon."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["pattern"] == pattern and row[name]:
            found.setdefault(float(row["target_epsilon"]), []).append(float(row[name]))
    return dict(sorted(found.items()))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95% t interval over seeds."""
    t = {1: np.nan, 2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.26)
    return float(np.mean(values)), t * float(np.std(values, ddof=1)) / len(
        values
    ) ** 0.5


def draw_accuracy(axis: plt.Axes, rows: list[dict[str, str]]) -> None:
    for pattern, (color, marker, line) in STYLE.items():
        by_epsilon = columns(rows, pattern, "accuracy")
        finite = [eps for eps in by_epsilon if np.isfinite(eps)]
        means, halves = zip(*map(interval, by_epsilon.values()), strict=True)
        if finite:
            axis.errorbar(
                finite, means, halves, label=pattern, color=color, marker=marker,
                linestyle=line, capsize=3, markersize=5, linewidth=1.4,
            )  # fmt: skip
        else:
            axis.axhline(
                means[0], label=pattern, color=color, linestyle=line, linewidth=1
            )
    axis.set_xscale("log", base=2)
    ticks = sorted({float(row["target_epsilon"]) for row in rows} - {np.inf})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("ε of the whole run (RDP)")
    axis.set_ylabel("test accuracy")
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="center right", frameon=True)


def draw_cost(axis: plt.Axes, rows: list[dict[str, str]], name: str, text: str) -> None:
    for place, (pattern, (color, _, _)) in enumerate(STYLE.items()):
        values = [v for group in columns(rows, pattern, name).values() for v in group]
        if not values:
            axis.text(0, place, " not applicable", va="center", fontsize=7, color="0.5")
            continue
        middle = float(np.median(values))
        low, high = np.quantile(values, [0.25, 0.75])
        spread = [[middle - low], [high - middle]]
        axis.barh(place, middle, xerr=spread, color=color, alpha=0.75, height=0.6)
        axis.text(high, place, f"  {middle:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(STYLE)), list(STYLE), fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel(text, fontsize=8)
    axis.tick_params(axis="x", labelsize=7)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["uplink_kb"] = row["uplink_bytes"] and str(float(row["uplink_bytes"]) / 1e3)
    figure = plt.figure(figsize=(10, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1])
    draw_accuracy(figure.add_subplot(grid[:, 0]), rows)
    draw_cost(
        figure.add_subplot(grid[0, 1]),
        rows,
        "uplink_kb",
        "uplink, kB per client and round",
    )
    draw_cost(
        figure.add_subplot(grid[1, 1]), rows, "compute_overhead",
        "compute time / plain federated (median, quartiles)",
    )  # fmt: skip
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"privacy_utility.{suffix}", dpi=150)
    print(f"wrote {out / 'privacy_utility.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "privacy_utility", HERE)
