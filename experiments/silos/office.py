"""What a data office asks of the runs: costs of a whole training, and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.silos import patterns, splits
from experiments.silos.sources import Rows
from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.smpc import network, transcript

Row = dict[str, Any]
METRICS = ("accuracy", "auroc")


def interval(values: Sequence[float], test_over_train: float) -> tuple[float, float]:
    """Returns the 95% interval of a mean over re-splits of the same rows.

    Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 2003:
    splits share rows, so that the variance of their mean is about 1/n + test/train
    times that of one value, not 1/n. The interval is approximate.

    Args:
      values: One value for each of two or more splits.
      test_over_train: Test rows over train rows.
    """
    found, count = np.asarray(values, np.float64), len(values)
    spread = found.std(ddof=1) * math.sqrt(1 / count + test_over_train)
    half = float(special.stdtrit(count - 1, 0.975)) * float(spread)
    return float(found.mean()) - half, float(found.mean()) + half


def with_intervals(rows: Sequence[Row], test_over_train: float) -> list[Row]:
    """Adds each metric's interval over splits, and its paired differences to the pooled
    model and to the best silo alone, each with an interval. Rows of a silo alone also
    have `own_minus_pooled`: on the silo's own test rows, its model's accuracy minus
    that of the pooled model.

    The best silo is the one whose mean accuracy over the splits is greatest: chosen by
    the reported rows, so that it looks better than it is.
    """
    by_split: dict[tuple[str, Any], dict[int, Row]] = {}
    for row in rows:
        key = row["pattern"], row["target_epsilon"]
        by_split.setdefault(key, {})[row["seed"]] = row
    alone = [key for key in by_split if key[0].startswith(patterns.ALONE)]
    best = max(alone, key=lambda key: _mean(by_split[key], "accuracy"))
    pooled = next(key for key in by_split if key[0] == patterns.POOLED)
    told: dict[tuple[str, Any], Row] = {}
    for key, its in by_split.items():
        told[key] = {"best_alone": best[0].removeprefix(patterns.ALONE)}
        for metric in METRICS:
            own = {n: row[metric] for n, row in its.items()}
            told[key] |= _within_one(_ends(metric, own, test_over_train))
            for name, other in (("pooled", pooled), ("best_alone", best)):
                column = f"{metric}_minus_{name}"
                apart = {
                    n: None if value is None else value - by_split[other][n][metric]
                    for n, value in own.items()
                }
                told[key] |= _ends(column, apart, test_over_train)
                for number, row in its.items():
                    row[column] = apart[number]
        own = _own_minus_pooled(key[0], its, by_split[pooled])
        told[key] |= _ends("own_minus_pooled", own, test_over_train)
        for number, row in its.items():
            row["own_minus_pooled"] = own[number]
    return [row | told[row["pattern"], row["target_epsilon"]] for row in rows]


def in_words(rows: Sequence[Row]) -> str:
    """Returns a line for each pattern and epsilon: the mean accuracy, its interval, and
    for a silo alone what its own test rows lose or gain by the pooled model.
    """
    found: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        found.setdefault((row["pattern"], row["target_epsilon"]), []).append(row)
    lines = []
    for (pattern, epsilon), its in found.items():
        name = pattern if epsilon == math.inf else f"{pattern}, epsilon {epsilon:g}"
        mean = np.mean([row["accuracy"] for row in its])
        low, high = its[0]["accuracy_low"], its[0]["accuracy_high"]
        ends = "" if low is None else f" ({low:.3f} to {high:.3f})"
        own = [row["own_minus_pooled"] for row in its]
        gain = "" if None in own else f", own rows by pooling {-np.mean(own):+.3f}"
        lines.append(f"{name:<46} accuracy {mean:.3f}{ends}{gain}")
    return "\n".join(lines)


def column_at(silo: str) -> str:
    """Returns the column of the accuracy on a silo's own test rows."""
    return f"accuracy_at_{silo.replace(' ', '_')}"


def _own_minus_pooled(
    pattern: str, its: Mapping[int, Row], pooled: Mapping[int, Row]
) -> dict[int, float | None]:
    if not pattern.startswith(patterns.ALONE):
        return dict.fromkeys(its)
    column = column_at(pattern.removeprefix(patterns.ALONE))
    both = {n: (row[column], pooled[n][column]) for n, row in its.items()}
    # A silo may have nobody to test on.
    return {
        n: None if None in pair or math.isnan(pair[0]) else pair[0] - pair[1]
        for n, pair in both.items()
    }


