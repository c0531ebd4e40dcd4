"""Noised statistics on shares, which are not ready here."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Noised statistics on shares",
    role="not here",
    what="Parties would compute statistics on shares and add their own noise before "
    "they open them. The lab has the shares and noise by the parties in training, and "
    "no such release of statistics with its accounting.",
    against="Nothing is promised here.",
    units=(),
    shows="shares",
    needs={
        "pooled": ("no",),
        "trust": ("parties",),
        "protect": ("client", "organisation", "example"),
        "release": ("statistics",),
    },
    reasons={
        "release": "statistics are asked for",
        "trust": "parties may hold shares, and none may see a sum",
    },
    measured=("Not measured here: the lab has no such pattern.",),
    computed=("noise on counts",),
    not_protected="Everything: take `trust sum` and noised statistics, or add noise "
    "to the function yourself and account for it with `dp.ledger`.",
    attack="None is measured here.",
    production="None that we are sure of. Nothing is carried over from here.",
    commands=("python -m ppml_lab show private_training",),
    roles="Two or three computing parties, each with its own noise.",
)
