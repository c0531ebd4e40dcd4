"""`pages` at the prompt: every experiment's page is that of its table."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

import pytest

from ppml_lab.__main__ import main
from ppml_lab.cli import experiments, means
from ppml_lab.lab import command, run

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 60
"""Minutes of a configuration on two cores."""

MINE = '''"""Which is best?

More of it.
"""
CONFIGS = {"smoke": 1, "paper": 2, "more": 3}
PAGE = {
    "minutes": {"paper": 7, "more": 8},
    "tables": [{"by": ["kind"], "of": ["score"]}],
}
'''
PAGE = """# of before

**Of two kinds
the second.**

Words.

<!-- table -->
of before
<!-- end -->
Between.
<!-- made -->
<!-- end -->
After.
"""
STAMP = {
    "command": ["mine.py", "paper", "--num-seeds", "3"],
    "git_commit": "0123456789",
    "git_dirty": False,
    "packages": {"jax": "0.10.2"},
    "device": "cpu",
    "device_count": 2,
    "cpu_count": 2,
}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An experiment with a table and a page that is not up to date."""
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "results" / "mine"
    top.mkdir(parents=True)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(MINE)
    (tmp_path / "experiments" / "other.py").write_text('"""Without a page."""\n')
    write(top, "kind,seed,score", "x,0,1", "x,1,4", "y,0,0.5", "y,1,")
    (top / "README.md").write_text(PAGE)
    (tmp_path / "results" / "README.md").write_text("<!-- list -->\n<!-- end -->\n")
    return top


def write(folder, *lines, **stamp):
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "provenance.json").write_text(json.dumps(STAMP | stamp))


def refused(capsys):
    assert main(["pages"]) == 2
    return capsys.readouterr().err


def declared(stem):
    return experiments.literal(experiments.find()[stem], "PAGE")


def test_committed_pages_are_current(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["pages", "--check"]) == 0
    assert capsys.readouterr().out == "all pages are up to date\n"


def test_every_experiment_has_its_page(monkeypatch):
    monkeypatch.chdir(ROOT)
    listed = Path("results/README.md").read_text()
    for stem in experiments.find():
        page = Path("results", stem, "README.md").read_text()
        assert f"](../../paper_figures/{stem}.png)" in page
        for part in ("table", "made"):
            assert re.search(f"<!-- {part} -->\n.+?\n<!-- end -->", page, re.DOTALL)
        assert "\n## The smallest change worth trying\n\n`python -m" in page
        assert "\n## Deviations, and why\n\n- " in page
        assert f"| [{stem}]({stem}/README.md) | " in listed
    tables = {path.parent for path in Path("results").glob("*/*/table.csv")}
    for folder in tables:
        assert folder.name == "smoke" or (folder / "README.md").exists(), folder


def test_no_configuration_takes_longer_than_an_hour(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["list", "--json"]) == 0
    for about in json.loads(capsys.readouterr().out):
        minutes = declared(about["name"])["minutes"]
        assert {"smoke", *minutes} == {*about["configurations"]}, about["name"]
        assert max(minutes.values()) <= LONGEST


def test_a_page_follows_its_table(folder, capsys):
    with pytest.raises(SystemExit) as found:
        main(["pages", "--check"])
    assert found.value.code == 1
    assert "results/mine/README.md is not up to date" in capsys.readouterr().out
    assert (folder / "README.md").read_text() == PAGE
    assert main(["pages", "--json"]) == 0
    stale = json.loads(capsys.readouterr().out)
    assert stale == ["results/mine/README.md", "results/README.md"]
    page = (folder / "README.md").read_text()
    assert page.startswith(
        "# Which is best?\n\n**Of two kinds\nthe second.**\n\nWords."
    )
    assert "of before" not in page
    assert "Means of 2 seeds, with standard deviations." in page
    assert "| kind | score |\n| --- | --: |\n| x | 2.5 (2.12) |\n| y | 0.5 |" in page
    assert "<!-- end -->\nBetween.\n" in page
    assert page.endswith("<!-- end -->\nAfter.\n")
    run_as = "`python -m experiments.mine paper --num-seeds 3`"
    device = "2 x cpu, 2 cores, jax 0.10.2"
    paper = f"| [paper](table.csv) | {run_as} | {device} | about 7 | 0123456 | 1 |"
    assert paper in page
    assert "| more | `python -m experiments.mine more` | - | about 8 | not made" in page
    overview = (folder.parent / "README.md").read_text()
    assert "| Which is best? | Of two kinds the second. | " in overview
    assert "`paper` (about 7), `more` (about 8) |" in overview
    assert main(["pages", "--check"]) == 0

    write(folder, "kind,seed,score", "x,0,1", "x,1,5")
    with pytest.raises(SystemExit):
        main(["pages", "--check"])
    assert main(["pages"]) == 0
    assert "| x | 3 (2.83) |" in (folder / "README.md").read_text()


