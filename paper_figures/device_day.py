"""Speed of each device, by the amount of work done at once.

    python -m paper_figures.device_day [results folder]

Above are rounds of federated averaging by lanes, steps by batch, private inference by
images, and sweeps by width; below is the time per word, share, mask and multiplication.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

PANELS = {
    "client updates": ("lanes", "client updates a second"),
    "examples": ("examples of a batch", "examples a second"),
    "images on shares": ("images at once", "images on shares a second"),
    "sweep": ("points at once", "runs a second"),
}


def draw(rows: common.Rows) -> Figure:
    looks = common.looks([row["device"] + row["case"] for row in rows])
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    panels = axes.flat[: len(PANELS)]
    for axis, (quantity, words) in zip(panels, PANELS.items(), strict=True):
        here = [row for row in rows if row["quantity"] == quantity and row["size"]]
        here = [row for row in here if row["unit"] in ("1/s", "runs/s")]
        for name in dict.fromkeys((row["device"], row["case"]) for row in here):
            line = [row for row in here if (row["device"], row["case"]) == name]
            sizes, speeds = ([float(row[k]) for row in line] for k in ("size", "value"))
            label = ", ".join(filter(None, name))
            axis.plot(sizes, speeds, **looks["".join(name)]._asdict(), label=label)
        axis.set(xscale="log", yscale="log", xlabel=words[0], ylabel=words[1])
        ticks = sorted({int(row["size"]) for row in here})
        axis.set_xticks(ticks, ticks, fontsize=8)
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.2)
        axis.legend(fontsize=7)
    left = axes.flat[len(PANELS)]
    words = [row for row in rows if row["unit"] == "ns"]
    names = [f"{row['quantity']} {row['case']}" for row in words]
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    devices = common.looks(row["device"] for row in words)
    for row, name in zip(words, names, strict=True):
        look = devices[row["device"]]
        left.plot(float(row["value"]), places[name], **look._asdict(), ls="")
    left.set(xscale="log", xlabel="nanoseconds")
    left.set_yticks(range(len(places)), places, fontsize=7)
    left.invert_yaxis()
    left.grid(axis="x", alpha=0.2)
    handles = [
        plt.Line2D([], [], **look._asdict(), ls="", label=name)
        for name, look in devices.items()
    ]
    left.legend(handles=handles, fontsize=7)
    axes.flat[-1].remove()
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
