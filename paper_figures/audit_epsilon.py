"""Audited lower bounds and estimates beside the accountants' upper bounds.

python paper_figures/audit_epsilon.py [results folder]

Reads table.csv of the folder (results/audit_epsilon by default) and writes the figure
as PDF and PNG: beside this file, or into the folder if one was named. Bounds are
filled, estimates, which promise nothing, hollow.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
SHOWN = {
    ("mechanism", "gradient", "family"): ("mechanism alone", "#0072B2", "D"),
    ("white box", "gradient", "family"): ("white box, many runs", "#56B4E9", "o"),
    ("white box", "gradient", "Clopper-Pearson"): (
        "the same, Clopper-Pearson", "#999999", "v",
    ),
    ("black box", "blank", "family"): ("black box, blank image", "#D55E00", "s"),
    ("black box", "mislabelled", "family"): (
        "black box, mislabelled", "#CC79A7", "s",
    ),
    ("one run", "gradient", "one run, Mahloujifar et al."): (
        "one run, f-DP", "#009E73", "^",
    ),
    ("one run", "gradient", "one run, Steinke et al."): (
        "one run, Steinke et al.", "#E69F00", "^",
    ),
    ("one-shot, final", "random", "two Gaussians"): (
        "estimate, final model", "#000000", "o",
    ),
    ("one-shot, all iterates", "random", "two Gaussians"): (
        "estimate, all iterates", "#000000", "s",
    ),
}  # fmt: skip


def draw(axis: plt.Axes, rows: list[dict[str, str]]) -> None:
    """One training: both upper bounds, and every attack's points."""
    targets = sorted({float(row["target_epsilon"]) for row in rows})
    for name, style in (("rdp", "k--"), ("pld", "k-")):
        upper = {float(r["target_epsilon"]): float(r[f"epsilon_{name}"]) for r in rows}
        axis.plot(
            targets, [upper[t] for t in targets], style, lw=1,
            label=f"upper bound, {name.upper()}",
        )  # fmt: skip
    for place, (which, (label, colour, marker)) in enumerate(SHOWN.items()):
        own = [
            row for row in rows if (row["attack"], row["canary"], row["by"]) == which
        ]
        if not own:
            continue
        filled = own[0]["kind"] == "lower bound"
        nudge = 1 + 0.02 * (place - len(SHOWN) / 2)
        axis.errorbar(
            [nudge * float(row["target_epsilon"]) for row in own],
            [float(row["value"]) for row in own],
            [float(row["spread"] or "nan") for row in own],
            fmt=marker, ms=5, color=colour, mfc=colour if filled else "none",
            capsize=2, lw=1, label=label,
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(targets, [f"{target:g}" for target in targets])
    axis.set_yscale("symlog", linthresh=0.25, base=2)
    ticks = [0, *2.0 ** np.arange(-2, 4)]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ylim(-0.05, 16)
    axis.minorticks_off()
    axis.grid(alpha=0.25)


def main(folder: Path, out: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(
        1, 2, figsize=(9.5, 4.8), layout="constrained", sharey=True
    )
    for axis, training in zip(axes, ("pooled", "federated"), strict=True):
        own = [row for row in rows if row["training"] == training]
        draw(axis, own)
        unit = "examples" if training == "pooled" else "clients"
        axis.set(title=f"{training}: {unit} are private", xlabel="epsilon, calibrated")
    axes[0].set_ylabel("epsilon, bounded or estimated")
    handles: dict[str, Any] = {}
    for axis in axes:
        own, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, own, strict=True))
    figure.legend(
        handles.values(), handles.keys(), fontsize=7, loc="outside lower center",
        ncols=4, frameon=False,
    )  # fmt: skip
    for suffix in ("pdf", "png"):
        figure.savefig(out / f"audit_epsilon.{suffix}", dpi=150)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[1]))
    else:
        main(HERE.parent / "results" / "audit_epsilon", HERE)
