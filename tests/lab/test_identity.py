"""What makes a run, and its keys: private points share no randomness, others their
seed's.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, lab
from ppml_lab.lab import parts, program, results
from ppml_lab.lab.tree import identity, paths

# Noise is nearly all of a release, so that what two releases have in common is noise.
SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(8),
    trainer=parts.FedProx(),
    mechanism=parts.Gaussian(0.5, 100.0),
    schedule=lab.Schedule(num_rounds=8, eval_every=8),
    layout=lab.Layout(num_devices=1),
)
OF_NUMBERS: dict[str, dict[str, float]] = {
    "plain": {},
    "noise": {"mechanism.noise_multiplier": 50.0},
    "clip": {"mechanism.clip_norm": 0.25},
    "rate": {"trainer.optimizer.learning_rate": 0.05},
    "server rate": {"server.learning_rate": 0.5},
    "dropout": {"dropout_prob": 0.01},
    "mu": {"trainer.mu": 0.5},
}
OF_STRUCTURE: dict[str, Any] = {
    "rule": replace(SETUP, mechanism=parts.Gaussian(0.5, 100.0, "per_layer")),
    "adaptive": replace(SETUP, mechanism=parts.AdaptiveGaussian(0.5, 3.0)),
    "sum": replace(SETUP, secure_sum=parts.AdditiveSharing(mode="identity")),
    "local": replace(SETUP, mechanism=parts.LocalGaussian(0.5, 100.0)),
    "trainer": replace(SETUP, trainer=parts.FedAvg()),
}


def with_fields(setup: Any, fields: dict[str, Any]) -> Any:
    for path, value in fields.items():
        setup = paths.replaced(setup, path, value)
    return setup


def point(setup: Any, seed: int = 0) -> lab.Point:
    return lab.Point(setup, seed, {}, 1e-2)


def words(setup: Any, seed: int = 0) -> tuple[int, ...]:
    """Those of a run's key."""
    return tuple(results.key_words([seed], [point(setup).key])[0].tolist())


