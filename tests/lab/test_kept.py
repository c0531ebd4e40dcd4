"""Parameters that sweeps keep: the right ones, sealed, and after a kill too."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, lab, tables, trees
from ppml_lab.lab import parts
from ppml_lab.lab.disk import records

LAYOUT = lab.Layout(num_devices=1)
CHOSEN = lab.Schedule(
    num_rounds=6, eval_every=1, evals_per_chunk=3, validation=0.3, metric="loss"
)


@lab.part
class Rows:
    """Two labels of two features, by four owners."""

    def load(self) -> tuple[Any, np.ndarray, Any]:
        """Made rows."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 2)).astype(np.float32)
        y = (x[:, 0] + 0.5 * rng.normal(size=60) > 0).astype(np.int32)
        train, test = ({"x": x[i], "y": y[i]} for i in (slice(40), slice(40, 60)))
        return train, np.arange(40) % 4, test


@lab.part
class Line:
    """A logistic regression whose parameters are an array, and an empty one."""

    def build(self, facts: lab.Facts) -> base.Task:
        """No bias."""

        def losses(params: Any, rows: Any) -> jax.Array:
            logit = rows["x"] @ params[0]
            return jnp.logaddexp(0.0, logit) - jnp.where(rows["y"] == 1, logit, 0.0)

        return base.Task(
            init=lambda key: (jax.random.normal(key, (2,)), jnp.zeros((0, 3))),
            loss=lambda key, params, rows: losses(params, rows),
            evaluate=lambda params, rows: {"loss": losses(params, rows)},
            roles=lambda params: ("trainable", "constant"),
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> jax.Array:
        """Logits of both labels."""
        logit = rows["x"] @ params[0]
        return jnp.stack([jnp.zeros_like(logit), logit], axis=1)


SETUP = parts.Central(
    data=Rows(),
    model=Line(),
    # So fast that it overshoots: the best evaluation is not the last.
    optimizer=parts.Sgd(20.0),
    batch=parts.Poisson(8),
    schedule=CHOSEN,
    layout=LAYOUT,
)


def scheduled(**fields: Any) -> parts.Central:
    schedule = dataclasses.replace(CHOSEN, **fields)
    return dataclasses.replace(SETUP, schedule=schedule)


def points(count: int = 2, **fields: Any) -> list[lab.Point]:
    # Whose best evaluations are in the first chunk, and in the second.
    seeds = lab.axis("seed", (4, 0)[:count])
    return lab.points(seeds, scheduled(**fields))


def untimed(outcome: lab.Outcome) -> dict[str, Any]:
    return {k: v for k, v in outcome.last.items() if not k.endswith("seconds")}


class StoppedError(Exception):
    """Raised in the middle of a sweep."""


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> list[lab.Outcome]:
    folder = tmp_path_factory.mktemp("best")
    return lab.run_sweep(points(), folder, keep="best", slice_size=2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[lab.Outcome]:
    folder = tmp_path_factory.mktemp("plain")
    return lab.run_sweep(points(), folder, slice_size=2)


def rounds_of_best(outcomes: list[lab.Outcome]) -> list[int]:
    losses = [outcome.history("validation_loss") for outcome in outcomes]
    return [1 + int(np.argmin(values)) for values in losses]


def test_the_best_parameters_are_those_of_a_run_that_ends_there(
    best: list[lab.Outcome], tmp_path: Path
) -> None:
    places = rounds_of_best(best)
    # Inside of both chunks, not at an end: else nothing is chosen.
    assert places == [2, 5]
    for outcome, place in zip(best, places, strict=True):
        assert outcome.kept is not None
        about = (outcome.kept.keep, outcome.kept.round, outcome.kept.metric)
        assert about == ("best", place, "validation_loss")
        found = outcome.params()
        assert jax.tree.structure(found) == jax.tree.structure((0, 0))
        assert trees.digest(found) == outcome.kept.digest
        assert found[1].shape == (0, 3)
        rows: Any = lab.load_data(SETUP).validation
        scores = SETUP.predict(found, rows)
        chances = jax.nn.log_softmax(scores)[np.arange(len(scores)), rows["y"]]
        stated = min(outcome.history("validation_loss"))
        assert float(-jnp.mean(chances)) == pytest.approx(stated, rel=1e-5)
    # One with its first rounds alone: the same randomness.
    shorter = points(1, num_rounds=places[0])
    (short,) = lab.run_sweep(shorter, tmp_path, keep="last")
    assert short.kept is not None
    assert (short.kept.round, short.kept.metric) == (places[0], None)
    assert trees.digest(short.params()) == trees.digest(best[0].params())
    assert short.last["params_digest"] == trees.digest(short.params())


def test_the_example_of_the_readme_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(lab.__file__).parent / "README.md").read_text()
    found = r"run by tests/lab/test_kept.py -->\n```python\n(.*?)```"
    (example,) = re.findall(found, text, re.DOTALL)
    assert example.count("\n") == 5
    # Of the first of these runs, which are finished.
    names: dict[str, Any] = {"lab": lab, "setup": SETUP, "folder": tmp_path}
    exec(compile(example, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "by validation_loss" in said
    place = (
        names["outcome"]
        .history("validation_loss")
        .index(min(names["outcome"].history("validation_loss")))
    )
    accuracy = float(said.split("accuracy ")[1])
    assert accuracy == pytest.approx(names["outcome"].history("accuracy")[place])


def test_keeping_changes_no_result(
    best: list[lab.Outcome], plain: list[lab.Outcome]
) -> None:
    assert [untimed(one) for one in best] == [untimed(one) for one in plain]
    assert not [*plain[0].folder.glob("params*")]


def test_what_a_stopped_sweep_had_chosen_is_not_lost(
    best: list[lab.Outcome], tmp_path: Path
) -> None:
    said: list[str] = []

    def stop(run: Any, number: int, scalars: Any) -> None:
        if number > 3:
            raise StoppedError

    def run(**how: Any) -> list[lab.Outcome]:
        return lab.run_sweep(
            points(), tmp_path, slice_size=2, checkpoint_seconds=0,
            report=lambda done, text: said.append(text), **how,
        )  # fmt: skip

    # Of two chunks the first is saved, and in it lies a best evaluation.
    with pytest.raises(StoppedError):
        run(on_metrics=stop)
    with pytest.raises(StoppedError):
        run(on_metrics=stop, keep="best")
    assert any("3 does not carry the parameters of the best" in text for text in said)
    assert [*tmp_path.glob("checkpoints/*/3")]
    said.clear()
    for one, whole in zip(run(keep="best"), best, strict=True):
        assert one.kept == whole.kept
        assert trees.digest(one.params()) == trees.digest(whole.params())
    assert not [text for text in said if "start" in text]


def test_finished_runs_without_parameters_say_how_to_get_them(
    plain: list[lab.Outcome], tmp_path: Path
) -> None:
    shutil.copytree(plain[0].folder.parents[1], tmp_path, dirs_exist_ok=True)
    with pytest.raises(FileNotFoundError, match=r"keep='last', again=True\), or"):
        plain[0].params()
    said: list[str] = []

    def tell(done: int, text: str) -> None:
        said.append(text)

    kept = lab.run_sweep(points(), tmp_path, keep="last", report=tell)
    assert [one.kept for one in kept] == [None, None]
    assert any(
        "2 finished runs have no parameters of their last" in text
        and "again=True, or --again" in text
        for text in said
    ), said
    again = lab.run_sweep(points(), tmp_path, keep="last", again=True, slice_size=2)
    assert [untimed(one) for one in again] == [untimed(one) for one in plain]
    for one in again:
        assert trees.digest(one.params()) == one.last["params_digest"]
    # What is there is not made again, and what is not asked for stays.
    said.clear()
    for keep in ("last", None):
        found = lab.run_sweep(points(), tmp_path, keep=keep, again=True, report=tell)
        assert [one._replace(asked="last") for one in found] == again
    assert said == ["2 runs were finished before"] * 2
    # Nor is it taken for something else.
    others = lab.run_sweep(points(), tmp_path, keep="best")
    with pytest.raises(FileNotFoundError, match=r"of its last .* asked for the best"):
        others[0].params()


def test_damage_is_named(best: list[lab.Outcome], tmp_path: Path) -> None:
    run = tmp_path / best[0].folder.name
    shutil.copytree(best[0].folder, run)
    here = best[0]._replace(folder=run)
    here.params()
    for path in [one for one in run.glob("params/states/**/*") if one.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]) if whole else b"1")
    with pytest.raises(lab.DamagedError, match=f"{run}/params .* delete {run}, and"):
        here.params()
    # Those of another run are whole, and not its own.
    shutil.rmtree(run / "params")
    shutil.copytree(best[1].folder / "params", run / "params")
    with pytest.raises(lab.DamagedError, match="params has changed since the run"):
        here.params()
    shutil.rmtree(run / "params")
    with pytest.raises(lab.DamagedError, match=r"is missing, .* keep='best'"):
        here.params()
    result = records.read_json(run / "result.json")
    result["kept"]["digest"] = "0" * 16
    (run / "result.json").write_text(json.dumps(result))
    with pytest.raises(records.DamagedError, match="has changed since it was written"):
        records.read_result(run)


def test_what_cannot_be_chosen_is_refused_before_anything_runs(tmp_path: Path) -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"validation": 0.0}, r"set the schedule's validation, such as 0\.1, and its"),
        ({"metric": "acuracy"}, r"metric 'acuracy' is not a metric .*: accuracy, loss"),
    )
    for fields, words in refused:
        with pytest.raises(ValueError, match=words):
            lab.run_sweep(points(1, **fields), tmp_path, keep="best")
    worst: Any = "worst"
    with pytest.raises(ValueError, match="keep must be 'last' or 'best' or None"):
        lab.run_sweep(points(1), tmp_path, keep=worst)
    assert not [*tmp_path.glob("runs/*")]


