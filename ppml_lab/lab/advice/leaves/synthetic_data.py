"""Synthetic data, which the lab does not make."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Synthetic data",
    role="not here",
    what="Rows that look like the real ones are out of scope: the lab makes none. "
    "Without DP they promise nothing, and with it they are a release of statistics. "
    "What exists: a model, or noised statistics, in place of rows.",
    against="Nothing is promised here.",
    units=(),
    shows="nothing",
    needs={"release": ("synthetic",)},
    reasons={"release": "made-up rows are asked for"},
    measured=("Not measured here: the lab has no such pattern.",),
    computed=(),
    not_protected="Everything: rows that are made without noise may repeat real ones.",
    attack="None is measured here.",
    production="OpenDP and SmartNoise make synthetic tables with DP. Nothing is "
    "carried over from here.",
    commands=(
        "python -m ppml_lab epsilon --sampling-prob 1 --noise-multiplier 5 "
        "--num-steps {rounds} --delta {row_delta}",
    ),
    roles="Who holds the rows; no rounds.",
)
