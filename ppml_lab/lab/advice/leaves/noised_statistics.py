"""Counts and sums with noise, over a secure sum where need be."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Noised statistics",
    role="pattern",
    what="Contributions are clipped, summed (securely, where the server may see sums "
    "alone) and released with noise: counts, means, tables. All releases add up in "
    "one ledger.",
    against="With noise it holds against whoever sees what is released. It does not "
    "hold against who adds the noise, who sees the sums.",
    units=("none", "example", "client", "organisation"),
    shows="sum",
    needs={
        "trust": ("server", "sum"),
        "release": ("statistics",),
    },
    reasons={
        "release": "a sum is all that is wanted, and little noise hides one in it",
        "trust": "somebody may see sums, and adds the noise",
    },
    measured=("Not measured here: no committed table has statistics.",),
    computed=("noise on counts",),
    not_protected="Sums, from who adds the noise; whoever asks for statistics without "
    "end, unless the ledger stops them; properties of groups, which are what is "
    "published.",
    attack="Differences of many exact tables rebuild rows; with noise that is "
    "counted, they do not. Not measured here.",
    production="The United States Census and OpenDP, for statistics of one office; "
    "Prio's line of systems, for sums of phones. Carry over the bound of each "
    "contribution, the noise and the ledger.",
    commands=(
        "python -m ppml_lab epsilon --sampling-prob 1 --noise-multiplier 5 "
        "--num-steps {rounds} --delta {row_delta}",
        "python -m ppml_lab cost --num-clients {participants} --dimension {dimension}",
    ),
    roles="One office that is trusted with the noise and, without a secure sum, with "
    "rows; one exchange for each release.",
    cautions=(
        Caution({"malicious": ("yes",)}, "a sum hides who lied"),
        Caution(
            {"protect": ("client", "organisation")},
            "to hide a participant, noise has to cover all that it adds to the table, "
            "and delta to be below one over the participants",
        ),
    ),
)
