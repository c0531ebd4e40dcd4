"""The columns that a table has for every row, beside swept fields and results.

They are derived here alone, from a run's setup, its algorithm and its record: no
experiment repeats them. A cell is empty where a setup of your own does not say its
value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ppml_lab import arguments, shown
from ppml_lab.dp import events
from ppml_lab.lab.budget import whole_run
from ppml_lab.lab.building import built
from ppml_lab.lab.command import again
from ppml_lab.lab.disk import records
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.results import Result
from ppml_lab.lab.tree.fields import is_part
from ppml_lab.lab.tree.identity import digest
from ppml_lab.smpc import network


@arguments.checked
def columns(result: Result) -> dict[str, Any]:
    """Returns the columns of a results table for a finished run; None where not known.

    `lab.run_experiment` adds them to every row, with `experiment` before them.

    Returns:
      dataset, model: The parts' classes, with their fields that differ from defaults;
        for data with an attribute `title`, the title.
      data_digest: Digest of the examples that are trained, in any order and whoever
        owns them, and of the rows that judge the run.
      pattern: "federated", "central", "on shares", or a setup's own attribute
        `pattern`; the setup's class if it has none.
      privacy_unit, neighboring_relation: The unit that is protected, and the relation
        of neighbouring data.
      trust: Who has to be honest, see `base.PrivacyMechanism`.
      epsilon_public, epsilon_server, delta, accountant: See `lab.statement`, the source
        of all further columns of the guarantee.
      adversary: The adversary of the budget, a `target_epsilon`: always "public", who
        sees the released models.
      metric: The metric that judges the run: the schedule's metric if the run has it,
        else the only metric beside the loss.
      seed: The run's seed.
      num_clients: Number of clients who own the examples.
      cohort, dropout_prob: Expected number of clients that begin a round, and each
        client's probability not to report.
      num_rounds: Rounds that epsilon covers; a run may end before.
      protocol_rounds: Rounds of messages that wait for each other, in one round of
        training.
      uplink_bytes, downlink_bytes: Bytes that a client, or the busiest computing party,
        sends and receives in a round of training.
      lan_seconds, wan_seconds: Time of these messages on the links of `smpc.network`,
        as if the servers' links were infinitely fast: a round trip for each protocol
        round with clients, half a round trip for others, and the bytes of the busier
        direction.
      compute_seconds: Wall time of a round of training on this machine, without
        compilation, divided among the runs that ran at once.
      measured_or_projected: "measured"; an experiment's own rows may be "projected".
      command: The shell command that makes the run again.
      commit: The commit at which the run was made, with "-dirty" if there were changes.
    """
    point, setup = result.point, result.point.setup
    found = _of_setup(setup) | result.guarantee
    found |= {
        "adversary": "public",
        "metric": _metric(result),
        "seed": point.seed,
        "compute_seconds": _compute_seconds(result),
        "measured_or_projected": "measured",
        "command": again(),
        "commit": _commit(result),
    }
    ordered = [name for name in _ORDER if name in found]
    return {name: found[name] for name in [*ordered, *found]}


_ORDER = (
    *("dataset", "data_digest", "model", "pattern"),
    *("privacy_unit", "neighboring_relation", "trust"),
    *("epsilon_public", "epsilon_server", "adversary", "delta", "accountant"),
    *("metric", "seed", "num_clients", "cohort", "dropout_prob", "num_rounds"),
    *("protocol_rounds", "uplink_bytes", "downlink_bytes"),
    *("lan_seconds", "wan_seconds", "compute_seconds"),
    *("measured_or_projected", "command", "commit"),
)
"""The order of columns; other columns of a guarantee follow."""


def completed(
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    *,
    experiment: str,
    command: str | None,
) -> list[dict[str, Any]]:
    """Returns an experiment's rows, completed by the lab's columns that they lack.

    A row belongs to the runs that have its labels: one run, several (such as a mean
    over seeds; its columns hold what all of these runs agree on), or all.

    Args:
      rows: The experiment's rows.
      results: The results from which the rows were made.
      experiment: The experiment's name, the first column.
      command: The shell command that makes the table again.
    """
    first, last = {"experiment": experiment}, {"command": command}
    said = [first | columns(result) | last for result in results]
    return [_completed(row, results, said) for row in rows]


def _completed(
    row: Mapping[str, Any], results: Sequence[Result], said: list[dict[str, Any]]
) -> dict[str, Any]:
    own = [
        columns
        for result, columns in zip(results, said, strict=True)
        if all(row[k] == v for k, v in result.point.labels.items() if k in row)
    ]
    whole = {name: _agreed(name, own or said) for name in said[0]}
    labels = {k: row[k] for k in row if k in results[0].point.labels}
    if "seed" not in row:  # the seed is the last label
        labels["seed"] = whole["seed"]
        return labels | dict(row) | whole | dict(row)
    return dict(row) | whole | dict(row)


def _agreed(name: str, said: list[dict[str, Any]]) -> Any:
    """Returns the value that all runs share, or None; the mean for measured seconds."""
    values = [columns[name] for columns in said]
    if name == "compute_seconds" and None not in values:
        return sum(values) / len(values)
    return values[0] if all(value == values[0] for value in values) else None


@functools.lru_cache(maxsize=1024)
def _of_setup(setup: Any) -> dict[str, Any]:
    """Returns the columns from a setup and its algorithm, which seeds share."""
    algorithm, facts, event = built(setup), facts_of(setup), whole_run(setup)
    trust = algorithm.trust
    if event.privacy_unit is None:
        trust = None
    elif trust is None and events.made_by_clients(event.event):
        trust = "local"
    data = facts.digests and digest(facts.digests.examples, facts.judged_by)[:16]
    return {
        "dataset": title_of(setup.data),
        "data_digest": data,
        "model": _words(getattr(setup, "model", None)),
        "pattern": _words(getattr(setup, "pattern", None)) or type(setup).__name__,
        "trust": trust,
        "num_clients": facts.num_clients,
        "cohort": _number(algorithm.expected_cohort),
        "dropout_prob": _number(algorithm.dropout_prob),
        "num_rounds": setup.schedule.num_rounds,
        **_messages(algorithm.cost()),
    }


def _messages(cost: Any) -> dict[str, Any]:
    """Returns the columns of the messages in a round of training, and their time."""
    if cost is None:
        names = ("protocol_rounds", "uplink_bytes", "downlink_bytes")
        return dict.fromkeys((*names, "lan_seconds", "wan_seconds"))

    def seconds(links: network.Network) -> float:
        return network.seconds(
            8 * max(cost.uplink_bytes, cost.downlink_bytes),
            links,
            exchanges=cost.exchanges,
            round_trips=cost.rounds - cost.exchanges,
        )

    return {
        "protocol_rounds": cost.rounds,
        "uplink_bytes": cost.uplink_bytes,
        "downlink_bytes": cost.downlink_bytes,
        "lan_seconds": seconds(network.LAN),
        "wan_seconds": seconds(network.WAN),
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def title_of(held: Any) -> str:
    """Returns a data part's title, or its class and fields."""
    title = getattr(held, "title", None)
    return title if isinstance(title, str) else _words(held) or type(held).__name__


