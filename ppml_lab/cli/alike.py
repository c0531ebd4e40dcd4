"""Checks that two rows can be compared: same data, experiment and privacy promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ppml_lab.cli.tables import Row, Value
from ppml_lab.tables import is_epsilon

NEEDED = ("dataset", "model", "metric")
NEEDED += ("privacy_unit", "neighboring_relation", "adversary")
"""Columns that a table must have, and that two rows must agree on."""
BESIDE = ("experiment", "data_digest", "delta", "measured_or_projected")
"""Columns that two rows must agree on where both tables have them."""
OF_EPSILONS = ("delta", "trust")
"""Columns that give an epsilon its meaning: where epsilons are compared, a table must
have the first, and rows must agree on all that both tables have."""
ANY = "all"
"""The word for every column, also of tables that lack some."""

Differing = dict[str, tuple[str, str]]
"""Columns that differ, and the text of each side."""


def check_asked(across: Sequence[str]) -> None:
    """Raises ValueError for columns that two rows need not agree on anyway."""
    from ppml_lab import checks

    for name in across:
        known = dict.fromkeys((*NEEDED, *BESIDE, *OF_EPSILONS, ANY))
        checks.known("across", name, [*known])


def unsaid(rows: Sequence[Row], metric: str) -> list[str]:
    """Returns the columns that a metric needs and that a table lacks."""
    needed = (*NEEDED, *(OF_EPSILONS[:1] if is_epsilon(metric) else ()))
    return [name for name in needed if name not in rows[0]]


def check_said(
    path: Path, rows: Sequence[Row], metric: str, across: Sequence[str]
) -> None:
    """Raises ValueError for a table that lacks needed columns, except those in
    `across`.
    """
    missing = unsaid(rows, metric)
    if ANY in across or set(missing) <= set(across):
        return
    is_old = set(NEEDED) <= set(missing)
    raise ValueError(
        f"{path} lacks the columns "
        f"{', '.join(missing)}{', like tables of earlier versions' if is_old else ''}; "
        "make the table again with its experiment, or compare anyway with --across "
        f"{ANY if is_old else ' '.join([*across, *missing])}"
    )


def differing(
    first: Mapping[Value, Row],
    second: Mapping[Value, Row],
    *,
    metric: str,
    paired: bool,
) -> Differing:
    """Returns the columns in which two groups of rows, by seed, differ in data,
    experiment or promise, as far as they matter for a metric.

    Pairs are compared seed by seed, other groups as a whole.
    """
    found: Differing = {}
    every = [*first.values(), *second.values()]
    more = OF_EPSILONS if is_epsilon(metric) else ()
    for name in dict.fromkeys((*NEEDED, *BESIDE, *more)):
        if any(name not in row for row in every):
            continue
        one, other = (_values(side, name) for side in (first, second))
        if paired:
            seeds = [seed for seed in one if one[seed] != other[seed]]
            one, other = ({s: side[s] for s in seeds[:1]} for side in (one, other))
        sides = [", ".join(sorted(set(side.values()))) for side in (one, other)]
        if sides[0] != sides[1]:
            found[name] = sides[0], sides[1]
    return found


def check(found: Differing, paths: tuple[Path, Path], across: Sequence[str]) -> None:
    """Raises ValueError for columns that differ, except those in `across`."""
    wrong = {n: v for n, v in found.items() if n not in across and ANY not in across}
    if wrong:
        raise ValueError(
            f"the tables are not comparable: {in_words(wrong, paths)}; compare anyway "
            f"with --across {' '.join([*across, *wrong])}"
        )


def in_words(found: Differing, paths: tuple[Path, Path]) -> str:
    """Returns a text about which columns differ, and how."""
    first, second = paths
    return "; ".join(
        f"{name} is {one} in {first} and {other} in {second}"
        for name, (one, other) in found.items()
    )


def _values(side: Mapping[Value, Row], name: str) -> dict[Value, str]:
    """Returns the texts of a column by seed."""
    cells = {seed: row[name] for seed, row in side.items()}
    return {s: "nothing" if c is None else str(c) for s, c in cells.items()}
