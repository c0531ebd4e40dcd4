"""Accuracy of DP-FedAvg by noise, clip and cohort, and its projected cost at scale.

    python -m paper_figures.dp_fedavg [results folder]

Means over seeds with their standard deviations.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common


def draw_clips(axis: plt.Axes, rows: common.Rows, over: str) -> None:
    """Draws a line for every clip rule."""
    clips = common.looks(common.distinct(rows, "clipping", "clip_norm"))
    for (rule, norm), look in clips.items():
        own = common.where(rows, clipping=rule, clip_norm=norm)
        axis.errorbar(
            *common.over(own, over, "accuracy", 100), **look._asdict(), ms=3, capsize=2,
            label=f"clip {norm}" if rule == "flat" else f"{rule} from {norm}",
        )  # fmt: skip
    axis.grid(alpha=0.25)


def draw(rows: common.Rows) -> Figure:
    cohorts = common.numbers(rows, "cohort")
    figure, axes = plt.subplots(
        2, len(cohorts), figsize=(3 * len(cohorts), 5.4), layout="constrained",
        sharey=True, squeeze=False,
    )  # fmt: skip
    for cohort, (top, bottom) in zip(cohorts, axes.T, strict=True):
        own = common.where(rows, cohort=cohort)
        draw_clips(top, own, "noise")
        top.set_xscale("symlog", linthresh=0.01)
        top.set(title=f"cohort {cohort}", xlabel="noise multiplier")
        private = [row for row in own if float(row["noise"]) > 0]
        draw_clips(bottom, private, "projected_epsilon_rdp")
        there, population = (
            int(own[0][f"projected_{name}"]) for name in ("cohort", "population")
        )
        bottom.set_xscale("log")
        bottom.set_xlabel(f"epsilon projected to {there:,} of {population:,}",
                          fontsize=8)  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy, %")
    axes[0, -1].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
