"""Central training without noise, where nobody need be hidden."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Central training, without a guarantee",
    role="pattern",
    what="All rows lie in one place and are trained there. Nothing is hidden from who "
    "holds them, and nothing is promised about the model.",
    against="Nobody: whoever sees the model may learn about single rows.",
    units=("none",),
    shows="rows",
    needs={
        "pooled": ("yes",),
        "trust": ("server",),
        "protect": ("none",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows may be pooled, and nothing is as accurate, cheap and simple",
        "protect": "nobody need be hidden in what is released",
    },
    measured=(
        "Central training reaches {{ privacy_utility/paper_fashion: pattern=central "
        "training -> mean | percent }} on Fashion-MNIST, where federated averaging "
        "has {{ privacy_utility/paper_fashion: pattern=federated -> mean | percent "
        "}}.",
    ),
    computed=(),
    not_protected="Rows, from whoever runs it or breaks in; members, from whoever "
    "sees the model.",
    attack="Membership inference from the model's losses. The lab has the pieces "
    "(`audit.training`); on a training without noise it is not measured here.",
    production="Any training library. Nothing is carried over but the model.",
    commands=("python -m experiments.privacy_utility smoke",),
    roles="One party, who is trusted with everything; no keys; no rounds.",
)
