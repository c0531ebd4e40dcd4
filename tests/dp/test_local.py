"""Local mechanisms: bounds, the right noise and no other, probabilities, means."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import dp, federated, random
from ppml_lab.dp import accounting, local

KEYS = jax.random.split(jax.random.key(5), 20_000)


def sent(mechanism, update, keys=KEYS):
    return jax.vmap(mechanism.clip, in_axes=(0, None, None))(keys, (), update)


def test_laplace_clips_in_l1():
    silent = dp.local_laplace(1.5, 1e-9)
    update = {"a": jnp.array([3.0, -1.0]), "b": jnp.array(2.0)}
    found = silent.clip(KEYS[0], (), update)
    np.testing.assert_allclose(found["a"], [0.75, -0.25], rtol=1e-6)
    np.testing.assert_allclose(found["b"], 0.5, rtol=1e-6)
    small = {"a": jnp.array([0.5, -0.5]), "b": jnp.array(0.25)}
    found = silent.clip(KEYS[0], (), small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, small)


def test_laplace_noise_has_the_stated_scale_and_no_other():
    clip_norm, noise_multiplier = 0.5, 3.0
    mechanism = dp.local_laplace(clip_norm, noise_multiplier)
    noise = np.asarray(sent(mechanism, jnp.zeros(2)))
    scale = clip_norm * noise_multiplier
    for column in noise.T:
        assert scipy.stats.kstest(column, "laplace", (0, scale)).pvalue > 1e-4
        for wrong in (2 / 3, 3 / 2):
            law = (0, wrong * scale)
            assert scipy.stats.kstest(column, "laplace", law).pvalue < 1e-9
    assert abs(np.corrcoef(*noise.T)[0, 1]) < 0.03


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_update_is_noise_alone(bad):
    mechanism = dp.local_laplace(0.5, 1.0)
    key = KEYS[1]
    found = mechanism.clip(key, (), jnp.array([1.0, bad]))
    expected = mechanism.clip(key, (), jnp.zeros(2))
    np.testing.assert_array_equal(found, expected)
    answer = dp.randomised_response(1.0, 1.0).clip(key, (), jnp.array([1.0, bad]))
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("target_epsilon", [0.5, 2.0])
def test_randomised_response_lies_as_often_as_stated(target_epsilon):
    mechanism = dp.randomised_response(2.0, target_epsilon)
    answers = np.asarray(sent(mechanism, jnp.array([2.0, 2.0, 2.0])))
    assert (np.count_nonzero(answers, axis=1) == 1).all()
    places = np.bincount(np.abs(answers).argmax(1), minlength=3)
    assert scipy.stats.chisquare(places).pvalue > 1e-4
    honest = np.exp(target_epsilon) / (1 + np.exp(target_epsilon))
    found = int((answers.sum(1) > 0).sum())
    assert scipy.stats.binomtest(found, len(KEYS), honest).pvalue > 1e-4


@pytest.mark.parametrize("target_epsilon", [1e-3, 0.1, 1.0, 15.0, 17.0, 30.0, 40.0])
def test_lies_are_never_rarer_than_stated_and_hardly_more_frequent(target_epsilon):
    """Coins of 23 bits never lie from epsilon 16 on: no privacy at all."""
    lies = float(local._chance_of_lies(target_epsilon))
    assert lies <= 0.5
    stated = 1 / (1 + np.exp(target_epsilon))
    assert stated <= lies <= stated * (1 + 1e-5)
    traced = jax.jit(local._chance_of_lies)(jnp.float32(target_epsilon))
    assert stated <= float(traced) <= stated * (1 + 1e-5)


@pytest.mark.parametrize("target_epsilon", [50.0, 700.0, 1e4])
def test_lies_remain_at_any_epsilon(target_epsilon):
    assert float(local._chance_of_lies(target_epsilon)) == 2.0**-64


def test_laplace_noise_reaches_beyond_23_bits():
    """Noise of float32 uniforms ends at 15.9 scales."""
    silent = dp.local_laplace(1.0, 2.0)
    noise = jax.jit(silent.clip)(KEYS[0], (), jnp.zeros(4_000_000))
    sizes = np.abs(np.asarray(noise, np.float64)) / 2
    assert abs(sizes.mean() - 1) < 5 / 2000
    for level in (3.3, 6.0, 9.0):
        mean = 4e6 * np.exp(-level)
        assert abs((sizes > level).sum() - mean) < 5 * np.sqrt(mean)
    assert random.LAPLACE_CUT > 43


def test_no_update_changes_an_answers_probability_by_more_than_epsilon():
    mechanism = dp.randomised_response(1.0, 1.0)
    extremes = [jnp.array([1.0, -1.0]), jnp.array([-1.0, 1.0]), jnp.array([9.0, 0.3])]
    laws = []
    for update in extremes:
        answers = np.asarray(sent(mechanism, update))
        kinds = [(answers[:, i] * s > 0).mean() for i in (0, 1) for s in (1, -1)]
        laws.append(np.array(kinds))
    worst = max((a / b).max() for a in laws for b in laws)
    assert 0.85 * np.e < worst < 1.15 * np.e


def test_answers_are_the_bounded_update_on_average():
    update = {"a": jnp.array([0.3, -0.8]), "b": jnp.array(5.0)}
    answers = sent(dp.randomised_response(1.0, 3.0), update)
    means = np.array([*answers["a"].mean(0), answers["b"].mean()])
    spread = np.std(np.asarray(answers["b"])) / np.sqrt(len(KEYS))
    np.testing.assert_allclose(means, [0.3, -0.8, 1.0], atol=5 * spread)


def test_short_floats_are_clipped_in_l1_and_noised_in_float32():
    """In float16 the L1 norm of these overflows, and in bfloat16 it is 1/256 off."""
    clip_norm = 1.5
    mechanism = dp.local_laplace(clip_norm, 1e-9)
    for dtype, value in ((jnp.float16, 60.0), (jnp.bfloat16, 0.01)):
        sent = mechanism.clip(KEYS[0], (), jnp.full(2000, value, dtype))
        assert sent.dtype == jnp.float32
        total = np.abs(np.asarray(sent, np.float64)).sum()
        np.testing.assert_allclose(total, clip_norm, rtol=1e-5)


@pytest.mark.parametrize("bad", [1e-39, 1e39])
def test_numbers_that_float32_cannot_hold_are_refused(bad):
    got = re.escape(f"got {bad}")
    for build in (dp.gaussian, dp.local_gaussian, dp.local_laplace):
        with pytest.raises(ValueError, match=rf"clip_norm must lie in .*{got}"):
            build(bad, 1.0)
        with pytest.raises(ValueError, match=rf"noise_multiplier must lie in .*{got}"):
            build(1.0, bad)
        root = float(np.sqrt(bad))
        with pytest.raises(ValueError, match="noise stddev that float32 cannot hold"):
            build(root, root)
    with pytest.raises(ValueError, match=rf"max_abs must lie in .*{got}"):
        dp.randomised_response(bad, 1.0)
    with pytest.raises(ValueError, match=r"target_epsilon must lie in .*1e-09"):
        dp.randomised_response(1.0, 1e-9)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_bad_numbers(bad):
    for build, names in (
        (dp.local_laplace, ("clip_norm", "noise_multiplier")),
        (dp.randomised_response, ("max_abs", "target_epsilon")),
    ):
        for place, name in enumerate(names):
            arguments = [1.0, 1.0]
            arguments[place] = bad
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                build(*arguments)


def test_epsilon_of_one_and_of_many_participations():
    """One participation costs what it says as delta goes to 0, whoever else is in."""
    sampler = federated.poisson(100, 0.1)
    for mechanism, pure in (
        (dp.local_laplace(0.5, 4.0), 0.5),
        (dp.randomised_response(0.5, 0.5), 0.5),
    ):
        once = mechanism.event(sampler, 1)
        assert (once.neighboring_relation, once.privacy_unit) == (
            "replace_one",
            "client",
        )
        assert 0.3 < accounting.epsilon(once, 1e-12) <= pure
        many = mechanism.event(federated.everyone(100), 100)
        # Advanced composition beats adding up.
        assert pure < accounting.epsilon(many, 1e-5) < 0.7 * 100 * pure
        # And about a tenth of the rounds are a client's own.
        own = accounting.epsilon(mechanism.event(sampler, 100), 1e-5)
        assert pure < own < 0.7 * accounting.epsilon(many, 1e-5)


def test_randomised_response_has_no_bound_for_leaving():
    event = dp.randomised_response(1.0, 1.0).event(federated.everyone(3), 1)
    with pytest.raises(ValueError, match=r"under replace_one, .*; got"):
        accounting.epsilon(
            event._replace(neighboring_relation="add_or_remove_one"), 1e-5
        )
