"""What it means that a setting qualifies: the page's filters, in Python.

A setting qualifies if it satisfies every filter that is set. A filter on what a
setting's table does not say, such as bytes, is not satisfied. The page computes the
same in JavaScript, and tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from ppml_lab import checks, tables
from ppml_lab.federated import evaluation
from ppml_lab.lab.explorer.view import Setting
from ppml_lab.tables import Value


class Filter(NamedTuple):
    """A filter of the page."""

    name: str
    """Its name in links, and the fact of a setting that it looks at, see `facts`."""
    kind: Literal["is", "at_most", "at_least"]
    label: str
    help: str = ""


FILTERS = (
    Filter("dataset", "is", "Data set"),
    Filter("metric", "is", "Metric"),
    Filter("privacy_unit", "is", "Unit of privacy", "whose data the promise covers"),
    Filter(
        "neighboring_relation",
        "is",
        "Neighbouring data",
        "how two data sets differ that are to look alike",
    ),
    Filter("adversary", "is", "Adversary", "against whom the promise holds"),
    Filter(
        "server",
        "is",
        "Trusted server",
        "needed where noise is central; settings that promise nothing are neither",
    ),
    Filter("dropouts", "is", "Drop-outs", "clients that begin a round and vanish"),
    Filter("epsilon", "at_most", "Epsilon at most", "empty: any, or no promise at all"),
    Filter("score", "at_least", "Metric at least", "for a loss or an error: at most"),
    Filter("upload_mb", "at_most", "Upload at most, MB", "a client's, in a whole run"),
    Filter(
        "wan_seconds",
        "at_most",
        "Wide-area seconds at most",
        "of a run's messages, computed for the links of smpc.network",
    ),
    Filter("clients", "at_least", "Clients at least"),
)
"""The page's filters, in their order there."""

CHOICES = tuple(each.name for each in FILTERS if each.kind == "is")
"""Names of the filters that choose one of a few words."""
ALIKE = ("dataset", "metric", "privacy_unit", "neighboring_relation", "adversary")
"""Facts in which two settings must agree to share an axis, or to be compared."""
NO_SERVER = ("local", "distributed", "shuffler")
"""Values of a setting's `trust` under which no server has to be trusted."""

Chosen = Mapping[str, Value]
"""Filters that are set: names and values; none where nothing is chosen."""


def facts(setting: Setting) -> dict[str, str | float | None]:
    """What the filters look at, by their names; None where a table does not say."""

    def text(cell: Value) -> str | None:
        return None if cell is None else str(cell)

    def number(cell: Value) -> float | None:
        return float(cell or 0) if tables.is_number(cell) else None

    dropout, upload = number(setting.dropout_prob), setting.upload_bytes
    server = {"central": "needed"} | dict.fromkeys(NO_SERVER, "not needed")
    return {
        "dataset": text(setting.dataset),
        "metric": text(setting.metric),
        "privacy_unit": text(setting.privacy_unit),
        "neighboring_relation": text(setting.neighboring_relation),
        "adversary": text(setting.adversary),
        "server": server.get(str(setting.trust)),
        "dropouts": None if dropout is None else "some" if dropout > 0 else "none",
        "epsilon": setting.epsilon,
        "score": setting.mean,
        "upload_mb": None if upload is None else upload / 1e6,
        "wan_seconds": setting.wan_seconds,
        "clients": number(setting.num_clients),
    }


def is_higher_better(metric: str | float | None) -> bool | None:
    """Returns whether more of a metric is better; None where its name does not say."""
    return evaluation.says_higher_is_better(metric) if isinstance(metric, str) else None


def broken(setting: Setting, chosen: Chosen) -> dict[str, float]:
    """Returns the filters that a setting does not satisfy, and by how much.

    The excess of a number is its distance to the limit, divided by the limit unless
    that is 0; it is infinite for a wrong word, for infinity and for what is not said.

    Raises:
      ValueError: If there is no such filter, or a limit is no finite number.
    """
    return _broken(facts(setting), _checked(chosen))


