"""Federated averaging under a secure sum, without noise."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Federated learning + secure sum",
    role="pattern",
    what="As federated learning, but the server sees the sum of a round's updates "
    "alone: updates are shared among several servers, or masked in pairs.",
    against="Holds against the server, or against servers who do not all collude, for "
    "single updates. It promises nothing about the sum or about the model, whoever "
    "sees them.",
    units=("none",),
    shows="sum",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum"),
        "split": ("rows",),
        "protect": ("none",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows stay where they are",
        "trust": "the server sees sums alone",
        "loss": "a secure sum costs no accuracy",
    },
    measured=(
        "{{ privacy_utility/paper_fashion: pattern=federated -> mean near "
        "pattern=federated + secure sum -> mean }}It costs {{ "
        "privacy_utility/paper_fashion: pattern=federated -> mean minus "
        "pattern=federated + secure sum -> mean | points }} of accuracy, and a "
        "participant sends {{ privacy_utility/paper_fashion: pattern=federated + "
        "secure sum -> upload_bytes over pattern=federated -> upload_bytes | more }} "
        "bytes to servers who share.",
        "With {{ secure_aggregation_cost: source=bell_2020, quantity=expansion, "
        "clients=1000 -> clients | count }} participants masks in pairs take {{ "
        "secure_aggregation_cost: source=bonawitz_2017, quantity=expansion, "
        "clients=1000 -> ours | times }} the bytes of the bare input, and {{ "
        "secure_aggregation_cost: source=bell_2020, quantity=expansion, clients=1000 "
        "-> ours | times }} with few neighbours; shares among servers take {{ "
        "secure_aggregation_cost: source=additive_sharing, quantity=expansion, "
        "clients=1000 -> ours | times }}.",
    ),
    computed=("secure sums",),
    not_protected="The sum and the model: a participant who stands out may be seen in "
    "both, and where all participants but one collude, they learn the last one's "
    "update. A liar, whom the sum hides.",
    attack="Membership inference from the model or from differences of sums. Not "
    "measured here.",
    production="Google's federated learning on phones (masks in pairs), and Prio's "
    "line of systems (shares among servers), which sums phones' statistics. Carry "
    "over the clip norm, which bounds "
    "the ring, the bits, the threshold and the share of drop-outs.",
    commands=(
        "python -m ppml_lab cost --num-clients {cohort} --dimension {dimension}",
        "python -m experiments.secure_aggregation_cost smoke",
    ),
    roles="Either several servers who do not collude, without keys of participants "
    "and in two exchanges a round; or one server, two key pairs for each participant, "
    "shares of two secrets, and four exchanges a round.",
    cautions=(
        Caution({"malicious": ("yes",)}, "the sum hides who lied"),
        Caution({"bandwidth": ("low",)}, "masks in pairs add keys and shares"),
    ),
    least=3,
)
