"""Memory of compiled programs on accelerators.

    python -m paper_figures.accelerators [results folder]

It shows each program's temporaries, by XLA's buffer assignment, beside the chip's
memory (the line). A program that does not compile is a cross at the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

LEAST = 1e-3
"""The smallest MiB that is drawn; smaller values are drawn there."""


def draw_programs(
    axis: plt.Axes,
    rows: common.Rows,
    names: Sequence[str],
    looks: Mapping[str, common.Look],
) -> None:
    """Draws a line of the chart per program, and on it a dot per target."""
    for row in rows:
        place = names.index(row["program"])
        look = looks[row["target"]]
        if row["compiles"] == "True":
            size = max(LEAST, float(row["temp_mib"]))
            axis.plot(size, place, **look._asdict(), ls="", ms=4)
        else:
            axis.plot(LEAST, place, color=look.color, marker="x", ls="", ms=6)
    for target, look in looks.items():
        chip = [row for row in rows if row["target"] == target and row["temp_mib"]]
        if chip:
            one = chip[0]
            parts = ("argument_bytes", "output_bytes", "temp_bytes")
            held = sum(float(one[part]) for part in parts) / 2**20
            memory = held / float(one["share_of_memory"])
            axis.axvline(memory, color=look.color, lw=0.8)
    kinds = [next(r["kind"] for r in rows if r["program"] == name) for name in names]
    for place in range(1, len(names)):
        if kinds[place] != kinds[place - 1]:
            axis.axhline(place - 0.5, color="0.7", lw=0.8)
    labels = [
        name if kind == "pairs" else f"{kind}: {name}"
        for name, kind in zip(names, kinds, strict=True)
    ]
    axis.set_yticks(range(len(names)), labels, fontsize=6.5)
    axis.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    axis.set_xlabel("MiB of temporaries; lines: the chip's memory", fontsize=9)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.2)


def draw(rows: common.Rows) -> Figure:
    looks = common.looks(common.distinct(rows, "target"))
    kinds = common.distinct(rows, "kind")
    names = [
        name
        for kind in kinds
        for name in common.distinct(common.where(rows, kind=kind), "program")
    ]
    pairs = common.distinct(common.where(rows, kind="pairs"), "program")
    left = pairs if len(names) > 9 else []
    columns = [part for part in (left, [n for n in names if n not in left]) if part]
    height = 0.6 + 0.155 * max(map(len, columns))
    figure, axes = plt.subplots(
        1, len(columns), figsize=(5.6 * len(columns), height), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, part in zip(axes[0], columns, strict=True):
        here = [row for row in rows if row["program"] in part]
        draw_programs(axis, here, part, looks)
    handles = [
        plt.Line2D([], [], **look._asdict(), ls="", label=name)
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncol=4)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
