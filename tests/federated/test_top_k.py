"""Top-k with error feedback: a golden problem, bytes, drop-outs, privacy, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, smpc
from ppml_lab.federated import sparse

KEY = jax.random.key(3)
# Four clients, f_i(x) = sum_j a_ij (x_j - b_ij)^2 / 2; the optimum of their mean.
CURVATURES = np.array([[1, 2, 3, 4], [2, 1, 1, 2], [4, 3, 2, 1], [1, 1, 2, 5.0]])
CENTRES = np.array([[1, 0, -1, 2], [0, 1, 0, 1], [2, -1, 1, 0], [-1, 2, 0, 0.0]])
OPTIMUM = [1, 0, -0.125, 0.8333333]
STEP = 0.0354068483
CLIENTS = base.Clients(
    {"a": jnp.float32(CURVATURES), "b": jnp.float32(CENTRES)},
    jnp.arange(5, dtype=jnp.int32),
)


def quadratic(dtype=jnp.float32):
    def loss(key, params, rows):
        near = params.astype(jnp.float32) - rows["b"]
        return jnp.sum(rows["a"] * near**2, axis=1) / 2

    return base.Task(lambda key: jnp.zeros(4, dtype), loss, lambda params, rows: {})


TASK = quadratic()


def averaging(sampler=None, task=TASK, num_sent=1, error_feedback=True, **parts):
    """One full step each, of which one coordinate is sent."""
    own = federated.local_sgd(task, optax.sgd(STEP), 1, num_steps=1)
    trainer = federated.top_k(
        task, own, num_sent=num_sent, error_feedback=error_feedback
    )
    sampler = federated.everyone(4) if sampler is None else sampler
    return federated.averaging(task, trainer, sampler, **parts)


def path(num_rounds, **how):
    """The model after each round, and the last state."""
    algorithm = averaging(**how)

    def one(state, number):
        key = jax.random.fold_in(KEY, number)
        state, _ = algorithm.round(key, state, CLIENTS)
        return state, state.params

    run = jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(num_rounds)))
    state, params = run(algorithm.init(KEY))
    return np.asarray(params.astype(jnp.float32)), state


def test_a_golden_problem_of_which_one_coordinate_is_sent():
    params, _ = path(2000)
    golden = [0.12078986, -0.01088334, -0.07966541, 0.18727128]
    np.testing.assert_allclose(params[2], golden, rtol=1e-5)
    # A constant step: it goes round the optimum, and does not stall.
    for number, error in ((200, 0.0727), (2000, 0.0685)):
        far = np.abs(params[number - 1] - OPTIMUM).max()
        np.testing.assert_allclose(far, error, atol=1e-4)


def test_without_error_feedback_it_stalls_far_from_the_optimum():
    params, _ = path(2000, error_feedback=False)
    golden = [0.205008, 0.05264154, 0, 0.25169754]
    np.testing.assert_allclose(params[2], golden, rtol=1e-5)
    np.testing.assert_allclose(params[-1], [1.3333333, -0.1236, 0, 0.8889], atol=1e-4)


@pytest.mark.exhaustive
def test_all_coordinates_are_the_whole_update():
    params, state = path(3, num_sent=4)
    golden = [0.19775245, 0, -0.02471906, 0.23834307]
    np.testing.assert_allclose(params[2], golden, rtol=1e-4, atol=1e-7)
    assert not np.asarray(state.kept.unsent).any()


def test_the_bytes_stated_are_those_of_a_message():
    for dimension, num_sent, per_index in ((5, 3, 3), (1024, 37, 10)):
        channel = sparse.sending_few(smpc.clear(), num_sent)
        update = np.zeros(dimension, np.float32)
        rng = np.random.default_rng(num_sent)
        update[rng.permutation(dimension)[:num_sent]] = rng.normal(size=num_sent)
        message = jax.jit(channel.encode)(KEY, (), 0, jnp.asarray(update))
        values, indices = np.asarray(message.values), np.asarray(message.indices)
        sent = sparse.to_bytes(values, indices, dimension)
        assert len(sent) == channel.cost(dimension).uplink_bytes
        assert len(sent) == 4 * num_sent + -(-num_sent * per_index // 8)
        read, where = sparse.from_bytes(sent, num_sent, dimension)
        again = np.zeros_like(update)
        again[where] = read
        np.testing.assert_array_equal(again, update)
        # Everybody receives the model.
        assert channel.cost(dimension).downlink_bytes == 4 * dimension
    assert averaging().cost() == base.Cost(5, 16)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 4\), got 4 to 4"):
        sparse.to_bytes(np.ones(1, np.float32), np.array([4]), 4)
    with pytest.raises(ValueError, match="sent must have 5 bytes"):
        sparse.from_bytes(b"1234", 1, 4)


def test_of_equal_magnitudes_the_first_are_sent_and_nothing_is_lost_silently():
    message_of = jax.jit(sparse.of, static_argnums=1)
    tree = {"a": jnp.array([2.0, -3.0]), "b": jnp.array([[3.0, 0.0]])}
    message = message_of(tree, 3)
    assert message.indices.tolist() == [1, 2, 0]
    assert jax.jit(sparse.dense)(message)["b"].tolist() == [[3, 0]]
    assert np.isnan(message_of(tree, 2).values).all()


def test_who_drops_out_or_is_not_drawn_keeps_its_error():
    algorithm = averaging(federated.fixed_size(4, 3), dropout_prob=0.4)
    start = algorithm.init(KEY)
    unsent = np.arange(16, dtype=np.float32).reshape(4, 4) / 100
    start = start._replace(kept=start.kept._replace(unsent=jnp.float32(unsent)))
    updates, counts = STEP * CURVATURES * CENTRES, set()
    one_round = jax.jit(algorithm.round)
    for number in range(5):
        state, info = one_round(jax.random.key(number), start, CLIENTS)
        wanted = unsent + updates
        largest = np.abs(wanted).argmax(axis=1)[:, None] == np.arange(4)
        left = np.asarray(state.kept.unsent)
        reported = (left != unsent).any(axis=1)
        expected = np.where(reported[:, None], np.where(largest, 0, wanted), unsent)
        np.testing.assert_allclose(left, expected, rtol=1e-6)
        sums = np.where(reported[:, None] & largest, wanted, 0).sum(0)
        np.testing.assert_allclose(state.params, sums / 1.8, rtol=1e-5)
        counts.add(int(info["num_reports"]))
        assert reported.sum() == int(info["num_reports"])
    assert len(counts) > 1


@pytest.mark.parametrize(
    "mechanism",
    [
        dp.adaptive_gaussian(0.05, 0.0, 4.0),
        pytest.param(dp.gaussian(0.05, 0.0), marks=pytest.mark.exhaustive),
    ],
    ids=["adaptive", "gaussian"],
)
def test_what_is_clipped_is_the_message_of_the_round(mechanism):
    """However much is kept; what else a mechanism wants summed is sent, too."""
    algorithm = averaging(mechanism=mechanism)
    start = algorithm.init(KEY)
    unsent = np.diag([5.0, -6.0, 7.0, 8.0])
    start = start._replace(kept=start.kept._replace(unsent=jnp.float32(unsent)))
    state, info = jax.jit(algorithm.round)(KEY, start, CLIENTS)
    np.testing.assert_allclose(state.params, [0.0125, -0.0125, 0.0125, 0.0125], 1e-5)
    assert info["clipped_share"] == 1
    assert not np.diagonal(state.kept.unsent).any()
    # The count of norms below the clip norm is one coordinate more, of five.
    extra = mechanism.expected_contributions is not None
    assert algorithm.cost() == base.Cost(9 if extra else 5, 20 if extra else 16)
    if extra:
        assert info["clip_norm"] != 0.05


def test_an_update_that_is_not_finite_leaves_no_trace_in_what_is_kept():
    own = federated.local_sgd(TASK, optax.sgd(STEP), 1, num_steps=1)
    own = own._replace(
        finish=lambda sent, state: (jnp.array([jnp.nan, 3.0, jnp.inf, 1.0]), (), {})
    )
    trainer = federated.top_k(TASK, own, num_sent=1)
    kept = trainer.keep(jnp.zeros(4))
    state = trainer.init(KEY, jnp.zeros(4), kept, jnp.int32(0))
    _, kept, _ = trainer.finish(jnp.zeros(4), state)
    assert kept.unsent.tolist() == [0, 3, 0, 1]


@pytest.mark.exhaustive
def test_models_of_short_floats_remember_in_float32():
    params, state = path(3, task=quadratic(jnp.bfloat16))
    golden = [0.12078986, -0.01088334, -0.07966541, 0.18727128]
    np.testing.assert_allclose(params[2], golden, rtol=0.02)
    assert state.kept.unsent.dtype == jnp.float32


@pytest.mark.exhaustive
def test_the_update_of_scaffold_is_of_the_model_and_its_control():
    own, server = federated.scaffold(TASK, optax.sgd(STEP), 1, num_steps=1)
    trainer = federated.top_k(TASK, own, num_sent=3, server=server)
    algorithm = federated.averaging(TASK, trainer, federated.everyone(4), server=server)
    state, _ = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), CLIENTS)
    said = np.hstack([STEP * CURVATURES * CENTRES, -CURVATURES * CENTRES])
    ranks = np.argsort(np.argsort(-np.abs(said), axis=1, kind="stable"), axis=1)
    mean = np.where(ranks < 3, said, 0).mean(0)
    np.testing.assert_allclose([*state.params, *state.memory[1]], mean, rtol=1e-6)
    # Three values, and as many numbers below eight.
    assert algorithm.cost() == base.Cost(3 * 4 + 2, 8 * 4)


def test_share_is_of_the_updates_coordinates():
    own = federated.local_sgd(TASK, optax.sgd(STEP), 1, num_steps=1)
    for share, num_sent in ((0.01, 1), (0.5, 2), (0.7, 3), (1.0, 4)):
        assert federated.top_k(TASK, own, share=share).num_sent == num_sent
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "give exactly one of num_sent and share"),
        ({"num_sent": 1, "share": 0.5}, "give exactly one of num_sent and share"),
        ({"num_sent": 5}, "num_sent is 5, but an update has 4 coordinates"),
        ({"num_sent": 0}, "num_sent must be an integer of at least 1, got 0"),
        ({"share": 1.5}, r"share must lie in \(0, 1\], got 1.5"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            federated.top_k(TASK, own, **wrong)


def test_sums_that_hide_messages_and_noise_that_fills_them_are_refused():
    shared = smpc.additive_sharing(3, 4, 1.0)
    with pytest.raises(ValueError, match=r"additive_sharing would .*smpc\.clear\(\)"):
        averaging(aggregator=shared)
    with pytest.raises(ValueError, match="local noise fills all coordinates"):
        averaging(mechanism=dp.local_gaussian(1.0, 1.0))


@pytest.mark.exhaustive
def test_of_messages_of_few_coordinates_a_rule_makes_what_it_makes_of_all():
    median = averaging(aggregator=federated.coordinate_median())
    assert median.cost() == averaging().cost()
    state, _ = jax.jit(median.round)(KEY, median.init(KEY), CLIENTS)
    # Two of four send the last coordinate, and only one each of the others.
    np.testing.assert_allclose(state.params, [0, 0, 0, STEP], rtol=1e-6)
