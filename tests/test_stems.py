"""Every experiment runs from its command line, and has its results and its figure."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppml_lab import lab
from ppml_lab.cli import experiments
from ppml_lab.lab.disk.provenance import open_folder
from ppml_lab.lab.tree.identity import described

ROOT = Path(__file__).resolve().parents[1]
FOUND = {
    path.stem: path.relative_to(ROOT)
    for folder in ("experiments", "experiments/benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if path.name != "bench.py"
}
STEMS = sorted(FOUND)
TINY = {
    "privacy_utility": [
        *("--num-seeds", "1", "--target-epsilons", "inf", "8"),
        *("--study.base.schedule.num-rounds", "2"),
        *("--study.base.schedule.eval-every", "2"),
        *("--study.base.trainer.local-epochs", "1", "--study.central-steps", "2"),
    ],
    "fedavg_rounds": ["--cells.0.max-rounds", "30"],
    "heterogeneity": ["--num-seeds", "1", "--base.schedule.num-rounds", "1"],
    "hospitals": [
        *("--num-splits", "2", "--learning.rounds", "4", "--audit-runs", "0"),
        *("--learning.personal-rounds", "1", "--learning.private-rounds", "2"),
    ],
    "next_character": [
        *("--base.schedule.num-rounds", "2", "--base.schedule.eval-every", "1"),
        *("--base.model.width", "8"),
    ],
    "throughput": ["--rounds-2nn.ppml-lab", "4", "--cohorts", "10", "--lanes", "2"],
    "dp_sgd_speed": ["--models", "mlp", "--microbatches", "64", "--blocks", "1"],
    "dp_fedavg": [
        *("--num-seeds", "1", "--cohorts", "10"),
        *("--base.schedule.num-rounds", "2"),
    ],
    "dp_sgd": ["--num-seeds", "1"],
    "bits_accuracy": ["--modulus-bits", "6", "24", "--base.schedule.num-rounds", "2"],
    "secure_aggregation_cost": ["--repetitions", "1"],
    "scaling": ["--devices", "1", "--hosts", "--cohorts", "10", "1000"],
    "secure_throughput": ["--dropouts", "0", "10", "--words", "2048"],
    "private_inference": ["--models", "2nn", "--num-seeds", "1", "--num-steps", "20"],
    "private_training": ["--num-steps", "5", "--num-seeds", "1"],
    "audit_epsilon": [
        *("--target-epsilons", "8", "--num-rounds", "4", "--mechanism-runs", "512"),
        *("--white-box-runs", "16", "--black-box-runs", "16"),
        *("--one-run-canaries", "40", "--one-run-repeats", "2"),
    ],
    "device_day": ["--cohort", "16"],
    "accelerators": ["--programs", "normal numbers"],
    "convolutions": ["--turns", "1", "--num-steps", "2", "--batch-sizes", "2"],
}
TIMED = {stem for stem, path in FOUND.items() if path.parent.name == "benchmarks"}
"""Their smoke runs only time the machine, for minutes."""
TRAINS_NOTHING = TIMED | {
    "secure_aggregation_cost",
    *("private_inference", "private_training", "audit_epsilon"),
}
"""Measured by `lab.run_benchmark`, which states nothing: either there is no privacy, or
its noise is calibrated and printed by the experiment."""

LONG = (
    *("audit_epsilon", "bits_accuracy", "heterogeneity"),
    *("private_inference", "private_training"),
    *("privacy_utility", "dp_sgd", "dp_fedavg", "secure_aggregation_cost"),
    *("next_character", "hospitals"),
)
"""What their smoke runs run is tested elsewhere."""


def marks(stem: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.benchmark] if stem in TIMED else []
    found += [pytest.mark.exhaustive] if stem in LONG else []
    if stem == "accelerators" and importlib.util.find_spec("libtpu") is None:
        found += [pytest.mark.skip(reason="the extra aot is not installed")]
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_experiment_is_listed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(TINY) == STEMS
    monkeypatch.chdir(ROOT)
    assert experiments.find() == FOUND


@pytest.mark.parametrize("stem", STEMS)
def test_results_and_figure_are_committed(stem: str) -> None:
    folder = ROOT / "results" / stem
    tables = [folder / "table.csv", *folder.glob("*/table.csv")]
    tables = [one for one in tables if one.exists() and one.parent.name != "smoke"]
    assert tables
    for table in tables:
        with table.open() as file:
            assert next(csv.DictReader(file))
        assert (table.parent / "provenance.json").exists()
    for suffix in ("pdf", "png"):
        figure = ROOT / "paper_figures" / f"{stem}.{suffix}"
        assert 0 < figure.stat().st_size < 300_000


@pytest.mark.parametrize(
    "stem", [stem for stem in STEMS if (ROOT / "results" / stem / "smoke").exists()]
)
def test_a_fresh_clone_can_run_smoke(stem: str, tmp_path: Path) -> None:
    """Committed results do not stand in the way of today's configuration."""
    committed = ROOT / "results" / stem / "smoke" / "provenance.json"
    (tmp_path / "provenance.json").write_text(committed.read_text())
    configs = importlib.import_module(experiments.module(FOUND[stem])).CONFIGS
    open_folder(tmp_path, described(configs["smoke"], "config"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stem",
    [pytest.param(stem, marks=marks(stem)) for stem in STEMS],
)
def test_smoke_run_figure_and_refusal(stem: str, tmp_path: Path) -> None:
    module = experiments.module(FOUND[stem])
    command = ["-m", module, "smoke", "--out", str(tmp_path)]
    done = run(*command, *TINY[stem])
    assert done.returncode == 0, done.stderr
    if stem not in TRAINS_NOTHING:
        stated = done.stdout.index("stated before training")
        assert stated < done.stdout.index("rounds")
    drawn = run(f"paper_figures/{stem}.py", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / f"{stem}.png").stat().st_size > 10_000

    other = run(*command)
    assert other.returncode != 0
    assert "holds results of another configuration" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_misspelt_option_suggests_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = importlib.import_module("experiments.privacy_utility")
    monkeypatch.setattr(sys, "argv", ["experiment", "smoke", "--num-seds", "2"])
    with pytest.raises(SystemExit) as ended:
        lab.run_experiment("stem", "", stem.CONFIGS, stem.points, stem.table)
    assert ended.value.code == 2
    assert "--num-seeds" in "".join(capsys.readouterr())
