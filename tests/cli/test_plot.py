"""`plot` at the prompt, and `show --latex`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppml_lab.__main__ import COMMANDS, main
from ppml_lab.cli import latex, tables

ROOT = Path(__file__).resolve().parents[2]
TABLE = str(ROOT / "results" / "heterogeneity" / "table.csv")


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main([*args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_documented_figure_has_a_name_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    documented = COMMANDS["plot"].__doc__ or ""
    example = documented.partition("Example: python -m ppml_lab ")[2]
    args = example.partition("\n\n")[0].replace("heterogeneity", TABLE).split()
    assert main(args) == 0
    names = [
        "best_accuracy_against_partition.pdf",
        "best_accuracy_against_partition.png",
    ]
    assert [path.name for path in sorted(tmp_path.glob("*"))] == names
    said = capsys.readouterr().out
    assert "means over 3 seeds, 95% intervals" in said
    assert said.endswith(f"wrote {names[1]}\n")
    chosen = ["--where", "algorithm=fedavg", "--out", "sub/one.svg", "--json"]
    assert main([*args, *chosen]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == [str(Path("sub", "one.svg"))]
    assert (found["lines"], found["places"]) == (1, 4)
    assert (tmp_path / "sub" / "one.svg").stat().st_size > 1000


def test_what_cannot_be_drawn_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    axes = ["plot", TABLE, "--x", "partition", "--y", "best_accuracy"]
    assert "differ in algorithm; add this to by" in refused(capsys, *axes)
    said = refused(capsys, *axes, "--by", "algoritm")
    assert "did you mean 'algorithm'" in said
    said = refused(capsys, *axes, "--where", "algorithm")
    assert "where must be COLUMN=VALUE, got 'algorithm'" in said
    (tmp_path / "file").write_text("")
    where = ["--by", "algorithm", "--out", "file/figure"]
    assert "out file/figure cannot be written" in refused(capsys, *axes, *where)
    said = refused(capsys, "plot", "nowhere", "--x", "a", "--y", "b")
    assert "no table nowhere" in said


def test_latex_has_means_and_spreads_of_each_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = ["partition", "algorithm", "best_accuracy", "niid_bench_percent"]
    assert main(["show", TABLE, "--latex", "--columns", *columns]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        r"% needs \usepackage{booktabs}",
        "% means and standard deviations over 3 seeds",
        r"\begin{tabular}{llrr}",
        r"\toprule",
        r"partition & algorithm & best\_accuracy & niid\_bench\_percent \\",
    ]
    assert lines[5] == r"\midrule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert len(lines) == 8 + 12
    rows = tables.read(Path(TABLE))
    values: Any = [row["best_accuracy"] for row in rows if row["algorithm"] == "fedavg"
                   and row["partition"] == "2 labels"]  # fmt: skip
    mean, std = np.mean(values), np.std(values, ddof=1)
    (line,) = [line for line in lines if line.startswith("2 labels & fedavg")]
    assert f"${mean:.3f} \\pm {std:.3f}$" in line


def rows(**cells: Any) -> list[tables.Row]:
    return [{"method": "a", "seed": seed} | cells for seed in range(2)]


def test_latex_escapes_text_and_writes_numbers_as_mathematics() -> None:
    text = latex.table(
        [
            {"100%_&": "$5 #{x} ~^\\", "n": 3, "delta": 1e-5, "epsilon": float("inf")},
            {"100%_&": None, "n": -2, "delta": 0.25, "epsilon": 2.0},
        ]
    )
    assert text.splitlines()[1:] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"100\%\_\& & n & delta & epsilon \\",
        r"\midrule",
        r"\$5 \#\{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"& $3$ & $1 \times 10^{-5}$ & $\infty$ \\",
        r"-- & $-2$ & $0.25$ & $2$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.91337, 0.00281, r"$0.9134 \pm 0.0028$"),
        (52.04, 6.53, r"$52.0 \pm 6.5$"),
        (70.2, 36.0, r"$70 \pm 36$"),
        (-3.0, 123.4, r"$-3 \pm 123$"),
        (1.2346e7, 6.1e5, r"$(1.235 \pm 0.061) \times 10^{7}$"),
        (2.5e-6, 1.2e-6, r"$(2.5 \pm 1.2) \times 10^{-6}$"),
        (0.0, 0.5, r"$0.00 \pm 0.50$"),
    ],
)
def test_a_mean_ends_with_its_spread(mean: float, std: float, text: str) -> None:
    assert latex.with_spread(mean, std) == text


def test_latex_leaves_out_what_is_a_run_s_own_and_what_is_not_finite() -> None:
    table = rows(loss=1.0, key="k", count=4)
    table[1] |= {"loss": float("nan"), "key": "l"}
    more = [row | {"method": "b", "loss": 2.0} for row in table]
    text = latex.table(table + more)
    # What all share is said once.
    assert "method & loss \\\\" in text
    assert "% count: 4\n" in text
    assert "% loss: 1 values that are not finite are left out" in text
    assert "a & $1$ \\\\\nb & $2$ \\\\" in text
    with pytest.raises(
        ValueError, match="key has no mean, as its values over seeds are k, l"
    ):
        latex.table(table, ("method", "key"))
    other = [row | {"method": "b"} for row in table]
    with pytest.raises(ValueError, match="whole table: they differ in method; add"):
        latex.table(table + other, ("count",))


@pytest.mark.parametrize(
    ("one", "other", "printed"),
    [
        (0.1, 0.10000001, r"rate 0\.1 and 0\.10000001 are printed the same"),
        ("--", None, "rate '--' and None are printed the same"),
        ("a  b", "a\nb ", "are printed the same"),
    ],
)
def test_latex_lines_that_print_alike_are_refused(
    one: Any, other: Any, printed: str
) -> None:
    table: list[tables.Row] = [
        {"rate": rate, "seed": seed, "loss": 1.0 + seed}
        for rate in (one, other)
        for seed in (0, 1)
    ]
    with pytest.raises(ValueError, match=printed + ".* add a column"):
        latex.table(table)
    with pytest.raises(ValueError, match=r"differ in rate; .*add a column"):
        latex.table(table, ("rate", "loss"))
    named = [row | {"name": str(n // 2)} for n, row in enumerate(table)]
    told = [{"name": row["name"], **row} for row in named]
    assert latex.table(told, ("name", "rate", "loss")).count("\\pm") == 2


@pytest.mark.parametrize("first", ["[1] b", "*", "[", " *a"])
def test_latex_takes_no_first_cell_for_an_argument(first: str) -> None:
    table: list[tables.Row] = [{first: first, "n": 1}, {first: f"{first}c", "n": 2}]
    lines = latex.table(table).splitlines()
    begin = lines.index(r"\toprule") + 1
    assert lines[begin] == f"{{}}{first} & n \\\\"
    assert lines[begin + 2] == f"{{}}{first} & $1$ \\\\"
    assert lines[begin + 3] == f"{{}}{first}c & $2$ \\\\"
    # Elsewhere in a line they are what they are.
    turned = latex.table(table, ("n", first)).splitlines()
    assert turned[begin + 2] == f"$1$ & {first} \\\\"


def test_two_ways_to_print_are_one_too_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "choose one" in refused(capsys, "show", TABLE, "--latex", "--json")
