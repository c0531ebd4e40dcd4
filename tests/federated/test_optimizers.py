"""Which optimizers clients may have, and rates that follow the round."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, federated
from ppml_lab.federated import optimizers
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(3)
PARAMS = {
    "a": {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)},
    "s": jnp.zeros(()),
    "n": None,
}
DECAY: typing.Any = optax.linear_schedule(0.1, 0.0, 10)


OTHERS = optax.sgd(0.3)


def by_leaf(of_b, of_others=OTHERS):
    """Another rule for the leaf 'b'."""

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "b" if "'b'" in jax.tree_util.keystr(path) else "o", params
        )

    return optax.multi_transform({"b": of_b, "o": of_others}, labels)


class Seen(typing.NamedTuple):
    so_far: typing.Any


def counting(rate, start):
    """A user's own rule: it counts its steps in a state like `start`."""

    def update(updates, state, params=None):
        now = rate(jax.tree.leaves(state)[0])
        changes = jax.tree.map(lambda leaf: -now * leaf, updates)
        return changes, jax.tree.map(lambda count: count + 1, state)

    return optax.GradientTransformation(lambda params: start, update)


def own_adam():
    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"t": jnp.int32(0), "m": zeros, "v": zeros}

    def update(updates, state, params=None):
        steps = state["t"] + 1
        t = steps.astype(jnp.float32)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], updates)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, state["v"], updates)
        changes = jax.tree.map(
            lambda m, v: -m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), m, v
        )
        return changes, {"t": steps, "m": m, "v": v}

    return optax.GradientTransformation(init, update)


def harmonic(count):
    return 0.1 / (1 + count.astype(jnp.float32))


ZERO = jnp.int32(0)
FOLLOW_STEPS = {
    "sgd": lambda: optax.sgd(DECAY),
    "adam": lambda: optax.adam(DECAY),
    "weight decay": lambda: optax.chain(
        optax.add_decayed_weights(DECAY), optax.sgd(0.1)
    ),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(DECAY),
    "in a chain": lambda: optax.chain(optax.clip(1.0), optax.sgd(DECAY)),
    "of one leaf": lambda: by_leaf(optax.sgd(DECAY)),
    "if finite": lambda: optax.apply_if_finite(optax.sgd(DECAY), 3),
    "masked": lambda: optax.masked(
        optax.sgd(DECAY), lambda params: jax.tree.map(lambda leaf: True, params)
    ),
    "every second": lambda: optax.MultiSteps(
        optax.sgd(DECAY), 2
    ).gradient_transformation(),
    "of the round, too": lambda: lambda number: optax.sgd(DECAY),
    "own": lambda: counting(harmonic, ZERO),
    "own class": lambda: counting(harmonic, Seen(ZERO)),
    "own float": lambda: counting(lambda count: 0.1 * 0.9**count, jnp.float32(0)),
    "own, later": lambda: counting(
        lambda count: jnp.where(count < 40, 0.1, 0.0), [ZERO]
    ),
    "own, inside": lambda: by_leaf(counting(harmonic, ZERO)),
}


@pytest.mark.parametrize("name", FOLLOW_STEPS)
def test_a_schedule_of_steps_is_refused(name):
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(
            ValueError, match="restarts in every round; give a function of the"
        ),
    ):
        optimizers.check(FOLLOW_STEPS[name](), PARAMS)


MAY_STAY = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(0.1),
    "yogi": lambda: optax.yogi(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "nadam": lambda: optax.nadam(0.1),
    "rmsprop": lambda: optax.rmsprop(0.1, centered=True),
    "adagrad": lambda: optax.adagrad(0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "centred": lambda: optax.chain(optax.centralize(), optax.sgd(0.1)),
    "two rates": lambda: by_leaf(optax.adam(0.1), optax.adam(0.2)),
    "masked decay": lambda: optax.chain(
        optax.masked(
            optax.add_decayed_weights(1e-4),
            lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
        optax.sgd(0.1),
    ),
    "every fourth": lambda: optax.MultiSteps(
        optax.sgd(0.1), 4
    ).gradient_transformation(),
    "if finite": lambda: optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3),
    "injected number": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "own adam": own_adam,
    "none": lambda: optax.sgd(0.0),
    "of the round": lambda: lambda number: optax.sgd(DECAY(number)),
    "one leaf later": lambda: (
        lambda number: by_leaf(optax.sgd(jnp.where(number < 5, 0.0, 0.1)))
    ),
}


@pytest.mark.parametrize("name", MAY_STAY)
def test_other_optimizers_are_welcome(name):
    with jax.numpy_dtype_promotion("standard"):
        optimizer = MAY_STAY[name]()
        optimizers.check(optimizer, PARAMS)
        assert optimizers.still_leaves(optimizer, PARAMS) == ()


@jax.numpy_dtype_promotion("standard")
def test_leaves_that_never_move_are_named():
    still = ("['a']['b']",)
    for of_b in (optax.set_to_zero(), optax.sgd(0.0), optax.scale(0.0)):
        assert optimizers.still_leaves(by_leaf(of_b), PARAMS) == still
        assert optimizers.still_leaves(lambda n, b=of_b: by_leaf(b), PARAMS) == still
        seldom = optax.MultiSteps(by_leaf(of_b), 3).gradient_transformation()
        assert optimizers.still_leaves(seldom, PARAMS) == still


def test_nothing_is_found_behind_traced_rates():
    def traced(rate):
        assert optimizers.still_leaves(by_leaf(optax.sgd(rate)), PARAMS) == ()
        optimizers.check(counting(lambda count: rate * harmonic(count), ZERO), PARAMS)
        return rate

    jax.jit(traced)(0.0)


def test_what_is_no_optimizer_is_named():
    for wrong in (optax.MultiSteps(optax.sgd(0.1), 2), lambda number: number):
        with pytest.raises(ValueError, match=r"must be an optax\.Gradient.*got"):
            optimizers.at_round(wrong, 0)
    # With the round's number for its rate, it would be one.
    for uncalled in (optax.sgd, functools.partial(optax.adam, b1=0.5)):
        with pytest.raises(
            ValueError, match=r"optimizer is the function optax.*call the"
        ):
            optimizers.at_round(uncalled, 0)


@jax.numpy_dtype_promotion("standard")
def test_a_rate_of_the_round_is_the_rounds_own_however_the_run_is_cut(regression):
    rows = {"x": np.ones((4, 2), np.float32), "y": np.full(4, 5, np.float32)}
    clients = data.federate(rows, np.arange(4) % 2)
    rate: typing.Any = optax.piecewise_constant_schedule(0.1, {5: 0.0})
    trainer = federated.local_sgd(
        regression, lambda number: optax.sgd(rate(number)), 1, num_epochs=1
    )
    algorithm = federated.averaging(regression, trainer, federated.everyone(2))
    seen = {}
    federated.simulate(
        KEY,
        algorithm,
        clients,
        12,
        eval_every=3,
        on_chunk=lambda done, state, part: seen.update(
            {done: np.asarray(state.params["w"])}
        ),
    )
    init_key, rounds_key = jax.random.split(KEY)
    chunk = jax.jit(
        lambda state, first: run_chunk(rounds_key, algorithm, state, clients, first, 3)[
            0
        ]
    )
    # A run that stopped after three rounds goes on where it was.
    state = chunk(jax.jit(algorithm.init)(init_key), 0)
    after = chunk(state, 3)
    np.testing.assert_array_equal(after.params["w"], seen[6])
    assert (seen[3] != seen[6]).all()
    for done in (9, 12):
        np.testing.assert_array_equal(seen[done], seen[6])