def _words(held: Any) -> str | None:
    """Returns a text: a part's class with the fields that differ from defaults, a
    function's import path, or a text itself; None for anything else.
    """
    if inspect.isroutine(held):
        return f"{held.__module__}.{held.__qualname__}"
    if not is_part(held):
        return held if isinstance(held, str) else None
    given = [f"{name}={_shown(value)}" for name, value in shown.changed(held)]
    name = type(held).__name__
    return f"{name}({', '.join(given)})" if given else name


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    words = None if isinstance(value, str) else _words(value)
    return repr(value) if words is None else words


def _metric(result: Result) -> str | None:
    """Returns the name of the metric that judges a run."""
    wanted = result.point.setup.schedule.metric
    if wanted in result.outcome.last:
        return wanted
    judged = _stamp(result).get("metrics", [])
    beside = ("client_", "validation_")
    others = [n for n in judged if n != "loss" and not n.startswith(beside)]
    return others[0] if len(others) == 1 else None


def _compute_seconds(result: Result) -> float | None:
    """Returns the mean seconds of the rounds that ran."""
    outcome = result.outcome
    if "seconds" not in outcome.last:
        return None
    return outcome.last["seconds"] / len(outcome.history("round"))


def _commit(result: Result) -> str | None:
    stamp = _stamp(result)
    commit = stamp.get("git_commit")
    return f"{commit}-dirty" if commit and stamp.get("git_dirty") else commit


def _stamp(result: Result) -> dict[str, Any]:
    """Returns a run's provenance; empty where none is recorded."""
    path = result.outcome.folder / "provenance.json"
    return records.read_json(path) if path.exists() else {}
