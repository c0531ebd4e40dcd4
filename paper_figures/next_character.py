"""Accuracy of the next character over the rounds, beside the published.

    python -m paper_figures.next_character [results folder]

A line for each seed.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common


def draw(rows: common.Rows) -> Figure:
    figure, axis = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    for (seed,), look in common.looks(common.distinct(rows, "seed")).items():
        own = common.where(rows, seed=seed)
        x, y = (common.column(own, name) for name in ("round", "accuracy"))
        axis.plot(x, 100 * y, **look._asdict(), ms=3, label=f"here, seed {seed}")
    first = rows[0]
    if first["reddi_round"]:
        at, reached = int(first["reddi_round"]), 100 * float(first["reddi_accuracy"])
        axis.plot(at, reached, "kD", mfc="none", label="Reddi et al., FedAvg")
        counted = 100 * float(first["mcmahan_accuracy"])
        axis.axhline(counted, color="0.5", ls=":", label="McMahan et al. count to")
    axis.set(xlabel="rounds", ylabel="test accuracy, %")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
