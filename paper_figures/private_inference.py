"""What fraction bits do to models on shares, and what their layers cost.

    python paper_figures/private_inference.py [results folder]

Left: accuracy against fraction bits in rings of 64 (filled) and 32 bits (hollow), the
clear model dotted. Middle: the logits' errors by source, for one model. Right: seconds
on a WAN for 128 images, by layer, for additive and replicated shares.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COLORS = ("#0072B2", "#D55E00", "#009E73")  # safe for the colour-blind
SOURCES = {
    "encoding": ("encoding", "#0072B2", "o-"),
    "truncation": ("truncation", "#D55E00", "s-"),
    "wrap_around": ("wrap-around of 32 bits", "#CC79A7", "^-"),
    "approximation": ("softmax, exact reals (probabilities)", "0.5", "--"),
    "probabilities": ("probabilities on shares, 64 bits", "#009E73", "D-"),
}
Row = dict[str, str]


def accuracy(axis: plt.Axes, table: list[Row], models: list[str]) -> None:
    for model, color in zip(models, COLORS, strict=False):
        for ring, style in (("64", "o-"), ("32", "s--")):
            rows = [r for r in table if (r["model"], r["ring_bits"]) == (model, ring)]
            bits = [int(row["fraction_bits"]) for row in rows]
            fill = color if ring == "64" else "white"
            axis.plot(bits, [float(row["accuracy"]) for row in rows], style, mfc=fill,
                      ms=4, color=color, label=f"{model}, {ring} bits")  # fmt: skip
        axis.axhline(float(rows[0]["clear_accuracy"]), color=color, ls=":", lw=0.8)
    axis.set(xlabel="fraction bits", ylabel="accuracy", title="accuracy", ylim=(0, 1))
    axis.legend(fontsize=7)


def errors(axis: plt.Axes, table: list[Row], model: str) -> None:
    for source, (label, color, style) in SOURCES.items():
        ring = "32" if source == "wrap_around" else "64"
        rows = [r for r in table if (r["model"], r["ring_bits"]) == (model, ring)]
        bits = [int(row["fraction_bits"]) for row in rows]
        sizes = [float(row[source]) for row in rows]
        axis.plot(bits, sizes, style, ms=4, color=color, label=label)
    axis.set(yscale="log", ylim=(1e-8, 1e2), xlabel="fraction bits")
    axis.set(title=f"RMS error of logits by source, {model}")
    axis.legend(fontsize=7)


def layers(axis: plt.Axes, table: list[Row], model: str) -> None:
    """Bars for the innermost layers of the model."""
    rows = [r for r in table if r["model"] == model and r["layer"].count("/") == 2]
    rows = [r for r in rows if r["layer"].startswith("model/")]
    names = [*dict.fromkeys(row["layer"] for row in rows)]
    for shift, (kind, color) in enumerate(
        zip(("additive", "replicated"), COLORS, strict=False)
    ):
        mine = {r["layer"]: r for r in rows if r["protocol"] == kind}
        places = [n + 0.4 * shift for n in range(len(names))]
        seconds = [float(mine[n]["wan_seconds"]) if n in mine else 0 for n in names]
        axis.barh(places, seconds, 0.38, color=color, label=kind)
        for place, name in zip(places, names, strict=True):
            if name in mine:
                text = f"{int(mine[name]['online_bytes']) / 1e6:.2f} MB"
                axis.text(0.01, place, text, fontsize=6, va="center", color="white")
    axis.set_yticks(range(len(names)), [n.removeprefix("model/") for n in names])
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="seconds of messages on a WAN", title=f"{model}, 128 images")
    axis.legend(fontsize=7)


def main(folder: Path, out: Path) -> None:
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    models = [*dict.fromkeys(row["model"] for row in table if row["accuracy"])]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    accuracy(axes[0], table, models)
    shown = models[min(1, len(models) - 1)]
    errors(axes[1], table, shown)
    layers(axes[2], table, shown)
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"private_inference.{suffix}", dpi=120)


if __name__ == "__main__":
    named = [*map(Path, sys.argv[1:2])]
    main(*(named * 2 or [HERE.parent / "results" / "private_inference", HERE]))
