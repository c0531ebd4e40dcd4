"""Local DP: everybody's own noise on what is sent."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Local DP",
    role="pattern",
    what="Each participant clips its update, or its answer, and adds its own noise "
    "before anything leaves. Nobody else is trusted.",
    against="Holds against everybody else, the server too, even if all collude. A "
    "participant pays for every round that it takes part in.",
    units=("client", "organisation", "example"),
    shows="noised",
    needs={
        "pooled": ("no",),
        "split": ("rows",),
        "protect": ("client", "organisation", "example"),
        "release": ("model", "updates", "predictions", "statistics"),
        "loss": ("much",),
    },
    reasons={
        "trust": "nothing leaves without its owner's noise",
        "protect": "everything that a participant sends is hidden",
        "participants": "there are very many participants, whose noise averages out",
        "loss": "a great deal of accuracy may go",
    },
    measured=(
        "At epsilon {{ privacy_utility/paper_fashion: pattern=federated + local DP, "
        "target_epsilon=8 -> target_epsilon | number }} it keeps {{ "
        "privacy_utility/paper_fashion: pattern=federated + local DP, "
        "target_epsilon=8 -> mean | percent }} on Fashion-MNIST with {{ "
        "privacy_utility/paper_fashion: pattern=federated + local DP, "
        "target_epsilon=8 -> num_clients | count }} clients, where noise on the sum "
        "keeps {{ privacy_utility/paper_fashion: pattern=federated + central DP, "
        "target_epsilon=8 -> mean | percent }}; at epsilon {{ "
        "privacy_utility/paper_fashion: pattern=federated + local DP, "
        "target_epsilon=1 -> target_epsilon | number }} it keeps {{ "
        "privacy_utility/paper_fashion: pattern=federated + local DP, "
        "target_epsilon=1 -> mean | percent }}.",
        "For statistics it is not measured here.",
    ),
    computed=("noise of each participant", "updates"),
    not_protected="Who takes part, which everybody sees. The model, from participants "
    "who lie about their answers.",
    attack="None is measured here; at these epsilons the model knows little. "
    "`audit.of_local_mechanism` tests the mechanism itself.",
    production="Chrome's RAPPOR and Apple's statistics of phones, for statistics and "
    "not for models. Carry over the clip norm, each participant's noise, and how "
    "often anyone takes part.",
    commands=(
        "python -m ppml_lab show privacy_utility/paper_fashion",
        "python -m experiments.privacy_utility smoke",
    ),
    roles="One server that nobody need trust; no keys; one exchange a round.",
    ruled_out=(
        Caution(
            {"protect": ("example",), "kind": ("silos",)},
            "a silo's own noise need hide one person alone: take each silo's own "
            "DP-SGD",
        ),
        Caution(
            {"trust": ("server", "sum"), "malicious": ("no",)},
            "where a sum may be seen, one noise on the sum costs far less",
        ),
    ),
    cautions=(
        Caution(
            {"trust": ("server", "sum")},
            "where a sum may be seen, one noise on the sum costs far less",
        ),
    ),
    least=1000,
)
