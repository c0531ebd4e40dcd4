"""Times of shares, masks and secure sums, ours, peers' and the machine's limits.

    python -m paper_figures.secure_throughput [results folder]

Above is each work's time by system, ours filled, with its range over the turns, and the
factor to our fastest time. Below are a whole masked sum of all clients against
dropouts, and the part of the machine's limits that our fastest rows reach.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

SHARING = ("share_3", "share_10", "shamir", "masks")
ON_SHARES = ("matmul", "shared_matmul", "shared_layer", "linear_layers", "mlp")
ON_SHARES += ("training_step",)
LIMITS = {
    "bandwidth_fraction": "memory bandwidth",
    "integer_fraction": "integer rate",
    "threefry_c_fraction": "threefry in C",
}


def work_of(row: dict[str, str]) -> tuple[str, str]:
    """The key that compared rows share."""
    task = row["task"].removesuffix("_aes").removeprefix("plain_")
    return task, "" if task in ("shamir", "masks") else row["variant"]


def compare(
    axis: plt.Axes,
    rows: common.Rows,
    tasks: tuple[str, ...],
    looks: Mapping[str, common.Look],
) -> None:
    """Draws a line of the chart for each work."""
    rows = [row for row in rows if work_of(row)[0] in tasks]
    works = [*dict.fromkeys(map(work_of, rows))]
    near = 0
    for row in sorted(rows, key=lambda row: row["system"] == "ppml_lab"):
        place, time = works.index(work_of(row)), float(row["milliseconds"])
        ours, color = row["system"] == "ppml_lab", looks[row["system"]].color
        axis.plot([float(row["low"]), float(row["high"])], [place] * 2, color=color)
        axis.plot(time, place, "o", ms=5, mec=color, mfc=color if ours else "white")
        if not ours:
            near += 1  # every other label lies below its mark, so that none overlap
            height = place + (0.45 if near % 2 else -0.2)
            shown = f"{float(row['ratio']):.2g}x"
            axis.text(time, height, shown, fontsize=6, ha="center")
    for system in common.distinct(rows, "system"):
        color = looks[system].color
        fill = color if system == "ppml_lab" else "white"
        axis.plot([], [], "o", ms=5, mec=color, mfc=fill, label=system)
    names = [
        f"{task.replace('share_', 'share among ')} {which}" for task, which in works
    ]
    axis.set_yticks(range(len(works)), [name.replace("_", " ") for name in names])
    axis.set_ylim(len(works) - 0.5, -0.8)
    axis.set(xscale="log", xlabel="milliseconds")
    axis.legend(fontsize=7)


def masked(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws seconds of whole sums by number of clients and kind of graph."""
    kinds: dict[tuple[str, bool], common.Rows] = {}
    for row in common.where(rows, task="masked_round"):
        kinds.setdefault((row["clients"], row["variant"] == "complete"), []).append(row)
    for (clients, complete), look in common.looks(kinds).items():
        mine = kinds[clients, complete]
        graph = "complete graph" if complete else "few neighbours"
        label = f"{int(clients):,} clients, {graph}"
        seconds = common.column(mine, "milliseconds") / 1e3
        axis.plot(common.column(mine, "dropouts"), seconds, **look._asdict(),
                  label=label)  # fmt: skip
    for row in rows:
        if row["task"] in ("ideal_round", "modular_sum") and row["variant"] != "clear":
            time = float(row["milliseconds"]) / 1e3
            axis.axhline(time, color="0.7", lw=0.8, zorder=0)
            axis.text(0, time, row["variant"], fontsize=7, color="0.4", va="bottom")
    axis.set(yscale="log", xlabel="clients that drop out (%)", ylabel="seconds")
    axis.set(title="a whole secure sum")
    axis.legend(fontsize=7)


def limits(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws bars of fractions, for the largest number of threads."""
    ours = common.where(rows, system="ppml_lab")
    most = common.numbers(ours, "threads")[-1]
    ours = common.where(ours, threads=most)
    rows = [row for row in ours if any(row[name] for name in LIMITS)]
    for shift, (name, look) in enumerate(common.looks(LIMITS).items()):
        at = [i + 0.27 * (shift - 1) for i in range(len(rows))]
        axis.barh(at, common.column(rows, name), 0.25, color=look.color)
        axis.plot([], [], "s", color=look.color, label=LIMITS[name])
    what = ("task", "variant", "clients", "dropouts")
    names = [" ".join(row[name] for name in what if row[name]) for row in rows]
    axis.set_yticks(range(len(rows)), [name.replace("_", " ") for name in names],
                    fontsize=6)  # fmt: skip
    axis.set_ylim(len(rows) - 0.5, -0.8)
    axis.set(xlabel=f"fraction reached, {most} threads", title="the machine's limits")
    axis.legend(fontsize=7)


def draw(rows: common.Rows) -> Figure:
    # `generator` repeats work that the other configurations time.
    rows = [row for row in rows if row["configuration"] != "generator"]
    systems = common.distinct(rows, "system")
    looks = common.looks(sorted(systems, key=lambda system: system != "ppml_lab"))
    figure, axes = plt.subplots(2, 2, figsize=(12, 10), layout="constrained")
    compare(axes[0, 0], rows, SHARING, looks)
    compare(axes[0, 1], rows, ON_SHARES, looks)
    axes[0, 0].set_title("shares and masks")
    axes[0, 1].set_title("products, and computing on shares")
    masked(axes[1, 0], rows)
    limits(axes[1, 1], rows)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
