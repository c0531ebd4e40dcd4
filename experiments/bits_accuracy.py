"""What do few bits cost a private federated model, and when do sums wrap around?

Claim to check: the accuracy of secure training with central noise does not depend on
the modulus until the sum and its noise outgrow it, and falls at once where they do. A
coarse scale costs accuracy through the noise, because rounding after clipping raises
the sensitivity to one client.

A cohort drawn without replacement sums its clipped updates under pairwise masks, modulo
2^modulus_bits, at 2^scale_bits steps per unit. Clients drop out before their upload,
and a round with at most two thirds of its cohort aborts. The server adds noise for the
target epsilon and reduces it modulo the modulus together with the sum, so that epsilon
holds whether the sum wraps around or not (`smpc.FixedPoint.wrap`). Bits, scale, cohort,
dropout rate, epsilon and seed are all traced: the whole grid is one compiled program.
It makes no masks (`mode="identity"`: the sums are those of the full protocol, to the
bit).

The model is logistic regression on MNIST, dealt to 3,000 clients. `paper` makes 2,835
runs in about 8 minutes on 2 cores; `smoke` some on the embedded digits in half a
minute.

    python -m experiments.bits_accuracy smoke
    python -m experiments.bits_accuracy paper
"""

from __future__ import annotations

from typing import Any

from ppml_lab import lab, smpc, tables
from ppml_lab.lab import parts


def base(
    data: parts.Data, num_clients: int, largest_cohort: int, num_rounds: int
) -> parts.Federated:
    return parts.Federated(
        data=data,
        partition=parts.Iid(num_clients),
        trainer=parts.FedAvg(parts.Sgd(0.3), batch_size=20),
        server=parts.Sgd(3.0),
        sampler=parts.FixedSize(largest_cohort),
        mechanism=parts.Gaussian(0.3),
        secure_sum=parts.PairwiseMasking(wraps=True, mode="identity"),
        schedule=lab.Schedule(num_rounds=num_rounds, eval_every=num_rounds),
    )


@lab.part
class Experiment:
    """The grid of numbers, which are traced arguments of one program."""

    base: parts.Federated = base(parts.Digits(), 100, 40, num_rounds=5)
    """The setup that all runs share; its cohort is the largest."""
    modulus_bits: tuple[int, ...] = (6, 12, 24)
    """Bits of the modulus of sums."""
    scale_bits: tuple[int, ...] = (4, 10)
    """Binary logarithms of the steps per unit of an update."""
    cohort_shares: tuple[float, ...] = (0.5, 1.0)
    """Cohort sizes as shares of the largest cohort."""
    dropout_probs: tuple[float, ...] = (0.0, 0.3)
    """Chances that a participant drops out."""
    target_epsilons: tuple[float, ...] = (8.0, float("inf"))
    """Epsilons of the whole run, for clients; inf is training without noise."""
    delta: float = 1e-3
    """Delta, below one over the number of clients."""
    num_seeds: int = 1
    """Runs of each setting."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        base=base(parts.Mnist(), 3000, 200, num_rounds=30),
        modulus_bits=(6, 8, 10, 12, 14, 16, 18),
        scale_bits=(4, 6, 8, 10, 12),
        cohort_shares=(0.25, 0.5, 1.0),
        dropout_probs=(0.0, 0.1, 0.3),
        target_epsilons=(1.0, 4.0, float("inf")),
        delta=1e-4,
        num_seeds=3,
    ),
}
PAGE = {
    "minutes": {"paper": 8},
    "tables": [
        {
            "title": "cohort 200, nobody drops out",
            "where": {"cohort": 200, "dropout_prob": 0},
            "by": ["target_epsilon", "scale_bits"],
            "across": "modulus_bits",
            "of": {"accuracy": "accuracy_std"},
            "percent": ["accuracy"],
        },
        {
            "title": "18 bits for the sum and 12 for the scale",
            "where": {"modulus_bits": 18, "scale_bits": 12},
            "by": ["target_epsilon", "cohort", "dropout_prob"],
            "of": {"accuracy": "accuracy_std", "aborted_share": [], "seeds": []},
            "percent": ["accuracy"],
        },
    ],
}

EXPLORED = {"std": "accuracy_std", "seeds": "seeds"}


def points(experiment: Experiment) -> list[lab.Point]:
    """Every point of the grid."""
    sweep = lab.product(
        lab.hidden(lab.axis("sampler.share", experiment.cohort_shares)),
        lab.axis("target_epsilon", experiment.target_epsilons),
        lab.axis("dropout_prob", experiment.dropout_probs),
        lab.axis("secure_sum.scale_bits", experiment.scale_bits, column="scale_bits"),
        lab.axis(
            "secure_sum.modulus_bits", experiment.modulus_bits, column="modulus_bits"
        ),
        lab.seeds(experiment.num_seeds),
    )
    return [
        run._replace(labels={"cohort": cohort(run.setup.sampler), **run.labels})
        for run in lab.points(sweep, experiment.base, experiment.delta)
    ]


def cohort(sampler: parts.FixedSize) -> int:
    """The number of clients that a round draws."""
    return round(sampler.cohort_size * (sampler.share or 1.0))


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """One row per setting, with the mean and the spread over seeds."""
    settings: dict[tuple[Any, ...], list[lab.Result]] = {}
    for run in results:
        labels = run.point.labels
        setting = tuple(v for name, v in labels.items() if name != "seed")
        settings.setdefault(setting, []).append(run)
    rows = []
    for runs in settings.values():
        labels = runs[0].point.labels
        clip_norm = runs[0].point.setup.mechanism.clip_norm
        scale, bits = 2.0 ** labels["scale_bits"], labels["modulus_bits"]
        accuracy = tables.mean(run.outcome.last["accuracy"] for run in runs)
        reports = [r for run in runs for r in run.outcome.history("num_reports")]
        rows.append(
            {name: value for name, value in labels.items() if name != "seed"}
            | {
                "headroom_bits": smpc.headroom(
                    labels["cohort"], clip_norm, scale, bits
                ),
                "accuracy": accuracy.mean,
                "accuracy_std": accuracy.std or 0.0,
                "aborted_share": sum(r == 0 for r in reports) / len(reports),
                "seeds": len(runs),
            }
        )
    return rows


if __name__ == "__main__":
    lab.run_experiment("bits_accuracy", __doc__ or "", CONFIGS, points, table)
