"""The explorer's page: one HTML file with a view, its charts and its filters."""

from __future__ import annotations

import html as text_of
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from ppml_lab import tables
from ppml_lab.lab.explorer import filters, spec
from ppml_lab.lab.explorer.view import Setting, View

Facts = Mapping[str, str | float | None]
"""What filters look at in a setting, see `filters.facts`."""

_HERE = Path(__file__).parent
_LIBRARIES = ("vega", "vega-lite", "vega-embed")
_SCRIPTS = ("filters.js", "page.js", "charts.js")

TITLE = "What does privacy cost?"
_STAR = "\u2605"
_PAGE = 25
"""Rows of the table that are shown at once."""
_GROUPS = 4
"""The most groups of settings that get charts of their own."""
_ACROSS = 4
"""The most settings without a promise whose levels go across a chart."""
_MANY = 150
"""The most settings of a chart whose marks are large."""
_UNKNOWN = "not said"

_COLUMNS = (
    ("mark", "Mark", "short"),
    ("pattern", "Pattern", ""),
    ("setting", "Setting", "wide"),
    ("dataset", "Data set", "short"),
    ("model", "Model", ""),
    ("metric", "Metric: mean (seeds)", "wide"),
    ("seeds", "Seeds", "short"),
    ("epsilon", "Epsilon", "number"),
    ("promise", "Promise", "wide"),
    ("bound", "Epsilon at least (attacks)", "number"),
    ("clients", "Clients", "number"),
    ("dropouts", "Drop-outs", "number"),
    ("upload", "Upload, MB a run", "number"),
    ("wan", "Wide-area s", "number"),
    ("compute", "Computing s", "number"),
    ("row", "Measured?", "short"),
    ("command", "Command", "code"),
    ("commit", "Commit", "code"),
)
_ORDERS = {
    "best": "Pareto-optimal first",
    "score": "metric",
    "epsilon": "epsilon",
    "upload_mb": "upload",
    "wan_seconds": "wide-area seconds",
}


def html(view: View, *, title: str = TITLE, extra: str = "") -> str:
    """Returns the page, which needs no other file and no network.

    Args:
      view: What it shows.
      title: Its title.
      extra: HTML above the filters, such as questions. Its scripts may choose filters
        by `explorer.choose({"dataset": "Mnist", "epsilon": 2})`.

    Raises:
      ValueError: If the view has no settings.
    """
    if not view.settings:
        raise ValueError("view must have settings, got none: " + "; ".join(view.notes))
    found = [filters.facts(one) for one in view.settings]
    seen = {(one.experiment, one.configuration) for one in view.settings}
    return Template(_read("page.html")).substitute(
        title=text_of.escape(title),
        css=_read("page.css"),
        num_settings=f"{len(view.settings):,}",
        num_tables=f"{len(seen)} table{'s' if len(seen) > 1 else ''}",
        star=_STAR,
        extra=extra,
        everything=_everything(view.settings),
        filters="\n".join(_field(each, found) for each in filters.FILTERS),
        costs=_options({each.field: each.title for each in spec.COSTS}),
        orders=_options(_ORDERS),
        columns="".join(f'<th scope="col">{title}</th>' for _, title, _ in _COLUMNS),
        notes=_notes(view.notes),
        about=_embedded(json.dumps(_about(view.settings, found), allow_nan=False)),
        view=_embedded(view.to_json()),
        scripts=_scripts(),
    )


def chosen_at_first(
    settings: Sequence[Setting], found: Sequence[Facts]
) -> dict[str, str]:
    """Returns the filters with which the page opens: the data set with the most
    patterns that promise something (then, with the most patterns), and its most
    frequent metric and unit of privacy.

    Args:
      settings: The settings of a view.
      found: Their `filters.facts`.
    """
    chosen: dict[str, str] = {}
    promising: dict[Any, set[Any]] = {}
    patterns: dict[Any, set[Any]] = {}
    for own, one in zip(found, settings, strict=True):
        if own["dataset"] is not None and own["score"] is not None:
            patterns.setdefault(own["dataset"], set()).add(one.pattern)
            some = promising.setdefault(own["dataset"], set())
            some |= {one.pattern} if one.epsilon < math.inf else set()
    if patterns:
        chosen["dataset"] = max(
            patterns, key=lambda name: (len(promising[name]), len(patterns[name]))
        )
    for name in ("metric", "privacy_unit"):
        words = Counter(
            str(own[name])
            for own in found
            if own[name] is not None
            and all(own[k] == wanted for k, wanted in chosen.items())
        )
        if words:
            chosen[name] = words.most_common(1)[0][0]
    return chosen


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _embedded(text: str) -> str:
    """JSON that no text in it can end."""
    return text.replace("<", "\\u003c")


