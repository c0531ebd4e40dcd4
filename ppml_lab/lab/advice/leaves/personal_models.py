"""A part of the model that each participant keeps."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Personal models",
    role="beside",
    what="Each participant keeps a part of the model, such as the last layer or the "
    "statistics of batches; the rest is trained together. What is kept is never "
    "clipped, noised or sent. It goes with any federated pattern, which says what "
    "protects the shared part.",
    against="Holds for what is kept against everybody, for it never leaves. For the "
    "shared part the promise is that of the pattern beside it.",
    units=(),
    shows="nothing",
    needs={
        "pooled": ("no",),
        "split": ("rows",),
        "release": ("model", "updates", "predictions"),
        "data": ("personal", "different"),
    },
    reasons={"data": "participants differ so much that one model fits none of them"},
    measured=(
        "With intercepts of their own, without noise, four hospitals' models are right "
        "for {{ hospitals: pattern=personal intercept, target_epsilon=inf -> mean | "
        "percent }} of their patients, one model for all for {{ hospitals: "
        "pattern=federated, target_epsilon=inf -> mean | percent }}, and each "
        "hospital's model by itself for {{ hospitals: "
        'pattern="each alone, for its own", target_epsilon=inf -> mean | percent }}.',
        "The problem that it addresses: where each has two labels, the mean accuracy "
        "on participants' own rows is {{ heterogeneity: partition=2 labels, "
        "algorithm=fedavg -> client_accuracy | percent }}, and {{ heterogeneity: "
        "partition=2 labels, algorithm=fedavg -> client_accuracy_worst_decile | "
        "percent }} for the worst tenth.",
    ),
    computed=(),
    not_protected="The shared part, unless the pattern beside it does.",
    attack="None is measured here.",
    production="Flower has examples of it. Carry over which layers are kept.",
    commands=("python -m experiments.hospitals smoke",),
    roles="As the pattern beside it; participants must keep a state between rounds.",
    cautions=(
        Caution({"kind": ("devices",)}, "devices that come once keep no state"),
        Caution({"data": ("different",)}, "one model is wanted for all"),
    ),
    least=2,
)