def test_a_run_that_diverges_keeps_its_best(tmp_path: Path) -> None:
    wild = lab.variants("rate", {"wild": {"optimizer.learning_rate": 3e38}})
    (outcome,) = lab.run_sweep(lab.points(wild, SETUP), tmp_path, keep="best")
    assert outcome.diverged
    assert outcome.kept is not None
    # Of evaluations that are none the first counts.
    finite = np.isfinite(outcome.history("validation_loss"))
    assert outcome.kept.round == 1 + int(np.argmax(finite))


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([3.0, 1.0, 1.0, 2.0], 2),
        ([np.nan, 5.0, np.inf, 4.0], 4),
        ([np.nan, np.nan, np.nan, np.nan], 1),
        ([-np.inf, 2.0, 2.0, 3.0], 2),
    ],
)
def test_ranks_order_evaluations(values: list[float], chosen: int) -> None:
    ranks = [CHOSEN.rank(value) for value in values]
    assert 1 + int(np.argmin(ranks)) == chosen
    upwards = dataclasses.replace(CHOSEN, metric="accuracy")
    ranks = [upwards.rank(-value) for value in values]
    assert 1 + int(np.argmin(ranks)) == chosen


@pytest.mark.parametrize(
    ("metric", "smaller"),
    [
        *((name, True) for name in ("loss", "perplexity", "nll", "mae", "brier_score")),
        *((name, False) for name in ("accuracy", "semseg_iou", "terror_recall")),
        ("concordance", False),
    ],
)
def test_names_of_metrics_say_which_values_are_good(metric: str, smaller: bool) -> None:
    schedule = dataclasses.replace(CHOSEN, metric=metric)
    assert schedule.smaller_is_better == smaller
    turned = dataclasses.replace(schedule, higher_is_better=smaller)
    assert turned.smaller_is_better != smaller


