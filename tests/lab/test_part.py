"""Parts: what is a child, what is structure, and what a field cannot hold."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.tree import paths


class Rates(NamedTuple):
    first: float
    second: float


@dataclasses.dataclass(frozen=True)
class Plain:
    value: Any


class Shape(Protocol):
    def __call__(self, x: Any) -> Any: ...


@lab.part
class Fields:
    """One field of every kind."""

    rate: lab.Traced = 1
    maybe: lab.Traced | None = None
    either: lab.Traced | parts.Sgd = 0.5
    inner: parts.Optimizer = parts.Sgd(0.2)
    more: tuple[parts.Optimizer, ...] = (parts.Sgd(1), parts.Sgd(2))
    rule: str = "flat"
    kind: Literal["mean", "median"] = "mean"
    sizes: tuple[int, ...] = (1, 2)
    scale: float = 1
    count: int = 3
    flag: bool = False
    lanes: lab.SameBits[int | None] = None
    shape: Shape = abs
    anything: Any = 1


def test_numbers_are_leaves_and_key_paths_are_their_names() -> None:
    inner = ["inner.learning_rate", "more.0.learning_rate", "more.1.learning_rate"]
    assert paths.numbers(Fields()) == ["rate", "either", *inner]
    other = Fields(maybe=1, either=parts.Sgd(momentum=0.9))
    both = ["either.learning_rate", "either.momentum"]
    assert paths.numbers(other) == ["rate", "maybe", *both, *inner]
    assert jax.tree.leaves(Fields()) == [1, 0.5, 0.2, 1, 2]


def test_values_become_the_fields_types() -> None:
    given: dict[str, Any] = {
        "rate": np.float32(0.1), "scale": np.int64(2), "count": np.int64(7),
        "flag": np.bool_(True), "rule": np.str_("x"), "sizes": (np.int32(3),),
        "lanes": np.int64(4), "maybe": np.float64(2),
    }  # fmt: skip
    made = Fields(**given)
    held = (made.rate, made.scale, made.count, made.flag, made.rule, made.lanes)
    assert [type(value) for value in held] == [float, float, int, bool, str, int]
    assert (type(made.sizes[0]), type(made.maybe)) == (int, float)
    assert made.rate == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("rate", [parts.Sgd(), True, np.ones(()), jnp.ones(()), "1", None, parts.Sgd]),
        ("rate", [float("nan"), np.float32("nan"), 10**400, 1e39, 1e-50, 1j]),
        ("maybe", ["1", False, float("nan"), parts.Sgd()]),
        ("either", [parts.Sgd, (parts.Sgd(),), "1"]),
        ("inner", [parts.Sgd, [parts.Sgd()], 0.1, "sgd", None, (parts.Sgd(),)]),
        ("more", [(parts.Sgd(), 1.0), parts.Sgd(), (0.1,), parts.Sgd, [parts.Sgd()]]),
        ("rule", [1, ["flat"], parts.Sgd(), b"flat", None]),
        ("kind", ["meam", 1, None]),
        ("sizes", [[1], (1.0,), (True,), 1, ("1",)]),
        ("scale", ["1", True, float("nan"), None, 10**400]),
        ("count", [3.0, "3", True, None, np.float64(3), np.ones(1, int)]),
        ("flag", [1, "True", None, 0.0]),
        ("lanes", [2.0, True, "4"]),
        ("anything", [{}, [1], np.ones(2), jnp.ones(2), (1, [2])]),
    ],
)
def test_what_a_field_cannot_hold_is_refused_by_class_and_name(
    field: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"Fields\.{field}\b"):
            Fields(**{field: value})


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (parts.FedAvg, {"batch_size": 0.5}, r"FedAvg\.batch_size must be int, got 0.5"),
        (parts.Mean, {"weighting": "unifrm"}, r"Mean\.weighting must be one of 'unifo"),
        (parts.Federated, {"mechanism": parts.NoPrivacy}, r"write NoPrivacy\(\.\.\.\)"),
        (parts.Gaussian, {"clip_norm": "1"}, r"Gaussian\.clip_norm must be a number, "),
        (parts.FedAvg, {"optimizer": 0.1}, r"got 0.1 \(float\); give a part, .* Sgd"),
        (
            parts.TableFile,
            {"path": "a.csv", "target": "y", "one_hot": "sex"},
            r"TableFile\.one_hot must be tuple, .*; write \('sex',\)",
        ),
        (lab.Schedule, {"stop_at": "1"}, r"Schedule\.stop_at must be float or None"),
    ],
)
def test_the_message_has_the_cure(
    cls: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cls(**fields)


def test_structure_is_compared_with_types_and_numbers_are_no_structure() -> None:
    own = jax.tree.structure(Fields())
    same = Fields(rate=5, scale=1.0, inner=parts.Sgd(3), either=0.1)
    assert own == jax.tree.structure(same)
    assert hash(own) == hash(jax.tree.structure(same))
    others: list[dict[str, Any]] = [
        {"anything": 1.0}, {"anything": True}, {"maybe": 1}, {"rule": "x"},
        {"more": (parts.Sgd(),)}, {"more": ()}, {"inner": parts.Adam()},
        {"inner": parts.Sgd(momentum=0.5)}, {"either": parts.Sgd()}, {"lanes": 2},
    ]  # fmt: skip
    found = [own, *(jax.tree.structure(Fields(**fields)) for fields in others)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, True, np.int64(1)),
        ((1, 2), (1.0, 2.0), Rates(1, 2), Rates(1.0, 2.0), ((1, 2),)),
        (Plain(1), Plain(1.0), Plain((1,)), Plain((True,))),
    ],
)
def test_equal_values_of_other_types_are_other_parts(values: tuple[Any, ...]) -> None:
    made = [Fields(anything=value) for value in values]
    assert len(set(made)) == len(made)
    assert all(copy.deepcopy(one) == one for one in made)


def test_parts_are_equal_by_class_numbers_and_structure() -> None:
    assert parts.Gaussian(1, 2) == parts.Gaussian(1.0, 2.0)
    assert hash(parts.Gaussian(1, 2)) == hash(parts.Gaussian(1.0, 2.0))
    assert parts.Gaussian(1, 1) != parts.LocalGaussian(1, 1)
    assert parts.Gaussian(1, 1) != parts.Gaussian(1, 2)
    assert parts.Mlp((1,)) != parts.Mlp((1, 1))
    made = Fields(inner=parts.Adam())
    assert pickle.loads(pickle.dumps(made)) == made


def test_parts_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Fields(), "rate", 2.0)  # noqa: B010


@lab.part
class Checked:
    """A part with a check of its own."""

    rate: lab.Traced = 0.5
    steps: int = 1

    def __post_init__(self) -> None:
        # Converted before it is looked at.
        assert type(self.steps) is int
        if not 0 < self.rate < 1:
            raise ValueError("rate must lie in (0, 1)")


@lab.part
class Inherits(Checked):
    """A check above, a field more."""

    more: lab.Traced = 0.1


@lab.part
class ChecksAgain(Checked):
    """Two checks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps > 5:
            raise ValueError("steps must be few")


