"""`compare`: one metric of two tables, for each group of equal labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppml_lab.cli import alike, tables
from ppml_lab.cli.output import AsJson, Table, print_json, print_table
from ppml_lab.cli.tables import Row, Value

# Tables keep six digits: a smaller difference is rounding of the subtraction.
_ROUNDING = 1e-9
_SEED_ALONE = "seed"
# Columns that show that a run is private, in tables without a column "key".
_PROMISES = ("privacy_unit", "epsilon", "epsilon_rdp", "epsilon_pld")

Labels = tuple[Value, ...]


class Run(NamedTuple):
    """A row of a table.

    Attributes:
      key: The key of the row's randomness, beside its seed; None where not known.
      value: Value of the metric; nan where it is missing.
      row: The whole row.
    """

    key: Value
    value: float
    row: Row


Groups = Mapping[Labels, Mapping[Value, Run]]
"""Rows by their labels other than the seed, and by seed."""


class Compared(NamedTuple):
    """The results of a comparison, numbers of rows left out, and columns that
    differ.
    """

    groups: list[dict[str, Any]]
    unmatched: tuple[int, int]
    without_value: int
    differing: alike.Differing


def compare(
    first: Table,
    second: Table,
    *,
    metric: str,
    labels: tuple[str, ...] = (),
    across: tuple[str, ...] = (),
    as_json: AsJson = False,
) -> None:
    """Prints how much higher a metric is in the second table, for each group of labels.

    Rows belong to a group if all labels except the seed are equal: labels are the
    columns up to "seed" that both tables have. Two rows of one seed are a pair if they
    have the same value in the column `key`, as runs without privacy have, and runs made
    twice. Pairs get the 95% interval and p value of a paired t-test. Private runs that
    differ in anything have different keys; they are compared as independent runs, by
    Welch's t-test, and so are private runs of tables without keys. The column `test`
    says which test was used.

    Rows of a group must have the same dataset (and data, by their digest), experiment,
    model, metric, privacy unit, neighbouring relation, adversary and delta, and must
    all be measured or all be projected; to compare epsilons, they must have the same
    trust too. `across` names columns that may differ. Rows without a finite metric,
    such as those of runs that diverged, are left out and counted.

    Example: python -m ppml_lab compare dp_sgd /tmp/mine --metric accuracy

    Args:
      first: An experiment, as NAME or NAME/smoke, or the path of a table.
      second: The second table, named in the same way.
      metric: The column to compare, in both tables.
      labels: Match rows by these columns and "seed" instead.
      across: Columns that may differ; rows are not matched by them either. "all" also
        takes tables that lack needed columns.
      as_json: Print one JSON object.

    Raises:
      ValueError: If a table, the metric or a label is missing, labels are not unique in
        a table, no group has two pairs or two independent runs on each side, or tables
        differ in, or lack, a column that `across` does not name.
    """
    alike.check_asked(across)
    paths = tables.find(first), tables.find(second)
    rows = tables.read(paths[0]), tables.read(paths[1])
    names = _label_names(paths, rows, labels, across)
    _check_metric(metric, names, rows)
    for path, table in zip(paths, rows, strict=True):
        alike.check_said(path, table, metric, across)
    compared = _compare(paths, rows, names, metric, across)
    found = compared.groups
    if as_json:
        facts = {"metric": metric, "first": str(paths[0]), "second": str(paths[1])}
        print_json({**facts, **compared._asdict()})
        return
    print(f"{metric} of {paths[1]} minus {paths[0]}, 95% interval")
    for path, table in zip(paths, rows, strict=True):
        if missing := alike.unsaid(table, metric):
            print(f"{path} lacks the columns {', '.join(missing)}")
    if compared.differing:
        print(f"the tables differ: {alike.in_words(compared.differing, paths)}")
    print_table([{**row.pop("labels"), **row} for row in found])
    tests = {row["test"] for row in found}
    if "paired" in tests:
        print("paired: over seeds, as runs of a seed share their key")
    if "Welch" in tests:
        print("Welch: independent runs, as these do not share their key")
    for path, count in zip(paths, compared.unmatched, strict=True):
        if count:
            print(f"{count} rows of {path} have no partner in the other table")
    if compared.without_value:
        print(
            f"{compared.without_value} rows or pairs lack a finite {metric} and are "
            "left out"
        )
    if len(found) > 1:
        print(
            f"each p value is for a single test, not corrected for all {len(found)} "
            "tests"
        )


def paired_test(values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Returns means, mean difference, its 95% interval and a paired t-test's p value.

    The interval and p value of a single pair are None, and so is the p value where all
    differences are equal.
    """
    import numpy as np
    from scipy import stats

    first, second = np.array(values, np.float64).T
    differences = second - first
    same = bool(np.ptp(differences) <= _ROUNDING * np.abs(values).max())
    return {"test": "paired", "pairs": len(values)} | _tested(
        first,
        second,
        float(differences.mean()),
        lambda: stats.ttest_rel(second, first),
        has_interval=len(values) > 1,
        same=same,
    )


