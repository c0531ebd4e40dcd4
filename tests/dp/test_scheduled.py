import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import dp, federated
from ppml_lab.dp import accounting, per_example

KEY = jax.random.key(0)
CLIP = 0.5
DECAY = optax.exponential_decay(2.0, transition_steps=1, decay_rate=0.5)


def test_noise_follows_the_schedule():
    mechanism = dp.scheduled_gaussian(CLIP, DECAY)
    state = mechanism.init(KEY, ())
    assert mechanism.noise_multiplier is not None
    for number, noise in enumerate((2.0, 1.0, 0.5)):
        assert mechanism.noise_multiplier(state) == noise
        key = jax.random.fold_in(jax.random.key(0), number)
        noisy, state = mechanism.privatize(key, state, jnp.zeros(20_000), CLIP)
        sample = noisy / (noise * CLIP)
        assert scipy.stats.kstest(sample, "norm").pvalue > 1e-3
        for wrong in (2 / 3, 3 / 2):
            assert scipy.stats.kstest(sample / wrong, "norm").pvalue < 1e-9


def test_its_event_composes_what_was_released():
    sampler = federated.poisson(1000, 0.1)
    found = dp.scheduled_gaussian(CLIP, DECAY).event(sampler, 3)
    rdp = [
        accounting.rdp_curve(dp.gaussian(CLIP, noise).event(sampler, 1)).values
        for noise in (2.0, 1.0, 0.5)
    ]
    curve = accounting.rdp_curve(found)
    np.testing.assert_allclose(curve.values, np.sum(rdp, axis=0), rtol=1e-12)
    np.testing.assert_allclose(curve.failure, 3e-18)


def test_a_constant_schedule_is_the_plain_mechanism():
    sampler = federated.fixed_size(1000, 50)
    constant = dp.scheduled_gaussian(CLIP, optax.constant_schedule(1.5))
    plain = dp.gaussian(CLIP, 1.5)
    assert constant.event(sampler, 40) == plain.event(sampler, 40)
    key, update = jax.random.key(1), jnp.arange(4.0)

    def release(mechanism):
        clipped = mechanism.clip(key, mechanism.init(KEY, ()), update)
        return mechanism.privatize(key, mechanism.init(KEY, ()), clipped, CLIP)[0]

    np.testing.assert_array_equal(release(constant), release(plain))


SHRINK = optax.exponential_decay(0.8, transition_steps=1, decay_rate=0.5)


@pytest.mark.parametrize("rule", ["flat", "per_layer", "normalised"])
def test_clip_norms_follow_a_schedule_and_noise_with_them(rule):
    mechanism = dp.scheduled_gaussian(SHRINK, 1.5, rule=rule)
    state = mechanism.init(KEY, ())
    release = jax.jit(mechanism.privatize)
    for number, norm in enumerate((0.8, 0.4, 0.2)):
        np.testing.assert_allclose(mechanism.norm_bound(state), norm, rtol=1e-6)
        np.testing.assert_allclose(mechanism.message_bound(state), norm, rtol=1e-6)
        np.testing.assert_allclose(mechanism.report(state)["clip_norm"], norm)
        sent = jax.jit(mechanism.clip)(KEY, state, jnp.array([30.0, 40.0]))
        np.testing.assert_allclose(sent, [0.6 * norm, 0.8 * norm], rtol=1e-3)
        bound = mechanism.norm_bound(state)
        key = jax.random.key(number)
        noisy, state = release(key, state, jnp.zeros(20_000), bound)
        assert scipy.stats.kstest(noisy / (1.5 * norm), "norm").pvalue > 1e-3


def test_examples_are_clipped_to_the_release_s_own_norm():
    mechanism = dp.scheduled_gaussian(SHRINK, 0.0, privacy_unit="example")
    state = mechanism.init(KEY, ())
    rows = jnp.array([[3.0, 4.0], [0.06, 0.08]])
    for norm in (0.8, 0.4):
        gradients = per_example.whole(jnp.zeros(2), rows)
        total = mechanism.clip_examples(state, gradients, jnp.ones(2))
        released, state = mechanism.privatize(KEY, state, total, norm)
        np.testing.assert_allclose(
            released, [0.6 * norm + 0.06, 0.8 * norm + 0.08], rtol=1e-6
        )


def test_clip_norms_over_releases_cost_what_one_clip_norm_costs():
    sampler = federated.poisson(1000, 0.1)
    for noise in (DECAY, 1.5):
        found = dp.scheduled_gaussian(SHRINK, noise).event(sampler, 3)
        assert found == dp.scheduled_gaussian(CLIP, noise).event(sampler, 3)
    assert found == dp.gaussian(CLIP, 1.5).event(sampler, 3)


def test_rounds_of_averaging_clip_and_are_noised_by_the_schedule(regression, clients):
    """Five clients far off, whose updates are as long as the clip norm allows."""
    trainer = federated.local_sgd(regression, optax.sgd(100.0), 7, num_steps=1)
    algorithm = federated.averaging(
        regression,
        trainer,
        federated.everyone(5),
        mechanism=dp.scheduled_gaussian(SHRINK, 0.0),
    )
    state, history = federated.simulate(KEY, algorithm, clients, 3)
    np.testing.assert_allclose(history["clip_norm"], [0.4, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(history["clipped_share"], 1.0)
    assert (history["update_norm"] > 1).all()
    start = algorithm.init(jax.random.split(KEY)[0]).params
    moved = jax.tree.map(jnp.subtract, state.params, start)
    assert optax.tree.norm(moved) <= 0.8 + 0.4 + 0.2


@pytest.mark.parametrize("build", [dp.gaussian, dp.local_gaussian])
def test_functions_elsewhere_are_sent_here(build):
    for arguments in ((SHRINK, 1.0), (1.0, DECAY)):
        with pytest.raises(ValueError, match=r"must be a number.*scheduled_gaussian"):
            build(*arguments)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        dp.scheduled_gaussian(lambda step: -1.0, DECAY)
    gone = dp.scheduled_gaussian(optax.linear_schedule(1.0, -1.0, 4), DECAY)
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        gone.event(federated.everyone(5), 5)
    with pytest.raises(ValueError, match="noise_multiplier must be finite"):
        dp.scheduled_gaussian(CLIP, lambda step: -1.0)
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        dp.scheduled_gaussian(-1.0, DECAY)
    with pytest.raises(ValueError, match="needs a finite clip_norm"):
        dp.scheduled_gaussian(float("inf"), DECAY)
    sinking = dp.scheduled_gaussian(CLIP, optax.linear_schedule(1.0, -1.0, 4))
    with pytest.raises(ValueError, match="noise_multiplier must be finite"):
        sinking.event(federated.everyone(5), 5)
