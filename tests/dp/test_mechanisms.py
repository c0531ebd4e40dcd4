"""Mechanisms: noise of the right scale on every coordinate, and the right event."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import base, dp
from ppml_lab.dp import clipping, events
from ppml_lab.federated import sampling

CLIP, NOISE, SENSITIVITY = 2.5, 0.7, 3.1  # all different, none of them 1
KEY = jax.random.key(0)
BUILDERS = {"gaussian": dp.gaussian, "local": dp.local_gaussian}


def noise_of_gaussian(key, total):
    mechanism = dp.gaussian(CLIP, NOISE)
    return mechanism.privatize(key, mechanism.init(KEY, ()), total, SENSITIVITY)[0]


def noise_of_local(key, update):
    mechanism = dp.local_gaussian(CLIP, NOISE)
    return mechanism.clip(key, mechanism.init(KEY, ()), update)


RELEASES = {
    "gaussian": (noise_of_gaussian, NOISE * SENSITIVITY),
    "local": (noise_of_local, NOISE * CLIP),
}


def fits(noise, stddev) -> float:
    return float(scipy.stats.kstest(np.ravel(noise) / stddev, "norm").pvalue)


def assert_has_stddev(noise, stddev):
    """A KS test that accepts the right scale and rejects 2/3 and 3/2 of it."""
    assert fits(noise, stddev) > 1e-3
    assert fits(noise, stddev * 2 / 3) < 1e-6
    assert fits(noise, stddev * 3 / 2) < 1e-6


@pytest.mark.parametrize("name", RELEASES)
def test_noise_has_its_scale_on_every_leaf_of_an_empty_sum(name):
    release, stddev = RELEASES[name]
    zero = {"a": jnp.zeros((50, 40)), "b": [jnp.zeros(2000), jnp.zeros((2000, 1))]}
    noisy = release(jax.random.key(0), zero)
    assert jax.tree.structure(noisy) == jax.tree.structure(zero)
    for leaf, old in zip(jax.tree.leaves(noisy), jax.tree.leaves(zero), strict=True):
        assert leaf.shape == old.shape
        assert leaf.dtype == old.dtype
        assert_has_stddev(leaf, stddev)


@pytest.mark.parametrize("name", RELEASES)
def test_noise_has_its_scale_over_keys_and_is_added_to_the_value(name):
    release, stddev = RELEASES[name]
    value = {"a": jnp.float32(0.5), "b": jnp.array([1.0, -1.0, 0.0])}
    keys = jax.random.split(jax.random.key(1), 3000)
    noisy = jax.jit(jax.vmap(lambda key: release(key, value)))(keys)
    columns = np.column_stack(
        [noisy["a"] - value["a"], np.asarray(noisy["b"] - value["b"])]
    )
    for column in columns.T:
        assert_has_stddev(column, stddev)
    correlation = np.corrcoef(columns.T) - np.eye(4)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(len(columns))


@pytest.mark.parametrize("name", RELEASES)
def test_noise_is_independent_across_leaves_and_across_keys(name):
    release, _ = RELEASES[name]
    zero = [jnp.zeros(4000), jnp.zeros(4000), jnp.zeros((4000, 1))]
    keys = [jax.random.key(5), *jax.random.split(jax.random.key(5), 2)]
    noise = np.array([np.ravel(leaf) for key in keys for leaf in release(key, zero)])
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4000)
    again = np.array([np.ravel(leaf) for leaf in release(keys[0], zero)])
    np.testing.assert_array_equal(again, noise[:3])


@pytest.mark.parametrize("name", RELEASES)
def test_noise_is_not_half_a_percent_low_nor_clipped(name):
    """Half a percent of the scale is 14 deviations of the variance of this many."""
    release, stddev = RELEASES[name]
    key = jax.random.key(11)
    noise = np.asarray(jax.jit(release)(key, jnp.zeros(4_000_000)), np.float64) / stddev
    assert abs(np.mean(noise**2) - 1) < 5 * np.sqrt(2 / noise.size)
    for level in (2.0, 3.3, 4.0, 4.5):
        mean = noise.size * scipy.stats.norm.sf(level)
        for count in ((noise > level).sum(), (noise < -level).sum()):
            assert abs(count - mean) < 5 * np.sqrt(mean)


@pytest.mark.exhaustive  # the contract's tails: test_training_mutants
def test_noise_falls_where_that_of_23_bits_never_does():
    """Beyond 5.3 deviations, where a threshold told neighbours apart for certain."""
    mechanism = dp.gaussian(1.0, 0.5)
    num_releases, size = 128, 2**20

    def beyond(key):
        released = mechanism.privatize(key, (), jnp.zeros(size), 1.0)[0]
        return jnp.sum(released > 2.647), jnp.sum(released < -2.647)

    keys = jax.random.split(jax.random.key(12), num_releases)
    counts = jax.jit(lambda keys: jax.lax.map(beyond, keys))(keys)
    mean = num_releases * size * scipy.stats.norm.sf(2.647 / 0.5)
    for count in counts:
        assert 1e-4 < scipy.stats.poisson.cdf(int(count.sum()), mean) < 1 - 1e-4


def test_local_noise_is_on_top_of_the_clipped_update():
    update = {"w": jnp.full(5000, 10.0)}
    sent = noise_of_local(jax.random.key(2), update)["w"]
    clipped, _ = dp.clip_by_global_norm(update, CLIP)
    assert_has_stddev(sent - clipped["w"], NOISE * CLIP)
    # And nothing more on the server.
    mechanism = dp.local_gaussian(CLIP, NOISE)
    total, state = mechanism.privatize(jax.random.key(3), (), {"w": sent}, 100.0)
    np.testing.assert_array_equal(total["w"], sent)
    assert state == mechanism.init(KEY, ())


def test_gaussian_clips_without_noise():
    mechanism = dp.gaussian(CLIP, NOISE)
    update = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([40.0])}
    sent = mechanism.clip(jax.random.key(0), mechanism.init(KEY, ()), update)
    np.testing.assert_allclose(sent["a"], [1.5, 0], rtol=1e-6)
    np.testing.assert_allclose(sent["b"], [2.0], rtol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("sensitivity", [1.0, float("inf")])
def test_no_noise_and_no_clip_change_no_bit(name, sensitivity):
    mechanism = BUILDERS[name](float("inf"), 0.0)
    tree = {"a": jax.random.normal(jax.random.key(0), (50,)), "b": jnp.float32(1e30)}
    state = mechanism.init(KEY, ())
    released, _ = mechanism.privatize(jax.random.key(1), state, tree, sensitivity)
    assert jax.tree.map(bytes_of, released) == jax.tree.map(bytes_of, tree)
    small = {"a": tree["a"], "b": jnp.float32(3)}
    sent = mechanism.clip(jax.random.key(1), state, small)
    assert jax.tree.map(bytes_of, sent) == jax.tree.map(bytes_of, small)


def bytes_of(leaf) -> bytes:
    return np.asarray(leaf).tobytes()


def test_no_privacy_changes_nothing_and_promises_nothing():
    mechanism = dp.no_privacy()
    bad = {"a": jnp.array([jnp.nan, 1e30])}
    assert mechanism.clip(jax.random.key(0), (), bad) is bad
    assert mechanism.privatize(jax.random.key(0), (), bad, 1.0) == (bad, ())
    event = mechanism.event(sampling.poisson(100, 0.1), 9)
    assert event == base.PrivacyEvent(
        dp_accounting.NonPrivateDpEvent(), "add_or_remove_one", None, 100
    )
    assert mechanism.privacy_unit is None
    assert mechanism.norm_bound(mechanism.init(KEY, ())) == float("inf")


@pytest.mark.parametrize("name", BUILDERS)
def test_traced_hyperparameters_give_the_same_noise(name):
    def release(clip_norm, noise_multiplier):
        mechanism = BUILDERS[name](clip_norm, noise_multiplier)
        key, state = jax.random.key(4), mechanism.init(KEY, ())
        sent = mechanism.clip(key, state, jnp.arange(8.0))
        return mechanism.privatize(key, state, sent, mechanism.norm_bound(state))[0]

    points = jnp.array([[2.5, 0.7], [1.0, 0.0], [jnp.inf, 0.0]])
    together = jax.jit(jax.vmap(lambda point: release(*point)))(points)
    for point, row in zip(points.tolist(), together, strict=True):
        np.testing.assert_allclose(row, release(*point), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together[2], jnp.arange(8.0))


GAUSSIAN = dp_accounting.GaussianDpEvent
SAMPLERS = {
    "everyone": (sampling.everyone(1000), "add_or_remove_one", GAUSSIAN(0.7)),
    "poisson": (
        sampling.poisson(1000, 0.05),
        "add_or_remove_one",
        events.failing(dp_accounting.PoissonSampledDpEvent(0.05, GAUSSIAN(0.7)), 1e-18),
    ),
    "fixed_size": (
        sampling.fixed_size(1000, 50),
        "replace_one",
        # Replacing moves the sum by twice the clip norm.
        dp_accounting.SampledWithoutReplacementDpEvent(1000, 50, GAUSSIAN(0.35)),
    ),
}


@pytest.mark.parametrize("unit", ["client", "example"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_event_follows_the_sampler(name, unit):
    sampler, relation, expected = SAMPLERS[name]
    mechanism = dp.gaussian(CLIP, NOISE, privacy_unit=unit)
    assert mechanism.event(sampler, 1) == base.PrivacyEvent(
        expected, relation, unit, 1000
    )
    composed = dp_accounting.SelfComposedDpEvent(expected, 7)
    assert mechanism.event(sampler, 7).event == composed
    assert mechanism.privacy_unit is not None
    assert mechanism.norm_bound(mechanism.init(KEY, ())) == CLIP


@pytest.mark.parametrize("name", SAMPLERS)
def test_local_privacy_is_never_amplified(name):
    sampler = SAMPLERS[name][0]
    event = dp.local_gaussian(CLIP, NOISE).event(sampler, 1)
    # It is paid for by those who take part, whom everybody sees.
    share = sampler.expected_cohort / 1000
    taken = events.participating(share, GAUSSIAN(0.35))
    assert event == base.PrivacyEvent(taken, "replace_one", "client", 1000)


@pytest.mark.parametrize("name", BUILDERS)
def test_without_noise_nothing_is_promised(name):
    event = BUILDERS[name](CLIP, 0.0).event(SAMPLERS["poisson"][0], 1).event
    assert event == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("clip_norm", "noise_multiplier", "message"),
    [
        (1.0, -0.1, r"noise_multiplier must be finite and not negative, got -0\.1"),
        (1.0, float("nan"), "noise_multiplier must be .*, got nan"),
        (1.0, float("inf"), "noise_multiplier must be .*, got inf"),
        (0.0, 1.0, r"clip_norm must be positive, got 0\.0"),
        (-1.0, 1.0, r"clip_norm must be positive, got -1\.0"),
        (float("nan"), 1.0, "clip_norm must be positive, got nan"),
        (float("inf"), 0.5, r"noise_multiplier 0\.5 needs a finite clip_norm, got inf"),
    ],
)
def test_bad_arguments(name, clip_norm, noise_multiplier, message):
    with pytest.raises(ValueError, match=message):
        BUILDERS[name](clip_norm, noise_multiplier)


def test_unknown_privacy_unit():
    with pytest.raises(
        ValueError, match=r"unknown privacy_unit 'user'.*client, example"
    ):
        dp.gaussian(1.0, 1.0, privacy_unit="user")


@pytest.mark.parametrize(
    "draw",
    [
        lambda like: jnp.float32(1.0),
        lambda like: {"w": jnp.float32(1.0)},
        lambda like: {"w": jnp.ones(1)},
        lambda like: {"w": jnp.ones(3, jnp.float16)},
        lambda like: None,
    ],
)
def test_noise_that_coordinates_share_is_refused(draw):
    mechanism = dp.additive(
        clipping.flat(1.0),
        lambda key, like, sensitivity: draw(like),
        lambda change: events.gaussian(1.0 / change),
        norm_bound=1.0,
    )
    with pytest.raises(ValueError, match="one draw for every coordinate"):
        mechanism.privatize(jax.random.key(0), (), {"w": jnp.zeros(3)}, 1.0)
