"""Key identities: private points share no randomness, others their seed's."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import data, lab
from ppml_lab.lab import identity, loading, program

# Noise is nearly all of a release, so that what two releases have in common is noise.
RATES = lab.Hyperparams(noise_multiplier=100.0, clip_norm=0.5)
CONFIG = lab.Config(
    data=lab.DataConfig(num_clients=20),
    cohort=8,
    num_rounds=8,
    eval_every=8,
    privacy="central",
    num_devices=1,
)
OF_NUMBERS: dict[str, dict[str, float]] = {
    "plain": {},
    "noise": {"noise_multiplier": 50.0},
    "clip": {"clip_norm": 0.25},
    "rate": {"learning_rate": 0.05},
    "server rate": {"server_learning_rate": 0.5},
    "dropout": {"dropout_prob": 0.01},
    "unused": {"proximal_mu": 0.5},
}
OF_STRUCTURE: dict[str, dict[str, Any]] = {
    "rule": {"clipping": "per_layer"},
    "adaptive": {"clipping": "adaptive"},
    "sum": {"secure_sum": "additive_sharing", "secure_mode": "identity"},
    "local": {"privacy": "local"},
    "example": {"privacy": "example", "training": "central"},
    "local_dp_sgd": {"privacy": "local_dp_sgd", "local_epochs": 1},
}


def facts_of(config: lab.Config) -> lab.DataFacts:
    return lab.load_data(config.data).facts


def trained(
    config: lab.Config, rates: list[lab.Hyperparams], seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each point, how its parameters change in all rounds, and the number of
    participants in every round.
    """
    loaded = lab.load_data(config.data, config.num_devices)
    # As many points as devices have rows.
    rows = -(-len(rates) // 4) * 4
    stacked = jax.tree.map(
        lambda *values: jnp.resize(jnp.asarray(values, jnp.float32), (rows,)), *rates
    )
    seeds = jnp.full(rows, seed, jnp.uint32)
    first = jax.jit(program.mapped_init(config, loaded.facts))(stacked, seeds)
    chunk = program.mapped_chunk(config, loaded.facts, program.Chunk(1, 8), 1)
    end, infos, _ = jax.jit(chunk)(
        stacked, seeds, first, loaded.clients, loaded.test, jnp.int32(0)
    )
    sizes = infos["cohort_size" if "cohort_size" in infos else "batch_size"]

    def flat(params: Any) -> np.ndarray:
        leaves = [
            np.asarray(leaf).reshape(rows, -1) for leaf in jax.tree.leaves(params)
        ]
        return np.concatenate(leaves, axis=1)

    changes = flat(end.params) - flat(first.params)
    return [(changes[row], np.asarray(sizes)[row]) for row in range(len(rates))]


def with_a_changed_row(dataset: data.Dataset) -> data.Dataset:
    x = dataset.train["x"].copy()
    x[7, 3, 3, 0] += np.float32(1)
    return dataset._replace(train=dataset.train | {"x": x})


@pytest.fixture
def neighbouring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Data of which one value is another, while the test lasts."""
    whole = with_a_changed_row(data.load("digits"))
    monkeypatch.setattr(loading.data, "load", lambda name: whole)
    caches = (loading.facts_of, loading._load_data)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def of_numbers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What points of one seed and one program draw, by what is special about them."""
    rates = [RATES._replace(**fields) for fields in OF_NUMBERS.values()]
    return dict(zip(OF_NUMBERS, trained(CONFIG, rates), strict=True))


def assert_unlike(one: Any, other: Any) -> None:
    """No noise or cohorts in common."""
    # 640 independent values correlate by 0.04: six times that.
    assert abs(np.corrcoef(one[0], other[0])[0, 1]) < 0.24
    assert tuple(one[1]) != tuple(other[1])


def test_no_two_private_points_of_a_seed_share_randomness(of_numbers: Any) -> None:
    for one, other in itertools.combinations(of_numbers, 2):
        assert_unlike(of_numbers[one], of_numbers[other])


@pytest.mark.exhaustive
def test_nor_do_points_of_other_structure(of_numbers: Any) -> None:
    found = {"plain": of_numbers["plain"]}
    for name, fields in OF_STRUCTURE.items():
        (found[name],) = trained(dataclasses.replace(CONFIG, **fields), [RATES])
    for one, other in itertools.combinations(found, 2):
        assert_unlike(found[one], found[other])


def test_one_changed_value_makes_another_key(
    request: pytest.FixtureRequest,
) -> None:
    keys = []
    for name in (None, "neighbouring"):
        if name:
            request.getfixturevalue(name)
        facts = facts_of(CONFIG)
        both = identity.keys_of(CONFIG, RATES, facts, 0)
        words = [jax.random.key_data(key).tolist() for key in both]
        keys += [identity.key_identity(CONFIG, RATES, facts), *map(tuple, words)]
    assert len(set(keys)) == 6


@pytest.mark.exhaustive
def test_neighbouring_data_share_no_randomness(
    of_numbers: Any, neighbouring: None
) -> None:
    (changed,) = trained(CONFIG, [RATES])
    assert_unlike(changed, of_numbers["plain"])


def test_private_points_share_no_initial_parameters() -> None:
    facts = facts_of(CONFIG)
    points = [RATES._replace(**fields) for fields in OF_NUMBERS.values()]
    keys = [identity.keys_of(CONFIG, rates, facts, 0) for rates in points]
    words = {str(jax.random.key_data(key)) for pair in keys for key in pair}
    assert len(words) == 2 * len(points)


def test_layouts_modes_and_lengths_keep_the_key() -> None:
    facts = facts_of(CONFIG)
    own = identity.key_identity(CONFIG, RATES, facts)
    assert own.startswith("own ")
    changes: list[dict[str, Any]] = [
        {"num_rounds": 200},
        {"eval_every": 1},
        {"evals_per_chunk": 4},
        {"stop_at_accuracy": 0.9},
        {"num_lanes": 3},
        {"num_devices": 2},
        {"shard_data": True},
        {"secure_mode": "identity"},
        {"cohort": 8.0},
    ]
    for fields in changes:
        config = dataclasses.replace(CONFIG, **fields)
        there = lab.load_data(config.data, config.num_devices, config.shard_data).facts
        assert identity.key_identity(config, RATES, there) == own, fields


def test_every_other_field_makes_another_key() -> None:
    own = identity.key_identity(CONFIG, RATES, facts_of(CONFIG))
    kept = {*identity._LENGTH, *identity._LAYOUT, *identity._SAME_BITS}
    fields = {field.name for field in dataclasses.fields(lab.Config)}
    # Whoever adds a field says here whether the key depends on it.
    assert set(_changed()) == fields - kept
    for name, change in _changed().items():
        config = dataclasses.replace(CONFIG, **change)
        found = identity.key_identity(config, RATES, facts_of(config))
        assert found != own, name


def _changed() -> dict[str, dict[str, Any]]:
    """Another value of every field that the key depends on."""
    values: dict[str, Any] = {
        "data": lab.DataConfig(num_clients=20, dirichlet_alpha=0.1),
        "model": "2nn", "algorithm": "fedprox", "sampler": "fixed_size", "cohort": 9.0,
        "evaluate_clients": True, "batch_size": 5, "local_epochs": 2,
        "steps_per_round": 2, "client_optimizer": "momentum",
        "server_optimizer": "momentum",
        "privacy": "local", "clipping": "per_layer", "target_quantile": 0.4,
        "per_example": "vmap", "microbatch_size": 2, "secure_sum": "additive_sharing",
        "mask_graph": "k_regular", "mask_threshold": 3, "corrupt_share": 0.2,
        "dropout_share": 0.2, "num_parties": 4, "sums_may_wrap": True, "max_abs": 4.0,
    }  # fmt: skip
    changes = {name: {name: value} for name, value in values.items()}
    changes["training"] = {"training": "central", "privacy": "example"}
    changes["weighting"] = {"weighting": "examples", "privacy": "local_dp_sgd"}
    return changes


def test_numbers_are_those_of_the_program() -> None:
    facts = facts_of(CONFIG)
    own = identity.key_identity(CONFIG, RATES, facts)
    for name in lab.Hyperparams._fields:
        value = float(getattr(RATES, name))
        rounded = RATES._replace(**{name: np.float32(value)})
        assert identity.key_identity(CONFIG, rounded, facts) == own
        next_one = np.nextafter(np.float32(value), np.float32(1e9))
        other = RATES._replace(**{name: float(next_one)})
        assert identity.key_identity(CONFIG, other, facts) != own, name
        keys = [
            jax.random.key_data(identity.keys_of(CONFIG, rates, facts, 3)[1]).tolist()
            for rates in (RATES, rounded, other)
        ]
        assert keys[0] == keys[1] != keys[2], name
    minus = RATES._replace(dropout_prob=-0.0)
    assert identity.key_identity(CONFIG, minus, facts) == own


def test_nothing_promised_keeps_the_keys_of_the_seed() -> None:
    plain = dataclasses.replace(CONFIG, privacy="none")
    expected = jax.random.split(jax.random.key(5))
    masked = {"secure_sum": "pairwise_masking"}
    changes: list[dict[str, Any]] = [{}, {"algorithm": "scaffold"}, masked]
    for fields in changes:
        config = dataclasses.replace(plain, **fields)
        facts = facts_of(config)
        assert identity.key_identity(config, RATES, facts) == "seed"
        found = jnp.stack(identity.keys_of(config, RATES, facts, 5))
        words, seeds = jax.random.key_data(found), jax.random.key_data(expected)
        np.testing.assert_array_equal(words, seeds)
    for privacy in ("central", "local", "local_dp_sgd"):
        config = dataclasses.replace(CONFIG, privacy=privacy)
        assert identity.promises_privacy(config, facts_of(config))


def test_private_keys_of_no_data_are_refused() -> None:
    facts = facts_of(CONFIG)._replace(digests=None)
    with pytest.raises(ValueError, match=r"facts\.digests is None"):
        identity.key_identity(CONFIG, RATES, facts)


@pytest.mark.exhaustive
def test_a_longer_run_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """To the bit; and is another run."""
    short, long = (
        lab.Point(
            dataclasses.replace(CONFIG, num_rounds=rounds, eval_every=2),
            RATES._replace(noise_multiplier=1.0), 0, {"rounds": rounds}, 1e-2,
        )
        for rounds in (4, 8)
    )  # fmt: skip
    one, other = lab.run_sweep([short, long], tmp_path)
    assert short.key == long.key
    assert one.folder != other.folder
    for name in ("train_loss", "cohort_size", "update_norm", "accuracy"):
        history = one.history(name)
        assert history == other.history(name)[: len(history)], name
        assert len(history) < len(other.history(name))


@pytest.mark.exhaustive
def test_rounds_far_apart_draw_anew() -> None:
    config = dataclasses.replace(CONFIG, num_rounds=1, eval_every=1)
    loaded = lab.load_data(config.data, 1)
    rates = jax.tree.map(lambda v: jnp.full(4, v, jnp.float32), RATES)
    seeds = jnp.zeros(4, jnp.uint32)
    first = jax.jit(program.mapped_init(config, loaded.facts))(rates, seeds)
    chunk = program.mapped_chunk(config, loaded.facts, program.Chunk(1, 1), 1)
    run = jax.jit(chunk)
    changes = []
    for number in (0, 1, 256, 1000, 1024, 4096, 2**16, 2**20):
        after, _, _ = run(rates, seeds, first, loaded.clients, loaded.test, number)
        changes.append(np.asarray(jax.tree.leaves(after.params)[-1])[0].ravel())
    start = np.asarray(jax.tree.leaves(first.params)[-1])[0].ravel()
    found = np.corrcoef([change - start for change in changes])
    assert np.abs(found - np.eye(len(changes))).max() < 0.24
