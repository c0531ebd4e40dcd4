"""The README's blocks, numbers and commands are true."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppml_lab import dp, lab, smpc
from ppml_lab.__main__ import COMMANDS, main
from ppml_lab.cli import experiments
from ppml_lab.lab import parts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LAB = (ROOT / "ppml_lab" / "lab" / "README.md").read_text()
DP = (ROOT / "ppml_lab" / "dp" / "README.md").read_text()
TOLERANCE = 0.06
"""Of printed numbers, as the README says."""
NUMBER = r"-?\d+(?:\.\d+)?"


def assert_alike(printed: str, expected: str) -> None:
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", expected)
    for found, wanted in zip(
        re.findall(NUMBER, printed), re.findall(NUMBER, expected), strict=True
    ):
        assert abs(float(found) - float(wanted)) <= TOLERANCE, (printed, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_call")
def test_the_blocks_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(README) < 10_000
    assert f"holds to {TOLERANCE}" in README
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL
    )
    assert sum(bool(expected) for _, expected in blocks) == 4
    names: dict[str, Any] = {}
    for code, expected in blocks:
        exec(compile(code, "README.md", "exec"), names)
        assert_alike(capsys.readouterr().out, expected)
    assert (tmp_path / "my_sweep" / "accuracy.png").stat().st_size > 10_000


def test_the_lines_to_choose_from_are_calls() -> None:
    names: dict[str, Any] = {"clip_norm": 1.0, "z": 1.0, "n": 20, "sampling_prob": 0.1}
    names |= {"surviving": 12, "privacy": 5, "smpc": smpc, "dp": dp}
    tables = README.partition("## Choose privacy")[2].partition("## When")[0]
    lines = re.findall(r"`([^`]+)` \|$", tables, re.MULTILINE)
    assert len(lines) == 11
    for line in lines:
        if "..." not in line and "people" not in line:
            eval(line, names)


def test_the_headline_s_numbers_are_the_table_s() -> None:
    (text,) = re.findall(r"(Fashion-MNIST, logistic.*?)\n\n", README, re.DOTALL)
    table = ROOT / "results" / "privacy_utility" / "paper_fashion" / "table.csv"
    with table.open() as file:
        rows = [*csv.DictReader(file)]

    def mean(pattern: str, epsilon: str) -> float:
        own = [
            100 * float(row["accuracy"])
            for row in rows
            if (row["pattern"], row["target_epsilon"]) == (pattern, epsilon)
        ]
        assert len(own) == 5
        return statistics.mean(own)

    plain = mean("federated", "inf")
    lost = [
        f"{plain - mean('federated + secure sum', 'inf'):.1f}",
        f"{plain - mean('federated + central DP', '1'):.1f}",
        f"{plain - mean('federated + local DP', '8'):.0f}",
    ]
    assert re.findall(r"\*\*([\d.]+)\*\*", text) == lost


@pytest.mark.exhaustive  # the README's own sweep
def test_the_sweep_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```\n(rates = .*?)```", LAB, re.DOTALL)
    names: dict[str, Any] = {"lab": lab, "parts": parts, "folder": tmp_path}
    exec(compile(example, "README.md", "exec"), names)
    accuracies = names["accuracies"]
    assert len(accuracies) == 8
    assert list(accuracies[0][1]) == [
        "method",
        "trainer.optimizer.learning_rate",
        "mechanism.clip_norm",
        "seed",
    ]
    assert {labels["method"] for _, labels in accuracies} == {"plain", "DP"}
    assert all(0 <= accuracy <= 1 for accuracy, _ in accuracies)


def test_metrics_reach_tensorboard(tmp_path: Path) -> None:
    (example,) = re.findall(r"```\n(writer = .*?)```", LAB, re.DOTALL)
    logs = str(tmp_path / "logs")
    names: dict[str, Any] = {"tensorboard": tensorboard, "logs": logs}
    exec(compile(example, "README.md", "exec"), names)
    setup = parts.Federated(
        partition=parts.Iid(20), schedule=lab.Schedule(num_rounds=6, eval_every=2)
    )
    points = lab.points(lab.seeds(2), setup)
    outcomes = lab.run_sweep(points, tmp_path, on_metrics=names["on_metrics"])
    names["writer"].close()
    read = EventAccumulator(logs)
    read.Reload()
    for point, outcome in zip(points, outcomes, strict=True):
        for name in ("accuracy", "train_loss"):
            found = read.Tensors(f"{name}/seed {point.seed}")
            assert [event.step for event in found] == [2, 4, 6]
            assert found[-1].tensor_proto.float_val == [outcome.last[name]]


def test_the_commands_at_the_prompt_run(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^python -m ppml_lab (.*)$", DP, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main(command.split()) == 0
        assert "rdp" in capsys.readouterr().out


def test_every_command_is_listed() -> None:
    section = LAB.partition("The commands of")[2].split("\n\n")[1]
    listed = re.findall(r"^- `(\w+)", section, re.MULTILINE)
    shown = re.findall(r"^python -m ppml_lab (\w+)", DP, re.MULTILINE)
    assert sorted(COMMANDS) == sorted([*listed, *shown])


def test_every_experiment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    section = README.partition("## Experiments")[2].partition("##")[0]
    assert set(experiments.find()) == set(re.findall(r"`([a-z]\w+)`", section)) - {
        "smoke"
    }


DOCUMENTS = sorted(
    path
    for folder in (".", "ppml_lab", "results", "tests")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_commands_name_configurations_that_there_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    known = {
        experiments.module(place): experiments.configurations(place)
        for place in experiments.find().values()
    }
    text = path.read_text()
    for module, name in re.findall(r"-m (experiments\.[\w.]+) ([a-z]\w*)", text):
        # Committed tables may be older than their configuration.
        if path.parent == ROOT / "results" / module.rpartition(".")[2]:
            text_of_table = text.partition("<!-- made -->")[2].partition("<!-- end")[0]
            if f"-m {module} {name}" in text_of_table:
                continue
        assert name in known[module], f"{path}: {module} {name}"
    for folder in re.findall(r'plot\("(results/[^"]+)"', text):
        assert (ROOT / folder / "table.csv").exists(), f"{path}: {folder}"
