"""Accuracy of DP-FedAvg by noise, clip and cohort, and what it would cost at scale.

python paper_figures/dp_fedavg.py [results folder]

Reads table.csv of the folder (results/dp_fedavg by default) and writes the figure as
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
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00")


def draw(axis: plt.Axes, rows: list[dict[str, str]], over: str) -> None:
    """A line for every clip rule: mean and standard deviation over seeds."""
    clips = list(dict.fromkeys((row["clipping"], row["clip_norm"]) for row in rows))
    for (rule, norm), colour in zip(clips, COLOURS, strict=False):
        own = [
            row for row in rows if (row["clipping"], row["clip_norm"]) == (rule, norm)
        ]
        places = sorted({float(row[over]) for row in own})
        found = [
            [100 * float(r["accuracy"]) for r in own if float(r[over]) == place]
            for place in places
        ]
        name = f"clip {norm}" if rule == "flat" else f"adaptive from {norm}"
        axis.errorbar(
            places, [np.mean(f) for f in found], [np.std(f) for f in found],
            fmt="o-", ms=3, capsize=2, color=colour, label=name,
        )  # fmt: skip
    axis.grid(alpha=0.25)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    cohorts = sorted({int(row["cohort"]) for row in rows})
    size = (3 * len(cohorts), 5.4)
    figure, axes = plt.subplots(
        2, len(cohorts), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for column, cohort in enumerate(cohorts):
        own = [row for row in rows if int(row["cohort"]) == cohort]
        top, bottom = axes[:, column]
        draw(top, own, "noise")
        top.set_xscale("symlog", linthresh=0.01)
        top.set(title=f"cohort {cohort}", xlabel="noise multiplier")
        private = [row for row in own if float(row["noise"]) > 0]
        draw(bottom, private, "projected_epsilon_rdp")
        cohort_there = int(own[0]["projected_cohort"])
        population = int(own[0]["projected_population"])
        bottom.set_xscale("log")
        bottom.set_xlabel(
            f"epsilon projected to {cohort_there:,} of {population:,}", fontsize=8
        )
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy, %")
    axes[0, -1].legend(fontsize=7)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"dp_fedavg.{suffix}", dpi=150)
    print(f"wrote {out / 'dp_fedavg.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "dp_fedavg", HERE)
