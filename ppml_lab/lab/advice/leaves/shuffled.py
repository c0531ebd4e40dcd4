"""Shuffled reports, which the lab has not."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Shuffled local noise",
    role="not here",
    what="A shuffler between participants and server takes names off, so that each "
    "report hides among all others and needs less noise. The lab has neither a "
    "shuffler nor its accounting: it claims nothing for it. What exists is local DP "
    "without the shuffler, which promises no less.",
    against="Elsewhere it holds against a server that does not collude with the "
    "shuffler. Nothing is promised here.",
    units=(),
    shows="noised",
    needs={
        "pooled": ("no",),
        "trust": ("nobody", "parties"),
        "split": ("rows",),
        "protect": ("client", "organisation", "example"),
    },
    reasons={
        "trust": "where no server may see a sum, less noise than local DP's needs "
        "somebody to mix reports",
    },
    measured=("Not measured here: the lab has no such pattern.",),
    computed=(),
    not_protected="Everything, if shuffler and server collude, down to what the local "
    "noise hides.",
    attack="None is measured here.",
    production="Prochlo at Google. Nothing is carried over from here.",
    commands=("python -m ppml_lab show privacy_utility/paper_fashion",),
    roles="A shuffler and a server who do not collude.",
)
