"""Canaries: as loud as the mechanism allows, and nothing else is changed by them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, models, trees
from ppml_lab.audit import canaries
from ppml_lab.federated import roles

TASK = models.flax_classification(models.logistic(3), (4,))
PARAMS = TASK.init(jax.random.key(0))
SIZE = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
EXAMPLE = dp.gaussian(0.5, 0.8, privacy_unit="example")


def data(rng=None):
    rng = np.random.default_rng(0) if rng is None else rng
    x = rng.normal(size=(6, 4)).astype(np.float32)
    x[:, 2] = 0
    return {"x": x, "y": np.arange(6, dtype=np.int32) % 3}


def vector(tree):
    return np.asarray(trees.as_vector(tree)[0])


DIRECTIONS = {
    "dirac": lambda: canaries.dirac(PARAMS, np.array([4, 0, 11])),
    "isotropic": lambda: canaries.isotropic(jax.random.key(1), PARAMS, 3),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_agree_with_each_other(name):
    directions = DIRECTIONS[name]()
    single = [
        vector(directions.weighted_sum(jnp.array([n]), jnp.ones(1))) for n in range(3)
    ]
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), 1, rtol=1e-6)
    numbers, weights = jnp.array([2, 0, 2]), jnp.array([1.0, -2.0, 0.5])
    total = vector(directions.weighted_sum(numbers, weights))
    np.testing.assert_allclose(total, 1.5 * single[2] - 2 * single[0], atol=1e-6)
    norms = directions.squared_norms(numbers)
    assert jax.tree.structure(norms) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(sum(jax.tree.leaves(norms)), 1, rtol=1e-6)
    _, cut = trees.as_vector(PARAMS)
    other = np.random.default_rng(2).normal(size=SIZE).astype(np.float32)
    np.testing.assert_allclose(
        directions.project(cut(jnp.asarray(other))), np.array(single) @ other, atol=1e-5
    )


def test_dirac_is_one_coordinate_and_refuses_others():
    directions = canaries.dirac(PARAMS, np.array([4, 0]))
    np.testing.assert_array_equal(
        vector(directions.weighted_sum(jnp.array([0]), jnp.ones(1))), np.eye(SIZE)[4]
    )
    for bad in ([0, 0], [SIZE], [-1]):
        with pytest.raises(ValueError, match="must be distinct and lie in"):
            canaries.dirac(PARAMS, np.array(bad))
    with pytest.raises(ValueError, match="count must be"):
        canaries.isotropic(jax.random.key(0), PARAMS, 0)


@pytest.mark.parametrize("method", ["vmap", "ghost"])
@pytest.mark.parametrize("rule", ["flat", "normalised"])
def test_example_canaries_are_clipped_like_everybody(method, rule):
    directions = canaries.dirac(PARAMS, np.array([4, 0]))
    mechanism = dp.gaussian(0.5, 0.8, privacy_unit="example", rule=rule)
    first = {name: leaf[:2] for name, leaf in data().items()}
    examples = jax.tree.map(jnp.asarray, canaries.append(data(), first, [0, 1]))
    found = dp.clipped_gradient(
        TASK.loss,
        mechanism,
        method=canaries.gradient_canaries(TASK.loss, directions, method=method),
    )
    plain = dp.clipped_gradient(TASK.loss, mechanism, method=method)
    keys = jax.random.split(jax.random.key(0), 8)
    weights = jnp.array([1.0, 1, 0, 1, 1, 1, 1, 0])
    total, _ = found(keys, (), PARAMS, examples, weights)
    rows = {name: examples[name] for name in ("x", "y")}
    others, _ = plain(keys, (), PARAMS, rows, weights.at[6:].set(0))
    # Canary 0 takes part, canary 1 does not.
    expected = vector(others) + 0.5 * np.eye(SIZE)[4]
    np.testing.assert_allclose(vector(total), expected, atol=2e-6)


@pytest.mark.exhaustive  # what they measure: test_own_training
def test_canary_clients_send_their_direction_and_others_train():
    directions = canaries.dirac(PARAMS, np.array([4, 0]))
    plain = federated.local_sgd(TASK, optax.sgd(0.5), 2, num_epochs=1)
    trainer = canaries.canary_clients(plain, directions)
    first = {name: leaf[:2] for name, leaf in data().items()}
    examples = canaries.append(data(), first, [0, 1])
    clients = base.Clients(
        jax.tree.map(jnp.asarray, examples), jnp.array([0, 3, 6, 7, 8])
    )
    everyone = federated.everyone(4)

    def mean(trainer, included):
        algorithm = federated.averaging(
            TASK,
            trainer,
            canaries.only(everyone, jnp.asarray(included)),
            mechanism=dp.gaussian(0.5, 0.0),
        )
        before = algorithm.init(jax.random.key(0))
        after, _ = jax.jit(algorithm.round)(jax.random.key(1), before, clients)
        return 4 * (vector(after.params) - vector(before.params))

    learners = [True, True, False, False]
    np.testing.assert_allclose(mean(trainer, learners), mean(plain, learners))
    with_second = mean(trainer, [True, True, False, True])
    expected = mean(plain, learners) + 0.5 * np.eye(SIZE)[0]
    np.testing.assert_allclose(with_second, expected, atol=2e-6)


def test_absent_members_are_never_drawn_and_others_as_before():
    sampler = federated.poisson(20, 0.5)
    present = jnp.arange(20) != 3
    reduced = canaries.only(sampler, present)
    assert reduced.expected_cohort == sampler.expected_cohort
    for seed in range(20):
        key = jax.random.key(seed)
        before, _ = sampler.sample(key, ())
        after, _ = reduced.sample(key, ())
        kept = np.asarray(before.indices)[np.asarray(before.weights) > 0]
        left = np.asarray(after.indices)[np.asarray(after.weights) > 0]
        np.testing.assert_array_equal(left, kept[kept != 3])


def test_images():
    examples = data()
    wrong = canaries.mislabelled(examples, 2, 3)
    np.testing.assert_array_equal(wrong["x"], examples["x"][2:3])
    assert wrong["y"] == [0]
    nothing = canaries.blank(examples, 1)
    assert not nothing["x"].any()
    assert nothing["y"] == [1]
    rare = canaries.rarest_direction(examples, 4.0, 2)
    np.testing.assert_allclose(np.abs(rare["x"]), [[0, 0, 4, 0]], atol=1e-6)
    joined = canaries.append(examples, wrong, [5])
    np.testing.assert_array_equal(joined["canary"], [-1] * 6 + [5])
    assert joined["x"].dtype == np.float32
    assert joined["y"].dtype == np.int32


def test_untouched_weights_have_no_gradient():
    examples = data()
    found = canaries.untouched_weights(PARAMS, examples)
    params = jax.tree.map(lambda leaf: leaf + 0.3, PARAMS)

    def total(params):
        rows = jax.tree.map(jnp.asarray, examples)
        return jnp.sum(TASK.loss(jax.random.key(0), params, rows))

    still = np.flatnonzero(vector(jax.grad(total)(params)) == 0)
    np.testing.assert_array_equal(found, still)
    with pytest.raises(
        ValueError, match="no weight matrix with a row for each of the 4 inputs"
    ):
        canaries.untouched_weights({"b": jnp.zeros(3)}, examples)


def test_canaries_of_a_model_that_is_partly_frozen_are_in_the_rest():
    def freezing(params):
        return {"params": {"Dense_0": {"kernel": "constant", "bias": "trainable"}}}

    task = TASK._replace(roles=freezing)
    part = roles.trainable(task, PARAMS)
    method = canaries.gradient_canaries(
        roles.loss_of_part(task, PARAMS), canaries.dirac(part, np.array([2]))
    )
    first = {name: leaf[:1] for name, leaf in data().items()}
    examples = canaries.append(data(), first, [0])
    algorithm = federated.central_sgd(
        task,
        optax.sgd(1.0),
        federated.everyone(7),
        mechanism=dp.gaussian(0.5, 0.0, privacy_unit="example"),
        method=method,
    )
    state = algorithm.init(jax.random.key(0))
    clients = base.Clients(
        jax.tree.map(jnp.asarray, examples), jnp.array([0, 7], jnp.int32)
    )
    after = []
    for who in (
        clients,
        clients._replace(examples=dict(clients.examples, canary=jnp.full(7, -1))),
    ):
        found, _ = jax.jit(algorithm.round)(jax.random.key(1), state, who)
        after.append(found.params["params"]["Dense_0"])
    np.testing.assert_array_equal(
        after[0]["kernel"], state.params["params"]["Dense_0"]["kernel"]
    )
    assert (after[0]["bias"] != after[1]["bias"]).any()