@pytest.mark.parametrize("metric", ["gain", "accuracy_loss"])
def test_a_metric_whose_name_says_nothing_is_asked_about(metric: str) -> None:
    schedule = lab.Schedule(validation=0.1, metric=metric, keep="best")
    with pytest.raises(ValueError, match=f"metric '{metric}' has no known direction; "):
        schedule.check_judged([f"validation_{metric}"])
    asked = dataclasses.replace(schedule, higher_is_better=True)
    asked.check_judged([f"validation_{metric}"])
    assert not asked.smaller_is_better


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Two seeds."""

    num_seeds: int = 2


def table(experiment: Experiment, results: list[lab.Result]) -> list[dict[str, Any]]:
    """Digests of what is kept."""
    return [
        {**run.point.labels, "digest": trees.digest(run.outcome.params())}
        for run in results
    ]


def test_shards_keep_them_and_tables_are_made_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, best: list[lab.Outcome]
) -> None:
    # The first shard has run; its table waits for the second.
    shutil.copytree(best[0].folder, tmp_path / "runs" / best[0].folder.name)
    argv = ["tiny", "smoke", "--out", str(tmp_path), "--shard", "2/2"]
    monkeypatch.setattr(sys, "argv", [*argv, "--keep", "best"])
    configs = {"smoke": Experiment()}
    lab.run_experiment("tiny", "Tiny.", configs, lambda config: points(), table)
    found = [row["digest"] for row in tables.read(tmp_path / "table.csv")]
    assert found == [trees.digest(one.params()) for one in best]
