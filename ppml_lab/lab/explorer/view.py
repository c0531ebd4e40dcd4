"""The tidy view of results tables: one record for each setting, with its seeds.

Tables that have the lab's columns (`lab.columns`) need nothing more. What else an
experiment's table needs is declared beside the experiment, as a literal:

    EXPLORED = {"value": "final_accuracy"}

or, where a table has no place here, as the reason in words. `Declared` lists the names.
The view of the committed tables is kept in `runs.json`, which the wheel carries, so
that no clone is needed; `python -m ppml_lab pages` writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ppml_lab import tables
from ppml_lab.tables import Row, Value

KEPT = Path(__file__).with_name("runs.json")
"""The view of the committed tables."""


class Declared(TypedDict, total=False):
    """What an experiment says about its tables in `EXPLORED`."""

    value: str
    """The column of the metric; by default that which the column `metric` names."""
    std: str
    """A column with the standard deviation over seeds, where rows are means already."""
    seeds: str
    """A column with the number of seeds, where rows are means already."""
    by: list[str]
    """The columns that tell settings apart; by default those before the seed."""
    names: dict[str, str]
    """The table's names for columns of the lab: `{"epsilon_public": "epsilon"}`."""
    constants: dict[str, Value | dict[str, dict[str, Value]]]
    """Columns of the lab that the table lacks, and what all its rows have in them, or
    what they have by another column: `{"training": {"pooled": "example"}}`."""
    words: dict[str, dict[str, Value]]
    """What cells of a column of the lab are called in the lab, where a table has other
    words: `{"dataset": {"mnist": "Mnist"}}`."""
    of_a_run: bool
    """True where bytes and seconds are of a whole run, not of a round."""
    attack: dict[str, Any]
    """For tables of attacks: columns of the attack's `name` (several are joined) and
    its `value`, and `where`, the values of columns that make a row a lower bound."""
    left_out: dict[str, str]
    """Beginnings of names of configurations without a place here, and why."""


class Attack(NamedTuple):
    """An attack on the runs of a setting."""

    name: str
    """The attack, its canary and its interval, as the table has them."""
    lower_bound: float
    """The largest lower bound on epsilon that it gave, at the table's confidence."""


class Setting(NamedTuple):
    """One setting of a table: rows that differ in the seed alone.

    None stands where a table does not say.
    """

    experiment: str
    configuration: str
    labels: dict[str, Value]
    """What the experiment varies: column and value."""
    dataset: Value
    model: Value
    pattern: Value
    privacy_unit: Value
    neighboring_relation: Value
    trust: Value
    adversary: Value
    epsilon: float
    """The promise to `adversary`; infinity where nothing is promised."""
    epsilon_server: Value
    delta: Value
    accountant: Value
    metric: Value
    values: list[float]
    """The metric of each seed; a single mean where the table has no more."""
    mean: float | None
    std: float | None
    num_seeds: int | None
    num_diverged: int
    """Seeds whose metric is not finite; they are in no mean."""
    num_clients: Value
    cohort: Value
    dropout_prob: Value
    num_rounds: Value
    upload_bytes: float | None
    """Bytes that a client in all rounds, or the busiest party, sends in a run."""
    download_bytes: float | None
    protocol_rounds: float | None
    """Rounds of messages that wait for each other, in a run."""
    lan_seconds: float | None
    wan_seconds: float | None
    """Seconds of a run's messages on `smpc.network`'s links."""
    compute_seconds: float | None
    """Seconds of a run's computation on the machine that made the table."""
    is_projected: bool
    """True where a row is computed for a larger population, and was not run."""
    attacks: list[Attack]
    command: Value
    commit: Value

    @property
    def lower_bound(self) -> float | None:
        """The largest lower bound on epsilon of its attacks; None without attacks."""
        return max((attack.lower_bound for attack in self.attacks), default=None)


