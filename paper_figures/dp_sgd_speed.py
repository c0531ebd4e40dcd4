"""Time of a DP-SGD step, ours and peers', beside our step without privacy.

    python -m paper_figures.dp_sgd_speed [results folder]

Filled markers are the fastest microbatch size, with its range over the turns and its
ratio to our step without privacy; other sizes are hollow. The dashed line is 1.5 times
that step, plus the noise draw.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

TIME = "milliseconds_per_step"


def draw_model(
    axis: plt.Axes, rows: common.Rows, names: dict[tuple[str, str], str]
) -> None:
    """Draws one model: a line of the chart for every method."""
    fastest: dict[tuple[str, str], float] = {}
    for row in sorted(rows, key=lambda row: float(row[TIME])):
        name, time = (row["system"], row["method"]), float(row[TIME])
        place, color = [*names].index(name), names[name]
        best = fastest.setdefault(name, time) == time
        axis.plot(time, place, "o", mec=color, mfc=color if best else "none")
        if best:
            axis.plot([float(row["low"]), float(row["high"])], [place] * 2, color=color)
            ratio = float(row["ratio_to_no_privacy"])
            shown = f"{ratio:.3g}x, {row['microbatch']} at once"
            axis.text(time, place - 0.2, shown, fontsize=7, ha="center")
    plain, noise = (fastest["ppml_lab", name] for name in ("no_privacy", "noise"))
    axis.axvline(1.5 * plain + noise, color="0.8", linestyle="--", zorder=0)
    axis.set(xscale="log", xlabel="milliseconds per step", title=rows[0]["model"])
    axis.margins(x=0.2)


def draw(rows: common.Rows) -> Figure:
    models = common.distinct(rows, "model")
    looks = common.looks(common.distinct(rows, "system"))
    names = {
        name: looks[name[0]].color for name in common.distinct(rows, "system", "method")
    }
    size = (1.5 + 3.2 * len(models), 1.4 + 0.36 * len(names))
    figure, axes = plt.subplots(
        1, len(models), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, model in zip(axes[0], models, strict=True):
        draw_model(axis, common.where(rows, model=model), names)
    axes[0, 0].set_yticks(range(len(names)), [", ".join(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.8)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
