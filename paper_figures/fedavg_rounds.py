"""Rounds to the target accuracy, cell by cell, beside the paper's numbers.

python paper_figures/fedavg_rounds.py [results folder]

Reads table.csv of the folder (results/fedavg_rounds by default) and writes the figure
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
CELL = ("model", "partition", "C", "E", "B")


def name(row: dict[str, str]) -> str:
    model, partition, fraction, epochs, batch = (row[key] for key in CELL)
    deal = {"iid": "IID", "shards": "2 digits each"}.get(partition, partition)
    size = "all" if batch == "600" else batch
    target = f"{float(row['target_accuracy']):.0%}"
    return f"{model} to {target}, {deal}: C={fraction}, E={epochs}, B={size}"


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = list(dict.fromkeys(name(row) for row in rows))
    size = (7.5, 1.4 + 0.27 * len(cells))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for place, cell in enumerate(cells):
        here = [row for row in rows if name(row) == cell]
        best = [row for row in here if row["best_rate"] == "True"]
        found = [float(r["rounds_to_target"]) for r in best if r["rounds_to_target"]]
        if found:
            axis.plot(found, [place] * len(found), "o", color="#0072B2", alpha=0.5)
            axis.plot(np.median(found), place, "|", color="#0072B2", ms=16, mew=2)
        else:
            ran = max(int(row["rounds_run"]) for row in here)
            axis.plot(ran, place, ">", color="#0072B2", mfc="none")
        if here[0]["paper_rounds"]:
            paper = float(here[0]["paper_rounds"])
            axis.plot(paper, place, "D", color="#D55E00", mfc="none")
    axis.plot([], [], "o", color="#0072B2", label="ours: a seed at the best rate")
    axis.plot([], [], ">", color="#0072B2", mfc="none", label="ours: not reached by")
    axis.plot([], [], "D", color="#D55E00", mfc="none", label="paper")
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    axis.set_yticks(range(len(cells)), cells)
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.set_xlabel("rounds")
    axis.grid(axis="x", which="both", alpha=0.25)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"fedavg_rounds.{suffix}", dpi=150)
    print(f"wrote {out / 'fedavg_rounds.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "fedavg_rounds", HERE)
