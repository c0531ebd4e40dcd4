"""Drawing of lines of means: scales, ticks, colours, markers and names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ppml_lab import tables
from ppml_lab.tables import Value

Scale = Literal["auto", "linear", "log", "symlog"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart, without yellow."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One marker more than colours, so that pairs of both repeat after 56 lines only."""
DASHES = ("-", "--", ":", "-.")
MOST_LINES = len(COLOURS) * len(MARKERS) * len(DASHES)

_INSIDE = 8
"""The largest number of lines whose names fit into the axes."""
_SHORT = 5
"""The most letters of a number that is written below its place."""
_WIDEST = 16.0
"""The largest width of a figure in inches."""
_LONGEST = 36
"""The most letters of a category's name at the axis."""
_ROOM = 0.07
"""Share of the axis that a number of this length takes."""


class Place(NamedTuple):
    """One configuration as a point on a line."""

    x: Value
    """A number (which may be infinite) or a category."""
    y: tables.Mean
    """Mean over the configuration's seeds."""


Lines = Mapping[tuple[Value, ...], Sequence[Place]]
"""The places of each line, by the values that name the line."""


class Across(NamedTuple):
    """The horizontal axis."""

    scale: str
    """"category", or one of matplotlib's."""
    at: Callable[[Value], float]
    """Function from a value to its place on the axis."""
    ticks: list[Value]
    """Values that are written at the axis."""
    edge: float | None
    """The place where the area for infinite values begins; None if none is infinite."""
    linear_within: float
    """The distance from 0 up to which a symlog scale is linear."""


class Titles(NamedTuple):
    """The texts of a figure."""

    x: str
    y: str
    legend: str
    """Title of the lines' names; "" for a figure without names."""
    notes: str


def across(name: str, values: Sequence[Value], scale: Scale) -> Across:
    """Returns the axis of these values: numbers, or categories if any is no number.

    Raises:
      ValueError: For numbers that the scale cannot show.
    """
    finite = sorted({float(v or 0) for v in values if tables.is_finite(v)})
    if not finite or not all(map(tables.is_number, values)):
        order = [*dict.fromkeys(values)]
        return Across("category", lambda v: float(order.index(v)), order, None, 1.0)
    kind = _scale_of(name, finite, scale)
    positive = [value for value in finite if value > 0]
    edge = beyond = None
    if math.inf in values:
        least = finite[0] if kind == "linear" else min(positive, default=1.0)
        edge, beyond = _beyond(least, finite[-1], kind)

    def at(value: Value) -> float:
        number = float(value or 0)
        return number if beyond is None or math.isfinite(number) else beyond

    return Across(kind, at, _ticks(finite, kind), edge, min(positive, default=1.0))


def _scale_of(name: str, values: Sequence[float], scale: str) -> str:
    """Returns the scale of distinct ascending numbers."""
    positive = [value for value in values if value > 0]
    if scale == "log" and len(positive) < len(values):
        raise ValueError(
            f"{name} is {values[0]:g} in a row, which a log scale cannot show; take "
            "scale symlog, or choose rows with where"
        )
    if scale != "auto":
        return scale
    if values[0] < 0 or len(positive) < 2 or positive[-1] < 4 * positive[0]:
        return "linear"
    pairs = [*itertools.pairwise(positive)]
    ratios, steps = [math.log(b / a) for a, b in pairs], [b - a for a, b in pairs]
    is_geometric = len(pairs) > 1 and _unevenness(ratios) < _unevenness(steps)
    if not is_geometric and positive[-1] < 100 * positive[0]:
        return "linear"
    return "log" if len(positive) == len(values) else "symlog"


def _unevenness(steps: Sequence[float]) -> float:
    found = tables.mean(steps)
    return (found.std or 0.0) / found.mean


def _beyond(least: float, most: float, kind: str) -> tuple[float, float]:
    """Returns where the area of infinity begins, and its mark, right of all numbers."""
    if kind == "linear":
        room = (most - least or abs(most) or 1.0) / 8
        return most + room, most + 2 * room
    room = (most / least) ** (1 / 8) if most > least > 0 else 2.0
    return most * room, most * room**2


def _ticks(finite: Sequence[float], kind: str) -> list[Value]:
    """Returns the values themselves if they have room, else round numbers."""
    from matplotlib import ticker

    low, high = finite[0], finite[-1]
    least = min((value for value in finite if value > 0), default=1.0)
    is_short = all(len(f"{value:g}") <= _SHORT for value in finite)
    places = [_place(value, kind, least) for value in finite]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    if is_short and min(gaps, default=1.0) >= _ROOM * (places[-1] - places[0]):
        return [*finite]
    if kind == "linear":
        found = ticker.MaxNLocator(7).tick_values(low, high)
    else:
        subs = (1, 2, 5) if high < 1000 * least else (1,)
        found = ticker.LogLocator(subs=subs, numticks=12).tick_values(least, high)
        found = [0.0, *found] if low == 0 else found
    return [float(tick) for tick in found if low <= tick <= high]


