"""Bytes, time and neighbours of secure aggregation, beside published numbers.

    python -m paper_figures.secure_aggregation_cost [results folder]

Our numbers are filled, times with their range over the turns; published numbers are
hollow. The CPU times are of different machines: compare slopes, not heights.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

GRAPHS = {"bonawitz_2017": "everybody", "bell_2020": "few neighbours"}
STYLES = {"bonawitz_2017": "-", "bell_2020": "--"}
ENTRIES = {100_000: ("-", "o"), 1_000_000: ("--", "s"), 2**20: ("", "s"),
           2**24: ("", "D")}  # fmt: skip


def draw_line(
    axis: plt.Axes, rows: common.Rows, x: str, label: str, **look: Any
) -> None:
    """Draws a line through our numbers, and hollow markers for published ones."""
    rows = sorted(rows, key=lambda row: float(row[x]))
    known = [row for row in rows if row["published"]]
    axis.plot(common.column(rows, x), common.column(rows, "ours"), **look, ms=3,
              label=label)  # fmt: skip
    look["ls"] = ":" if len(known) > 1 and x == "dropout" else ""
    axis.plot(common.column(known, x), common.column(known, "published"), **look, ms=8,
              mfc="none")  # fmt: skip
    for row in (row for row in rows if row["low"]):
        ends = float(row["low"]), float(row["high"])
        axis.plot([float(row[x])] * 2, ends, color=look["color"])


def expansions(axis: plt.Axes, rows: common.Rows) -> None:
    rows = common.where(rows, quantity="expansion")
    for source, (color, _) in common.looks(GRAPHS).items():
        for entries, (style, marker) in ENTRIES.items():
            mine = common.where(rows, source=source, dimension=str(entries))
            label = f"masks with {GRAPHS[source]}, {entries:,} entries" if style else ""
            draw_line(axis, mine, "clients", label, color=color, marker=marker,
                      ls=style)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="clients", yticks=(1.5, 2, 3, 5, 10))
    axis.set(title="a client's bytes over its bare input's")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def times(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws CPU time of a client and of the server against dropouts."""
    whose = {f"{party}_cpu_milliseconds": party for party in ("server", "client")}
    rows = [row for row in rows if row["quantity"] in whose]
    rows.sort(key=lambda row: [*whose].index(row["quantity"]))
    series = common.looks(common.distinct(rows, "quantity", "source", "clients"))
    for (quantity, source, clients), look in series.items():
        mine = common.where(rows, quantity=quantity, source=source, clients=clients)
        label = f"{whose[quantity]}, {int(clients):,} clients, {GRAPHS[source]}"
        draw_line(axis, mine, "dropout", label, **look._asdict(), ls=STYLES[source])
    axis.set(yscale="log", xlabel="share of clients that drop out")
    axis.set(title="CPU milliseconds", ylim=(8, 3e7))


def degrees(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws neighbours against clients, a line for each pair of shares."""
    rows = common.where(rows, quantity="degree", detail="semi-honest")
    pairs = common.looks(common.distinct(rows, "corrupt", "dropout"))
    for (corrupt, dropout), look in pairs.items():
        mine = common.where(rows, corrupt=corrupt, dropout=dropout)
        label = f"{float(corrupt):.0%} corrupt, {float(dropout):.0%} drop out"
        draw_line(axis, mine, "clients", label, **look._asdict(), ls="-")
    axis.set(xscale="log", yscale="log", xlabel="clients")
    axis.set(title="neighbours each needs", ylim=(2, 2000))


def draw(rows: common.Rows) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), layout="constrained")
    for panel, axis in zip((expansions, times, degrees), axes, strict=True):
        panel(axis, rows)
        axis.grid(alpha=0.2)
        axis.legend(fontsize=7)
    figure.suptitle("filled: ours; hollow: published", fontsize=10)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
