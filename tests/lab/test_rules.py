"""Rules, attackers and compression as parts of sweeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import base, federated, lab
from ppml_lab.lab import parts

SETUP = parts.Federated(
    partition=parts.Iid(9),
    trainer=parts.FedAvg(parts.Sgd(1.0), batch_size=40),
    sampler=parts.Everyone(),
    schedule=lab.Schedule(num_rounds=6, eval_every=6),
)
ATTACKED = parts.SignFlipping(SETUP.trainer, num_attackers=4, scale=2.0)
FEW = parts.TopK(SETUP.trainer, share=0.02)


def accuracies(sweep: lab.Sweep, folder: Path) -> list[float]:
    runs = lab.run_sweep(lab.points(sweep, SETUP), folder)
    return [run.last["accuracy"] for run in runs]


def built(**fields: Any) -> base.FederatedAlgorithm:
    setup = dataclasses.replace(SETUP, **fields)
    return setup.algorithm(lab.facts_of(setup))


@pytest.mark.exhaustive  # of rounds: federated/test_attacks
def test_a_mean_breaks_and_a_median_survives_attackers(tmp_path: Path) -> None:
    rules = lab.axis("rule", {"mean": parts.Mean(), "median": parts.Median()})
    attacked = lab.axis("trainer", {"attacked": ATTACKED})
    mean, median = accuracies(lab.product(attacked, rules), tmp_path)
    assert mean < 0.2
    assert median > 0.7


@pytest.mark.exhaustive
def test_without_attackers_a_median_learns_what_a_mean_does(tmp_path: Path) -> None:
    rules = {"mean": parts.Mean(), "median": parts.Median(), "b": parts.TrimmedMean(2)}
    assert min(accuracies(lab.axis("rule", rules), tmp_path)) > 0.88


@pytest.mark.exhaustive
def test_a_fiftieth_of_coordinates_is_enough_with_a_memory(tmp_path: Path) -> None:
    forgetful = dataclasses.replace(FEW, error_feedback=False)
    both = lab.axis("trainer", {"memory": FEW, "none": forgetful}, column="sent")
    with_memory, without = accuracies(both, tmp_path)
    assert with_memory > 0.82
    assert without < 0.78


@pytest.mark.parametrize("rule", [parts.Median(), parts.TrimmedMean(1)])
@pytest.mark.parametrize(
    "secure_sum",
    [
        parts.PairwiseMasking(max_abs=1),
        parts.AdditiveSharing(max_abs=1),
        parts.LightSecAgg(max_abs=1),
    ],
)
def test_rules_and_sums_that_do_not_go_together_are_named(
    rule: Any, secure_sum: Any
) -> None:
    names = rf"^{type(rule).__name__} needs .* {type(secure_sum).__name__} shows "
    with pytest.raises(ValueError, match=rf"{names}.*secure_sum=Clear\(\)"):
        built(rule=rule, secure_sum=secure_sum)


@lab.part
class First:
    """A rule of one's own, which does not look at the sum that it is given."""

    weighting: str = "uniform"
    """How updates count."""

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """The median, whoever sees what."""
        return federated.coordinate_median()


def test_a_rule_of_ones_own_is_refused_under_a_sum_that_hides_messages() -> None:
    built(rule=First())
    with pytest.raises(ValueError, match="needs each client's message"):
        built(rule=First(), secure_sum=parts.AdditiveSharing(max_abs=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rule": parts.Median(), "mechanism": parts.Gaussian(1, 1)},
            r"^Median ends in an estimate .*rule=Mean\(\)",
        ),
        ({"rule": parts.TrimmedMean(5)}, "would have no estimate: .* TrimmedMean"),
        ({"rule": parts.TrimmedMean(-1)}, "num_trimmed must be .* got -1"),
        (
            {"trainer": parts.SignFlipping(num_attackers=10)},
            "num_attackers 10 is more than the number of clients, 9",
        ),
        ({"trainer": parts.SignFlipping(scale=0)}, "scale must be positive"),
        ({"trainer": parts.TopK(share=0)}, r"share must lie in \(0, 1\], got 0"),
        (
            {"trainer": parts.TopK(), "secure_sum": parts.AdditiveSharing(max_abs=1)},
            r"AdditiveSharing would have to send all .*secure_sum=Clear\(\)",
        ),
        (
            {"trainer": parts.TopK(), "mechanism": parts.LocalGaussian(1, 1)},
            "local noise fills all coordinates",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_built(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(**fields)


def test_noise_is_set_inside_trainers_around_others() -> None:
    private = parts.SignFlipping(parts.TopK(parts.LocalDpSgd()))
    setup = dataclasses.replace(SETUP, trainer=private)
    noisy: Any = setup.with_noise(3.0).trainer
    assert noisy.trainer.trainer.noise_multiplier == 3.0
    assert setup.algorithm(lab.facts_of(setup)).event(1).privacy_unit == "example"
    plain = dataclasses.replace(SETUP, trainer=parts.TopK())
    with pytest.raises(ValueError, match="trainer TopK have no noise to set"):
        plain.with_noise(3.0)


def test_parts_state_the_bytes_of_few_coordinates() -> None:
    # 13 of 650 coordinates, each numbered in 10 bits.
    cost = built(trainer=FEW, rule=parts.Median()).cost()
    assert cost == base.Cost(4 * 13 + 17, 4 * 650)
