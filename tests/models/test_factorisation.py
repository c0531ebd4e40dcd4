"""Matrix factorisation: ratings by hand, whose rows move, items that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, dp, federated, models
from ppml_lab.federated import roles

KEY = jax.random.key(0)
TASK = models.factorisation(5, 3, mean=3.5)
ITEMS = np.array([0, 4, 4, 2, 1, 3], np.int32)
RATINGS = np.array([5, 1, 2, 4, 3.5, 0.5], np.float32)
ROWS = {"item": ITEMS, "rating": RATINGS}
SHARED = ("item_biases", "items")


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(TASK.init, KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def residual(params, rows):
    own = params["items"][rows["item"]] @ params["user"] + params["user_bias"]
    return own + params["item_biases"][rows["item"]] + 3.5 - rows["rating"]


def test_ratings_and_the_gradient_of_each_by_hand(params):
    """An example moves the row of its item, and the user, alone."""
    found = jax.jit(TASK.evaluate)(params, ROWS)
    errors = residual(params, ROWS)
    for name, wanted in {
        "loss": errors**2,
        "mse": errors**2,
        "mae": abs(errors),
    }.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5)

    def one(params, row):
        return TASK.loss(KEY, params, jax.tree.map(lambda leaf: leaf[None], row))[0]

    grads = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, ROWS)
    own = np.eye(5)[ITEMS]
    twice = 2 * errors
    for name, wanted in {
        "items": twice[:, None, None] * own[:, :, None] * params["user"],
        "item_biases": twice[:, None] * own,
        "user": twice[:, None] * params["items"][ITEMS],
        "user_bias": twice,
    }.items():
        np.testing.assert_allclose(grads[name], wanted, rtol=1e-5, atol=1e-5)


def test_clients_share_what_is_of_items_and_keep_what_is_of_users(params):
    assert roles.keeps(TASK) == ("['user']", "['user_bias']")
    sent = [leaf is not None for leaf in roles.trainable(TASK, params).values()]
    assert dict(zip(params, sent, strict=True)) == {
        name: name in SHARED for name in params
    }
    with pytest.raises(ValueError, match=r"central_sgd has no clients .* task keeps"):
        federated.central_sgd(TASK, optax.sgd(0.1), federated.poisson(6, 0.5))


@pytest.mark.exhaustive  # any task's kept leaves: federated/test_kept
def test_a_round_adds_up_clipped_item_vectors_and_no_user_s(params):
    """One full step of each of three users, of whom the last holds its rows out."""
    owners, held_out = np.arange(6) // 2, np.arange(6) >= 4
    clients = data.federate(ROWS, owners, held_out=held_out)
    trainer = federated.local_sgd(TASK, optax.sgd(0.1), 4, num_steps=1)
    algorithm = federated.averaging(
        TASK,
        trainer,
        federated.everyone(3),
        mechanism=dp.gaussian(0.05, 0.0),
    )
    shapes = jax.eval_shape(algorithm.init, KEY)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    kept = jax.tree.map(lambda x: jnp.stack([x] * 3), roles.own(TASK, params))
    state = state._replace(params=params, kept=kept)
    judge = federated.personal_evaluator(TASK, trainer)

    @jax.jit
    def after_a_round(key, state):
        after, _ = algorithm.round(key, state, clients)
        return after, judge(after, clients)

    after, found = after_a_round(jax.random.key(1), state)
    total = {name: np.zeros_like(params[name]) for name in SHARED}
    for client in range(2):
        own = {name: leaf[owners == client] for name, leaf in ROWS.items()}
        twice = 2 * residual(params, own) / 2
        places = np.eye(5)[own["item"]]
        update = {
            "items": -0.1 * places.T @ twice[:, None] * params["user"],
            "item_biases": -0.1 * places.T @ twice,
        }
        norm = np.sqrt(sum((leaf**2).sum() for leaf in update.values()))
        assert norm > 0.05
        for name in SHARED:
            total[name] += update[name] * 0.05 / norm
        np.testing.assert_allclose(
            after.kept["user"][client],
            params["user"] - 0.1 * twice @ params["items"][own["item"]],
            rtol=1e-5,
        )
    for name in SHARED:
        np.testing.assert_allclose(
            after.params[name], params[name] + total[name] / 3, rtol=1e-5
        )
    np.testing.assert_array_equal(after.params["user"], params["user"])
    np.testing.assert_array_equal(after.kept["user"][2], params["user"])
    # Judged by the rows that are held out, by the vector that it keeps.
    wanted = residual(after.params, {k: v[4:] for k, v in ROWS.items()})
    np.testing.assert_allclose(found["mae"][2], abs(wanted).mean(), rtol=1e-5)
    assert np.isnan(found["mae"][:2]).all()


@pytest.mark.parametrize("item", [-1, 5])
def test_items_that_are_none_are_errors_or_nan(params, item):
    rows = ROWS | {"item": np.where(np.arange(6) == 2, item, ITEMS)}
    message = rf'"item" must lie in \[0, num_items = 5\), got {item} in row 2'
    with pytest.raises(ValueError, match=message):
        TASK.evaluate(params, rows)
    found = jax.jit(TASK.evaluate)(params, rows)
    np.testing.assert_array_equal(np.isnan(found["mae"]), np.arange(6) == 2)
    clients = data.federate(rows, np.arange(6) // 2)
    trainer = federated.local_sgd(TASK, optax.sgd(0.1), 4, num_steps=1)
    algorithm = federated.averaging(TASK, trainer, federated.everyone(3))
    with pytest.raises(ValueError, match=message):
        algorithm.check(clients)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"x": ITEMS, "y": RATINGS}, r"of \"item\" and \"rating\", got keys \['x', 'y"),
        ((ITEMS, RATINGS), "got tuple"),
        (ROWS | {"item": RATINGS}, r'"item" must hold one integer .*float32\[6\]; .*n'),
        (ROWS | {"rating": ITEMS}, r'"rating" must hold one float .*int32\[6\]; .*ast'),
        (ROWS | {"rating": RATINGS[:3]}, r"float per row, \[6\], got float32\[3\]"),
        (
            ROWS | {"rating": RATINGS * np.nan},
            '"rating" must be finite, got nan in row',
        ),
    ],
)
def test_ratings_of_another_form_are_refused(params, examples, message):
    for function in (TASK.evaluate, lambda *given: TASK.loss(KEY, *given)):
        with pytest.raises(ValueError, match=message):
            function(params, examples)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_items": 0}, "num_items must be"),
        ({"rank": 0}, "rank must be"),
        ({"mean": np.inf}, "mean must lie in"),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_sizes_that_make_no_model_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        models.factorisation(**{"num_items": 5, "rank": 3, **given})
