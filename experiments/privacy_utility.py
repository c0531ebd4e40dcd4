"""What does privacy cost in accuracy, bytes and time?

Claim: on the same data and model, federated learning costs a little accuracy; secure
aggregation costs bytes and time but no accuracy; central differential privacy costs
accuracy, and less as epsilon grows; local differential privacy costs most of it.

The patterns are central training (also with DP-SGD, which protects single examples) and
federated averaging: plain, with secure aggregation, with central DP, with both, and
with local DP (DP protects whole clients here). A row is a pattern at one target epsilon
and seed. Every pattern is tuned in the same way, by its own `search_SET`
(`experiments.tuned.search`): 16 random settings of learning rates and clip norm are
compared on validation rows and other seeds, private patterns at epsilon 1; `paper_SET`
uses the best setting at every epsilon. Time on 2 cores: `smoke` (digits, 350 clients,
not tuned) under two minutes, `smoke_writers` and `smoke_adult` (two rounds of the other
data sets) some minutes, `search_fashion` about 8 minutes and `paper_fashion` about
15 (Fashion-MNIST, 2,000 clients, 7,850 parameters). `search_scattering` (about 17
minutes) and `paper_scattering` (23, of which the compute column takes 12) learn from
scattering features in place of pixels, which need no learning (`data.scattering`,
39,700 parameters, 5 GB of memory); from such features, with larger batches, Tramer and
Boneh (ICLR 2021) report 89.7% for central DP-SGD at epsilon 3 and delta 1e-5.

    python -m experiments.privacy_utility smoke
    python -m experiments.privacy_utility smoke_writers
    python -m experiments.privacy_utility smoke_adult
    python -m experiments.privacy_utility search_fashion
    python -m experiments.privacy_utility paper_fashion
    python -m experiments.privacy_utility search_scattering
    python -m experiments.privacy_utility paper_scattering
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from experiments.tuned import patterns, search
from ppml_lab import lab
from ppml_lab.lab import parts

RESULTS = "results/privacy_utility"


@lab.part
class Comparison:
    """The comparison: all patterns share data, model and number of rounds."""

    study: patterns.Study = patterns.Study()
    """The data set, the model and the patterns."""
    settings: str = ""
    """Folder of the search whose best settings are used; if empty, the settings in the
    middle of the patterns' boxes are used."""
    target_epsilons: tuple[float, ...] = (patterns.INF, 16.0, 4.0, 1.0, 0.25)
    """Epsilons of a whole run; inf is without privacy."""
    num_seeds: int = 3
    """Repetitions of every setting; the same seeds in every pattern."""


FASHION = patterns.Study(
    base=parts.Federated(
        data=parts.FashionMnist(),
        partition=parts.Iid(2000),
        trainer=parts.FedAvg(parts.Sgd(1.0), batch_size=10),
        server=parts.Sgd(1.0),
        sampler=parts.Poisson(500),
        schedule=lab.Schedule(num_rounds=51, eval_every=51),
    ),
    central_batch=parts.Poisson(600),
    # Below one over the number of examples, the unit that central DP-SGD protects.
    delta=1e-5,
    central=patterns.Box((0.03, 3.0)),
    private_central=patterns.Box((0.03, 3.0), clip_norm=(0.1, 10.0)),
    plain=patterns.Box((0.02, 2.0), (0.1, 10.0)),
    private=patterns.Box((0.02, 2.0), (0.1, 10.0), (0.05, 5.0)),
    local=patterns.Box((0.02, 2.0), (0.005, 0.5), (0.05, 5.0)),
)
WRITERS = replace(
    FASHION,
    base=parts.Federated(
        data=parts.Mnist(),
        partition=parts.Natural(),
        model=parts.TwoNN(),
        trainer=parts.FedAvg(parts.Sgd(0.1), batch_size=10),
        server=parts.Sgd(1.0),
        sampler=parts.Poisson(200),
        schedule=lab.Schedule(num_rounds=99, eval_every=99),
    ),
)
ADULT = replace(
    FASHION,
    base=parts.Federated(
        data=parts.Adult(),
        partition=parts.Iid(1000),
        model=parts.Mlp((64,)),
        trainer=parts.FedAvg(parts.Sgd(0.1), batch_size=10),
        server=parts.Sgd(1.0),
        sampler=parts.Poisson(300),
        schedule=lab.Schedule(num_rounds=51, eval_every=51),
    ),
)
# The norm of features is 4 times that of pixels, which makes gradients longer, models
# shorter, and a step of the same rate 16 times as large: FASHION's boxes are moved by
# 10, and those of clip norms by 3.
SCATTERING = replace(
    FASHION,
    base=replace(FASHION.base, data=parts.Scattered(data=parts.FashionMnist())),
    central=patterns.Box((0.003, 0.3)),
    private_central=patterns.Box((0.003, 0.3), clip_norm=(0.3, 30.0)),
    plain=patterns.Box((0.002, 0.2), (0.1, 10.0)),
    private=patterns.Box((0.002, 0.2), (0.1, 10.0), (0.015, 1.5)),
    local=patterns.Box((0.002, 0.2), (0.005, 0.5), (0.015, 1.5)),
)


def shortened(study: patterns.Study) -> Comparison:
    """A comparison of two rounds, without tuning, that shows that a study runs."""
    schedule = lab.Schedule(num_rounds=2, eval_every=2)
    short = replace(study, base=replace(study.base, schedule=schedule))
    return Comparison(short, "", (patterns.INF, 1.0), 1)


