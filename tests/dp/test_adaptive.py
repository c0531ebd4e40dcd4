"""Adaptive clipping follows the quantile it is told to, and pays for it."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, pairs
from ppml_lab.dp import accounting, per_example

KEY = jax.random.key(3)


def vote_weight(clip_norm, count_weight=0.1):
    return clip_norm * count_weight


def test_a_round_by_hand():
    mechanism = dp.adaptive_gaussian(
        2.0, 0.0, 4.0, target_quantile=0.5, clip_learning_rate=0.2
    )
    state = mechanism.init(KEY, ())
    norms = [1.0, 3.0, 1.5, 0.5]
    messages = [mechanism.clip(KEY, state, jnp.array([n, 0.0])) for n in norms]
    for message, norm in zip(messages, norms, strict=True):
        np.testing.assert_allclose(message["update"], [min(norm, 2.0), 0], rtol=1e-6)
        vote = vote_weight(2.0) * (1 if norm <= 2 else -1)
        np.testing.assert_allclose(message["within"], vote, rtol=1e-6)
    total = jax.tree.map(lambda *leaves: sum(leaves), *messages)
    update, after = mechanism.privatize(KEY, state, total, mechanism.norm_bound(state))
    np.testing.assert_allclose(update, [5.0, 0], rtol=1e-6)
    # Three of four are within.
    np.testing.assert_allclose(after, 2.0 * np.exp(-0.2 * (0.75 - 0.5)), rtol=1e-6)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_clip_norm_finds_the_quantile(quantile):
    norms = jnp.exp(jax.random.normal(KEY, (2000,)))
    mechanism = dp.adaptive_gaussian(
        0.01, 0.5, 2000.0, target_quantile=quantile, clip_learning_rate=0.5
    )

    def one_round(state, key):
        messages = jax.vmap(mechanism.clip, in_axes=(None, None, 0))(
            key, state, norms[:, None]
        )
        total = jax.tree.map(lambda leaf: leaf.sum(0), messages)
        bound = mechanism.norm_bound(state)
        return mechanism.privatize(key, state, total, bound)[::-1]

    keys = jax.random.split(KEY, 80)
    clip_norm, _ = jax.lax.scan(one_round, mechanism.init(KEY, ()), keys)
    assert abs(np.mean(norms <= clip_norm) - quantile) < 0.03


def test_the_message_keeps_within_the_stated_bound():
    mechanism = dp.adaptive_gaussian(0.7, 1.0, 10.0, count_weight=0.5)
    state = mechanism.init(KEY, ())
    bound = float(mechanism.norm_bound(state))
    np.testing.assert_allclose(bound, 0.7 * np.sqrt(1.25), rtol=1e-6)
    for norm in (0.0, 0.69, 0.71, 1e6):
        message = mechanism.clip(KEY, state, jnp.array([norm]))
        length = np.sqrt(sum(float(leaf.sum()) ** 2 for leaf in message.values()))
        assert length <= bound * (1 + 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_contribution_is_silent_in_the_count_too(bad):
    mechanism = dp.adaptive_gaussian(0.7, 1.0, 10.0)
    message = mechanism.clip(KEY, mechanism.init(KEY, ()), jnp.array([1.0, bad]))
    assert not any(np.any(leaf) for leaf in message.values())


@pytest.fixture(scope="module")
def after_rounds():
    """`(mechanism, state, norm, noise keys)`: the clip norms of rounds in which all 25
    contributions have that norm.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def run(numbers, state, norm, keys):
        mechanism = dp.adaptive_gaussian(*numbers)

        def one_round(state, key):
            message = mechanism.clip(key, state, jnp.stack([norm, 0.0]))
            total = jax.tree.map(lambda leaf: 25 * leaf, message)
            bound = mechanism.norm_bound(state)
            update, state = mechanism.privatize(key, state, total, bound)
            return state, (state, update)

        return jax.lax.scan(one_round, state, keys)[1]

    return run


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_zeros_for_3000_rounds_leave_it_finite_and_updates_revive_it(
    after_rounds, noise
):
    numbers, keys = (1.0, noise, 25.0), jax.random.split(KEY, 3000)
    start = jnp.float32(1.0)
    sunk, updates = after_rounds(numbers, start, jnp.float32(0), keys)
    assert np.isfinite(updates).all()
    np.testing.assert_allclose(np.min(sunk), 1e-4, rtol=1e-5)
    revived, updates = after_rounds(numbers, sunk[-1], jnp.float32(1), keys)
    assert np.isfinite(updates).all()
    # It climbs by exp(0.1) a round.
    assert np.all(revived[110:] > 0.6)
    assert np.all(revived < 1.7)