class View(NamedTuple):
    """Settings of many tables, and what is missing."""

    settings: list[Setting]
    notes: list[str]
    """Tables that could not be read into the view, and why."""

    def to_json(self) -> str:
        """The view as text, one setting a line below what its table has in common."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for one in self.settings:
            key = (one.experiment, one.configuration)
            found.setdefault(key, []).append(_plain(one))
        each = []
        for its in found.values():
            common = {
                name: cell
                for name, cell in its[0].items()
                if all(name in one and one[name] == cell for one in its)
            }
            own = [{k: v for k, v in one.items() if k not in common} for one in its]
            lines = ",\n".join(map(_line, own))
            each.append(f'{{"common":{_line(common)},"settings":[\n{lines}\n]}}')
        tables = ",\n".join(each)
        return f'{{"tables":[\n{tables}\n],\n"notes":{json.dumps(self.notes)}}}\n'

    @staticmethod
    def of_json(text: str) -> View:
        """The view that `to_json` wrote."""
        found = json.loads(text)
        settings = [
            _setting(table["common"] | one)
            for table in found["tables"]
            for one in table["settings"]
        ]
        return View(settings, found["notes"])


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def committed() -> View:
    """The view of the tables that are committed with the lab."""
    return View.of_json(KEPT.read_text())


COLUMNS = (
    *("dataset", "model", "pattern", "privacy_unit", "neighboring_relation", "trust"),
    *("epsilon_public", "adversary", "metric", "command", "commit"),
)
"""The lab's columns without which a row is not comparable."""


def of_table(
    table: Sequence[Row],
    *,
    experiment: str,
    configuration: str,
    declared: Declared | None = None,
    made: Mapping[str, Value] | None = None,
) -> list[Setting]:
    """Returns the settings of a table.

    Args:
      table: Its rows.
      experiment: The experiment's name.
      configuration: The configuration that made the table.
      declared: What the experiment says of its tables; nothing if None.
      made: The `command` and `commit` that made the table, where its rows do not say.

    Raises:
      ValueError: If the table lacks columns; names them.
    """
    about: Declared = declared or {}
    names = about.get("names", {})
    constants = dict(made or {}) | about.get("constants", {})
    there = {*table[0], *constants, *names}
    lacking = [name for name in COLUMNS if name not in there]
    if lacking:
        raise ValueError(
            f"the table lacks {', '.join(lacking)}: make it again with this version of "
            "the lab, or declare EXPLORED in the experiment's file"
        )
    by = about.get("by") or _labels(table[0])
    words = about.get("words", {})
    rows = [
        {name: _constant(told, row) for name, told in constants.items()}
        | row
        | {ours: row[theirs] for ours, theirs in names.items()}
        for row in table
    ]
    rows = [
        row
        | {name: told.get(str(row[name]), row[name]) for name, told in words.items()}
        for row in rows
    ]
    found: dict[str, list[Row]] = {}
    apart = (*by, *(n for n in tables.TOLD_APART_BY if n in rows[0]))
    for row in rows:
        found.setdefault(json.dumps([row[name] for name in apart]), []).append(row)
    return [
        _of_rows(its, by, experiment, configuration, about) for its in found.values()
    ]


def _constant(told: Any, row: Row) -> Value:
    if not isinstance(told, dict):
        return told
    ((column, cells),) = told.items()
    return cells[str(row[column])]


def _labels(row: Row) -> list[str]:
    if tables.SEED not in row:
        raise ValueError(
            "the table has no column seed, before which its labels stand; declare "
            '"by" in EXPLORED'
        )
    return [*row][: [*row].index(tables.SEED)]


def _of_rows(
    rows: Sequence[Row],
    by: Sequence[str],
    experiment: str,
    configuration: str,
    about: Declared,
) -> Setting:
    first = rows[0]
    values, std, seeds, diverged = _metric(rows, about)
    epsilon = _epsilon(rows)
    times = 1.0 if about.get("of_a_run") else first.get("num_rounds")

    def total(name: str) -> float | None:
        each = _number(_agreed(rows, name))
        count = _number(times)
        return None if each is None or count is None else each * count

    compute = [_number(row.get("compute_seconds")) for row in rows]
    known = [seconds for seconds in compute if seconds is not None]
    count = _number(times)
    return Setting(
        experiment=experiment,
        configuration=configuration,
        labels={name: first[name] for name in by},
        **{
            name: _agreed(rows, name)
            if epsilon < math.inf or name not in _PROMISED
            else None
            for name in (
                *("dataset", "model", "pattern", "privacy_unit"),
                *("neighboring_relation", "trust", "adversary", "epsilon_server"),
                *("delta", "accountant", "metric", "num_clients", "cohort"),
                *("dropout_prob", "num_rounds", "command", "commit"),
            )
        },
        epsilon=epsilon,
        values=values,
        mean=sum(values) / len(values) if values else None,
        std=std,
        num_seeds=seeds,
        num_diverged=diverged,
        upload_bytes=total("uplink_bytes"),
        download_bytes=total("downlink_bytes"),
        protocol_rounds=total("protocol_rounds"),
        lan_seconds=total("lan_seconds"),
        wan_seconds=total("wan_seconds"),
        compute_seconds=(
            sum(known) / len(known) * count if known and count is not None else None
        ),
        is_projected=first.get("measured_or_projected") == "projected",
        attacks=_attacks(rows, about),
    )


