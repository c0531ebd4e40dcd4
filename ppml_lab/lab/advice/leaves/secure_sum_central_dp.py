"""Federated averaging, a secure sum, and noise on the sum."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Federated learning + secure sum + central DP",
    role="pattern",
    what="Updates are clipped and summed securely, and noise is added to the sum. The "
    "server sees neither an update nor, before the noise, more than the sum. The "
    "noise computed here is for shares among several servers, with each participant "
    "drawn by its own coin. It is no promise for masks from one server: for those draw "
    "cohorts of a fixed size, protect against replacing a participant, and take the "
    "noise from the algorithm's own event.",
    against="Epsilon holds against whoever sees the released models. Who adds the "
    "noise sees the sum without it, and who takes part: against that party the secure "
    "sum hides single updates, and nothing more is promised.",
    units=("client", "organisation", "example"),
    shows="sum",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum"),
        "split": ("rows",),
        "protect": ("client", "organisation", "example"),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows stay where they are",
        "protect": "everything that a participant holds is hidden",
        "trust": "the server sees sums alone",
        "participants": "there are enough participants to hide one of them",
    },
    measured=(
        "{{ privacy_utility/paper_fashion: pattern=federated + central DP + secure "
        "sum, target_epsilon=1 -> mean near pattern=federated + central DP, "
        "target_epsilon=1 -> mean }}At epsilon {{ privacy_utility/paper_fashion: "
        "pattern=federated + central DP + secure sum, target_epsilon=1 -> "
        "target_epsilon | number }} for whole clients it reaches {{ "
        "privacy_utility/paper_fashion: pattern=federated + central DP + secure sum, "
        "target_epsilon=1 -> mean | percent }}, as without the secure sum within the "
        "spread of seeds; {{ privacy_utility/paper_fashion: pattern=federated -> mean "
        "| percent }} without noise.",
        "On MNIST, for replacing one client, with masks in pairs and {{ "
        "bits_accuracy: cohort=200, target_epsilon=1, "
        "dropout_prob=0.3, scale_bits=12, modulus_bits=18 -> cohort | count }} in a "
        "round, epsilon {{ bits_accuracy: cohort=200, target_epsilon=1, "
        "dropout_prob=0.3, scale_bits=12, modulus_bits=18 -> target_epsilon | number "
        "}} gives {{ bits_accuracy: cohort=200, target_epsilon=1, dropout_prob=0, "
        "scale_bits=12, modulus_bits=18 -> mean | percent }} where nobody drops out "
        "and {{ bits_accuracy: cohort=200, target_epsilon=1, dropout_prob=0.3, "
        "scale_bits=12, modulus_bits=18 -> mean | percent }} where a share of {{ "
        "bits_accuracy: cohort=200, target_epsilon=1, dropout_prob=0.3, "
        "scale_bits=12, modulus_bits=18 -> dropout_prob | percent }} does.",
    ),
    computed=("noise for participants", "secure sums"),
    not_protected="The sum before the noise, from who adds it: a dishonest one may "
    "leave the noise out. Properties of many participants. A liar, whom the sum "
    "hides. Noise by the participants themselves inside the sum is not here.",
    attack="Canary clients, as without the secure sum: {{ audit_epsilon: "
    "pattern=federated, target_epsilon=1 -> white box, gradient, family | number }} "
    "at least where {{ audit_epsilon: pattern=federated, target_epsilon=1 -> "
    "target_epsilon | number }} is promised.",
    production="Google's keyboard joins secure aggregation and DP for some of its "
    "models. Carry over the "
    "clip norm, the noise multiplier, bits and scale, the threshold, and the sampler: "
    "a masked sum, which may abort, needs cohorts of a fixed size or turns.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob "
        "{prob} --num-steps {rounds} --delta {delta}",
        "python -m ppml_lab cost --num-clients {cohort} --dimension {dimension}",
        "python -m experiments.bits_accuracy smoke",
    ),
    roles="The parties of the secure sum, and one that is trusted with the noise and "
    "sees sums alone; keys as the secure sum has them; two exchanges a round with "
    "several servers, four with masks.",
    ruled_out=(
        Caution(
            {"protect": ("example",), "kind": ("silos",)},
            "it would hide whole silos, at the price of few participants: take DP "
            "steps at example level",
        ),
    ),
    cautions=(
        Caution({"malicious": ("yes",)}, "the sum hides who lied"),
        Caution({"loss": ("none",)}, "the noise costs accuracy"),
        Caution(
            {"trust": ("server",)},
            "a server that may see updates needs no secure sum",
        ),
    ),
    least=20,
)
