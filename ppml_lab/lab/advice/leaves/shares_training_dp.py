"""Training on secret shares, with the parties' own noise."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Training on shares + noise by the parties",
    role="pattern",
    what="As training on shares, and each party adds its own noise, shared "
    "beforehand, to each step: central DP without a trusted server. Owners clip their "
    "rows.",
    against="Epsilon holds for an example against everybody but its owner: whoever "
    "sees the model, and coalitions of parties too small to put shares together. "
    "Larger coalitions see the rows.",
    units=("example",),
    shows="shares",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum", "parties"),
        "protect": ("example",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows stay hidden",
        "trust": "no party sees a sum, and none knows the whole noise",
        "split": "rows and columns of several owners are joined on shares",
        "protect": "the noise hides one example of anybody's",
    },
    measured=(
        "Heart disease of four hospitals gives {{ private_training/paper: case=heart, "
        "method=shares + DP, target_epsilon=1 -> mean | percent }} at epsilon {{ "
        "private_training/paper: case=heart, method=shares + DP, target_epsilon=1 -> "
        "target_epsilon | number }} and {{ private_training/paper: case=heart, "
        "method=shares + DP, target_epsilon=8 -> mean | percent }} at {{ "
        "private_training/paper: case=heart, method=shares + DP, target_epsilon=8 -> "
        "target_epsilon | number }}, pooled without noise {{ private_training/paper: "
        "case=heart, method=pooled -> mean | percent }}; it takes {{ "
        "private_training/paper: case=heart, method=shares + DP, target_epsilon=1 -> "
        "upload_bytes | bytes }}, {{ private_training/paper: case=heart, "
        "method=shares + DP, target_epsilon=1 -> protocol_rounds | count }} rounds "
        "and {{ private_training/paper: case=heart, method=shares + DP, "
        "target_epsilon=1 -> wan_seconds | seconds }} on a WAN.",
        "Adult by columns gives {{ private_training/paper: case=adult, method=shares "
        "+ DP, target_epsilon=1 -> mean | percent }} for {{ private_training/paper: "
        "case=adult, method=shares + DP, target_epsilon=1 -> upload_bytes | bytes }}, "
        "and clipped features with the piecewise sigmoid, without noise, {{ "
        "private_training/paper: case=adult, "
        'method="pooled, clipped, piecewise" -> mean | percent }}.',
    ),
    computed=("noise for all rows in every step", "steps on shares"),
    not_protected="Means and deviations by which features were standardised before. "
    "Wrong inputs. Everything, from a coalition that can put shares together.",
    attack="None is measured on this pattern here; `audit.of_shared_training` tests "
    "what it states.",
    production="MP-SPDZ, CrypTen and SecretFlow have the shares; noise by the parties "
    "is to be built. Carry over the clip norm of rows, the noise multiplier, how many "
    "parties are honest, the ring and the fraction bits.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob 1 "
        "--num-steps {rounds} --delta {row_delta}",
        "python -m experiments.private_training smoke",
    ),
    roles="Two parties and a dealer, or three parties of whom no two collude, each "
    "trusted with its own noise; keys between them; several rounds for every step.",
    cautions=(
        Caution({"bandwidth": ("low",)}, "shares cost bytes and thousands of rounds"),
        Caution({"kind": ("devices",)}, "devices can share rows, and cannot compute"),
        Caution({"malicious": ("yes",)}, "wrong inputs are as hidden as right ones"),
        Caution({"loss": ("none",)}, "clipping and noise cost accuracy"),
        Caution(
            {"trust": ("server", "sum"), "split": ("rows",)},
            "where a sum may be seen, noise on a secure sum is far cheaper",
        ),
        Caution({"data": ("personal",)}, "it trains one model"),
    ),
    least=2,
)
