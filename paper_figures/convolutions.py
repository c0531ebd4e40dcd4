"""Time of a CNN step and of its convolutions, by the way they are computed.

    python -m paper_figures.convolutions [results folder]

Times are CPU time where the backend is a CPU, because clients are spread over all
cores, and wall time elsewhere. Points are medians, with quartiles as bars.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common


def draw_groups(
    axis: plt.Axes,
    rows: common.Rows,
    looks: Mapping[str, common.Look],
    time: str,
    groups: str,
) -> None:
    """Draws a line of the chart per group, and on it a dot per way."""
    names = common.distinct(rows, groups)
    ways = [way for way in looks if common.where(rows, way=way)]
    for row in rows:
        middle, *ends = (float(row[time + end]) for end in ("", "_low", "_high"))
        place = names.index(row[groups])
        place += 0.11 * (ways.index(row["way"]) - (len(ways) - 1) / 2)
        axis.plot(ends, [place] * 2, color=looks[row["way"]].color)
        axis.plot(middle, place, **looks[row["way"]]._asdict(), ls="", label=row["way"])
    for line in range(len(names)):
        axis.axhline(line + 0.5, color="0.85", linewidth=0.8)
    axis.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    axis.set_yticks(range(len(names)), names)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", which="both", alpha=0.2)


def draw(rows: common.Rows) -> Figure:
    unit = "CPU" if rows[0]["backend"] == "cpu" else "wall"
    looks = common.looks(common.distinct(rows, "way"))
    sizes = common.distinct(rows, "batch_size")
    figure, axes = plt.subplots(
        len(sizes), 2, figsize=(9.5, 3.3 * len(sizes) + 0.6), layout="constrained",
        squeeze=False, sharex=True, width_ratios=[1.4, 1],
    )  # fmt: skip
    for size, (left, right) in zip(sizes, axes, strict=True):
        here = common.where(rows, batch_size=size)
        over = common.where(here, what="vmapped step")
        alone = [row for row in here if row not in over]
        time = f"{unit.lower()}_ms"
        draw_groups(left, alone, looks, time, "what")
        draw_groups(right, over, looks, time, "num_clients")
        left.set_title(f"one client, batches of {size}", fontsize=10)
        right.set_title(f"step under vmap over clients, batches of {size}", fontsize=10)
        right.set_ylabel("clients")
    dots = {dot.get_label(): dot for axis in axes[0] for dot in axis.lines}
    shown = {way: dots[way] for way in looks if way in dots}
    figure.legend(shown.values(), shown, loc="outside upper center", ncol=7)
    figure.supxlabel(f"{unit} milliseconds per step and client", fontsize=10)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
