"""What two rows must share to be compared: data, experiment and promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ppml_lab.cli.tables import Row, Value
from ppml_lab.tables import is_epsilon

NEEDED = ("dataset", "model", "metric")
NEEDED += ("privacy_unit", "neighboring_relation", "adversary")
"""Columns that a table has to have, and two rows have to agree on."""
BESIDE = ("experiment", "data_digest", "delta", "measured_or_projected")
"""Columns that they have to agree on where both tables have them."""
OF_EPSILONS = ("delta", "trust")
"""Columns without which an epsilon means nothing: where one is compared, a table has to
have the first, and rows have to agree on all that both tables have."""
ANY = "all"
"""Every column, even of tables that do not have it."""

Differing = dict[str, tuple[str, str]]
"""By column, what each side has there."""


def check_asked(across: Sequence[str]) -> None:
    """Raises ValueError for columns that two rows never have to agree on."""
    from ppml_lab import checks

    for name in across:
        known = dict.fromkeys((*NEEDED, *BESIDE, *OF_EPSILONS, ANY))
        checks.known("across", name, [*known])


def unsaid(rows: Sequence[Row], metric: str) -> list[str]:
    """The columns that a metric needs and that a table does not have."""
    needed = (*NEEDED, *(OF_EPSILONS[:1] if is_epsilon(metric) else ()))
    return [name for name in needed if name not in rows[0]]


def check_said(
    path: Path, rows: Sequence[Row], metric: str, across: Sequence[str]
) -> None:
    """Raises ValueError for a table without columns that are needed, unless asked."""
    missing = unsaid(rows, metric)
    if ANY in across or set(missing) <= set(across):
        return
    is_old = set(NEEDED) <= set(missing)
    raise ValueError(
        f"{path} does not say its {', '.join(missing)}"
        f"{', as tables from before these were columns' if is_old else ''}: make it "
        "again by its experiment, or compare all the same with --across "
        f"{ANY if is_old else ' '.join([*across, *missing])}"
    )


def differing(
    first: Mapping[Value, Row],
    second: Mapping[Value, Row],
    *,
    metric: str,
    paired: bool,
) -> Differing:
    """Where two groups of rows, by seed, are not of the same data, experiment or
    promise, as far as a metric goes: seed by seed for pairs, else taken together.
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
    """Raises ValueError for what differs, unless it was asked for."""
    wrong = {n: v for n, v in found.items() if n not in across and ANY not in across}
    if wrong:
        raise ValueError(
            f"these are not alike: {in_words(wrong, paths)}; compare all the same with "
            f"--across {' '.join([*across, *wrong])}"
        )


def in_words(found: Differing, paths: tuple[Path, Path]) -> str:
    """What differs, and how."""
    first, second = paths
    return "; ".join(
        f"{name} is {one} in {first} and {other} in {second}"
        for name, (one, other) in found.items()
    )


def _values(side: Mapping[Value, Row], name: str) -> dict[Value, str]:
    """A column by seed, as it is shown."""
    cells = {seed: row[name] for seed, row in side.items()}
    return {s: "nothing" if c is None else str(c) for s, c in cells.items()}