def _broken(
    own: Mapping[str, str | float | None], checked: Mapping[str, str | float]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, wanted in checked.items():
        has = own[name]
        if isinstance(wanted, str):
            if has != wanted:
                found[name] = math.inf
            continue
        if not isinstance(has, float | int):
            found[name] = math.inf
            continue
        least = _KINDS[name] == "at_least"
        if name == "score" and is_higher_better(own["metric"]) is False:
            least = False
        if not (has >= wanted if least else has <= wanted):
            found[name] = abs(has - wanted) / (abs(wanted) or 1.0)
    return found


_KINDS = {each.name: each.kind for each in FILTERS}


def _checked(chosen: Chosen) -> dict[str, str | float]:
    """Returns the filters that are set, in the order of `FILTERS`."""
    for name in chosen:
        checks.known("filter", name, [*_KINDS])
    found: dict[str, str | float] = {}
    for name, kind in _KINDS.items():
        cell = chosen.get(name)
        if cell is None:
            continue
        if kind == "is":
            found[name] = str(cell)
        elif tables.is_finite(cell):
            found[name] = float(cell)
        else:
            raise ValueError(f"filter {name} must be a finite number, got {cell!r}")
    return found


def qualifying(settings: Sequence[Setting], chosen: Chosen) -> list[int]:
    """Returns the places of the settings that satisfy all filters.

    Raises:
      ValueError: If there is no such filter, or a limit is no finite number.
    """
    checked = _checked(chosen)
    return [i for i, one in enumerate(settings) if not _broken(facts(one), checked)]


def nearest(settings: Sequence[Setting], chosen: Chosen) -> int:
    """Returns the place of the setting that is nearest to the filters: it breaks the
    fewest, and of these has the smallest sum of excesses, see `broken`; the first where
    several do.

    Raises:
      ValueError: If there are no settings, no such filter, or a limit is no finite
        number.
    """
    if not settings:
        raise ValueError("settings must be at least one, got none")
    checked = _checked(chosen)
    each = [_broken(facts(one), checked) for one in settings]
    return min(range(len(each)), key=lambda i: (len(each[i]), sum(each[i].values()), i))


def pareto(settings: Sequence[Setting], among: Iterable[int]) -> set[int]:
    """Returns the places of settings than which none is better.

    One is better if it is nowhere worse and somewhere better: in the metric, epsilon,
    upload and wide-area seconds. A value that a table does not say counts as the worst.
    Settings are compared with those that are `ALIKE`, and measured ones with measured
    ones alone. Settings without a metric, or with one of which the name does not say
    whether more is better, are none of them.

    Args:
      settings: The settings of a view.
      among: Places of those that are compared, such as those that qualify.
    """
    alike: dict[tuple[str | float | bool | None, ...], list[tuple[float, ...]]] = {}
    for place in among:
        own = facts(settings[place])
        score, higher = own["score"], is_higher_better(own["metric"])
        if score is None or higher is None:
            continue
        rest = (own["epsilon"], own["upload_mb"], own["wan_seconds"])
        less = tuple(math.inf if cell is None else float(cell) for cell in rest)
        cost = (-float(score) if higher else float(score), *less)
        key = (*(own[name] for name in ALIKE), settings[place].is_projected)
        alike.setdefault(key, []).append((*cost, place))
    return {place for costs in alike.values() for place in _front(costs)}


def _front(costs: list[tuple[float, ...]]) -> list[int]:
    """Returns the last numbers of those that no other is at most in all numbers before,
    and less in one.
    """
    front: list[tuple[float, ...]] = []
    for *numbers, place in sorted(costs):
        cost = tuple(numbers)
        # Whoever is better than this one comes before it.
        if not any(_is_at_most(one[:-1], cost) and one[:-1] != cost for one in front):
            front.append((*cost, place))
    return [int(one[-1]) for one in front]


def _is_at_most(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
