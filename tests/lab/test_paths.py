"""Key paths: what they name, and setups with other values there."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.tree import paths

SETUP = parts.Federated(
    trainer=parts.FedProx(parts.Adam(0.01)),
    mechanism=parts.ScheduledGaussian(noise_schedule=parts.Cosine(5)),
    metrics=(parts.Accuracy(), parts.F1(0.5)),
)


@lab.part
class Holder:
    """Tuples of parts with numbers."""

    optimizers: tuple[parts.Optimizer, ...] = (parts.Sgd(1), parts.Adam(2))
    either: lab.Traced | parts.Optimizer = 0.5
    maybe: parts.Optimizer | None = None


def test_numbers_are_in_the_order_of_the_leaves() -> None:
    names = paths.numbers(SETUP)
    assert len(names) == len(jax.tree.leaves(SETUP)) == len(set(names))
    values = [paths.value_at(SETUP, name) for name in names]
    assert values == jax.tree.leaves(SETUP)
    assert "mechanism.noise_schedule.end" in names
    assert set(names) < set(paths.every(SETUP))
    assert {"metrics", "metrics.1.threshold", "data"} < set(paths.every(SETUP))


def test_every_path_can_be_set_to_what_is_there() -> None:
    for setup in (SETUP, Holder(), Holder(maybe=parts.Sgd())):
        for path in paths.every(setup):
            same = paths.replaced(setup, path, paths.value_at(setup, path))
            assert same == setup, path
            assert jax.tree.structure(same) == jax.tree.structure(setup), path


def test_a_value_at_a_path_changes_nothing_else() -> None:
    assert paths.replaced(SETUP, "", Holder()) == Holder()
    other = paths.replaced(SETUP, "metrics.1.threshold", 1)
    assert other.metrics == (parts.Accuracy(), parts.F1(1.0))
    other = paths.replaced(SETUP, "trainer.optimizer.b1", 0.5)
    assert other.trainer == parts.FedProx(parts.Adam(0.01, 0.5))
    assert paths.replaced(other, "trainer.optimizer.b1", 0.9) == SETUP
    other = paths.replaced(Holder(), "optimizers.1", parts.Sgd(3))
    assert other.optimizers == (parts.Sgd(1), parts.Sgd(3))
    other = paths.replaced(Holder(), "optimizers.0.learning_rate", 3)
    assert other.optimizers == (parts.Sgd(3), parts.Adam(2))
    other = paths.replaced(Holder(), "either", parts.Sgd(3))
    assert paths.replaced(other, "either", 0.5) == Holder()
    other = paths.replaced(Holder(), "maybe", parts.Sgd(3))
    assert paths.value_at(other, "maybe.learning_rate") == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainr.mu", 1, r"no field 'trainr.mu'.*did you mean 'trainer.mu'\?"),
        ("trainer.my", 1, r"no field 'trainer.my': trainer is FedProx.*'trainer.mu'"),
        ("server.mu", 1, r"server is Sgd, which has learning_rate.* set 'server' to a"),
        ("trainer.batch_size.x", 1, r"no field 'trainer.batch_size.x'"),
        ("trainer.optimizer.learning_rte", 1, "'trainer.optimizer.learning_rate'"),
        ("metrics.2.threshold", 1, r"no field 'metrics.2.threshold'"),
        ("metrics.-1.threshold", 1, r"no field 'metrics.-1.threshold'"),
        ("metrics.01", parts.F1(), "no field 'metrics.01'"),
        ("metrics.0.", parts.F1(), "no field 'metrics.0.'"),
        ("metrics.threshold", 1, r"did you mean 'metrics.1.threshold'"),
        ("trainer.", parts.FedAvg(), "no field 'trainer.'"),
        (".trainer", 1, "no field '.trainer'"),
        ("mechanism.clip_schedule.decay", 1, "no field"),
        ("trainer", 0.1, r"'trainer' is a part \(FedProx\), got 0.1.*'trainer.mu'"),
        ("metrics.1", 0.5, r"Federated.metrics mixes parts and other things"),
        ("metrics", 0.5, r"Federated.metrics must be"),
        ("trainer.mu", parts.Sgd(), r"FedProx.mu must be"),
        ("trainer.mu", "1", r"FedProx.mu must be a number, got '1'"),
        ("trainer.batch_size", 0.5, r"FedProx.batch_size must be int, got 0.5"),
        ("mechanism", parts.Gaussian, r"write Gaussian\(\.\.\.\)"),
        ("schedule.num_rounds", 0, "num_rounds must be"),
    ],
)
def test_a_wrong_path_or_value_is_refused_with_the_cure(
    path: str, value: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        paths.replaced(SETUP, path, value)
    if "no field" in message:
        assert paths.value_at(SETUP, path) is None
