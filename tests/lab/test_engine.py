"""The engine: slices, how runs end, and what they leave on disk."""

from __future__ import annotations

import gc
import json
import math
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from ppml_lab import base, data, lab, tables
from ppml_lab.__main__ import main
from ppml_lab.dp import accounting
from ppml_lab.lab import advance, parts, program
from ppml_lab.lab.disk import records
from ppml_lab.lab.results import run_of

TINY = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=6, eval_every=2),
)
RATE = "trainer.optimizer.learning_rate"


def points_of(setup: Any, seeds: range = range(1)) -> list[lab.Point]:
    return lab.points(lab.axis("seed", seeds), setup)


def scheduled(setup: Any = TINY, **fields: Any) -> Any:
    """The same with other fields of its schedule."""
    return replace(setup, schedule=replace(setup.schedule, **fields))


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def last(outcomes: list[lab.Outcome]) -> list[dict[str, Any]]:
    return untimed([outcome.last for outcome in outcomes])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[lab.Outcome]:
    """Three seeds, one at a time."""
    return lab.run_sweep(points_of(TINY, range(3)), tmp_path_factory.mktemp("tiny"))


def test_a_finished_run_is_not_run_again(tiny: Any) -> None:
    reports: list[Any] = []
    folder = tiny[0].folder.parents[1]
    again = lab.run_sweep(
        points_of(TINY, range(3)), folder, report=lambda *said: reports.append(said)
    )
    assert again == tiny
    assert reports == [(18, "3 runs were finished before")]


def test_slices_and_order_do_not_change_results(tiny: Any, tmp_path: Path) -> None:
    points = points_of(TINY, range(3))
    together = lab.run_sweep(points[::-1], tmp_path, slice_size=3)
    assert last(tiny) == last(together[::-1])


@lab.part
class Refuses(parts.Federated):
    """Trains on no data."""

    def algorithm(self, facts: lab.Facts) -> base.FederatedAlgorithm:
        """The stock one, but for its check."""

        def refuse(clients: base.Clients) -> None:
            raise ValueError(f"no room for {data.num_clients(clients)} clients")

        return parts.Federated.algorithm(self, facts)._replace(check=refuse)


def test_data_that_an_algorithm_cannot_train_on_are_refused_before_it_runs(
    tmp_path: Path,
) -> None:
    refuses = Refuses(partition=TINY.partition, sampler=TINY.sampler)
    with pytest.raises(ValueError, match="no room for 20 clients"):
        lab.run_sweep(points_of(TINY) + points_of(refuses), tmp_path)
    assert not [*tmp_path.glob("runs/*")]


