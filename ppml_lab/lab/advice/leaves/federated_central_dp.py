"""Federated averaging whose server adds noise to the sum."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Federated learning + central DP",
    role="pattern",
    what="Each update is clipped, and the server adds noise to the sum before "
    "anything else sees it (DP-FedAvg). All that a participant holds is hidden at "
    "once. Where rows may be pooled, the same runs in one place.",
    against="Holds against whoever sees the released models. It does not hold against "
    "the server, who sees updates and who takes part.",
    units=("client", "organisation", "example"),
    shows="updates",
    needs={
        "trust": ("server",),
        "split": ("rows",),
        "protect": ("client", "organisation", "example"),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "protect": "everything that a participant holds is hidden",
        "trust": "a server may see updates and adds the noise",
        "participants": "there are enough participants to hide one of them",
    },
    measured=(
        "At epsilon {{ privacy_utility/paper_fashion: pattern=federated + central DP, "
        "target_epsilon=1 -> target_epsilon | number }} for whole clients of {{ "
        "privacy_utility/paper_fashion: pattern=federated + central DP, "
        "target_epsilon=1 -> num_clients | count }} it costs {{ "
        "privacy_utility/paper_fashion: pattern=federated -> mean minus "
        "pattern=federated + central DP, target_epsilon=1 -> mean | points }}.",
        "**With few writers.** Of {{ dp_fedavg: cohort=200, noise=1, clipping=flat, "
        "clip_norm=1 -> num_clients | count }} writers of MNIST, a noise multiplier "
        "of {{ dp_fedavg: cohort=200, noise=1, clipping=flat, clip_norm=1 -> noise | "
        "number }} keeps {{ dp_fedavg: cohort=200, noise=1, clipping=flat, "
        "clip_norm=1 -> mean | percent }}, and is epsilon {{ dp_fedavg: cohort=200, "
        "noise=1, clipping=flat, clip_norm=1 -> epsilon | number }}.",
    ),
    computed=("noise for participants", "updates"),
    not_protected="Updates, from the server; properties of many participants; scalars "
    "of a round, which are reported without noise.",
    attack="Canary clients seen in every iterate show a lower bound of {{ "
    "audit_epsilon: pattern=federated, target_epsilon=8 -> white box, gradient, "
    "family | number }} where {{ audit_epsilon: pattern=federated, target_epsilon=8 "
    "-> target_epsilon | number }} is promised.",
    production="TensorFlow Federated and pfl-research have it; Google's keyboard takes "
    "correlated noise in its place. Carry over the clip norm "
    "({{ privacy_utility/paper_fashion: pattern=federated + central DP, "
    "target_epsilon=1 -> clip_norm | number }} here), the noise multiplier ({{ "
    "privacy_utility/paper_fashion: pattern=federated + central DP, target_epsilon=1 "
    "-> noise_multiplier | number }}) and the sampler: each participant by its own "
    "coin, which phones that come when they can do not give: for those take "
    "correlated noise.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob "
        "{prob} --num-steps {rounds} --delta {delta}",
        "python -m experiments.dp_fedavg smoke",
    ),
    roles="One server, trusted with updates, with the noise and with secret cohorts; "
    "no keys; one exchange a round.",
    ruled_out=(
        Caution(
            {"protect": ("example",), "kind": ("silos",)},
            "it would hide whole silos, at the price of few participants: take DP "
            "steps at example level",
        ),
        Caution(
            {"protect": ("example",), "pooled": ("yes",)},
            "pooled rows need less noise for examples: take central training + DP",
        ),
        Caution(
            {"protect": ("none",)},
            "it pays for a promise that nobody asks for",
        ),
    ),
    cautions=(
        Caution(
            {"malicious": ("yes",)}, "clipping bounds a liar, and does not stop one"
        ),
        Caution({"loss": ("none",)}, "the noise costs accuracy"),
    ),
    least=20,
)
