"""What does user-level DP-FedAvg cost on MNIST by writer, and where would it be cheap?

Claim (McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent
Language Models", ICLR 2018): accuracy depends on the noise in the mean update,
`noise_multiplier * clip_norm / cohort`, so a larger cohort carries a larger noise
multiplier at the same accuracy, and a population that can afford such cohorts gets a
small epsilon. Adaptive clipping (Andrew et al., NeurIPS 2021) spares the choice of the
clip norm.

The clients are the 539 writers of MNIST's training digits. Runs differ in cohort, noise
multiplier and clip rule; epsilon is that of this population, whose sampling probability
is large. The columns `projected_*` are a **projection**, not a run. It multiplies
cohort and noise by `projection`, which keeps the noise in the mean and, by assumption,
the accuracy, in a population so large that the sampling probability is
`projected_sampling_prob`. `paper` takes about half an hour on 2 cores, `smoke` (digits)
a minute.

    python -m experiments.dp_fedavg smoke
    python -m experiments.dp_fedavg paper
"""

from __future__ import annotations

from typing import Any, Literal

from ppml_lab import federated, lab
from ppml_lab.dp import accounting, gaussian
from ppml_lab.lab import parts

Clip = tuple[Literal["flat", "adaptive"], float]
CLIPS: tuple[Clip, ...] = (
    ("flat", 0.1),
    ("flat", 0.3),
    ("flat", 1.0),
    ("adaptive", 0.1),
)
MECHANISMS = {"flat": parts.Gaussian, "adaptive": parts.AdaptiveGaussian}
"""Mechanisms by clip rule; each takes a (first) clip norm."""


@lab.part
class Experiment:
    """The grid of cohorts, noises and clips."""

    base: parts.Federated = parts.Federated(
        trainer=parts.FedAvg(parts.Sgd(0.1), batch_size=10),
        schedule=lab.Schedule(num_rounds=4, eval_every=2),
    )
    """The setup that all runs share; the grid sets cohort and mechanism."""
    cohorts: tuple[int, ...] = (10, 20)
    """Expected clients per round."""
    noises: tuple[float, ...] = (0.0, 1.0)
    """Noise multipliers; 0 clips only."""
    clips: tuple[Clip, ...] = CLIPS[1::2]
    """Names of MECHANISMS and (first) clip norms."""
    num_seeds: int = 2
    """Runs of each setting."""
    delta: float = 1e-3
    """Delta of every epsilon; below one over the number of clients."""
    projection: int = 50
    """Factor by which cohort and noise are larger in the projection."""
    projected_population: int = 1_000_000
    """Clients to sample from in the projection."""
    projected_delta: float = 1e-8
    """Delta of the projection's epsilon."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        base=parts.Federated(
            data=parts.Mnist(),
            partition=parts.Natural(),
            model=parts.TwoNN(),
            trainer=parts.FedAvg(parts.Sgd(0.1), batch_size=10),
            schedule=lab.Schedule(num_rounds=100, eval_every=20),
        ),
        cohorts=(50, 100, 200),
        noises=(0.0, 0.02, 0.1, 0.5, 1.0),
        clips=CLIPS,
        num_seeds=3,
    ),
}
PAGE = {
    "minutes": {"paper": 30},
    "tables": [
        {
            "by": ["cohort", "clipping", "clip_norm"],
            "across": "noise",
            "of": ["accuracy"],
            "percent": ["accuracy"],
        },
        {
            "title": "what is proven here, and projected to a larger population",
            "where": {"clipping": "flat", "clip_norm": 1},
            "by": ["cohort", "noise", "delta", "projected_cohort", "projected_delta"],
            "of": ["epsilon_rdp", "epsilon_pld", "projected_epsilon_rdp"],
        },
    ],
}

EXPLORED = {}
PRICED = [
    {
        "by": ["cohort", "noise", "clipping", "clip_norm"],
        "of": ["projected_epsilon_rdp", "projected_population", "projected_delta"],
        "where": {"noise": [0.5, 1]},
        "needs": ["commit"],
    },
]


def points(experiment: Experiment) -> list[lab.Point]:
    """A point for every cohort, noise, clip and seed."""
    clips = tuple(
        lab.Setting(
            {"mechanism": MECHANISMS[rule](norm)},
            {"clipping": rule, "clip_norm": norm},
        )
        for rule, norm in experiment.clips
    )
    sweep = lab.product(
        lab.seeds(experiment.num_seeds),
        lab.axis("sampler.expected_cohort", experiment.cohorts, column="cohort"),
        lab.axis("mechanism.noise_multiplier", experiment.noises, column="noise"),
        clips,
    )
    return lab.points(sweep, experiment.base, experiment.delta)


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run, with its projection."""
    rows = []
    for run in results:
        labels, last = run.point.labels, run.outcome.last
        noise = labels["noise"] * experiment.projection
        cohort = labels["cohort"] * experiment.projection
        prob = cohort / experiment.projected_population
        rows.append(
            {
                **labels,
                "accuracy": last["accuracy"],
                "loss": last["loss"],
                "last_clip_norm": last.get("clip_norm", labels["clip_norm"]),
                "projected_cohort": cohort,
                "projected_noise": noise,
                "projected_population": experiment.projected_population,
                "projected_sampling_prob": prob,
                "projected_delta": experiment.projected_delta,
                "projected_epsilon_rdp": projected(experiment, noise, prob),
            }
        )
    return rows


def projected(experiment: Experiment, noise: float, prob: float) -> float:
    """The epsilon of the same number of rounds with this noise and sampling."""
    if noise == 0:
        return float("inf")
    sampler = federated.poisson(experiment.projected_population, prob)
    event = gaussian(1.0, noise).event(sampler, experiment.base.schedule.num_rounds)
    return accounting.epsilon(event, experiment.projected_delta)


if __name__ == "__main__":
    lab.run_experiment("dp_fedavg", __doc__ or "", CONFIGS, points, table)
