"""The explorer's page without a browser: what it holds, what qualifies, bad input."""

from __future__ import annotations

import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ppml_lab.__main__ import main
from ppml_lab.cli import explored
from ppml_lab.lab import explorer
from ppml_lab.lab.advice import asked
from ppml_lab.lab.explorer import filters, page, spec

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(page.__file__).parent
MEASURED: dict[str, Any] = {
    "experiment": "mine",
    "configuration": "paper",
    "labels": {},
    "dataset": "Digits",
    "pattern": "federated",
    "privacy_unit": "client",
    "neighboring_relation": "add_or_remove_one",
    "trust": "central",
    "adversary": "public",
    "epsilon": 1.0,
    "delta": 1e-5,
    "metric": "accuracy",
    "values": [0.7, 0.9],
    "mean": 0.8,
    "num_seeds": 2,
    "num_diverged": 0,
    "num_clients": 100,
    "dropout_prob": 0.0,
    "upload_bytes": 2e6,
    "wan_seconds": 3.0,
    "is_projected": False,
    "attacks": [],
    "command": "python -m mine paper",
    "commit": "0123456789",
}


def setting(**fields: Any) -> explorer.Setting:
    found: dict[str, Any] = dict.fromkeys(explorer.Setting._fields) | MEASURED | fields
    return explorer.Setting(**found)


NOTHING: dict[str, Any] = {
    "privacy_unit": None,
    "neighboring_relation": None,
    "trust": None,
}
SETTINGS = [
    setting(),
    setting(trust="local", epsilon=8.0, mean=0.5),
    setting(trust="distributed", epsilon=2.0, mean=0.75, dropout_prob=0.1),
    setting(**NOTHING, epsilon=math.inf, mean=0.9, upload_bytes=None),
    setting(dataset="Adult", privacy_unit="example", num_clients=None, mean=None),
    setting(metric="loss", mean=0.3, wan_seconds=None),
]


@pytest.mark.parametrize(
    ("chosen", "places"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"dataset": "Digits"}, [0, 1, 2, 3, 5]),
        ({"metric": "loss"}, [5]),
        ({"privacy_unit": "client"}, [0, 1, 2, 5]),
        ({"server": "not needed"}, [1, 2]),
        ({"server": "needed"}, [0, 4, 5]),  # what promises nothing is neither
        ({"dropouts": "some"}, [2]),
        ({"dropouts": "none", "clients": 1}, [0, 1, 3, 5]),
        ({"epsilon": 2}, [0, 2, 4, 5]),
        ({"epsilon": 1, "dataset": "Adult"}, [4]),
        ({"score": 0.75, "metric": "accuracy"}, [0, 2, 3]),
        ({"score": 0.3, "metric": "loss"}, [5]),
        ({"score": 0.2, "metric": "loss"}, []),
        ({"upload_mb": 2}, [0, 1, 2, 4, 5]),  # bytes that are not said do not qualify
        ({"upload_mb": 1.9}, []),
        ({"wan_seconds": 3}, [0, 1, 2, 3, 4]),
        ({"clients": 100}, [0, 1, 2, 3, 5]),
        ({"clients": 101}, []),
        ({"adversary": "server"}, []),
    ],
)
def test_what_qualifies(chosen, places):
    assert filters.qualifying(SETTINGS, chosen) == places


def test_filters_have_names():
    with pytest.raises(ValueError, match="unknown filter 'epsilom'; did you mean"):
        filters.qualifying(SETTINGS, {"epsilom": 2})


@pytest.mark.parametrize("limit", ["2", math.nan, math.inf, True])
def test_limits_are_finite_numbers(limit):
    with pytest.raises(ValueError, match="filter epsilon must be a finite number"):
        filters.qualifying(SETTINGS, {"epsilon": limit})


def test_the_nearest_breaks_the_fewest_filters_and_these_by_the_least():
    near = {"dataset": "Digits", "metric": "accuracy"}
    # Places 0, 1 and 2 break one limit, by 1, 15 and 3 times the limit.
    assert filters.nearest(SETTINGS, near | {"epsilon": 0.5}) == 0
    assert filters.broken(SETTINGS[2], {"epsilon": 0.5}) == {"epsilon": 3.0}
    # A number that is missed is nearer than another word, or what is not said.
    assert filters.nearest(SETTINGS, near | {"score": 0.99}) == 3
    assert filters.nearest(SETTINGS, near | {"score": 0.85, "upload_mb": 9}) == 0
    assert filters.nearest(SETTINGS, {"dataset": "none such"}) == 0
    with pytest.raises(ValueError, match="at least one"):
        filters.nearest([], {})


