"""What a table says of every row, beside what was swept and what came out.

Derived here alone, from a run's setup, its algorithm and its record: no experiment
tells it again. What cannot be known of a setup of one's own is empty.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ppml_lab import arguments
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
    """What a table says of a finished run, by column; None where it is not known.

    `lab.run_experiment` puts these into every row, with `experiment` before them.

    Returns:
      dataset, model: The parts' classes, with their fields that are no defaults.
      data_digest: Of the examples that are trained, in any order and whoever owns them,
        and of the rows that they are judged by.
      pattern: "federated", "central", "on shares", or what a setup of one's own calls
        itself by an attribute `pattern`; its class otherwise.
      privacy_unit, neighboring_relation: What is promised to whom.
      trust: Who has to be honest, see `base.PrivacyMechanism`.
      epsilon_public, epsilon_server, delta, accountant: See `lab.statement`, which all
        further columns of the guarantee are from.
      adversary: Against whom the budget, a `target_epsilon`, is: always "public", who
        sees the released models.
      metric: What the run is judged by: the schedule's metric if it has one of that
        name, else the only one there is beside the loss.
      seed: Of the run.
      num_clients: Who own the examples.
      cohort, dropout_prob: Clients that a round is expected to begin with, and each
        one's chance not to report.
      num_rounds: That its epsilon is of; a run may end before.
      protocol_rounds: Rounds of messages, in one of training, that wait for each other.
      uplink_bytes, downlink_bytes: What a client, or the busiest of computing parties,
        sends and receives in a round of training.
      lan_seconds, wan_seconds: How long these take on `smpc.network`'s links, the
        servers' as if they were infinitely fast: a round trip for each protocol round
        with clients, half of one for others, and the busier direction's bytes.
      compute_seconds: Of a round of training on this machine, wall, without
        compilation, divided among the runs that went at once.
      measured_or_projected: "measured"; an experiment's own rows may be "projected".
      command: What makes it again, for a shell.
      commit: At which the run was made, "-dirty" behind it if there were changes.
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
"""Then what else is in a guarantee."""


def completed(
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    *,
    experiment: str,
    command: str | None,
) -> list[dict[str, Any]]:
    """An experiment's rows, with the columns that they do not have themselves.

    A row is of the runs whose labels it has: of one, of several (a mean over seeds, in
    whose columns is what all of them agree on), or of all.

    Args:
      rows: Of the experiment.
      results: Of which they were made.
      experiment: Its name, the first of the columns.
      command: What makes it again.
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
    if "seed" not in row:  # which is the last of the labels
        labels["seed"] = whole["seed"]
        return labels | dict(row) | whole | dict(row)
    return dict(row) | whole | dict(row)


def _agreed(name: str, said: list[dict[str, Any]]) -> Any:
    """What all runs say, None where they differ; of what is measured the mean."""
    values = [columns[name] for columns in said]
    if name == "compute_seconds" and None not in values:
        return sum(values) / len(values)
    return values[0] if all(value == values[0] for value in values) else None


@functools.lru_cache(maxsize=1024)
def _of_setup(setup: Any) -> dict[str, Any]:
    """What a setup and its algorithm say, which the seeds of a sweep share."""
    algorithm, facts, event = built(setup), facts_of(setup), whole_run(setup)
    trust = algorithm.trust
    if event.privacy_unit is None:
        trust = None
    elif trust is None and events.made_by_clients(event.event):
        trust = "local"
    data = facts.digests and digest(facts.digests.examples, facts.judged_by)[:16]
    return {
        "dataset": in_words(setup.data) or type(setup.data).__name__,
        "data_digest": data,
        "model": in_words(getattr(setup, "model", None)),
        "pattern": in_words(getattr(setup, "pattern", None)) or type(setup).__name__,
        "trust": trust,
        "num_clients": facts.num_clients,
        "cohort": _number(algorithm.expected_cohort),
        "dropout_prob": _number(algorithm.dropout_prob),
        "num_rounds": setup.schedule.num_rounds,
        **_messages(algorithm.cost()),
    }


def _messages(cost: Any) -> dict[str, Any]:
    """What is sent in a round of training, and how long that takes."""
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


def in_words(held: Any) -> str | None:
    """A part by its class and those of its fields that are no defaults, a function by
    where it is from, a text as it is; None for anything else.
    """
    if inspect.isroutine(held):
        return f"{held.__module__}.{held.__qualname__}"
    if not is_part(held):
        return held if isinstance(held, str) else None
    given = [
        f"{field.name}={_shown(getattr(held, field.name))}"
        for field in dataclasses.fields(held)
        if getattr(held, field.name) != _default(field)
    ]
    name = type(held).__name__
    return f"{name}({', '.join(given)})" if given else name


def _default(field: Any) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    words = None if isinstance(value, str) else in_words(value)
    return repr(value) if words is None else words


def _metric(result: Result) -> str | None:
    """What a run is judged by."""
    wanted = result.point.setup.schedule.metric
    if wanted in result.outcome.last:
        return wanted
    judged = _stamp(result).get("metrics", [])
    beside = ("client_", "validation_")
    others = [n for n in judged if n != "loss" and not n.startswith(beside)]
    return others[0] if len(others) == 1 else None


def _compute_seconds(result: Result) -> float | None:
    """Seconds of a round, of those that there were."""
    outcome = result.outcome
    if "seconds" not in outcome.last:
        return None
    return outcome.last["seconds"] / len(outcome.history("round"))


def _commit(result: Result) -> str | None:
    stamp = _stamp(result)
    commit = stamp.get("git_commit")
    return f"{commit}-dirty" if commit and stamp.get("git_dirty") else commit


def _stamp(result: Result) -> dict[str, Any]:
    """Where a run came from; nothing where that is not recorded."""
    path = result.outcome.folder / "provenance.json"
    return records.read_json(path) if path.exists() else {}
