"""Sweeps that change nothing are refused by name, and those that do are not; numbers
that decide shapes are blamed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, data, lab
from ppml_lab.lab import parts
from ppml_lab.lab.swept import check_swept, reads


@lab.part
class Toy:
    """Twelve rows of three users."""

    noise_in_test: float = 0.0
    unread: int = 0
    num_classes = 2

    def load(self) -> Any:
        """Always the same, but for the test rows."""
        x = np.arange(24, dtype=np.float32).reshape(12, 2)
        train = {"x": x, "y": np.arange(12, dtype=np.int32) % 2}
        test = {"x": x[:4] + np.float32(self.noise_in_test), "y": train["y"][:4]}
        return train, np.arange(12) // 4, test


@lab.part
class Made:
    """Clients whose examples are made when they train."""

    seed: int = 0

    def load(self) -> Any:
        """Three clients of four rows."""

        def make(key: Any, client: Any) -> Any:
            x = jax.random.normal(jax.random.fold_in(key, client), (4, 2))
            return {"x": x, "y": (x[:, 0] > 0).astype(jnp.int32)}

        clients = data.generated(make, np.full(3, 4), jax.random.key(self.seed))
        _, _, test = Toy().load()
        return clients, None, test


@lab.part
class Scaled:
    """Scores are times a number, initial parameters another one."""

    scale: lab.Traced = 1.0
    init_scale: lab.Traced = 1.0
    table: int = 1
    unread: int = 1

    def build(self, facts: lab.Facts) -> base.Task:
        """Softmax regression."""
        weights = jnp.arange(2, dtype=jnp.float32) * self.table

        def logits(params: Any, x: Any) -> Any:
            return jax.jit(lambda x: x @ params * weights)(x) * self.scale

        def loss(key: Any, params: Any, rows: Any) -> Any:
            scores = jax.nn.log_softmax(logits(params, rows["x"]))
            return -jnp.sum(scores * jax.nn.one_hot(rows["y"], 2), axis=-1)

        return base.Task(
            lambda key: jnp.full((2, 2), self.init_scale, jnp.float32),
            loss,
            lambda params, rows: {"loss": loss(None, params, rows)},
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> Any:
        """Scores without their scale."""
        return rows["x"] @ params


@lab.part
class Dead(parts.FedAvg):
    """Carries a number through its training and never uses it."""

    extra: lab.Traced = 1.0

    def build(self, task: Any, facts: Any, server: Any) -> Any:
        """As FedAvg does."""
        trainer, server = parts.FedAvg.build(self, task, facts, server)

        def init(*args: Any) -> Any:
            return trainer.init(*args), jnp.float32(1)

        def step(key: Any, sent: Any, state: Any, *rest: Any) -> Any:
            inner, number = state
            return trainer.step(key, sent, inner, *rest), number * self.extra

        def finish(sent: Any, state: Any) -> Any:
            return trainer.finish(sent, state[0])

        return trainer._replace(init=init, step=step, finish=finish), server


SETUP = parts.Federated(
    data=Toy(),
    partition=parts.Natural(),
    model=Scaled(),
    trainer=Dead(batch_size=4),
    sampler=parts.Everyone(),
    metrics=(),
    schedule=lab.Schedule(num_rounds=1, eval_every=1),
    layout=lab.Layout(num_devices=1),
)
PRIVATE = replace(SETUP, mechanism=parts.Gaussian(1.0, 1.0), sampler=parts.Poisson(2))
SHARED = replace(PRIVATE, secure_sum=parts.AdditiveSharing(mode="identity"))


@pytest.mark.parametrize(
    ("sweep", "setup", "message"),
    [
        (
            lab.axis("trainer.extra", [1, 2]),
            SETUP,
            r"changes trainer\.extra, which changes neither",
        ),
        (lab.axis("trainer.extra", [1]), SETUP, r"changes trainer\.extra"),
        (
            lab.variants("m", {"a": {"trainer.extra": 2}, "b": {"model.scale": 2}}),
            SETUP,
            r"changes trainer\.extra",
        ),
        (
            lab.variants(
                "setup", {i: replace(SETUP, trainer=Dead(extra=i)) for i in (1, 2)}
            ),
            None,
            r"changes trainer\.extra",
        ),
        (lab.axis("model.unread", [1, 2]), SETUP, r"changes model\.unread, .* 1 and 2"),
        (lab.axis("data.unread", [1, 2]), SETUP, r"changes data\.unread"),
    ],
)
def test_what_changes_nothing_is_refused_by_name(
    sweep: lab.Sweep, setup: Any, message: str
) -> None:
    points = lab.points(sweep, setup, delta=0.1)
    with pytest.raises(ValueError, match=message):
        check_swept(points)


EXHAUSTIVE = pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("path", "values", "setup"),
    [
        ("mechanism.noise_multiplier", [0, 1], PRIVATE),
        pytest.param("mechanism.clip_norm", [0.5, 1], PRIVATE, marks=EXHAUSTIVE),
        ("dropout_prob", [0, 0.3], PRIVATE),
        pytest.param("server.learning_rate", [0.5, 1], SETUP, marks=EXHAUSTIVE),
        ("model.scale", [0, 1], SETUP),
        ("model.init_scale", [0, 1], SETUP),  # read when runs begin, and never after
        ("model.table", [1, 2], SETUP),  # in an array of a jitted function
        pytest.param("trainer.batch_size", [2, 4], SETUP, marks=EXHAUSTIVE),
        ("data.noise_in_test", [0, 1], SETUP),  # which no program's text shows
        ("data.seed", [0, 1], replace(SETUP, data=Made())),
        ("schedule.validation", [0.34, 0.5], SETUP),
        ("schedule.num_rounds", [1, 2], SETUP),
        ("secure_sum.num_parties", [3, 4], SHARED),  # costs others
        pytest.param("secure_sum.scale_bits", [10, 12], SHARED, marks=EXHAUSTIVE),
        ("sampler.expected_cohort", [1, 2], PRIVATE),
        ("delta", [0.1, 0.2], PRIVATE),
        ("seed", [0, 1], SETUP),
        pytest.param("client_metrics", [True, False], SETUP, marks=EXHAUSTIVE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_changes_something_is_no_alarm(
    path: str, values: list[Any], setup: Any
) -> None:
    check_swept(lab.points(lab.axis(path, values), setup, delta=0.1))


def test_modes_may_be_compared_for_their_times() -> None:
    modes = lab.axis("secure_sum.mode", ["identity", "full"])
    check_swept(lab.points(modes, SHARED, delta=0.1))


def test_targets_and_data_are_no_alarm() -> None:
    targets = lab.axis("target_epsilon", [4.0, float("inf")])
    always = replace(PRIVATE, sampler=parts.Everyone())
    check_swept(lab.points(targets, always, delta=0.1))


def test_run_sweep_refuses_before_anything_runs(tmp_path: Path) -> None:
    points = lab.points(lab.axis("trainer.extra", [1, 2]), SETUP)
    with pytest.raises(ValueError, match=r"changes trainer\.extra"):
        lab.run_sweep(points, tmp_path)
    assert not [*tmp_path.glob("runs/*")]


def unread(a: Any, b: Any) -> Any:
    return jax.lax.while_loop(
        lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] * 2), (a, b)
    )[0]


def read_late(a: Any, b: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda i, c: (c[1], c[2], c[2]), (a, a, b))[0]


def read_by_the_test(a: Any, b: Any) -> Any:
    carry = (a, b)
    return jax.lax.while_loop(
        lambda c: c[1] < 5, lambda c: (2 * c[0], c[1] + 1), carry
    )[0]


def in_a_branch(a: Any, b: Any) -> Any:
    return jax.lax.cond(a > 0, lambda b: b, lambda b: b * 0 + 1, b)


def in_no_branch(a: Any, b: Any) -> Any:
    return jax.lax.cond(a > 0, lambda b: 1.0, lambda b: 2.0, b)


def stacked(a: Any, b: Any) -> Any:
    return jax.lax.scan(lambda c, x: (c * b, x + a), a, jnp.arange(3.0))[1]


def carried(a: Any, b: Any) -> Any:
    return jax.lax.scan(lambda c, x: (c * b, x + a), a, jnp.arange(3.0))[0]


def in_a_call(a: Any, b: Any) -> Any:
    return jax.jit(lambda a, b: (a, b))(a, b)[0]


def derived(a: Any, b: Any) -> Any:
    return jax.grad(lambda a: a * a + b)(a)


@jax.custom_jvp
def custom(a: Any, b: Any) -> Any:
    return a


custom.defjvp(lambda primals, tangents: (primals[0], tangents[1]))


def mapped(a: Any, b: Any) -> Any:
    return jax.lax.map(lambda x: x * a, jnp.arange(2.0) * b)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (unread, [True, False]),
        (read_late, [True, True]),
        (read_by_the_test, [True, True]),
        (in_a_branch, [True, True]),
        (in_no_branch, [True, False]),
        (stacked, [True, False]),
        (carried, [True, True]),
        (in_a_call, [True, False]),
        (derived, [True, False]),
        (custom, [True, False]),
        (mapped, [True, True]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_dependence_is_followed_through_loops_branches_and_calls(
    function: Callable[..., Any], expected: list[bool]
) -> None:
    jaxpr = jax.jit(function).trace(np.float32(1), np.float32(1)).jaxpr.jaxpr
    assert reads(jaxpr, [True] * len(jaxpr.outvars)) == expected


# Numbers that decide what they must not


def _shape(number: Any) -> Any:
    return jnp.zeros((number,)).sum()


def _branch(number: Any) -> Any:
    return 1.0 if number > 0 else 2.0


def _integer(number: Any) -> Any:
    return float(int(number))


USES = {"shape": _shape, "branch": _branch, "integer": _integer}


@lab.part
class Decides(parts.FedAvg):
    """A number that is used when the trainer is built."""

    fine: lab.Traced = 2.0
    units: lab.Traced = 3.0
    how: str = "shape"

    def build(self, task: Any, facts: Any, server: Any) -> Any:
        """As FedAvg does."""
        USES[self.how](self.units)
        return parts.FedAvg.build(self, task, facts, server)


@lab.part
class DecidesInRounds(Decides):
    """A number that is used when the server learns."""

    def build(self, task: Any, facts: Any, server: Any) -> Any:
        """As FedAvg does."""
        trainer, server = parts.FedAvg.build(self, task, facts, server)

        def step(*args: Any) -> Any:
            USES[self.how](self.units)
            return server.step(*args)

        return trainer, server._replace(step=step)


@pytest.mark.parametrize("cls", [Decides, DecidesInRounds])
@pytest.mark.parametrize(
    "how", ["shape", "branch", pytest.param("integer", marks=pytest.mark.exhaustive)]
)
def test_a_number_that_decides_a_shape_or_a_branch_is_named(
    cls: Any, how: str, tmp_path: Path
) -> None:
    bad = replace(SETUP, trainer=cls(batch_size=4, how=how))
    both = lab.variants("kind", {"good": SETUP, "bad": bad})
    with pytest.raises(
        ValueError, match=r"trainer\.units is annotated Traced .* declare .* as int"
    ):
        lab.run_sweep(lab.points(both), tmp_path)
    if cls is Decides:
        assert not [*tmp_path.glob("runs/*")]


@lab.part
class Broken(parts.FedAvg):
    """An error that no number is to blame for."""

    extra: lab.Traced = 3.0

    def build(self, task: Any, facts: Any, server: Any) -> Any:
        """Adds a text."""
        return sum(dataclasses.fields(self))  # pyrefly: ignore[no-matching-overload]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    bad = replace(SETUP, trainer=Broken())
    with pytest.raises(TypeError, match="unsupported operand"):
        lab.run_sweep(lab.points(lab.seeds(1), bad), tmp_path)


@pytest.mark.exhaustive  # of what is reported, not of what is promised
def test_errors_of_reports_are_not_blamed_on_numbers(tmp_path: Path) -> None:
    def report(done: int, text: str) -> None:
        raise TypeError("of a report")

    with pytest.raises(TypeError, match="of a report"):
        lab.run_sweep(lab.points(lab.seeds(1), SETUP), tmp_path, report=report)
