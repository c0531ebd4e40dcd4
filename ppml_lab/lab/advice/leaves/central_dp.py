"""Central training with differential privacy (DP-SGD) of examples."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Central training + DP",
    role="pattern",
    what="All rows lie in one place; every step clips each example's gradient and "
    "adds noise to the sum (DP-SGD). It hides one row; to hide all rows of a person, "
    "take `federated.example_gradients` with the pool as a single client.",
    against="Holds against whoever sees the released models, all of them. It does not "
    "hold against who runs the training: that party sees the rows.",
    units=("example",),
    shows="rows",
    needs={
        "pooled": ("yes",),
        "trust": ("server",),
        "protect": ("example",),
        "release": ("model", "updates", "predictions"),
    },
    reasons={
        "pooled": "rows may be pooled, and pooled rows need the least noise",
        "protect": "the noise hides one row",
        "auditor": "its claim can be tested by training with and without a canary",
    },
    measured=(
        "At epsilon {{ privacy_utility/paper_fashion: pattern=central training + DP, "
        "target_epsilon=1 -> target_epsilon | number }} for examples Fashion-MNIST "
        "gives {{ privacy_utility/paper_fashion: pattern=central training + DP, "
        "target_epsilon=1 -> mean | percent }}, without noise {{ "
        "privacy_utility/paper_fashion: pattern=central training -> mean | percent "
        "}}.",
        "A network with tanh and momentum gives {{ dp_sgd/tanh: dataset=Mnist -> mean "
        "| percent }} on MNIST at epsilon {{ dp_sgd/tanh: dataset=Mnist -> epsilon | "
        "number }}.",
    ),
    computed=("noise for rows",),
    not_protected="Rows, from whoever holds them; properties of all rows together; "
    "statistics that were made before, such as means to standardise by.",
    attack="Canaries seen in every iterate show a lower bound of {{ audit_epsilon: "
    "pattern=pooled, target_epsilon=8 -> white box, gradient, family | number }} "
    "where {{ audit_epsilon: pattern=pooled, target_epsilon=8 -> target_epsilon | "
    "number }} is promised; the last model's loss on a blank image shows {{ "
    "audit_epsilon: pattern=pooled, target_epsilon=8 -> black box, blank, family | "
    "number }}.",
    production="Opacus, TensorFlow Privacy and JAX Privacy. Carry over the clip norm, "
    "the noise multiplier, the sampling probability and the number of steps, and run "
    "a sampler that draws each example by its own coin (Poisson), as accounted.",
    commands=(
        "python -m ppml_lab calibrate --target-epsilon {epsilon} --sampling-prob "
        "{batch_prob} --num-steps {rounds} --delta {row_delta}",
        "python -m experiments.dp_sgd smoke",
    ),
    roles="One party, who is trusted with rows and with the noise; no keys; no rounds.",
    cautions=(
        Caution(
            {"kind": ("devices",)},
            "it hides single rows, and a user may have many",
        ),
    ),
)
