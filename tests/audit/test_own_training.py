"""Audits of training functions that are anybody's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import audit
from ppml_lab.audit import bounds

README = (Path(audit.__file__).parent / "README.md").read_text()
ROWS = {"x": np.ones((5, 2), np.float32)}
CANARY = {"x": np.full((1, 2), 0.8, np.float32)}
FEW: dict[str, Any] = {"num_runs": 40, "delta": 1e-5}
SCORE = lambda model, rows: model  # noqa: E731


def noisy_sum(noise: float) -> Any:
    """The sum of the first feature, less the five of the others, with noise."""

    def train(key: Any, rows: Any) -> Any:
        return jnp.sum(rows["x"][:, 0]) - 5 + noise * jax.random.normal(key)

    return train


@pytest.fixture(scope="module")
def readme() -> list[str]:
    """Its blocks: the reader's training, and its audit."""
    found = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(found) == 2
    assert len(found[1].strip().splitlines()) == 5
    return found


@pytest.mark.parametrize(
    "noise", ["6.0", pytest.param("0.0", marks=pytest.mark.exhaustive)]
)
def test_five_lines_audit_the_reader_s_own_training(
    readme: list[str], noise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is, and with its noise forgotten: then it is found out."""
    names: dict[str, Any] = {}
    exec(compile(readme[0], "README.md", "exec"), names)
    step = names["train"].__globals__
    claimed = step["NOISE"]
    step["NOISE"] = float(noise)
    with jax.numpy_dtype_promotion("standard"):
        exec(
            compile(readme[1].replace("NOISE", str(claimed)), "README.md", "exec"),
            names,
        )
    least, most = map(float, re.findall(r"[\d.]+(?= at)", capsys.readouterr().out))
    assert most == pytest.approx(2.1, abs=0.05)
    found = names["found"]
    if noise == "0.0":
        assert least > most
        assert found.bound.epsilon == pytest.approx(found.ceiling)
        assert least == pytest.approx(2.6, abs=0.05)
    else:
        assert least < most


def test_a_bound_is_that_of_the_scores_that_the_training_has() -> None:
    found = audit.training(noisy_sum(0.5), ROWS, CANARY, score=SCORE, **FEW)
    assert found.bound == bounds.clopper_pearson(found.errors, delta=1e-5, alpha=0.05)
    assert found.errors.num_in == found.errors.num_out == 20
    assert found.bound.epsilon <= found.ceiling
    for scores, mean in ((found.scores_in, 0.8), (found.scores_out, 0.0)):
        law = scipy.stats.norm(mean, 0.5)
        assert scipy.stats.kstest(scores, law.cdf).pvalue > 1e-4
    everything = np.concatenate([found.scores_in - 0.8, found.scores_out])
    # No two runs have one key.
    assert len(np.unique(everything.round(5))) == 80
    # One by one it is the same.
    single = audit.training(
        noisy_sum(0.5), ROWS, CANARY, score=SCORE, width=None, **FEW
    )
    np.testing.assert_allclose(single.scores_in, found.scores_in, atol=1e-5)
    assert single.bound == found.bound


def test_a_function_of_numpy_is_called_as_it_is() -> None:
    seen: list[int] = []

    def train(key: Any, rows: Any) -> float:
        seen.append(len(rows["x"]))
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return float(np.asarray(rows["x"])[-1, 0]) + 1e-3 * rng.normal()

    with pytest.raises(
        ValueError, match=r"cannot be traced by jax .*; give width=None"
    ):
        audit.training(train, ROWS, CANARY, score=SCORE, **FEW)
    seen.clear()
    found = audit.training(train, ROWS, CANARY, score=lambda m, rows: -m, width=None,
                           **FEW)  # fmt: skip
    assert sorted(seen) == [5] * 40 + [6] * 40
    # The canary scores lower, and that is told apart as well, but for what lies beyond
    # all scores of the half that chose the threshold.
    assert found.auc.value == 1
    assert 0.9 * found.ceiling < found.bound.epsilon <= found.ceiling
    seen.clear()
    other = {"x": np.zeros((1, 2), np.float32)}
    audit.training(train, ROWS, CANARY, score=SCORE, width=None, instead=other, **FEW)
    assert seen == [6] * 80


def remembers(key: Any, rows: Any) -> Any:
    """A training that keeps its rows."""
    return np.asarray(rows["x"])


def is_there(model: Any, rows: Any) -> np.ndarray:
    """Whether each row is among those of the model."""
    return (model[None] == rows["x"][:, None]).all(-1).any(-1).astype(float)


def test_randomness_that_tracing_makes_a_constant_is_refused() -> None:
    """Else the noise of a side would be one number, and tell the sides apart."""
    rng = np.random.default_rng(1)

    def constant(key: Any, rows: Any) -> Any:
        return jnp.sum(rows["x"]) + rng.normal()

    drawn = [rng.normal(size=2) for _ in range(9)]

    def array(key: Any, rows: Any) -> Any:
        return jnp.sum(rows["x"] @ jnp.asarray(drawn.pop(), jnp.float32))

    for train in (constant, array):
        with pytest.raises(ValueError, match="draws randomness without the key, which"):
            audit.training(train, ROWS, CANARY, score=SCORE, **FEW)
    found = audit.training(constant, ROWS, CANARY, score=SCORE, width=None, **FEW)
    assert len(np.unique(found.scores_in)) == FEW["num_runs"]
    # What always gives the same may be audited.
    found = audit.training(lambda key, rows: 0.0, ROWS, CANARY, score=SCORE, **FEW)
    assert found.bound.epsilon == 0


def test_runs_of_both_sides_are_called_in_random_order() -> None:
    """What changes from call to call, such as a cache that fills, tells nothing."""
    calls: list[int] = []

    def drifts(key: Any, rows: Any) -> Any:
        calls.append(len(rows["x"]))
        return float(len(calls))

    found = audit.training(drifts, ROWS, CANARY, score=SCORE, width=None, **FEW)
    assert found.bound.epsilon < 0.7 * found.ceiling
    assert 20 < np.mean(np.flatnonzero(np.array(calls) == 6)) < 60


@pytest.mark.parametrize("seed", [0, 7])
def test_coins_are_not_the_readers_own_numbers(seed: int) -> None:
    """Canaries are often made of `default_rng(seed)`, of the same seed as the audit."""
    for make in ("random", "standard_normal"):
        x = getattr(np.random.default_rng(seed), make)(200).astype(np.float32)
        for score in (lambda model, rows: rows["x"], lambda model, rows: -rows["x"]):
            found = audit.training_in_one_run(
                lambda key, rows: 0.0,
                {"x": np.zeros(5, np.float32)},
                {"x": x},
                score=score,
                seed=seed,
                delta=1e-5,
            )
            assert found.bound.epsilon < 0.5


def test_one_run_tells_a_training_that_remembers_from_one_that_does_not() -> None:
    canaries = {"x": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)}
    same: dict[str, Any] = {"canaries": canaries, "delta": 1e-5, "seed": 3}
    found = audit.training_in_one_run(remembers, ROWS, score=is_there, **same)
    assert found.guesses == (60, 24, 24)
    assert found.bound.epsilon == pytest.approx(found.ceiling)
    assert found.ceiling > 1.5
    np.testing.assert_array_equal(found.scores, found.included)
    assert scipy.stats.binomtest(int(found.included.sum()), 60, 0.5).pvalue > 1e-4
    blind = audit.training_in_one_run(
        lambda key, rows: None, ROWS, score=lambda m, rows: rows["x"][:, 0], **same
    )
    assert blind.bound.epsilon < 0.5
    again = audit.training_in_one_run(
        remembers, ROWS, score=is_there, **(same | {"seed": 4})
    )
    assert (again.included != found.included).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"canary": {"y": CANARY["x"]}}, r"canary must have the fields .*\['x'\], got"),
        ({"canary": {"x": CANARY["x"][0]}}, r"float32\[2\] each, got float32\[2\]"),
        ({"canary": {"x": CANARY["x"].astype(int)}}, r"each, got int64\[1, 2\]"),
        ({"canary": {"x": CANARY["x"][:0]}}, "the same number of rows in all fields"),
        ({"instead": {"x": np.ones((2, 2), np.float32)}}, "instead has 2 rows, but"),
        ({"score": lambda model, rows: rows["x"]}, r"one number .* got shape \[1, 2\]"),
        ({"num_runs": 4}, "num_runs: too few runs for alpha 0.05: 4 .* at least"),
        ({"delta": 0.0}, "delta must lie in"),
        ({"width": 0}, "width must be an integer of at least 1"),
    ],
)
def test_what_makes_no_audit_is_refused(wrong: dict[str, Any], words: str) -> None:
    right: dict[str, Any] = {"canary": CANARY, "score": SCORE} | FEW
    with pytest.raises(ValueError, match=words):
        audit.training(noisy_sum(1.0), ROWS, **(right | wrong))


def test_what_makes_no_audit_in_one_run_is_refused() -> None:
    canaries = {"x": np.zeros((60, 2), np.float32)}
    same: dict[str, Any] = {"delta": 1e-5, "score": is_there}
    few = {"x": canaries["x"][:10]}
    with pytest.raises(ValueError, match=r"too few guesses .* at least 5 canaries"):
        audit.training_in_one_run(remembers, ROWS, few, **same)
    with pytest.raises(ValueError, match=r"each of 60 canaries, got shape \[\]"):
        audit.training_in_one_run(
            remembers, ROWS, canaries, delta=1e-5, score=lambda model, rows: 1.0
        )
    with pytest.raises(ValueError, match=r"guessed must lie in \(0, 1\]"):
        audit.training_in_one_run(remembers, ROWS, canaries, guessed=0.0, **same)
