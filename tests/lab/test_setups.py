"""Stock setups: bad ones are refused when built, with the fix in the message; all good
ones train, and promise what they are calibrated to.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import base, lab
from ppml_lab.lab import parts

INF, NAN = float("inf"), float("nan")
SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=2, eval_every=2),
)
CENTRAL_DP = replace(SETUP, mechanism=parts.Gaussian(1.0, 1.0))
POOLED = parts.Central(partition=parts.Iid(20), schedule=SETUP.schedule)
FIXED = parts.FixedSize(5)
BOUNDED = parts.AdditiveSharing(max_abs=8.0)


def built(setup: Any) -> base.FederatedAlgorithm:
    return setup.algorithm(lab.facts_of(setup))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mechanism": parts.Gaussian(1, -1)}, "noise_multiplier.*-1"),
        ({"mechanism": parts.Gaussian(0)}, "clip_norm must be positive.*0"),
        ({"mechanism": parts.LocalGaussian(-2)}, "clip_norm must be positive.*-2"),
        ({"mechanism": parts.LocalLaplace(1, 0)}, "noise_multiplier must be positive"),
        ({"mechanism": parts.RandomisedResponse(1, 0)}, "epsilon must be positive"),
        ({"mechanism": parts.Gaussian(INF, 1)}, "finite clip_norm"),
        ({"mechanism": parts.AdaptiveGaussian(target_quantile=2)}, "target_quantile"),
        ({"sampler": parts.Poisson(21)}, r"expected_cohort 21 .* population 20"),
        ({"sampler": parts.Poisson(0)}, "expected_cohort 0 must be a number"),
        ({"sampler": parts.FixedSize(21)}, "cohort_size 21 is larger .* population 20"),
        ({"sampler": parts.FixedSize(5, 0.33)}, "share 0.33 of cohort_size 5 is 1.65"),
        ({"sampler": parts.FixedSize(5, 1.5)}, r"share must lie in .* got 1.5"),
        ({"dropout_prob": 1.0}, r"dropout_prob must lie in \[0, 1\), got 1.0"),
        (
            {"rule": parts.Mean("examples"), "mechanism": parts.Gaussian(1, 1)},
            "weighting='uniform'",
        ),
        ({"secure_sum": parts.AdditiveSharing(scale_bits=26, max_abs=8)}, "too small"),
        ({"secure_sum": parts.AdditiveSharing(modulus_bits=16, max_abs=8)}, "has 16"),
        ({"secure_sum": parts.AdditiveSharing(modulus_bits=16.5)}, "modulus_bits must"),
        ({"secure_sum": parts.AdditiveSharing(num_parties=1)}, "num_parties"),
        (
            {"secure_sum": parts.PairwiseMasking(parts.KRegular())},
            "KRegular .* places are all taken.* use FixedSize",
        ),
        ({"trainer": parts.FedAvg(batch_size=0)}, "batch_size must be .* got 0"),
        ({"trainer": parts.FedAvg(local_epochs=0)}, "num_epochs must be .* got 0"),
        ({"layout": lab.Layout(num_devices=5)}, "num_devices 5 is more than the 4"),
    ],
)
def test_bad_setups_are_refused_when_built(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(replace(SETUP, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mechanism": parts.LocalGaussian(1, 1)}, "LocalGaussian adds a client's own"),
        ({"mechanism": parts.LocalLaplace(1, 1)}, "LocalLaplace adds a client's own"),
        (
            {"mechanism": parts.RandomisedResponse()},
            "RandomisedResponse adds a client's",
        ),
        ({"batch": parts.Poisson(2000)}, "expected_cohort 2000 .* population 1437"),
        ({"steps_per_round": 0}, "steps_per_round must be .* got 0"),
        ({"layout": lab.Layout(shard_data=True)}, "shard_data deals"),
    ],
)
def test_bad_central_setups_are_refused_when_built(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(replace(POOLED, **fields))


@pytest.mark.parametrize(
    ("secure_sum", "message"),
    [
        (parts.PairwiseMasking(max_abs=1), "use mode 'identity' or 'ideal'"),
        (parts.LightSecAgg(max_abs=1), "leave FixedSize's share None"),
    ],
)
def test_what_programs_cannot_trace_is_refused_before_anything_runs(
    secure_sum: Any, message: str, tmp_path: Path
) -> None:
    bad = replace(SETUP, sampler=parts.FixedSize(10, 0.5), secure_sum=secure_sum)
    both = lab.variants("kind", {"good": SETUP, "bad": bad})
    with pytest.raises(ValueError, match=message):
        lab.run_sweep(lab.points(both), tmp_path)
    assert not [*tmp_path.glob("runs/*")]


def test_targets_without_noise_and_bad_deltas() -> None:
    always = replace(CENTRAL_DP, sampler=parts.Everyone())
    for setup in (SETUP, POOLED, replace(SETUP, trainer=parts.FedProx())):
        with pytest.raises(ValueError, match=r"target_epsilon 8 .* no noise"):
            lab.calibrated(setup, 8.0, 1e-5)
    for delta in (0.0, 1.0, -0.1, NAN):
        with pytest.raises(ValueError, match="delta"):
            lab.calibrated(always, 1.0, delta)
    for target in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="target_epsilon"):
            lab.calibrated(always, target, 1e-5)
    with pytest.raises(ValueError, match="needs a delta"):
        lab.statement(always, None)


@pytest.mark.parametrize(
    ("mechanism", "secure_sum", "sampler"),
    [
        (parts.Gaussian(), parts.AdditiveSharing(), parts.Poisson(5)),
        (parts.LocalGaussian(), parts.Clear(), parts.Everyone()),
        *(
            pytest.param(*kind, marks=pytest.mark.exhaustive)
            for kind in (
                (parts.Gaussian(), parts.Clear(), parts.Poisson(5)),
                (parts.LocalGaussian(), BOUNDED, parts.Poisson(5)),
                (parts.LocalLaplace(), parts.Clear(), parts.Poisson(5)),
                (parts.AdaptiveGaussian(), parts.Clear(), parts.Poisson(5)),
            )
        ),
    ],
    ids=lambda part: type(part).__name__,
)
def test_calibration_meets_its_target(
    mechanism: Any, secure_sum: Any, sampler: Any
) -> None:
    setup = replace(SETUP, mechanism=mechanism, secure_sum=secure_sum, sampler=sampler)
    calibrated = lab.calibrated(setup, 2.0, 1e-5)
    guarantee = lab.statement(calibrated, 1e-5)
    assert guarantee["accountant"] == "pld"
    assert 1.99 < guarantee["epsilon_pld"] <= 2.0
    assert guarantee["epsilon_pld"] < guarantee["epsilon_rdp"] < 2.6
    assert guarantee["privacy_unit"] == "client"
    noise = calibrated.mechanism.noise_multiplier
    assert guarantee["noise_multiplier"] == noise
    # Nothing else is changed.
    assert calibrated == replace(setup, mechanism=mechanism.with_noise(noise))


def test_where_no_pld_exists_rdp_is_stated() -> None:
    guarantee = lab.statement(replace(CENTRAL_DP, sampler=FIXED), 1e-5)
    assert (guarantee["accountant"], guarantee["epsilon_pld"]) == ("rdp", None)
    assert guarantee["epsilon_public"] == guarantee["epsilon_rdp"]


@pytest.mark.exhaustive
def test_where_no_pld_exists_rdp_meets_the_target() -> None:
    with pytest.raises(ValueError, match=r"target_epsilon .*0\.001.* out of reach"):
        lab.calibrated(replace(CENTRAL_DP, sampler=FIXED), 1e-3, 1e-9)
    setup = lab.calibrated(replace(CENTRAL_DP, sampler=FIXED), 2.0, 1e-5)
    guarantee = lab.statement(setup, 1e-5)
    assert (guarantee["accountant"], guarantee["epsilon_pld"]) == ("rdp", None)
    assert 1.99 < guarantee["epsilon_rdp"] <= 2.0


def test_without_privacy_epsilon_is_infinite() -> None:
    guarantee = lab.statement(SETUP)
    assert guarantee["epsilon_rdp"] == INF
    assert guarantee["privacy_unit"] is guarantee["noise_multiplier"] is None


def test_local_dp_sgd_protects_examples() -> None:
    local: Any = replace(
        SETUP,
        trainer=parts.LocalDpSgd(noise_multiplier=1.0, batch_size=4, num_steps=3),
    )
    sampled = lab.statement(local, 1e-5)
    guarantee = lab.statement(replace(local, sampler=parts.Everyone()), 1e-5)
    assert sampled["privacy_unit"] == guarantee["privacy_unit"] == "example"
    # A client pays for the rounds that it takes part in, whoever sees which.
    assert sampled["epsilon_rdp"] < guarantee["epsilon_rdp"]
    assert sampled["epsilon_server"] == sampled["epsilon_public"]
    facts = lab.facts_of(local)
    pooled = replace(
        POOLED,
        mechanism=parts.Gaussian(1.0, 1.0),
        batch=parts.Poisson(facts.num_examples * 4 / facts.max_client_size),
        steps_per_round=3,
    )
    same = lab.statement(pooled, 1e-5)
    assert guarantee["epsilon_rdp"] == pytest.approx(same["epsilon_rdp"])
    # Its noise is the trainer's, and the mechanism's where both could have some.
    quiet = local.with_noise(3.0)
    assert quiet.trainer.noise_multiplier == 3.0
    both: Any = replace(local, mechanism=parts.Gaussian(1.0, 1.0)).with_noise(3.0)
    assert (both.mechanism.noise_multiplier, both.trainer.noise_multiplier) == (3, 1)


@pytest.mark.parametrize(
    "trainer", [parts.FedAvg(), parts.FedProx(), parts.Scaffold(), parts.LocalDpSgd()]
)
@pytest.mark.parametrize(
    "mechanism",
    [
        parts.NoPrivacy(), parts.Gaussian(1, 1), parts.LocalGaussian(1, 1),
        parts.AdaptiveGaussian(1, 0.3), parts.ScheduledGaussian(1, 1),
        parts.LocalLaplace(), parts.RandomisedResponse(),
    ],
)  # fmt: skip
def test_every_algorithm_is_built_with_every_privacy(
    trainer: Any, mechanism: Any
) -> None:
    setup = replace(SETUP, trainer=trainer, mechanism=mechanism)
    try:
        event = built(setup).event(3)
    except ValueError as error:
        # What is not possible is said in words.
        assert isinstance(trainer, parts.Scaffold | parts.LocalDpSgd)
        assert "use" in str(error) or "give" in str(error)  # noqa: PT017
        return
    promises = event.privacy_unit is not None or bool(event.beside)
    is_private = not isinstance(mechanism, parts.NoPrivacy)
    assert promises == (is_private or isinstance(trainer, parts.LocalDpSgd))


KINDS: dict[str, Any] = {
    "clients": replace(CENTRAL_DP, secure_sum=parts.AdditiveSharing()),
    "examples": replace(
        POOLED, batch=parts.Poisson(50), mechanism=parts.Gaussian(1.0, 1.0)
    ),
}
CLIPPINGS: dict[str, Any] = {
    "flat": parts.Gaussian(1.0, 1.0),
    "per_layer": parts.Gaussian(1.0, 1.0, "per_layer"),
    "normalised": parts.Gaussian(1.0, 1.0, "normalised"),
    "adaptive": parts.AdaptiveGaussian(1.0, 1.0),
}


@pytest.mark.parametrize(
    ("clipping", "kind"),
    [
        ("per_layer", "examples"),
        *(
            pytest.param(clipping, kind, marks=pytest.mark.exhaustive)
            for clipping in CLIPPINGS
            for kind in KINDS
            if (clipping, kind) != ("per_layer", "examples")
        ),
    ],
)
def test_every_clipping_trains(clipping: str, kind: str, tmp_path: Path) -> None:
    setup = replace(KINDS[kind], mechanism=CLIPPINGS[clipping])
    (outcome,) = lab.run_sweep(lab.points(lab.seeds(1), setup, delta=1e-5), tmp_path)
    assert 0 < outcome.last["loss"] < 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_clipping_costs_the_same(kind: str) -> None:
    setups = [replace(KINDS[kind], mechanism=one) for one in CLIPPINGS.values()]
    stated = [lab.statement(setup, 1e-5) for setup in setups]
    # Adaptive clipping releases one coordinate more, which can be cut, too.
    cuts = [one.pop("cut_share") for one in stated]
    assert cuts == pytest.approx([cuts[0]] * 4, rel=1e-4)
    for name, value in stated[0].items():
        same = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert all(one[name] == same for one in stated)


ADAPTIVE = replace(
    CENTRAL_DP, mechanism=parts.AdaptiveGaussian(1.0, 0.3), dropout_prob=0.3
)


def test_adaptive_clipping_counts_on_those_who_report() -> None:
    """Building it compares the count with what is expected to report."""
    built(ADAPTIVE)

    def traced(dropout_prob: Any, share: Any) -> Any:
        setup = replace(
            ADAPTIVE, dropout_prob=dropout_prob, sampler=parts.FixedSize(10, share)
        )
        return built(setup).init(jax.random.key(0)).params

    jax.eval_shape(traced, *map(jnp.float32, (0.3, 0.5)))
    # Examples do not drop out.
    built(replace(POOLED, mechanism=ADAPTIVE.mechanism))


def test_targets_of_adaptive_clipping_are_found_though_much_noise_is_refused() -> None:
    always = replace(ADAPTIVE, sampler=parts.Everyone())
    found, plain = (
        lab.calibrated(replace(always, mechanism=one), 8.0, 1e-5).mechanism
        for one in (parts.AdaptiveGaussian(), parts.Gaussian())
    )
    assert found.noise_multiplier == plain.noise_multiplier
    with pytest.raises(ValueError, match=r"expected_contributions 3.5 adds noise"):
        built(ADAPTIVE.with_noise(50.0))


SECURE: dict[str, Any] = {
    "identity": parts.PairwiseMasking(mode="identity"),
    "complete": parts.PairwiseMasking(),
    "additive_sharing": parts.AdditiveSharing(),
    "narrow": parts.AdditiveSharing(modulus_bits=22.0, wraps=True),
    "k_regular": parts.PairwiseMasking(parts.KRegular(corrupt_share=0.0)),
    "light_secagg": parts.LightSecAgg(corrupt_share=0.0),
}


def last(setup: Any, folder: Path) -> dict[str, Any]:
    """A run's last numbers: without times, and without the digest of its parameters,
    whose last bit depends on how XLA fuses a sum's decoding with the server's step.
    """
    (outcome,) = lab.run_sweep(lab.points(lab.seeds(1), setup, delta=1e-5), folder)
    left_out = ("seconds", "compile_seconds", "params_digest")
    return {k: v for k, v in outcome.last.items() if k not in left_out}


@pytest.mark.exhaustive  # the same sums: smpc/test_masked_sums
def test_every_secure_sum_trains_the_same_model(tmp_path: Path) -> None:
    """The same numbers: sums are of the same integers, and none here aborts."""
    found = {}
    for name, protocol in SECURE.items():
        secure_sum = replace(protocol, scale_bits=14.0, max_abs=4.0)
        setup = replace(SETUP, sampler=parts.FixedSize(20), secure_sum=secure_sum)
        found[name] = last(setup, tmp_path / name)
    assert found["complete"]["num_reports"] == 20
    assert all(outcome == found["complete"] for outcome in found.values())


@pytest.mark.exhaustive
def test_a_share_of_a_cohort_is_a_smaller_cohort(tmp_path: Path) -> None:
    ideal = parts.PairwiseMasking(max_abs=4.0, mode="ideal")
    setup = replace(SETUP, secure_sum=ideal, dropout_prob=0.2)
    one = replace(setup, sampler=parts.FixedSize(5))
    other = replace(setup, sampler=parts.FixedSize(10, 0.5))
    small = last(one, tmp_path / "small")
    shared = last(other, tmp_path / "shared")
    assert small.keys() == shared.keys()
    assert small.pop("epsilon") is shared["epsilon"] is None
    for name, value in small.items():
        assert shared[name] == pytest.approx(value, rel=1e-3), name
    # With privacy they would have keys of their own, but promise the same.
    noisy = parts.Gaussian(1.0, 0.5)
    stated = [lab.statement(replace(s, mechanism=noisy), 1e-5) for s in (one, other)]
    assert stated[0] == stated[1]
