"""Accuracy of training on shares, with noise and with few bits, and its traffic.

    python -m paper_figures.private_training [results folder]

A panel for each regression shows accuracy on shares with DP against epsilon, with lines
for pooled training, training on shares without noise, and the best and worst owner
alone. Another panel shows the network's accuracy against fraction bits, if it was
trained.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

BLUE, ORANGE, GREEN = common.COLOURS[:3]
LEVELS = {
    "pooled": (GREEN, "-"),
    "shares": (BLUE, "--"),
    "pooled, clipped, piecewise": (GREEN, ":"),
}


def levels(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws lines for methods without epsilon."""
    (alone,) = common.where(rows, method="alone")
    low, high = float(alone["worst"]), float(alone["accuracy"])
    axis.axhspan(low, high, color="0.5", alpha=0.2, label="owners alone")
    for method, (color, style) in LEVELS.items():
        for row in common.where(rows, method=method):
            axis.axhline(float(row["accuracy"]), color=color, ls=style, label=method)


def by_epsilon(axis: plt.Axes, rows: common.Rows) -> str:
    noisy = common.where(rows, method="shares + DP")
    epsilon, accuracy, spread = (
        common.column(noisy, name)
        for name in ("target_epsilon", "accuracy", "accuracy_std")
    )
    axis.errorbar(epsilon, accuracy, spread, fmt="o-", color=ORANGE, ms=4,
                  label="shares + DP")  # fmt: skip
    (sent,) = common.where(rows, method="shares")
    axis.set(xscale="log", xlabel="epsilon", ylabel="accuracy")
    axis.set_xticks(epsilon, [f"{value:g}" for value in epsilon])
    axis.set_xticks([], minor=True)
    return f"{int(sent['online_bytes']) / 1e6:.1f} MB, {sent['rounds']} rounds"


def by_bits(axis: plt.Axes, rows: common.Rows) -> str:
    swept = common.where(rows, method="bits")
    bits, accuracy = (
        common.column(swept, name) for name in ("fraction_bits", "accuracy")
    )
    axis.plot(bits, accuracy, "o-", color=ORANGE, ms=4, label="shares, by bits")
    axis.set(xlabel="fraction bits", ylabel="accuracy", ylim=(0, 1))
    return "2NN trained on shares"


def draw(rows: common.Rows) -> Figure:
    cases = common.distinct(rows, "case")
    figure, axes = plt.subplots(
        1, len(cases), figsize=(4.6 * len(cases), 3.8), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for case, axis in zip(cases, axes[0], strict=True):
        mine = common.where(rows, case=case)
        levels(axis, mine)
        panel = by_bits if common.where(mine, method="bits") else by_epsilon
        axis.set_title(f"{case}: {panel(axis, mine)}", fontsize=10)
        axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
