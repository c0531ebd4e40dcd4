"""What a pattern would cost for the user's own numbers, computed and not measured.

Noise is calibrated as `ppml_lab calibrate` does it; bytes, rounds and seconds are
closed forms of `smpc.cost`, or those of the part that would run. Links are the WAN of
`smpc.network`; a server's own link counts as fast, as in results tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from ppml_lab.lab.advice.leaf import delta_of
from ppml_lab.lab.advice.questions import Numbers
from ppml_lab.lab.advice.template import in_bytes, number

BATCH = 256
"""Expected rows of a step of example-level DP."""
SERVERS = 3
"""Servers among whom shares are divided."""
INPUT_BITS = 16
"""Bits of a coordinate before a secure sum."""


class Computed(NamedTuple):
    """A number that was computed for the user's own numbers."""

    what: str
    value: float
    shown: str
    how: str
    """The assumptions."""


class Kind(NamedTuple):
    """Something that can be computed, and the numbers that it needs."""

    needs: tuple[str, ...]
    of: Callable[[Numbers], list[Computed]]


def all_of(kinds: tuple[str, ...], numbers: Numbers) -> tuple[list[Computed], str]:
    """Returns what can be computed, and which flags are missing for the rest."""
    found: list[Computed] = []
    lacking: list[str] = []
    for name in kinds:
        kind = KINDS[name]
        missing = [one for one in kind.needs if getattr(numbers, one) is None]
        lacking += missing
        if not missing:
            found += kind.of(numbers)
    told = " ".join(f"--{name}" for name in dict.fromkeys(lacking))
    return found, told


@functools.lru_cache(maxsize=256)
def multiplier(
    prob: float, rounds: int, epsilon: float, delta: float, *, local: bool = False
) -> float:
    """The noise multiplier for epsilon, by PLD where there is one.

    Args:
      prob: Probability of taking part in a round.
      rounds: Number of rounds.
      epsilon: The promise.
      delta: The delta of epsilon.
      local: Whether each unit adds its own noise, which nobody's sampling hides; the
        neighbour then has other data, so that sensitivity is twice the clip norm.
    """
    from ppml_lab import base
    from ppml_lab.dp import accounting, events

    def event(noise: float) -> base.PrivacyEvent:
        if local:
            one = events.participating(prob, events.gaussian(noise / 2))
        else:
            one = events.poisson(prob, events.gaussian(noise))
        relation = "replace_one" if local else "add_or_remove_one"
        return base.PrivacyEvent(events.compose(one, rounds), relation, "example")

    return accounting.calibrate_noise_multiplier(event, epsilon, delta, "best")


def _noise(
    numbers: Numbers, total: int, drawn: int, who: str, *, local: bool = False
) -> list[Computed]:
    """The noise of a mean over `drawn` of `total` units, over their clipped signal."""
    assert numbers.epsilon is not None
    assert numbers.rounds is not None
    assert numbers.dimension is not None
    delta = numbers.delta or delta_of(total)
    prob, epsilon = drawn / total, numbers.epsilon
    noise = multiplier(prob, numbers.rounds, epsilon, delta, local=local)
    over = noise * math.sqrt(numbers.dimension) / drawn
    over *= math.sqrt(drawn) if local else 1.0
    relation = "replaced" if local else "added or removed"
    drawing = "" if drawn == total else ", each drawn by its own coin"
    how = (
        f"epsilon {epsilon:g} at delta {delta:g} for one that is {relation}, {drawn:,} "
        f"of {total:,} {who} in each of {numbers.rounds:,} rounds{drawing}, "
        f"{numbers.dimension:,} parameters"
    )
    return [
        Computed("noise multiplier", noise, number(noise), how),
        Computed(
            "noise over signal in a round",
            over,
            number(over),
            "length of the mean's noise over the clip norm, the most that the mean of "
            "clipped contributions can be; well above one a round teaches little",
        ),
    ]


def _clients(numbers: Numbers) -> list[Computed]:
    total = numbers.participants or 1
    return _noise(numbers, total, numbers.cohort or total, "participants")


def _own(numbers: Numbers) -> list[Computed]:
    total = numbers.participants or 1
    drawn = numbers.cohort or total
    return _noise(numbers, total, drawn, "participants", local=True)


def _examples(numbers: Numbers) -> list[Computed]:
    total = numbers.rows or 1
    return _noise(numbers, total, min(BATCH, total), "rows")


def _own_rows(numbers: Numbers) -> list[Computed]:
    own = (numbers.rows or 1) // (numbers.participants or 1) or 1
    return _noise(numbers, own, min(BATCH, own), "rows of one participant")


def _all_rows(numbers: Numbers) -> list[Computed]:
    return _noise(numbers, numbers.rows or 1, numbers.rows or 1, "rows")


def _statistic(numbers: Numbers) -> list[Computed]:
    assert numbers.epsilon is not None
    total, releases = numbers.rows or 1, numbers.rounds or 1
    delta = numbers.delta or delta_of(total)
    noise = multiplier(1.0, releases, numbers.epsilon, delta)
    how = (
        f"epsilon {numbers.epsilon:g} at delta {delta:g}, {releases:,} releases, each "
        "a table in which one person changes one cell by one: to hide a participant "
        "with more, multiply by the bound on all that it adds"
    )
    return [Computed("standard deviation on a count", noise, number(noise), how)]


