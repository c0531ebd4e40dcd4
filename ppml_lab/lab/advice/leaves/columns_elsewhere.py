"""Split learning and set intersection, which the lab has not."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Leaf

LEAF = Leaf(
    title="Columns by party: split learning and set intersection",
    role="not here",
    what="Owners of different columns first match their people (private set "
    "intersection) and then often train the lower layers apart and exchange what they "
    "give (split learning). The lab has neither. What exists is training on shares by "
    "columns, for rows that are matched already.",
    against="Nothing is promised here. Elsewhere, plain split learning promises "
    "nothing: labels show in the gradients that go back. Set intersection shows who "
    "is in both.",
    units=(),
    shows="updates",
    needs={
        "pooled": ("no",),
        "split": ("columns",),
    },
    reasons={"split": "owners of columns have to match their people first"},
    measured=("Not measured here: the lab has no such pattern.",),
    computed=(),
    not_protected="Labels and, in part, features, from the other party; membership, "
    "from whoever learns the intersection.",
    attack="The direction of a returned gradient tells the label. Not measured here.",
    production="FATE and SecretFlow, for both steps. Nothing is carried over from "
    "here.",
    commands=("python -m ppml_lab show private_training",),
    roles="Two owners; keys for the intersection; two exchanges a step.",
    least=2,
)
