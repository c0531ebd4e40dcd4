"""Parties that compute from what they were sent alone, and a wire that counts it.

Written from the papers, in NumPy, with nothing of the lab's: an independent count of
bits and rounds. A value is what each party holds of it, and the round in which that was
there; numbers are modulo 2^64, bits are words under XOR and AND.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

WORD = 64


@dataclass
class Value:
    """Additive: a summand per party. Replicated: party i has summands i and i + 1."""

    rows: list[Any]
    time: int = 0


class Wire:
    """Counts arrays as they go from one to another."""

    def __init__(self, num_parties: int, seed: int = 0) -> None:
        self.num_parties, self.parties = num_parties, range(num_parties)
        self.sent: Counter[Any] = Counter()
        self.received: Counter[Any] = Counter()
        self.offline: Counter[Any] = Counter()
        self.rng = np.random.default_rng(seed)

    def send(self, sender: Any, receiver: Any, array: Any, width: int = WORD) -> Any:
        assert sender != receiver
        bits = np.asarray(array).size * width
        self.sent[sender] += bits
        self.received[receiver] += bits
        return array

    def deal(self, array: Any, width: int = WORD, dealer: Any = "dealer") -> Any:
        self.offline[dealer] += np.asarray(array).size * width
        return array

    def drawn(self, shape: Any, width: int = WORD) -> np.ndarray:
        words = self.rng.integers(0, 2**64, shape, np.uint64)
        return words & np.uint64(2**width - 1)

    def dealt(self, secret: Any, width: int = WORD, xor: bool = False) -> list[Any]:
        """A dealer's shares: all but the first are expanded from seeds."""
        others = [self.drawn(secret.shape, width) for _ in self.parties[1:]]
        rest = secret
        for other in others:
            rest = rest ^ other if xor else rest - other
        return [self.deal(rest, width), *others]

    def seeded(self, shape: Any, width: int = WORD) -> list[Any]:
        """Shares of something random: nobody is sent anything."""
        return [self.drawn(shape, width) for _ in self.parties]

    def opened(self, rows: list[Any], width: int, xor: bool) -> Any:
        """Each sends its row to each other; what every party then knows."""
        known = [list(rows) for _ in self.parties]
        for sender in self.parties:
            for receiver in self.parties:
                if sender != receiver:
                    known[receiver][sender] = self.send(
                        sender, receiver, rows[sender], width
                    )
        sums = [total(row, xor) for row in known]
        assert all(np.array_equal(sums[0], other) for other in sums)
        return sums[0]


def total(rows: list[Any], xor: bool = False) -> Any:
    found = rows[0]
    for row in rows[1:]:
        found = found ^ row if xor else found + row
    return found


def beaver(
    wire: Wire, x: Value, y: Value, width: int = WORD, xor: bool = False
) -> Value:
    """Numbers, or bits; shapes broadcast."""
    mul = np.bitwise_and if xor else np.multiply
    sub = np.bitwise_xor if xor else np.subtract
    a, b = (wire.seeded(value.rows[0].shape, width) for value in (x, y))
    c = wire.dealt(mul(total(a, xor), total(b, xor)), width, xor)
    d = wire.opened([sub(s, m) for s, m in zip(x.rows, a, strict=True)], width, xor)
    e = wire.opened([sub(s, m) for s, m in zip(y.rows, b, strict=True)], width, xor)
    rows = [total([mul(d, b[p]), mul(a[p], e), c[p]], xor) for p in wire.parties]
    rows[0] = total([rows[0], mul(d, e)], xor)
    return Value(rows, max(x.time, y.time) + 1)


def araki(
    wire: Wire, x: Value, y: Value, width: int = WORD, xor: bool = False
) -> Value:
    """Each party multiplies what it holds, and sends its summand to the one before."""
    mul = np.bitwise_and if xor else np.multiply
    parts = []
    for p in wire.parties:
        (x0, x1), (y0, y1) = ((v.rows[p], v.rows[(p + 1) % 3]) for v in (x, y))
        parts.append(total([mul(x0, y0), mul(x0, y1), mul(x1, y0)], xor))
    # Keys that pairs of parties have give zeros without a message.
    keys = wire.seeded(parts[0].shape, width)
    sub = np.bitwise_xor if xor else np.subtract
    zeros = [sub(keys[p], keys[p - 1]) for p in wire.parties]
    rows = [total([part, z], xor) for part, z in zip(parts, zeros, strict=True)]
    for p in wire.parties:
        wire.send(p, (p - 1) % 3, rows[p], width)
    return Value(rows, max(x.time, y.time) + 1)


