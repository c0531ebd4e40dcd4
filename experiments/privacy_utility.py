"""What does privacy cost in accuracy, bytes and time?

Claim: on the same data and model, federated learning costs a little accuracy, a secure
sum costs bytes and time but no accuracy, central differential privacy costs accuracy
that shrinks as epsilon grows, and local differential privacy costs most of it.

Rows: central training (with DP-SGD that protects single examples), federated averaging,
with a secure sum, with central DP, with both, with local DP (these protect whole
clients), for each target epsilon and seed. Time on 2 cores: `smoke` (digits, 350
clients) about two minutes, `paper` (MNIST, 2,000 clients) about twenty minutes.

    python -m experiments.privacy_utility smoke
    python -m experiments.privacy_utility paper
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.tree import paths

INF = float("inf")


@lab.part
class Experiment:
    """Every pattern shares the data, the model and the number of rounds."""

    base: parts.Federated = parts.Federated(
        partition=parts.Iid(350),
        trainer=parts.FedAvg(parts.Sgd(2.0), batch_size=4, local_epochs=5),
        server=parts.Sgd(2.0),
        sampler=parts.Everyone(),
        schedule=lab.Schedule(num_rounds=30, eval_every=15),
    )
    """Federated averaging without DP; the patterns change its parts."""
    private_rate: lab.Traced = 1.0
    """The clients' rate under DP."""
    clip_norm: lab.Traced = 1.0
    """Of clients' updates."""
    central_optimizer: parts.Optimizer = parts.Sgd(2.0)
    """Of central training, whose data, model and schedule are those of `base`."""
    central_batch: parts.Sampler = parts.Poisson(256)
    """Which examples a step of central training takes."""
    central_steps: int = 10
    """Of central training per round."""
    example_clip_norm: lab.Traced = 0.5
    """Of examples' gradients in central training."""
    target_epsilons: tuple[float, ...] = (INF, 8.0, 4.0, 2.0, 1.0, 0.5)
    """Epsilon of a whole run; inf is without privacy."""
    delta: float = 1e-4
    """Delta of a whole run: below 1 / number of clients."""
    num_seeds: int = 5
    """Repetitions of every setting; the same seeds in every pattern."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        base=parts.Federated(
            data=parts.Mnist(),
            partition=parts.Iid(2000),
            trainer=parts.FedAvg(parts.Sgd(1.0), batch_size=10),
            server=parts.Sgd(2.0),
            sampler=parts.Poisson(1000),
            schedule=lab.Schedule(num_rounds=50, eval_every=25),
        ),
        private_rate=0.5,
        central_optimizer=parts.Sgd(1.0),
        central_batch=parts.Poisson(600),
        example_clip_norm=1.0,
        delta=1e-4,
    ),
}
PAGE = {
    "minutes": {"paper": 20},
    "tables": [
        {
            "by": ["pattern"],
            "across": "target_epsilon",
            "of": ["accuracy"],
            "percent": ["accuracy"],
        },
        {
            "title": "bytes of a client in a round, and time over plain federated",
            "where": {"seed": 0, "target_epsilon": ["inf", 8]},
            "by": ["pattern"],
            "of": {
                "uplink_bytes": [],
                "downlink_bytes": [],
                "compute_overhead": ["compute_overhead_low", "compute_overhead_high"],
            },
        },
    ],
}


def patterns(experiment: Experiment) -> dict[str, parts.Federated | parts.Central]:
    """Every pattern's setup, in the table's order."""
    plain = experiment.base
    central = parts.Central(
        data=plain.data,
        model=plain.model,
        optimizer=experiment.central_optimizer,
        batch=experiment.central_batch,
        steps_per_round=experiment.central_steps,
        metrics=plain.metrics,
        schedule=plain.schedule,
        layout=plain.layout,
    )
    shared, norm = parts.AdditiveSharing(), experiment.clip_norm
    rate = "trainer.optimizer.learning_rate"
    slower = paths.replaced(plain, rate, experiment.private_rate)
    noisy = replace(slower, mechanism=parts.Gaussian(norm))
    return {
        "central training": central,
        "federated": plain,
        "federated + secure sum": replace(
            plain, secure_sum=parts.AdditiveSharing(max_abs=8.0)
        ),
        "central training + DP": replace(
            central, mechanism=parts.Gaussian(experiment.example_clip_norm)
        ),
        "federated + central DP": noisy,
        "federated + central DP + secure sum": replace(noisy, secure_sum=shared),
        "federated + local DP": replace(noisy, mechanism=parts.LocalGaussian(norm)),
    }


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
        if is_private(setting.fields[""]) == (setting.fields["target_epsilon"] < INF)
    )
    return lab.points(sweep, delta=experiment.delta)


def is_private(setup: parts.Federated | parts.Central) -> bool:
    """Whether a pattern's epsilon is finite."""
    return not isinstance(setup.mechanism, parts.NoPrivacy)


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
    overhead = overheads(results)

    def row(run: lab.Result) -> dict[str, Any]:
        point, last = run.point, run.outcome.last
        low, middle, high = overhead[point.labels["pattern"]]
        return {
            **point.labels,
            "accuracy": last["accuracy"],
            "loss": last["loss"],
            "compute_overhead": middle,
            "compute_overhead_low": low,
            "compute_overhead_high": high,
        }

    order = list(patterns(experiment))
    return sorted(map(row, results), key=lambda row: order.index(row["pattern"]))


if __name__ == "__main__":
    lab.run_experiment("privacy_utility", __doc__ or "", CONFIGS, points, table)
