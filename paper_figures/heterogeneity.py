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
    "client_accuracy_worst_decile": "worst tenth of clients, %",
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
    axis.set_xlim(-0.6, len(partitions) - 0.4)
    axis.set_title(rows[0]["dataset"], fontsize=9)
    axis.grid(axis="y", alpha=0.25)


def draw(rows: common.Rows) -> Figure:
    of_data = [common.where(rows, dataset=d) for d in common.distinct(rows, "dataset")]
    widths = [1.2 * len(common.distinct(own, "partition")) + 0.4 for own in of_data]
    figure, axes = plt.subplots(
        len(PANELS),
        len(of_data),
        figsize=(1.5 + sum(widths), 5.6),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    for across, (name, title) in zip(axes, PANELS.items(), strict=True):
        across[0].set_ylabel(title)
        for axis, own in zip(across, of_data, strict=True):
            draw_panel(axis, own, name)
    names = axes[0][0].get_legend_handles_labels()
    if any(row["niid_bench_percent"] for row in rows):
        mark = axes[0][0].plot([], [], **BENCH)
        names = (
            [*names[0], *mark],
            [*names[1], "NIID-Bench, 50 rounds of 10 epochs"],
        )
    figure.legend(*names, loc="outside upper center", ncols=4, fontsize=8)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
