"""How accurate is DP-SGD on MNIST and Fashion-MNIST, and is that what others report?

Claim (the MNIST tutorials of TensorFlow Privacy and Opacus; Tramer and Boneh,
"Differentially Private Learning Needs Better Features (or Much More Data)", ICLR 2021):
a small CNN trained by DP-SGD reaches 95.0, 96.6 and 97.0% on MNIST in the tutorials'
three settings, and with tanh and momentum 98.1% on MNIST and 86.0% on Fashion-MNIST at
epsilon 3 (by the conversion of that time).

`PUBLISHED` holds the published settings. The curve is the two settings of Tramer and
Boneh with 20 epochs in place of 40 and the noise for each of five epsilons (by the
column `accountant`); it keeps the learning rates that suit epsilon 3 at every epsilon.
Every step draws a Poisson sample, as accounted; the published runs of TensorFlow
Privacy and of Tramer and Boneh shuffled. An epoch is as many steps as expected batches
fit into the training set. `paper` is the tutorials' settings, `tanh` those of Tramer
and Boneh, and each data set's curve has its own configuration; minutes are in PAGE.
`smoke` (digits) takes one minute.

    python -m experiments.dp_sgd smoke
    python -m experiments.dp_sgd paper
    python -m experiments.dp_sgd tanh
    python -m experiments.dp_sgd curve_mnist
    python -m experiments.dp_sgd curve_fashion_mnist
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax

from ppml_lab import lab
from ppml_lab.dp import accounting
from ppml_lab.lab import parts
from ppml_lab.lab.budget import whole_run

DATA = {
    "digits": parts.Digits(),
    "mnist": parts.Mnist(),
    "fashion_mnist": parts.FashionMnist(),
}
MODELS = {
    "logistic": parts.Logistic(),
    "tutorial_cnn": parts.TutorialCnn(),
    "tanh_cnn": parts.TutorialCnn(jax.nn.tanh),
}
MOMENTA = {"sgd": None, "momentum": 0.9}
"""Momentum of SGD, by the optimizer's name in the sources."""


class Setting(NamedTuple):
    """A setting of training, and the results that its source reports.

    Attributes:
      name: The setting's name in the table.
      dataset: One of DATA, pooled.
      model: One of MODELS.
      optimizer: One of MOMENTA.
      batch: Expected examples per step.
      learning_rate: The optimizer's learning rate.
      clip_norm: Clip norm of an example's gradient.
      noise: Noise multiplier; 0 trains without privacy, None asks for `target_epsilon`.
      epochs: Passes over the training set, in expectation.
      target_epsilon: Epsilon of the whole run, where `noise` is None.
      source_percent: Reported test accuracy in percent; None where none is reported.
      source_spread: Reported standard deviation of the accuracy over runs.
      source_epsilon: Reported epsilon, by the old conversion.
    """

    name: str
    dataset: Literal["digits", "mnist", "fashion_mnist"]
    model: Literal["logistic", "tutorial_cnn", "tanh_cnn"]
    optimizer: Literal["sgd", "momentum"]
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
    """A setting of the tutorials' CNN; the source is what Opacus reports."""
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
    """Copies of a setting with the noise for other epsilons."""
    return tuple(
        setting._replace(
            name="curve", epochs=epochs, noise=None, target_epsilon=target,
            source_percent=None, source_epsilon=None,
        )
        for target in target_epsilons
    )  # fmt: skip


EPSILONS = (0.5, 1.0, 2.0, 3.0, 8.0)
SMOKE = Setting("smoke", "digits", "logistic", "sgd", 128, 1.0, 0.5, 1.0, 10)


@lab.part
class Experiment:
    """The settings to train."""

    settings: tuple[Setting, ...] = (SMOKE, *curve(SMOKE, 5, (1.0, 8.0)))
    """The settings, in the table's order."""
    num_seeds: int = 2
    """Runs of each setting."""
    delta: float = 1e-5
    """Delta of every epsilon."""
    eval_every: int = 5
    """Epochs between evaluations."""
    microbatch_size: int | None = None
    """Examples clipped at once; only the speed depends on it."""


