"""Effect of fraction bits on models on shares, and the cost of their layers.

    python -m paper_figures.private_inference [results folder]

Left: accuracy against fraction bits in rings of 64 (filled) and 32 bits (hollow), the
clear model dotted. Middle: the logits' errors by source, for one model. Right: seconds
on a WAN for 128 images, by layer, for additive and replicated shares.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import common

SOURCES = {
    "encoding": "encoding",
    "truncation": "truncation",
    "wrap_around": "wrap-around of 32 bits",
    "approximation": "softmax, exact reals (probabilities)",
    "probabilities": "probabilities on shares, 64 bits",
}


def accuracy(axis: plt.Axes, rows: common.Rows, models: list[str]) -> None:
    for model, look in common.looks(models).items():
        for ring, style in (("64", "-"), ("32", "--")):
            mine = common.where(rows, model=model, ring_bits=ring)
            fill = look.color if ring == "64" else "white"
            axis.plot(common.column(mine, "fraction_bits"),
                      common.column(mine, "accuracy"), **look._asdict(), ls=style,
                      mfc=fill, ms=4, label=f"{model}, {ring} bits")  # fmt: skip
            clear = common.column(mine, "clear_accuracy")[0]
        axis.axhline(clear, color=look.color, ls=":", lw=0.8)
    axis.set(xlabel="fraction bits", ylabel="accuracy", title="accuracy", ylim=(0, 1))
    axis.legend(fontsize=7)


def errors(axis: plt.Axes, rows: common.Rows, model: str) -> None:
    for source, look in common.looks(SOURCES).items():
        ring = "32" if source == "wrap_around" else "64"
        mine = common.where(rows, model=model, ring_bits=ring)
        axis.plot(common.column(mine, "fraction_bits"), common.column(mine, source),
                  **look._asdict(), ms=4, label=SOURCES[source])  # fmt: skip
    axis.set(yscale="log", ylim=(1e-8, 1e2), xlabel="fraction bits")
    axis.set(title=f"RMS error of logits by source, {model}")
    axis.legend(fontsize=7)


def layers(axis: plt.Axes, rows: common.Rows, model: str) -> None:
    """Draws bars for the innermost layers of the model."""
    mine = common.where(rows, model=model)
    inner = [row for row in mine if row["layer"].count("/") == 2]
    inner = [row for row in inner if row["layer"].startswith("model/")]
    names = common.distinct(inner, "layer")
    for shift, (kind, look) in enumerate(
        common.looks(common.distinct(inner, "protocol")).items()
    ):
        for row in common.where(inner, protocol=kind):
            place, seconds = names.index(row["layer"]), float(row["wan_seconds"])
            axis.barh(place + 0.4 * shift, seconds, 0.38, color=look.color)
            text = f"{int(row['online_bytes']) / 1e6:.2f} MB"
            axis.text(0.01, place + 0.4 * shift, text, fontsize=6, va="center",
                      color="white")  # fmt: skip
        axis.barh(0, 0, color=look.color, label=kind)
    axis.set_yticks(range(len(names)), [n.removeprefix("model/") for n in names])
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="seconds of messages on a WAN", title=f"{model}, 128 images")
    axis.legend(fontsize=7)


def draw(rows: common.Rows) -> Figure:
    models = common.distinct([row for row in rows if row["accuracy"]], "model")
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    accuracy(axes[0], rows, models)
    shown = models[min(1, len(models) - 1)]
    errors(axes[1], rows, shown)
    layers(axes[2], rows, shown)
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
