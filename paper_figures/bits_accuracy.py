"""Accuracy of private training under secure sums of few bits.

    python paper_figures/bits_accuracy.py [results folder]

From left to right: the whole grid of modulus and scale at one epsilon, with the line
left of which the largest possible sum does not fit; the best scale for each modulus, by
epsilon; the same by cohort; drop-outs, by cohort, with the rounds that abort (hollow).
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # safe for the colour-blind
NUMBERS = ("cohort", "target_epsilon", "dropout_prob", "scale_bits", "modulus_bits")
NUMBERS += ("headroom_bits", "accuracy", "accuracy_std", "aborted_share")
Row = dict[str, float]


def chosen(table: list[Row], **wanted: float) -> list[Row]:
    return [row for row in table if all(row[k] == v for k, v in wanted.items())]


def values(table: list[Row], name: str) -> list[float]:
    return sorted({row[name] for row in table})


def heat(axis: plt.Axes, rows: list[Row]) -> None:
    """Accuracy of every modulus and scale."""
    bits, scales = values(rows, "modulus_bits"), values(rows, "scale_bits")
    grid = [
        [chosen(rows, modulus_bits=b, scale_bits=s)[0]["accuracy"] for b in bits]
        for s in scales
    ]
    axis.imshow(grid, origin="lower", cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(grid):
        for x, accuracy in enumerate(line):
            color = "white" if accuracy < 0.6 else "black"
            axis.text(x, y, f"{accuracy:.2f}", ha="center", va="center", color=color,
                      fontsize=7)  # fmt: skip
        fits = [r["headroom_bits"] >= 0 for r in chosen(rows, scale_bits=scales[y])]
        edge = fits.index(True) - 0.5 if any(fits) else len(bits) - 0.5
        axis.plot([edge] * 2, [y - 0.5, y + 0.5], color="red", lw=2)
    axis.set_xticks(range(len(bits)), [f"{b:.0f}" for b in bits])
    axis.set_yticks(range(len(scales)), [f"{s:.0f}" for s in scales])
    axis.set(xlabel="bits of the modulus", ylabel="bits of the scale")


def best_by(axis: plt.Axes, rows: list[Row], name: str) -> None:
    """The best scale's accuracy against bits, a line for each value of `name`."""
    for value, color in zip(values(rows, name), COLORS, strict=False):
        mine = chosen(rows, **{name: value})
        best = [
            max(chosen(mine, modulus_bits=bits), key=lambda row: row["accuracy"])
            for bits in values(mine, "modulus_bits")
        ]
        axis.errorbar(
            [row["modulus_bits"] for row in best],
            [row["accuracy"] for row in best],
            [row["accuracy_std"] for row in best],
            fmt="o-", ms=4, color=color, label=f"{value:g}",
        )  # fmt: skip
    title = {"target_epsilon": "epsilon", "cohort": "cohort"}[name]
    axis.set(xlabel="bits of the modulus", ylabel="accuracy", ylim=(0, 1))
    axis.legend(title=title, fontsize=7, title_fontsize=7, loc="lower right")


def drop_outs(axis: plt.Axes, rows: list[Row]) -> None:
    """Accuracy and aborted rounds against drop-outs, a line for each cohort."""
    for cohort, color in zip(values(rows, "cohort"), COLORS, strict=False):
        mine = sorted(chosen(rows, cohort=cohort), key=lambda r: r["dropout_prob"])
        shares = [row["dropout_prob"] for row in mine]
        spread = [row["accuracy_std"] for row in mine]
        axis.errorbar(shares, [row["accuracy"] for row in mine], spread, fmt="o-",
                      ms=4, color=color, label=f"{cohort:g}")  # fmt: skip
        axis.plot(shares, [row["aborted_share"] for row in mine], "o--", ms=4,
                  mfc="none", color=color)  # fmt: skip
    axis.set(xlabel="chance to drop out", ylabel="accuracy; share of aborted rounds")
    axis.set(ylim=(-0.02, 1))
    axis.legend(title="cohort", fontsize=7, title_fontsize=7)


def main(folder: Path, out: Path) -> None:
    lines = csv.DictReader((folder / "table.csv").read_text().splitlines())
    table = [{name: float(row[name]) for name in NUMBERS} for row in lines]
    cohort, epsilon = values(table, "cohort")[-1], values(table, "target_epsilon")[-2]
    whole = chosen(table, dropout_prob=0.0)
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    heat(axes[0], chosen(whole, cohort=cohort, target_epsilon=epsilon))
    best_by(axes[1], chosen(whole, cohort=cohort), "target_epsilon")
    best_by(axes[2], chosen(whole, target_epsilon=epsilon), "cohort")
    # Enough bits, and the scale that is best there.
    most = chosen(table, modulus_bits=values(table, "modulus_bits")[-1])
    fine = max(chosen(most, cohort=cohort, target_epsilon=epsilon, dropout_prob=0.0),
               key=lambda row: row["accuracy"])["scale_bits"]  # fmt: skip
    drop_outs(axes[3], chosen(most, target_epsilon=epsilon, scale_bits=fine))
    titles = (
        f"accuracy, cohort {cohort:g}, epsilon {epsilon:g}",
        f"best scale, cohort {cohort:g}",
        f"best scale, epsilon {epsilon:g}",
        f"drop-outs, epsilon {epsilon:g}, enough bits",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"bits_accuracy.{suffix}", dpi=120)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "bits_accuracy", HERE]))