def _scripts() -> str:
    """The libraries and the page's own scripts, without the addresses of maps."""
    texts = [_read(f"vendor/{name}.min.js") for name in _LIBRARIES]
    texts = [text.partition("//# sourceMappingURL")[0] for text in texts]
    texts += map(_read, _SCRIPTS)
    whole = [text.replace("</script", "<\\/script") for text in texts]
    return "\n".join(f"<script>\n{text}</script>" for text in whole)


def _about(settings: Sequence[Setting], found: Sequence[Facts]) -> dict[str, Any]:
    """What the scripts have to know beside the settings."""
    metrics = {one.metric for one in settings if one.metric is not None}
    kinds = [a.name.split(",")[0] for one in settings for a in one.attacks]
    axes = [spec.EPSILON, *spec.COSTS]
    chosen = chosen_at_first(settings, found)
    # What is seen first has the looks that differ most.
    first = [one for one in settings if str(one.dataset) == chosen.get("dataset")]
    patterns = [str(one.pattern or _UNKNOWN) for one in [*first, *settings]]
    return {
        "filters": [each._asdict() for each in filters.FILTERS],
        "alike": filters.ALIKE,
        "no_server": filters.NO_SERVER,
        "higher": {str(m): filters.is_higher_better(str(m)) for m in metrics},
        "chosen": chosen,
        "columns": [{"name": name, "kind": kind} for name, _, kind in _COLUMNS],
        "epsilon": spec.EPSILON._asdict(),
        "costs": [each._asdict() for each in spec.COSTS],
        "specs": {axis.field: spec.against(axis) for axis in axes},
        "bounds": spec.bounds(),
        "rows": spec.ROWS,
        "looks": spec.looks(patterns),
        "attack_looks": spec.looks(kinds),
        "looks_of_projected": spec.SHAPES[0],
        "elsewhere": ["pattern", "dataset", "dropout_prob"],
        "star": _STAR,
        "projected": "projected: computed for a larger population, not run",
        "page": _PAGE,
        "groups": _GROUPS,
        "across": _ACROSS,
        "many": _MANY,
    }


def _options(choices: Mapping[str, str]) -> str:
    return "".join(
        f'<option value="{text_of.escape(value)}">{text_of.escape(shown)}</option>'
        for value, shown in choices.items()
    )


def _field(each: filters.Filter, found: Sequence[Facts]) -> str:
    """A filter's label and field."""
    name = each.name
    described = f' aria-describedby="help-{name}"' if each.help else ""
    if each.kind == "is":
        words = Counter(own[name] for own in found)
        choices = {"": "any"} | {
            str(word): f"{str(word).replace('_', ' ')} ({count:,})"
            for word, count in words.most_common()
            if word is not None
        }
        field = f'<select name="{name}"{described}>{_options(choices)}</select>'
    else:
        field = (
            f'<input name="{name}" type="number" step="any" inputmode="decimal" '
            f'placeholder="any"{described}>'
        )
    note = f'<span class="help" id="help-{name}">{each.help}</span>'
    return f"<div><label>{each.label}{field}</label>{note if each.help else ''}</div>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{text_of.escape(note)}</li>" for note in notes)
    return (
        f"<h2>Left out</h2><p>Tables of which nothing is shown, and why:</p>"
        f'<ul class="soft">{items}</ul>'
    )


def _everything(settings: Sequence[Setting]) -> str:
    """The table of all settings, for readers without scripts."""
    titles = (
        *("Pattern", "Setting", "Data set", "Metric", "Mean", "Seeds", "Epsilon"),
        *("Unit", "Neighbours", "Adversary", "Trust", "Upload, MB", "Wide-area s"),
        *("Measured?", "Made by", "Commit"),
    )
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    lines = "\n".join(
        f"<tr>{''.join(f'<td>{text_of.escape(cell)}' for cell in _cells(one))}"
        for one in settings
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n'
        f"{lines}\n</tbody></table></div>"
    )


def _cells(one: Setting) -> list[str]:
    shown = tables.shown_value
    said = {name: cell for name, cell in one.labels.items() if cell is not None}
    labels = ", ".join(f"{name} {shown(cell)}" for name, cell in said.items())
    promised = one.epsilon < math.inf
    diverged = f", {one.num_diverged} diverged" if one.num_diverged else ""
    return [
        shown(one.pattern or one.experiment),
        labels,
        shown(one.dataset),
        shown(one.metric),
        shown(one.mean),
        f"{one.num_seeds or _UNKNOWN}{diverged}",
        shown(one.epsilon) if promised else "none promised",
        *(shown(cell) for cell in (one.privacy_unit, one.neighboring_relation)),
        shown(one.adversary) if promised else "",
        shown(one.trust),
        shown(None if one.upload_bytes is None else one.upload_bytes / 1e6),
        shown(one.wan_seconds),
        "projected" if one.is_projected else "measured",
        shown(one.command),
        shown(one.commit)[:10],
    ]