def welch_test(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Returns means, their difference, its 95% interval and Welch's p value for
    independent runs; `pairs` is None.

    The interval and p value are None for a single run on a side, and so is the p value
    where all runs of each side are equal.
    """
    import numpy as np
    from scipy import stats

    sides = np.array(first, np.float64), np.array(second, np.float64)
    same = all(np.ptp(side) <= _ROUNDING * np.abs(side).max() for side in sides)
    return {"test": "Welch", "pairs": None} | _tested(
        *sides,
        float(sides[1].mean() - sides[0].mean()),
        lambda: stats.ttest_ind(sides[1], sides[0], equal_var=False),
        has_interval=min(map(len, sides)) > 1,
        same=bool(same),
    )


def _tested(
    first: Any,
    second: Any,
    mean: float,
    test: Callable[[], Any],
    *,
    has_interval: bool,
    same: bool,
) -> dict[str, Any]:
    low = high = p_value = None
    if has_interval and same:
        low = high = mean
    elif has_interval:
        found = test()
        low, high = map(float, found.confidence_interval(0.95))
        p_value = float(found.pvalue)
    return {
        "first_runs": len(first),
        "second_runs": len(second),
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": mean,
        "low": low,
        "high": high,
        "p_value": p_value,
    }


def _label_names(
    paths: Sequence[Path],
    rows: Sequence[list[Row]],
    labels: Sequence[str],
    across: Sequence[str],
) -> list[str]:
    """Returns the columns to match by, "seed" last."""
    from ppml_lab import checks

    columns = [list(table[0]) for table in rows]
    for path, table in zip(paths, columns, strict=True):
        if "seed" not in table:
            raise ValueError(
                f"{path} has no column 'seed', so that its rows cannot be matched"
            )
        for name in labels:
            checks.known(f"column of {path}", name, table)
    for path, table in zip(paths, rows, strict=True):
        if any(row["seed"] is None for row in table):
            raise ValueError(
                f"{path} has rows without a seed, such as means over seeds; compare "
                "tables with a row for each run"
            )
    ahead = [table[: table.index("seed")] for table in columns]
    shared = [name for name in ahead[0] if name in ahead[1] and name not in across]
    chosen = labels or shared
    return [*(name for name in chosen if name != "seed"), "seed"]


def _check_metric(metric: str, names: Sequence[str], rows: Sequence[list[Row]]) -> None:
    from ppml_lab import checks

    first, second = (list(table[0]) for table in rows)
    shared = [name for name in first if name in second and name not in names]
    checks.known("metric", metric, shared)
    for table in rows:
        for row in table:
            # Tables spell out the nan of a run that diverged.
            if isinstance(row[metric], str) and row[metric] != "nan":
                raise ValueError(
                    f"metric {metric} must be a number, got '{row[metric]}'"
                )


def _compare(
    paths: tuple[Path, Path],
    rows: Sequence[list[Row]],
    names: Sequence[str],
    metric: str,
    across: Sequence[str],
) -> Compared:
    first, second = (
        _by_labels(path, table, names, metric)
        for path, table in zip(paths, rows, strict=True)
    )
    shared = [group for group in first if group in second]
    if not shared:
        whole: list[dict[Value, Row]] = [dict(enumerate(table)) for table in rows]
        alike.check(alike.differing(*whole, metric=metric, paired=False), paths, across)
        raise ValueError(
            f"no row of one table has a partner in the other by {', '.join(names[:-1])}"
            "; choose columns to match by with --labels"
        )
    found, without_value = [], 0
    differing: alike.Differing = {}
    partners = {0: 0, 1: 0}
    for group in shared:
        sides = first[group], second[group]
        seeds = [seed for seed in sides[0] if seed in sides[1]]
        paired = _are_paired(sides, seeds)
        compared = [
            {seed: side[seed].row for seed in (seeds if paired else side)}
            for side in sides
        ]
        beside = alike.differing(*compared, metric=metric, paired=paired)
        differing = beside | differing
        if paired:
            every = [(sides[0][seed].value, sides[1][seed].value) for seed in seeds]
            pairs = [pair for pair in every if all(map(math.isfinite, pair))]
            without_value += len(every) - len(pairs)
            counted = len(every), len(every)
            row = paired_test(pairs) if pairs else None
        else:
            finite = [_finite(side.values()) for side in sides]
            without_value += sum(map(len, sides)) - sum(map(len, finite))
            counted = len(sides[0]), len(sides[1])
            row = welch_test(*finite) if all(finite) else None
        for side, count in enumerate(counted):
            partners[side] += count
        if row is not None:
            labels = dict(zip(names[:-1], group, strict=True))
            found.append({"labels": labels, **row})
    alike.check(differing, paths, across)
    _check_groups(found, metric)
    unmatched = len(rows[0]) - partners[0], len(rows[1]) - partners[1]
    return Compared(found, unmatched, without_value, differing)


def _are_paired(
    sides: tuple[Mapping[Value, Run], Mapping[Value, Run]], seeds: Sequence[Value]
) -> bool:
    """Returns whether all rows of the common seeds share their keys."""
    keys = [(sides[0][seed].key, sides[1][seed].key) for seed in seeds]
    return bool(keys) and all(one == other is not None for one, other in keys)


def _finite(runs: Iterable[Run]) -> list[float]:
    return [run.value for run in runs if math.isfinite(run.value)]


def _check_groups(groups: Sequence[Mapping[str, Any]], metric: str) -> None:
    if not groups:
        raise ValueError(f"no pair of rows has a finite {metric} in both tables")
    if all(row["low"] is None for row in groups):
        raise ValueError(
            "an interval needs at least two common seeds, or two runs on each side; "
            "run more seeds"
        )


def _by_labels(
    path: Path, rows: Sequence[Row], names: Sequence[str], metric: str
) -> Groups:
    found: dict[Labels, dict[Value, Run]] = {}
    for row in rows:
        group = found.setdefault(tuple(row[name] for name in names[:-1]), {})
        seed = row[names[-1]]
        if seed in group:
            shown = ", ".join(f"{name} {row[name]}" for name in names)
            raise ValueError(
                f"{path} has several rows of {shown}; name the columns that "
                "distinguish these rows with --labels"
            )
        cell = row[metric]
        number = float(cell) if isinstance(cell, int | float) else math.nan
        group[seed] = Run(_key_of(row), number, row)
    return found


def _key_of(row: Row) -> Value:
    """Returns the key of a row's randomness beside its seed; None where not known."""
    if "key" in row:
        return row["key"]
    private = [row.get(name) for name in _PROMISES]
    if any(cell not in (None, math.inf, "none") for cell in private):
        return None
    return _SEED_ALONE
