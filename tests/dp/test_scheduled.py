import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import dp, federated
from ppml_lab.dp import accounting

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


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="noise_multiplier must be finite"):
        dp.scheduled_gaussian(CLIP, lambda step: -1.0)
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        dp.scheduled_gaussian(-1.0, DECAY)
    with pytest.raises(ValueError, match="needs a finite clip_norm"):
        dp.scheduled_gaussian(float("inf"), DECAY)
    sinking = dp.scheduled_gaussian(CLIP, optax.linear_schedule(1.0, -1.0, 4))
    with pytest.raises(ValueError, match="noise_multiplier must be finite"):
        sinking.event(federated.everyone(5), 5)
