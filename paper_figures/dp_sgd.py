"""Accuracy of DP-SGD: published settings beside their sources, and over epsilon.

python paper_figures/dp_sgd.py [results folder]

Reads table.csv of the folder (results/dp_sgd by default) and writes the figure as PDF
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
COLOURS = ("#0072B2", "#D55E00", "#009E73")


def percents(rows: list[dict[str, str]]) -> tuple[float, float]:
    """Mean and standard deviation over seeds."""
    found = [100 * float(row["accuracy"]) for row in rows]
    return float(np.mean(found)), float(np.std(found))


def draw_published(axis: plt.Axes, rows: list[dict[str, str]]) -> None:
    """A line for every setting: ours, and its source's."""
    settings = list(dict.fromkeys((row["name"], row["dataset"]) for row in rows))
    for place, setting in enumerate(settings):
        own = [row for row in rows if (row["name"], row["dataset"]) == setting]
        mean, spread = percents(own)
        axis.errorbar(mean, place, xerr=spread, fmt="o", capsize=3, color=COLOURS[0])
        if own[0]["source_percent"]:
            spread = float(own[0]["source_spread"] or "nan")
            axis.errorbar(
                float(own[0]["source_percent"]), place + 0.25, xerr=spread,
                fmt="D", mfc="white", capsize=3, color="black",
            )  # fmt: skip
    axis.plot([], [], "o", color=COLOURS[0], label="ours (mean, sd)")
    axis.plot([], [], "D", mfc="white", color="black", label="source")
    names = [f"{name}\n{dataset}" for name, dataset in settings]
    axis.set_yticks(range(len(settings)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("test accuracy, %")
    axis.legend(fontsize=7)


def draw_curve(axis: plt.Axes, rows: list[dict[str, str]]) -> None:
    """Accuracy over epsilon, a line for every data set."""
    for dataset, colour in zip(
        sorted({r["dataset"] for r in rows}), COLOURS, strict=False
    ):
        own = [row for row in rows if row["dataset"] == dataset]
        epsilons = sorted({float(row["target_epsilon"]) for row in own})
        found = [
            percents([r for r in own if float(r["target_epsilon"]) == epsilon])
            for epsilon in epsilons
        ]
        means, spreads = zip(*found, strict=True)
        axis.errorbar(
            epsilons, means, spreads, fmt="o-", ms=4, capsize=2, color=colour,
            label=dataset,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axis.minorticks_off()
    # Tables without the column met their targets by RDP.
    kinds = {row.get("accountant", "rdp").upper() for row in rows} - {""}
    by = " or ".join(sorted(kinds))
    axis.set_xlabel(f"epsilon by {by} at delta {float(rows[0]['delta']):g}")
    axis.set_ylabel("test accuracy, %")
    axis.legend(fontsize=7)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw_published(left, [row for row in rows if row["name"] != "curve"])
    draw_curve(right, [row for row in rows if row["name"] == "curve"])
    for axis in (left, right):
        axis.grid(alpha=0.25)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"dp_sgd.{suffix}", dpi=150)
    print(f"wrote {out / 'dp_sgd.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "dp_sgd", HERE)
