"""Accuracy of private training under secure sums of few bits.

    python -m paper_figures.bits_accuracy [results folder]

From left to right: the whole grid of modulus and scale at one epsilon, with a line left
of which the largest possible sum does not fit; the best scale for each modulus, by
epsilon; the same by cohort; dropouts, by cohort, with the rounds that abort (hollow).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common


def best(rows: common.Rows) -> dict[str, str]:
    """The row with the largest accuracy."""
    return max(rows, key=lambda row: float(row["accuracy"]))


def heat(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws the accuracy of every modulus and scale."""
    bits = common.numbers(rows, "modulus_bits")
    scales = common.numbers(rows, "scale_bits")
    lines = [
        sorted(common.where(rows, scale_bits=s), key=lambda r: int(r["modulus_bits"]))
        for s in scales
    ]
    grid = [common.column(line, "accuracy") for line in lines]
    axis.imshow(grid, origin="lower", cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(lines):
        for x, accuracy in enumerate(grid[y]):
            color = "white" if accuracy < 0.6 else "black"
            axis.text(x, y, f"{accuracy:.2f}", ha="center", va="center", color=color,
                      fontsize=7)  # fmt: skip
        edge = (common.column(line, "headroom_bits") < 0).sum() - 0.5
        axis.plot([edge] * 2, [y - 0.5, y + 0.5], color="red", lw=2)
    axis.set_xticks(range(len(bits)), bits)
    axis.set_yticks(range(len(scales)), scales)
    axis.set(xlabel="bits of the modulus", ylabel="bits of the scale")


def best_by(axis: plt.Axes, rows: common.Rows, name: str) -> None:
    """Draws the best scale's accuracy against bits, a line for each value of `name`."""
    for value, look in common.looks(common.numbers(rows, name)).items():
        mine = common.where(rows, **{name: value})
        bits = common.numbers(mine, "modulus_bits")
        chosen = [best(common.where(mine, modulus_bits=b)) for b in bits]
        axis.errorbar(
            [*map(int, bits)],
            common.column(chosen, "accuracy"),
            common.column(chosen, "accuracy_std"),
            **look._asdict(), ms=4, label=value,
        )  # fmt: skip
    title = name.removeprefix("target_")
    axis.set(xlabel="bits of the modulus", ylabel="accuracy", ylim=(0, 1))
    axis.legend(title=title, fontsize=7, title_fontsize=7, loc="lower right")


def drop_outs(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws accuracy and aborted rounds against dropouts, a line for each cohort."""
    for cohort, look in common.looks(common.numbers(rows, "cohort")).items():
        mine = common.where(rows, cohort=cohort)
        mine.sort(key=lambda row: float(row["dropout_prob"]))
        shares = common.column(mine, "dropout_prob")
        spread = common.column(mine, "accuracy_std")
        axis.errorbar(shares, common.column(mine, "accuracy"), spread,
                      **look._asdict(), ms=4, label=cohort)  # fmt: skip
        axis.plot(shares, common.column(mine, "aborted_share"), **look._asdict(),
                  ls="--", ms=4, mfc="none")  # fmt: skip
    axis.set(xlabel="chance to drop out", ylabel="accuracy; share of aborted rounds")
    axis.set(ylim=(-0.02, 1))
    axis.legend(title="cohort", fontsize=7, title_fontsize=7)


def draw(rows: common.Rows) -> Figure:
    cohort = common.numbers(rows, "cohort")[-1]
    epsilon = common.numbers(rows, "target_epsilon")[-2]
    stays = min(common.numbers(rows, "dropout_prob"), key=float)
    whole = common.where(rows, dropout_prob=stays)
    at = common.where(whole, cohort=cohort, target_epsilon=epsilon)
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    heat(axes[0], at)
    best_by(axes[1], common.where(whole, cohort=cohort), "target_epsilon")
    best_by(axes[2], common.where(whole, target_epsilon=epsilon), "cohort")
    # The most bits, and the scale that is best there.
    most = {"modulus_bits": common.numbers(rows, "modulus_bits")[-1]}
    most["scale_bits"] = best(common.where(at, **most))["scale_bits"]
    drop_outs(axes[3], common.where(rows, target_epsilon=epsilon, **most))
    titles = (
        f"accuracy, cohort {cohort}, epsilon {epsilon}",
        f"best scale, cohort {cohort}",
        f"best scale, epsilon {epsilon}",
        f"drop-outs, epsilon {epsilon}, enough bits",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
