"""Statistics that every silo noises and publishes by itself."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Each silo's own noised statistics",
    role="pattern",
    what="Every silo adds noise to its own sums before it publishes them; whoever "
    "likes adds them up. The noises add up, too.",
    against="Holds for a person against everybody outside of the person's silo, even "
    "if all collude.",
    units=("example",),
    shows="noised",
    needs={
        "pooled": ("no",),
        "protect": ("example",),
        "release": ("statistics",),
        "kind": ("silos",),
    },
    reasons={
        "trust": "nothing leaves a silo without the silo's own noise",
        "kind": "a silo has people enough to hide one of them",
    },
    measured=("Not measured here: no committed table has statistics.",),
    computed=("noise on counts",),
    not_protected="The silo itself, and its size. It cannot make tables that join "
    "columns of different silos.",
    attack="None is measured here.",
    production="OpenDP. Carry over the bound of each contribution, the noise and the "
    "ledger.",
    commands=(
        "python -m ppml_lab epsilon --sampling-prob 1 --noise-multiplier 5 "
        "--num-steps {rounds} --delta {row_delta}",
    ),
    roles="Nobody but the silo itself; no keys.",
    cautions=(
        Caution(
            {"trust": ("server", "sum")},
            "each silo pays for noise of its own, where one noise on the sum would do",
        ),
        Caution({"loss": ("none",)}, "every silo's noise is in the total"),
    ),
)
