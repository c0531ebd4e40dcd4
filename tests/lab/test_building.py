"""Points are built with their numbers: bad ones are refused before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import base, dp, lab
from ppml_lab.lab import parts
from ppml_lab.lab.tree import paths

SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=2, eval_every=2),
)
PRIVATE = replace(SETUP, mechanism=parts.Gaussian(0.3, 1.0))
ADAPTIVE = replace(SETUP, mechanism=parts.AdaptiveGaussian(1.0, 0.3))
POOLED = parts.Central(mechanism=parts.Gaussian(0.3, 1.0))
SHARED = replace(SETUP, secure_sum=parts.AdditiveSharing(max_abs=1.0))
MOMENTUM = replace(SETUP, trainer=parts.FedAvg(parts.Sgd(0.1, 0.9)))
INF = float("inf")


@lab.part
class NoDefault:
    """A mechanism whose field has to be given, refused in words of its own."""

    strength: lab.Traced

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """Refuses what is not below 2."""
        if not isinstance(self.strength, float) or self.strength < 2:
            return dp.gaussian(self.strength, 1.0)
        raise ValueError("too strong; weaken it")


@pytest.mark.parametrize(
    ("setup", "path", "value", "words"),
    [
        (PRIVATE, "mechanism.clip_norm", -1.0, "clip_norm must be positive"),
        (PRIVATE, "mechanism.clip_norm", INF, "finite clip_norm"),
        (PRIVATE, "mechanism.noise_multiplier", -0.5, "noise_multiplier must be"),
        (POOLED, "mechanism.noise_multiplier", -0.5, "noise_multiplier must be"),
        (POOLED, "steps_per_round", 0, "steps_per_round must be"),
        (SETUP, "dropout_prob", 1.0, "must lie in [0, 1)"),
        # Before a mechanism counts on fewer than none.
        (ADAPTIVE, "dropout_prob", 2.0, "dropout_prob must lie in [0, 1)"),
        # Of two numbers that do not go together, the one that is swept.
        (ADAPTIVE, "mechanism.clip_learning_rate", 1e9, "noise_multiplier 0.3 "),
        (SETUP, "sampler.expected_cohort", 21.0, "from 1 to the population 20"),
        (SETUP, "trainer.batch_size", 0, "batch_size must be"),
        (SETUP, "trainer.optimizer.learning_rate", -0.1, "finite and not negative"),
        (SETUP, "server.learning_rate", INF, "finite and not negative"),
        (MOMENTUM, "trainer.optimizer.momentum", 1.0, "must lie in [0, 1)"),
        (SHARED, "secure_sum.max_abs", -1.0, "max_abs must be positive"),
        (SHARED, "secure_sum.modulus_bits", 16.5, "must be a whole number"),
        (
            replace(SETUP, mechanism=NoDefault(strength=1.0)),
            "mechanism.strength",
            3.0,
            "too strong; weaken it",
        ),
    ],
)
def test_points_refuse_bad_numbers_by_path_value_and_cure(
    setup: Any, path: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(path)} ") as raised:
        lab.points(lab.axis(path, [value]), setup, delta=1e-3)
    assert repr(value) in str(raised.value)
    assert words in str(raised.value)
    (good,) = lab.points(lab.seeds(1), setup, delta=1e-3)
    wrong = good._replace(setup=paths.replaced(setup, path, value))
    with pytest.raises(ValueError, match=re.escape(words)):
        lab.run_sweep([wrong], tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("setup", [PRIVATE, POOLED], ids=["federated", "central"])
def test_points_refuse_a_live_epsilon_that_no_program_has(setup: Any) -> None:
    live = replace(setup, live_epsilon=True)
    assert len(lab.points(lab.seeds(1), live, delta=1e-3)) == 1
    for delta, words in ((None, "live_epsilon needs a delta"), (1.5, "delta must lie")):
        with pytest.raises(ValueError, match=words):
            lab.points(lab.seeds(1), live, delta=delta)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\), got 0"):
        lab.points(lab.axis("delta", [1e-3, 0.0]), live)


@lab.part
class Counted(parts.Federated):
    """A setup that counts how often its algorithm is built."""

    def algorithm(self, facts: lab.Facts) -> base.FederatedAlgorithm:
        """The stock one."""
        if isinstance(self.dropout_prob, float):
            BUILT.append(self.dropout_prob)
        return super().algorithm(facts)


BUILT: list[float] = []


def test_a_sweep_builds_each_setup_once_whatever_the_seeds() -> None:
    setup = Counted(partition=parts.Iid(20), sampler=parts.Poisson(5))
    probs = [0.01 * n for n in range(1, 31)]
    found = lab.points(
        lab.product(lab.axis("dropout_prob", probs), lab.seeds(3)), setup
    )
    assert probs == BUILT
    # What is stated of them, and their keys, build none of them again.
    assert {point.key for point in found} == {"seed"}
    assert {lab.statement(point.setup)["privacy_unit"] for point in found} == {None}
    assert lab.cost_together(found) == []
    assert probs == BUILT
