"""Bytes, time and neighbours of secure aggregation, beside what is published.

    python paper_figures/secure_aggregation_cost.py [results folder]

Filled: ours, times with their range over the turns. Hollow: published. The CPU times
are of different machines: compare slopes, not heights.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # safe for the colour-blind
SHADES = ("0", BLUE, "#56B4E9", GREEN, "#E69F00", ORANGE, "#CC79A7")
GRAPHS = {"bonawitz_2017": ("everybody", ORANGE), "bell_2020": ("few neighbours", BLUE)}
ENTRIES = {10**5: ("-", "o"), 10**6: ("--", "s"), 2**20: ("", "s"), 2**24: ("", "D")}
Row = dict[str, str]


def draw(
    axis: plt.Axes,
    rows: list[Row],
    x: str,
    marker: str,
    style: str,
    color: str,
    label: str,
) -> None:
    """A line through ours, hollow markers where something is published."""
    rows = sorted(rows, key=lambda row: float(row[x]))
    known = [row for row in rows if row["published"]]
    at, ours = ([float(row[name]) for row in rows] for name in (x, "ours"))
    axis.plot(at, ours, marker=marker, ms=3, ls=style, color=color, label=label)
    style = ":" if len(known) > 1 and x == "dropout" else ""
    at, theirs = ([float(row[name]) for row in known] for name in (x, "published"))
    axis.plot(at, theirs, marker=marker, ms=8, mfc="none", ls=style, color=color)
    for row in rows:
        if row["low"]:
            ends = float(row["low"]), float(row["high"])
            axis.plot([float(row[x])] * 2, ends, color=color)


def expansions(axis: plt.Axes, table: list[Row]) -> None:
    rows = [row for row in table if row["quantity"] == "expansion"]
    for source, (name, color) in GRAPHS.items():
        for entries, (style, marker) in ENTRIES.items():
            mine = [
                r
                for r in rows
                if (r["source"], int(r["dimension"])) == (source, entries)
            ]
            label = f"masks with {name}, {entries:,} entries" if style else ""
            draw(axis, mine, "clients", marker, style, color, label)
    axis.set(xscale="log", yscale="log", xlabel="clients", yticks=(1.5, 2, 3, 5, 10))
    axis.set(title="a client's bytes over its bare input's")


def times(axis: plt.Axes, table: list[Row]) -> None:
    """CPU time of a client and of the server against drop-outs."""
    marks = iter(((GREEN, "o"), (ORANGE, "o"), (BLUE, "o"), *[("0.5", "^")] * 9))
    for party in ("server", "client"):
        rows = [r for r in table if r["quantity"] == f"{party}_cpu_milliseconds"]
        for source, clients in dict.fromkeys((r["source"], r["clients"]) for r in rows):
            mine = [r for r in rows if (r["source"], r["clients"]) == (source, clients)]
            label = f"{party}, {int(clients):,} clients, {GRAPHS[source][0]}"
            style = "-" if source == "bonawitz_2017" else "--"
            color, marker = next(marks)
            draw(axis, mine, "dropout", marker, style, color, label)
    axis.set(yscale="log", xlabel="share of clients that drop out")
    axis.set(title="CPU milliseconds", ylim=(8, 3e7))


def degrees(axis: plt.Axes, table: list[Row]) -> None:
    """Neighbours against clients, a line for each pair of shares."""
    rows = [r for r in table if r["quantity"] == "degree"]
    rows = [r for r in rows if r["detail"] == "semi-honest"]
    pairs = dict.fromkeys((r["corrupt"], r["dropout"]) for r in rows)
    for (corrupt, dropout), color in zip(pairs, SHADES, strict=False):
        mine = [r for r in rows if (r["corrupt"], r["dropout"]) == (corrupt, dropout)]
        label = f"{float(corrupt):.0%} corrupt, {float(dropout):.0%} drop out"
        draw(axis, mine, "clients", "o", "-", color, label)
    axis.set(xscale="log", yscale="log", xlabel="clients")
    axis.set(title="neighbours each needs", ylim=(3, 700))


def main(folder: Path, out: Path) -> None:
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), layout="constrained")
    for panel, axis in zip((expansions, times, degrees), axes, strict=True):
        panel(axis, table)
        axis.grid(alpha=0.2)
        axis.legend(fontsize=7)
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter("")
    figure.suptitle("filled: ours; hollow: published", fontsize=10)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"secure_aggregation_cost.{suffix}", dpi=130)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "secure_aggregation_cost", HERE]))
