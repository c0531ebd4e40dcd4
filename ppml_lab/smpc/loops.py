"""Loops over steps of a protocol that are alike, traced and compiled once.

Messages of a step count as often as the step happens (`transcript.scope`). What steps
show leaves the loop: views have the steps along a new first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppml_lab.smpc import transcript
from ppml_lab.smpc.scheme import Shared, shape_of
from ppml_lab.smpc.streams import Stream


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    items: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Runs `lax.scan` and brings the views that its body records out of the loop."""
    recorders = transcript.active()
    found: list[list[transcript.View]] = []

    def step(carry: Any, item: Any) -> tuple[Any, Any]:
        known = [len(recorder.views) for recorder in recorders]
        carry, outs = body(carry, item)
        found[:] = [
            recorder.views[count:]
            for recorder, count in zip(recorders, known, strict=True)
        ]
        for recorder, count in zip(recorders, known, strict=True):
            del recorder.views[count:]
        return carry, (outs, [[view.value for view in views] for views in found])

    carry, (outs, values) = lax.scan(step, carry, items, reverse=reverse)
    for recorder, views, arrays in zip(recorders, found, values, strict=True):
        recorder.views += [
            view._replace(value=array)
            for view, array in zip(views, arrays, strict=True)
        ]
    return carry, outs


def in_turn(
    stream: Stream,
    step: Callable[[Stream, Any, Any], Any],
    carry: Any,
    items: Any,
    *,
    sent: Fraction | int = 1,
) -> Any:
    """The carry after `carry = step(stream, carry, item)` for each item in turn.

    The rounds of steps follow each other. Each step has its own stream, whose coins
    must not decide any result: where only values are computed there may be no loop.
    `sent` is the part of the noted bits that steps send.
    """
    items = jax.tree.map(jnp.asarray, items)
    (length, *_) = jax.tree.leaves(items)[0].shape

    def body(carry: Any, item: Any) -> tuple[Any, None]:
        seed, item = item
        return step(Stream(seed), carry, item), None

    with transcript.scope("", repeat=length, sent=sent):
        return scan(body, carry, (stream.seeds(length), items))[0]


def tournament(
    stream: Stream, combine: Callable[[Stream, Shared, Shared], Shared], value: Shared
) -> Shared:
    """Reduces the last axis to one value, by combining neighbours first.

    That takes as many calls of `combine` in a row as the logarithm of the axis's
    length. `combine(stream, earlier, later)` gives one value for each pair and must
    draw no coins.

    The last rounds are steps of a loop whose shape stays the same: every place meets
    the one after it, then the one two after it, and so on, until the first place has
    met all. Only the messages that the first place needs are counted; views are of all
    places.
    """
    length = shape_of(value)[-1]
    while (count := shape_of(value)[-1]) > 2 and _lanes(count)[2] > length:
        value = _round(stream, combine, value)
    if count > 2:
        value = _looped(stream, combine, value)
    elif count == 2:
        value = _round(stream, combine, value)
    return _places(value, lambda leaf: leaf[..., 0])


def _lanes(count: int) -> tuple[int, int, int]:
    """A loop's steps, its places, and the pairs that it combines."""
    steps = (count - 1).bit_length()
    return steps, 2**steps, steps * 2**steps


def _round(stream: Stream, combine: Callable[..., Shared], value: Shared) -> Shared:
    paired = shape_of(value)[-1] // 2 * 2
    earlier, later = (
        _places(value, lambda leaf, b=begin: leaf[..., b:paired:2]) for begin in (0, 1)
    )
    found = combine(stream, earlier, later)
    rest = _places(value, lambda leaf: leaf[..., paired:])
    shares = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves, -1), found.shares, rest.shares
    )
    return Shared(shares, found.scheme)


def _looped(stream: Stream, combine: Callable[..., Shared], value: Shared) -> Shared:
    count = shape_of(value)[-1]
    steps, places, pairs = _lanes(count)

    def filled(leaf: Array) -> Array:
        last = jnp.repeat(leaf[..., -1:], places - count, axis=-1)
        return jnp.concatenate([leaf, last], -1)

    def step(stream: Stream, value: Shared, distance: Array) -> Shared:
        later = _places(value, lambda leaf: jnp.roll(leaf, -distance, axis=-1))
        return combine(stream, value, later)

    distances = jnp.int32([2**number for number in range(steps)])
    sent = Fraction(count - 1, pairs)
    return in_turn(stream, step, _places(value, filled), distances, sent=sent)


def _places(value: Shared, function: Callable[[Array], Array]) -> Shared:
    return Shared(jax.tree.map(function, value.shares), value.scheme)
