"""Vega-Lite specifications of the page's charts, as dictionaries.

The page gives a chart its rows by name (`ROWS`) and its limits by parameters. A row is
one setting: nothing is averaged over settings, joined by a line or interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

Spec = dict[str, Any]

ROWS = "settings"
"""The name of a chart's rows: `x`, `mean`, `low`, `high`, `colour`, `shape`, truth
values `promises`, `projected` and `strong`, and the texts of `_TIPS`.
"""
_BAND = 74
"""Width, in pixels, of the band at the right for settings that promise nothing."""

COLOURS = (  # Okabe and Ito's, which the colour-blind can distinguish; yellow is grey
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#E69F00", "#000000", "#737373"),
)
_CIRCLE = "M0.9,0A0.9,0.9,0,1,1,-0.9,0A0.9,0.9,0,1,1,0.9,0Z"
_PLUS = "M-0.35,-1H0.35V-0.35H1V0.35H0.35V1H-0.35V0.35H-1V-0.35H-0.35Z"
_CROSS = (
    "M-0.95,-0.5L-0.5,-0.95L0,-0.45L0.5,-0.95L0.95,-0.5L0.45,0L0.95,0.5L0.5,0.95"
    "L0,0.45L-0.5,0.95L-0.95,0.5L-0.45,0Z"
)
SHAPES = (
    _CIRCLE,
    "M-0.8,-0.8H0.8V0.8H-0.8Z",
    "M0,-1L0.95,0.75H-0.95Z",
    "M0,-1.1L1,0L0,1.1L-1,0Z",
    "M0,1L0.95,-0.75H-0.95Z",
    _PLUS,
    _CROSS,
    "M0,-0.9L0.86,-0.28L0.53,0.73H-0.53L-0.86,-0.28Z",
)
"""Outlines of marks in a square from -1 to 1."""


class Axis(NamedTuple):
    """What a chart has on its horizontal axis."""

    field: str
    """A field of `Setting`."""
    title: str
    unit: float = 1.0
    """What one on the axis is in the field's own unit."""


EPSILON = Axis("epsilon", "epsilon (log scale; less is more private)")
COSTS = (
    Axis("upload_bytes", "upload of a client in a run, MB (log scale)", 1e6),
    Axis("wan_seconds", "wide-area seconds of a run's messages (log scale)"),
    Axis("lan_seconds", "local-area seconds of a run's messages (log scale)"),
    Axis("compute_seconds", "seconds of a run's computation (log scale)"),
)
"""What the second chart can show; the first is shown at first."""


