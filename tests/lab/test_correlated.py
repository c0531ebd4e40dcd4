"""Sweeps over correlated noise and cohorts in turn: their states, stopped and resumed,
against the matrix product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppml_lab import base, dp, federated, lab, random
from ppml_lab.dp import accounting, strategies
from ppml_lab.lab import advance, parts, program
from ppml_lab.lab.building import built
from ppml_lab.lab.disk import records
from ppml_lab.lab.results import run_of

MEMBERS, COHORT, ROUNDS = 9, 3, 9
LAMBDAS = (0.0, 0.5, 0.9)


@lab.part
class OneEach:
    """Nine clients, each with a coordinate of its own."""

    def load(self) -> tuple[Any, Any, Any]:
        rows = {"x": np.eye(MEMBERS, dtype=np.float32)}
        return rows, np.arange(MEMBERS), rows


@lab.part
class Linear:
    """Whose gradient at an example is the example."""

    def build(self, facts: lab.Facts) -> base.Task:
        def loss(key: Any, w: Any, rows: Any) -> Any:
            return rows["x"] @ w

        return base.Task(
            lambda key: jnp.zeros(MEMBERS),
            loss,
            lambda w, rows: {"loss": rows["x"] @ w},
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> Any:
        return rows["x"] @ params


@lab.part
class Shown(parts.Federated):
    """Tells its model in every round, coordinate by coordinate."""

    def evaluate(self, state: Any, clients: Any, rows: Any) -> dict[str, Any]:
        return {f"w{i}": state.params[i] for i in range(MEMBERS)}


SETUP = Shown(
    data=OneEach(),
    partition=parts.Natural(),
    model=Linear(),
    trainer=parts.FedAvg(parts.Sgd(1.0)),
    sampler=parts.MinSeparation(COHORT),
    mechanism=parts.CorrelatedGaussian(1.0, 0.8),
    schedule=lab.Schedule(num_rounds=ROUNDS, eval_every=1, evals_per_chunk=3),
    layout=lab.Layout(num_lanes=1, num_devices=1),
)


def noise_of(point: lab.Point) -> np.ndarray:
    """`C^-1 z` in float64, from the seed words that the point's own key gives."""
    (words,) = program.inputs_of([point]).words
    init_key = jax.random.split(jax.random.wrap_key_data(jnp.asarray(words)))[0]
    seed = random.seed(jax.random.fold_in(init_key, 1))
    numbers = jnp.arange(ROUNDS)
    seeds = random.child(seed, numbers, jnp.zeros_like(numbers))
    fresh = np.asarray(random.normal(seeds, MEMBERS), np.float64)
    part = point.setup.mechanism.subtracted
    return (np.eye(ROUNDS) - part * np.eye(ROUNDS, k=-1)) @ fresh


@pytest.mark.exhaustive  # after a stop: dp/test_correlated
def test_a_stopped_sweep_makes_the_noise_of_the_matrix_product(
    tmp_path: Path, stop_sweep: Callable[..., None]
) -> None:
    """Three points with one seed, vmapped, stopped after their third round."""
    points = lab.points(lab.axis("mechanism.subtracted", LAMBDAS), SETUP, delta=1e-2)
    assert len({advance.program.group_of(point) for point in points}) == 1
    stop_sweep(points, tmp_path, rounds=9, slice_size=4)
    (saved,) = tmp_path.glob("checkpoints/*/*")
    assert saved.name == "3"
    lab.run_sweep(points, tmp_path, slice_size=4)
    all_noise = []
    for point in points:
        lines = records.read_lines(run_of(point, tmp_path).folder / "rounds.jsonl")
        models = [[line[f"w{i}"] for i in range(MEMBERS)] for line in lines]
        moved = np.diff(np.array([[0.0] * MEMBERS, *models]), axis=0)
        noise = noise_of(point)
        # What is left are the clients' updates: everyone once in three rounds.
        cohorts = 0.8 * noise - COHORT * moved
        np.testing.assert_allclose(cohorts, np.rint(cohorts), atol=1e-5)
        took_part = np.rint(cohorts).astype(int)
        assert (took_part.sum(1) == COHORT).all()
        for begin in range(ROUNDS - 2):
            assert (took_part[begin : begin + 3].sum(0) == 1).all()
        all_noise.append(noise)
    # Points that promise privacy have keys of their own: equal noise would cancel.
    for one, other in itertools.pairwise(all_noise):
        assert abs(stats.pearsonr(one.ravel(), other.ravel())[0]) < 0.5


@pytest.mark.parametrize(
    "mechanism",
    [
        parts.CorrelatedGaussian(1.0),
        pytest.param(parts.BandedGaussian(1.0), marks=pytest.mark.exhaustive),
        pytest.param(parts.Gaussian(1.0), marks=pytest.mark.exhaustive),
    ],
)
def test_targets_are_met_by_one_gaussian(mechanism: Any) -> None:
    sampler = parts.MinSeparation(2)
    setup = replace(SETUP, mechanism=mechanism, sampler=sampler)
    found = lab.calibrated(setup, 2.0, 1e-2)
    taken = {
        parts.CorrelatedGaussian: (0.9,),
        parts.BandedGaussian: strategies.square_root(4),
    }.get(type(mechanism), (0.0,))
    pattern = sampler.build(MEMBERS).participation(ROUNDS)
    assert pattern == base.Participation("member", 4, 2, None)
    moved = strategies.sensitivity(strategies.column(taken, ROUNDS), pattern)
    one = accounting.calibrate_noise_multiplier(
        lambda noise: dp.gaussian(1.0, noise).event(federated.everyone(9), 1),
        2.0,
        1e-2,
        "best",
    )
    assert found.mechanism.noise_multiplier == pytest.approx(moved * one, rel=2e-3)
    stated = lab.statement(found, 1e-2)
    assert stated["epsilon_public"] == pytest.approx(2.0, rel=1e-2)
    assert stated["epsilon_public"] <= 2
    assert stated["epsilon_server"] == math.inf
    assert stated["neighboring_relation"] == "zero_out"
    assert stated["noise_multiplier"] == found.mechanism.noise_multiplier


def test_what_does_not_go_together_is_said_when_points_are_built() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sampler": parts.Poisson(3)}, r"no amplification by sampling"),
        ({"sampler": parts.FixedSize(3)}, r"no amplification by sampling"),
        ({"mechanism": parts.BandedGaussian(bands=1)}, "bands must be an integer of"),
        ({"mechanism": parts.CorrelatedGaussian(subtracted=1)}, "subtracted must sum"),
        ({"sampler": parts.MinSeparation(4, 3)}, "separation 3 times cohort_size 4"),
    ]
    for fields, message in cases:
        with pytest.raises(ValueError, match=message):
            built(replace(SETUP, **fields))


def test_central_training_has_correlated_noise_too() -> None:
    setup = parts.Central(
        batch=parts.MinSeparation(200, 7),
        mechanism=parts.CorrelatedGaussian(1.0, 2.0),
        steps_per_round=2,
        schedule=lab.Schedule(num_rounds=10),
    )
    event = built(setup).event(10)
    # 1,437 examples: steps, not rounds, are releases.
    sampler = setup.batch.build(1437)
    mechanism = dp.correlated_gaussian(1.0, 2.0, 0.9, privacy_unit="example")
    expected = mechanism.event(sampler, 20)
    assert event.privacy_unit == "example"
    assert event.event.events[0] == expected.event
    with pytest.raises(ValueError, match="no amplification by sampling"):
        built(replace(setup, batch=parts.Poisson(200)))