def test_own_checks_run_when_a_person_makes_a_part() -> None:
    classes: tuple[Any, ...] = (Checked, Inherits, ChecksAgain)
    for cls in classes:
        assert type(cls(steps=np.int64(2)).steps) is int
        with pytest.raises(ValueError, match="rate must lie"):
            cls(2)
        with pytest.raises(TypeError, match=rf"{cls.__name__}\.steps must be int"):
            cls(steps=1.5)
        with pytest.raises(ValueError, match="rate must lie"):
            dataclasses.replace(cls(), rate=0.0)
    with pytest.raises(ValueError, match="steps must be few"):
        ChecksAgain(steps=6)
    assert paths.numbers(Inherits()) == ["rate", "more"]
    assert Inherits() != Checked()


def test_rebuilding_from_leaves_calls_no_check() -> None:
    stacked = jax.tree.map(lambda *v: np.asarray(v), Checked(0.1), Checked(0.2))
    assert stacked.rate.shape == (2,)
    assert jax.tree.structure(stacked) == jax.tree.structure(Checked())
    bare = jax.tree.map(lambda _: object(), Fields(maybe=2))
    # What is a child was decided when it was made.
    assert jax.tree.structure(bare) == jax.tree.structure(Fields(maybe=1))
    none = jax.tree.unflatten(jax.tree.structure(Fields(maybe=2)), [None] * 6)
    assert none.maybe is None


