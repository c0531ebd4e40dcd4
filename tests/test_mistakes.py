"""What people get wrong in their first hour: each mistake ends in one line that names
the argument, its value and the cure.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, federated, lab, models
from ppml_lab.lab import parts

DIGITS = data.load("digits")
X, Y = DIGITS.train["x"], DIGITS.train["y"]
USERS = data.partition.iid(np.random.default_rng(0), len(Y), 20)
KEY = jax.random.key(0)
TASK = models.flax_classification(models.logistic(10), (8, 8, 1))


def run(
    x: Any = X,
    y: Any = Y,
    *,
    examples: Any = None,
    users: Any = USERS,
    task: Any = TASK,
    optimizer: Any = None,
    sampler: Any = None,
    test: Any = DIGITS.test,
) -> Any:
    """The README's first run, without privacy."""
    examples = {"x": x, "y": y} if examples is None else examples
    clients = data.federate(examples, users)
    trainer = federated.local_sgd(task, optimizer or optax.sgd(0.1), 10, num_epochs=1)
    sampler = sampler or federated.poisson(20, 0.5)
    algorithm = federated.averaging(task, trainer, sampler)
    evaluate = federated.evaluator(task)
    return federated.simulate(0, algorithm, clients, 1, test=test, evaluate=evaluate)


def wrong(**fields: Any) -> Any:
    return TASK._replace(**fields)


def without_first(value: Any) -> list[Any]:
    return [value if user == 0 else f"u{user}" for user in USERS]


OF_ONE_EXAMPLE = models.classification(
    lambda key: {"w": jnp.zeros((64, 10))},
    lambda params, x: x.reshape(-1) @ params["w"],
)
CNN = models.flax_classification(models.CNN(10), (8, 8, 1))
FEW = models.flax_classification(models.logistic(5), (8, 8, 1))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: run(X[..., 0], task=CNN), r"\[n, height, width, channels\], got"),
        (lambda: run(y=Y.astype(np.float32)), r'"y" .*float32.*\.astype\('),
        (lambda: run(y=np.eye(10, dtype=np.float32)[Y]), '"y" .*one-hot.*argmax'),
        (lambda: run(y=np.eye(10, dtype=np.int32)[Y]), '"y" .*one-hot.*argmax'),
        (lambda: run(y=Y.astype(str)), r"examples\['y'\] has dtype .*numpy.unique"),
        (lambda: run(y=Y + 1), r'"y" must lie in \[0, 10\).*got 10.*from 0'),
        (lambda: run(task=FEW), r'"y" must lie in \[0, 5\).*more logits'),
        (lambda: run(y=Y[:, None]), r'"y" .*only column, \[:, 0\]'),
        (lambda: run(users=without_first(None)), "user_ids has 72 missing values"),
        (lambda: run(users=np.where(USERS == 0, np.nan, USERS)), "user_ids has 72"),
        (
            lambda: run(sampler=federated.fixed_size(20, 50)),
            "cohort_size 50 .* population 20",
        ),
        (lambda: run(sampler=federated.poisson(100, 0.5)), "100 clients, .* has 20"),
        (lambda: run(sampler=federated.poisson(20, 10)), "sampling_prob .* got 10"),
        (
            lambda: data.federate([{"x": X[:5]}, {"x": X[5:9]}], [0, 1]),
            r"examples\[0\]\['x'\]: 5, examples\[1\]\['x'\]: 4",
        ),
        (
            lambda: data.federate(
                {"x": X[:3].tolist(), "y": Y[:3].tolist()}, [0, 1, 2]
            ),
            r"examples\['x'\].* arrays, not lists",
        ),
        (lambda: run(examples=(X, Y)), 'dict of "x".*got tuple'),
        (lambda: run(examples={"image": X, "label": Y}), "got keys .*image.*label"),
        (lambda: run(task=OF_ONE_EXAMPLE), "task.loss raised TypeError: .*together"),
        (
            lambda: run(task=wrong(loss=lambda k, p, e: jnp.mean(TASK.loss(k, p, e)))),
            r"task.loss .* shape \(\) for .* one number per example",
        ),
        (
            lambda: run(
                task=wrong(
                    evaluate=lambda p, e: {
                        "accuracy": jnp.mean(TASK.evaluate(p, e)["accuracy"])
                    }
                )
            ),
            r"task.evaluate, 'accuracy', .* one number per example",
        ),
        (
            lambda: run(task=wrong(evaluate=lambda p, e: TASK.evaluate(p, e)["loss"])),
            "task.evaluate must return a dict of metrics",
        ),
        (
            lambda: run(task=wrong(loss=lambda p, e: TASK.loss(KEY, p, e))),
            r"task.loss raised TypeError: .*\(key, params, examples\)",
        ),
        (
            lambda: run(x=X.reshape(-1, 64)[:, :60]),
            r"rows of shape \(60,\), but .* input_shape \(8, 8, 1\)",
        ),
        (lambda: run(test={"x": X[:9, :7], "y": Y[:9]}), r"rows of shape \(7, 8, 1\)"),
        (
            lambda: parts.Poisson(0.5).build(200),
            "expected_cohort 0.5 .* for that share of the population, give 100",
        ),
        (lambda: parts.Natural().deal({"x": X}, None), "TableFile has a field user"),
        (
            lambda: lab.points(lab.seeds(1), parts.Federated(data=parts.Diabetes())),
            r"target is a number, give model=parts.Regression\(\)",
        ),
        (lambda: run(test=(DIGITS.test["x"], DIGITS.test["y"])), 'dict of "x"'),
        (lambda: run(task=models.two_nn(10)), "task must be a Task, got MLP"),
        (lambda: run(optimizer="sgd"), r"optimizer .* got 'sgd'.*optax.sgd"),
        (lambda: run(optimizer=0.1), r"optimizer .* got 0.1.*optax.sgd"),
    ],
)
def test_a_mistake_ends_in_one_line(mistake: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        mistake()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.exhaustive  # the README's first run
def test_ids_that_are_texts_and_an_integer_for_a_key_are_right() -> None:
    numbers, _ = run()
    texts, _ = run(users=[f"u{user:02d}" for user in USERS])
    for one, other in zip(*map(_leaves, (numbers, texts)), strict=True):
        np.testing.assert_array_equal(one, other)


def _leaves(state: Any) -> list[Any]:
    return [*state.params["params"]["Dense_0"].values()]
