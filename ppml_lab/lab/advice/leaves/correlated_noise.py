"""Correlated noise for cohorts that nobody samples."""

from __future__ import annotations

from ppml_lab.lab.advice.leaf import Caution, Leaf

LEAF = Leaf(
    title="Federated learning + correlated noise",
    role="pattern",
    what="Later rounds take back parts of earlier noise, so that less of it stays in "
    "the model (DP-FTRL, matrix factorisation). A run is one Gaussian release and "
    "claims no amplification by sampling: it is for turns, where devices come when "
    "they can, some rounds apart. It goes with a secure sum, masked or shared. The "
    "parts CorrelatedGaussian and MinSeparation make it; the next command shows "
    "independent noise, to compare with.",
    against="Holds against whoever sees the released models, all of them. It does not "
    "hold against who adds the noise, who sees sums or updates. With turns it is for "
    "zeroing a participant out: the place in the rounds stays, and is empty.",
    units=("client", "example"),
    shows="sum",
    needs={
        "pooled": ("no",),
        "trust": ("server", "sum"),
        "split": ("rows",),
        "protect": ("client", "example"),
        "release": ("model", "updates", "predictions"),
        "kind": ("devices",),
    },
    reasons={
        "kind": "nobody controls which devices come, so that no sampling is claimed",
        "release": "every model of a run is covered",
        "participants": "there are enough participants to take turns",
    },
    measured=("Not measured here: no committed table has it.",),
    computed=("updates",),
    not_protected="Updates, from a server without a secure sum. Who takes part and "
    "when. A participant who comes again sooner than accounted.",
    attack="None is measured here; `audit.check_mechanism` passes it.",
    production="Google's keyboard trains so. Carry over the clip norm, the noise "
    "multiplier, the factorisation, the rounds between two turns and how often anyone "
    "takes part.",
    commands=("python -m experiments.dp_fedavg smoke",),
    roles="One server, trusted with the noise, the rule of turns and, without a "
    "secure sum, with updates; keys as the secure sum has them; one exchange a round "
    "without.",
    cautions=(
        Caution(
            {"malicious": ("yes",)}, "clipping bounds a liar, and does not stop one"
        ),
        Caution({"loss": ("none",)}, "the noise costs accuracy"),
    ),
    least=20,
)
