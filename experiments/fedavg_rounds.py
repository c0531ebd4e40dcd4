"""How many rounds does FedAvg need, and is that what its paper reports?

Claim (McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, Table 1): on MNIST with 100 clients the 2NN reaches
97% test accuracy in the rounds that the cells below list, each with the best client
learning rate of a grid.

As in the paper, accuracy is made monotone over the rounds and interpolated between
them, and the best rate of the grid is the one that counts. A run ends once it has
reached its target. `paper` takes some minutes on 2 cores; `smoke` (logistic
regression on digits to 90%) a few seconds.

    python -m experiments.fedavg_rounds smoke
    python -m experiments.fedavg_rounds paper
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ppml_lab import lab


class Cell(NamedTuple):
    """A cell of the paper's tables, and how it is tried here.

    Attributes:
      partition: iid, or shards (two digits per client).
      cohort: Clients per round; a hundredth of it is the paper's C.
      epochs: E.
      batch_size: B.
      paper_rounds: What the paper reports; None where it did not reach the target.
      learning_rates: The grid of client learning rates.
      max_rounds: Where a run that does not reach the target ends.
      num_seeds: Repetitions of every rate.
    """

    partition: str
    cohort: int
    epochs: int
    batch_size: int
    paper_rounds: float | None
    learning_rates: tuple[float, ...]
    max_rounds: int
    num_seeds: int = 1


@dataclass(frozen=True)
class Experiment:
    """Cells that share a data set, a model and a target."""

    base: lab.Config = field(
        default_factory=lambda: lab.Config(
            data=lab.DataConfig(dataset="mnist", num_clients=100),
            sampler="fixed_size",
            eval_every=1,
            evals_per_chunk=10,
            weighting="examples",
        )
    )
    """What the cells have in common."""
    target_accuracy: float = 0.97
    """Test accuracy to reach."""
    cells: tuple[Cell, ...] = ()
    """The cells."""


# Steps of the paper's grid of 10^(1/3).
RATES = (0.0464, 0.1, 0.215, 0.464)
MLP_CELLS = (
    Cell("iid", 10, 1, 10, 87, RATES, 150, num_seeds=3),
    Cell("iid", 20, 1, 10, 77, RATES, 150, num_seeds=3),
    Cell("iid", 50, 1, 10, 75, RATES, 150, num_seeds=3),
)
ON_DIGITS = Cell("iid", 10, 1, 5, None, (0.1, 1.0), 60, num_seeds=2)


def _with(experiment: Experiment, **changes: Any) -> Experiment:
    base = dataclasses.replace(experiment.base, **changes)
    return dataclasses.replace(experiment, base=base)


CONFIGS = {
    "smoke": _with(
        Experiment(target_accuracy=0.9, cells=(ON_DIGITS,)),
        data=lab.DataConfig(dataset="digits", num_clients=100),
    ),
    "paper": _with(Experiment(cells=MLP_CELLS), model="2nn"),
}


def rounds_to(target: float, accuracy: Sequence[float]) -> float | None:
    """The interpolated round at which the monotone accuracy meets the target."""
    # In float32, as it was computed: 0.9 is met by 0.9.
    best = np.maximum.accumulate(np.array([0.0, *accuracy], np.float32))
    if best[-1] < np.float32(target):
        return None
    after = int(np.argmax(best >= np.float32(target)))
    before = best[after - 1]
    return after - 1 + float((target - before) / (best[after] - before))


def points(experiment: Experiment) -> list[lab.Point]:
    """Every cell, rate and seed."""
    return [
        lab.Point(
            dataclasses.replace(
                experiment.base,
                data=dataclasses.replace(
                    experiment.base.data, partition=cell.partition
                ),
                cohort=cell.cohort,
                local_epochs=cell.epochs,
                batch_size=cell.batch_size,
                num_rounds=cell.max_rounds,
                stop_at_accuracy=experiment.target_accuracy,
            ),
            lab.Hyperparams(learning_rate=rate),
            seed,
            {
                "model": experiment.base.model,
                "partition": cell.partition,
                "C": cell.cohort / 100,
                "E": cell.epochs,
                "B": cell.batch_size,
                "learning_rate": rate,
                "seed": seed,
                "paper_rounds": cell.paper_rounds,
            },
        )
        for cell in experiment.cells
        for seed in range(cell.num_seeds)
        for rate in cell.learning_rates
    ]


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run; `best_rate` marks the best median over seeds of its cell."""
    target = experiment.target_accuracy
    rows = [
        {
            **run.point.labels,
            "target_accuracy": target,
            "rounds_to_target": rounds_to(target, run.outcome.history("accuracy")),
            "best_accuracy": max(run.outcome.history("accuracy")),
            "rounds_run": run.outcome.last["round"],
            "seconds": run.outcome.last["seconds"],
        }
        for run in results
    ]

    def cell_of(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("partition", "C", "E", "B"))

    def median(row: dict[str, Any]) -> float:
        alike = (cell_of(row), row["learning_rate"])
        found = [
            r["rounds_to_target"]
            for r in rows
            if (cell_of(r), r["learning_rate"]) == alike
        ]
        return float(np.median([np.inf if f is None else f for f in found]))

    def is_best(row: dict[str, Any]) -> bool:
        rivals = [median(other) for other in rows if cell_of(other) == cell_of(row)]
        return median(row) == min(rivals) < np.inf

    return [row | {"best_rate": is_best(row)} for row in rows]


if __name__ == "__main__":
    lab.run_experiment("fedavg_rounds", __doc__ or "", CONFIGS, points, table)
