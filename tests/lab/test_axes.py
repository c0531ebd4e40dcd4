"""The sweep language: its algebra, its errors, and the points that it makes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import lab
from ppml_lab.lab import fields

CONFIG = lab.Config(
    data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=3, eval_every=3
)
RATES = lab.Hyperparams()


VALUES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def labels(points: list[lab.Point]) -> list[tuple[Any, ...]]:
    return [tuple(point.labels.values()) for point in points]


@settings(max_examples=30, deadline=None)
@given(st.tuples(VALUES, VALUES, VALUES))
def test_the_algebra(values: tuple[list[int], list[int], list[int]]) -> None:
    a, b, c = map(lab.axis, ("seed", "cohort", "clip_norm"), values)
    product, chain, zipped = lab.product, lab.chain, lab.zipped
    combinations = [tuple(s.fields.values()) for s in product(a, b, c)]
    assert combinations == list(itertools.product(*values))
    assert product(product(a, b), c) == product(a, product(b, c)) == product(a, b, c)
    assert chain(chain(a, b), c) == chain(a, chain(b, c)) == (*a, *b, *c)
    assert product(chain(a, b), c) == chain(product(a, c), product(b, c))
    assert product(a, product()) == chain(a, chain()) == zipped(a) == a
    n = min(map(len, (a, b, c)))
    a, b, c = a[:n], b[:n], c[:n]
    assert zipped(zipped(a, b), c) == zipped(a, zipped(b, c))
    assert zipped(a, b, c) == product(a, b, c)[:: n * n + n + 1]


def test_names_belong_to_one_thing() -> None:
    static = set(lab.Config.__dataclass_fields__) - {"data"}
    traced = set(lab.Hyperparams._fields)
    dealt = {f"data.{name}" for name in lab.DataConfig.__dataclass_fields__}
    of_a_point = {"seed", "delta", "target_epsilon"}
    assert set(fields.TYPES) == static | traced | dealt | of_a_point
    assert len(fields.TYPES) == sum(map(len, (static, traced, dealt, of_a_point)))


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("clip_norm", 1, 1.0),
        ("cohort", np.int64(10), 10.0),
        ("learning_rate", np.float32(0.5), 0.5),
        ("num_rounds", np.int64(7), 7),
        ("scale_bits", 12, 12),
        ("stop_at_accuracy", None, None),
        ("stop_at_accuracy", 1, 1.0),
        ("sums_may_wrap", True, True),
        ("secure_sum", "light_secagg", "light_secagg"),
        ("data.dirichlet_alpha", 1, 1.0),
        ("delta", 1e-5, 1e-5),
    ],
)
def test_values_become_the_fields_type(name: str, value: Any, typed: Any) -> None:
    (setting,) = lab.axis(name, [value])
    found, shown = setting.fields[name], setting.columns[name]
    assert (found, type(found)) == (typed, type(typed))
    # The table shows what was written, and never a NumPy scalar.
    assert shown == value
    assert not isinstance(shown, np.generic)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lab.axis("num_rounds", ["3"]), "num_rounds must be int, got '3'"),
        (lambda: lab.axis("num_rounds", [3.0]), "num_rounds must be int, got 3.0"),
        (lambda: lab.axis("num_rounds", [True]), "num_rounds must be int, got True"),
        (lambda: lab.axis("clip_norm", ["1"]), "clip_norm must be float, got '1'"),
        (lambda: lab.axis("clip_norm", [None]), "clip_norm must be float, got None"),
        (lambda: lab.axis("sums_may_wrap", [1]), "sums_may_wrap must be bool, got 1"),
        (lambda: lab.axis("num_lanes", ["4"]), "must be int or None, got '4'"),
        (lambda: lab.axis("model", [2]), "model must be str, got 2"),
        (lambda: lab.axis("weighting", ["unifrm"]), "did you mean 'uniform'"),
        (lambda: lab.axis("learnig_rate", [1]), "did you mean 'learning_rate'"),
        (lambda: lab.axis("num_clients", [1]), "did you mean 'data.num_clients'"),
        (lambda: lab.axis("seed", []), "'seed' has no values"),
        (lambda: lab.seeds(0), "number of seeds must be .* at least 1, got 0"),
        (lambda: lab.variants("method", {}), "'method' has no values"),
        (
            lambda: lab.variants("method", {"DP": {"privcy": "central"}}),
            "unknown field 'privcy'; did you mean 'privacy'",
        ),
        (
            lambda: lab.variants("privacy", {"central": {"noise_multiplier": 1.0}}),
            r"'privacy' of variants is a field: sweep it with axis\('privacy'",
        ),
        (
            lambda: lab.product(lab.seeds(2), lab.hidden(lab.seeds(3))),
            "two of the combined sweeps set 'seed'",
        ),
        (
            lambda: lab.zipped(
                lab.variants("method", {"DP": {"clip_norm": 1.0}}),
                lab.axis("clip_norm", [2.0]),
            ),
            "two of the combined sweeps set 'clip_norm'",
        ),
        (
            lambda: lab.product(
                lab.variants("method", {"DP": {}}),
                lab.variants("method", {"slow": {"learning_rate": 0.1}}),
            ),
            "two of the combined sweeps set 'method'",
        ),
        (lambda: lab.zipped(lab.seeds(2), lab.axis("cohort", [5])), r"got \[2, 1\]"),
        (lambda: lab.uniform("clip_norm", 2, 1, 3, seed=0), "low < high, got 2 and 1"),
        (
            lambda: lab.log_uniform("clip_norm", 0.0, 1, 3, seed=0),
            "low of clip_norm must be positive",
        ),
        (lambda: lab.uniform("clip_norm", 1, 2, 0, seed=0), "draws of clip_norm"),
        (lambda: lab.uniform("num_rounds", 1, 9, 2, seed=0), "num_rounds must be int"),
        *(
            # Whatever the seed draws.
            (
                lambda seed=seed: lab.uniform("learning_rate", -1e-9, 1, 1, seed),
                "low -1e-09: learning_rate must be positive",
            )
            for seed in range(2)
        ),
        (
            lambda: lab.uniform("dropout_prob", 0.5, 1.1, 1, seed=0),
            r"high 1.1: dropout_prob must lie in \[0, 1\]",
        ),
    ],
)
def test_bad_sweeps(make: Callable[[], lab.Sweep], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_draws_are_reproducible_independent_and_in_range() -> None:
    few = lab.log_uniform("learning_rate", 1e-3, 10.0, 5, seed=1)
    many = lab.log_uniform("learning_rate", 1e-3, 10.0, 2000, seed=1)
    other = lab.log_uniform("clip_norm", 1e-3, 10.0, 2000, seed=1)
    flat = lab.uniform("dropout_prob", 0.2, 0.6, 2000, seed=1)
    assert many[:5] == few
    assert few != lab.log_uniform("learning_rate", 1e-3, 10.0, 5, seed=2)
    logs = np.log10([s.fields["learning_rate"] for s in many])
    others = np.log10([s.fields["clip_norm"] for s in other])
    values = np.array([s.fields["dropout_prob"] for s in flat])
    # Quartiles of 2000 draws err by a hundredth of the range: five times that.
    quartiles = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(logs, quartiles), [-2, -1, 0], atol=0.2)
    np.testing.assert_allclose(
        np.quantile(values, quartiles), [0.3, 0.4, 0.5], atol=0.02
    )
    assert abs(np.corrcoef(logs, others)[0, 1]) < 0.1
    assert 1e-3 <= 10 ** logs.min() < 10 ** logs.max() <= 10
    assert 0.2 <= values.min() < values.max() < 0.6


def test_points_have_fields_and_columns() -> None:
    sweep = lab.product(
        lab.seeds(2),
        lab.zipped(
            lab.variants(
                "method", {"plain": {}, "DP": {"privacy": "central", "clip_norm": 2}}
            ),
            lab.hidden(lab.axis("data.data_seed", [3, 4])),
        ),
        lab.axis("cohort", [4, 6]),
    )
    points = lab.points(sweep, CONFIG, RATES, delta=1e-3)
    assert list(points[0].labels) == ["method", "cohort", "seed"]
    assert labels(points) == [
        (method, cohort, seed)
        for seed in (0, 1)
        for method in ("plain", "DP")
        for cohort in (4, 6)
    ]
    last = points[-1]
    assert (last.config.privacy, last.config.cohort) == ("central", 6.0)
    assert (last.config.data.data_seed, last.config.data.num_clients) == (4, 20)
    assert (last.hyperparams.clip_norm, last.seed, last.delta) == (2.0, 1, 1e-3)
    assert points[0].config.data.data_seed == 3
    assert points[0].hyperparams == RATES


def test_a_chain_fills_columns_and_keeps_a_common_point_once() -> None:
    sweep = lab.chain(
        lab.axis("clip_norm", [0.5, 1]),
        lab.axis("learning_rate", [0.1, 0.2]),
        lab.variants("method", {"slow": {"learning_rate": 0.01, "delta": 0.5}}),
        lab.axis("seed", [7]),
    )
    points = lab.points(sweep, CONFIG, RATES)
    assert [dict(point.labels) for point in points] == [
        {"clip_norm": clip, "learning_rate": rate, "method": method, "seed": seed}
        for clip, rate, method, seed in (
            (0.5, 0.1, None, 0),
            (1, 0.1, None, 0),
            (1, 0.2, None, 0),
            (1, 0.01, "slow", 0),
            (1, 0.1, None, 7),
        )
    ]
    assert [point.delta for point in points] == [None, None, None, 0.5, None]


def test_targets_are_calibrated_for_each_point() -> None:
    sweep = lab.product(
        lab.axis("target_epsilon", [2, float("inf")]),
        lab.axis("learning_rate", [0.1, 1.0]),
        lab.axis("cohort", [5, 10]),
    )
    config = lab.Config(
        data=lab.DataConfig(num_clients=20), cohort=5, num_rounds=3, privacy="central"
    )
    points = lab.points(sweep, config, RATES, delta=1e-2)
    facts = lab.load_data(config.data).facts
    expected = {
        point.config.cohort: lab.calibrated(
            point.config, RATES, facts, 2.0, 1e-2
        ).noise_multiplier
        for point in points[:2]
    }
    assert len(set(expected.values())) == 2
    for point in points:
        silent = point.labels["target_epsilon"] == float("inf")
        noise = 0.0 if silent else expected[point.config.cohort]
        assert point.hyperparams.noise_multiplier == noise
        assert point.hyperparams.learning_rate == point.labels["learning_rate"]
    with pytest.raises(ValueError, match=r"target_epsilon 2\.0 needs a delta"):
        lab.points(sweep, config, RATES)
    both = lab.product(lab.axis("noise_multiplier", [1]), sweep)
    with pytest.raises(ValueError, match=r"sets the noise_multiplier.* sweep one"):
        lab.points(both, config, RATES, delta=1e-2)


def test_methods_are_paired_at_a_seed_if_they_promise_nothing(tmp_path: Path) -> None:
    """Initial parameters, cohorts and batches are then the seed's alone; a private
    run's are its own, also where it is without noise.
    """
    momentum = {"server_optimizer": "momentum"}
    silent = {"privacy": "central", "clip_norm": 1e6}
    noisy = {"privacy": "central", "target_epsilon": 50.0}
    methods = {"plain": {}, "momentum": momentum, "silent": silent, "noisy": noisy}
    sweep = lab.product(lab.variants("method", methods), lab.seeds(2))
    points = lab.points(sweep, CONFIG, RATES, delta=1e-2)
    runs = lab.run_sweep(points, tmp_path)
    losses = np.array([run.history("train_loss") for run in runs]).reshape(4, 2, 3)
    sizes = np.array([run.history("cohort_size") for run in runs]).reshape(4, 2, 3)
    np.testing.assert_array_equal(losses[1, :, 0], losses[0, :, 0])
    np.testing.assert_array_equal(sizes[1], sizes[0])
    assert [point.key for point in points[:4]] == ["seed"] * 4
    # All others, and all seeds, begin elsewhere.
    assert len(np.unique(losses[1:, :, 0])) == 6
    assert len({tuple(row) for row in sizes[1:].reshape(6, 3)}) == 6
    assert len({point.key for point in points[4:]}) == 2


@pytest.mark.parametrize(
    ("name", "values", "rates"),
    [
        ("cohort_share", [0.5, 1.0], {}),
        ("dropout_prob", [0.0, 0.3], {}),
        ("data.num_clients", [20, 40], {}),
        ("num_rounds", [3, 6], {}),
    ],
)
def test_every_point_gets_the_noise_of_its_own_event(
    name: str, values: list[Any], rates: dict[str, float]
) -> None:
    """Whatever the numbers decide: noise found for others is not taken."""
    config = dataclasses.replace(
        CONFIG, privacy="central", sampler="fixed_size", cohort=6
    )
    sweep = lab.product(lab.axis(name, values), lab.axis("learning_rate", [0.1, 1.0]))
    sweep = lab.product(lab.hidden(lab.axis("target_epsilon", [4.0])), sweep)
    points = lab.points(sweep, config, RATES._replace(**rates), delta=1e-2)
    for point in points:
        facts = lab.load_data(point.config.data).facts
        stated = lab.statement(point.config, point.hyperparams, facts, point.delta)
        assert 3.99 < stated[f"epsilon_{stated['accountant']}"] <= 4.0


def test_a_target_without_privacy_and_noise_without_effect_are_named() -> None:
    finite = lab.axis("target_epsilon", [8.0])
    with pytest.raises(ValueError, match=r"target_epsilon 8 .* privacy 'none'"):
        lab.points(finite, CONFIG, RATES, delta=1e-2)
    noise = lab.axis("noise_multiplier", [0.0, 1.0, 2.0])
    with pytest.warns(UserWarning, match=r"noise_multiplier 1, 2 has no effect"):
        lab.points(noise, CONFIG, RATES)
    kinds = lab.variants("kind", {"none": {}, "central": {"privacy": "central"}})
    noisy = RATES._replace(noise_multiplier=1.0)
    # What all share may act in some of them.
    assert len(lab.points(kinds, CONFIG, noisy)) == 2
