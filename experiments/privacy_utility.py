"""What does privacy cost in accuracy, bytes and time?

Claim: on the same data and model, federated learning costs a little accuracy, a secure
sum costs bytes and time but no accuracy, central differential privacy costs accuracy
that shrinks as epsilon grows, and local differential privacy costs most of it.

Rows: central training (with DP-SGD that protects single examples), federated averaging,
with a secure sum, with central DP, with both, with local DP (these protect whole
clients), for each target epsilon and seed. Time on 2 cores: `smoke` (digits, 350
clients) about two minutes, `paper` (MNIST, 2,000 clients) about twenty minutes.

    python -m experiments.privacy_utility smoke python -m experiments.privacy_utility
    paper
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppml_lab import lab

INF = float("inf")


@dataclass(frozen=True)
class Experiment:
    """Every pattern shares the data, the model and the number of rounds."""

    base: lab.Config = field(
        default_factory=lambda: lab.Config(
            data=lab.DataConfig(dataset="digits", num_clients=350),
            sampler="everyone",
            num_rounds=30,
            eval_every=15,
            local_epochs=5,
            batch_size=4,
        )
    )
    """Federated averaging; the patterns change its privacy and its secure sum."""
    plain: lab.Hyperparams = lab.Hyperparams(2.0, server_learning_rate=2.0)
    """Rates of federated learning without DP."""
    private: lab.Hyperparams = lab.Hyperparams(1.0, server_learning_rate=2.0)
    """Rates and clip norm of clients' updates under DP."""
    central: lab.Hyperparams = lab.Hyperparams(learning_rate=2.0, clip_norm=0.5)
    """Rate and clip norm of examples' gradients of central training."""
    central_batch: float = 256.0
    """Expected examples per step of central training."""
    central_steps: int = 10
    """Steps that central training makes in the time of a round."""
    target_epsilons: tuple[float, ...] = (INF, 8.0, 4.0, 2.0, 1.0, 0.5)
    """Epsilon of a whole run; inf is without privacy."""
    delta: float = 1e-3
    """Delta of a whole run: below 1 / number of clients."""
    num_seeds: int = 5
    """Repetitions of every setting; the same seeds in every pattern."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        base=lab.Config(
            data=lab.DataConfig(dataset="mnist", num_clients=2000),
            sampler="poisson",
            cohort=1000,
            num_rounds=50,
            eval_every=25,
            batch_size=10,
        ),
        plain=lab.Hyperparams(learning_rate=1.0, server_learning_rate=2.0),
        private=lab.Hyperparams(learning_rate=0.5, server_learning_rate=2.0),
        central=lab.Hyperparams(learning_rate=1.0),
        central_batch=600.0,
        delta=1e-4,
    ),
}


def patterns(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """What every pattern sets, in the table's order."""
    shared = {"secure_sum": "additive_sharing"}
    central = rates(experiment.central) | {
        "training": "central",
        "sampler": "poisson",
        "cohort": experiment.central_batch,
        "steps_per_round": experiment.central_steps,
    }
    plain, private = rates(experiment.plain), rates(experiment.private)
    noisy = private | {"privacy": "central"}
    return {
        "central training": central,
        "federated": plain,
        "federated + secure sum": plain | shared,
        "central training + DP": central | {"privacy": "example"},
        "federated + central DP": noisy,
        "federated + central DP + secure sum": noisy | shared,
        "federated + local DP": private | {"privacy": "local"},
    }


def rates(hyperparams: lab.Hyperparams) -> dict[str, Any]:
    """All but the noise, which is calibrated."""
    found = hyperparams._asdict()
    del found["noise_multiplier"]
    return found


def points(experiment: Experiment) -> list[lab.Point]:
    """Every run, seeds outermost so that patterns share the machine's moods."""
    every = lab.product(
        lab.seeds(experiment.num_seeds),
        lab.variants("pattern", patterns(experiment)),
        lab.axis("target_epsilon", experiment.target_epsilons),
    )
    sweep = tuple(
        setting
        for setting in every
        if ("privacy" in setting.fields) == (setting.fields["target_epsilon"] < INF)
    )
    return lab.points(sweep, experiment.base, experiment.plain, experiment.delta)


def overheads(results: list[lab.Result]) -> dict[str, list[float]]:
    """Quartiles of each pattern's run time over plain federated learning's."""
    firsts = {run.point.labels["pattern"]: run.point for run in reversed(results)}
    print("measuring the patterns' run times in turns", flush=True)
    seconds = lab.seconds_in_turns(list(firsts.values()))
    ratios = seconds / seconds[:, [list(firsts).index("federated")]]
    quartiles = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    return dict(zip(firsts, quartiles.T.tolist(), strict=True))


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run; a pattern's overhead is measured apart, in turns."""
    facts = lab.load_data(experiment.base.data).facts
    overhead = overheads(results)

    def row(run: lab.Result) -> dict[str, Any]:
        point, last = run.point, run.outcome.last
        low, middle, high = overhead[point.labels["pattern"]]
        cost = lab.build(point.config, point.hyperparams, facts).cost()
        return {
            **point.labels,
            "accuracy": last["accuracy"],
            "loss": last["loss"],
            **run.guarantee,
            "uplink_bytes": cost and cost.uplink_bytes,
            "downlink_bytes": cost and cost.downlink_bytes,
            "seconds": last["seconds"],
            "compute_overhead": middle,
            "compute_overhead_low": low,
            "compute_overhead_high": high,
        }

    order = list(patterns(experiment))
    return sorted(map(row, results), key=lambda row: order.index(row["pattern"]))


if __name__ == "__main__":
    lab.run_experiment("privacy_utility", __doc__ or "", CONFIGS, points, table)