def test_pareto_optimal_settings():
    best = [
        setting(mean=0.8, epsilon=1.0),
        setting(mean=0.8, epsilon=2.0),  # beaten by the first
        setting(mean=0.9, epsilon=2.0),
        setting(mean=0.7, epsilon=1.0, upload_bytes=1e6),
        setting(mean=0.8, epsilon=1.0),  # as good as the first
        setting(mean=0.79, epsilon=1.0, wan_seconds=None),  # not said: the worst
        setting(mean=0.1, epsilon=9.0, is_projected=True),  # alone of its kind
        setting(mean=0.1, epsilon=9.0, privacy_unit="example"),
        setting(mean=0.5, metric="loss"),  # beaten by the next
        setting(mean=0.4, metric="loss"),
        setting(mean=None),
        setting(mean=0.9, metric="of my own"),  # whether more is better is not known
    ]
    every = range(len(best))
    assert filters.pareto(best, every) == {0, 2, 3, 4, 6, 7, 9}
    assert filters.pareto(best, [1, 5]) == {1, 5}
    assert filters.pareto(best, []) == set()


def test_pareto_is_its_definition_on_the_committed_tables(view):
    settings = view.settings

    def cost(one):
        own: dict[str, Any] = filters.facts(one)
        rest = [own[name] for name in ("epsilon", "upload_mb", "wan_seconds")]
        return [-own["score"], *(math.inf if cell is None else cell for cell in rest)]

    def alike(one):
        return [filters.facts(one)[name] for name in filters.ALIKE]

    which = ("FashionMnist", "accuracy")
    few = [i for i, one in enumerate(settings) if (one.dataset, one.metric) == which]
    expected = {
        i
        for i in few
        if not any(
            alike(settings[k]) == alike(settings[i])
            and cost(settings[k]) != cost(settings[i])
            and all(
                a <= b
                for a, b in zip(cost(settings[k]), cost(settings[i]), strict=True)
            )
            for k in few
        )
    }
    assert filters.pareto(settings, few) == expected
    assert 1 < len(expected) < len(few)


