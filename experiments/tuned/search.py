"""A random search over every pattern's rates and clip norm, and its winners.

Each pattern has the same number of settings, drawn log-uniformly from its box. They run
on the search's own seeds for a third of the rounds, at epsilon 1 (infinity without
privacy), and are judged by validation rows, which the search does not train on.
Reported runs train on them too, and are judged by test rows, which the search never
sees.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.tuned import patterns
from ppml_lab import lab
from ppml_lab.dp import events, selection
from ppml_lab.lab import building
from ppml_lab.lab.columns import title_of

FIRST_SEED = 1000
"""The search's first seed; lower seeds are those of reported runs."""
EDGE = 0.1
"""The share of a range, in logarithms, that counts as its edge."""


@lab.part
class Search:
    """The search."""

    study: patterns.Study = patterns.Study()
    """The data set, the model and the patterns."""
    num_settings: int = 16
    """Settings of every pattern."""
    num_seeds: int = 2
    """Runs of each setting."""
    epsilon: float = 1.0
    """Epsilon at which private patterns are tuned."""
    validation: float = 0.1
    """Share of validation rows among train rows, or of users where rows have users."""
    seed: int = 0
    """Seed of the draws."""


def points(search: Search) -> list[lab.Point]:
    """Every run of the search."""
    study, found = search.study, ()
    rounds = max(1, study.base.schedule.num_rounds // 3)
    short = lab.Schedule(
        num_rounds=rounds, eval_every=rounds, validation=search.validation
    )
    numbers = lab.variants("setting", {i: {} for i in range(search.num_settings)})
    seeds = range(FIRST_SEED, FIRST_SEED + search.num_seeds)
    for name, setup in study.setups().items():
        box = study.boxes()[name]
        draws = []
        for column, path in patterns.tuned(setup).items():
            low, high = getattr(box, column)
            draws.append(
                lab.log_uniform(
                    path, low, high, search.num_settings, search.seed, column=column
                )
            )
        target = search.epsilon if patterns.is_private(setup) else patterns.INF
        found += lab.product(
            lab.variants("pattern", {name: replace(setup, schedule=short)}),
            lab.axis("target_epsilon", (target,)),
            lab.zipped(numbers, *draws),
            lab.axis("seed", seeds),
        )
    return [_labelled(point) for point in lab.points(found, delta=study.delta)]


def _labelled(point: lab.Point) -> lab.Point:
    """Adds a column for every tuned number, empty where a pattern has none."""
    own = patterns.tuned(point.setup)
    return point._replace(
        labels={
            name: value if name in own or name not in patterns.COLUMNS else None
            for name, value in point.labels.items()
        }
    )


def table(search: Search, results: Sequence[lab.Result]) -> list[dict[str, Any]]:
    """A row per run: its metrics on validation rows, and whether they choose its
    setting.
    """
    rows = [
        {
            **run.point.labels,
            "validation_accuracy": run.outcome.last["validation_accuracy"],
        }
        for run in results
    ]
    boxes, best = search.study.boxes(), ranked(rows)
    firsts = {run.point.labels["pattern"]: run.point for run in reversed(results)}
    prices = {name: price(one, search) for name, one in firsts.items()}
    for row in rows:
        chosen = row["setting"] == best[row["pattern"]].setting
        row["chosen"] = chosen
        row["at_edge"] = at_edge(row, boxes[row["pattern"]]) if chosen else ""
        row["epsilon_of_choosing"] = prices[row["pattern"]]
    for name, box in boxes.items():
        winner = next(r for r in rows if r["chosen"] and r["pattern"] == name)
        where = winner["at_edge"]
        said = f"at the edge of {where}: widen its box" if where else "inside its box"
        print(f"{name}: best setting {winner['setting']}, {said} ({box})")
    return rows


class Ranked(NamedTuple):
    """The ranking of a pattern's settings by their means over seeds."""

    setting: int
    """The best setting."""
    best: float
    median: float
    worst: float


def ranked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Ranked]:
    """Ranks each pattern's settings by validation rows; a run that diverged is worse
    than any other.
    """
    by_pattern: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        value = float(row["validation_accuracy"] or "nan")
        mine = by_pattern.setdefault(row["pattern"], {})
        mine.setdefault(int(row["setting"]), []).append(
            value if math.isfinite(value) else 0.0
        )
    found = {}
    for name, settings in by_pattern.items():
        means = {number: statistics.mean(values) for number, values in settings.items()}
        best = max(means, key=lambda number: (means[number], -number))
        ordered = sorted(means.values())
        found[name] = Ranked(best, ordered[-1], statistics.median(ordered), ordered[0])
    return found


def at_edge(row: Mapping[str, Any], box: patterns.Box) -> str:
    """Names the ranges in whose outer tenths a setting lies."""

    def edges() -> Iterator[str]:
        for name in patterns.COLUMNS:
            if row.get(name) is None:
                continue
            low, high = (math.log(end) for end in getattr(box, name))
            place = (math.log(row[name]) - low) / (high - low)
            if not EDGE <= place <= 1 - EDGE:
                yield name

    return ", ".join(edges())


def price(point: lab.Point, search: Search) -> float:
    """The epsilon, for the rows that the search trains on, of publishing the best of a
    Poisson number of settings, `num_settings` in expectation (`dp.selection`); 0 where
    nothing is private.

    A setting costs as much as its `num_seeds` runs together, by whose mean it is
    judged.

    **Guarantee:** holds if the validation rows are public, as scores on them are exact,
    and if nothing else of the search is shown. Reported runs come on top.
    """
    if not patterns.is_private(point.setup):
        return 0.0
    run = building.events_of(point.setup)(point.setup.schedule.num_rounds)
    setting = run._replace(event=events.compose(run.event, search.num_seeds))
    assert point.delta is not None
    law = selection.poisson(search.num_settings)
    return selection.epsilon(setting, point.delta, law)


class Found(NamedTuple):
    """The result of a search for a pattern."""

    numbers: dict[str, float]
    """The tuned numbers of the best setting, by column."""
    ranked: Ranked
    price: float


def found_in(folder: str, study: patterns.Study) -> dict[str, Found]:
    """Reads the result of a finished search for every pattern.

    Raises:
      ValueError: If the folder has no table of such a search, or a table of other
        patterns or of another data set.
    """
    path = Path(folder) / "table.csv"
    if not path.exists():
        raise ValueError(f"{path} does not exist; run the search that writes it")
    with path.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    names, data = set(study.setups()), title_of(study.base.data)
    there = {row.get("pattern") for row in rows}
    if there != names or not rows:
        raise ValueError(
            f"{path} must have the patterns {sorted(names)}, got "
            f"{sorted(map(str, there))}"
        )
    if {row["dataset"] for row in rows} != {data}:
        raise ValueError(
            f"{path} is a search on {rows[0]['dataset']}, but this study uses {data}"
        )
    best, found = ranked(rows), {}
    for row in rows:
        if int(row["setting"]) == best[row["pattern"]].setting:
            numbers = {n: float(row[n]) for n in patterns.COLUMNS if row[n]}
            price = float(row["epsilon_of_choosing"])
            found[row["pattern"]] = Found(numbers, best[row["pattern"]], price)
    return found


def columns(found: Found | None) -> dict[str, float | None]:
    """The columns of a comparison's row about its pattern's search."""
    names = ("search_best", "search_median", "search_worst", "epsilon_of_choosing")
    if found is None:
        return dict.fromkeys(names)
    return dict(zip(names, (*found.ranked[1:], found.price), strict=True))