def _updates(numbers: Numbers) -> list[Computed]:
    from ppml_lab.smpc import network

    assert numbers.dimension is not None
    assert numbers.rounds is not None
    turns = _turns(numbers)
    sent = 4 * numbers.dimension * turns
    seconds = numbers.rounds * network.seconds(
        32 * numbers.dimension, network.WAN, round_trips=1
    )
    how = (
        f"{numbers.rounds:,} rounds, {number(turns)} of them for a participant on "
        f"average, of {numbers.dimension:,} numbers of four bytes"
    )
    return [
        Computed("a participant sends", sent, in_bytes(sent), how),
        Computed("messages take", seconds, f"{number(seconds)} s", how),
    ]


def _turns(numbers: Numbers) -> float:
    """The rounds in which a participant takes part on average."""
    rounds = numbers.rounds or 1
    if numbers.cohort is None or numbers.participants is None:
        return float(rounds)
    return rounds * numbers.cohort / numbers.participants


def _sums(numbers: Numbers) -> list[Computed]:
    from ppml_lab.smpc import cost, graphs
    from ppml_lab.smpc.network import WAN

    assert numbers.dimension is not None
    assert numbers.rounds is not None
    count = numbers.cohort or numbers.participants or 1
    bits, size = cost.modulus_bits(count, INPUT_BITS), numbers.dimension
    protocols = {
        f"shares among {SERVERS} servers": cost.additive_sharing(
            SERVERS, size, bits, num_clients=count
        )
    }
    if count >= 3:
        graph = graphs.complete(count)
        if count >= 100:
            graph = graphs.k_regular(count, 0.1, 0.1)
        protocols["pairwise masks"] = cost.bonawitz(graph, size, bits)
    found = []
    for name, messages in protocols.items():
        sent = cost.traffic(messages)
        total = sent.uplink_bytes * _turns(numbers)
        seconds = cost.seconds(messages, WAN, "client") * numbers.rounds
        how = (
            f"{numbers.rounds:,} rounds of {count:,} participants, "
            f"{number(_turns(numbers))} of them for one on average, {size:,} numbers "
            f"of {bits} bits, {sent.num_rounds} messages that wait for each other a "
            "round"
        )
        found += [
            Computed(f"{name}: a participant sends", total, in_bytes(total), how),
            Computed(f"{name}: messages take", seconds, f"{number(seconds)} s", how),
        ]
    return found


def _step(rows: int, dimension: int) -> tuple[int, int]:
    """Bytes and rounds of a step of `lab.parts.OnShares`, without running it.

    Bytes are linear in rows and in parameters: what is larger than can be traced with
    ease is extrapolated along that line.
    """
    small, narrow = min(rows, 10_000), min(dimension, 1_000)
    if (small, narrow) == (rows, dimension):
        return _traced(rows, dimension)
    here, waits = _traced(small, narrow)
    fewer, _ = _traced(small // 2 or 1, narrow)
    thinner = here
    if narrow < dimension:
        thinner, _ = _traced(small, narrow // 2 or 1)
    sent = here + (rows - small) * (here - fewer) / max(1, small - small // 2)
    sent += (dimension - narrow) * (here - thinner) / max(1, narrow - narrow // 2)
    return round(sent), waits


@functools.lru_cache(maxsize=64)
def _traced(rows: int, dimension: int) -> tuple[int, int]:
    import jax
    import jax.numpy as jnp

    from ppml_lab.lab import parts, setup

    example = {
        "x": jax.ShapeDtypeStruct((max(1, dimension - 1),), jnp.float32),
        "y": jax.ShapeDtypeStruct((), jnp.int32),
    }
    facts = setup.Facts(2, rows, rows, example, 2)
    found = parts.OnShares().algorithm(facts).cost()
    assert found is not None
    return found.uplink_bytes, found.rounds


def _on_shares(numbers: Numbers) -> list[Computed]:
    from ppml_lab.smpc import network

    assert numbers.rows is not None
    assert numbers.dimension is not None
    assert numbers.rounds is not None
    sent, waits = _step(numbers.rows, numbers.dimension)
    total, waited = sent * numbers.rounds, waits * numbers.rounds
    seconds = numbers.rounds * network.seconds(8 * sent, network.WAN, exchanges=waits)
    how = (
        f"{numbers.rounds:,} steps of logistic regression on all {numbers.rows:,} rows "
        f"with {numbers.dimension:,} parameters, three parties, replicated shares, "
        "after the rows are shared"
    )
    return [
        Computed("the busiest party sends", total, in_bytes(total), how),
        Computed("rounds of messages", waited, f"{waited:,}", how),
        Computed("messages take", seconds, f"{number(seconds)} s", how),
    ]


_LENGTH = ("dimension", "rounds")
KINDS = {
    "noise for participants": Kind(("participants", "epsilon", *_LENGTH), _clients),
    "noise of each participant": Kind(("participants", "epsilon", *_LENGTH), _own),
    "noise for rows": Kind(("rows", "epsilon", *_LENGTH), _examples),
    "noise for rows of each": Kind(
        ("rows", "participants", "epsilon", *_LENGTH), _own_rows
    ),
    "noise for all rows in every step": Kind(("rows", "epsilon", *_LENGTH), _all_rows),
    "noise on counts": Kind(("rows", "epsilon"), _statistic),
    "updates": Kind(_LENGTH, _updates),
    "secure sums": Kind(("participants", *_LENGTH), _sums),
    "steps on shares": Kind(("rows", *_LENGTH), _on_shares),
}
"""What can be computed, by name."""
