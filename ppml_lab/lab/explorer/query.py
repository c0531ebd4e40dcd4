"""Questions to the committed tables: one setting by name, and one of its numbers.

A query is written as `table: name=value, name=value -> field`. The table is an
experiment's name, with its configuration behind a slash if that is not "paper"; names
are the setting's labels or columns, and the field is a column of numbers or an
attack's name:

    private_training/mnist: method=shares -> mean

Values with a comma stand in quotes. A query that fits no setting, or several, is an
error that names them; a table that is not there is an error of its own type, since it
may be made later.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ppml_lab import tables
from ppml_lab.lab.explorer import prices, view
from ppml_lab.tables import Value

_NO_CELL = object()
_SHOWN = 4
"""The most settings that an error names."""
_PART = re.compile(r'\s*([\w ]+?)\s*=\s*("[^"]*"|[^,]*)\s*(?:,|$)')


class AbsentTableError(ValueError):
    """No table of this name is committed at this version."""


class Query(NamedTuple):
    """A setting by name, and which of its numbers is asked for."""

    table: str
    """An experiment, or an experiment and its configuration: "NAME/CONFIG"."""
    where: dict[str, Value]
    """Labels and columns with the values that only this setting has."""
    field: str
    """A column of numbers, or an attack's name."""

    def __str__(self) -> str:
        told = ", ".join(f"{name}={cell}" for name, cell in self.where.items())
        return f"{self.table}: {told} -> {self.field}"


class Source(NamedTuple):
    """Where a number comes from: a setting with its seeds and its commit."""

    experiment: str
    configuration: str
    cells: dict[str, Any]
    """All that the table says of the setting, by column."""
    seeds: int | None
    """The number of seeds; None where the table does not say."""
    commit: Value
    is_projected: bool
    is_price: bool = False
    """True for a row of `prices`, which is asked where no setting fits."""


class Number(NamedTuple):
    """A number with its source."""

    value: float
    source: Source


class Evidence(NamedTuple):
    """Everything that can be asked: the settings of the view, and prices."""

    sources: list[Source]

    @staticmethod
    def of(runs: view.View, priced: prices.Prices) -> Evidence:
        """The settings of a view, and the prices beside them."""
        found = [_of_setting(one) for one in runs.settings]
        found += [
            Source(
                one.experiment,
                one.configuration,
                one.cells,
                one.count if one.count > 1 else None,
                one.commit,
                False,
                is_price=True,
            )
            for one in priced.prices
        ]
        return Evidence(found)

    @staticmethod
    def committed() -> Evidence:
        """What is committed with the lab."""
        return Evidence.of(view.committed(), prices.committed())

    def number(self, query: Query) -> Number:
        """Returns the number that a query asks for.

        Raises:
          AbsentTableError: If no table of this name is there.
          ValueError: If no setting fits, or several, or the setting has no such number;
            names them.
        """
        experiment, _, configuration = query.table.partition("/")
        there = [
            one
            for one in self.sources
            if one.experiment == experiment
            and one.configuration == (configuration or "paper")
        ]
        if not there:
            raise AbsentTableError(
                f"no table of {query.table} is committed at this version"
            )
        there = [one for one in there if query.field in one.cells] or there
        fitting = there
        for name, cell in query.where.items():
            fitting = [s for s in fitting if s.cells.get(name, _NO_CELL) == cell]
        if not fitting:
            raise ValueError(f"{query}: no setting fits; {_nearest(there, query)}")
        fitting = [one for one in fitting if not one.is_price] or fitting
        if len(fitting) > 1:
            raise ValueError(
                f"{query}: {len(fitting)} settings fit, say which: "
                f"{_named(fitting, query.where)}"
            )
        (source,) = fitting
        value = source.cells.get(query.field)
        if not tables.is_number(value):
            raise ValueError(
                f"{query}: the setting has no number {query.field!r}; it has "
                + ", ".join(n for n, c in source.cells.items() if tables.is_number(c))
            )
        return Number(float(value or 0), source)


def parse(text: str, table: str | None = None) -> Query:
    """Reads a query.

    Args:
      text: The query; see this module's docstring.
      table: The table of a query that names none.

    Raises:
      ValueError: If the text is no query.
    """
    head, arrow, field = text.rpartition("->")
    name, colon, inner = head.partition(":")
    if not colon:
        name, inner = table or "", head
    where: dict[str, Value] = {}
    at = 0
    while inner[at:].strip():
        part = _PART.match(inner, at)
        if part is None:
            raise ValueError(f"{text!r}: {inner[at:].strip()!r} is not name=value")
        quoted = part[2].startswith('"')
        cell = part[2].strip()
        where[part[1]] = cell.strip('"') if quoted else tables.value(cell)
        at = part.end()
    if not (arrow and field.strip() and name.strip()):
        raise ValueError(f"{text!r} is not `table: name=value, ... -> field`")
    return Query(name.strip(), where, field.strip())


def _of_setting(setting: view.Setting) -> Source:
    cells: dict[str, Any] = {
        name: value
        for name, value in setting._asdict().items()
        if name not in ("experiment", "configuration", "labels", "attacks", "values")
    }
    # A label says what was asked for, such as a cohort, where both have the name.
    cells |= setting.labels | {"lower_bound": setting.lower_bound}
    cells |= {attack.name: attack.lower_bound for attack in setting.attacks}
    return Source(
        setting.experiment,
        setting.configuration,
        cells,
        setting.num_seeds,
        setting.commit,
        setting.is_projected,
    )


def _nearest(there: list[Source], query: Query) -> str:
    """Says which part of a query no setting fits, and what there is in its place."""
    left = there
    for name, cell in query.where.items():
        fitting = [one for one in left if one.cells.get(name, _NO_CELL) == cell]
        if not fitting:
            known = {str(one.cells[name]) for one in left if name in one.cells}
            if not known:
                names = sorted({n for one in left for n in one.cells})
                near = difflib.get_close_matches(name, names, 1)
                more = f"; did you mean {near[0]!r}" if near else ""
                return f"settings have no {name!r}{more}"
            return f"{name} is {cell!r} nowhere, but {' or '.join(sorted(known))}"
        left = fitting
    return "settings have each of these values, but none has all"


def _named(fitting: list[Source], where: dict[str, Value]) -> str:
    """Names settings by the cells in which they differ."""
    names = [
        name
        for name in fitting[0].cells
        if name not in where
        and len({str(one.cells.get(name)) for one in fitting}) > 1
        and not isinstance(fitting[0].cells[name], float)
    ]

    def told(one: Source) -> str:
        cells = ", ".join(f"{name}={one.cells.get(name)}" for name in names[:3])
        return f"({one.configuration}: {cells})"

    return _listed(map(told, fitting))


def _listed(each: Iterable[str]) -> str:
    every = [*each]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
