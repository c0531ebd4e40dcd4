"""The sweep language: its algebra, its errors, and the points that it makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import lab
from ppml_lab.lab import parts

SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=3, eval_every=3),
)
PRIVATE = replace(SETUP, mechanism=parts.Gaussian(0.3, 1.0))
RATE, CLIP = "trainer.optimizer.learning_rate", "mechanism.clip_norm"
INF = float("inf")
VALUES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def labels(points: list[lab.Point]) -> list[tuple[Any, ...]]:
    return [tuple(point.labels.values()) for point in points]


def setups(points: list[lab.Point]) -> list[Any]:
    return [point.setup for point in points]


@settings(max_examples=30, deadline=None)
@given(st.tuples(VALUES, VALUES, VALUES))
def test_the_algebra(values: tuple[list[int], list[int], list[int]]) -> None:
    a, b, c = map(lab.axis, ("seed", RATE, CLIP), values)
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (CLIP, 1),
        ("trainer.batch_size", np.int64(7)),
        (RATE, np.float32(0.5)),
        ("schedule.stop_at", None),
        ("trainer.optimizer.momentum", 0.5),
        ("sampler.expected_cohort", np.int64(5)),
        ("secure_sum.wraps", np.bool_(True)),
        ("seed", np.int64(3)),
        ("delta", np.float64(1e-5)),
    ],
)
def test_the_table_shows_what_was_written_and_no_numpy_scalar(
    name: str, value: Any
) -> None:
    setup = replace(PRIVATE, secure_sum=parts.AdditiveSharing())
    (point,) = lab.points(lab.axis(name, [value]), setup, delta=1e-3)
    shown = point.labels[name]
    assert shown == value
    assert not isinstance(shown, np.generic)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lab.axis("seed", []), "'seed' has no values"),
        (lambda: lab.axis("", [1]), "name must be a key path"),
        (
            lambda: lab.axis("rule.weighting", "uniform"),
            "must be an iterable .* or a mapping",
        ),
        (
            lambda: lab.axis("mechanism", [parts.NoPrivacy()]),
            r"'mechanism' are parts, which need labels; .*\{'NoPrivacy': NoPrivacy\(",
        ),
        (
            lambda: lab.axis("metrics", [(parts.Accuracy(),)]),
            "'metrics' are parts, which need labels",
        ),
        (lambda: lab.seeds(0), "number of seeds must be .* at least 1, got 0"),
        (lambda: lab.variants("method", {}), "'method' has no values"),
        (lambda: lab.variants("", {"a": {}}), "column must be a name"),
        (lambda: lab.variants("method", {"DP": 1.0}), "'DP' must be a setup, or a map"),
        (
            lambda: lab.product(lab.seeds(2), lab.hidden(lab.seeds(3))),
            "two of the combined sweeps set 'seed'",
        ),
        (
            lambda: lab.zipped(
                lab.variants("method", {"DP": {CLIP: 1.0}}), lab.axis(CLIP, [2.0])
            ),
            "two of the combined sweeps set 'mechanism.clip_norm'",
        ),
        (
            lambda: lab.product(
                lab.variants("method", {"DP": {}}),
                lab.variants("method", {"slow": {RATE: 0.1}}),
            ),
            "two of the combined sweeps set 'method'",
        ),
        (lambda: lab.zipped(lab.seeds(2), lab.axis(RATE, [5])), r"got \[2, 1\]"),
        (lambda: lab.uniform(CLIP, 2, 1, 3, seed=0), "low < high, got 2 and 1"),
        (
            lambda: lab.log_uniform(CLIP, 0.0, 1, 3, seed=0),
            r"low of mechanism\.clip_norm must be positive",
        ),
        (lambda: lab.uniform(CLIP, 1, 2, 0, seed=0), r"draws of mechanism\.clip_norm"),
    ],
)
def test_bad_sweeps(make: Callable[[], lab.Sweep], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@lab.part
class Named(parts.Federated):
    """A setup with a field that only points have."""

    seed: int = 0


@lab.part
class NumberInData:
    """Data with a traced number."""

    size: lab.Traced = 3.0

    def load(self) -> Any:
        raise AssertionError


@lab.part
class NoSetup:
    """Some of what a setup has."""

    data: parts.Data = parts.Digits()
    schedule: lab.Schedule = lab.Schedule()


@pytest.mark.parametrize(
    ("sweep", "setup", "message"),
    [
        (lab.axis("mechanism.clipnorm", [1]), PRIVATE, f"did you mean '{CLIP}'"),
        (lab.axis("mechanizm.clip_norm", [1]), PRIVATE, f"did you mean '{CLIP}'"),
        (lab.axis("clip_norm", [1]), PRIVATE, "no field 'clip_norm': the setup is Fed"),
        (lab.axis("sed", [1]), PRIVATE, "no field 'sed'"),
        (lab.axis(CLIP, [1]), SETUP, f"no field '{CLIP}': mechanism is NoPrivacy"),
        (lab.axis("trainer", [0.1]), SETUP, r"'trainer' is a part .*learning_rate'"),
        (lab.axis(CLIP, ["1"]), PRIVATE, r"Gaussian\.clip_norm must be a number"),
        (lab.axis(CLIP, [None]), PRIVATE, r"Gaussian\.clip_norm must be a number"),
        (lab.axis("trainer.batch_size", [3.0]), SETUP, "FedAvg.batch_size must be int"),
        (lab.axis("trainer.batch_size", ["3"]), SETUP, "FedAvg.batch_size must be int"),
        (
            lab.axis("trainer.batch_size", [True]),
            SETUP,
            "batch_size must be int, got T",
        ),
        (
            lab.axis("client_metrics", [1]),
            SETUP,
            "Federated.client_metrics must be boo",
        ),
        (
            lab.axis("layout.num_lanes", [4]),
            SETUP,
            "num_lanes, which changes no result",
        ),
        (
            lab.axis("schedule.stop_at", ["4"]),
            SETUP,
            "stop_at must be float or None",
        ),
        (lab.axis("model", [2]), SETUP, r"'model' is a part \(Logistic\), got 2"),
        (lab.axis("model", {"a": parts.TwoNN}), SETUP, r"write TwoNN\(\.\.\.\)"),
        (lab.axis("rule.weighting", ["unifrm"]), SETUP, "must be one of 'uniform'"),
        (lab.uniform("trainer.batch_size", 1, 9, 2, seed=0), SETUP, "must be int"),
        (lab.axis(CLIP, [1]), None, f"'{CLIP}' is a field of a setup, but"),
        (lab.seeds(1), None, "setup must be a part"),
        (lab.seeds(1), parts.Federated, r"setup must be a part.* Federated\(\)"),
        (
            lab.seeds(1),
            parts.Gaussian(),
            "Gaussian is not a setup, as it has no data and no schedule",
        ),
        (
            lab.seeds(1),
            NoSetup(),
            "NoSetup is not a setup, as it has no layout and no algorithm",
        ),
        (lab.seeds(1), Named(), r"Named\.seed: .* give the field another name"),
        (
            lab.seeds(1),
            replace(SETUP, data=NumberInData()),
            r"data\.size is annotated Traced.* declare .* as float",
        ),
        (lab.axis("seed", [-1]), SETUP, "seed must be a whole number from 0 .* got -1"),
        (
            lab.axis("seed", [2**32]),
            SETUP,
            "seed must be a whole number from 0 .* got 4294967296",
        ),
        (
            lab.axis("seed", [True]),
            SETUP,
            "seed must be a whole number from 0 .* got True",
        ),
        (
            lab.axis("seed", [0.5]),
            SETUP,
            "seed must be a whole number from 0 .* got 0.5",
        ),
        (lab.axis("delta", [1.0]), SETUP, "delta must lie"),
        (lab.axis("target_epsilon", ["8"]), PRIVATE, "target_epsilon"),
        ((), SETUP, "sweep has no settings"),
    ],
)
def test_points_refuse_what_is_wrong_and_say_the_cure(
    sweep: lab.Sweep, setup: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        lab.points(sweep, setup, delta=1e-3)


def test_draws_are_reproducible_independent_and_in_range() -> None:
    few = lab.log_uniform(RATE, 1e-3, 10.0, 5, seed=1)
    many = lab.log_uniform(RATE, 1e-3, 10.0, 2000, seed=1)
    other = lab.log_uniform(CLIP, 1e-3, 10.0, 2000, seed=1)
    flat = lab.uniform("dropout_prob", 0.2, 0.6, 2000, seed=1)
    assert many[:5] == few
    assert few != lab.log_uniform(RATE, 1e-3, 10.0, 5, seed=2)
    logs = np.log10([s.fields[RATE] for s in many])
    others = np.log10([s.fields[CLIP] for s in other])
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
    private = {"mechanism": parts.Gaussian(9.0, 1.0), CLIP: 2}
    sweep = lab.product(
        lab.seeds(2),
        lab.zipped(
            lab.variants("method", {"plain": {}, "DP": private}),
            lab.hidden(lab.axis("partition.seed", [3, 4])),
        ),
        lab.axis("sampler.expected_cohort", [4, 6], column="cohort"),
    )
    points = lab.points(sweep, SETUP, delta=1e-3)
    assert list(points[0].labels) == ["method", "cohort", "seed"]
    assert labels(points) == [
        (method, cohort, seed)
        for seed in (0, 1)
        for method in ("plain", "DP")
        for cohort in (4, 6)
    ]
    last = points[-1]
    assert last.setup == replace(
        SETUP,
        partition=parts.Iid(20, seed=4),
        mechanism=parts.Gaussian(2.0, 1.0),
        sampler=parts.Poisson(6.0),
    )
    assert (last.seed, last.delta) == (1, 1e-3)
    assert last.swept == {*private, "partition.seed", "sampler.expected_cohort"}
    assert points[0].setup == replace(
        SETUP, partition=parts.Iid(20, seed=3), sampler=parts.Poisson(4)
    )


def test_parts_and_what_is_set_inside_them_come_in_any_order() -> None:
    clips = lab.axis(CLIP, [0.1, 1])
    private = lab.axis("mechanism", {"DP": parts.Gaussian(9, 2)})
    whole = lab.variants("setup", {"a": SETUP})
    expected = [replace(SETUP, mechanism=parts.Gaussian(clip, 2)) for clip in (0.1, 1)]
    for several in itertools.permutations((clips, private, whole)):
        assert setups(lab.points(lab.product(*several))) == expected


@lab.part
class Other(parts.Federated):
    """A setup of another class, with a number of its own."""

    extra: lab.Traced = 1.0


def test_whole_setups_of_several_classes_are_variants() -> None:
    patterns = lab.variants(
        "pattern", {"a": SETUP, "b": Other(partition=parts.Iid(20))}
    )
    made = lab.points(lab.product(lab.axis("server.learning_rate", [0.5]), patterns))
    assert [type(setup) for setup in setups(made)] == [parts.Federated, Other]
    assert all(setup.server == parts.Sgd(0.5) for setup in setups(made))
    assert made[1].labels == {"server.learning_rate": 0.5, "pattern": "b"}
    assert made[1].swept == {"server.learning_rate"}
    with pytest.raises(ValueError, match="no field 'extra': the setup is Federated"):
        lab.points(lab.product(lab.axis("extra", [0.5]), patterns))


def test_a_chain_fills_columns_and_keeps_a_common_point_once() -> None:
    sweep = lab.chain(
        lab.axis(CLIP, [0.3, 1]),
        lab.axis(RATE, [0.1, 0.2]),
        lab.axis("mechanism", {"none": parts.NoPrivacy()}),
        lab.variants("method", {"slow": {RATE: 0.01, "delta": 0.5}}),
        lab.axis("seed", [7]),
    )
    points = lab.points(sweep, PRIVATE)
    assert [dict(point.labels) for point in points] == [
        {CLIP: clip, RATE: rate, "mechanism": kind, "method": method, "seed": seed}
        for clip, rate, kind, method, seed in (
            (0.3, 0.1, "Gaussian", None, 0),
            (1, 0.1, "Gaussian", None, 0),
            (0.3, 0.2, "Gaussian", None, 0),
            (None, 0.1, "none", None, 0),
            (0.3, 0.01, "Gaussian", "slow", 0),
            (0.3, 0.1, "Gaussian", None, 7),
        )
    ]
    assert [point.delta for point in points] == [None, None, None, None, 0.5, None]


def stated(point: lab.Point) -> float:
    return lab.statement(point.setup, point.delta)["epsilon_public"]


def test_targets_are_calibrated_for_each_point() -> None:
    sweep = lab.product(
        lab.axis("target_epsilon", [2, INF]),
        lab.axis(RATE, [0.1, 1.0]),
        lab.axis("schedule.num_rounds", [3, 6]),
    )
    always = replace(PRIVATE, sampler=parts.Everyone())
    points = lab.points(sweep, always, delta=1e-2)
    noises = [point.setup.mechanism.noise_multiplier for point in points]
    # One search for both rates; none for infinity.
    assert noises == [*noises[:2], *noises[:2], 0, 0, 0, 0]
    assert noises[0] < noises[1]
    for point, noise in zip(points, noises, strict=True):
        assert point.setup.mechanism == parts.Gaussian(0.3, noise)
        assert point.setup.trainer.optimizer.learning_rate == point.labels[RATE]
        # As programs take it, rounded up.
        assert noise == np.float32(noise)
        assert 1.99 < stated(point) <= 2 or not noise
    with pytest.raises(ValueError, match=r"target_epsilon 2 needs a delta"):
        lab.points(sweep, always)
    both = lab.product(lab.axis("mechanism.noise_multiplier", [1]), sweep)
    with pytest.raises(ValueError, match=r"sets mechanism\.noise_m.* sweep only one"):
        lab.points(both, always, delta=1e-2)
    with pytest.raises(
        ValueError, match=r"target_epsilon 8 .*mechanism NoPrivacy .* no noise"
    ):
        lab.points(lab.axis("target_epsilon", [8.0]), SETUP, delta=1e-2)
    # Whoever has no noise has no finite target, and needs none.
    (plain,) = lab.points(lab.axis("target_epsilon", [INF]), SETUP, delta=1e-2)
    assert plain.setup == SETUP


DECAY = parts.ExponentialDecay(0.5)


@pytest.mark.parametrize(
    ("sampler", "name", "values"),
    [
        (
            parts.Everyone(),
            "mechanism",
            {
                "central": parts.Gaussian(),
                "local": parts.LocalGaussian(),
                "shrinking": parts.ScheduledGaussian(noise_schedule=DECAY),
                "responses": parts.RandomisedResponse(),
            },
        ),
        *(
            pytest.param(sampler, name, values, marks=pytest.mark.exhaustive)
            for sampler, name, values in (
                (parts.FixedSize(6), "sampler.share", [0.5, 1.0]),
                (parts.Poisson(6), "dropout_prob", [0.0, 0.3]),
                (parts.Poisson(6), "partition.num_clients", [20, 40]),
            )
        ),
    ],
)
def test_every_point_gets_the_noise_of_its_own_event(
    sampler: Any, name: str, values: Any
) -> None:
    """Whatever the numbers decide: noise found for others is not taken."""
    setup = replace(PRIVATE, sampler=sampler)
    sweep = lab.product(lab.axis(name, values), lab.axis(RATE, [0.1, 1.0]))
    sweep = lab.product(lab.hidden(lab.axis("target_epsilon", [4.0])), sweep)
    for point in lab.points(sweep, setup, delta=1e-2)[::2]:
        assert 3.99 < stated(point) <= 4.0


@pytest.mark.parametrize(
    "mechanism",
    [
        parts.Gaussian(1, 1), parts.LocalGaussian(1, 1), parts.ScheduledGaussian(1, 1),
        parts.AdaptiveGaussian(1, 1), parts.LocalLaplace(), parts.RandomisedResponse(),
        parts.CorrelatedGaussian(1, 1), parts.BandedGaussian(1, 1),
    ],
    ids=lambda mechanism: type(mechanism).__name__,
)  # fmt: skip
def test_an_infinite_target_is_no_noise_or_refused_in_words(mechanism: Any) -> None:
    setup = replace(PRIVATE, mechanism=mechanism, sampler=parts.Everyone())
    try:
        (point,) = lab.points(lab.axis("target_epsilon", [INF]), setup, delta=1e-2)
    except ValueError as error:
        assert "target_epsilon inf" in str(error)  # noqa: PT017
    else:
        assert stated(point) == INF


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Points and runs of four methods at two seeds."""
    slow = replace(SETUP, server=parts.Sgd(0.5))
    private = replace(SETUP, mechanism=parts.Gaussian(1e6))
    noisy = {"": private, "mechanism.noise_multiplier": 0.5, CLIP: 0.3}
    choices = {"plain": SETUP, "slow": slow, "silent": private, "noisy": noisy}
    sweep = lab.product(lab.variants("method", choices), lab.seeds(2))
    points = lab.points(sweep, delta=1e-2)
    return points, lab.run_sweep(points, tmp_path_factory.mktemp("methods"))


