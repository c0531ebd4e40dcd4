"""Accuracy against epsilon, one line per pattern, and what each pattern costs.

    python -m paper_figures.privacy_utility [results folder]

Means over seeds with their 95% intervals; horizontal lines have no epsilon.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
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


def draw_accuracy(axis: plt.Axes, rows: common.Rows) -> None:
    targets = [t for t in common.numbers(rows, "target_epsilon") if t != "inf"]
    for pattern, (color, marker, line) in STYLE.items():
        look = {"color": color, "linestyle": line, "label": pattern}
        mine = common.where(rows, pattern=pattern)
        plain = common.where(mine, target_epsilon="inf")
        if plain:
            mean = common.column(plain, "accuracy").mean()
            axis.axhline(mean, linewidth=1, **look)
            continue
        found = [
            common.column(common.where(mine, target_epsilon=t), "accuracy")
            for t in targets
        ]
        halves = [common.half_interval(seeds) for seeds in found]
        means = [seeds.mean() for seeds in found]
        axis.errorbar(
            [*map(float, targets)], means, halves, marker=marker, capsize=3, **look
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks([*map(float, targets)], targets)
    xlabel = f"ε of the whole run ({common.accountants(rows)})"
    axis.set(xlabel=xlabel, ylabel="test accuracy", ylim=(0, 1))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="center")


def draw_cost(
    axis: plt.Axes, rows: common.Rows, name: str, unit: float, text: str
) -> None:
    """A bar per pattern, with quartiles where the table has them."""
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
    axis.set_yticks(range(len(STYLE)), list(STYLE), fontsize=7)
    axis.set_ylim(len(STYLE) - 0.4, -0.6)
    axis.margins(x=0.2)
    axis.set_xlabel(text, fontsize=8)


def draw(rows: common.Rows) -> Figure:
    common.check_known(rows, "pattern", STYLE)
    figure = plt.figure(figsize=(10, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1])
    draw_accuracy(figure.add_subplot(grid[:, 0]), rows)
    for place, (name, unit, text) in enumerate(
        (
            ("uplink_bytes", 1e3, "uplink, kB per client and round"),
            ("compute_overhead", 1, "compute time over plain federated"),
        )
    ):
        draw_cost(figure.add_subplot(grid[place, 1]), rows, name, unit, text)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
