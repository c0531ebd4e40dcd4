"""Audited lower bounds and estimates beside the accountants' upper bounds.

    python -m paper_figures.audit_epsilon [results folder]

Bounds are filled; estimates, which have no guarantee, are hollow.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures import common

SHOWN = {  # attack, canary, by whom: label
    ("mechanism", "gradient", "family"): "mechanism alone",
    ("white box", "gradient", "family"): "white box, many runs",
    ("white box", "gradient", "Clopper-Pearson"): "the same, Clopper-Pearson",
    ("black box", "blank", "family"): "black box, blank image",
    ("black box", "mislabelled", "family"): "black box, mislabelled",
    ("one run", "gradient", "one run, Mahloujifar et al."): "one run, f-DP",
    ("one run", "gradient", "one run, Steinke et al."): "one run, Steinke et al.",
    ("one-shot, final", "random", "two Gaussians"): "estimate, final model",
    ("one-shot, all iterates", "random", "two Gaussians"): "estimate, all iterates",
}


def draw_training(axis: plt.Axes, rows: common.Rows) -> None:
    """Draws one training: both upper bounds, and every attack's points."""
    targets = [float(target) for target in common.numbers(rows, "target_epsilon")]
    for name, style in (("rdp", "k--"), ("pld", "k-")):
        _, upper, _ = common.over(rows, "target_epsilon", f"epsilon_{name}")
        axis.plot(targets, upper, style, lw=1, label=f"upper bound, {name.upper()}")
    for place, (which, look) in enumerate(common.looks(SHOWN).items()):
        attack, canary, by = which
        own = common.where(rows, attack=attack, canary=canary, by=by)
        if not own:
            continue
        nudge = 1 + 0.02 * (place - len(SHOWN) / 2)
        filled = own[0]["kind"] == "lower bound"
        axis.errorbar(
            nudge * common.column(own, "target_epsilon"),
            common.column(own, "value"),
            common.column(own, "spread"),
            fmt=look.marker, ms=5, color=look.color, capsize=2, lw=1,
            mfc=look.color if filled else "none", label=SHOWN[which],
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(targets, [f"{target:g}" for target in targets])
    axis.set_yscale("symlog", linthresh=0.25, base=2)
    ticks = [0, *2.0 ** np.arange(-2, 4)]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ylim(-0.05, 16)
    axis.minorticks_off()
    axis.grid(alpha=0.25)


def draw(rows: common.Rows) -> Figure:
    common.check_known(rows, "attack", {attack for attack, _, _ in SHOWN})
    figure, axes = plt.subplots(
        1, 2, figsize=(9.5, 4.8), layout="constrained", sharey=True
    )
    handles: dict[str, Any] = {}
    for axis, (training, unit) in zip(
        axes, {"pooled": "examples", "federated": "clients"}.items(), strict=True
    ):
        draw_training(axis, common.where(rows, training=training))
        axis.set(title=f"{training}: {unit} are private", xlabel="epsilon, calibrated")
        own, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, own, strict=True))
    axes[0].set_ylabel("epsilon, bounded or estimated")
    figure.legend(
        handles.values(), handles.keys(), fontsize=7, loc="outside lower center",
        ncols=4, frameon=False,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    common.main(__file__, draw)