def test_methods_are_paired_at_a_seed_if_they_promise_nothing(methods: Any) -> None:
    """Initial parameters, cohorts and batches are then the seed's alone; a private
    run's are its own, also where it is without noise.
    """
    points, runs = methods
    losses = np.array([run.history("train_loss") for run in runs]).reshape(4, 2, 3)
    sizes = np.array([run.history("cohort_size") for run in runs]).reshape(4, 2, 3)
    np.testing.assert_array_equal(losses[1, :, 0], losses[0, :, 0])
    np.testing.assert_array_equal(sizes[1], sizes[0])
    assert [point.key for point in points[:4]] == ["seed"] * 4
    # All others, and all seeds, begin elsewhere.
    assert len(np.unique(losses[1:, :, 0])) == 6
    assert len({tuple(row) for row in sizes[1:].reshape(6, 3)}) == 6
    assert len({point.key for point in points[4:]}) == 2


def test_a_folder_may_be_a_text_and_what_is_finished_stays(methods: Any) -> None:
    points, runs = methods
    folder = runs[0].folder.parents[1]
    assert isinstance(folder, Path)
    assert lab.run_sweep(points, str(folder)) == runs


def test_two_classes_of_one_name_are_refused() -> None:
    def made(step: float) -> Any:
        @lab.part
        class Mine(parts.FedAvg):
            def build(self, task: Any, facts: Any, server: Any) -> Any:
                return super().build(task, facts, server) if step else None

        return Mine()

    # What they capture tells the first two apart, and nothing the others.
    different = lab.axis("trainer", {"a": made(1.0), "b": made(2.0)})
    assert len({point.id for point in lab.points(different, SETUP)}) == 2
    same = lab.axis("trainer", {"a": made(1.0), "b": made(1.0)})
    with pytest.raises(ValueError, match=r"two classes of parts are called .*Mine; re"):
        lab.points(same, SETUP)


def test_noise_that_is_compiled_is_found_too() -> None:
    rows = {"x": np.ones((8, 2), np.float32), "y": np.arange(8) % 2}

    @lab.part
    class Rows:
        def load(self) -> Any:
            return rows, np.zeros(8, int), rows

    setup = parts.OnShares(data=Rows(), noise_multiplier=2.0)
    (point,) = lab.points(lab.axis("target_epsilon", [INF]), setup, delta=1e-2)
    assert point.setup.noise_multiplier == 0
    stated = lab.statement(setup, 1e-2)
    assert stated["noise_multiplier"] == 2.0
    targets = lab.axis("target_epsilon", [1.0])
    noises = lab.axis("noise_multiplier", [3.0])
    with pytest.raises(ValueError, match="sets noise_multiplier, but the sweep also"):
        lab.points(lab.product(targets, noises), setup, delta=1e-2)
