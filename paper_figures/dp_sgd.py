"""Accuracy of DP-SGD, in published settings beside their sources, and over epsilon.

    python -m paper_figures.dp_sgd [results folder]

Points are means over seeds with their standard deviations; the sources' are hollow.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common


def draw_published(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws a line for every setting, with our accuracy and its source's."""
    settings = common.distinct(rows, "name", "dataset")
    blue = common.COLOURS[0]
    for place, (name, dataset) in enumerate(settings):
        own = common.where(rows, name=name, dataset=dataset)
        mean, spread = common.mean_and_spread(100 * common.column(own, "accuracy"))
        axis.errorbar(mean, place, xerr=spread, fmt="o", capsize=3, color=blue)
        theirs, spread = (
            common.column(own, f"source_{what}")[0] for what in ("percent", "spread")
        )
        axis.errorbar(theirs, place + 0.25, xerr=spread, fmt="D", mfc="white",
                      capsize=3, color="black")  # fmt: skip
    axis.plot([], [], "o", color=blue, label="ours (mean, sd)")
    axis.plot([], [], "D", mfc="white", color="black", label="source")
    axis.set_yticks(range(len(settings)), ["\n".join(one) for one in settings],
                    fontsize=7)  # fmt: skip
    axis.invert_yaxis()
    axis.set_xlabel("test accuracy, %")
    axis.legend(fontsize=7)


def draw_curve(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws accuracy over epsilon, a line for every data set."""
    for dataset, look in common.looks(sorted(common.distinct(rows, "dataset"))).items():
        line = common.over(
            common.where(rows, dataset=dataset), "target_epsilon", "accuracy", 100
        )
        axis.errorbar(*line, **look._asdict(), ms=4, capsize=2, label=dataset)
    axis.set_xscale("log")
    epsilons = common.numbers(rows, "target_epsilon")
    axis.set_xticks([*map(float, epsilons)], epsilons)
    axis.minorticks_off()
    delta = float(rows[0]["delta"])
    axis.set_xlabel(f"epsilon by {common.accountants(rows)} at delta {delta:g}")
    axis.set_ylabel("test accuracy, %")
    axis.legend(fontsize=7)


def draw(rows: common.Rows) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw_published(left, [row for row in rows if row["name"] != "curve"])
    draw_curve(right, common.where(rows, name="curve"))
    for axis in (left, right):
        axis.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
