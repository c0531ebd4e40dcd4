"""A sweep over traced numbers and seeds is traced and compiled once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from ppml_lab import base, lab
from ppml_lab.lab import building, parts, program

NOISES = (0.05, 0.1, 0.3, 1.0, 3.0)
NUM_SEEDS = 4
# That slices change no result is tested with the engine.
KINDS = [
    (20, 1),
    *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in [(1, 1), (20, 4)]),
]
"""Slices, and how many of their points are vmapped."""
built: list[Any] = []
"""What `Counted` was asked to build."""


@lab.part
class Counted(parts.Federated):
    """A setup of one's own that notes when it is built, with a number of its own."""

    strength: lab.Traced = 1.0

    def algorithm(self, facts: lab.Facts) -> base.FederatedAlgorithm:
        """The stock one, of which the server learns faster."""
        built.append(self)
        made = parts.Federated.algorithm(self, facts)

        def one(key: Any, state: Any, clients: Any) -> Any:
            state, info = made.round(key, state, clients)
            return state, info | {"strength": self.strength * info["train_loss"]}

        return made._replace(round=one)


SETUP = Counted(
    partition=parts.Iid(10),
    sampler=parts.Everyone(),
    trainer=parts.FedAvg(batch_size=200),
    mechanism=parts.Gaussian(1.0, 1.0),
    schedule=lab.Schedule(num_rounds=2, eval_every=1),
)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a kind: what a sweep of 20 points gives, how often it built its algorithm with
    numbers and with traced ones, and how many chunks it compiled.
    """
    strengths = lab.axis("strength", range(len(NOISES)))
    noises = lab.zipped(lab.axis("mechanism.noise_multiplier", NOISES), strengths)
    points = lab.points(lab.product(noises, lab.seeds(NUM_SEEDS)), SETUP)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **rest: int | str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(rest.get("fun_name")))

    @functools.cache
    def counted(slice_size: int, width: int) -> Any:
        program.init_program.cache_clear()
        building.built.cache_clear()
        built.clear()
        compiled.clear()
        folder = tmp_path_factory.mktemp("sweep")
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            outcomes = lab.run_sweep(points, folder, width=width, slice_size=slice_size)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        traced = [isinstance(s.strength, jax.core.Tracer) for s in built]
        return outcomes, traced, sum("chunk" in name for name in compiled)

    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_points_are_one_program(counted: Any, kind: tuple[int, int]) -> None:
    _, traced, chunks = counted(*kind)
    # Two chunks of one round, in one slice or in twenty, are one program.
    assert chunks == 1
    # Traced for the first states, for what is swept, and for the rounds: as often for
    # twenty points as for one.
    assert traced.count(True) <= 4
    # With numbers once for each noise, which seeds share, and once for each slice.
    assert traced.count(False) <= len(NOISES) + 20 // kind[0] + 2


@pytest.mark.parametrize("kind", KINDS[1:])
def test_slices_and_width_change_nothing_but_rounding(
    counted: Any, kind: tuple[int, int]
) -> None:
    for one, other in zip(counted(20, 1)[0], counted(*kind)[0], strict=True):
        for name in ("loss", "train_loss", "cohort_size", "accuracy", "strength"):
            np.testing.assert_allclose(other.last[name], one.last[name], rtol=1e-4)


def test_points_are_told_apart(counted: Any) -> None:
    outcomes = counted(20, 1)[0]
    losses = np.array([row.last["loss"] for row in outcomes]).reshape(5, 4)
    assert len(np.unique(losses)) == 20
    assert losses[-1].mean() > losses[0].mean()
    shares = [row.last["strength"] / row.last["train_loss"] for row in outcomes[::4]]
    np.testing.assert_allclose(shares, range(5), rtol=1e-6)
