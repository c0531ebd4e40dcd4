"""The privacy cost of all runs of a sweep together, as they train on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppml_lab import arguments, base
from ppml_lab.data import overlap
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.budget import whole_run
from ppml_lab.lab.loading import facts_of, in_common, members
from ppml_lab.lab.results import Point
from ppml_lab.lab.setup import Facts


class _Release(NamedTuple):
    """The longest run of one key, and the number of points that are this run or its
    beginning.
    """

    point: Point
    event: base.PrivacyEvent
    points: int


_Releases = dict[tuple[str, int, int], _Release]
"""Releases by key, seed, and the number of a run's promise."""


@arguments.checked
def cost_together(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Returns the epsilon of releasing every private run, for each promise to the same
    people.

    Whoever chooses a setting by the runs' results has looked at all of them. Runs
    without noise promise nothing and are left out, so the cost is that of a choice
    among the private runs. `dp.selection` says how a choice may cost less.

    The epsilons of runs add up if their data have units in common. A unit in common is
    an example in whatever data set it is; or a client with the same rows, or with some
    of them where no two clients of one run share them with a client of the other
    (`data.overlap`), such as a user of whom different shares are held out. So nobody in
    several runs pays more than their row says, and a unit in some of the runs pays
    less. Clients that are dealt differently are other units: their runs are in rows of
    their own, and each row counts the runs of the other as `elsewhere`.

    **Guarantee:** adaptive composition, by RDP, of the `runs` that a row counts, for
    whoever is one unit in each of them. The randomness of these runs is independent,
    because no two of them have the same key (`results.key_identity`): points with the
    same key are one release, and its longest run is counted. The guarantee says nothing
    about runs that are `elsewhere` or `unprotected`.

    Returns:
      Rows of `dataset`, `privacy_unit`, `neighboring_relation`, `delta` (the smallest
      that a point asks for), `runs`, `epsilon_rdp` (against those who see the released
      models) and `epsilon_server` (against whoever runs the protocol, by RDP too, see
      `accounting.against_server`); and the numbers of points that are not counted:
      `same_release`, points that repeat a counted run or are the beginning of one,
      `elsewhere`, private runs on some of the same examples that promise it to other
      units or under another relation, and `unprotected`, points that train on some of
      the same examples and promise nothing, or hold some out.
    """
    promises: dict[tuple[str, str], dict[str, _Releases]] = {}
    unprotected = []
    for point in points:
        facts, protects = facts_of(point.setup), False
        # A run's promises to several units each add up with equal promises.
        for number, event in enumerate(ledger.each(whole_run(point.setup))):
            if _protects(event):
                protects = True
                promise = (str(event.privacy_unit), str(event.neighboring_relation))
                by_data = promises.setdefault(promise, {})
                releases = by_data.setdefault(_data(facts, promise[0]), {})
                which = (point.key, point.seed, number)
                releases[which] = _longest(releases.get(which), point, event)
        if not protects:
            unprotected.append(point)
    every = [r for by_data in promises.values() for r in by_data.values()]
    private = {which[:2]: one.point for r in every for which, one in r.items()}
    rows = []
    for promise, by_data in promises.items():
        for releases in _of_same_people(promise[0], by_data):
            deltas = [r.point.delta for r in releases.values()]
            known = [delta for delta in deltas if delta is not None]
            if known:
                row = _row(promise, [*releases.values()], min(known))
                rows.append(row | _left_out(releases, private, unprotected))
    return rows


def _protects(event: base.PrivacyEvent) -> bool:
    """Returns whether an event promises a finite epsilon to a unit."""
    has_unit = event.privacy_unit is not None
    return has_unit and bool(np.isfinite(accounting.rdp_curve(event).values).any())


def _data(facts: Facts, unit: str) -> str:
    """Returns a name of the units in a run's data."""
    assert facts.digests is not None
    # Another partition has other clients and the same examples.
    return facts.digests.clients if unit == "client" else facts.digests.examples


def _longest(
    found: _Release | None, point: Point, event: base.PrivacyEvent
) -> _Release:
    if found is None:
        return _Release(point, event, 1)
    deltas = [d for d in (found.point.delta, point.delta) if d is not None]
    longer = _rounds(point) > _rounds(found.point)
    kept = (point, event) if longer else (found.point, found.event)
    smallest = kept[0]._replace(delta=min(deltas, default=None))
    return _Release(smallest, kept[1], found.points + 1)


def _rounds(point: Point) -> int:
    return point.setup.schedule.num_rounds


def _of_same_people(unit: str, by_data: Mapping[str, _Releases]) -> list[_Releases]:
    """Returns releases, merged where their data sets have units in common."""
    each = [*by_data.values()]
    if len(each) == 1:
        return each
    found = [members(_first(releases).setup) for releases in each]
    units = [one.clients if unit == "client" else one.rows for one in found]
    return [
        {which: one for place in places for which, one in each[place].items()}
        for places in overlap.same_people(units)
    ]


def _first(releases: _Releases) -> Point:
    return next(iter(releases.values())).point


def _row(
    promise: tuple[str, str], releases: list[_Release], delta: float
) -> dict[str, Any]:
    """Returns the columns of a row about the runs that it counts."""
    runs = ledger.Ledger()
    for number, release in enumerate(releases):
        runs = ledger.add(runs, str(number), release.event)
    populations = [release.event.population for release in releases]
    known = [population for population in populations if population is not None]
    # With the population, a delta that is too large for it gives a warning.
    total = ledger.total(runs)._replace(population=min(known, default=None))
    # The server's side need not warn again.
    server = accounting.against_server(total._replace(population=None))
    names = dict.fromkeys(type(r.point.setup.data).__name__ for r in releases)
    return {
        "dataset": " = ".join(names),
        "privacy_unit": promise[0],
        "neighboring_relation": promise[1],
        "delta": delta,
        "runs": len(releases),
        "epsilon_rdp": accounting.epsilon(total, delta),
        "epsilon_server": accounting.epsilon(server, delta),
        "same_release": sum(release.points - 1 for release in releases),
    }


def _left_out(
    releases: _Releases,
    private: Mapping[tuple[str, int], Point],
    unprotected: Sequence[Point],
) -> dict[str, int]:
    """Returns the numbers of runs that a row does not count, and that use rows of its
    people.
    """
    own = {which[:2] for which in releases}
    counted = [one.point.setup for one in releases.values()]
    counted = [*{_data(facts_of(one), ""): one for one in counted}.values()]

    def looks(point: Point) -> tuple[bool, bool]:
        """Returns whether a point trains on some of the rows, and holds some out."""
        both = [in_common(one, point.setup) for one in counted]
        return any(common.trained for common in both), any(
            common.held_out for common in both
        )

    return {
        "elsewhere": sum(
            looks(point)[0] for which, point in private.items() if which not in own
        ),
        "unprotected": sum(any(looks(point)) for point in unprotected)
        + sum(looks(point)[1] for point in private.values()),
    }
