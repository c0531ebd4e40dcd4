"""Bad configurations are refused when they are built, with the fix in the message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import lab

INF, NAN = float("inf"), float("nan")
FACTS = lab.DataFacts(
    num_clients=100,
    num_examples=1000,
    max_client_size=12,
    num_classes=10,
    input_shape=(8, 8, 1),
)
CONFIG = lab.Config()
CENTRAL_DP = lab.Config(privacy="central")


@pytest.mark.parametrize(
    ("change", "rates", "message"),
    [
        ({"privacy": "central"}, {"noise_multiplier": -1.0}, "noise_multiplier.*-1"),
        ({"privacy": "central"}, {"noise_multiplier": NAN}, "noise_multiplier.*nan"),
        ({"privacy": "central"}, {"clip_norm": 0.0}, "clip_norm must be positive.*0"),
        ({"privacy": "local"}, {"clip_norm": -2.0}, "clip_norm must be positive.*-2"),
        ({"privacy": "local", "clipping": "adaptive"}, {}, "would change nothing"),
        (
            {"privacy": "central"},
            {"clip_norm": INF, "noise_multiplier": 1.0},
            "finite clip_norm",
        ),
        ({}, {"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"cohort": 101.0}, {}, "cohort 101.* larger than the population 100"),
        (
            {"sampler": "fixed_size", "cohort": 101.0},
            {},
            "cohort_size 101 is larger than the population 100",
        ),
        ({"sampler": "fixed_size", "cohort": 9.5}, {}, "cohort must be whole.*9.5"),
        ({"cohort": 0.0}, {}, "cohort must be positive and finite, got 0"),
        ({"sampler": "poison"}, {}, "unknown sampler 'poison'; did you mean 'poisson'"),
        ({"model": "logistik"}, {}, "did you mean 'logistic'"),
        ({"privacy": "centrl"}, {}, "did you mean 'central'"),
        ({"clipping": "adaptve"}, {}, "did you mean 'adaptive'"),
        (
            {"training": "central", "privacy": "example", "per_example": "gost"},
            {},
            "did you mean 'ghost'",
        ),
        ({"server_optimizer": "adm"}, {}, "did you mean 'adam'"),
        (
            {"weighting": "examples", "privacy": "central"},
            {},
            "use weighting='uniform'",
        ),
        ({"privacy": "example"}, {}, "belongs to central training"),
        ({"training": "central", "privacy": "local"}, {}, "has no clients"),
        (
            {"secure_sum": "additive_sharing"},
            {"scale_bits": 26},
            "modulus too small: .* needs 3[4-9] bits, have 32; lower the scale",
        ),
        (
            {"secure_sum": "additive_sharing"},
            {"modulus_bits": 16},
            "modulus too small: .* have 16",
        ),
        (
            {"secure_sum": "light_secagg"},
            {"modulus_bits": 16},
            "modulus_bits 16 has no",
        ),
        (
            {"secure_sum": "pairwise_masking", "mask_graph": "k_regular"},
            {},
            "k_regular.* places are all taken; .*'poisson' be 'fixed_size'",
        ),
        ({}, {"cohort_share": 0.5}, "cohort_share 0.5 needs sampler 'fixed_size'"),
        (
            {"sampler": "fixed_size", "secure_sum": "pairwise_masking"},
            {"cohort_share": 0.5},
            "secure_mode 'identity' or 'ideal'",
        ),
        (
            {"sampler": "fixed_size"},
            {"cohort_share": 0.33},
            "cohort must be whole.* 10.0 times a share of 0.33",
        ),
        ({}, {"cohort_share": 1.5}, r"cohort_share must lie in \[0, 1\], got 1.5"),
        ({}, {"dropout_prob": 1.0}, r"dropout_prob must lie in \[0, 1\), got 1.0"),
        ({"batch_size": 0}, {}, "batch_size must be an integer of at least 1, got 0"),
        ({"num_lanes": 0}, {}, "num_lanes must be an integer of at least 1, got 0"),
    ],
)
def test_bad_configurations(
    change: dict[str, Any], rates: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lab.build(replace(CONFIG, **change), lab.Hyperparams(**rates), FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnst"}, r"unknown .*'mnst'; did you mean 'mnist'"),
        ({"partition": "dirichlt"}, "did you mean 'dirichlet'"),
        ({"partition": "natural"}, "no natural users"),
        ({"num_clients": 2000}, "2000"),
        ({"partition": "dirichlet", "dirichlet_alpha": 0.0}, "alpha"),
    ],
)
def test_bad_data(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.load_data(replace(lab.DataConfig(), **change))


def test_targets_out_of_reach_and_bad_deltas() -> None:
    rates = lab.Hyperparams()
    # By RDP, which alone knows fixed sizes; PLD reaches it.
    fixed = replace(CENTRAL_DP, sampler="fixed_size")
    with pytest.raises(ValueError, match=r"target_epsilon .*0\.001.* out of reach"):
        lab.calibrated(fixed, rates, FACTS, 1e-3, 1e-9)
    with pytest.raises(ValueError, match=r"target_epsilon 8 .* privacy 'none'"):
        lab.calibrated(CONFIG, rates, FACTS, 8.0, 1e-5)
    for delta in (0.0, 1.0, -0.1, NAN):
        with pytest.raises(ValueError, match="delta"):
            lab.calibrated(CENTRAL_DP, rates, FACTS, 1.0, delta)
    with pytest.raises(ValueError, match="needs a delta"):
        lab.statement(CENTRAL_DP, rates, FACTS, None)


@pytest.mark.parametrize("privacy", ["central", "local"])
@pytest.mark.parametrize("secure_sum", ["clear", "additive_sharing"])
def test_calibration_meets_its_target(privacy: str, secure_sum: Any) -> None:
    config = lab.Config(privacy=privacy, secure_sum=secure_sum)
    rates = lab.calibrated(config, lab.Hyperparams(), FACTS, 2.0, 1e-5)
    guarantee = lab.statement(config, rates, FACTS, 1e-5)
    assert guarantee["accountant"] == "pld"
    assert 1.99 < guarantee["epsilon_pld"] <= 2.0
    assert guarantee["epsilon_pld"] < guarantee["epsilon_rdp"] < 2.5
    assert guarantee["privacy_unit"] == "client"


def test_where_no_pld_exists_rdp_meets_the_target() -> None:
    config = lab.Config(privacy="central", sampler="fixed_size")
    rates = lab.calibrated(config, lab.Hyperparams(), FACTS, 2.0, 1e-5)
    guarantee = lab.statement(config, rates, FACTS, 1e-5)
    assert (guarantee["accountant"], guarantee["epsilon_pld"]) == ("rdp", None)
    assert 1.99 < guarantee["epsilon_rdp"] <= 2.0


def test_without_privacy_epsilon_is_infinite() -> None:
    guarantee = lab.statement(CONFIG, lab.Hyperparams(), FACTS, None)
    assert guarantee["epsilon_rdp"] == INF
    assert guarantee["privacy_unit"] is None


def test_local_dp_sgd_protects_examples() -> None:
    config = lab.Config(privacy="local_dp_sgd", batch_size=4, steps_per_round=3)
    noisy = lab.Hyperparams(noise_multiplier=1.0)
    sampled = lab.statement(config, noisy, FACTS, 1e-5)
    always = replace(config, sampler="everyone")
    guarantee = lab.statement(always, noisy, FACTS, 1e-5)
    assert sampled["privacy_unit"] == guarantee["privacy_unit"] == "example"
    # A client pays for the rounds that it takes part in, whoever sees which.
    assert sampled["epsilon_rdp"] < guarantee["epsilon_rdp"]
    assert sampled["epsilon_server"] == sampled["epsilon_public"]
    central = lab.Config(
        training="central",
        privacy="example",
        cohort=1000 * 4 / 12,
        steps_per_round=3,
    )
    same = lab.statement(central, lab.Hyperparams(noise_multiplier=1.0), FACTS, 1e-5)
    assert guarantee["epsilon_rdp"] == pytest.approx(same["epsilon_rdp"])


def test_synthetic_data_has_as_many_clients_as_wanted() -> None:
    config = lab.DataConfig(
        dataset="synthetic", partition="natural", num_clients=37, synthetic_beta=0.5
    )
    assert lab.load_data(config).facts.num_clients == 37


@pytest.mark.parametrize(
    "partition", ["iid", "dirichlet", "shards", "label_limited", "quantity_skew"]
)
def test_every_partition_is_reached_by_its_name(partition: str) -> None:
    facts = lab.load_data(lab.DataConfig(partition=partition, num_clients=30)).facts
    assert facts.num_clients == 30
    assert facts.num_examples == 1437


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "scaffold"])
@pytest.mark.parametrize("privacy", ["none", "central", "local"])
def test_every_algorithm_is_built_with_every_privacy(
    algorithm: str, privacy: str
) -> None:
    config = lab.Config(algorithm=algorithm, privacy=privacy)
    built = lab.build(config, lab.Hyperparams(noise_multiplier=1.0), FACTS)
    cost = built.cost()
    assert cost is not None
    plain = lab.build(lab.Config(), lab.Hyperparams(), FACTS).cost()
    assert plain is not None
    # SCAFFOLD sends its control variates, too.
    assert cost.uplink_bytes == plain.uplink_bytes * (1 + (algorithm == "scaffold"))
    private = built.event(3).privacy_unit is not None
    assert private == (privacy != "none")


KINDS: dict[str, dict[str, Any]] = {
    "clients": {"privacy": "central", "secure_sum": "additive_sharing"},
    "examples": {"privacy": "example", "training": "central", "cohort": 50.0},
}


@pytest.mark.parametrize(
    ("clipping", "kind"),
    [
        ("per_layer", "examples"),
        ("normalised", "clients"),
        pytest.param("flat", "clients", marks=pytest.mark.exhaustive),
        pytest.param("adaptive", "examples", marks=pytest.mark.exhaustive),
        pytest.param("flat", "examples", marks=pytest.mark.exhaustive),
        pytest.param("per_layer", "clients", marks=pytest.mark.exhaustive),
        pytest.param("normalised", "examples", marks=pytest.mark.exhaustive),
        pytest.param("adaptive", "clients", marks=pytest.mark.exhaustive),
    ],
)
def test_every_clipping_trains(clipping: str, kind: str, tmp_path: Path) -> None:
    config = replace(
        CONFIG, clipping=clipping, num_rounds=2, eval_every=2, **KINDS[kind]
    )
    rates = lab.Hyperparams(noise_multiplier=1.0)
    (outcome,) = lab.run_sweep([lab.Point(config, rates, 0, {}, 1e-5)], str(tmp_path))
    assert 0 < outcome.last["loss"] < 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_clipping_costs_the_same(kind: str) -> None:
    rates = lab.Hyperparams(noise_multiplier=1.0)
    stated = []
    for clipping in ("flat", "per_layer", "normalised", "adaptive"):
        config = replace(CONFIG, clipping=clipping, num_rounds=2, **KINDS[kind])
        assert lab.build(config, rates, FACTS).event(2).event is not None
        stated.append(lab.statement(config, rates, FACTS, 1e-5))
    # Adaptive clipping releases one coordinate more, which can be cut, too.
    cuts = [one.pop("cut_share") for one in stated]
    assert cuts == pytest.approx([cuts[0]] * 4, rel=1e-4)
    for name, value in stated[0].items():
        same = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert all(one[name] == same for one in stated)


ADAPTIVE = replace(CENTRAL_DP, clipping="adaptive")


def test_adaptive_clipping_counts_on_those_who_report() -> None:
    """Building it compares the count with what is expected to report."""
    rates = lab.Hyperparams(noise_multiplier=0.5, dropout_prob=0.3)
    lab.build(ADAPTIVE, rates, FACTS)

    def traced(dropout_prob: Any, share: Any) -> Any:
        config = replace(ADAPTIVE, sampler="fixed_size")
        own = rates._replace(dropout_prob=dropout_prob, cohort_share=share)
        return lab.build(config, own, FACTS).init(jax.random.key(0)).params

    jax.eval_shape(traced, *map(jnp.float32, (0.3, 0.5)))
    # Examples do not drop out.
    central = replace(ADAPTIVE, privacy="example", training="central")
    lab.build(central, rates, FACTS)


def test_targets_of_adaptive_clipping_are_found_though_much_noise_is_refused() -> None:
    rates = lab.calibrated(ADAPTIVE, lab.Hyperparams(), FACTS, 8.0, 1e-5)
    assert rates == lab.calibrated(CENTRAL_DP, lab.Hyperparams(), FACTS, 8.0, 1e-5)
    with pytest.raises(ValueError, match=r"expected_contributions 10 gives .*noise"):
        lab.build(ADAPTIVE, rates._replace(noise_multiplier=50.0), FACTS)


SECURE: dict[str, dict[str, Any]] = {
    "additive_sharing": {},
    "narrow": {"secure_sum": "additive_sharing", "sums_may_wrap": True},
    "identity": {"secure_sum": "pairwise_masking", "secure_mode": "identity"},
    "complete": {"secure_sum": "pairwise_masking"},
    "k_regular": {"secure_sum": "pairwise_masking", "mask_graph": "k_regular"},
    "light_secagg": {"secure_sum": "light_secagg"},
}


def last(config: lab.Config, rates: lab.Hyperparams, folder: Path) -> dict[str, Any]:
    """A run's last numbers: without times, and without the digest of its parameters,
    whose last bit depends on how XLA fuses a sum's decoding with the server's step.
    """
    (outcome,) = lab.run_sweep([lab.Point(config, rates, 0, {}, 1e-5)], folder)
    left_out = ("seconds", "compile_seconds", "params_digest")
    return {k: v for k, v in outcome.last.items() if k not in left_out}


@pytest.mark.parametrize(
    "names",
    [
        ("identity", "complete"),
        pytest.param(tuple(SECURE), marks=pytest.mark.exhaustive),
    ],
)
def test_every_secure_sum_trains_the_same_model(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    """The same numbers: sums are of the same integers, and none here aborts."""
    config = replace(CONFIG, sampler="fixed_size", cohort=20.0, num_rounds=2)
    rates = lab.Hyperparams(scale_bits=14)
    found = {}
    for name in names:
        parts = SECURE[name]
        shared: dict[str, Any] = {"secure_sum": name, "corrupt_share": 0.0}
        narrow = rates._replace(modulus_bits=22 if name == "narrow" else 32)
        secure = replace(config, max_abs=4.0, **(shared | parts))
        found[name] = last(secure, narrow, tmp_path / name)
    assert found["complete"]["num_reports"] == 20
    assert all(outcome == found["complete"] for outcome in found.values())


def test_a_share_of_a_cohort_is_a_smaller_cohort(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"secure_sum": "pairwise_masking", "secure_mode": "ideal"}
    config = replace(CONFIG, num_rounds=2, sampler="fixed_size", **parts)
    rates = lab.Hyperparams(noise_multiplier=0.5, dropout_prob=0.2)
    half = rates._replace(cohort_share=0.5)
    small = last(replace(config, cohort=5.0), rates, tmp_path / "small")
    shared = last(config, half, tmp_path / "shared")
    assert small.keys() == shared.keys()
    assert small.pop("epsilon") is shared["epsilon"] is None
    for name, value in small.items():
        assert shared[name] == pytest.approx(value, rel=1e-3), name
    # With privacy they would have keys of their own, but promise the same.
    private = replace(config, privacy="central")
    one, other = (
        lab.statement(c, r, FACTS, 1e-5)
        for c, r in ((replace(private, cohort=5.0), rates), (private, half))
    )
    assert one == other
