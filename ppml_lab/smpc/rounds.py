"""Which rounds of a protocol messages are in, where scopes of them repeat, follow each
other or happen at once; see `transcript`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Frame:
    """An open scope: where it is and when."""

    def __init__(
        self, path: str, start: int, repeat: int, parallel: bool, sent: Fraction | int
    ) -> None:
        self.path, self.repeat, self.parallel = path, repeat, parallel
        # Of the bits that are noted in all repetitions, those that are sent.
        self.sent = sent
        self.start = self.now = self.end = start
        # When the inputs were sent after which nothing else was.
        self.inputs: int | None = None

    def child_path(self, name: str) -> str:
        return "/".join(filter(None, (self.path, name)))

    def child_start(self, *, inputs: bool) -> int:
        if self.parallel:
            return self.start
        if not inputs or self.inputs is None:
            return self.end
        return self.inputs

    def step(self) -> int:
        """From a repetition to the next."""
        return 0 if self.parallel else self.end - self.start

    def last_end(self) -> int:
        """The end of the last repetition."""
        if not self.repeat:
            return self.start
        return self.end + self.step() * (self.repeat - 1)

    def includes(self, end: int) -> None:
        if end > self.end:
            self.end, self.inputs = end, None

    def waits(self, until: int) -> None:
        self.now = max(self.now, until)
        self.includes(until)


class Time(NamedTuple):
    """A message's rounds: one in each repetition of the loops around it, which end
    after the message is written down.
    """

    loops: tuple[Frame, ...]
    first: int


def num_distinct(times: Collection[Time]) -> int:
    """How many rounds these are together."""
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
    # Loops that go on at once with something else: round by round.
    return len(np.unique(np.concatenate([_rounds_of(time) for time in times])))


def _rounds_of(time: Time) -> np.ndarray:
    found = np.array([time.first])
    for loop in time.loops:
        starts = loop.step() * np.arange(loop.repeat)
        found = (found[:, None] + starts).reshape(-1)
    return found
