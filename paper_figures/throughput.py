"""Client updates per second of the lab and its peers, and the lab's growth curves.

    python -m paper_figures.throughput [results folder]

Medians of the turns, with the lowest and the highest.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures import common

HATCHES = ("", "///", "...", "xxx")
"""Hatches of a system's first, second, ... variant."""
RATE = "client_updates_per_second"


def rates(rows: common.Rows) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and the distances of minimum and maximum from them."""
    low, middle, high = (common.column(rows, name) for name in ("low", RATE, "high"))
    return middle, np.array([middle - low, high - middle])


def draw_comparison(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws bars for every system, grouped by model and kind of sizes."""
    cells = common.distinct(rows, "model", "sizes")
    looks = common.looks(common.distinct(rows, "system"))
    series = common.distinct(rows, "system", "variant")
    width = 0.875 / len(series)
    for place, (system, variant) in enumerate(series):
        variants = [v for s, v in series if s == system]
        found = common.where(rows, system=system, variant=variant)
        at = [cells.index((row["model"], row["sizes"])) for row in found]
        middle, spread = rates(found)
        bars = axis.bar(
            np.array(at) + (place - (len(series) - 1) / 2) * width, middle, width,
            yerr=spread, capsize=2, color=looks[system].color, edgecolor="white",
            hatch=HATCHES[variants.index(variant)], label=f"{system}, {variant}",
        )  # fmt: skip
        shown = [f"{m:,.0f}" if m >= 100 else f"{m:.3g}" for m in middle]
        axis.bar_label(bars, shown, fontsize=6, padding=2)
    names = [f"{m.upper()}, {s.replace('_', '-')} sizes" for m, s in cells]
    axis.set_xticks(range(len(cells)), names)
    axis.set(yscale="log", ylabel="client updates per second")
    axis.set_ylim(1, axis.get_ylim()[1] * 3)
    axis.legend(fontsize=7, ncols=2, loc="upper right")


def draw_curve(axis: plt.Axes, rows: common.Rows, over: str, text: str) -> None:
    """Draws updates per second over a column, a line for every model."""
    for model, look in common.looks(common.distinct(rows, "model")).items():
        found = common.where(rows, model=model)
        axis.errorbar(
            common.column(found, over), *rates(found), **look._asdict(), capsize=3,
            label=f"{model.upper()}, rate",
        )  # fmt: skip
    ticks = [int(tick) for tick in common.numbers(rows, over)]
    axis.set(xscale="log", yscale="log", xlabel=text)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)


def draw(rows: common.Rows) -> Figure:
    figure = plt.figure(figsize=(10, 6.4), layout="constrained")
    top, bottom = figure.add_gridspec(2, 1, height_ratios=[1.25, 1])
    draw_comparison(figure.add_subplot(top), common.where(rows, what="comparison"))
    left, right = (figure.add_subplot(cell) for cell in bottom.subgridspec(1, 2))
    growth, over = common.where(rows, what="growth"), "clients_per_round"
    draw_curve(left, growth, over, "clients per round, of 10,000 with 6 examples")
    left.set_ylabel("client updates per second")
    memory, mib = left.twinx(), common.column(growth, "peak_mib")
    memory.plot(common.column(growth, over), mib, "x:", color="0.3", label="memory")
    memory.set(ylabel="peak memory, MiB", ylim=(0, 2 * mib.max()))
    memory.legend(fontsize=7, loc="lower right")
    lanes = common.where(rows, what="lanes")
    draw_curve(right, lanes, "lanes", "clients that train at once on a device")
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