class Page(HTMLParser):
    """What a page names, runs and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        if tag in ("script", "style"):
            self._inside = named.get("id") or f"{tag} {len(self.tags)}"
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            if name in named:
                self.addresses.append((tag, name, named[name] or ""))
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def handle_endtag(self, tag):
        self._inside = ""


@pytest.fixture(scope="module")
def view() -> explorer.View:
    return explorer.committed()


@pytest.fixture(scope="module")
def committed(view) -> str:
    """The page as `explore` writes it, with the questions of the advice."""
    return page.html(view, extra=asked.html())


def test_the_page_names_nothing_outside_itself(committed):
    found = Page(committed)
    assert all(
        address.startswith(("#", "data:,")) for _, _, address in found.addresses
    ), found.addresses
    assert "default-src 'none'" in found.policy
    assert "connect-src" not in found.policy
    assert "http" not in found.policy
    styles = [text for name, text in found.texts.items() if name.startswith("style")]
    assert styles
    assert not re.search(r"url\(|@import", " ".join(styles))
    for name in ("filters.js", "page.js", "charts.js"):
        source = (HERE / name).read_text()
        assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(", source)
    assert "sourceMappingURL" not in committed
    assert not {"iframe", "img", "object", "embed"} & {*found.tags}


def test_the_page_holds_the_view_and_a_table_of_it(view, committed):
    found = Page(committed)
    assert explorer.View.of_json(found.texts["view"]) == view
    inside = committed.partition("<noscript>")[2].partition("</noscript>")[0]
    assert inside.count("<tr><td>") == len(view.settings)
    first = view.settings[0]
    assert f"<td>{first.pattern}" in inside
    assert all(note in found.texts[""] for note in view.notes)
    for each in filters.FILTERS:
        assert f'name="{each.name}"' in committed


def test_the_page_opens_with_the_richest_data_set_and_its_unit(view, committed):
    chosen = json.loads(Page(committed).texts["about"])["chosen"]
    assert filters.qualifying(view.settings, chosen)
    two = [setting(pattern="a"), setting(pattern="b"), setting(privacy_unit="example")]
    many = [setting(dataset="Adult", pattern="a")] * 4
    first = page.chosen_at_first([*many, *two], [*map(filters.facts, [*many, *two])])
    assert first == {
        "dataset": "Digits",
        "metric": "accuracy",
        "privacy_unit": "client",
    }
    bare = setting(**NOTHING, dataset=None, mean=None)
    first = page.chosen_at_first([bare], [filters.facts(bare)])
    assert first == {"metric": "accuracy"}


def test_words_of_a_table_cannot_end_a_script_or_begin_a_tag():
    bad = "</script><script>alert(1)</script><img src=x>"
    one = setting(pattern=bad, dataset=bad, labels={bad: bad}, command=bad)
    attack = explorer.Attack(bad, 0.1)
    text = page.html(explorer.View([one._replace(attacks=[attack])], [bad]), title=bad)
    found = Page(text)
    assert "img" not in found.tags
    assert found.tags.count("script") == Page(page.html(_small())).tags.count("script")
    assert explorer.View.of_json(found.texts["view"]).settings[0].pattern == bad


def _small() -> explorer.View:
    return explorer.View(SETTINGS, [])


def test_what_others_add_stands_above_the_filters():
    text = page.html(_small(), extra="<section id=questions></section>")
    assert text.index("id=questions") < text.index('id="filters"')


def test_no_mark_joins_or_averages_settings():
    """Settings are points and rules; lines and regressions would invent some."""
    for axis in (spec.EPSILON, *spec.COSTS):
        chart = json.dumps(spec.against(axis))
        assert not re.search(r'"(line|area|trail|regression|loess|impute)"', chart)
        assert not re.search(r'"op": "(?!count)', chart)
    *_, marks = spec.bounds()["layer"]
    assert marks["mark"]["type"] == "point"


def test_looks_differ():
    found = spec.looks(map(str, range(64)))
    assert len({*found.values()}) == 64
    assert len({colour for colour, _ in [*found.values()][:8]}) == 8
    assert len({shape for _, shape in [*found.values()][:8]}) == 8


def test_libraries_are_small_licensed_and_as_the_table_says():
    vendor = HERE / "vendor"
    files = sorted(vendor.iterdir())
    assert sum(file.stat().st_size for file in files) < 1_200_000
    scripts = [file for file in files if file.suffix == ".js"]
    assert [one.name.removesuffix(".min.js") for one in scripts] == [
        "vega-embed",
        "vega-lite",
        "vega",
    ]
    table = (vendor / "README.md").read_text()
    for script in scripts:
        licence = vendor / script.name.replace(".min.js", ".LICENSE")
        assert "Redistribution and use" in licence.read_text()
        assert hashlib.sha256(script.read_bytes()).hexdigest() in table


def test_explore_without_a_clone(capsys, monkeypatch, tmp_path, view, committed):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "--out", "mine.html", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "file": "mine.html",
        "settings": len(view.settings),
        "notes": view.notes,
    }
    assert Path("mine.html").read_text(encoding="utf-8") == committed


@pytest.mark.parametrize(
    "folders",
    [
        ["results/audit_epsilon", "results/audit_epsilon/../audit_epsilon"],
        ["results/heterogeneity", "results/audit_epsilon"],
        pytest.param(["results"], marks=pytest.mark.exhaustive),
    ],
)
def test_results_of_a_clone_are_read_as_declared(monkeypatch, view, folders):
    monkeypatch.chdir(ROOT)
    below = explored.of_folders(map(Path, folders))
    names = {one.experiment for one in below.settings}
    expected = [one for one in view.settings if one.experiment in names]
    # Kept numbers have six digits.
    kept = explorer.View.of_json(below.to_json()).settings
    assert sorted(kept, key=repr) == sorted(expected, key=repr)


COLUMNS = "size,seed,accuracy,metric,dataset,model,pattern,privacy_unit,trust"
COLUMNS += ",neighboring_relation,epsilon_public,adversary,command,commit,num_rounds"
ROW = "1,{seed},0.{seed}5,accuracy,Digits,Logistic,plain,client,central"
ROW += ",replace_one,2.5,public,python -m mine,abc,10"


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def refused(capsys, *folders):
    assert main(["explore", *map(str, folders)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_folders_of_a_user(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mine = write(tmp_path / "mine", COLUMNS, ROW.format(seed=1), ROW.format(seed=2))
    old = write(tmp_path / "old", "size,seed,accuracy", "1,0,0.5")
    (tmp_path / "empty").mkdir()
    assert main(["explore", str(mine), str(old)]) == 0
    said = capsys.readouterr().out
    assert "wrote explorer.html: 1 settings" in said
    assert "left out" in said
    assert "lacks dataset, model, pattern" in said
    text = Path("explorer.html").read_text(encoding="utf-8")
    (one,) = explorer.View.of_json(Page(text).texts["view"]).settings
    assert (one.values, one.num_seeds, one.epsilon) == ([0.15, 0.25], 2, 2.5)
    assert "lacks dataset" in text  # at the foot

    assert main(["explore", str(mine), "--out", "nowhere/mine.html"]) == 2
    assert "out nowhere/mine.html cannot be written" in capsys.readouterr().err
    assert "holds no table.csv" in refused(capsys, tmp_path / "empty")
    assert "holds no table.csv" in refused(capsys, tmp_path / "not there")
    error = refused(capsys, old)
    assert "no table can be shown" in error
    assert "privacy_unit, neighboring_relation" in error