def _place(value: float, kind: str, least: float) -> float:
    """Returns the place of a value on its scale."""
    if kind == "linear":
        return value
    # Up to the least positive value, symlog is as wide as a decade.
    return 1 + math.log10(value / least) if value >= least else value / least


def figure(lines: Lines, axis: Across, titles: Titles, y_scale: Scale) -> Any:
    """Returns a `matplotlib.figure.Figure` of the lines, with their intervals.

    Raises:
      ValueError: For means that the scale cannot show.
    """
    # Imported here because the import takes half a second, and without pyplot, whose
    # figures stay until they are closed.
    from matplotlib import figure

    width = 6.4 if len(lines) <= _INSIDE else 8.4
    if axis.scale == "category":
        width = min(max(width, 0.2 * len(axis.ticks)), _WIDEST)
    made = figure.Figure(figsize=(width, 4.4), layout="constrained")
    axes = made.subplots()
    for number, (name, places) in enumerate(lines.items()):
        # Intervals of lines with categories stand side by side.
        is_apart = axis.scale == "category" and len(lines) > 1
        apart = 0.5 * (number / (len(lines) - 1) - 0.5) if is_apart else 0.0
        _draw(axes, axis, places, number, apart, literal(", ".join(map(word, name))))
    axes.set(xlabel=literal(titles.x), ylabel=literal(titles.y))
    axes.grid(alpha=0.25)
    _set_across(axes, axis)
    means = [place.y.mean for places in lines.values() for place in places]
    _set_upwards(axes, titles.y, sorted({*means}), y_scale)
    title = {"title": literal(titles.legend), "title_fontsize": 7}
    if titles.legend and len(lines) <= _INSIDE:
        axes.legend(**title, fontsize=7)
    elif titles.legend:
        columns = 1 + len(lines) // 33
        made.legend(**title, fontsize=6, loc="outside right upper", ncols=columns)
    if titles.notes:
        made.supxlabel(literal(titles.notes), fontsize=6, color="0.35")
    return made


def _draw(
    axes: Any,
    axis: Across,
    places: Sequence[Place],
    number: int,
    apart: float,
    name: str,
) -> None:
    """Draws a line; a place at infinity is a separate mark with a level across."""
    colour = COLOURS[number % len(COLOURS)]
    dash = DASHES[number // (len(COLOURS) * len(MARKERS))]
    far = [place for place in places if axis.edge is not None and place.x == math.inf]
    near = [place for place in places if place not in far]
    for group, line in ((near, dash), (far, "none")):
        if group:
            axes.errorbar(
                [axis.at(place.x) + apart for place in group],
                [place.y.mean for place in group],
                [_half(place.y) for place in group],
                linestyle="none" if axis.scale == "category" else line,
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4.5,
                capsize=2.5,
                label=name if group is near or not near else None,
            )
    for place in far:
        level = {"color": colour, "linestyle": (0, (5, 4)), "lw": 0.8, "alpha": 0.6}
        axes.axhline(place.y.mean, **level)


def _half(found: tables.Mean) -> float:
    """Returns half the width of an interval; nan if there is none."""
    return math.nan if found.high is None else found.high - found.mean


def _set_across(axes: Any, axis: Across) -> None:
    places, names = [*map(axis.at, axis.ticks)], [literal(word(t)) for t in axis.ticks]
    if axis.scale == "category":
        axes.set_xlim(-0.6, len(places) - 0.4)
        names = [*map(_cut, names)]
    elif axis.scale == "symlog":
        axes.set_xscale("symlog", linthresh=axis.linear_within)
    else:
        axes.set_xscale(axis.scale)
    if axis.edge is not None:
        axes.axvline(axis.edge, color="0.6", linestyle=":", lw=0.8)
        places, names = [*places, axis.at(math.inf)], [*names, "∞"]
    axes.set_xticks(places, names)
    axes.set_xticks([], minor=True)
    if axis.scale == "category" and sum(map(len, names)) > 60:
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        turned["fontsize"] = 8
        if len(names) > 12:
            turned = {"rotation": 90, "fontsize": 6}
        axes.set_xticks(places, names, **turned)


def _cut(name: str) -> str:
    """Returns a category's name; of a long one both ends, as either may tell it."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-15:]}"


def _set_upwards(axes: Any, name: str, means: Sequence[float], scale: Scale) -> None:
    # A metric keeps its linear scale, unless it spans orders of magnitude.
    if scale == "auto" and means[-1] < 100 * means[0]:
        return
    kind = _scale_of(name, means, scale)
    least = min((value for value in means if value > 0), default=1.0)
    axes.set_yscale(kind, **({"linthresh": least} if kind == "symlog" else {}))
    if kind == "symlog" and means[0] >= 0:
        axes.set_ylim(bottom=0)


def word(value: Value) -> str:
    """Returns the text of a value in figures."""
    if value is None:
        return "none"
    if tables.is_number(value):
        return "∞" if value == math.inf else f"{value:g}"
    return str(value)


def literal(text: str) -> str:
    """Returns the text escaped, so that matplotlib does not take it for mathematics."""
    return text.replace("$", r"\$")
