"""The patterns that silos can choose from, as setups on one split of their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from experiments.silos import splits
from experiments.silos.sources import Rows
from ppml_lab import base, lab, trees
from ppml_lab.lab import parts

ALONE = "alone: "
EACH_ALONE = "each alone, for its own"
MAJORITY = "majority class"
POOLED = "pooled"
FEDERATED = "federated"
SUMMED = "federated + secure sum"
CENTRAL_DP = "federated + secure sum + central DP"
SHARES = "DP on shares"
PERSONAL = "personal intercept"
NOT_HIDDEN = (
    "which silos take part, how many people each has, and this table, which is made "
    "of rows without noise"
)
WHO = {
    MAJORITY: "nobody: one number is public",
    EACH_ALONE: "nobody, as long as models stay in their silos",
    POOLED: "whoever pools sees all rows",
    FEDERATED: "the server sees each silo's sums, and everybody the models",
    SUMMED: "the server sees the sum of all silos, and everybody the models",
    CENTRAL_DP: "epsilon against everybody who sees the models; the server, which adds "
    "the noise, sees the sum of all silos",
    SHARES: "epsilon against everybody who sees the final model; parties see nothing "
    "unless two of the three collude",
    PERSONAL: "the server sees each silo's weights; intercepts stay in the silo",
}
"""Who sees what, and against whom a pattern's epsilon holds."""
METRICS = (parts.Accuracy(), parts.Auroc())


@lab.part
class Learning:
    """The numbers of training, chosen on other splits than the reported ones."""

    rounds: int = 300
    """Steps of trainings without privacy, each on all rows."""
    learning_rate: float = 1.0
    """Their learning rate, along the mean gradient."""
    private_rounds: int = 30
    """Steps of private trainings."""
    private_rate: float = 10.0
    """Learning rate of federated steps with central DP."""
    clip_norm: float = 0.3
    """L2 bound of a person's gradient under central DP."""
    shares_rate: float = 1.0
    """Learning rate of steps on shares."""
    shares_clip: float = 1.0
    """L2 bound to which features are scaled down before they are shared."""
    personal_rounds: int = 30
    """Rounds of FedAvg in which silos keep their intercepts."""
    personal_rate: float = 0.5
    """Learning rate of silos' own steps there."""
    batch_size: int = 32
    """Rows of these steps."""


class Pattern(NamedTuple):
    """A way to learn from silos."""

    setup: Any
    """The setup on one split."""
    is_private: bool = False
    """True if it is trained at each target epsilon."""


