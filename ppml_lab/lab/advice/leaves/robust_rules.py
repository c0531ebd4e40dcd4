"""Robust rules in place of the mean, against some who lie."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Robust rules",
    role="beside",
    what="In place of the mean of updates the server takes a median or a trimmed mean "
    "in each coordinate, which a few liars move little. It needs every update, and is "
    "refused under secure sums and under noise on the sum; it goes with plain "
    "federated learning, or with noise of each participant's own.",
    against="Bounds what a minority of participants can do to the model. It is no "
    "promise of privacy to anybody, and the server sees every update.",
    units=(),
    shows="updates",
    needs={
        "pooled": ("no",),
        "trust": ("server",),
        "split": ("rows",),
        "release": ("model", "updates", "predictions"),
        "malicious": ("yes",),
    },
    reasons={
        "malicious": "a minority that lies moves a median little",
        "trust": "the server may see single updates, which robustness needs",
    },
    measured=("Not measured here: no committed table has robust rules.",),
    computed=("updates",),
    not_protected="Updates, from the server. The model, from a majority, or from "
    "liars who stay close to the others. Participants whose data differ honestly look "
    "like liars.",
    attack="`federated.sign_flipping` and `federated.lying` make attackers. What they "
    "reach is not measured here.",
    production="Flower has such rules. Carry over how many are trimmed.",
    commands=("python -m experiments.heterogeneity smoke",),
    roles="One server, who is trusted with updates; no keys; one exchange a round.",
    ruled_out=(
        Caution(
            {
                "protect": ("example", "client", "organisation"),
                "loss": ("none", "little"),
            },
            "it goes with noise of each participant's own alone, which costs a great "
            "deal",
        ),
    ),
    cautions=(
        Caution(
            {"protect": ("example", "client", "organisation")},
            "the lab refuses it with every pattern that adds noise to a sum",
        ),
        Caution(
            {"data": ("different", "personal")},
            "participants that differ honestly are taken for liars",
        ),
    ),
    least=4,
)
