"""DP-SGD of each silo on its own, with its own noise."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Each silo's own DP-SGD, averaged",
    role="pattern",
    what="Every silo trains by DP-SGD on its own rows, with its own noise, and sends "
    "the update. Nobody outside of the silo is trusted. The next command counts one "
    "step of a silo in each round: multiply the steps where silos take more.",
    against="Holds for one row against everybody outside of its silo: the server, "
    "other silos, and whoever sees the model, even if all collude. A person with "
    "several rows, or with rows in several silos, is protected less.",
    units=("example",),
    shows="noised",
    needs={
        "pooled": ("no",),
        "split": ("rows",),
        "protect": ("example",),
        "release": ("model", "updates", "predictions"),
        "kind": ("silos",),
        "loss": ("little", "much"),
    },
    reasons={
        "trust": "nothing leaves a silo without the silo's own noise",
        "kind": "a silo has rows enough to hide one of them",
    },
    measured=("Not measured here: no committed table has it.",),
    computed=("noise for rows of each", "updates"),
    not_protected="The silo itself: its name, its size, its mean. The model, from a "
    "silo that lies.",
    attack="The audit of central DP-SGD applies to each silo: {{ audit_epsilon: "
    "pattern=pooled, target_epsilon=8 -> white box, gradient, family | number }} at "
    "least where {{ audit_epsilon: pattern=pooled, target_epsilon=8 -> target_epsilon "
    "| number }} is promised. On this pattern none is measured here.",
    production="Flower or NVIDIA FLARE with Opacus inside each silo. Carry over the "
    "clip norm, the noise multiplier of each silo's own size, and the sampler.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob "
        "{own_prob} --num-steps {rounds} --delta {own_delta}",
    ),
    roles="One server that nobody need trust; no keys; one exchange a round.",
    cautions=(
        Caution(
            {"trust": ("server", "sum")},
            "each silo pays for noise of its own, where one noise on the sum would do",
        ),
    ),
)