def trained(points: list[lab.Point]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each point, how its parameters change in all rounds, and the number of
    participants in every round.
    """
    # As many points as devices have rows.
    filled = points + points[-1:] * (-len(points) % 4)
    group, inputs = program.group_of(points[0]), program.inputs_of(filled)
    first = program.init_program(group)(*inputs)
    chunk = jax.jit(program.mapped_chunk(group, program.Chunk(1, 8), 1))
    loaded = lab.load_data(points[0].setup)
    end, infos, _ = chunk(*inputs, first, *loaded[:3], jnp.int32(0))

    def flat(params: Any) -> np.ndarray:
        leaves = [
            np.asarray(leaf).reshape(len(filled), -1)
            for leaf in jax.tree.leaves(params)
        ]
        return np.concatenate(leaves, axis=1)

    changes = flat(end.params) - flat(first.params)
    sizes = np.asarray(infos["cohort_size"])
    return [(changes[row], sizes[row]) for row in range(len(points))]


@lab.part
class ChangedRow:
    """Digits of which one value is another."""

    num_classes = 10

    def load(self) -> Any:
        """Digits, but for a pixel."""
        train, users, test = parts.Digits().load()
        x = train["x"].copy()
        x[7, 3, 3, 0] += np.float32(1)
        return train | {"x": x}, users, test


@pytest.fixture
def neighbouring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same part, whose data have one value changed while the test lasts."""
    from ppml_lab.lab import loading

    caches = (loading._dealt, loading._facts, loading._placed)
    for cache in caches:
        cache.cache_clear()
    whole = ChangedRow().load()
    monkeypatch.setattr(parts.Digits, "load", lambda self: whole)
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def of_numbers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What points of one seed and one program draw, by what is special about them."""
    points = [point(with_fields(SETUP, fields)) for fields in OF_NUMBERS.values()]
    return dict(zip(OF_NUMBERS, trained(points), strict=True))


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
    for name, setup in OF_STRUCTURE.items():
        (found[name],) = trained([point(setup)])
    for one, other in itertools.combinations(found, 2):
        assert_unlike(found[one], found[other])


def test_one_changed_value_makes_another_key_and_another_run(
    request: pytest.FixtureRequest,
) -> None:
    before = point(SETUP)
    plain = point(replace(SETUP, mechanism=parts.NoPrivacy()))
    found = [(before.key, before.id, words(SETUP), plain.id)]
    request.getfixturevalue("neighbouring")
    found += [(before.key, before.id, words(SETUP), plain.id)]
    assert all(a != b for a, b in zip(*found, strict=True))
    assert plain.key == "seed"


@pytest.mark.exhaustive
def test_neighbouring_data_share_no_randomness(
    of_numbers: Any, neighbouring: None
) -> None:
    (changed,) = trained([point(SETUP)])
    assert_unlike(changed, of_numbers["plain"])


def test_private_points_share_no_keys() -> None:
    setups = [with_fields(SETUP, fields) for fields in OF_NUMBERS.values()]
    setups += OF_STRUCTURE.values()
    assert len({words(setup, seed) for setup in setups for seed in (0, 1)}) == (
        2 * len(setups)
    )


def test_layouts_modes_and_lengths_keep_the_key() -> None:
    shared = replace(SETUP, secure_sum=parts.AdditiveSharing())
    own = point(shared).key
    assert len(own) == 64
    kept: dict[str, Any] = {
        "schedule.num_rounds": 200, "schedule.eval_every": 1,
        "schedule.evals_per_chunk": 4, "schedule.metric": "loss",
        "layout.num_lanes": 3, "layout.num_devices": 2, "layout.shard_data": True,
        "secure_sum.mode": "identity", "sampler.expected_cohort": 8,
    }  # fmt: skip
    for path, value in kept.items():
        other = with_fields(shared, {path: value})
        assert point(other).key == own, path
        # Layouts alone are the same run; a mode's costs are others.
        same = path.startswith("layout") or other == shared
        assert (point(other).id == point(shared).id) == same, path
    assert point(shared)._replace(delta=1e-3).key == own
    assert point(shared)._replace(delta=1e-3).id != point(shared).id
    assert point(shared)._replace(labels={"a": 1}).id == point(shared).id
    assert point(shared, 1).id != point(shared).id


EVERY = replace(
    SETUP,
    secure_sum=parts.PairwiseMasking(parts.KRegular()),
    model=parts.Mlp((8,)),
    kept=("bias",),
)
KEPT = ("schedule", "layout", "secure_sum.mode", "data")


def test_every_other_field_makes_another_key() -> None:
    """Whatever it is: nothing but what is annotated so is left out by its name."""
    named = [path for path in paths.every(EVERY) if not path.startswith(KEPT)]
    facts = lab.facts_of(EVERY)
    own = results.key_identity(EVERY, facts, promises=True)
    for path in named:
        held = paths.value_at(EVERY, path)
        new = Unlike() if path.endswith("schedule") else another(held)
        other = with_fields(EVERY, {path: new})
        assert results.key_identity(other, facts, promises=True) != own, path
    assert len(named) > 25


def another(value: Any) -> Any:
    """Another value of a field."""
    texts = {"uniform": "examples", "flat": "normalised"}
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return texts[value]
        case None:
            return 3
        case tuple():
            return () if value and not isinstance(value[0], int) else (9,)
    return Unlike()


@lab.part
class Unlike:
    """A part unlike all others, which may stand anywhere."""

    weighting = "none"

    def build(self, *of: Any) -> Any:
        raise NotImplementedError

    load = deal = predict = at = __call__ = build


def test_numbers_are_those_of_the_program() -> None:
    own = point(SETUP)
    for path in paths.numbers(SETUP):
        value = paths.value_at(SETUP, path)
        rounded = with_fields(SETUP, {path: np.float32(value)})
        assert (point(rounded).key, point(rounded).id) == (own.key, own.id)
        next_one = np.nextafter(np.float32(value or 1e-6), np.float32(1e9))
        other = with_fields(SETUP, {path: next_one})
        assert point(other).key != own.key, path
        assert point(other).id != own.id, path
    assert point(with_fields(SETUP, {"dropout_prob": -0.0})).key == own.key


def test_nothing_promised_keeps_the_keys_of_the_seed() -> None:
    plain = replace(SETUP, mechanism=parts.NoPrivacy())
    expected = jax.random.key_data(jax.random.key(5)).tolist()
    masked = parts.PairwiseMasking(max_abs=1.0)
    plain_ones: list[dict[str, Any]] = [
        {}, {"trainer": parts.Scaffold()}, {"secure_sum": masked},
    ]  # fmt: skip
    for fields in plain_ones:
        setup = replace(plain, **fields)
        assert point(setup).key == "seed"
        assert [*words(setup, 5)] == expected
    private_ones: list[dict[str, Any]] = [
        {"mechanism": parts.Gaussian()},  # without noise, but clipped
        {"mechanism": parts.LocalGaussian()},
        {"trainer": parts.LocalDpSgd()},
    ]
    for fields in private_ones:
        assert len(point(replace(plain, **fields)).key) == 64


def test_private_keys_of_no_data_are_refused() -> None:
    facts = lab.facts_of(SETUP)._replace(digests=None)
    with pytest.raises(ValueError, match=r"facts\.digests is None"):
        results.key_identity(SETUP, facts, promises=True)
    assert results.key_identity(SETUP, facts, promises=False) == "seed"


def test_a_longer_run_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """To the bit; and is another run."""
    setup = with_fields(SETUP, {"mechanism.noise_multiplier": 1.0})
    setup = with_fields(setup, {"schedule.eval_every": 2})
    rounds = lab.axis("schedule.num_rounds", (2, 4))
    short, long = lab.points(rounds, setup, delta=1e-2)
    one, other = lab.run_sweep([short, long], tmp_path)
    assert short.key == long.key
    assert one.folder != other.folder
    for name in ("train_loss", "cohort_size", "update_norm", "accuracy"):
        history = one.history(name)
        assert history == other.history(name)[: len(history)], name
        assert len(history) < len(other.history(name))


@pytest.mark.exhaustive
def test_rounds_far_apart_draw_anew() -> None:
    points = [point(SETUP)] * 4
    group, inputs = program.group_of(points[0]), program.inputs_of(points)
    first = program.init_program(group)(*inputs)
    run = jax.jit(program.mapped_chunk(group, program.Chunk(1, 1), 1))
    loaded = lab.load_data(SETUP)
    changes = []
    for number in (0, 1, 256, 1000, 1024, 4096, 2**16, 2**20):
        after, _, _ = run(*inputs, first, *loaded[:3], number)
        changes.append(np.asarray(jax.tree.leaves(after.params)[-1])[0].ravel())
    start = np.asarray(jax.tree.leaves(first.params)[-1])[0].ravel()
    found = np.corrcoef([change - start for change in changes])
    assert np.abs(found - np.eye(len(changes))).max() < 0.24


# What a value is


@lab.part
class Holds:
    """Anything."""

    anything: Any = 1


@lab.part
class HoldsToo:
    """The same fields, another class."""

    anything: Any = 1


def scaled(x: Any) -> Any:
    return x


def test_equal_fields_of_other_classes_are_other_runs() -> None:
    ids = [
        point(replace(SETUP, mechanism=mechanism(1.0, 1.0))).id
        for mechanism in (parts.Gaussian, parts.LocalGaussian, parts.ScheduledGaussian)
    ]
    assert len(set(ids)) == 3
    assert identity.digest(Holds()) != identity.digest(HoldsToo())
    types = [Holds(v) for v in (1, 1.0, True, "1", None, (1,), (1.0,), ((1,),))]
    assert len({identity.digest(one) for one in types}) == len(types)


def test_functions_count_by_where_they_are_imported_from() -> None:
    told = [identity.described(Holds(f)) for f in (optax.adamw, jnp.tanh, scaled)]
    assert [next(iter(t["fields"]["anything"])) for t in told] == ["function"] * 3
    assert len({identity.digest(Holds(f)) for f in (optax.adamw, optax.adam)}) == 2

    def local(x: Any) -> Any:
        return x

    nameless: list[Callable[..., Any]] = [
        lambda x: x, local, Holds().__repr__, functools.partial(scaled),
        jax.tree_util.Partial(scaled), jax.jit(scaled),
    ]  # fmt: skip
    for function in nameless:
        with pytest.raises(ValueError, match=r"anything.*top of a module"):
            identity.digest(Holds(function))


def local_part(factor: Any) -> Any:
    @lab.part
    class Mine:
        number: lab.Traced = 1.0

        def build(self) -> Any:
            return factor

    return Mine()


def test_local_classes_differ_by_what_their_methods_capture() -> None:
    values = [
        1, 2, 1.0, "1", None, (1, 2), [1, 2], {"a": 1}, np.arange(2), np.arange(3),
        np.float32(1), jnp.arange(2.0), scaled, np, Holds(), HoldsToo(), Holds,
    ]  # fmt: skip
    digests = [identity.digest(local_part(value)) for value in values]
    assert len(set(digests)) == len(values)
    assert identity.digest(local_part(1)) == digests[0]
    with pytest.raises(ValueError, match="factor"):
        identity.digest(local_part(lambda: 1))


def body(factor: Any) -> Any:
    @lab.part
    class Mine:
        num_classes = factor

    return Mine()


def default(factor: Any) -> Any:
    @lab.part
    class Mine:
        def build(self, own: Any = factor) -> Any:
            return own

    return Mine()


def keyword(factor: Any) -> Any:
    @lab.part
    class Mine:
        def build(self, *, own: Any = factor) -> Any:
            return own

    return Mine()


def inherited(factor: Any) -> Any:
    class Above:
        def build(self) -> Any:
            return factor

    @lab.part
    class Mine(Above):
        pass

    return Mine()


def decorated(factor: Any) -> Any:
    def times(method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(self: Any) -> Any:
            return factor, method(self)

        return wrapped

    @lab.part
    class Mine:
        @times
        def build(self) -> Any:
            return 1

    return Mine()


def in_property(factor: Any) -> Any:
    @lab.part
    class Mine:
        @property
        def num_classes(self) -> Any:
            return factor

        @staticmethod
        def other() -> Any:
            return None

    return Mine()


def of_another(factor: Any) -> Any:
    @lab.part
    class Inner:
        def build(self) -> Any:
            return factor, Inner, Mine

    @lab.part
    class Mine:
        def build(self) -> Any:
            return Inner(), Mine

    return Mine()


@pytest.mark.parametrize(
    "make",
    [body, default, keyword, inherited, decorated, in_property, of_another],
    ids=lambda make: make.__name__,
)
def test_whatever_a_local_class_takes_from_around_it_counts(make: Any) -> None:
    one, same, other = (identity.digest(make(factor)) for factor in (1, 1, 2))
    assert one == same != other


def test_what_has_no_name_yet_is_no_error() -> None:
    @lab.part
    class Mine:
        def build(self) -> Any:
            return later

    found = identity.digest(Mine())
    later = 1
    assert identity.digest(Mine()) != found


def test_names_are_the_same_under_python_m(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from ppml_lab import lab\nfrom ppml_lab.lab.tree.identity import digest\n"
        "def f(): pass\n"
        "@lab.part\nclass M:\n    a: lab.Traced = 1\n    b: object = f\n"
        "print(digest(M()))"
    )
    (tmp_path / "mine.py").write_text(code)
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    said = subprocess.run(
        [sys.executable, "-m", "mine"], cwd=tmp_path, env=environment, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("mine")
    assert capsys.readouterr().out == said
    assert len(said) == 65


def test_digests_do_not_depend_on_how_data_lie() -> None:
    plain = lab.facts_of(SETUP)
    laid_out = with_fields(SETUP, {"layout.shard_data": True})
    assert lab.load_data(laid_out).facts == plain
    assert isinstance(plain.digests, data.Digests)


def test_runs_that_follow_their_schedule_share_no_key_with_longer_ones() -> None:
    def keys(of: Any) -> set[str]:
        lengths = [lab.Schedule(num_rounds=n) for n in (2, 4)]
        private = parts.Gaussian(1.0, 1.0)
        rest = {"partition": parts.Iid(20), "sampler": parts.Poisson(5)}
        return {
            lab.points(
                lab.seeds(1), of(schedule=one, mechanism=private, **rest), delta=1e-4
            )[0].key
            for one in lengths
        }

    @lab.part
    class Plain(parts.Federated):
        def algorithm(self, facts: Any) -> Any:
            return super().algorithm(facts)

    @lab.part
    class Falling(parts.Federated):
        def algorithm(self, facts: Any) -> Any:
            rate = parts.Sgd(1.0 / self.schedule.num_rounds)
            copied = replace(
                Plain(**{k: getattr(self, k) for k in PASSED}), server=rate
            )
            return copied.algorithm(facts)

    @lab.part
    class Late(parts.Federated):
        def algorithm(self, facts: Any) -> Any:
            made = super().algorithm(facts)

            def one_round(key: Any, state: Any, clients: Any) -> Any:
                state, info = made.round(key, state, clients)
                return state, info | {"length": jnp.float32(self.schedule.num_rounds)}

            return made._replace(round=one_round)

    assert [len(keys(one)) for one in (parts.Federated, Plain)] == [1, 1]
    assert [len(keys(one)) for one in (Falling, Late)] == [2, 2]


PASSED = ("data", "partition", "sampler", "mechanism")
