"""Best test accuracy and the worst clients, by partition and algorithm.

python paper_figures/heterogeneity.py [results folder]

Reads table.csv of the folder (results/heterogeneity by default) and writes the figure
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
COLOURS = {"fedavg": "#0072B2", "fedprox": "#D55E00", "scaffold": "#009E73"}
PANELS = {
    "best_accuracy": "best test accuracy, %",
    "client_accuracy_worst_decile": "accuracy of the worst tenth of clients, %",
}


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    partitions = list(dict.fromkeys(row["partition"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, (column, label) in zip(axes, PANELS.items(), strict=True):
        for shift, (algorithm, colour) in enumerate(COLOURS.items()):
            for place, partition in enumerate(partitions):
                runs = [
                    row
                    for row in rows
                    if (row["partition"], row["algorithm"]) == (partition, algorithm)
                ]
                x = place + 0.25 * (shift - 1)
                found = [100 * float(run[column]) for run in runs]
                axis.plot([x] * len(found), found, "o", color=colour, alpha=0.6)
                axis.plot(x, np.mean(found), "_", color=colour, ms=16, mew=2)
                if column == "best_accuracy" and runs[0]["niid_bench_percent"]:
                    published = float(runs[0]["niid_bench_percent"])
                    axis.plot(x, published, "D", color="0.2", mfc="none")
        axis.set_xticks(range(len(partitions)), partitions)
        axis.set_ylabel(label)
        axis.grid(axis="y", alpha=0.25)
    for algorithm, colour in COLOURS.items():
        axes[0].plot([], [], "o", color=colour, label=algorithm)
    if any(row["niid_bench_percent"] for row in rows):
        axes[0].plot(
            [],
            [],
            "D",
            color="0.2",
            mfc="none",
            label="NIID-Bench, 50 rounds of 10 epochs",
        )
    axes[0].legend(fontsize=8)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"heterogeneity.{suffix}", dpi=150)
    print(f"wrote {out / 'heterogeneity.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "heterogeneity", HERE)
