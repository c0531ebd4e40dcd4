"""One ledger of everything that a run releases about its data.

A run may mix mechanisms: model updates, metrics, an adaptive clip norm, example-level
noise inside client-level noise, or the runs of a sweep. Each is a named entry. Entries
that promise the same thing (the same privacy unit under the same neighbouring relation)
add up; others are reported side by side, because no sum of them means anything. An
event's promises to other units (`PrivacyEvent.beside`) become entries of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

from ppml_lab import arguments, checks
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accountants, accounting, events


class Entry(NamedTuple):
    """A named release, and its cost in the whole run."""

    name: str
    event: PrivacyEvent


class Ledger(NamedTuple):
    """Entries in the order in which they were added; `Ledger()` is empty."""

    entries: tuple[Entry, ...] = ()


class Promise(NamedTuple):
    """An event's privacy unit and neighbouring relation; unit None promises nothing."""

    privacy_unit: str | None
    neighboring_relation: str


class MixedPromisesError(ValueError):
    """Raised where entries with different promises are to be added up."""


@arguments.checked
def add(
    ledger: Ledger,
    name: str,
    privacy_event: PrivacyEvent,
    times: SupportsInt = 1,
) -> Ledger:
    """Returns the ledger with one more entry; the given ledger is unchanged.

    Args:
      ledger: The ledger to extend.
      name: The name of the release; new in this ledger.
      privacy_event: The cost of one release; events beside it become entries named
        "NAME (UNIT)".
      times: How often the release happens in the run, at least 1.

    Raises:
      events.UnsupportedEventError: If no accountant has a bound for the event.
      ValueError: If the name is empty or taken, or a number of the event is bad.
    """
    if not name or name in {entry.name for entry in ledger.entries}:
        taken = ", ".join(repr(entry.name) for entry in ledger.entries) or "none"
        raise ValueError(
            f"name must be new and not empty, got {name!r}; names in use: {taken}"
        )
    checks.at_least("times", times, 1)
    accountants.flat(privacy_event, "rdp")
    first, *others = each(privacy_event)
    composed = events.compose(first.event, times)
    entry = Entry(name, first._replace(event=composed))
    ledger = Ledger((*ledger.entries, entry))
    for other in others:
        ledger = add(ledger, f"{name} ({other.privacy_unit})", other, times)
    return ledger


def each(privacy_event: PrivacyEvent) -> list[PrivacyEvent]:
    """An event's own promise, then the promises that stand beside it, each alone."""
    others = [part for other in privacy_event.beside for part in each(other)]
    return [privacy_event._replace(beside=()), *others]


@arguments.checked
def by_promise(ledger: Ledger) -> dict[Promise, Ledger]:
    """Groups the entries into ledgers of equal promise, in order of appearance.

    Each of these ledgers can be added up.
    """
    groups: dict[Promise, Ledger] = {}
    for entry in ledger.entries:
        promise = _promise(entry)
        earlier = groups.get(promise, Ledger()).entries
        groups[promise] = Ledger((*earlier, entry))
    return groups


@arguments.checked
def total(ledger: Ledger) -> PrivacyEvent:
    """All entries as one event, for `accounting.epsilon` and the curves.

    **Guarantee:** adaptive composition: whoever sees all the releases learns what the
    event allows, even if a release depended on earlier ones. The entries' parameters
    must not depend on the data, and their randomness is independent. The population is
    the smallest of the entries', so that a large delta is warned of.

    Raises:
      MixedPromisesError: If entries differ in privacy unit or neighbouring relation;
        the message says which.
      ValueError: If the ledger is empty.
    """
    import dp_accounting

    if not ledger.entries:
        raise ValueError("the ledger has no entries; add the run's releases")
    groups = by_promise(ledger)
    if len(groups) > 1:
        parts = "; ".join(
            f"{', '.join(repr(entry.name) for entry in group.entries)} promise"
            f" ({promise.privacy_unit}, {promise.neighboring_relation})"
            for promise, group in groups.items()
        )
        raise MixedPromisesError(
            f"entries with different promises do not add up: {parts}; `report` lists "
            "them side by side, and `by_promise` groups them"
        )
    (promise,) = groups
    composed = dp_accounting.ComposedDpEvent(
        [entry.event.event for entry in ledger.entries]
    )
    known = [entry.event.population for entry in ledger.entries]
    return PrivacyEvent(
        composed,
        promise.neighboring_relation,
        promise.privacy_unit,
        min((number for number in known if number is not None), default=None),
    )


