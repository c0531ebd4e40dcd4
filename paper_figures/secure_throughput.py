"""Times of shares, masks and secure sums, ours, peers' and the machine's limits.

    python paper_figures/secure_throughput.py [results folder]

Above: each work's time by system, ours filled, with its range over the turns, and times
over our fastest. Below: a whole masked sum of all clients against drop-outs; what part
of the machine's limits our fastest rows reach.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.45"  # colour-blind safe
COLORS = {"ppml_lab": BLUE, "SPU": ORANGE, "Flower": GREEN, "NumPy": GREY}
COLORS |= {"CrypTen": "#CC79A7", "PyTorch": "#E69F00", "JAX": "#56B4E9"}
SHARING = ("share_3", "share_10", "shamir", "masks")
ON_SHARES = ("matmul", "shared_matmul", "shared_layer", "linear_layers", "mlp")
ON_SHARES += ("training_step",)
LIMITS = {
    "bandwidth_fraction": ("memory bandwidth", BLUE),
    "integer_fraction": ("integer rate", ORANGE),
    "threefry_c_fraction": ("threefry in C", GREEN),
}
Row = dict[str, str]


def work_of(row: Row) -> tuple[str, str]:
    """What rows that are compared share."""
    task = row["task"].removesuffix("_aes").removeprefix("plain_")
    return task, "" if task in ("shamir", "masks") else row["variant"]


def compare(
    axis: plt.Axes, table: list[Row], tasks: tuple[str, ...], title: str
) -> None:
    """A line of the chart for each work."""
    rows = [row for row in table if work_of(row)[0] in tasks]
    works = [*dict.fromkeys(map(work_of, rows))]
    seen = set()
    near = 0
    for row in sorted(rows, key=lambda row: row["system"] == "ppml_lab"):
        place, time = works.index(work_of(row)), float(row["milliseconds"])
        system, ratio = row["system"], float(row["ratio"])
        ours, color = system == "ppml_lab", COLORS[system]
        label = None if system in seen else system
        seen.add(system)
        axis.plot([float(row["low"]), float(row["high"])], [place] * 2, color=color)
        fill = color if ours else "white"
        axis.plot(time, place, "o", ms=5, mec=color, mfc=fill, label=label)
        if not ours:
            near += 1  # every other label lies below its mark, so that none overlap
            height = place + (0.45 if near % 2 else -0.2)
            axis.text(time, height, f"{ratio:.2g}x", fontsize=6, ha="center")
    names = [
        f"{task.replace('share_', 'share among ')} {variant}".replace("_", " ")
        for task, variant in works
    ]
    axis.set_yticks(range(len(works)), names)
    axis.set_ylim(len(works) - 0.5, -0.8)
    axis.set(xscale="log", xlabel="milliseconds", title=title)
    axis.legend(fontsize=7)


def masked(axis: plt.Axes, table: list[Row]) -> None:
    """Seconds of whole sums by number of clients and kind of graph."""
    rows = [row for row in table if row["task"] == "masked_round"]
    kinds = [*dict.fromkeys((row["clients"], row["variant"][:1]) for row in rows)]
    for kind, style in zip(kinds, ("o-", "s--", "^:"), strict=False):
        mine = [row for row in rows if (row["clients"], row["variant"][:1]) == kind]
        seconds = [float(row["milliseconds"]) / 1e3 for row in mine]
        graph = "complete graph" if kind[1] == "c" else "few neighbours"
        label = f"{int(kind[0]):,} clients, {graph}"
        axis.plot([int(row["dropouts"]) for row in mine], seconds, style, label=label)
    for row in table:
        if row["task"] in ("ideal_round", "modular_sum") and row["variant"] != "clear":
            time = float(row["milliseconds"]) / 1e3
            axis.axhline(time, color="0.7", lw=0.8, zorder=0)
            axis.text(0, time, row["variant"], fontsize=7, color="0.4", va="bottom")
    axis.set(yscale="log", xlabel="clients that drop out (%)", ylabel="seconds")
    axis.set(title="a whole secure sum")
    axis.legend(fontsize=7)


def limits(axis: plt.Axes, table: list[Row]) -> None:
    """Bars of fractions, for the most threads."""
    ours = [row for row in table if row["system"] == "ppml_lab"]
    most = max(ours, key=lambda row: int(row["threads"]))["threads"]
    rows = [
        row
        for row in ours
        if row["threads"] == most and any(row[name] for name in LIMITS)
    ]
    for shift, (column, (label, color)) in enumerate(LIMITS.items()):
        at = [i + 0.27 * (shift - 1) for i in range(len(rows))]
        axis.barh(at, [float(r[column] or 0) for r in rows], 0.25, color=color)
        axis.plot([], [], "s", color=color, label=label)
    about = [f"{row['clients']} {row['dropouts']}".strip() for row in rows]
    names = [
        f"{row['task']} {row['variant']} {more}".strip().replace("_", " ")
        for row, more in zip(rows, about, strict=True)
    ]
    axis.set_yticks(range(len(rows)), names, fontsize=6)
    axis.set_ylim(len(rows) - 0.5, -0.8)
    axis.set(xlabel=f"fraction reached, {most} threads", title="the machine's limits")
    axis.legend(fontsize=7)


def main(folder: Path, out: Path) -> None:
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    figure, axes = plt.subplots(2, 2, figsize=(12, 10), layout="constrained")
    compare(axes[0, 0], table, SHARING, "shares and masks")
    compare(axes[0, 1], table, ON_SHARES, "products, and computing on shares")
    masked(axes[1, 0], table)
    limits(axes[1, 1], table)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"secure_throughput.{suffix}", dpi=100)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "secure_throughput", HERE]))