def at_silos(rows: Rows, last: Mapping[str, Any]) -> Row:
    """Returns a run's accuracies on the silos' own test rows, by column."""
    return {
        column_at(name): last[patterns.at_silo(place)]
        for place, name in enumerate(rows.names)
    }


def _mean(its: Mapping[int, Row], metric: str) -> float:
    return float(np.mean([row[metric] for row in its.values()]))


def _within_one(ends: Row) -> Row:
    """Cuts the ends of an interval of a metric that lies in [0, 1]."""
    return {k: None if v is None else min(1.0, max(0.0, v)) for k, v in ends.items()}


def _ends(
    column: str, values: Mapping[int, float | None], test_over_train: float
) -> Row:
    known = [value for value in values.values() if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return {f"{column}_low": None, f"{column}_high": None}
    low, high = interval(known, test_over_train)
    return {f"{column}_low": low, f"{column}_high": high}


def untrained(
    rows: Rows, split: splits.Split, alone: Sequence[lab.Result]
) -> list[Row]:
    """Returns the rows of a split that are made of no training of their own: the
    majority class, and each silo's own model on its own test rows.
    """
    is_train = split.is_train()
    label = int(2 * rows.y[is_train].sum() > is_train.sum())
    test, is_label = rows.silo[~is_train], rows.y[~is_train] == label
    counts = np.bincount(test, minlength=len(rows.names))
    majority, own = {}, {}
    for place, run in enumerate(alone):
        majority[patterns.at_silo(place)] = (
            float(is_label[test == place].mean()) if counts[place] else math.nan
        )
        own[patterns.at_silo(place)] = run.outcome.last[patterns.at_silo(place)]
    right = [
        count * accuracy
        for count, accuracy in zip(counts, own.values(), strict=True)
        if count
    ]
    each = float(np.sum(right) / counts.sum())
    return [
        _row(patterns.MAJORITY, split, float(is_label.mean()), 0.5)
        | at_silos(rows, majority),
        _row(patterns.EACH_ALONE, split, each, None) | at_silos(rows, own),
    ]


def _row(pattern: str, split: splits.Split, accuracy: float, auroc: Any) -> Row:
    return {
        "pattern": pattern,
        "target_epsilon": math.inf,
        "seed": split.number,
        "accuracy": accuracy,
        "auroc": auroc,
    }


def costs(setup: Any, columns: Mapping[str, Any]) -> Row:
    """Returns what the busiest silo or party sends and receives in a whole training,
    how many messages wait for each other, and their seconds over a WAN.

    Pooling sends the largest silo's rows once, as 4 bytes a number. On shares, owners'
    sharing of their rows is counted, and so is what parties send each other beforehand.
    """
    if isinstance(setup, parts.OnShares):
        return _on_shares(setup)
    if columns["uplink_bytes"] is not None:
        rounds = setup.schedule.num_rounds
        return {
            "exchanges": rounds * columns["protocol_rounds"],
            "sent_bytes": rounds * columns["uplink_bytes"],
            "received_bytes": rounds * columns["downlink_bytes"],
            "total_wan_seconds": rounds * columns["wan_seconds"],
        }
    if isinstance(setup.data, splits.OneSilo):
        return _cost(0, 0, 0, 0.0)
    train, silos, _ = setup.data.load()
    largest = int(np.bincount(silos).max()) * (4 * train["x"].shape[1] + 4)
    seconds = network.seconds(8 * largest, network.WAN, exchanges=1, round_trips=0)
    return _cost(1, largest, 0, seconds)


def _cost(exchanges: int, sent: int, received: int, seconds: float) -> Row:
    return {
        "exchanges": exchanges,
        "sent_bytes": sent,
        "received_bytes": received,
        "total_wan_seconds": seconds,
    }


def _on_shares(setup: parts.OnShares) -> Row:
    facts = lab.facts_of(setup)
    training = setup.training(facts, setup.schedule.num_rounds)
    train, _, _ = setup.data.load()
    rows = setup.shared({name: train[name] for name in ("x", "y")})
    start = jnp.zeros(rows["x"].shape[1])
    sent = transcript.priced(
        training.train, jax.random.key(0), start, {"all owners": rows}
    )
    parties = range(setup.num_parties)
    return _cost(
        sent.num_rounds(),
        max(-(-sent.sent_bits(party) // 8) for party in parties),
        max(-(-sent.received_bits(party) // 8) for party in parties),
        sent.seconds(network.WAN),
    )
