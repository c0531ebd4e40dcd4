"""Overlap of data sets: common rows, and whether the same units have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Units: TypeAlias = Sequence[frozenset[bytes]]
"""Digests of the rows of each unit (a client, or one row), see `digests.by_client`."""


def meet(one: Units, other: Units) -> bool:
    """Returns whether two data sets have a row in common."""
    return not frozenset().union(*one).isdisjoint(frozenset().union(*other))


def match(one: Units, other: Units) -> bool:
    """Returns whether data sets have common rows, and in the same units: no unit of one
    shares rows with two units of the other. Rows that several units have are ignored.
    """
    here, there = _homes(one), _homes(other)
    pairs = {(here[row], there[row]) for row in here.keys() & there.keys()}
    fits = len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
    return fits and bool(pairs or ({*one} & {*other}) - {frozenset()})


def same_people(sets: Sequence[Units]) -> list[list[int]]:
    """Groups of data sets, by place, that have some of the same units.

    A person who is a unit in each data set of a group pays for the releases of all. No
    two data sets of a group share rows in any other way.
    """
    groups: list[list[int]] = []
    for place, units in enumerate(sets):
        joined, apart = [place], []
        for group in groups:
            matches = any(match(units, sets[other]) for other in group)
            fits = all(
                match(sets[a], sets[b]) or not meet(sets[a], sets[b])
                for a in joined
                for b in group
            )
            if matches and fits:
                joined = group + joined
            else:
                apart.append(group)
        groups = sorted([*apart, sorted(joined)])
    return groups


def _homes(units: Units) -> dict[bytes, int]:
    """The unit of each row that exactly one unit has."""
    found: dict[bytes, int] = {}
    twice: set[bytes] = set()
    for place, rows in enumerate(units):
        twice |= rows & found.keys()
        found |= dict.fromkeys(rows, place)
    return {row: place for row, place in found.items() if row not in twice}
