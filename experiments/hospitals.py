"""What does learning together bring four hospitals, and what does privacy cost them?

Claims to check: federated steps on sums of patients' gradients give the pooled model,
and a secure sum changes bytes and time alone; central DP for patients costs little; on
shares the same is had without a server that is trusted; and on one split the best
hospital alone may beat the pooled model, so that one split says nothing.

The patterns, each on every re-split of the patients (`silos.patterns`):

    majority class           the more frequent label, for everybody
    alone: NAME              logistic regression on one hospital's patients
    each alone, for its own  these models, each judged by its own hospital's patients
    pooled                   logistic regression on everybody's patients in one place
    federated                each step is a sum of one gradient for each patient
    federated + secure sum   that sum under pairwise masks, which hide a hospital's part
    ... + central DP         gradients are clipped, and one noise is on the secure sum
    DP on shares             three parties compute on shares, with noise of their own
    personal intercept       FedAvg, in which each hospital keeps an intercept

**The unit is the patient, never the hospital.** Epsilon is that of one training, for
adding or removing one patient, at the table's delta; the column `who_sees` says against
whom. The hospitals are public by name: that they take part, and how many patients each
has, is not hidden. Epsilon is about the train rows of a split that is taken as given;
nothing is promised for test rows, nor for the table, which is made of rows without
noise; and 20 re-splits are 20 trainings (what all of them cost together is printed).
Features are scaled by public ranges, so that no number is taken from rows
(`silos.sources`). `epsilon_at_least` is what an attack on the last model shows, on the
first split (`silos.audits`): 0 shows nothing.

Rates, clip norms and lengths were chosen at epsilon 1, by coarse grids on splits 1000
to 1019 of heart disease and on split 1000 of Adult, and stand for all rows; these
splits are other draws of the same people. Intervals are of means over re-splits,
corrected for the rows that re-splits share (`silos.office.interval`), and differences
are paired by split. `paper` (heart disease, 20 re-splits) takes about 8 minutes on 2
cores, `paper_adult` (synthetic silos by workclass, 5 re-splits) as long; `smoke` (2
re-splits) about a minute.

    python -m experiments.hospitals smoke
    python -m experiments.hospitals paper
    python -m experiments.hospitals paper_adult

The same table of a file of one's own, with a row for each patient or visit:

    python -m experiments.hospitals paper --out mine data:csv --data.path my.csv \\
        --data.target y --data.silo hospital --data.user patient \\
        --data.ranges age=0:120 bmi=10:60

Columns without a range are scaled by the least and greatest values of the file, and
categories are those of the file: epsilon covers neither. Without `--data.user`, every
row is another person. For many rows, `--audit-runs 0` leaves out the audits, which
train 2,000 models for each epsilon. What is written below `--out` is for you: no
epsilon covers it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from experiments.silos import audits, office, patterns, splits
from experiments.silos.own_file import Csv
from experiments.silos.sources import Heart, Workclass
from ppml_lab import checks, lab


@lab.part
class Experiment:
    """The patterns on re-splits of one table."""

    data: Heart | Workclass | Csv = Heart()
    """The table of several silos."""
    num_splits: int = 2
    """Re-splits of the patients, the seeds."""
    train_share: float = 0.66
    """The share of each silo's and label's patients that is trained on."""
    target_epsilons: tuple[float, ...] = (1.0, 4.0)
    """Epsilons of one training, for a patient."""
    delta: float = 1e-4
    """Delta of one training: at most a tenth of one over the number of patients."""
    learning: patterns.Learning = patterns.Learning()
    """The numbers of training."""
    audit_runs: int = 50
    """Models with an unlikely patient, and as many without, of each audit; 0 for no
    audits."""


CONFIGS = {
    "smoke": Experiment(target_epsilons=(4.0,), learning=patterns.Learning(rounds=100)),
    "paper": Experiment(
        num_splits=20, target_epsilons=(0.5, 1.0, 4.0), audit_runs=1000
    ),
    "paper_adult": Experiment(
        data=Workclass(),
        num_splits=5,
        target_epsilons=(0.5, 1.0, 4.0),
        delta=1e-6,
        learning=patterns.Learning(
            private_rounds=100,
            private_rate=3.0,
            clip_norm=1.0,
            shares_clip=2.0,
            batch_size=64,
        ),
        audit_runs=0,
    ),
}
PAGE = {
    "minutes": {"paper": 8, "paper_adult": 8},
    "tables": [
        {
            "title": "Heart disease (`paper`) and Adult by workclass (`paper_adult`)",
            "by": ["configuration", "pattern", "target_epsilon"],
            "of": {
                "accuracy": ["accuracy_low", "accuracy_high"],
                "auroc": ["auroc_low", "auroc_high"],
                "accuracy_minus_pooled": [
                    "accuracy_minus_pooled_low",
                    "accuracy_minus_pooled_high",
                ],
                "accuracy_minus_best_alone": [
                    "accuracy_minus_best_alone_low",
                    "accuracy_minus_best_alone_high",
                ],
                "own_minus_pooled": ["own_minus_pooled_low", "own_minus_pooled_high"],
            },
            "percent": [
                "own_minus_pooled",
                "accuracy",
                "auroc",
                "accuracy_minus_pooled",
                "accuracy_minus_best_alone",
            ],
            "ends": "in brackets corrected 95% intervals over re-splits",
        },
        {
            "title": "What a whole training costs, and who sees what",
            "by": ["configuration", "pattern", "target_epsilon"],
            "of": [
                "epsilon_public",
                "epsilon_at_least",
                "audit_ceiling",
                "exchanges",
                "sent_bytes",
                "received_bytes",
                "total_wan_seconds",
                "who_sees",
            ],
        },
    ],
}
EXPLORED = {
    "names": {
        "uplink_bytes": "sent_bytes",
        "downlink_bytes": "received_bytes",
        "protocol_rounds": "exchanges",
        "wan_seconds": "total_wan_seconds",
        "compute_seconds": "run_seconds",
    },
    "of_a_run": True,
    "attack": {"name": ["attack"], "value": "epsilon_at_least"},
}
PRICED = [
    {
        "by": ["pattern", "target_epsilon"],
        "of": [
            "accuracy_minus_pooled",
            "accuracy_minus_pooled_low",
            "accuracy_minus_pooled_high",
            "accuracy_minus_best_alone",
            "accuracy_minus_best_alone_low",
            "accuracy_minus_best_alone_high",
        ],
    },
]


def points(experiment: Experiment) -> list[lab.Point]:
    """A point for every split, pattern and target epsilon."""
    check(experiment)
    sweep: lab.Sweep = ()
    for split in each_split(experiment):
        for name, pattern in patterns.setups(split, experiment.learning).items():
            targets = experiment.target_epsilons if pattern.is_private else (math.inf,)
            sweep += lab.product(
                lab.variants("pattern", {name: pattern.setup}),
                lab.axis("target_epsilon", targets),
                lab.axis("seed", (split.number,)),
            )
    return lab.points(sweep, delta=experiment.delta)


def each_split(experiment: Experiment) -> list[splits.Split]:
    """The re-splits of the table."""
    return [
        splits.Split(experiment.data, number, experiment.train_share)
        for number in range(experiment.num_splits)
    ]


def check(experiment: Experiment) -> None:
    """Raises ValueError for a delta that promises single people nothing; says on stderr
    what this table cannot show.
    """
    checks.at_least("num_splits", experiment.num_splits, 1)
    rows = experiment.data.rows()
    if experiment.delta * rows.num_people >= 1:
        raise ValueError(
            f"delta {experiment.delta:g} must be below one over the {rows.num_people} "
            "people, or somebody's rows may be shown whole; give --delta "
            f"{0.1 / rows.num_people:.0e}"
        )
    if 10 * experiment.delta * rows.num_people > 1:
        print(
            f"note: delta {experiment.delta:g} is above a tenth of one over the "
            f"{rows.num_people} people: a promise with it may show somebody whole with "
            "a chance that is felt",
            file=sys.stderr,
        )
    if len(rows.names) == 2:
        print(
            "note: of a sum of two silos without noise, each silo learns the other's "
            "part; three servers add up, as masks need three silos",
            file=sys.stderr,
        )
    if rows.has_visits:
        print(
            f"note: some people have several rows: '{patterns.SHARES}' is left out, "
            "for it bounds rows one by one; federated steps weigh people alike, and "
            "models of pooled rows or of one silo weigh rows alike",
            file=sys.stderr,
        )


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """A row for each pattern, target epsilon and split."""
    source = experiment.data.rows()
    shown = audited(experiment, results)
    rows = []
    for run in results:
        labels, last = run.point.labels, run.outcome.last
        found = shown.get((labels["pattern"], labels["target_epsilon"]))
        rows.append(
            {**labels, "accuracy": last["accuracy"], "auroc": last["auroc"]}
            | office.at_silos(source, last)
            | office.costs(run.point.setup, lab.columns(run))
            | {"run_seconds": last.get("seconds")}
            | {"epsilon_at_least": found and found.at_least}
            | {"audit_ceiling": found and found.ceiling}
            | {"attack": found and audits.ATTACK.format(models=found.models)}
        )
    for split in each_split(experiment):
        alone = [
            run
            for run in results
            if run.point.seed == split.number
            and run.point.labels["pattern"].startswith(patterns.ALONE)
        ]
        blank = dict.fromkeys(rows[0])
        rows += [blank | row for row in office.untrained(source, split, alone)]
    order = patterns.names(source)
    rows.sort(key=lambda row: order.index(row["pattern"]))
    said = {
        # All splits are of the same rows, whichever of them a split trains on.
        "data_digest": source.digest if experiment.data.is_public else None,
        "not_hidden": patterns.NOT_HIDDEN,
    }
    test_over_train = 1 / experiment.train_share - 1
    rows = office.with_intervals(rows, test_over_train)
    print(office.in_words(rows))
    return [
        row | {"who_sees": patterns.who_sees(row["pattern"])} | said for row in rows
    ]


def audited(
    experiment: Experiment, results: list[lab.Result]
) -> Mapping[tuple[str, float], audits.Shown]:
    """Audits each private pattern at each epsilon, on its first split; all bounds hold
    together but for a chance of 5%.
    """
    kinds = {
        (run.point.labels["pattern"], run.point.labels["target_epsilon"])
        for run in results
        if run.guarantee["privacy_unit"] is not None
    }
    found: dict[tuple[str, float], audits.Shown] = {}
    for run in results:
        labels = run.point.labels
        kind = labels["pattern"], labels["target_epsilon"]
        if experiment.audit_runs and kind in kinds and kind not in found:
            found[kind] = audits.lower_bound(
                run.point, experiment.audit_runs, 0.05 / len(kinds)
            )
            print(
                f"audit of {kind[0]} at epsilon {kind[1]:g}: at least "
                f"{found[kind].at_least:.2f} by {found[kind].models} models, which "
                f"can show {found[kind].ceiling:.2f} at most",
                flush=True,
            )
    return found


if __name__ == "__main__":
    lab.run_experiment("hospitals", __doc__ or "", CONFIGS, points, table)
