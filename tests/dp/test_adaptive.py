"""Adaptive clipping follows the quantile it is told to, and pays for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp, federated, pairs
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
    ],
)
def test_bad_numbers(name, bad):
    good: dict[str, Any] = {
        "initial_clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "expected_contributions": 10.0,
    }
    with pytest.raises(ValueError, match=f"{name} must .*{bad}"):
        dp.adaptive_gaussian(**(good | {name: bad}))