def test_updates_beyond_all_bounds_take_it_to_its_ceiling_and_back(after_rounds):
    numbers, keys = (1.0, 0.3, 25.0), jax.random.split(KEY, 3000)
    risen, updates = after_rounds(numbers, jnp.float32(1), jnp.float32(1e15), keys)
    assert np.isfinite(updates).all()
    np.testing.assert_allclose(np.max(risen), 1e4, rtol=1e-5)
    sunk, _ = after_rounds(numbers, risen[-1], jnp.float32(1), keys)
    assert np.all(sunk[110:] < 1.7)


def test_bounds_are_those_it_was_told():
    mechanism = dp.adaptive_gaussian(
        2.0, 0.0, 4.0, clip_learning_rate=10.0, min_clip_norm=1.5, max_clip_norm=3.0
    )
    state = mechanism.init(KEY, ())
    for norm, bound in ((0.5, 1.5), (9.0, 3.0)):
        message = mechanism.clip(KEY, state, jnp.array([norm]))
        total = jax.tree.map(lambda leaf: 4 * leaf, message)
        assert mechanism.privatize(KEY, state, total, 1.0)[1] == bound


def test_no_round_moves_it_further_than_the_rate_says():
    """However large a count is: all that an aggregator may add up is no fraction."""
    mechanism = dp.adaptive_gaussian(2.0, 0.0, 4.0)
    state = mechanism.init(KEY, ())
    for votes in (-1e30, -1e3, 1e3, 1e30):
        total = {"update": jnp.zeros(2), "within": jnp.float32(votes)}
        after = mechanism.privatize(KEY, state, total, 1.0)[1]
        step = abs(float(jnp.log(after / state)))
        np.testing.assert_allclose(step, 0.2 * 1.5, rtol=1e-5)


def test_bounds_and_all_else_may_be_traced():
    def round_of(first, noise, number, quantile, rate, weight, least, most):
        mechanism = dp.adaptive_gaussian(
            first,
            noise,
            number,
            target_quantile=quantile,
            clip_learning_rate=rate,
            count_weight=weight,
            min_clip_norm=least,
            max_clip_norm=most,
        )
        state = mechanism.init(KEY, ())
        total = {"update": jnp.zeros(2), "within": 4 * weight * state}
        after = mechanism.privatize(KEY, state, total, jnp.float32(0))[1]
        return mechanism.message_bound(state), mechanism.norm_bound(state), after

    numbers = tuple(map(jnp.float32, (2.0, 1.0, 4.0, 0.5, 0.2, 1.5, 1.9, 3.0)))
    # One step would take it to 2 exp(-0.1).
    expected = (3.0, 2 * np.sqrt(1 + 1.5**2), 1.9)
    np.testing.assert_allclose(jax.jit(round_of)(*numbers), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        ((0.1, 100.0, 12.0), {"clip_learning_rate": 1.0}),
        ((0.1, 100.0, 12.0), {}),
        ((0.1, 1.0, 2.0), {"count_weight": 0.01}),
        ((0.1, 1.0, 12.0), {"clip_learning_rate": 5.0}),
    ],
)
def test_noise_that_drowns_the_count_is_refused_with_its_number(numbers, options):
    noise, number = numbers[1:]
    weight = options.get("count_weight", 0.1)
    stddev = noise * np.sqrt(1 + weight**2) / (2 * weight * number)
    names = "noise_multiplier .*count_weight .*expected_contributions"
    told = f"{names} .* deviation {stddev:.3g} .*at most"
    with pytest.raises(ValueError, match=told) as error:
        dp.adaptive_gaussian(*numbers, **options)
    # What it says to take is taken.
    least = float(str(error.value).split("expected_contributions ")[2].split()[0])
    dp.adaptive_gaussian(0.1, noise, least * 1.01, **options)


@pytest.mark.parametrize(
    "numbers", [(1.0, 0.3, 25.0), (0.5, 1.0, 2.5), (0.1, 1.0, 50.0), (0.1, 100.0, 300)]
)
def test_counts_that_are_heard_are_built(numbers):
    dp.adaptive_gaussian(*numbers)


def test_a_count_at_the_edge_of_what_is_refused_still_finds_the_quantile(after_rounds):
    """Half of the noise that is refused; norms of 1."""
    numbers = (1.0, 5.5, 25.0)
    with pytest.raises(ValueError, match="noise of standard deviation 2"):
        dp.adaptive_gaussian(1.0, 2 * 5.6, 25.0)
    keys = jax.random.split(KEY, 3000)
    found, _ = after_rounds(numbers, jnp.float32(0.01), jnp.float32(1), keys)
    logs = np.log(np.asarray(found)[500:])
    assert abs(np.mean(logs)) < 0.2
    assert np.std(logs) < 1