class _BySilo:
    """Adds the accuracy on each silo's own test rows to a setup's evaluation."""

    def evaluate(
        self: Any, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Returns the scalars of all test rows, and each silo's accuracy."""
        found = super().evaluate(state, clients, rows)  # type: ignore[misc]
        scores = self.predict(state.params, rows)
        count = len(self.data.source.rows().names)
        every = jnp.ones(len(rows["y"]))
        return found | _at_silos(scores, rows["y"], rows["silo"], every, count)


@lab.part
class Pooled(_BySilo, parts.Central):
    """Training on rows in one place: everybody's, or one silo's."""


@lab.part
class Together(_BySilo, parts.Federated):
    """Federated steps; one model for all."""


@lab.part
class Shares(_BySilo, parts.OnShares):
    """Training on shares; one model for all."""


def at_silo(place: int) -> str:
    """Returns the name of a silo's accuracy among a run's metrics."""
    return f"silo_{place}_accuracy"


def _at_silos(
    scores: Array, labels: Array, silo: Array, weights: Array, count: int
) -> dict[str, Array]:
    def at(place: int) -> Array:
        own = weights * (silo == place).astype(jnp.float32)
        return parts.Accuracy()(scores, labels, own)["accuracy"]

    return {at_silo(place): at(place) for place in range(count)}


@lab.part
class Personal(parts.Federated):
    """Silos keep a part of the model; each test row is judged by its silo's model."""

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Returns accuracy and AUROC over the rows that silos hold out."""
        facts = lab.facts_of(self)
        trainer, server = self.trainer.build(
            self.task(facts), facts, self.server.build()
        )
        sent = server.send(state.params, state.memory)
        own, held_out = clients.examples, clients.held_out
        assert held_out is not None
        places = jnp.arange(len(own["y"]))
        owner = jnp.searchsorted(clients.offsets, places, side="right") - 1
        is_test = places >= clients.offsets[owner + 1] - held_out[owner]

        def score(owner: Array, x: Array) -> Array:
            params = trainer.model(sent, trees.take(state.kept, owner))
            return self.model.predict(facts, params, {"x": x[None]})[0]

        scores = jax.vmap(score)(owner, own["x"])
        weights = is_test.astype(jnp.float32)
        found: dict[str, Array] = {}
        for metric in METRICS:
            found |= metric(scores, own["y"], weights)
        assert isinstance(self.data, splits.InPlace)
        count = len(self.data.source.rows().names)
        return found | _at_silos(scores, own["y"], own["silo"], weights, count)


def who_sees(pattern: str) -> str:
    """Returns who sees what, and against whom a pattern's epsilon holds."""
    return WHO[EACH_ALONE] if pattern.startswith(ALONE) else WHO[pattern]


def names(rows: Rows) -> list[str]:
    """Returns the patterns' names, in the order of the table."""
    alone = [f"{ALONE}{name}" for name in rows.names]
    private = [CENTRAL_DP, *([] if rows.has_visits else [SHARES])]
    return [
        *(MAJORITY, *alone, EACH_ALONE, POOLED, FEDERATED, SUMMED),
        *(*private, PERSONAL),
    ]


def setups(split: splits.Split, learning: Learning) -> Mapping[str, Pattern]:
    """Returns each pattern that is trained, by name."""
    rows = split.source.rows()
    whole = (split.source, split.number, split.train_share)
    train = rows.person[split.is_train()]
    num_people = len(np.unique(train))

    def central(data: Any) -> dict[str, Any]:
        return {
            "data": data,
            "model": parts.Logistic(),
            "optimizer": parts.Sgd(learning.learning_rate),
            "batch": parts.Everyone(),
            "metrics": METRICS,
            "schedule": _steps(learning.rounds),
        }

    def federated(steps: int, rate: float, **options: Any) -> Together:
        return Together(
            data=split,
            partition=parts.Natural(),
            model=parts.Logistic(),
            trainer=parts.ExampleGradients(expected_people=float(num_people)),
            server=parts.Sgd(rate),
            sampler=parts.Everyone(),
            metrics=METRICS,
            schedule=_steps(steps),
            **options,
        )

    # A person's gradient has no coordinate above 1, for features are within [-1, 1].
    most, count = float(np.bincount(rows.silo[split.is_train()]).max()), len(rows.names)
    plain_sum = _secure_sum(count, most, told=True)
    private_sum = _secure_sum(count, most * learning.clip_norm, told=False)
    found = {
        f"{ALONE}{name}": Pattern(Pooled(**central(splits.OneSilo(*whole, silo=place))))
        for place, name in enumerate(rows.names)
    }
    found[POOLED] = Pattern(Pooled(**central(split)))
    plain = learning.rounds, learning.learning_rate
    found[FEDERATED] = Pattern(federated(*plain))
    found[SUMMED] = Pattern(federated(*plain, secure_sum=plain_sum))
    found[CENTRAL_DP] = Pattern(
        federated(
            learning.private_rounds,
            learning.private_rate,
            mechanism=parts.Gaussian(learning.clip_norm, 1.0),
            secure_sum=private_sum,
        ),
        is_private=True,
    )
    if not rows.has_visits:
        found[SHARES] = Pattern(
            Shares(
                data=split,
                learning_rate=learning.shares_rate,
                clip_norm=learning.shares_clip,
                noise_multiplier=1.0,
                metrics=METRICS,
                schedule=_steps(learning.private_rounds),
            ),
            is_private=True,
        )
    found[PERSONAL] = Pattern(
        Personal(
            data=splits.InPlace(*whole),
            partition=parts.Natural(),
            model=parts.Logistic(),
            trainer=parts.FedAvg(
                parts.Sgd(learning.personal_rate), learning.batch_size
            ),
            sampler=parts.Everyone(),
            kept=("bias",),
            schedule=_steps(learning.personal_rounds),
        )
    )
    return found


def _steps(count: int) -> lab.Schedule:
    """The length of a training that is judged at its end alone."""
    return lab.Schedule(num_rounds=count, eval_every=count)


def _secure_sum(num_silos: int, each: float, *, told: bool) -> parts.Sum:
    """A sum of 32 bits, as fine as parts of `each` a silo leave room for.

    Masks need three silos; two silos share their parts among three servers.

    Args:
      num_silos: Number of silos.
      each: The greatest coordinate of a silo's part.
      told: Whether the sum is told `each`, for want of a mechanism that bounds it.
    """
    bits = float(min(16, 30 - math.ceil(math.log2(num_silos * each))))
    most = each if told else None
    if num_silos < 3:
        return parts.AdditiveSharing(scale_bits=bits, max_abs=most)
    return parts.PairwiseMasking(scale_bits=bits, max_abs=most)
