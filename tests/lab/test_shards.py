"""Shards of a sweep, and an experiment that runs in shards."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts, processes
from ppml_lab.lab.disk import records

TINY = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=2, eval_every=2),
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    num_seeds: int = 3


def points(experiment: Experiment) -> list[lab.Point]:
    held_out = dataclasses.replace(TINY.schedule, validation=0.1)
    setup = dataclasses.replace(
        TINY, mechanism=parts.Gaussian(1.0, 1.0), schedule=held_out
    )
    return lab.points(lab.seeds(experiment.num_seeds), setup, delta=1e-2)


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    return [
        {**run.point.labels, **run.guarantee, **run.outcome.last} for run in results
    ]


def start(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tiny", "smoke", "--out", str(out), *options])
    lab.run_experiment("tiny", "Tiny.", {"smoke": Experiment()}, points, table)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2", "shard '2' is not of the form i/n"),
        ("a/2", "shard 'a/2' is not of the form i/n"),
        ("0/2", "shard 0/2 does not exist; there are 2 shards, counted from 1"),
        ("3/2", "shard 3/2 does not exist"),
        ("1/0", "shard 1/0 does not exist"),
    ],
)
def test_a_shard_out_of_range_or_misspelt_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        processes.parse_shard(text)


def test_the_tasks_of_a_slurm_array_are_shards() -> None:
    def task(**numbers: int) -> processes.Shard | None:
        names = {f"SLURM_ARRAY_TASK_{name}": str(n) for name, n in numbers.items()}
        return processes.from_environment(names)

    assert task() is None
    assert task(ID=0, COUNT=4, MIN=0, STEP=1) == processes.Shard(1, 4)
    assert task(ID=7, COUNT=4, MIN=1, STEP=2) == processes.parse_shard("4/4")
    # --array=1,5,7
    with pytest.raises(ValueError, match=r"task 5 of this SLURM array .* pass --shard"):
        task(ID=5, COUNT=3, MIN=1, STEP=1)
    with pytest.raises(ValueError, match="task 2 of this SLURM array"):
        task(ID=2, COUNT=4, MIN=1, STEP=2)


def test_shards_are_equal_parts_with_few_programs() -> None:
    sweep = lab.product(lab.seeds(5), lab.axis("trainer.batch_size", (10, 20)))
    every = lab.points(sweep, TINY)
    for count in (1, 3, 4, 12):
        tasks = [processes.Shard(i + 1, count) for i in range(count)]
        parts = [processes.take(every, task) for task in tasks]
        together = [point for part in parts for point in part]
        assert len(together) == 10
        assert all(point in together for point in every)
        assert {len(part) for part in parts} <= {10 // count, 10 // count + 1}
        # Contiguous: one shard at most has both.
        assert sum(len({p.setup for p in part}) == 2 for part in parts) <= 1


@pytest.mark.exhaustive  # another's: test_examples
def test_an_experiment_in_shards_ends_with_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    with pytest.raises(SystemExit, match="holds no results to merge"):
        start(monkeypatch, parts, "--merge")
    with pytest.raises(SystemExit, match="shard 3/2 does not exist"):
        start(monkeypatch, parts, "--shard", "3/2")
    with pytest.raises(SystemExit, match="error: /proc/results cannot be written"):
        start(monkeypatch, Path("/proc/results"))
    for name, value in {"ID": 1, "COUNT": 2, "MIN": 1, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    start(monkeypatch, parts)
    said = capsys.readouterr().out
    assert "shard 1/2, by the task of the SLURM array" in said
    assert "; nothing for the 0.1 of the rows held out\n" in said
    assert "2 of 3 runs are not finished: seed 1, seed 2" in said
    # Who publishes one of the shards' runs has chosen among all of them.
    assert "All 3 private runs on Digits together" in said
    together = lab.cost_together(points(Experiment()))
    assert [row["runs"] for row in together] == [3]
    # No JSON has the infinity that is promised against the server.
    assert together[0].pop("epsilon_server") == math.inf
    together[0]["epsilon_server"] = None
    assert records.read_json(parts / "privacy.json") == together
    with pytest.raises(SystemExit, match="error: 2 of 3 runs are not finished"):
        start(monkeypatch, parts, "--merge")
    assert not (parts / "table.csv").exists()
    start(monkeypatch, parts, "--shard", "2/2")
    start(monkeypatch, whole, "--shard", "1/1")

    def rows(folder: Path) -> list[list[str]]:
        text = (folder / "table.csv").read_text()
        lines = [line.split(",") for line in text.splitlines()]
        timed = [i for i, name in enumerate(lines[0]) if "seconds" in name]
        return [[c for i, c in enumerate(cs) if i not in timed] for cs in lines]

    assert len(rows(parts)) == 4
    assert rows(parts) == rows(whole)
    cost = records.read_json(parts / "provenance.json")["cost"]
    costs = [
        records.read_json(path)["cost"] for path in parts.glob("runs/*/provenance.json")
    ]
    assert cost["run_seconds"] == pytest.approx(sum(c["run_seconds"] for c in costs))
    assert cost["table_seconds"] > 0
    # Seeds 1 and 2 ran in the same program.
    assert len({c["compile_seconds"] for c in costs}) == 2
    assert cost["compile_seconds"] < sum(c["compile_seconds"] for c in costs)
    (parts / "table.csv").unlink()
    start(monkeypatch, parts, "--merge")
    assert rows(parts) == rows(whole)
    assert records.read_json(parts / "privacy.json") == together
    keys = {row[rows(parts)[0].index("key")] for row in rows(parts)[1:]}
    assert keys == {points(Experiment())[0].key[:16]}


@pytest.mark.exhaustive  # another's: test_examples, and copies are files
def test_two_clusters_results_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of which every run says where it was made, and the merged table that it was in
    two places.
    """
    here, there = tmp_path / "here", tmp_path / "there"
    start(monkeypatch, here, "--shard", "1/2")
    start(monkeypatch, there, "--shard", "2/2")
    assert "nothing to do" not in capsys.readouterr().out
    start(monkeypatch, there, "--shard", "1/4")
    assert "shard 1/4 has nothing to do: there are 3 runs" in capsys.readouterr().out
    for stamp in there.glob("runs/*/provenance.json"):
        made = records.read_json(stamp)
        made["made_by"]["device"] = "NVIDIA H200"
        records.write_json(stamp, made)
    shutil.copytree(there / "runs", here / "runs", dirs_exist_ok=True)
    start(monkeypatch, here, "--merge")
    said = capsys.readouterr().out
    assert "these runs were made by 2 kinds of device: NVIDIA H200, cpu" in said
    assert records.read_json(here / "provenance.json")["runs"]["devices"] == [
        "NVIDIA H200", "cpu",
    ]  # fmt: skip
    assert len((here / "table.csv").read_text().splitlines()) == 4
    # Another configuration's folder is refused before anything is copied over.
    with pytest.raises(SystemExit, match="holds results of another configuration"):
        start(monkeypatch, here, "--num-seeds", "2")
