"""Training on secret shares, without noise."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Training on shares",
    role="pattern",
    what="Owners divide their rows, or their columns, into shares among computing "
    "parties, who train on shares and open the model alone. It is the training of the "
    "pooled data, and nobody sees them.",
    against="Holds against the computing parties, unless as many collude as can put "
    "shares together, and if they follow the protocol. It promises nothing about the "
    "model, whoever sees it.",
    units=("none",),
    shows="shares",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum", "parties"),
        "protect": ("none",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows stay hidden, and the model is that of the pool",
        "trust": "parties hold shares alone",
        "split": "rows and columns of several owners are joined on shares",
        "loss": "the model is as accurate as that of the pool",
    },
    measured=(
        "Heart disease of four hospitals gives {{ private_training/paper: case=heart, "
        "method=shares -> mean | percent }} on shares and {{ private_training/paper: "
        "case=heart, method=pooled -> mean | percent }} pooled, for {{ "
        "private_training/paper: case=heart, method=shares -> upload_bytes | bytes }} "
        "of the busiest party, {{ private_training/paper: case=heart, method=shares "
        "-> protocol_rounds | count }} rounds and {{ private_training/paper: "
        "case=heart, method=shares -> wan_seconds | seconds }} of messages on a WAN.",
        "Adult, divided by columns between two parties, takes {{ "
        "private_training/paper: case=adult, method=shares -> upload_bytes | bytes }} "
        "and gives {{ private_training/paper: case=adult, method=shares -> mean | "
        "percent }}; a network of two hidden layers on MNIST takes {{ "
        "private_training/mnist: case=mnist, method=shares -> upload_bytes | bytes }} "
        "and {{ private_training/mnist: case=mnist, method=shares -> wan_seconds | "
        "seconds }}.",
    ),
    computed=("steps on shares",),
    not_protected="The model: who sees it may learn about single rows. Wrong inputs. "
    "Parties who change shares, unless MACs (`smpc.authenticated`) find them.",
    attack="Membership inference from the opened model, as from any model without "
    "noise. Not measured here.",
    production="MP-SPDZ, CrypTen and SecretFlow. Carry over the ring, the fraction "
    "bits and the piecewise functions.",
    commands=(
        "python -m ppml_lab show private_training",
        "python -m experiments.private_training smoke",
    ),
    roles="Two parties and a dealer, or three parties of whom no two collude; keys "
    "between them; several rounds for every step, which wait for each other.",
    cautions=(
        Caution({"bandwidth": ("low",)}, "shares cost bytes and thousands of rounds"),
        Caution({"kind": ("devices",)}, "devices can share rows, and cannot compute"),
        Caution({"malicious": ("yes",)}, "wrong inputs are as hidden as right ones"),
        Caution(
            {"trust": ("server", "sum"), "split": ("rows",)},
            "where a sum may be seen, a secure sum is far cheaper",
        ),
        Caution({"data": ("personal",)}, "it trains one model"),
    ),
    least=2,
)
