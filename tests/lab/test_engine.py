"""Sweeps: slices, how runs end, and what they leave on disk."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import base, data, lab
from ppml_lab.dp import accounting
from ppml_lab.lab import advance, program, records
from ppml_lab.lab.experiment import build
from ppml_lab.lab.point import run_of

TINY = lab.Config(
    data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=6, eval_every=2
)


def points_of(config: lab.Config, seeds: range) -> list[lab.Point]:
    return [lab.Point(config, lab.Hyperparams(), s, {"seed": s}) for s in seeds]


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def last(outcomes: list[lab.Outcome]) -> list[dict[str, Any]]:
    return untimed([outcome.last for outcome in outcomes])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    points = points_of(TINY, range(2))
    first = lab.run_sweep(points, tmp_path)
    assert lab.run_sweep(points, tmp_path) == first


def test_slices_and_order_do_not_change_results(tmp_path: Path) -> None:
    points = points_of(TINY, range(3))
    alone = lab.run_sweep(points, tmp_path / "alone")
    together = lab.run_sweep(points[::-1], tmp_path / "together", slice_size=3)
    assert last(alone) == last(together[::-1])


def test_data_that_an_algorithm_cannot_train_on_are_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_small(*parts: Any) -> base.FederatedAlgorithm:
        return build(*parts)._replace(check=refuse)

    def refuse(clients: base.Clients) -> None:
        raise ValueError(f"no room for {data.num_clients(clients)} clients")

    monkeypatch.setattr(advance, "build", too_small)
    with pytest.raises(ValueError, match="no room for 20 clients"):
        lab.run_sweep(points_of(TINY, range(1)), tmp_path)


class StoppedError(Exception):
    """Raised in the middle of a sweep, by its report."""


def stop_after(rounds: int) -> Callable[[int, str], None]:
    left = [rounds]

    def report(done: int, text: str) -> None:
        left[0] -= done
        if left[0] < 0:
            raise StoppedError

    return report


def test_a_stopped_sweep_goes_on_in_other_slices(tmp_path: Path) -> None:
    # The mechanism has a state, too: its clip norm.
    config = dataclasses.replace(TINY, privacy="central", clipping="adaptive")
    rates = lab.Hyperparams(noise_multiplier=0.5, clip_norm=0.1)
    points = [lab.Point(config, rates, seed, {"seed": seed}) for seed in range(3)]
    with pytest.raises(StoppedError):
        lab.run_sweep(
            points, tmp_path / "a", slice_size=3, checkpoint_seconds=0,
            report=stop_after(6),
        )  # fmt: skip
    (saved,) = tmp_path.glob("a/checkpoints/*/*")
    assert saved.name == "2"
    ledger = saved / "ledger" / "ledger.json"
    text = ledger.read_text()
    ledger.write_text(text.replace('"rounds": 2', '"rounds": 1'))
    with pytest.raises(ValueError, match=r"spent .*'rounds': 1.* now says .*'rounds'"):
        lab.run_sweep(points, tmp_path / "a")
    key = points[0].key
    assert key in text
    ledger.write_text(text.replace(key, "own other"))
    with pytest.raises(ValueError, match=f"'own other'.* now says .*'{key}'"):
        lab.run_sweep(points, tmp_path / "a")
    ledger.write_text(text)
    # One at a time, beside one that begins.
    points.append(lab.Point(config, rates, 3, {"seed": 3}))
    gone_on = lab.run_sweep(points, tmp_path / "a", slice_size=2)
    assert last(gone_on) == last(lab.run_sweep(points, tmp_path / "b"))
    lines = records.read_lines(gone_on[0].folder / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # A clip norm that began again would be seen.
    assert len(set(gone_on[0].history("clip_norm"))) == 6


def test_a_run_that_diverges_ends_and_the_others_go_on(tmp_path: Path) -> None:
    points = [
        lab.Point(TINY, lab.Hyperparams(learning_rate=rate), 0, {"rate": rate})
        for rate in (0.1, 1e38)
    ]
    good, bad = lab.run_sweep(points, tmp_path / "together", slice_size=2)
    assert (good.diverged, bad.diverged) == (False, True)
    assert last([good]) == last(lab.run_sweep(points[:1], tmp_path / "alone"))
    assert last([bad]) == last(lab.run_sweep(points[1:], tmp_path / "alone"))
    assert good.last["round"] == 6
    assert bad.last["diverged_round"] in (1, 2)
    assert bad.last["round"] == 2
    # Strict JSON on disk, a number in memory.
    assert records.read_json(bad.folder / "result.json")["loss"] is None
    assert math.isnan(bad.last["loss"])
    assert [math.isfinite(loss) for loss in bad.history("loss")] == [False]


def test_a_slice_is_no_larger_than_the_memory(tmp_path: Path) -> None:
    rounds: list[int] = []
    lab.run_sweep(
        points_of(TINY, range(2)), tmp_path, slice_size=2, memory_bytes=1,
        report=lambda done, text: rounds.append(done),
    )  # fmt: skip
    # Those of one run's chunk.
    assert max(rounds) == 2


@pytest.mark.parametrize("what", ["a checkpoint", "lines"])
@pytest.mark.filterwarnings("ignore:.* is no JSON row")
# Orbax leaves a coroutine of its own behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_runs_full_loses_only_what_it_could_not_write(
    tmp_path: Path, what: str
) -> None:
    points = points_of(TINY, range(2))
    unlimited = resource.RLIM_INFINITY
    left = [8]

    def report(done: int, text: str) -> None:
        left[0] -= done
        if left[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, unlimited))

    seconds = 0.0 if what == "a checkpoint" else 100.0
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            lab.run_sweep(points, tmp_path, report=report, checkpoint_seconds=seconds)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert "are kept in" in raised.value.__notes__[0]
    assert [run_of(point, tmp_path).is_finished for point in points] == [True, False]
    gone_on = lab.run_sweep(points, tmp_path)
    assert last(gone_on) == last(lab.run_sweep(points, tmp_path / "whole"))
    assert len(gone_on[1].history("accuracy")) == 3
    # The coroutine ends here, and not in another test.
    del raised
    gc.collect()


def test_a_run_leaves_its_records(tmp_path: Path) -> None:
    (point,) = points_of(TINY, range(1))
    (outcome,) = lab.run_sweep([point], tmp_path)
    folder = tmp_path / "runs" / records.run_id(point.record())
    assert records.read_json(folder / "config.json") == json.loads(
        records.canonical(point.record())
    )
    stamp = records.read_json(folder / "provenance.json")
    assert stamp["packages"]["jax"]
    assert stamp["flags"]["jax_num_cpu_devices"] is not None
    assert stamp["cost"]["run_seconds"] == outcome.last["seconds"]
    assert stamp["cost"]["compile_seconds"] == outcome.last["compile_seconds"] > 0
    # jax alone takes more than 50 MiB.
    assert 50 * 2**20 < stamp["cost"]["peak_memory_bytes"] < 2**40
    assert stamp["config"] == records.read_json(folder / "config.json")
    lines = records.read_lines(folder / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["round"] for line in lines if "accuracy" in line] == [2, 4, 6]
    assert lines[-1]["accuracy"] == outcome.last["accuracy"]
    assert outcome.history("accuracy") == [line["accuracy"] for line in lines[1::2]]
    assert outcome.last["seconds"] > 0
    assert not [*tmp_path.glob("checkpoints/*")]


def test_every_evaluation_knows_the_epsilon_so_far(tmp_path: Path) -> None:
    private = dataclasses.replace(TINY, privacy="central", sampler="poisson")
    noise = lab.Hyperparams(noise_multiplier=1.5)
    points = [
        lab.Point(config, rates, 0, {"name": name}, delta)
        for name, config, rates, delta in (
            ("private", private, noise, 0.01),
            ("silent", private, lab.Hyperparams(noise_multiplier=0.0), 0.01),
            ("plain", TINY, lab.Hyperparams(), None),
        )
    ]
    outcomes = lab.run_sweep(points, tmp_path)
    facts = lab.load_data(TINY.data).facts
    algorithm = lab.build(private, noise, facts)
    expected = [accounting.epsilon(algorithm.event(t), 0.01) for t in (2, 4, 6)]
    assert outcomes[0].history("epsilon") == expected
    for outcome in outcomes[1:]:
        assert outcome.history("epsilon") == [None, None, None]


def test_rounds_that_do_not_divide_into_chunks(tmp_path: Path) -> None:
    config = lab.Config(
        data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=5, eval_every=2
    )
    (outcome,) = lab.run_sweep(points_of(config, range(1)), tmp_path)
    assert outcome.last["round"] == 5


def test_a_point_that_cannot_be_built_stops_the_sweep_before_it_starts(
    tmp_path: Path,
) -> None:
    secure = dataclasses.replace(TINY, privacy="central", secure_sum="additive_sharing")
    good = points_of(TINY, range(1))
    rates = lab.Hyperparams(clip_norm=30.0, scale_bits=24)
    bad = [lab.Point(secure, rates, 0, {})]
    with pytest.raises(ValueError, match="modulus too small"):
        lab.run_sweep(good + bad, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_chunks_cover_a_run_exactly() -> None:
    for rounds, every, evals in [(6, 2, 1), (23, 2, 3), (5, 10, 4), (12, 3, 4)]:
        config = dataclasses.replace(
            TINY, num_rounds=rounds, eval_every=every, evals_per_chunk=evals
        )
        chunks = program.chunks_of(config)
        assert sum(chunk.num_evals * chunk.num_rounds for chunk in chunks) == rounds
        assert all(chunk.num_evals <= evals for chunk in chunks)
        assert all(chunk.num_rounds == every for chunk in chunks[:-1])


def test_evaluations_inside_a_chunk_are_those_of_short_chunks(tmp_path: Path) -> None:
    often = dataclasses.replace(TINY, num_rounds=7, evaluate_clients=True)
    rarely = dataclasses.replace(often, evals_per_chunk=3)
    histories = []
    for name, config in (("often", often), ("rarely", rarely)):
        (outcome,) = lab.run_sweep(points_of(config, range(1)), tmp_path / name)
        names = ("accuracy", "train_loss", "client_accuracy_worst_decile")
        histories.append([outcome.history(name) for name in names])
    assert histories[0] == histories[1]
    assert [len(values) for values in histories[0]] == [4, 7, 4]


def test_a_run_ends_after_the_chunk_that_reached_its_goal(tmp_path: Path) -> None:
    whole = dataclasses.replace(TINY, num_rounds=20, eval_every=1, evals_per_chunk=4)
    (outcome,) = lab.run_sweep(points_of(whole, range(1)), tmp_path / "whole")
    accuracies = outcome.history("accuracy")
    goal = (max(accuracies[:4]) + max(accuracies)) / 2
    reached = next(i for i, accuracy in enumerate(accuracies) if accuracy >= goal)
    stopping = dataclasses.replace(whole, stop_at_accuracy=goal)
    (outcome,) = lab.run_sweep(points_of(stopping, range(1)), tmp_path / "stops")
    found = outcome.history("accuracy")
    assert 4 < len(found) == 4 * (reached // 4 + 1)
    assert found == accuracies[: len(found)]


@pytest.mark.parametrize("other", [1.0, 0.0])
def test_only_the_test_accuracy_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: float
) -> None:
    """Whatever clients' own accuracies say, which are of what they train on."""
    config = dataclasses.replace(
        TINY, num_rounds=3, eval_every=1, evaluate_clients=True, stop_at_accuracy=0.05
    )
    if other:
        # The test accuracy cannot reach this, the clients' is made to.
        config = dataclasses.replace(config, stop_at_accuracy=1.0)
    recorded = advance._record

    def record(run: Any, row: int, done: Any, *rest: Any) -> bool:
        assert any(name != "accuracy" and "accuracy" in name for name in done.metrics)
        metrics = {
            name: values if name in ("accuracy", "loss") else values * 0 + other
            for name, values in done.metrics.items()
        }
        return recorded(run, row, done._replace(metrics=metrics), *rest)

    monkeypatch.setattr(advance, "_record", record)
    (outcome,) = lab.run_sweep(points_of(config, range(1)), tmp_path)
    assert outcome.last["round"] == (3 if other else 1)
    assert outcome.last["client_accuracy"] == other


def test_finished_runs_of_other_data_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (point,) = points_of(TINY, range(1))
    before = run_of(point, tmp_path).name
    facts = lab.load_data(TINY.data).facts
    assert facts.digests is not None
    changed = facts._replace(digests=facts.digests._replace(stored="other"))
    monkeypatch.setattr("ppml_lab.lab.point.facts_of", lambda config: changed)
    assert run_of(point, tmp_path).name != before


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_key_has_are_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed must be from 0 .* got {seed}"):
        lab.run_sweep(points_of(TINY, range(seed, seed + 1)), tmp_path)