def test_named_configurations_are_joined_and_have_pages(folder, capsys):
    spent = {"run_seconds": 90.0, "compile_seconds": None, "table_seconds": 60.0}
    commits = [
        {"git_commit": "aaaaaaaaa", "git_dirty": False},
        {"git_commit": "bbbbbbbbb", "git_dirty": True},
    ]
    about = {"command": ["m.py", "more"], "cost": spent, "runs": {"commits": commits}}
    write(folder / "more", "kind,seed,score", "z,0,3", **about, format=3)
    write(folder / "smoke", "kind,seed,score", "tiny,0,3")
    assert main(["pages"]) == 0
    page = (folder / "README.md").read_text()
    made = "| 2.5 | aaaaaaa, bbbbbbb with changes | 3 |"
    assert "| z | 3 |" in page
    assert "tiny" not in page
    assert made in page
    assert "[more](more/table.csv)" in page
    assert not (folder / "smoke" / "README.md").exists()
    own = (folder / "more" / "README.md").read_text()
    assert own.startswith("# Which is best?\n\nThe configuration `more` of [mine](../")
    assert "| z | 3 |" in own
    assert "| x |" not in own
    assert made in own
    assert "`more` (2.5)" in (folder.parent / "README.md").read_text()
    # One run of both would count twice.
    write(folder / "more", "kind,seed,score", "x,0,3", **about)
    assert "several rows have kind x, seed 0" in refused(capsys)
    shutil.rmtree(folder / "more")
    assert main(["pages"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"score"', '"scoer"', "did you mean 'score'"),
        ('"by": ["kind"]', '"by": ["seed"]', "several rows have seed 0"),
        ('"of": ["score"]', '"off": []', "did you mean 'of'"),
        ('"of": ["score"]', '"of": []', "in by and in of"),
        (', "more": 8}', '}, "wher": 1', "must have the keys minutes and tables"),
        ("7, ", "int(7), ", "PAGE of experiments/mine.py must be a literal"),
    ],
)
def test_a_declaration_that_does_not_fit(folder, capsys, old, new, said):
    path = Path("experiments/mine.py")
    assert old in MINE
    path.write_text(MINE.replace(old, new))
    assert said in refused(capsys)
    assert (folder / "README.md").read_text() == PAGE


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<!-- made -->", "", "README.md must have the lines <!-- made -->"),
        ("<!-- end -->", "", "README.md must have the lines <!-- table -->"),
        ("the second.**", "the second.", "must begin with the answer"),
        ("\n\n", "\n", "must begin with the answer"),
    ],
)
def test_a_page_without_its_parts(folder, capsys, old, new, said):
    (folder / "README.md").write_text(PAGE.replace(old, new))
    assert said in refused(capsys)


def test_a_folder_without_pages(folder, capsys):
    Path("experiments/mine.py").unlink()
    Path("results/README.md").unlink()
    assert main(["pages"]) == 0
    assert capsys.readouterr().out == "all pages are up to date\n"


def test_no_page_and_no_provenance(folder, capsys):
    (folder / "provenance.json").unlink()
    assert "provenance.json cannot be read" in refused(capsys)
    (folder / "README.md").unlink()
    assert "results/mine/README.md must have the lines" in refused(capsys)


def rows(*values, **columns):
    return [{"seed": seed, "a": value, **columns} for seed, value in enumerate(values)]


def test_cells_by_hand():
    table = rows(0.5, 0.75, 0.25, kind="x") + rows(0.1, None, 0.2, kind="y")
    shown = means.table({"by": ["kind"], "of": ["a"], "percent": ["a"]}, table)
    spread = statistics.stdev([0.1, 0.2])
    assert "| x | 50.0 (25.0) |" in shown
    assert f"| y | 15.0 ({100 * spread:.1f}) of 2 |" in shown
    # Infinite and equal values have no spread; words stand as they are.
    inf = float("inf")
    for values, cell in (((inf, inf), "inf"), ((2, 2), "2"), (("b", "b"), "b")):
        found = means.table({"by": ["kind"], "of": ["a"]}, rows(*values, kind="x"))
        assert found.endswith(f"| x | {cell} |")
    across = means.table(
        {"by": ["kind"], "across": "n", "of": {"a": "sd"}},
        [
            {"kind": "x", "n": 2.0, "a": 12345.6, "sd": 10},
            {"kind": "x", "n": 1, "a": 1e-7, "sd": None},
            {"kind": "y", "n": 1, "a": 0.0123456, "sd": 0.001},
        ],
    )
    assert "| kind | 2 | 1 |" in across
    assert "| x | 12,346 (10) | 1e-07 |" in across
    assert "| y |  | 0.0123 (0.001) |" in across
    assert "means, with the standard deviations that the table has" in across
    ranges = {"by": ["kind"], "of": {"a": ["low", "high"], "b": []}}
    row = {"kind": "x", "a": 2, "low": 1, "high": 4, "b": "yes"}
    assert means.table(ranges, [row]).endswith("| x | 2 (1 to 4) | yes |")
    once = row | {"low": 2, "high": 2}
    assert means.table(ranges, [once]).endswith("| x | 2 | yes |")


def test_which_rows_are_meant():
    table = [
        {"kind": kind, "target": target, "a": 1.0}
        for kind in "xy"
        for target in (float("inf"), 8, None)
    ]
    about = {"by": ["kind", "target"], "of": ["a"]}

    def shown(**where):
        return means.table(about | {"where": where}, table).count("| 1 |")

    assert shown() == 6
    assert shown(kind="x") == 3
    assert shown(kind=["x", "y"], target=["inf", 8]) == 4
    assert shown(target=None) == 2
    assert means.table(about | {"where": {"kind": "z"}}, table) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", sorted((ROOT / "results").glob("*/README.md")))
def test_the_smallest_change_is_a_command(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    section = page.read_text().partition("## The smallest change worth trying\n\n`")[2]
    _, _, module, *options = section.partition("`")[0].split()
    stem = page.parent.name
    assert module == experiments.module(experiments.find()[stem])
    found = importlib.import_module(module)
    monkeypatch.setattr(sys, "argv", [stem, *options])
    choices = run.choices()
    chosen = command.parse(stem, "", found.CONFIGS, choices=choices)
    assert chosen.config != found.CONFIGS["smoke"]
    assert chosen.out == Path("/tmp/mine")
