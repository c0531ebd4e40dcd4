"""Federated averaging alone: a way to send less, no guarantee."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Federated learning alone",
    role="pattern",
    what="Participants train on their own rows and send updates, which a server "
    "averages. This is a communication pattern, not a privacy guarantee.",
    against="Nobody: the server sees every update, and whoever sees the model may "
    "learn about single rows.",
    units=("none",),
    shows="updates",
    needs={
        "pooled": ("no",),
        "trust": ("server",),
        "split": ("rows",),
        "protect": ("none",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows stay where they are",
        "protect": "nobody need be hidden",
        "bandwidth": "local steps trade bytes against drift",
    },
    measured=(
        "On Fashion-MNIST it ends {{ privacy_utility/paper_fashion: "
        "pattern=central training -> mean minus pattern=federated -> mean | points }} "
        "below central training, less than that one's spread over seeds, and a "
        "participant sends {{ privacy_utility/paper_fashion: "
        "pattern=federated -> upload_bytes | bytes }}.",
        "Where each participant has two labels of MNIST's ten, the model ends at {{ "
        "heterogeneity: partition=2 labels, algorithm=fedavg -> mean | percent }}, "
        "and at {{ heterogeneity: partition=dirichlet 10, algorithm=fedavg -> mean | "
        "percent }} where they differ little.",
    ),
    computed=("updates",),
    not_protected="Updates, from the server, which may hold the rows that made them; "
    "members, from whoever sees a model; the model, from participants who lie.",
    attack="Reconstruction of rows from an update, and membership inference. Neither "
    "is measured here; the bounds of `audit_epsilon` are of trainings with noise.",
    production="Flower, TensorFlow Federated and NVIDIA FLARE. Carry over the cohort, "
    "local steps and both learning rates.",
    commands=("python -m experiments.heterogeneity smoke",),
    roles="One server, who is trusted with updates; no keys; one exchange a round.",
    cautions=(
        Caution(
            {"data": ("different", "personal")},
            "averaging loses accuracy where participants differ much",
        ),
        Caution({"malicious": ("yes",)}, "one participant who lies moves the mean"),
    ),
)
