"""Time of a DP-SGD step, ours and peers', beside our step without privacy.

    python paper_figures/dp_sgd_speed.py [results folder]

Filled: the fastest microbatch size, its range over the turns and its ratio to our step
without privacy; hollow: other sizes; dashed: 1.5 times that step, plus the noise draw.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # safe for the colour-blind
COLORS = {"ppml_lab": BLUE, "jax-privacy": ORANGE, "Opacus": GREEN, "PyTorch": GREEN}
Name = tuple[str, str]


def draw(axis: plt.Axes, rows: list[dict[str, str]], names: list[Name]) -> None:
    """One model: a line of the chart for every method."""
    fastest: dict[Name, float] = {}
    for row in sorted(rows, key=lambda row: float(row["milliseconds_per_step"])):
        name, time = (row["system"], row["method"]), float(row["milliseconds_per_step"])
        place, color = names.index(name), COLORS[row["system"]]
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


def main(folder: Path, out: Path) -> None:
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    models = [*dict.fromkeys(row["model"] for row in table)]
    names = [*dict.fromkeys((row["system"], row["method"]) for row in table)]
    size = (1.5 + 3.2 * len(models), 1.4 + 0.36 * len(names))
    figure, axes = plt.subplots(
        1, len(models), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, model in zip(axes[0], models, strict=True):
        draw(axis, [row for row in table if row["model"] == model], names)
    axes[0, 0].set_yticks(range(len(names)), [", ".join(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.8)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"dp_sgd_speed.{suffix}", dpi=150)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "dp_sgd_speed", HERE]))