EPSILONS = (patterns.INF, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
CONFIGS = {
    "smoke": Comparison(),
    "smoke_writers": shortened(WRITERS),
    "smoke_adult": shortened(ADULT),
    "search_smoke": search.Search(num_settings=4, num_seeds=1),
    "search_fashion": search.Search(FASHION),
    "search_writers": search.Search(WRITERS),
    "search_adult": search.Search(ADULT),
    "search_scattering": search.Search(SCATTERING),
    "paper_fashion": Comparison(FASHION, f"{RESULTS}/search_fashion", EPSILONS, 5),
    "paper_writers": Comparison(WRITERS, f"{RESULTS}/search_writers", EPSILONS, 3),
    "paper_adult": Comparison(ADULT, f"{RESULTS}/search_adult", EPSILONS, 3),
    "paper_scattering": Comparison(
        SCATTERING,
        f"{RESULTS}/search_scattering",
        # A number is published for epsilon 3.
        (patterns.INF, 8.0, 3.0, 1.0),
        3,
    ),
}
PAGE = {
    "minutes": {
        "smoke_writers": 3,
        "smoke_adult": 3,
        "search_smoke": 1,
        "search_fashion": 8,
        "search_writers": 45,
        "search_adult": 20,
        "search_scattering": 17,
        "paper_fashion": 18,
        "paper_writers": 60,
        "paper_adult": 30,
        "paper_scattering": 23,
    },
    "tables": [
        {
            "title": "Fashion-MNIST",
            "where": {"configuration": "paper_fashion"},
            "by": ["pattern"],
            "across": "target_epsilon",
            "of": ["accuracy"],
            "percent": ["accuracy"],
        },
        {
            "title": "Fashion-MNIST by its scattering features",
            "where": {"configuration": "paper_scattering"},
            "by": ["pattern"],
            "across": "target_epsilon",
            "of": ["accuracy"],
            "percent": ["accuracy"],
        },
        {
            "title": "bytes of a client in a round, and time over plain federated",
            "where": {
                "configuration": ["paper_fashion", "paper_scattering"],
                "seed": 0,
                "target_epsilon": ["inf", 1],
            },
            "by": ["dataset", "pattern"],
            "of": {
                "uplink_bytes": [],
                "downlink_bytes": [],
                "compute_overhead": ["compute_overhead_low", "compute_overhead_high"],
            },
        },
        {
            "title": "validation accuracy of the settings that were tried, at a third "
            "of the rounds, and the numbers of the best",
            "where": {
                "configuration": ["paper_fashion", "paper_scattering"],
                "seed": 0,
                "target_epsilon": ["inf", 1],
            },
            "by": ["dataset", "pattern"],
            "of": [
                "search_best", "search_median", "search_worst", "client_rate",
                "server_rate", "clip_norm", "epsilon_of_choosing",
            ],
            "percent": ["search_best", "search_median", "search_worst"],
        },
    ],
}  # fmt: skip

EXPLORED = {
    "left_out": {"search_": "A search's runs, of which the tables show the best."},
}
PRICED = [
    {
        "by": ["pattern", "target_epsilon"],
        "of": [
            "clip_norm",
            "noise_multiplier",
            "epsilon_of_choosing",
            "compute_overhead",
        ],
    },
]


def points(config: Comparison | search.Search) -> list[lab.Point]:
    """Every run, seeds outermost so that the machine's load falls on all patterns."""
    if isinstance(config, search.Search):
        return search.points(config)
    setups = config.study.setups()
    if config.settings:
        found = search.found_in(config.settings, config.study)
        setups = {
            name: patterns.with_numbers(setup, found[name].numbers)
            for name, setup in setups.items()
        }
    every = lab.product(
        lab.seeds(config.num_seeds),
        lab.variants("pattern", setups),
        lab.axis("target_epsilon", config.target_epsilons),
    )
    sweep = tuple(
        setting
        for setting in every
        if patterns.is_private(setting.fields[""])
        == (setting.fields["target_epsilon"] < patterns.INF)
    )
    return lab.points(sweep, delta=config.study.delta)


def overheads(results: list[lab.Result]) -> dict[str, list[float]]:
    """Quartiles of each pattern's run time divided by plain federated learning's."""
    firsts = {run.point.labels["pattern"]: run.point for run in reversed(results)}
    print("measuring the patterns' run times in turns", flush=True)
    seconds = lab.seconds_in_turns(list(firsts.values()))
    ratios = seconds / seconds[:, [list(firsts).index("federated")]]
    quartiles = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    return dict(zip(firsts, quartiles.T.tolist(), strict=True))


def table(
    config: Comparison | search.Search, results: list[lab.Result]
) -> list[dict[str, Any]]:
    """One row per run; a pattern's overhead is measured separately, in turns."""
    if isinstance(config, search.Search):
        return search.table(config, results)
    overhead = overheads(results)
    tuned = config.settings and search.found_in(config.settings, config.study)

    def row(run: lab.Result) -> dict[str, Any]:
        point, last = run.point, run.outcome.last
        name = point.labels["pattern"]
        low, middle, high = overhead[name]
        return {
            **point.labels,
            "accuracy": last["accuracy"],
            "loss": last["loss"],
            "compute_overhead": middle,
            "compute_overhead_low": low,
            "compute_overhead_high": high,
            **patterns.numbers(point.setup),
            **search.columns(tuned[name] if tuned else None),
        }

    order = list(config.study.setups())
    return sorted(map(row, results), key=lambda row: order.index(row["pattern"]))


if __name__ == "__main__":
    lab.run_experiment("privacy_utility", __doc__ or "", CONFIGS, points, table)
