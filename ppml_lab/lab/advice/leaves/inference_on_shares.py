"""Predictions of a trained model on shares of the query."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Predictions on shares",
    role="beside",
    what="The model's owner and who asks divide model and query into shares among "
    "parties, who compute the answer on shares. Neither sees the other's. It goes "
    "with a pattern that trained the model.",
    against="Holds for query and parameters against the computing parties, unless as "
    "many collude as can put shares together. It promises nothing about the rows that "
    "trained the model: who asks often enough may learn about them.",
    units=(),
    shows="shares",
    needs={
        "trust": ("server", "sum", "parties"),
        "release": ("predictions",),
    },
    reasons={
        "release": "answers leave, and neither model nor queries do",
        "trust": "parties hold shares alone",
    },
    measured=(
        "With three parties {{ private_inference: model=2nn, protocol=replicated -> "
        "online_bytes | bytes }}, {{ private_inference: model=2nn, "
        "protocol=replicated -> rounds | count }} rounds and {{ private_inference: "
        "model=2nn, protocol=replicated -> wan_seconds | seconds }} on a WAN answer a "
        "batch of digits by a network of two hidden layers, {{ private_inference: "
        "model=cnn, protocol=replicated -> online_bytes | bytes }} and {{ "
        "private_inference: model=cnn, protocol=replicated -> wan_seconds | seconds "
        "}} by a CNN.",
        "With {{ private_inference: model=2nn, ring_bits=64, fraction_bits=16 -> "
        "fraction_bits | number }} fraction bits it classifies {{ private_inference: "
        "model=2nn, ring_bits=64, fraction_bits=16 -> accuracy | percent }} rightly, "
        "in the clear {{ private_inference: model=2nn, ring_bits=64, fraction_bits=16 "
        "-> clear_accuracy | percent }}.",
    ),
    computed=(),
    not_protected="Rows that trained the model, from who sees answers. The model, "
    "from who asks so often as to copy it.",
    attack="Membership inference by queries, as to any model. Not measured here.",
    production="CrypTen, SecretFlow and MP-SPDZ. Carry over the ring and the fraction "
    "bits.",
    commands=("python -m experiments.private_inference smoke",),
    roles="Two parties and a dealer, or three parties of whom no two collude; keys "
    "between them; tens of rounds for a batch of queries.",
    cautions=(Caution({"bandwidth": ("low",)}, "a batch of queries takes megabytes"),),
)
