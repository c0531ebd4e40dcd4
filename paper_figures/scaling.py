"""Clients per second over devices, cohorts, populations, sweep widths, and hosts.

    python -m paper_figures.scaling [results folder]

Medians of the turns, with the lowest and the highest.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures import common

LAYOUTS = {
    "devices": "clients dealt, whole data",
    "shards": "clients by shard",
    "hosts": "processes of one device",
    "sweep": "points of a sweep",
}
CURVES = {  # curve: column, text below, place
    "cohort": ("cohort", "clients a round, of the largest population", (0, 2)),
    "population": ("population", "population, about 100 clients a round", (1, 0)),
    "width": ("width", "points of a sweep vmapped on one device", (1, 1)),
}
RATE = "clients_per_second"
BLUE, ORANGE = common.COLOURS[:2]


def rates(rows: common.Rows) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and the distances of minimum and maximum from them."""
    low, middle, high = (common.column(rows, name) for name in ("low", RATE, "high"))
    return middle, np.array([middle - low, high - middle])


def draw_devices(axis: plt.Axes, rows: common.Rows, model: str) -> None:
    """Draws rates relative to one device."""
    own = common.where(rows, model=model)
    for what, look in common.looks(LAYOUTS).items():
        found = common.where(own, what=what)
        if found:
            one = "sweep" if what == "sweep" else "devices"
            base = common.column(common.where(own, what=one, devices="1"), RATE)[0]
            middle, spread = rates(found)
            axis.errorbar(
                common.column(found, "devices"), middle / base, spread / base,
                **look._asdict(), capsize=3, label=LAYOUTS[what],
            )  # fmt: skip
    axis.set(xlabel=f"devices ({model}; the machine has 2 cores)", ylim=(0, None))
    axis.set(ylabel="rate, in those of one device", xticks=[1, 2, 4])
    axis.axhline(1, color="0.7", lw=0.8)
    axis.legend(fontsize=7)


def draw_curve(axis: plt.Axes, rows: common.Rows, what: str) -> None:
    """Draws clients per second and memory over a column."""
    over, text, _ = CURVES[what]
    found = common.where(rows, what=what)
    places, mib = (common.column(found, name) for name in (over, "peak_mib"))
    axis.errorbar(places, *rates(found), fmt="o-", capsize=3, color=BLUE)
    axis.set(xscale="log", xlabel=text, ylabel="clients per second", ylim=(0, None))
    memory = axis.twinx()
    memory.plot(places, mib, "x:", color="0.4", label="memory")
    memory.set(ylabel="peak memory, MiB", ylim=(0, 2 * mib.max()))
    memory.legend(fontsize=7, loc="lower right")


def draw_projection(axis: plt.Axes, rows: common.Rows) -> None:
    found = common.where(rows, what="projection")
    if not found:
        return
    hosts, rate = (common.column(found, name) for name in ("hosts", RATE))
    axis.plot(hosts, rate, "o--", color=ORANGE, label="projection, not measured")
    axis.plot(hosts, rate[0] * hosts, ":", color="0.5", label="linear")
    axis.set(xscale="log", yscale="log", ylabel="clients per second")
    axis.set(xlabel=f"hosts like this one, {int(found[0]['cohort']):,} clients a round")
    axis.legend(fontsize=7)


def draw(rows: common.Rows) -> Figure:
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    draw_devices(axes[0, 0], rows, "2nn")
    draw_devices(axes[0, 1], rows, "logistic")
    for what, (_, _, place) in CURVES.items():
        draw_curve(axes[place], rows, what)
    draw_projection(axes[1, 2], rows)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
