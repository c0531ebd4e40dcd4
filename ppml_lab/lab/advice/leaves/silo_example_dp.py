"""DP-SGD across silos: one noise on the secure sum of their rows."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="DP steps at example level across silos",
    role="pattern",
    what="In each step every silo draws some of its people, clips one gradient for "
    "each and sends the sum; sums are added securely, and one noise is added to the "
    "total. It is central DP-SGD, and the rows never leave.",
    against="Epsilon holds for a person against whoever sees the released models, "
    "other silos too. Who adds the noise sees the sum without it. That a silo takes "
    "part is not hidden.",
    units=("example",),
    shows="sum",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum"),
        "split": ("rows",),
        "protect": ("example",),
        "release": ("model", "updates", "predictions"),
        "kind": ("silos",),
    },
    reasons={
        "pooled": "rows stay where they are",
        "trust": "outside of a silo nobody sees more than a sum",
        "protect": "one noise hides one person among all silos' people",
        "kind": "silos can take part in every step",
    },
    measured=(
        "For the patients of four hospitals {{ hospitals: pattern=federated + secure "
        "sum + central DP, target_epsilon=1 -> mean | percent }} at epsilon {{ "
        "hospitals: pattern=federated + secure sum + central DP, target_epsilon=1 -> "
        "target_epsilon | number }}, without noise {{ hospitals: pattern=federated + "
        "secure sum, target_epsilon=inf -> mean | percent }}, and the best hospital "
        "alone {{ hospitals: pattern=alone: Cleveland, target_epsilon=inf -> mean | "
        "percent }}. It takes {{ hospitals: pattern=federated + secure sum + central "
        "DP, target_epsilon=1 -> upload_bytes | bytes }} of each, and {{ hospitals: "
        "pattern=federated + secure sum + central DP, target_epsilon=1 -> wan_seconds "
        "| seconds }} of messages on a WAN.",
    ),
    computed=("noise for rows", "secure sums"),
    not_protected="The silo: its name and its size are public. The sum before the "
    "noise, from who adds it. A silo that lies.",
    attack="An unlikely patient, looked for in the last model: {{ hospitals: "
    "pattern=federated + secure sum + central DP, target_epsilon=4 -> lower_bound "
    "| number }} at least where {{ hospitals: pattern=federated + secure sum + central "
    "DP, target_epsilon=4 -> target_epsilon | number }} is promised.",
    production="NVIDIA FLARE and Flower connect silos; the clipping is Opacus' or JAX "
    "Privacy's. Carry over the clip norm, the noise multiplier and the chance with "
    "which each person is drawn, which must be the same in all silos.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob "
        "{batch_prob} --num-steps {rounds} --delta {row_delta}",
        "python -m experiments.hospitals smoke",
    ),
    roles="Silos that are always there, the parties of the secure sum, and one that "
    "is trusted with the noise; keys as the secure sum has them; an exchange for each "
    "step, which is many.",
    cautions=(
        Caution({"malicious": ("yes",)}, "the sum hides which silo lied"),
        Caution({"bandwidth": ("low",)}, "every step sends a gradient"),
    ),
    least=2,
)
