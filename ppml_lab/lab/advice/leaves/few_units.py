"""Hiding one of a few participants, which no noise can do cheaply."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Hiding one of few",
    role="not here",
    what="Noise that hides all that one of a handful of participants holds is as "
    "large as what it holds, so that hardly anything is learned. No pattern here "
    "changes that. What exists: protect the people instead, by DP steps at example "
    "level or on shares; the participants are then public by name.",
    against="Nothing is promised here.",
    units=(),
    shows="nothing",
    needs={"protect": ("client", "organisation")},
    reasons={"participants": "there are too few participants to hide one of them"},
    measured=(
        "Not measured here with so few. With {{ dp_fedavg: cohort=50, noise=1, "
        "clipping=flat, clip_norm=0.3 -> num_clients | count }} it is: a noise "
        "multiplier of {{ dp_fedavg: cohort=50, noise=1, clipping=flat, clip_norm=0.3 "
        "-> noise | number }} at {{ dp_fedavg: cohort=50, noise=1, clipping=flat, "
        "clip_norm=0.3 -> cohort | count }} in a round keeps {{ dp_fedavg: cohort=50, "
        "noise=1, clipping=flat, clip_norm=0.3 -> mean | percent }} at epsilon {{ "
        "dp_fedavg: cohort=50, noise=1, clipping=flat, clip_norm=0.3 -> epsilon | "
        "number }}.",
    ),
    computed=("noise for participants",),
    not_protected="The participant: say so, and protect people.",
    attack="None is measured here.",
    production="None. Nothing is carried over from here.",
    commands=("python -m experiments.dp_fedavg smoke",),
    roles="None.",
    most=19,
)
