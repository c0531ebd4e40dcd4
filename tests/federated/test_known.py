"""Data that no task can learn from are refused before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, models
from ppml_lab.federated import scoring

TASK = models.flax_classification(models.logistic(3), (2,))
X, Y = np.ones((8, 2), np.float32), np.arange(8) % 3
TRAIN = {"x": X, "y": Y}
OWNERS = np.arange(8) // 2
TRAINER = federated.local_sgd(TASK, optax.sgd(0.1), 2, num_epochs=1)
FEDERATED = federated.averaging(TASK, TRAINER, federated.everyone(4))
CENTRAL = federated.central_sgd(
    TASK,
    optax.sgd(0.1),
    federated.poisson(8, 0.5),
    mechanism=dp.gaussian(1.0, 1.0, privacy_unit="example"),
)


def simulate(algorithm, clients, test=None):
    evaluate = None if test is None else federated.evaluator(TASK)
    key = jax.random.key(0)
    federated.simulate(key, algorithm, clients, 1, test=test, evaluate=evaluate)


@pytest.mark.parametrize("algorithm", [FEDERATED, CENTRAL], ids=["federated", "pooled"])
@pytest.mark.parametrize("shift", [1, -1])
def test_labels_that_are_no_classes_are_refused(algorithm, shift):
    clients = data.federate({"x": X, "y": Y + shift}, OWNERS)
    with pytest.raises(ValueError, match=r'"y" must lie in \[0, 3\).*in row \d'):
        simulate(algorithm, clients)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_labels_of_the_test_set_too(place):
    test = {"x": X, "y": place(Y + 1)}
    with pytest.raises(ValueError, match=r'"y" must lie in \[0, 3\)'):
        simulate(FEDERATED, data.federate(TRAIN, OWNERS), test)


@pytest.mark.parametrize(
    ("rows", "offsets", "held_out", "message"),
    [
        ((8, 6), [0, 2, 4, 6, 8], None, r"the same length, got .*'x'\]: 8, .*'y'\]: 6"),
        ((6, 6), [0, 2, 4, 6, 8], None, "8 rows to clients, .* has 6"),
        ((8, 8), [0, 4, 2, 6, 8], None, "must rise from 0"),
        ((8, 8), [1, 2, 4, 6, 8], None, "must rise from 0"),
        ((8, 8), [0, 2, 4, 6, 8], [0, 3, 0, 0], "of client 1 is 3, .* its 2"),
    ],
)
def test_rows_that_do_not_fit_their_owners(rows, offsets, held_out, message):
    examples = {"x": jnp.asarray(X[: rows[0]]), "y": jnp.asarray(Y[: rows[1]])}
    held_out = None if held_out is None else jnp.array(held_out)
    with pytest.raises(ValueError, match=message):
        simulate(FEDERATED, base.Clients(examples, jnp.array(offsets), held_out))


# Each is right for some number of examples: of one, of all, or of as many as classes.
REDUCED = [
    (lambda each: jnp.mean(each), r"\(\)"),
    (lambda each: jnp.mean(each, axis=1, keepdims=True), r"\(3, 1\)"),
    (lambda each: jnp.mean(each, axis=0), r"\(2,\)"),
    (lambda each: jnp.mean(each)[None], r"\(1,\)"),
]


def reduced(loss=lambda each: jnp.mean(each, axis=1), metric=None):
    """Mean squares over two features."""

    def init(key):
        return {"w": jnp.ones(2)}

    def each(params, examples):
        return jnp.square(examples["x"] - params["w"])

    return base.Task(
        init,
        lambda key, params, examples: loss(each(params, examples)),
        lambda params, examples: {"m": (metric or loss)(each(params, examples))},
    )


def all_algorithms(task):
    clients = data.federate(TRAIN, OWNERS)
    people = data.federate(TRAIN | {"person": OWNERS}, OWNERS)
    private = dp.gaussian(1.0, 1.0, privacy_unit="example")
    local = federated.local_sgd(task, optax.sgd(0.1), 1, num_epochs=1)
    theirs = federated.local_dp_sgd(task, optax.sgd(0.1), private, 0.5, 1, 2)
    of_people = federated.example_gradients(task, data.people(people), 0.5)
    everyone = federated.everyone(4)
    pooled = federated.poisson(8, 0.5)
    central = federated.central_sgd
    return {
        "local": (federated.averaging(task, local, everyone), clients),
        "private": (federated.averaging(task, theirs, everyone), clients),
        "people": (federated.averaging(task, of_people, everyone), people),
        "pooled": (central(task, optax.sgd(0.1), pooled), clients),
        "vmap": (
            central(task, optax.sgd(0.1), pooled, mechanism=private, method="vmap"),
            clients,
        ),
    }


@pytest.mark.parametrize(("reduce", "shape"), REDUCED)
def test_a_loss_that_is_not_one_for_each_example(reduce, shape):
    """Told when an algorithm meets its data, and also where nobody asks it to."""
    message = f"task.loss gave a float32 of shape {shape} for 3 examples; .*shape .3.,"
    for algorithm, clients in all_algorithms(reduced(reduce)).values():
        with pytest.raises(ValueError, match=message):
            algorithm.check(clients)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        with pytest.raises(
            ValueError, match=r"task.loss gave .* each example's own axes"
        ):
            jax.eval_shape(algorithm.round, jax.random.key(0), state, clients)


@pytest.mark.parametrize(("reduce", "shape"), REDUCED)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_metric_that_is_not_one_for_each_example(reduce, shape, rows):
    task = reduced(metric=reduce)
    for algorithm, clients in all_algorithms(task).values():
        with pytest.raises(ValueError, match=f"task.evaluate, 'm', .*{shape} for 3"):
            algorithm.check(clients)
    test = {"x": X[:rows], "y": Y[:rows]}
    scorer = scoring.scorer(task, lambda params, rows: rows["x"][:, 0], [])
    for evaluate in (federated.evaluator(task), scorer):
        with pytest.raises(
            ValueError, match=r"evaluate, 'm', .* each example's own axes"
        ):
            jax.eval_shape(evaluate, {"w": jnp.ones(2)}, test)


def test_right_ones_are_taken():
    for algorithm, clients in all_algorithms(reduced()).values():
        algorithm.check(clients)


@pytest.mark.parametrize(
    ("name", "wrong", "why"),
    [
        ("loss", lambda key, params, examples: examples["x"] @ jnp.ones(5), "contract"),
        ("loss", lambda params, examples: examples["x"], "positional argument"),
        ("evaluate", lambda params: params, "positional argument"),
    ],
)
def test_what_a_task_s_functions_raise_is_said_of_them(name, wrong, why):
    """As of an `apply` for one example, or a loss without a key."""
    algorithm, clients = all_algorithms(reduced()._replace(**{name: wrong}))["local"]
    with pytest.raises(ValueError, match=f"task.{name} raised TypeError: .*{why}"):
        algorithm.check(clients)
