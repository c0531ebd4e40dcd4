"""The README's example and commands work as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppml_lab import lab
from ppml_lab.__main__ import COMMANDS, main
from ppml_lab.cli import experiments
from ppml_lab.lab import parts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    epsilon = re.search(r"epsilon ([0-9.]+)", printed)
    accuracy = re.search(r"accuracy \[([0-9.]+)\]", printed)
    assert epsilon is not None
    assert accuracy is not None
    assert 1 < float(epsilon[1]) < 20
    assert float(accuracy[1]) > 0.8


def test_the_sweep_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```\n(rates = .*?)```", README, re.DOTALL)
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
    (example,) = re.findall(r"```\n(writer = .*?)```", README, re.DOTALL)
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
    commands = re.findall(r"^\.venv/bin/python -m ppml_lab (.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main(command.split()) == 0
        assert "rdp" in capsys.readouterr().out


def test_every_command_is_listed() -> None:
    section = README.partition("The other commands of")[2].split("\n\n")[1]
    listed = re.findall(r"^- `(\w+)", section, re.MULTILINE)
    shown = re.findall(r"^\.venv/bin/python -m ppml_lab (\w+)", README, re.MULTILINE)
    assert sorted(COMMANDS) == sorted([*listed, *shown])


def test_every_experiment_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    stems = set(experiments.find())
    assert stems == set(re.findall(r"^\| `(\w+)` .*\(results/", README, re.MULTILINE))


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
