"""The rounds that messages are in, where scopes repeat, follow each other or overlap.

See `transcript`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Frame:
    """An open scope: its path, and the rounds that it takes."""

    def __init__(
        self, path: str, start: int, repeat: int, parallel: bool, sent: Fraction | int
    ) -> None:
        self.path, self.repeat, self.parallel = path, repeat, parallel
        # The part of the bits noted in all repetitions that is sent.
        self.sent = sent
        self.start = self.now = self.end = start
        # The round of the latest inputs, unless something else was sent after them.
        self.inputs: int | None = None

    def child_path(self, name: str) -> str:
        """The path of a scope inside this one."""
        return "/".join(filter(None, (self.path, name)))

    def child_start(self, *, inputs: bool) -> int:
        """The round in which a scope inside this one begins; inputs share a round."""
        if self.parallel:
            return self.start
        if not inputs or self.inputs is None:
            return self.end
        return self.inputs

    def step(self) -> int:
        """The rounds from the start of a repetition to that of the next."""
        return 0 if self.parallel else self.end - self.start

    def last_end(self) -> int:
        """The end of the last repetition."""
        if not self.repeat:
            return self.start
        return self.end + self.step() * (self.repeat - 1)

    def includes(self, end: int) -> None:
        """Moves the end to at least this round."""
        if end > self.end:
            self.end, self.inputs = end, None

    def waits(self, until: int) -> None:
        """Lets what comes next begin no earlier than a round."""
        self.now = max(self.now, until)
        self.includes(until)


class Time(NamedTuple):
    """The rounds of a message: one in each repetition of the loops around it.

    Loops end after the message is written down, so their open frames are kept.
    """

    loops: tuple[Frame, ...]
    first: int


def num_distinct(times: Collection[Time]) -> int:
    """The number of distinct rounds among these times."""
    spans, total = [], 0
    by_loop: dict[Frame | None, set[Time]] = {}
    for loops, first in times:
        outer, inner = (loops[0], loops[1:]) if loops else (None, ())
        by_loop.setdefault(outer, set()).add(Time(inner, first))
    for loop, inside in by_loop.items():
        if loop is None:
            spans += [(time.first, time.first + 1) for time in inside]
            total += len(inside)
        else:
            spans.append((loop.start, loop.last_end()))
            turns = min(loop.repeat, 1) if loop.parallel else loop.repeat
            total += turns * num_distinct(inside)
    spans.sort()
    if all(one[1] <= other[0] for one, other in itertools.pairwise(spans)):
        return total
    # Some loops overlap with something else: count round by round.
    return len(np.unique(np.concatenate([_rounds_of(time) for time in times])))


def _rounds_of(time: Time) -> np.ndarray:
    found = np.array([time.first])
    for loop in time.loops:
        starts = loop.step() * np.arange(loop.repeat)
        found = (found[:, None] + starts).reshape(-1)
    return found