def _metric(
    rows: Sequence[Row], about: Declared
) -> tuple[list[float], float | None, int | None, int]:
    """Returns the finite values, their standard deviation, the number of seeds, and the
    number of values that are not finite.
    """
    column = about.get("value") or rows[0].get("metric")
    cells = [_number(row.get(str(column)), finite=False) for row in rows]
    there = [cell for cell in cells if cell is not None]
    if not there:
        return [], None, None, 0
    values = [cell for cell in there if math.isfinite(cell)]
    told = about.get("std")
    if told is None:
        std = tables.mean(values).std if values else None
        return values, std, len(there), len(there) - len(values)
    std, seeds = _number(rows[0].get(told)), _number(rows[0].get(about["seeds"]))
    return values, std, None if seeds is None else int(seeds), len(there) - len(values)


def _attacks(rows: Sequence[Row], about: Declared) -> list[Attack]:
    """Returns the attacks of a table of attacks, each with its largest bound."""
    how = about.get("attack")
    if how is None:
        return []
    best: dict[str, float] = {}
    for row in rows:
        bound = _number(row.get(how["value"]))
        is_bound = all(row.get(k) == v for k, v in how.get("where", {}).items())
        if is_bound and bound is not None:
            name = ", ".join(str(row[part]) for part in how["name"])
            best[name] = max(bound, best.get(name, 0.0))
    return [Attack(name, bound) for name, bound in best.items()]


_PROMISED = ("privacy_unit", "neighboring_relation", "trust", "delta", "accountant")
"""Columns that describe a promise, and say nothing where there is none."""


def _epsilon(rows: Sequence[Row]) -> float:
    """Returns the largest promise to the public; infinity where a cell is empty, as
    nothing is promised there.
    """
    cells = [_number(row.get("epsilon_public"), finite=False) for row in rows]
    return max(math.inf if cell is None else cell for cell in cells)


def _agreed(rows: Sequence[Row], name: str) -> Value:
    """Returns what all rows have in a column; None where they differ, or have not."""
    cells = {json.dumps(row.get(name)) for row in rows}
    return rows[0].get(name) if len(cells) == 1 else None


def _number(cell: Value, *, finite: bool = True) -> float | None:
    if not tables.is_number(cell):
        return None
    number = float(cell or 0)
    return number if math.isfinite(number) or not finite else None


def _plain(setting: Setting) -> dict[str, Any]:
    """The setting for JSON, which has no infinity; fields that say nothing go."""
    fields = setting._asdict()
    fields["epsilon"] = _to_text(setting.epsilon)
    fields["epsilon_server"] = _to_text(setting.epsilon_server)
    fields["attacks"] = [[*attack] for attack in setting.attacks]
    fields["labels"] = {name: _to_text(cell) for name, cell in setting.labels.items()}
    fields |= {
        name: float(f"{cell:.6g}")
        for name, cell in fields.items()
        if isinstance(cell, float)
    }
    empty = (None, [], False)
    return {
        k: v for k, v in fields.items() if not any(v is e or v == e for e in empty[:2])
    }


def _to_text(cell: Value) -> Value:
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell


def _of_text(cell: Any) -> Any:
    return float(cell) if cell in ("inf", "-inf", "nan") else cell


def _setting(fields: Mapping[str, Any]) -> Setting:
    found: dict[str, Any] = dict.fromkeys(Setting._fields)
    found |= {"values": [], "attacks": [], "num_diverged": 0, "is_projected": False}
    found |= dict(fields)
    found["attacks"] = [Attack(*one) for one in found["attacks"]]
    found["labels"] = {k: _of_text(v) for k, v in (found["labels"] or {}).items()}
    for name in ("epsilon", "epsilon_server"):
        found[name] = _of_text(found[name])
    return Setting(**found)
