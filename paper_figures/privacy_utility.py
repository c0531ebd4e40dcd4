"""Accuracy against epsilon by adversary and unit, the tuning's spread, and the costs.

    python -m paper_figures.privacy_utility [results folder]

There is a panel for every guarantee (who is protected against whom), with means over
seeds and their 95% intervals, on an axis of the differences; lines without epsilon are
horizontal. Another panel shows the random search: the settings' worst, median and best
on validation rows, beside the seeds' spread at epsilon 1. A figure shows one data set:
if the folder has several, Fashion-MNIST if it is among them.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures import common

DASHED = (0, (4, 4))
BLUE, ORANGE, GREEN = common.COLOURS[:3]
STYLE = {  # colour, marker, line: distinct where means are equal
    "central training": ("0.15", "", "-"),
    "federated": (BLUE, "", "-"),
    "federated + secure sum": (ORANGE, "", DASHED),
    "central training + DP": ("0.15", "v", ":"),
    "federated + central DP": (BLUE, "o", "-"),
    "federated + central DP + secure sum": (ORANGE, "s", DASHED),
    "federated + local DP": (GREEN, "^", "-"),
}
PANELS = {
    "clients, against who sees\nthe released models": (
        "federated + central DP",
        "federated + central DP + secure sum",
    ),
    "clients, against\nthe server too": ("federated + local DP",),
    "examples, against who sees\nthe released models": ("central training + DP",),
}


def accuracies(rows: common.Rows, pattern: str, target: str) -> np.ndarray:
    found = common.where(rows, pattern=pattern, target_epsilon=target)
    return common.column(found, "accuracy")


def draw_accuracy(
    axis: plt.Axes, rows: common.Rows, private: tuple[str, ...], targets: list[str]
) -> None:
    for pattern, (color, marker, line) in STYLE.items():
        look = {"color": color, "linestyle": line, "label": pattern}
        if pattern in private:
            known = [t for t in targets if len(accuracies(rows, pattern, t))]
            found = [accuracies(rows, pattern, target) for target in known]
            means = [seeds.mean() for seeds in found]
            halves = [common.half_interval(seeds) for seeds in found]
            axis.errorbar(
                [*map(float, known)], means, halves, marker=marker, capsize=3, **look
            )
        plain = accuracies(rows, pattern, "inf")
        if len(plain):
            axis.axhline(plain.mean(), linewidth=1, **look)
    axis.set_xscale("log", base=2)
    axis.set_xticks([*map(float, targets)], targets)
    axis.set_xlabel(f"ε of the whole run ({common.accountants(rows)})", fontsize=8)
    axis.grid(alpha=0.25)


def draw_search(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws a line per pattern: the range of its settings, and the spread of seeds."""
    for place, (pattern, (color, marker, _)) in enumerate(STYLE.items()):
        mine = common.where(rows, pattern=pattern)
        if not mine or not mine[0].get("search_best"):
            axis.text(0, place, " not tuned", va="center", fontsize=7, color="0.5")
            continue
        ends = [float(mine[0][f"search_{k}"]) for k in ("worst", "median", "best")]
        axis.plot(ends[::2], [place] * 2, color=color, lw=1, alpha=0.6)
        axis.plot(ends[1], place, color=color, marker="|", ms=9)
        axis.plot(ends[2], place, color=color, marker=marker or "o", ms=4)
        at = "1" if common.where(mine, target_epsilon="1") else "inf"
        seeds = accuracies(mine, pattern, at)
        axis.plot(seeds, [place + 0.3] * len(seeds), ".", color=color, ms=3)
    axis.set_yticks(range(len(STYLE)), list(STYLE), fontsize=7)
    axis.set_ylim(len(STYLE) - 0.4, -0.6)
    axis.set_xlabel(
        "16 settings, validation accuracy: worst, median (|), best;\n"
        "dots: seeds of the comparison at ε 1, test accuracy",
        fontsize=8,
    )
    axis.grid(axis="x", alpha=0.25)


def draw_cost(
    axis: plt.Axes, rows: common.Rows, name: str, unit: float, text: str
) -> None:
    """Draws a bar per pattern, with quartiles where the table has them."""
    for place, (pattern, (color, _, _)) in enumerate(STYLE.items()):
        found = [row for row in common.where(rows, pattern=pattern) if row[name]]
        if not found:
            axis.text(0, place, " not applicable", va="center", fontsize=7, color="0.5")
            continue
        middle, low, high = (
            float(found[0].get(name + end, found[0][name])) / unit
            for end in ("", "_low", "_high")
        )
        spread = [[middle - low], [high - middle]]
        axis.barh(place, middle, xerr=spread, color=color, alpha=0.75, height=0.6)
        axis.text(high, place, f"  {middle:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(STYLE)), [""] * len(STYLE))
    axis.set_ylim(len(STYLE) - 0.4, -0.6)
    axis.margins(x=0.25)
    axis.set_xlabel(text, fontsize=8)


def compared(rows: common.Rows) -> common.Rows:
    """The rows of one comparison."""
    rows = [row for row in rows if row.get("accuracy")]
    names = common.distinct(rows, "configuration")
    chosen = "paper_fashion" if "paper_fashion" in names else names[0]
    return common.where(rows, configuration=chosen)


def draw(rows: common.Rows) -> Figure:
    rows = compared(rows)
    common.check_known(rows, "pattern", STYLE)
    targets = [t for t in common.numbers(rows, "target_epsilon") if t != "inf"]
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=[1.3, 1])
    for place, (title, private) in enumerate(PANELS.items()):
        # Each panel has an axis of its own differences.
        axis = figure.add_subplot(grid[0, 2 * place : 2 * place + 2])
        draw_accuracy(axis, rows, private, targets)
        axis.set_title(title, fontsize=9)
        if not place:
            axis.set_ylabel("test accuracy")
    draw_search(figure.add_subplot(grid[1, :2]), rows)
    for place, (name, unit, text) in enumerate(
        (
            ("uplink_bytes", 1e3, "uplink, kB per client and round"),
            ("compute_overhead", 1, "compute time over plain federated"),
        )
    ):
        own = grid[1, 2 * place + 2 : 2 * place + 4]
        draw_cost(figure.add_subplot(own), rows, name, unit, text)
    shown = {}
    for axis in figure.axes[: len(PANELS)]:
        handles, labels = axis.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    ordered = {name: shown[name] for name in STYLE if name in shown}
    figure.legend(
        ordered.values(), ordered, loc="outside upper center", ncol=4, fontsize=8
    )
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