def truncated(wire: Wire, x: Value, by: int) -> Value:
    """Opened under a dealt mask; the top bit tells whether the sum wrapped around."""
    shape, quarter = x.rows[0].shape, np.uint64(2**62)
    third = wire.num_parties == 3 and isinstance(x, Replicated)
    low = np.uint64(2**63 - 1)
    mask = wire.drawn(shape)
    parts = [(mask & low) >> np.uint64(by), mask >> np.uint64(63)]
    if third:
        # The third party has a seed with the first, and sends the second the rest.
        two = [wire.drawn(shape) for _ in parts]
        shares = [
            [first, wire.deal(part - first, WORD, 2)]
            for part, first in zip(parts, two, strict=True)
        ]
        keys = wire.drawn(shape)
        masks = [keys, mask - keys]
        own = [x.rows[0] + x.rows[1], x.rows[2]]
    else:
        shares = [wire.dealt(part) for part in parts]
        first = wire.seeded(shape)
        masks = [mask - total(first[1:]), *first[1:]]
        own = list(x.rows)
    own[0] = own[0] + quarter
    blinded = [o + m for o, m in zip(own, masks, strict=True)]
    if third:
        for one, other in ((0, 1), (1, 0)):
            wire.send(one, other, blinded[one])
        c = total(blinded)
    else:
        c = wire.opened(blinded, WORD, False)
    top, rows = c >> np.uint64(63), []
    for p, (cut, bit) in enumerate(zip(*shares, strict=True)):
        # carried = top XOR bit, linear as top is known.
        carried = bit - top * bit * np.uint64(2)
        share = (carried << np.uint64(63 - by)) - cut
        if p == 0:
            share = share + (top << np.uint64(63 - by))
            share = share + ((c & low) >> np.uint64(by)) - (quarter >> np.uint64(by))
        rows.append(share)
    if not third:
        return Value(rows, x.time + 1)
    keys = [wire.drawn(shape) for _ in range(2)]
    rests = [row - key for row, key in zip(rows, keys, strict=True)]
    for one, other in ((0, 1), (1, 0)):
        wire.send(one, other, rests[one])
    return Replicated([keys[0], total(rests), keys[1]], x.time + 2)


class Replicated(Value):
    """Summands of which each party has two."""


def sign(wire: Wire, x: Value) -> Value:
    """The top bit, by a tree of carries into it."""
    shape = x.rows[0].shape
    replicated = isinstance(x, Replicated)
    multiply = araki if replicated else beaver
    if replicated:
        first = x.rows[0] + x.rows[1]
        key = wire.drawn(shape)
        zero = np.zeros(shape, np.uint64)
        one = Value([wire.send(0, 2, first ^ key), key, zero], x.time + 1)
        other = Value([zero, zero, x.rows[2]], x.time)
        generated = araki(wire, one, other, WORD, True)
        propagated = [a ^ b for a, b in zip(one.rows, other.rows, strict=True)]
        carry_in = 0
    else:
        mask = wire.drawn(shape)
        shares = wire.dealt(mask, xor=True)
        arithmetic = wire.seeded(shape)
        arithmetic[0] = mask - total(arithmetic[1:])
        c = wire.opened(
            [s + m for s, m in zip(x.rows, arithmetic, strict=True)], WORD, False
        )
        # x = c + (all bits of the mask the other way) + 1.
        shares[0] = ~shares[0]
        generated = Value([row & c for row in shares], x.time + 1)
        propagated = [shares[0] ^ c, *shares[1:]]
        carry_in = 1
    time, width = generated.time, WORD
    places = np.arange(63, dtype=np.uint64)

    def bits(rows: list[Any], carry: int) -> list[Any]:
        found = []
        for p, row in enumerate(rows):
            lowest = np.full((1, *shape), carry if p == 0 else 0, np.uint64)
            each = (row >> places.reshape(-1, *[1] * len(shape))) & np.uint64(1)
            found.append(np.concatenate([lowest, each]))
        return found

    g, q = bits(generated.rows, carry_in), bits(propagated, 0)
    while width > 1:
        width //= 2
        high = Value([row[1::2] for row in q], time)
        low = [[g_[0::2], q_[0::2]] for g_, q_ in zip(g, q, strict=True)]
        below = Value([np.stack(pair if width > 1 else pair[:1]) for pair in low], time)
        both = multiply(wire, high, below, 1, True)
        g = [g_[1::2] ^ row[0] for g_, row in zip(g, both.rows, strict=True)]
        q, time = [row[-1] for row in both.rows], both.time
    top = [
        (row >> np.uint64(63)) ^ g_[0] for row, g_ in zip(propagated, g, strict=True)
    ]
    return type(x)(top, time)


def number(wire: Wire, bit: Value) -> Value:
    """A shared bit as a shared 0 or 1."""
    shape = bit.rows[0].shape
    if isinstance(bit, Replicated):
        key, zero = wire.drawn(shape), np.zeros(shape, np.uint64)
        two = bit.rows[0] ^ bit.rows[1]
        one = Value([wire.send(0, 2, two - key), key, zero], bit.time + 1)
        other = Value([zero, zero, bit.rows[2]], bit.time)
        product = araki(wire, one, other)
        rows = [
            a + b - np.uint64(2) * c
            for a, b, c in zip(one.rows, other.rows, product.rows, strict=True)
        ]
        return Replicated(rows, product.time)
    mask = wire.seeded(shape, 1)
    shares = wire.dealt(total(mask, True))
    c = wire.opened([b ^ m for b, m in zip(bit.rows, mask, strict=True)], 1, True)
    rows = [m - np.uint64(2) * c * m for m in shares]
    rows[0] = rows[0] + c
    return Value(rows, bit.time + 1)


def relu(wire: Wire, x: Value) -> Value:
    negated = type(x)([np.uint64(0) - row for row in x.rows], x.time)
    positive = number(wire, sign(wire, negated))
    multiply = araki if isinstance(x, Replicated) else beaver
    return type(x)(*vars(multiply(wire, positive, x)).values())
