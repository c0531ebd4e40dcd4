"""What the runs of a sweep cost together: they look at the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppml_lab import arguments
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.budget import whole_run
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.results import Point
from ppml_lab.lab.setup import Facts


class _Release(NamedTuple):
    """The longest run of one key, and how many points are it or its beginning."""

    point: Point
    event: PrivacyEvent
    points: int


class _Group(NamedTuple):
    """Whose privacy releases cost: which data, which units of them, which change."""

    data: str
    privacy_unit: str
    neighboring_relation: str


@arguments.checked
def cost_together(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The epsilon of releasing every private run, for each data set and promise.

    Who chooses a setting by the runs' results has looked at all of them. Runs without
    noise promise nothing and are left out, so the cost is that of a choice among the
    others. `dp.selection` says how a choice may cost less.

    Data are the same if their examples are, in whatever order (for clients' privacy:
    if the clients are, with their examples), whatever a configuration calls them.

    **Guarantee:** adaptive composition, by RDP, of the `runs` that a row counts. Their
    randomness is independent, for no two of them have the same key
    (`identity.key_identity`): points with the same key are one release, of which the
    longest run is counted. It says nothing about runs that are `unprotected`.

    Returns:
      Rows of `dataset`, `privacy_unit`, `neighboring_relation`, `delta` (the smallest
      that a point asks for), `runs`, `epsilon_rdp` (against those who see the released
      models) and `epsilon_server` (against whoever runs the protocol, by RDP too, see
      `accounting.against_server`); and what is left out of them:
      `same_release`, points that are a counted run once more or the beginning of one,
      and `unprotected`, points that train on the same examples and promise nothing.
    """
    groups: dict[_Group, dict[tuple[str, int, int], _Release]] = {}
    unprotected: dict[str, int] = {}
    for point in points:
        facts = facts_of(point.setup)
        whole = whole_run(point.setup)
        protects = False
        # What it promises to other units adds up among runs that promise the same.
        for number, event in enumerate(ledger.each(whole)):
            group = _group(event, facts)
            if group is not None:
                protects = True
                releases = groups.setdefault(group, {})
                which = (point.key, point.seed, number)
                releases[which] = _longest(releases.get(which), point, event)
        if not protects:
            data = _examples(facts)
            unprotected[data] = unprotected.get(data, 0) + 1
    rows = []
    for group, releases in groups.items():
        deltas = [r.point.delta for r in releases.values() if r.point.delta is not None]
        if deltas:
            rows.append(_row(group, [*releases.values()], min(deltas), unprotected))
    return rows


def _group(event: PrivacyEvent, facts: Facts) -> _Group | None:
    """Where a run's cost belongs; None if it protects nothing."""
    unit = event.privacy_unit
    if unit is None or not np.isfinite(accounting.rdp_curve(event).values).any():
        return None
    assert facts.digests is not None
    # Another partition has other clients, but the same examples.
    data = facts.digests.clients if unit == "client" else facts.digests.examples
    return _Group(data, unit, event.neighboring_relation)


def _examples(facts: Facts) -> str:
    assert facts.digests is not None
    return facts.digests.examples


def _longest(found: _Release | None, point: Point, event: PrivacyEvent) -> _Release:
    if found is None:
        return _Release(point, event, 1)
    deltas = [d for d in (found.point.delta, point.delta) if d is not None]
    longer = _rounds(point) > _rounds(found.point)
    kept = (point, event) if longer else (found.point, found.event)
    smallest = kept[0]._replace(delta=min(deltas, default=None))
    return _Release(smallest, kept[1], found.points + 1)


def _rounds(point: Point) -> int:
    return point.setup.schedule.num_rounds


def _row(
    group: _Group, releases: list[_Release], delta: float, unprotected: dict[str, int]
) -> dict[str, Any]:
    runs = ledger.Ledger()
    for number, release in enumerate(releases):
        runs = ledger.add(runs, str(number), release.event)
    populations = [release.event.population for release in releases]
    known = [population for population in populations if population is not None]
    # So that a delta too large for the population is warned of.
    total = ledger.total(runs)._replace(population=min(known, default=None))
    # Of which the server's side need not warn again.
    server = accounting.against_server(total._replace(population=None))
    first = releases[0].point.setup
    names = dict.fromkeys(type(r.point.setup.data).__name__ for r in releases)
    return {
        "dataset": " = ".join(names),
        "privacy_unit": group.privacy_unit,
        "neighboring_relation": group.neighboring_relation,
        "delta": delta,
        "runs": len(releases),
        "epsilon_rdp": accounting.epsilon(total, delta),
        "epsilon_server": accounting.epsilon(server, delta),
        "same_release": sum(release.points - 1 for release in releases),
        "unprotected": unprotected.get(_examples(facts_of(first)), 0),
    }