def test_update_and_count_get_the_noise_that_the_accounting_states():
    mechanism = dp.adaptive_gaussian(0.7, 1.5, 100.0)
    state = mechanism.init(KEY, ())
    stddev = 1.5 * 0.7 * np.sqrt(1.01)

    def noise(key):
        zero = {"update": jnp.zeros(50), "within": jnp.float32(0)}
        update, after = mechanism.privatize(
            key, state, zero, mechanism.norm_bound(state)
        )
        # The count's noise, from what it did to the clip norm.
        fraction = -jnp.log(after / state) / 0.2 + 0.5
        return update, (2 * fraction - 1) * 100 * 0.07

    updates, counts = jax.vmap(noise)(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(np.std(updates), stddev, rtol=0.01)
    np.testing.assert_allclose(np.std(counts), stddev, rtol=0.05)
    both = np.corrcoef(updates[:, 0], counts)[0, 1]
    assert abs(both) < 0.08


def test_it_costs_what_a_gaussian_of_the_same_multiplier_costs():
    """The joint release is one Gaussian; Andrew et al. split it in two with
    1 / z^2 = 1 / z_update^2 + 1 / (2 z_count)^2.
    """
    sampler = federated.poisson(100, 0.1)
    adaptive = dp.adaptive_gaussian(0.7, 1.5, 10.0, count_weight=0.1)
    found, plain = (m.event(sampler, 9) for m in (adaptive, dp.gaussian(0.7, 1.5)))
    assert accounting.epsilon(found, 1e-5) == accounting.epsilon(plain, 1e-5)
    z_update = 1.5 * np.sqrt(1.01)
    z_count = 1.5 * np.sqrt(1.01) / (2 * 0.1)
    np.testing.assert_allclose(z_update**-2 + (2 * z_count) ** -2, 1.5**-2)


@pytest.mark.parametrize(
    "count_weight", [0.1, pytest.param(1.0, marks=pytest.mark.exhaustive)]
)
def test_an_empty_place_has_no_vote(count_weight):
    """Under zero_out a neighbour has a client's place empty: the sum moves by what the
    noise is for, though the client's vote was against.
    """
    task = base.Task(
        init=lambda key: jnp.zeros(3),
        loss=lambda key, params, rows: jnp.sum((params - rows) ** 2, -1) / 2,
        evaluate=lambda params, rows: {},
    )
    mechanism = dp.adaptive_gaussian(1.0, 0.0, 3.0, count_weight=count_weight)
    seen = []

    def watched(key, state, total, sensitivity):
        jax.debug.callback(lambda *told: seen.append(told), total, sensitivity)
        return mechanism.privatize(key, state, total, sensitivity)

    algorithm = federated.averaging(
        task,
        federated.local_sgd(task, optax.sgd(1.0), 1, num_epochs=1),
        federated.min_separation(3, 3),
        mechanism=mechanism._replace(privatize=watched),
    )
    rows = np.array([[5.0, 0, 0], [0.01, 0, 0], [0, 0.01, 0]], np.float32)
    for first in (0, 1):
        offsets = jnp.array([0, 1, 2, 3] if first == 0 else [0, 0, 1, 2])
        clients = base.Clients(jnp.asarray(rows[first:]), offsets)
        jax.block_until_ready(
            jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
        )
    jax.effects_barrier()
    (whole, sensitivity), (without, _) = seen
    moved = optax.tree.norm(jax.tree.map(np.subtract, whole, without))
    assert float(moved) == pytest.approx(float(sensitivity), rel=1e-5)


def test_examples_vote_like_clients():
    mechanism = dp.adaptive_gaussian(1.0, 0.0, 3.0, privacy_unit="example")
    rows = jnp.array([[0.5, 0.0], [0.0, 4.0], [np.nan, 0.0], [0.1, 0.1]])
    gradients = per_example.whole(jnp.zeros(4), rows)
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    total = pairs.value(
        mechanism.clip_examples(mechanism.init(KEY, ()), gradients, weights)
    )
    np.testing.assert_allclose(total["update"], [0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(total["within"], 0.1 - 0.1, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("initial_clip_norm", 0.0),
        ("initial_clip_norm", np.inf),
        ("noise_multiplier", -1.0),
        ("expected_contributions", 0.0),
        ("target_quantile", 1.2),
        ("clip_learning_rate", -0.1),
        ("count_weight", 0.0),
        ("count_weight", 1e-9),
        ("clip_norm", 1e-19),
        ("clip_norm", 1e19),
        ("min_clip_norm", 0.0),
        ("min_clip_norm", np.nan),
        ("min_clip_norm", 2.0),
        ("max_clip_norm", 0.5),
        ("max_clip_norm", np.inf),
        ("max_clip_norm", 1e30),
    ],
)
def test_bad_numbers(name, bad):
    good: dict[str, Any] = {
        "initial_clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "expected_contributions": 10.0,
    }
    argument = "initial_clip_norm" if name == "clip_norm" else name
    with pytest.raises(ValueError, match=rf"{name} must .*{re.escape(str(bad))}"):
        dp.adaptive_gaussian(**(good | {argument: bad}))
