"""How many rounds does FedAvg need, and is that what its paper reports?

Claim (McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, Table 1): the 2NN on MNIST, 100 IID clients, a tenth
of them per round, one local epoch with batches of 10, reaches 97% test accuracy in 87
rounds with the best client learning rate of a grid.

As in the paper, accuracy is made monotone over the rounds and interpolated between
them, and the best rate of the grid is the one that counts. `paper` takes about ten
minutes on 2 cores; `smoke` (logistic regression on digits to 90%) a few seconds.

    python -m experiments.fedavg_rounds smoke
    python -m experiments.fedavg_rounds paper
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppml_lab import lab


@dataclass(frozen=True)
class Experiment:
    """One cell of the paper's table."""

    base: lab.Config = field(
        default_factory=lambda: lab.Config(
            data=lab.DataConfig(dataset="digits", num_clients=100),
            sampler="fixed_size",
            cohort=10,
            num_rounds=60,
            eval_every=1,
            batch_size=5,
            weighting="examples",
        )
    )
    """The setting of the cell."""
    target_accuracy: float = 0.9
    """Test accuracy to reach."""
    learning_rates: tuple[float, ...] = (0.1, 1.0)
    """The grid of client learning rates."""
    paper_rounds: float | None = None
    """What the paper reports."""
    num_seeds: int = 2
    """Repetitions of every rate."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        base=lab.Config(
            data=lab.DataConfig(dataset="mnist", num_clients=100),
            model="2nn",
            sampler="fixed_size",
            cohort=10,
            num_rounds=120,
            eval_every=1,
            batch_size=10,
            weighting="examples",
        ),
        target_accuracy=0.97,
        # Four steps of the paper's grid of 10^(1/3) around its usual best.
        learning_rates=(0.0464, 0.1, 0.215, 0.464),
        paper_rounds=87,
        num_seeds=5,
    ),
}


def rounds_to(target: float, accuracy: Sequence[float]) -> float | None:
    """The interpolated round at which the monotone accuracy meets the target."""
    best = np.maximum.accumulate([0.0, *accuracy])
    if best[-1] < target:
        return None
    after = int(np.argmax(best >= target))
    before = best[after - 1]
    return after - 1 + float((target - before) / (best[after] - before))


def points(experiment: Experiment) -> list[lab.Point]:
    """Every rate and seed."""
    return [
        lab.Point(
            experiment.base,
            lab.Hyperparams(learning_rate=rate),
            seed,
            {"learning_rate": rate, "seed": seed},
        )
        for seed in range(experiment.num_seeds)
        for rate in experiment.learning_rates
    ]


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run; `best_rate` marks the grid's best median over seeds."""
    target = experiment.target_accuracy
    rows = [
        {
            **run.point.labels,
            "rounds_to_target": rounds_to(target, run.outcome.history("accuracy")),
            "target_accuracy": target,
            "paper_rounds": experiment.paper_rounds,
            "final_accuracy": run.outcome.last["accuracy"],
            "seconds": run.outcome.last["seconds"],
        }
        for run in results
    ]

    def median_of(rate: float) -> float:
        found = [r["rounds_to_target"] for r in rows if r["learning_rate"] == rate]
        return float(np.median([np.inf if f is None else f for f in found]))

    best = min(experiment.learning_rates, key=median_of)
    return [row | {"best_rate": row["learning_rate"] == best} for row in rows]


if __name__ == "__main__":
    lab.run_experiment("fedavg_rounds", __doc__ or "", CONFIGS, points, table)
