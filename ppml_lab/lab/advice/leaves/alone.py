"""Each participant by itself: the floor under all patterns."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Each alone",
    role="pattern",
    what="Every participant trains on its own rows and keeps its model. Nothing "
    "leaves. It is the floor that any other pattern has to beat.",
    against="Holds against everybody, as long as the model is kept. Whoever is given "
    "the model, or its answers, may learn about its rows.",
    units=("none", "example", "client", "organisation"),
    shows="nothing",
    needs={
        "pooled": ("no",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={"trust": "nobody sees anything"},
    measured=(
        "Of four hospitals the model of the best one alone is right for {{ hospitals: "
        "pattern=alone: Cleveland, target_epsilon=inf -> mean | percent }} of all "
        "patients, that of the pool for {{ hospitals: pattern=pooled, "
        "target_epsilon=inf -> mean | percent }}, and each hospital's own for {{ "
        'hospitals: pattern="each alone, for its own", target_epsilon=inf -> mean | '
        "percent }} of its own. With columns of Adult alone the better of two parties "
        "has {{ "
        "private_training/paper: case=adult, method=alone -> mean | percent }}, and "
        "both together {{ private_training/paper: case=adult, method=pooled -> mean | "
        "percent }}.",
    ),
    computed=(),
    not_protected="Nothing needs protection until a model is given away.",
    attack="None: there is nothing to see.",
    production="Any training library.",
    commands=("python -m experiments.hospitals smoke",),
    roles="Nobody; no keys; no rounds.",
    is_floor=True,
    cautions=(
        Caution({"kind": ("devices",)}, "a device has few rows"),
        Caution({"data": ("alike",)}, "participants alike gain by training together"),
    ),
)
