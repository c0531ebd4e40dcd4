"""Statistics of several owners' data, on shares."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Statistics on shares",
    role="pattern",
    what="Owners divide their data into shares among parties, who compute any JAX "
    "function on shares and open the result alone: sums, tables across owners, a join "
    "by a key that they have matched already.",
    against="Holds against the computing parties, unless as many collude as can put "
    "shares together. It promises nothing about the result, which is exact.",
    units=("none",),
    shows="shares",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum", "parties"),
        "protect": ("none",),
        "release": ("statistics",),
    },
    reasons={
        "release": "any function of all data can be opened, and nothing else",
        "trust": "parties hold shares alone",
        "split": "rows and columns of several owners are joined on shares",
    },
    measured=(
        "Not measured here for statistics. A product with a matrix and a choice of "
        "the largest are priced in `private_inference`: a logistic regression answers "
        "a batch in {{ private_inference: model=logistic, protocol=replicated -> "
        "rounds | count }} rounds and {{ private_inference: model=logistic, "
        "protocol=replicated -> online_bytes | bytes }}.",
    ),
    computed=(),
    not_protected="What the result says of single people, such as a cell with one of "
    "them. Wrong inputs.",
    attack="Differences of two results that differ in one person. Not measured here.",
    production="Sharemind in Estonia, and MP-SPDZ. Carry over the ring and the "
    "fraction bits.",
    commands=("python -m experiments.private_inference smoke",),
    roles="Two parties and a dealer, or three parties of whom no two collude; keys "
    "between them; rounds as deep as the function.",
    cautions=(
        Caution({"bandwidth": ("low",)}, "shares cost bytes and rounds"),
        Caution(
            {"trust": ("server",), "split": ("rows",)},
            "a server that may see sums needs no shares for them",
        ),
    ),
)