def whole(*settings: Setting) -> Experiment:
    """An experiment of these settings, with as many runs as the published ones."""
    return Experiment(settings, num_seeds=3, microbatch_size=32)


CONFIGS = {
    "smoke": Experiment(delta=1e-4),
    "paper": whole(*PUBLISHED[:4]),
    "tanh": whole(*PUBLISHED[4:]),
    "curve_mnist": whole(*curve(PUBLISHED[4], 20, EPSILONS)),
    "curve_fashion_mnist": whole(*curve(PUBLISHED[5], 20, EPSILONS)),
}
PAGE = {
    "minutes": {"paper": 18, "tanh": 19, "curve_mnist": 19, "curve_fashion_mnist": 24},
    "tables": [
        {
            "title": "settings of others",
            "where": {"target_epsilon": None},
            "by": ["name", "dataset", "epochs", "source_percent", "source_spread"],
            "of": [
                "accuracy",
                "noise_multiplier",
                "epsilon_old_conversion",
                "epsilon_rdp",
                "epsilon_pld",
            ],
            "percent": ["accuracy"],
        },
        {
            "title": "20 epochs at the rates that suit epsilon 3",
            "where": {"name": "curve"},
            "by": ["dataset"],
            "across": "target_epsilon",
            "of": ["accuracy"],
            "percent": ["accuracy"],
        },
    ],
}

EXPLORED = {
    "words": {"dataset": {"mnist": "Mnist", "fashion_mnist": "FashionMnist"}},
}


def setup_of(experiment: Experiment, setting: Setting) -> parts.Central:
    """The training setup of a setting; a round is an epoch."""
    plain = parts.Central(
        data=DATA[setting.dataset],
        model=MODELS[setting.model],
        optimizer=parts.Sgd(setting.learning_rate, momentum=MOMENTA[setting.optimizer]),
        batch=parts.Poisson(setting.batch),
        microbatch_size=experiment.microbatch_size,
        schedule=lab.Schedule(setting.epochs, experiment.eval_every),
    )
    steps = lab.facts_of(plain).num_examples // setting.batch
    setup = replace(plain, steps_per_round=steps)
    if setting.noise == 0:
        return setup
    mechanism = parts.Gaussian(setting.clip_norm, setting.noise or 0.0)
    return replace(setup, mechanism=mechanism)


def points(experiment: Experiment) -> list[lab.Point]:
    """A point for every setting and seed, seeds outermost."""
    runs, delta = [], experiment.delta
    for setting in experiment.settings:
        setup = setup_of(experiment, setting)
        if setting.noise is None:
            assert setting.target_epsilon is not None
            setup = lab.calibrated(setup, setting.target_epsilon, delta)
        shown = setting._asdict()
        del shown["noise"]
        runs += [
            lab.Point(setup, seed, shown | {"seed": seed}, delta)
            for seed in range(experiment.num_seeds)
        ]
    return sorted(runs, key=lambda run: run.seed)


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per run, sorted by setting."""
    rows = []
    for run in results:
        point = run.point
        old = float("inf")
        event = whole_run(point.setup)
        if event.privacy_unit is not None:
            old = accounting.old_conversion_epsilon(event, experiment.delta)
        rows.append(
            {
                **point.labels,
                "accuracy": run.outcome.last["accuracy"],
                "loss": run.outcome.last["loss"],
                "epsilon_old_conversion": old,
            }
        )

    def place(row: dict[str, Any]) -> tuple[str, str, float]:
        return row["name"], row["dataset"], row["target_epsilon"] or 0.0

    order = [place(setting._asdict()) for setting in experiment.settings]
    return sorted(rows, key=lambda row: order.index(place(row)))


if __name__ == "__main__":
    lab.run_experiment("dp_sgd", __doc__ or "", CONFIGS, points, table)
