"""What secure aggregation costs in bytes, time and neighbours, beside what is published.

    python paper_figures/secure_aggregation_cost.py [results folder]

Filled: ours. Hollow: published. Times are CPU times on different machines, so that
slopes compare, not heights; ours are medians with their range over the turns.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # safe for the colour-blind
SHADES = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
OURS, HOLLOW = {"marker": ".", "ms": 6}, {"ls": "", "mfc": "none", "ms": 9}
GRAPHS = {
    "bonawitz_2017": ("complete graph", ORANGE),
    "bell_2020": ("few neighbours", BLUE),
}
LENGTHS = {
    100_000: ("-", "o"),
    1_000_000: ("--", "s"),
    2**20: ("", "s"),
    2**24: ("", "D"),
}
Row = dict[str, str]


def points(rows: list[Row], x: str, y: str = "ours") -> list[list[float]]:
    """Columns of the rows that have them, in order."""
    found = sorted((float(row[x]), float(row[y])) for row in rows if row[y])
    return [list(column) for column in zip(*found, strict=True)] or [[], []]


def expansions(axis: plt.Axes, table: list[Row]) -> None:
    for source, (name, color) in GRAPHS.items():
        for length, (style, marker) in LENGTHS.items():
            rows = [
                row
                for row in table
                if row["quantity"] == "expansion" and row["source"] == source
                if int(row["dimension"]) == length
            ]
            label = f"{name}, {length:,} entries" if style else None
            shown = OURS | {"ls": style, "color": color, "label": label}
            axis.plot(*points(rows, "clients"), **shown)
            published = points(rows, "clients", "published")
            axis.plot(*published, marker=marker, mec=color, **HOLLOW)
    axis.plot([], [], "sk", label="published, 2^20 entries", **HOLLOW)
    axis.plot([], [], "Dk", label="published, 2^24 entries", **HOLLOW)
    axis.set(xscale="log", yscale="log", xlabel="clients", yticks=(1.5, 2, 3, 5, 10))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.set(ylabel="client's bytes over its bare input's", title="a) bytes")
    axis.legend(fontsize=7)


def times(axis: plt.Axes, table: list[Row]) -> None:
    rows = [row for row in table if row["quantity"].endswith("er_cpu_milliseconds")]
