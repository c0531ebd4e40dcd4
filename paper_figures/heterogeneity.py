"""Best test accuracy and the worst clients, by partition and algorithm.

    python -m paper_figures.heterogeneity [results folder]

Dots are seeds, with their mean.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

PANELS = {
    "best_accuracy": "best test accuracy, %",
    "client_accuracy_worst_decile": "accuracy of the worst tenth of clients, %",
}
BENCH = {"ls": "", "marker": "D", "color": "0.2", "mfc": "none"}


def draw_panel(axis: plt.Axes, rows: common.Rows, name: str) -> None:
    partitions = common.distinct(rows, "partition")
    looks = common.looks(common.distinct(rows, "algorithm"))
    for shift, (algorithm, (color, marker)) in enumerate(looks.items()):
        for place, partition in enumerate(partitions):
            runs = common.where(rows, partition=partition, algorithm=algorithm)
            x = place + 0.25 * (shift - (len(looks) - 1) / 2)
            found = 100 * common.column(runs, name)
            axis.plot([x] * len(found), found, marker, color=color, alpha=0.6)
            axis.plot(x, found.mean(), "_", color=color, ms=16, mew=2)
            if name == "best_accuracy":
                axis.plot(x, common.column(runs, "niid_bench_percent")[0], **BENCH)
        axis.plot([], [], marker, color=color, label=algorithm)
    axis.set_xticks(range(len(partitions)), partitions)
    axis.set_ylabel(PANELS[name])
    axis.grid(axis="y", alpha=0.25)


def draw(rows: common.Rows) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, name in zip(axes, PANELS, strict=True):
        draw_panel(axis, rows, name)
    if any(row["niid_bench_percent"] for row in rows):
        axes[0].plot([], [], **BENCH, label="NIID-Bench, 50 rounds of 10 epochs")
    axes[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
