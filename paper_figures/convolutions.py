"""Time of a CNN step and of its convolutions, by the way they are computed.

    python paper_figures/convolutions.py [results folder]

CPU time where the backend is a CPU, because clients are dealt to all cores; wall time
elsewhere. Medians, with quartiles as bars.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
LOOKS = {  # colour and marker
    **{"xla": ("#D55E00", "s"), "xla grouped": ("#D55E00", "P")},
    **{"xla straight": ("0.15", "X"), "unrolled 4": ("#E69F00", "D")},
    **{"canonical": ("#0072B2", "o"), "patches": ("#009E73", "^")},
    "shifted sums": ("#CC79A7", "v"),
}


def draw(axis: plt.Axes, rows: list[dict[str, str]], column: str, groups: str) -> None:
    """A line of the chart per group, and in it a dot per way."""
    names = [*dict.fromkeys(row[groups] for row in rows)]
    ways = [way for way in LOOKS if any(row["way"] == way for row in rows)]
    for line, name in enumerate(names):
        for row in (row for row in rows if row[groups] == name):
            middle, *ends = (float(row[column + end]) for end in ("", "_low", "_high"))
            place = line + 0.11 * (ways.index(row["way"]) - (len(ways) - 1) / 2)
            color, marker = LOOKS[row["way"]]
            axis.plot(ends, [place] * 2, color=color)
            axis.plot(middle, place, marker, color=color, label=row["way"])
        axis.axhline(line + 0.5, color="0.85", linewidth=0.8)
    axis.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    axis.set_yticks(range(len(names)), names)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", which="both", alpha=0.2)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    column = "cpu_ms" if rows[0]["backend"] == "cpu" else "wall_ms"
    sizes = [*dict.fromkeys(row["batch_size"] for row in rows)]
    figure, axes = plt.subplots(
        len(sizes), 2, figsize=(9.5, 3.3 * len(sizes) + 0.6), layout="constrained",
        squeeze=False, sharex=True, width_ratios=[1.4, 1],
    )  # fmt: skip
    for size, (left, right) in zip(sizes, axes, strict=True):
        here = [row for row in rows if row["batch_size"] == size]
        over = [row for row in here if row["what"] == "vmapped step"]
        draw(left, [row for row in here if row not in over], column, "what")
        draw(right, over, column, "num_clients")
        left.set_title(f"one client, batches of {size}", fontsize=10)
        right.set_title(f"step under vmap over clients, batches of {size}", fontsize=10)
        right.set_ylabel("clients")
    dots = {dot.get_label(): dot for axis in axes[0] for dot in axis.lines}
    shown = {way: dots[way] for way in LOOKS if way in dots}
    figure.legend(shown.values(), shown, loc="outside upper center", ncol=7)
    unit = "CPU" if column == "cpu_ms" else "wall"
    figure.supxlabel(f"{unit} milliseconds per step and client", fontsize=10)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"convolutions.{suffix}", dpi=150)
    print(f"wrote {out / 'convolutions.png'}")


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:2]]
    main(*(named * 2 or [HERE.parent / "results" / "convolutions", HERE]))