@pytest.mark.exhaustive  # in the same slices: test_examples
def test_a_stopped_sweep_goes_on_in_other_slices(
    tmp_path: Path, stop_sweep: Callable[..., None]
) -> None:
    # The mechanism has a state, too: its clip norm.
    setup = replace(TINY, mechanism=parts.AdaptiveGaussian(0.1, 0.5))
    points = points_of(setup, range(3))
    stop_sweep(points, tmp_path / "a", rounds=6, slice_size=3)
    (saved,) = tmp_path.glob("a/checkpoints/*/*")
    assert saved.name == "2"
    ledger = saved / "ledger" / "ledger.json"
    text = ledger.read_text()
    ledger.write_text(text.replace('"rounds": 2', '"rounds": 1'))
    with pytest.raises(ValueError, match=r"spent .*'rounds': 1.* now says .*'rounds'"):
        lab.run_sweep(points, tmp_path / "a", slice_size=2)
    key = points[0].key
    assert key in text
    ledger.write_text(text.replace(key, "other"))
    with pytest.raises(ValueError, match=f"'other'.* now says .*'{key}'"):
        lab.run_sweep(points, tmp_path / "a", slice_size=2)
    ledger.write_text(text)
    # One at a time, beside one that begins.
    points += points_of(setup, range(3, 4))
    gone_on = lab.run_sweep(points, tmp_path / "a", slice_size=2)
    assert last(gone_on) == last(lab.run_sweep(points, tmp_path / "b", slice_size=2))
    lines = records.read_lines(gone_on[0].folder / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # A clip norm that began again would be seen.
    assert len(set(gone_on[0].history("clip_norm"))) == 6


def test_a_run_that_diverges_ends_and_the_others_go_on(
    tiny: Any, tmp_path: Path
) -> None:
    points = lab.points(lab.axis(RATE, [0.1, 1e38]), TINY)
    good, bad = lab.run_sweep(points, tmp_path, slice_size=2)
    assert (good.diverged, bad.diverged) == (False, True)
    assert last([good]) == last(tiny[:1])
    assert good.last["round"] == 6
    assert bad.last["diverged_round"] in (1, 2)
    assert bad.last["round"] == 2
    # Strict JSON on disk, a number in memory.
    assert records.read_json(bad.folder / "result.json")["loss"] is None
    assert math.isnan(bad.last["loss"])
    assert [math.isfinite(loss) for loss in bad.history("loss")] == [False]


def test_a_slice_is_no_larger_than_the_memory(tmp_path: Path) -> None:
    rounds: list[int] = []
    texts: list[str] = []

    def report(done: int, text: str) -> None:
        rounds.append(done)
        texts.append(text)

    points = points_of(TINY, range(2))
    with pytest.raises(
        lab.TooLargeError, match="1 runs at once, the smallest number"
    ) as caught:
        lab.run_sweep(points, tmp_path, slice_size=2, memory_bytes=1)
    said = re.search(r"need ([\d.]+) KiB, but 0.0 KiB", str(caught.value))
    assert said
    assert "its largest arrays: f32[" in str(caught.value)
    one = int(1024 * float(said[1]) + 1024)
    lab.run_sweep(points, tmp_path, slice_size=2, memory_bytes=one, report=report)
    # Those of one run's chunk.
    assert max(rounds) == 2
    assert any("2 runs at once would need" in text for text in texts)


@pytest.mark.parametrize("what", ["a checkpoint", "lines"])
@pytest.mark.filterwarnings("ignore:.* is not a JSON row")
# Orbax leaves a coroutine of its own behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_runs_full_loses_only_what_it_could_not_write(
    tiny: Any, tmp_path: Path, what: str
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
    assert last(gone_on) == last(tiny[:2])
    assert len(gone_on[1].history("accuracy")) == 3
    # The coroutine ends here, and not in another test.
    del raised
    gc.collect()


def test_a_run_leaves_its_records(tiny: Any) -> None:
    point, outcome = points_of(TINY)[0], tiny[0]
    folder = outcome.folder
    assert folder.name == point.id
    config = records.read_json(folder / "config.json")
    assert config == json.loads(json.dumps(point.record()))
    assert config["key"] == "seed"
    assert config["setup"]["fields"]["sampler"]["fields"] == {"expected_cohort": 5.0}
    stamp = records.read_json(folder / "provenance.json")
    assert stamp["packages"]["jax"]
    assert stamp["flags"]["jax_num_cpu_devices"] is not None
    assert stamp["cost"]["run_seconds"] == outcome.last["seconds"]
    assert stamp["cost"]["compile_seconds"] == outcome.last["compile_seconds"] > 0
    # jax alone takes more than 50 MiB.
    assert 50 * 2**20 < stamp["cost"]["peak_memory_bytes"] < 2**40
    assert stamp["config"] == config
    lines = records.read_lines(folder / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["round"] for line in lines if "accuracy" in line] == [2, 4, 6]
    assert lines[-1]["accuracy"] == outcome.last["accuracy"]
    assert outcome.history("accuracy") == [line["accuracy"] for line in lines[1::2]]
    assert outcome.last["seconds"] > 0
    assert not [*folder.parents[1].glob("checkpoints/*")]
    assert outcome.history("epsilon") == [None, None, None]


@pytest.mark.exhaustive  # of rounds: dp/test_live
def test_every_evaluation_knows_the_epsilon_so_far(tmp_path: Path) -> None:
    private = replace(TINY, mechanism=parts.Gaussian(1.0, 1.5))
    noise = lab.axis("mechanism.noise_multiplier", [1.5, 0.0])
    points = lab.points(noise, private, delta=0.01)
    outcomes = lab.run_sweep(points, tmp_path, slice_size=2)
    algorithm = private.algorithm(lab.facts_of(private))
    expected = [accounting.epsilon(algorithm.event(t), 0.01) for t in (2, 4, 6)]
    assert outcomes[0].history("epsilon") == expected
    assert outcomes[1].history("epsilon") == [None, None, None]


def test_a_point_that_cannot_be_built_stops_the_sweep_before_it_starts(
    tmp_path: Path,
) -> None:
    secure = parts.AdditiveSharing(scale_bits=24)
    private = replace(TINY, mechanism=parts.Gaussian(30.0, 1.0), secure_sum=secure)
    with pytest.raises(ValueError, match="modulus too small"):
        lab.run_sweep(points_of(TINY) + points_of(private), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_chunks_cover_a_run_exactly() -> None:
    for rounds, every, evals in [(6, 2, 1), (23, 2, 3), (5, 10, 4), (12, 3, 4)]:
        schedule = lab.Schedule(
            num_rounds=rounds, eval_every=every, evals_per_chunk=evals
        )
        chunks = program.chunks_of(schedule)
        assert sum(chunk.num_evals * chunk.num_rounds for chunk in chunks) == rounds
        assert all(chunk.num_evals <= evals for chunk in chunks)
        assert all(chunk.num_rounds == every for chunk in chunks[:-1])


@pytest.mark.exhaustive  # chunks: federated/test_simulate
def test_evaluations_inside_a_chunk_are_those_of_short_chunks(
    tiny: Any, tmp_path: Path
) -> None:
    """Also where a chunk is left over, and rounds are."""
    rarely = scheduled(num_rounds=5, evals_per_chunk=2)
    (outcome,) = lab.run_sweep(points_of(rarely), tmp_path)
    for name, alike in {"accuracy": 2, "train_loss": 5}.items():
        found = outcome.history(name)
        assert found[:alike] == tiny[0].history(name)[:alike]
    assert len(outcome.history("accuracy")) == 3
    assert outcome.last["round"] == 5


VALIDATED = scheduled(
    replace(TINY, client_metrics=True),
    num_rounds=9, eval_every=1, evals_per_chunk=3, validation=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> lab.Outcome:
    """A run with validation rows that goes on to its end."""
    folder = tmp_path_factory.mktemp("validated")
    return lab.run_sweep(points_of(VALIDATED), folder)[0]


def test_a_run_ends_after_the_chunk_that_reached_its_goal(
    validated: lab.Outcome, tmp_path: Path
) -> None:
    accuracies = validated.history("validation_accuracy")
    assert accuracies != validated.history("accuracy")
    goal = (max(accuracies[:3]) + max(accuracies)) / 2
    reached = next(i for i, accuracy in enumerate(accuracies) if accuracy >= goal)
    (outcome,) = lab.run_sweep(points_of(scheduled(VALIDATED, stop_at=goal)), tmp_path)
    found = outcome.history("validation_accuracy")
    assert 3 <= len(found) == 3 * (reached // 3 + 1)
    assert found == accuracies[: len(found)]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_evaluation_of_validation_rows_is_kept(
    validated: lab.Outcome, tmp_path: Path, metric: str
) -> None:
    values = validated.history(f"validation_{metric}")
    best = (max if metric == "accuracy" else min)(values)
    kept = scheduled(VALIDATED, keep="best", metric=metric)
    (outcome,) = lab.run_sweep(points_of(kept), tmp_path)
    assert outcome.last["round"] == 1 + values.index(best)
    assert (
        outcome.last["accuracy"] == (validated.history("accuracy")[values.index(best)])
    )
    # The last parameters are still those of the whole run.
    assert outcome.last["params_digest"] == validated.last["params_digest"]


@pytest.mark.parametrize("other", [1.0, 0.0])
def test_only_validation_rows_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: float
) -> None:
    """Whatever test rows and clients' own accuracies say."""
    # The validation accuracy cannot reach 1, the others are made to; or it reaches
    # 0.05, and the others are made not to.
    setup = scheduled(
        VALIDATED, num_rounds=3, evals_per_chunk=1, stop_at=1.0 if other else 0.05
    )
    recorded = advance._record

    def record(run: Any, row: int, done: Any, *rest: Any) -> bool:
        assert {"accuracy", "client_accuracy"} < set(done.metrics)
        metrics = {
            name: values if name.startswith("validation_") else values * 0 + other
            for name, values in done.metrics.items()
        }
        return recorded(run, row, done._replace(metrics=metrics), *rest)

    monkeypatch.setattr(advance, "_record", record)
    (outcome,) = lab.run_sweep(points_of(setup), tmp_path)
    assert outcome.last["round"] == (3 if other else 1)
    assert outcome.last["client_accuracy"] == other


def test_a_metric_that_no_evaluation_has_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    for fields in ({"stop_at": 0.5}, {"keep": "best"}):
        setup = scheduled(VALIDATED, metric="acuracy", **fields)
        with pytest.raises(ValueError, match=r"metric 'acuracy' .* accuracy"):
            lab.run_sweep(points_of(TINY) + points_of(setup), tmp_path)
    assert not [*tmp_path.glob("runs/*")]


def test_stopping_and_choosing_need_validation_rows() -> None:
    choosing: tuple[dict[str, Any], ...] = ({"stop_at": 0.5}, {"keep": "best"})
    for fields in choosing:
        with pytest.raises(ValueError, match="choose by validation rows, but there"):
            lab.Schedule(**fields)
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"validation must lie in \[0, 1\)"):
            lab.Schedule(validation=share)
    for name in ("num_rounds", "eval_every", "evals_per_chunk"):
        with pytest.raises(ValueError, match=f"{name} must be .* at least 1, got 0"):
            scheduled(**{name: 0})


def test_finished_runs_of_other_data_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (point,) = points_of(TINY)
    before = run_of(point, tmp_path).name
    facts = lab.facts_of(TINY)
    assert facts.digests is not None
    changed = facts._replace(digests=facts.digests._replace(stored="other"))
    monkeypatch.setattr("ppml_lab.lab.results.facts_of", lambda setup: changed)
    assert run_of(point, tmp_path).name != before


def test_ways_to_run_are_checked(tmp_path: Path) -> None:
    for name in ("width", "slice_size", "memory_bytes"):
        fields: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be .* at least 1, got 0"):
            lab.run_sweep(points_of(TINY), tmp_path, **fields)
    with pytest.raises(ValueError, match="checkpoint_seconds must lie in"):
        lab.run_sweep(points_of(TINY), tmp_path, checkpoint_seconds=-1.0)


def test_programs_go_with_their_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process can map only so many programs, and a sweep may have any number."""
    alive: list[int] = []
    compiled = program.compile_chunk

    def counted(*arguments: Any) -> Any:
        gc.collect()
        alive.append(len(jax.local_devices()[0].client.live_executables()))
        return compiled(*arguments)

    monkeypatch.setattr(program, "compile_chunk", counted)
    batches = lab.axis("trainer.batch_size", range(2, 5))
    lab.run_sweep(lab.points(batches, scheduled(num_rounds=2)), tmp_path)
    assert len(alive) == 3
    # The program by which the last runs began is remembered.
    assert alive[2] <= alive[1] + 1


def test_a_sweep_is_saved_for_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = replace(TINY, mechanism=parts.Gaussian(1.0, 2.0))
    points = lab.points(lab.seeds(2), private, delta=1e-3)
    runs = lab.run_sweep(points, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["show", "mine"]) == 2
    assert "runs.save()" in capsys.readouterr().err
    assert runs.save() == tmp_path / "mine" / "table.csv"
    table = tables.read(runs.save("other.csv"))
    assert [row["seed"] for row in table] == [0, 1]
    assert {row["privacy_unit"] for row in table} == {"client"}
    assert {row["delta"] for row in table} == {1e-3}
    assert all(tables.is_finite(row["epsilon_public"]) for row in table)
    for command in ("show", "explore"):
        assert main([command, "mine", "--json"]) == 0, command
    assert capsys.readouterr().out.count("accuracy")
    with pytest.raises(ValueError, match="no runs to save"):
        lab.Outcomes().save()