def test_parts_are_made_inside_programs_too() -> None:
    @jax.jit
    def doubled(part: Any) -> Any:
        made = parts.Gaussian(2 * part.rate, part.rate)
        return dataclasses.replace(made, noise_multiplier=2 * made.clip_norm)

    found = doubled(Checked(0.25))
    assert (found.clip_norm, found.noise_multiplier) == (0.5, 1.0)


def test_misuse_is_said_when_the_class_is_made() -> None:
    def in_dict() -> Any:
        @lab.part
        class Bad:
            rates: dict[str, lab.Traced]

    def in_tuple() -> Any:
        @lab.part
        class Bad:
            rates: tuple[lab.Traced, ...] = ()

    def beside_int() -> Any:
        @lab.part
        class Bad:
            rate: lab.Traced | int

    def unknown() -> Any:
        @lab.part
        class Bad:
            rate: lab.Trased  # pyrefly: ignore[missing-attribute]

    def not_there() -> Any:
        @lab.part
        class Bad:
            rate: Trased  # pyrefly: ignore[unknown-name]

    def mutable() -> Any:
        @lab.part
        class Bad:
            rates: Any = []  # noqa: RUF012

    def undecorated() -> Any:
        class Bad(parts.Sgd):
            pass

        return Bad()

    for make in (in_dict, in_tuple, beside_int, not_there, mutable, undecorated):
        with pytest.raises(TypeError, match=r"^Bad"):
            make()
    with pytest.raises((TypeError, AttributeError), match="Trased"):
        unknown()


def test_a_part_of_a_function_and_of_a_notebook_cell() -> None:
    alias = lab.Traced

    @lab.part
    class Inner:
        rate: alias = 0.1

    @lab.part
    class Outer:
        inner: Inner = Inner()
        itself: Outer | None = None

    assert paths.numbers(Outer()) == ["inner.rate"]
    assert paths.numbers(Outer(itself=Outer())) == ["inner.rate", "itself.inner.rate"]
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec("from __future__ import annotations\nfrom ppml_lab import lab", cell)
    exec(
        "from __future__ import annotations\n"
        "@lab.part\nclass Mine:\n    rate: lab.Traced | None = 0.1",
        cell,
    )
    assert paths.numbers(cell["Mine"]()) == ["rate"]


def test_annotations_are_those_of_the_frame_that_defines_the_class() -> None:
    """Whatever stands between it and the decorator, such as a checker of types."""
    number = lab.Traced
    checked = jax.tree_util.Partial(lab.part)

    @checked
    class Mine:
        rate: number = 0.1

    assert paths.numbers(Mine()) == ["rate"]


def test_a_class_in_a_tuple_of_parts_and_no_lanes_are_refused() -> None:
    metrics: Any = (parts.Accuracy,)
    with pytest.raises(
        TypeError, match=r"must hold parts, got a class; write Accuracy\(...\)"
    ):
        parts.Federated(metrics=metrics)
    for name in ("num_lanes", "num_devices"):
        fields: Any = {name: 0}
        with pytest.raises(
            ValueError, match=f"{name} must be an integer of at least 1"
        ):
            lab.Layout(**fields)
