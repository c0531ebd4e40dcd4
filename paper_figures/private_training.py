"""Accuracy of training on shares, with noise and with few bits, and what it sends.

    python paper_figures/private_training.py [results folder]

A panel for each regression: accuracy on shares with DP against epsilon, with lines for
pooled training, training on shares without noise, and the best and worst owner alone.
Then the network's accuracy against fraction bits, if it was trained.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.5"  # colour-blind safe
Row = dict[str, str]


def levels(axis: plt.Axes, rows: list[Row]) -> None:
    """Lines for what has no epsilon."""
    by_method = {row["method"]: row for row in rows}
    alone = by_method["alone"]
    low, high = float(alone["worst"]), float(alone["accuracy"])
    axis.axhspan(low, high, color=GREY, alpha=0.2, label="owners alone")
    for method, color, style in (
        ("pooled", GREEN, "-"),
        ("shares", BLUE, "--"),
        ("pooled, clipped, piecewise", GREEN, ":"),
    ):
        if method in by_method:
            height = float(by_method[method]["accuracy"])
            axis.axhline(height, color=color, ls=style, label=method)


def by_epsilon(axis: plt.Axes, rows: list[Row], case: str) -> None:
    levels(axis, rows)
    noisy = [row for row in rows if row["method"] == "shares + DP"]
    epsilon, accuracy, spread = (
        [float(row[name] or 0) for row in noisy]
        for name in ("target_epsilon", "accuracy", "accuracy_std")
    )
    axis.errorbar(epsilon, accuracy, spread, fmt="o-", color=ORANGE, ms=4,
                  label="shares + DP")  # fmt: skip
    sent = next(row for row in rows if row["method"] == "shares")
    cost = f"{int(sent['online_bytes']) / 1e6:.1f} MB, {sent['rounds']} rounds"
    axis.set(xscale="log", xlabel="epsilon", ylabel="accuracy")
    axis.set_xticks(epsilon, [f"{value:g}" for value in epsilon])
    axis.set_xticks([], minor=True)
    axis.set_title(f"{case}: {cost}", fontsize=10)


def by_bits(axis: plt.Axes, rows: list[Row], case: str) -> None:
    levels(axis, rows)
    swept = [row for row in rows if row["method"] == "bits"]
    bits = [int(row["fraction_bits"]) for row in swept]
    axis.plot(bits, [float(row["accuracy"]) for row in swept], "o-", color=ORANGE, ms=4)
    axis.set(xlabel="fraction bits", ylabel="accuracy", ylim=(0, 1))
    axis.set_title(f"{case}, 2NN trained on shares", fontsize=10)


def main(folder: Path, out: Path) -> None:
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    cases = [*dict.fromkeys(row["case"] for row in table)]
    figure, axes = plt.subplots(
        1, len(cases), figsize=(4.6 * len(cases), 3.8), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for case, axis in zip(cases, axes[0], strict=True):
        rows = [row for row in table if row["case"] == case]
        draw = by_bits if any(row["method"] == "bits" for row in rows) else by_epsilon
        draw(axis, rows, case)
        axis.legend(fontsize=7)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"private_training.{suffix}", dpi=120)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "private_training", HERE]))
