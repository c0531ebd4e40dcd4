"""Rounds to the target accuracy by client learning rate, beside the paper's number.

python paper_figures/fedavg_rounds.py [results folder]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    rates = sorted({row["learning_rate"] for row in rows}, key=float)
    for place, rate in enumerate(rates):
        runs = [row for row in rows if row["learning_rate"] == rate]
        found = [
            float(run["rounds_to_target"]) for run in runs if run["rounds_to_target"]
        ]
        color = "#D55E00" if runs[0]["best_rate"] == "True" else "#0072B2"
        axis.plot([place] * len(found), found, "o", color=color, alpha=0.7)
        if missed := len(runs) - len(found):
            axis.text(place, 0, f"{missed} not reached", ha="center", va="bottom")
    if rows[0]["paper_rounds"]:
        paper = float(rows[0]["paper_rounds"])
        axis.axhline(paper, color="0.3", linestyle="--", label=f"paper: {paper:g}")
        axis.legend()
    axis.set_xticks(range(len(rates)), [f"{float(rate):g}" for rate in rates])
    axis.set_xlabel("client learning rate (best in orange; a dot is a seed)")
    axis.set_ylabel(f"rounds to {float(rows[0]['target_accuracy']):.0%} test accuracy")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.25)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"fedavg_rounds.{suffix}", dpi=150)
    print(f"wrote {out / 'fedavg_rounds.png'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "fedavg_rounds", HERE)