def looks(patterns: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colours and outlines of patterns: neither repeats among eight neighbours, and no
    pair among the first 64.
    """
    return {
        name: (
            COLOURS[i % len(COLOURS)],
            SHAPES[(i + i // len(COLOURS)) % len(SHAPES)],
        )
        for i, name in enumerate(dict.fromkeys(patterns))
    }


_TIPS = {
    "pattern": "pattern",
    "labels": "setting",
    "score": "metric",
    "promise": "promise",
    "against": "holds",
    "costs": "costs",
    "told": "row",
}
"""The texts of a tooltip: fields of rows, and their titles."""

_CONFIG: Spec = {
    "view": {"stroke": "#c9c9c9"},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#ececec",
        "labelOverlap": "greedy",
    },
    "font": "system-ui, sans-serif",
}
_LIMITS = {"low": 0, "high": 1, "left": 1, "right": 10, "size": 70}
"""Parameters of charts: the ends of their axes, and the size of marks in pixels."""
_STRONG = {"test": "datum.strong", "value": 1}
_FOUND = {"condition": _STRONG, "value": 0.12}
_DASHED = {"condition": {"test": "datum.projected", "value": [3, 2]}, "value": [1, 0]}
_HOLLOW = {"condition": {"test": "datum.projected", "value": 0}, "value": 0.85}
_Y = {
    "field": "mean",
    "type": "quantitative",
    "scale": {"zero": False, "domain": [{"expr": "low"}, {"expr": "high"}]},
    "axis": {"title": None, "tickCount": 6},
}


def _look(channel: str, field: str) -> Spec:
    return {channel: {"field": field, "type": "nominal", "scale": None}}


def _tips(fields: Iterable[tuple[str, str]]) -> list[Spec]:
    return [
        {"field": field, "type": "nominal", "title": title} for field, title in fields
    ]


_MARK: Spec = {
    "mark": {
        "type": "point",
        "filled": True,
        "size": {"expr": "size"},
        "strokeWidth": 1.3,
    },
    "encoding": {
        **_look("fill", "colour"),
        **_look("stroke", "colour"),
        **_look("shape", "shape"),
        "fillOpacity": _HOLLOW,
        "strokeDash": _DASHED,
        "opacity": _FOUND,
        "tooltip": _tips(_TIPS.items()),
    },
}


def _ranges(x: Spec) -> Spec:
    return {
        "mark": {"type": "rule", "strokeWidth": 1.5},
        "encoding": {
            "x": x,
            "y": _Y,
            "y2": {"field": "high_end"},
            **_look("stroke", "colour"),
            "strokeDash": _DASHED,
            "opacity": _FOUND,
        },
    }


def _chart(layers: list[Spec], description: str, **more: Any) -> Spec:
    return {
        "width": "container",
        "height": 300,
        "autosize": {"type": "fit-x", "contains": "padding", "resize": True},
        "description": description,
        "data": {"name": ROWS},
        "params": [{"name": name, "value": value} for name, value in _LIMITS.items()],
        "layer": layers,
        "config": _CONFIG,
        **more,
    }


def _marks(x: Spec, where: str) -> list[Spec]:
    """Ranges over seeds, and a mark at each mean."""
    ranges = _ranges(x)
    ranges["encoding"]["y"] = {**_Y, "field": "low_end"}
    marks = {**_MARK, "encoding": {"x": x, "y": _Y, **_MARK["encoding"]}}
    return [{"transform": [{"filter": where}], **each} for each in (ranges, marks)]


def against(axis: Axis) -> Spec:
    """The chart of the metric against an axis, with a brush.

    Against epsilon, settings that promise nothing stand in a band at the right, which
    belongs to no scale; where they are few, dashed levels of theirs go across.
    """
    is_epsilon = axis == EPSILON
    right = {"rangeMax": {"expr": f"width - {_BAND}"}} if is_epsilon else {}
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "scale": {
            "type": "log",
            "nice": False,
            "domain": [{"expr": "left"}, {"expr": "right"}],
            **right,
        },
        "axis": {"title": axis.title, "format": "~g", "tickCount": 6},
    }
    where = "datum.promises && isValid(datum.x)" if is_epsilon else "isValid(datum.x)"
    ranges, marks = _marks(x, where)
    marks["params"] = [{"name": "brush", "select": {"type": "interval"}}]
    layers = [ranges, marks]
    if is_epsilon:
        layers = [*_band(), *layers]
    return _chart(layers, f"The metric against {axis.title}, one mark a setting")


def _band() -> list[Spec]:
    first = [
        {"filter": "!datum.promises"},
        {"aggregate": [{"op": "count", "as": "count"}]},
        {"filter": "datum.count > 0"},
    ]
    edge = {"value": {"expr": f"width - {_BAND} + 6"}}
    background = {
        "transform": first,
        "mark": {"type": "rect", "fill": "#f3f1ea"},
        "encoding": {
            "x": edge,
            "x2": {"value": "width"},
            "y": {"value": 0},
            "y2": {"value": "height"},
        },
    }
    label = {
        "transform": first,
        "mark": {"type": "text", "baseline": "top", "fontSize": 12},
        "encoding": {
            "text": {"value": ["nothing", "promised"]},
            "x": {"value": {"expr": f"width - {(_BAND - 6) / 2:g}"}},
            "y": {"value": {"expr": "height + 7"}},
        },
    }
    across = {
        "transform": [{"filter": "datum.across"}],
        "mark": {"type": "rule", "strokeDash": [2, 4], "strokeWidth": 1},
        "encoding": {
            "x": {"value": 0},
            "x2": {"value": "width"},
            "y": _Y,
            **_look("stroke", "colour"),
        },
    }
    middle = {"value": {"expr": f"width - {(_BAND - 6) / 2:g}"}}
    return [background, across, label, *_marks(middle, "!datum.promises")]


_BOUND_TIPS = {
    "attack": "attack",
    "bound": "lower bound",
    "epsilon": "promised epsilon",
    "labels": "setting",
    "against": "holds",
}


def bounds() -> Spec:
    """The chart of lower bounds by attacks against the promise, with the diagonal.

    Its rows are attacks, `ROWS`, each with its `bound` and its setting's `epsilon`.
    """
    ends = {"domain": [0, {"expr": "high"}], "nice": False, "zero": True}
    x = {
        "field": "epsilon",
        "type": "quantitative",
        "scale": ends,
        "axis": {"title": "promised epsilon", "tickCount": 6},
    }
    y = {
        "field": "bound",
        "type": "quantitative",
        "scale": ends,
        "axis": {"title": "epsilon at least, by the attack", "tickCount": 6},
    }
    corners = {"sequence": {"start": 0, "stop": 2, "step": 1, "as": "corner"}}
    line = {
        "data": corners,
        "transform": [
            {"calculate": "datum.corner * high", "as": "epsilon"},
            {"calculate": "datum.corner * high", "as": "bound"},
        ],
        "mark": {"type": "line", "stroke": "#555", "strokeDash": [5, 4]},
        "encoding": {"x": x, "y": y},
    }
    marks = {
        "mark": _MARK["mark"],
        "encoding": {
            "x": x,
            "y": y,
            **_look("fill", "colour"),
            **_look("stroke", "colour"),
            **_look("shape", "shape"),
            "fillOpacity": {
                "condition": {"test": "datum.largest", "value": 0.9},
                "value": 0,
            },
            "opacity": {"condition": _STRONG, "value": 0.3},
            "tooltip": _tips(_BOUND_TIPS.items()),
        },
    }
    return _chart([line, marks], "Lower bounds on epsilon against the promise")
