"""Rounds to the target accuracy, cell by cell, beside the paper's numbers.

    python -m paper_figures.fedavg_rounds [results folder]

Dots are seeds at the best rate, with their median.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures import common

OURS, PAPER = common.COLOURS[:2]


def name(row: dict[str, str]) -> str:
    deal = {"iid": "IID", "shards": "2 digits each"}.get(row["partition"])
    size = "all" if row["B"] == "600" else row["B"]
    return (
        f"{row['model']} to {float(row['target_accuracy']):.0%}, "
        f"{deal or row['partition']}: C={row['C']}, E={row['E']}, B={size}"
    )


def draw(rows: common.Rows) -> Figure:
    cells: dict[str, common.Rows] = {}
    for row in rows:
        cells.setdefault(name(row), []).append(row)
    size = (7.5, 1.4 + 0.27 * len(cells))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for place, here in enumerate(cells.values()):
        best = common.where(here, best_rate="True")
        found = common.column(best, "rounds_to_target")
        found = found[~np.isnan(found)]
        if len(found):
            axis.plot(found, [place] * len(found), "o", color=OURS, alpha=0.5)
            axis.plot(np.median(found), place, "|", color=OURS, ms=16, mew=2)
        else:
            ran = common.column(here, "rounds_run").max()
            axis.plot(ran, place, ">", color=OURS, mfc="none")
        paper = common.column(here, "paper_rounds")[0]
        axis.plot(paper, place, "D", color=PAPER, mfc="none")
    axis.plot([], [], "o", color=OURS, label="ours: a seed at the best rate")
    axis.plot([], [], ">", color=OURS, mfc="none", label="ours: not reached by")
    axis.plot([], [], "D", color=PAPER, mfc="none", label="paper")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    axis.set_yticks(range(len(cells)), cells)
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.set(xscale="log", xlabel="rounds")
    axis.grid(axis="x", which="both", alpha=0.25)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
