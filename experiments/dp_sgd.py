"""How accurate is DP-SGD on MNIST and Fashion-MNIST, and is that what others report?

Claim (the MNIST tutorials of TensorFlow Privacy and Opacus; Tramer and Boneh,
"Differentially Private Learning Needs Better Features (or Much More Data)", ICLR 2021):
a small CNN trained by DP-SGD reaches 95.0, 96.6 and 97.0% on MNIST in the tutorials'
three settings, and with tanh and momentum 98.1% on MNIST and 86.0% on Fashion-MNIST at
epsilon 3 (by the conversion of that time).

`PUBLISHED` are their settings; the curve is the two settings of Tramer and Boneh with
20 epochs in place of 40 and the noise that five epsilons (by RDP) ask for, so that the
rates which suit epsilon 3 are kept at all of them. Every step draws a Poisson sample,
as it is accounted; the published runs of TensorFlow Privacy and of Tramer and Boneh
shuffled. An epoch is as many steps as expected batches fit into the training set.
`paper` takes about an hour on 2 cores, `smoke` (digits) a minute.

    python -m experiments.dp_sgd smoke
    python -m experiments.dp_sgd paper
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ppml_lab import lab
from ppml_lab.dp import accounting
from ppml_lab.lab.budget import whole_run


class Setting(NamedTuple):
    """A way to train, and what its source reports.

    Attributes:
      name: What the table calls it.
      dataset: Pooled.
      model: A name the lab knows.
      optimizer: "sgd" or "momentum" (0.9).
      batch: Expected examples per step.
      learning_rate: The optimizer's.
      clip_norm: Of an example's gradient.
      noise: Noise multiplier; 0 trains without privacy, None asks for `target_epsilon`.
      epochs: Passes over the training set, in expectation.
      target_epsilon: Of the whole run by RDP, where `noise` is None.
      source_percent: Reported test accuracy; None where there is none.
      source_spread: Its standard deviation over runs.
      source_epsilon: Reported, by the old conversion.
    """

    name: str
    dataset: str
    model: str
    optimizer: str
    batch: int
    learning_rate: float
    clip_norm: float
    noise: float | None
    epochs: int
    target_epsilon: float | None = None
    source_percent: float | None = None
    source_spread: float | None = None
    source_epsilon: float | None = None


def tutorial(
    name: str, rate: float, noise: float, clip: float, epochs: int, *source: float
) -> Setting:
    """A setting of the tutorials' CNN; what Opacus reports is the source."""
    return Setting(
        name, "mnist", "tutorial_cnn", "sgd", 256, rate, clip, noise, epochs, None,
        *source,
    )  # fmt: skip


PUBLISHED = (
    tutorial("tutorial, plain", 0.1, 0.0, 1.0, 20, 99.0),
    tutorial("tutorial, 15 epochs", 0.25, 1.3, 1.5, 15, 94.63, 0.34, 1.16),
    tutorial("tutorial, 60 epochs", 0.15, 1.1, 1.0, 60, 96.78, 0.21, 2.91),
    tutorial("tutorial, 45 epochs", 0.25, 0.7, 1.5, 45, 97.09, 0.17, 6.86),
    Setting(
        "tanh CNN", "mnist", "tanh_cnn", "momentum", 512, 0.5, 0.1, 1.23, 40, None,
        98.1, None, 3.0,
    ),
    Setting(
        "tanh CNN", "fashion_mnist", "tanh_cnn", "momentum", 2048, 4.0, 0.1, 2.15, 40,
        None, 86.0, None, 3.0,
    ),
)  # fmt: skip


def curve(
    setting: Setting, epochs: int, target_epsilons: tuple[float, ...]
) -> tuple[Setting, ...]:
    """A setting with the noise of other epsilons."""
    return tuple(
        setting._replace(
            name="curve", epochs=epochs, noise=None, target_epsilon=target,
            source_percent=None, source_epsilon=None,
        )
        for target in target_epsilons
    )  # fmt: skip


EPSILONS = (0.5, 1.0, 2.0, 3.0, 8.0)
SMOKE = Setting("smoke", "digits", "logistic", "sgd", 128, 1.0, 0.5, 1.0, 10)


@dataclass(frozen=True)
class Experiment:
    """Settings to train."""

    settings: tuple[Setting, ...] = (SMOKE, *curve(SMOKE, 5, (1.0, 8.0)))
    """In the table's order."""
    num_seeds: int = 2
    """Runs of each."""
    delta: float = 1e-5
    """Of every epsilon."""
    eval_every: int = 5
    """Epochs between evaluations."""
    microbatch_size: int | None = None
    """Examples that are clipped at once; changes the speed only."""


CONFIGS = {
    "smoke": Experiment(delta=1e-4),
    "paper": Experiment(
        settings=(
            *PUBLISHED,
            *curve(PUBLISHED[-2], 20, EPSILONS),
            *curve(PUBLISHED[-1], 20, EPSILONS),
        ),
        num_seeds=3,
        microbatch_size=32,
    ),
}


def config_of(experiment: Experiment, setting: Setting) -> lab.Config:
    """What a setting compiles to; a round is an epoch."""
    data = lab.DataConfig(dataset=setting.dataset)
    steps = lab.load_data(data).facts.num_examples // setting.batch
    return lab.Config(
        data=data,
        model=setting.model,
        training="central",
        sampler="poisson",
        cohort=setting.batch,
        num_rounds=setting.epochs,
        eval_every=experiment.eval_every,
        steps_per_round=steps,
        client_optimizer=setting.optimizer,
        privacy="none" if setting.noise == 0 else "example",
        microbatch_size=experiment.microbatch_size,
    )


def points(experiment: Experiment) -> list[lab.Point]:
    """Every setting and seed, seeds outermost."""
    runs, delta = [], experiment.delta
    for setting in experiment.settings:
        config = config_of(experiment, setting)
        hyperparams = lab.Hyperparams(
            learning_rate=setting.learning_rate,
            clip_norm=setting.clip_norm,
            noise_multiplier=setting.noise or 0.0,
        )
        if setting.noise is None:
            assert setting.target_epsilon is not None
            facts = lab.load_data(config.data).facts
            hyperparams = lab.calibrated(
                config, hyperparams, facts, setting.target_epsilon, delta
            )
        shown = setting._asdict()
        del shown["noise"]
        runs += [
            lab.Point(config, hyperparams, seed, shown | {"seed": seed}, delta)
            for seed in range(experiment.num_seeds)
        ]
    return sorted(runs, key=lambda run: run.seed)


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run, sorted by setting."""
    rows = []
    for run in results:
        point = run.point
        old = float("inf")
        if point.config.privacy != "none":
            facts = lab.load_data(point.config.data).facts
            event = whole_run(point.config, point.hyperparams, facts)
            old = accounting.old_conversion_epsilon(event, experiment.delta)
        rows.append(
            {
                **point.labels,
                "accuracy": run.outcome.last["accuracy"],
                "loss": run.outcome.last["loss"],
                "epsilon_old_conversion": old,
                **run.guarantee,
                "seconds": run.outcome.last["seconds"],
            }
        )

    def place(row: dict[str, Any]) -> tuple[str, str, float]:
        return row["name"], row["dataset"], row["target_epsilon"] or 0.0

    order = [place(setting._asdict()) for setting in experiment.settings]
    return sorted(rows, key=lambda row: order.index(place(row)))


if __name__ == "__main__":
    lab.run_experiment("dp_sgd", __doc__ or "", CONFIGS, points, table)
