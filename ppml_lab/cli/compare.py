"""`compare`: one metric of two tables, in pairs of runs that differ in nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppml_lab.cli import tables
from ppml_lab.cli.output import AsJson, Table, print_json, print_table
from ppml_lab.cli.tables import Row, Value

# Tables keep six digits: what differs by less is rounding of the subtraction.
_ROUNDING = 1e-9

Labels = tuple[Value, ...]


class Pairs(NamedTuple):
    """Values of a metric in both tables, by the labels other than the seed."""

    groups: dict[Labels, list[tuple[float, float]]]
    unmatched: tuple[int, int]
    without_value: int


def compare(
    first: Table,
    second: Table,
    *,
    metric: str,
    labels: tuple[str, ...] = (),
    as_json: AsJson = False,
) -> None:
    """Prints how much a metric is higher in the second table, paired over seeds.

    Rows are pairs if all labels are equal: the columns up to "seed" that both tables
    have. For every group of labels: the mean difference, its 95% interval and the p
    value of a paired t-test.

    Example: python -m ppml_lab compare privacy_utility /tmp/mine --metric accuracy

    Args:
      first: An experiment, "NAME/smoke" or the like, or the path of a table.
      second: Another.
      metric: A column of both.
      labels: Match by these columns and "seed" instead.
      as_json: Print one JSON object.

    Raises:
      ValueError: If a table, the metric or a label is not there, labels are not unique
        in a table, or no group has two pairs.
    """
    paths = tables.find(first), tables.find(second)
    rows = tables.read(paths[0]), tables.read(paths[1])
    names = _label_names(paths, rows, labels)
    _check_metric(metric, names, rows)
    pairs = _pair(paths, rows, names, metric)
    found = [_row(names, group, values) for group, values in pairs.groups.items()]
    if as_json:
        facts = {"metric": metric, "first": str(paths[0]), "second": str(paths[1])}
        print_json({**facts, **pairs._asdict(), "groups": found})
        return
    print(f"{metric} of {paths[1]} minus {paths[0]}, paired over seeds, 95% interval")
    print_table([{**row.pop("labels"), **row} for row in found])
    for path, count in zip(paths, pairs.unmatched, strict=True):
        if count:
            print(f"{count} rows of {path} have no partner")
    if pairs.without_value:
        print(f"{pairs.without_value} pairs lack a finite {metric} and are left out")
    if len(found) > 1:
        print(f"p values stand for one test each, not for all {len(found)} at once")


def paired_test(values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Means, mean difference, its 95% interval and a paired t-test's p value.

    Of a single pair there is no interval, and where all differences are equal no test:
    these are None.
    """
    import numpy as np
    from scipy import stats

    first, second = np.array(values, np.float64).T
    differences = second - first
    mean = float(differences.mean())
    low = high = p_value = None
    if len(values) > 1:
        if np.ptp(differences) <= _ROUNDING * np.abs(values).max():
            low = high = mean
        else:
            test = stats.ttest_rel(second, first)
            low, high = map(float, test.confidence_interval(0.95))
            p_value = float(test.pvalue)
    return {
        "pairs": len(values),
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": mean,
        "low": low,
        "high": high,
        "p_value": p_value,
    }


def _row(
    names: Sequence[str], group: Labels, values: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    labels = dict(zip(names[:-1], group, strict=True))
    return {"labels": labels, **paired_test(values)}


def _label_names(
    paths: Sequence[Path], rows: Sequence[list[Row]], labels: Sequence[str]
) -> list[str]:
    """The columns to match by, "seed" last."""
    from ppml_lab import checks

    columns = [list(table[0]) for table in rows]
    for path, table in zip(paths, columns, strict=True):
        if "seed" not in table:
            raise ValueError(f"{path} has no column 'seed': nothing pairs its rows")
        for name in labels:
            checks.known(f"column of {path}", name, table)
    ahead = [table[: table.index("seed")] for table in columns]
    chosen = labels or [name for name in ahead[0] if name in ahead[1]]
    return [*(name for name in chosen if name != "seed"), "seed"]


def _check_metric(metric: str, names: Sequence[str], rows: Sequence[list[Row]]) -> None:
    from ppml_lab import checks

    first, second = (list(table[0]) for table in rows)
    shared = [name for name in first if name in second and name not in names]
    checks.known("metric", metric, shared)
    for table in rows:
        for row in table:
            if isinstance(row[metric], str):
                raise ValueError(
                    f"metric {metric} must be a number, got '{row[metric]}'"
                )


def _pair(
    paths: Sequence[Path], rows: Sequence[list[Row]], names: Sequence[str], metric: str
) -> Pairs:
    first, second = (
        _by_labels(path, table, names, metric)
        for path, table in zip(paths, rows, strict=True)
    )
    shared = [key for key in first if key in second]
    groups: dict[Labels, list[tuple[float, float]]] = {}
    without_value = 0
    for key in shared:
        pair = first[key], second[key]
        if not all(map(math.isfinite, pair)):
            without_value += 1
            continue
        groups.setdefault(key[:-1], []).append(pair)
    _check_groups(names, groups, len(shared), metric)
    unmatched = len(first) - len(shared), len(second) - len(shared)
    return Pairs(groups, unmatched, without_value)


def _check_groups(
    names: Sequence[str], groups: dict[Labels, Any], num_shared: int, metric: str
) -> None:
    if not num_shared:
        raise ValueError(
            f"no row of one table has a partner in the other by {', '.join(names)}; "
            "choose columns to match by with --labels"
        )
    if not groups:
        raise ValueError(f"no pair of rows has a finite {metric} in both tables")
    if max(map(len, groups.values())) < 2:
        raise ValueError(
            "only one seed in common: an interval needs at least two; run more seeds"
        )


def _by_labels(
    path: Path, rows: Sequence[Row], names: Sequence[str], metric: str
) -> dict[Labels, float]:
    """The metric by labels; nan where it is missing."""
    found: dict[Labels, float] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        if key in found:
            shown = ", ".join(f"{name} {row[name]}" for name in names)
            raise ValueError(
                f"{path} has several rows of {shown}; name the columns that tell them "
                "apart with --labels"
            )
        cell = row[metric]
        found[key] = float(cell) if isinstance(cell, int | float) else math.nan
    return found