@arguments.checked
def report(
    ledger: Ledger, delta: SupportsFloat | Mapping[str, SupportsFloat]
) -> dict[str, list[dict[str, Any]]]:
    """The cost of a run: every entry alone, and the total of every promise.

    **Guarantee:** each total covers the releases that it names, and nothing else. It is
    the run's cost for its privacy unit only if everything that the run releases is
    among them or is made from them. Totals of different promises do not add up: an
    example-level one says nothing about clients, and one whose privacy unit is None has
    an infinite epsilon.

    Args:
      ledger: Everything that the run releases.
      delta: In (0, 1); one for all, or one for each privacy unit by name.

    Returns:
      Lists of rows of plain Python values under "entries" and "totals": `name` (of an
      entry; of a total the list `names`), `privacy_unit`, `neighboring_relation`,
      `delta` (None where nothing is promised), `epsilon_rdp`, and `epsilon_pld`, None
      where there is no PLD, both against the public; `epsilon_public`, the epsilon that
      a budget means, and `accountant`, the name of the accountant that proves it;
      `epsilon_server`, against whoever runs the protocol; `cut`, the words on the
      noise's cut (`accounting.cut_note`). Entries have their `mechanisms` in words too.

    Raises:
      ValueError: If a delta is missing or out of range.
    """
    rows = [
        {
            "name": entry.name,
            **_cost(entry.event, delta),
            "mechanisms": in_words(entry.event),
        }
        for entry in ledger.entries
    ]
    totals = [
        {
            "names": [entry.name for entry in group.entries],
            **_cost(total(group), delta),
        }
        for group in by_promise(ledger).values()
    ]
    return {"entries": rows, "totals": totals}


def in_words(event: PrivacyEvent) -> list[str]:
    """The mechanisms of an event, counted: "50 x GaussianDpEvent(...)" and so on.

    The cut of the noise is left out: `accounting.cut_note` states it.
    """
    counted = events.flatten(event.event)
    return [
        f"{count} x {mechanism}"
        for mechanism, count in counted.items()
        if not (isinstance(mechanism, events.Failure) and mechanism.reason == "support")
    ]


@arguments.checked
def to_json(ledger: Ledger, delta: SupportsFloat | Mapping[str, SupportsFloat]) -> str:
    """`report` as strict JSON, which has no infinity: an infinite epsilon is "inf"."""
    parts = {
        part: [
            {name: "inf" if cell == math.inf else cell for name, cell in row.items()}
            for row in rows
        ]
        for part, rows in report(ledger, delta).items()
    }
    return json.dumps(parts, indent=1, allow_nan=False)


def _promise(entry: Entry) -> Promise:
    return Promise(entry.event.privacy_unit, entry.event.neighboring_relation)


def _cost(
    event: PrivacyEvent, delta: SupportsFloat | Mapping[str, SupportsFloat]
) -> dict[str, Any]:
    unit = event.privacy_unit
    row = {"privacy_unit": unit, "neighboring_relation": event.neighboring_relation}
    if unit is None:
        infinite = ("epsilon_rdp", "epsilon_pld", "epsilon_public", "epsilon_server")
        nothing = {"delta": None, "accountant": None, "cut": ""}
        return row | nothing | dict.fromkeys(infinite, math.inf)
    if isinstance(delta, Mapping):
        if unit not in delta:
            raise ValueError(
                f"delta has no entry for privacy_unit '{unit}', only for "
                f"{', '.join(sorted(delta)) or 'nothing'}; add an entry"
            )
        delta = delta[unit]
    has_pld = accounting.supports(event, "pld")
    stated = accounting.stated(event, delta)
    return row | {
        "delta": events.to_float("delta", delta),
        "epsilon_rdp": accounting.epsilon(event, delta, "rdp"),
        "epsilon_pld": stated.epsilon if has_pld else None,
        "accountant": stated.accountant,
        "epsilon_public": stated.epsilon,
        "epsilon_server": accounting.epsilon_server(event, delta),
        "cut": accounting.cut_note(event, delta),
    }
