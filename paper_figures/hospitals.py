"""What learning together brings silos, and what privacy costs them.

    python -m paper_figures.hospitals [results folder]

Dots are means over re-splits with corrected 95% intervals: accuracy, and its difference
to the pooled model of the same split.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

PANELS = {
    "accuracy": "test accuracy, %",
    "accuracy_minus_pooled": "accuracy minus the pooled model's, points",
}
TITLES = {"": "heart disease, four hospitals", "paper_adult": "Adult by workclass"}


def name_of(pattern: str, epsilon: str) -> str:
    short = pattern.replace("federated + secure sum + central DP", "central DP")
    return short if epsilon == "inf" else f"{short}, epsilon {float(epsilon):g}"


def draw_panel(axis: plt.Axes, rows: common.Rows, column: str) -> None:
    kinds = common.distinct(rows, "pattern", "target_epsilon")
    for place, (pattern, epsilon) in enumerate(kinds):
        runs = common.where(rows, pattern=pattern, target_epsilon=epsilon)
        mean = 100 * common.column(runs, column).mean()
        low, high = (
            100 * common.column(runs[:1], f"{column}_{end}")[0]
            for end in ("low", "high")
        )
        color = common.COLOURS[1 if epsilon != "inf" else 0]
        axis.plot([low, high], [place, place], color=color, lw=1.2)
        axis.plot(mean, place, "o", color=color, ms=4)
    axis.set_yticks(range(len(kinds)), [name_of(*kind) for kind in kinds], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(PANELS[column])
    axis.grid(axis="x", alpha=0.25)
    if column != "accuracy":
        axis.axvline(0, color="0.4", lw=0.8)
        axis.set_yticklabels([])


def draw(rows: common.Rows) -> Figure:
    tables = common.distinct(rows, "configuration")
    counts = [
        len(common.distinct(common.where(rows, configuration=one), "pattern"))
        for one in tables
    ]
    figure, grid = plt.subplots(
        len(tables),
        2,
        figsize=(8.5, 0.28 * sum(counts) + 1.2 * len(tables)),
        layout="constrained",
        squeeze=False,
        height_ratios=counts,
    )
    for axes, table in zip(grid, tables, strict=True):
        own = common.where(rows, configuration=table)
        for axis, column in zip(axes, PANELS, strict=True):
            draw_panel(axis, own, column)
        axes[0].set_title(TITLES.get(table, table), fontsize=9, loc="left")
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
