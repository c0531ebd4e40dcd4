import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated
from ppml_lab.dp import accounting, events

KEY = jax.random.key(3)
DELTA = 1e-3


def epsilons(mechanism, num_releases):
    """What a mechanism reports after each release of a compiled run on zeros."""

    def release(state, number):
        key = jax.random.fold_in(KEY, number)
        bound = mechanism.norm_bound(state)
        _, state = mechanism.privatize(key, state, jnp.zeros(2), bound)
        return state, mechanism.report(state)["epsilon"]

    numbers = jnp.arange(num_releases)
    return jax.jit(lambda: jax.lax.scan(release, mechanism.init(KEY, ()), numbers)[1])()


def stated(mechanism, sampler, num_releases, delta=DELTA):
    return [
        accounting.epsilon(mechanism.event(sampler, count), delta)
        for count in range(1, num_releases + 1)
    ]


@pytest.mark.parametrize(
    ("sampler", "mechanism"),
    [
        (federated.everyone(500), dp.gaussian(1.0, 4.0)),
        (federated.poisson(500, 0.1), dp.gaussian(0.3, 0.8)),
        (
            federated.poisson(500, 0.05),
            dp.scheduled_gaussian(1.0, optax.exponential_decay(2.0, 1, 0.8)),
        ),
    ],
)
def test_it_is_what_accounting_states(sampler, mechanism):
    found = epsilons(dp.live(mechanism, sampler, DELTA), 6)
    np.testing.assert_allclose(found, stated(mechanism, sampler, 6), rtol=2e-4)


def test_long_runs_lose_nothing_to_rounding():
    sampler, mechanism = federated.poisson(500, 0.02), dp.gaussian(1.0, 3.0)
    found = epsilons(dp.live(mechanism, sampler, DELTA), 50_000)[-1]
    expected = accounting.epsilon(mechanism.event(sampler, 50_000), DELTA)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def with_noise_by_outcome(clip_norm):
    """Twice the noise after a negative first coordinate."""

    def noise(state):
        return jnp.where(state < 0, 2.0, 1.0)

    def privatize(key, state, total, sensitivity):
        noisy, _ = dp.gaussian(clip_norm, noise(state)).privatize(
            key, (), total, sensitivity
        )
        return noisy, noisy[0]

    return dp.gaussian(clip_norm, 1.0)._replace(
        init=lambda key, like: jnp.float32(0),
        privatize=privatize,
        noise_multiplier=noise,
    )


def test_noise_that_the_run_decides():
    sampler, mechanism = federated.poisson(500, 0.1), with_noise_by_outcome(1.0)
    live = dp.live(mechanism, sampler, DELTA)
    assert live.noise_multiplier is not None
    state, noises, found = live.init(KEY, ()), [], []
    for number in range(8):
        noises.append(float(live.noise_multiplier(state)))
        _, state = live.privatize(
            jax.random.fold_in(KEY, number), state, jnp.zeros(2), 1.0
        )
        found.append(live.report(state)["epsilon"])
    assert {1.0, 2.0} == set(noises)
    releases = [sampler.amplify(dp_accounting.GaussianDpEvent(z)) for z in noises]
    expected = [
        accounting.epsilon(
            base.PrivacyEvent(
                events.together(releases[:count]), "add_or_remove_one", "client"
            ),
            DELTA,
        )
        for count in range(1, 9)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_every_point_of_a_sweep_has_its_own():
    sampler = federated.poisson(500, 0.1)

    def last(noise):
        return epsilons(dp.live(dp.gaussian(1.0, noise), sampler, DELTA), 6)[-1]

    noises = jnp.array([0.7, 1.0, 3.0])
    expected = [stated(dp.gaussian(1.0, z), sampler, 6)[-1] for z in noises.tolist()]
    np.testing.assert_allclose(jax.jit(jax.vmap(last))(noises), expected, rtol=2e-4)
    assert last(0.0) == np.inf


def test_rounds_report_it(regression, clients):
    sampler = federated.poisson(5, 0.5)
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 3, num_epochs=1)
    adaptive = dp.adaptive_gaussian(0.5, 1.0, 2.5)
    for algorithm, steps in (
        (
            federated.averaging(
                regression, trainer, sampler, mechanism=adaptive, live_delta=0.1
            ),
            1,
        ),
        (
            federated.central_sgd(
                regression,
                optax.sgd(0.1),
                federated.poisson(18, 0.5),
                mechanism=dp.gaussian(0.5, 1.0, privacy_unit="example"),
                live_delta=0.05,
                steps_per_round=2,
                method="vmap",
            ),
            2,
        ),
    ):
        _, history = federated.simulate(KEY, algorithm, clients, 3)
        delta = 0.1 if steps == 1 else 0.05
        expected = [accounting.epsilon(algorithm.event(t), delta) for t in (1, 2, 3)]
        np.testing.assert_allclose(history["epsilon"], expected, rtol=2e-4)
        assert ("clip_norm" in history) == (steps == 1)


def test_noise_that_ends_uses_up_delta():
    sampler, mechanism = federated.poisson(100, 0.2), dp.gaussian(1.0, 0.22)
    delta = 2e-6
    found = epsilons(dp.live(mechanism, sampler, delta), 4)
    expected = stated(mechanism, sampler, 4, delta)
    assert np.isfinite(expected[0])
    assert np.isinf(expected[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_samples_cut_off_use_up_delta():
    sampler = federated.poisson(10_000, 0.001, overflow_prob=1e-12)
    mechanism = dp.gaussian(1.0, 2.0)
    found = epsilons(dp.live(mechanism, sampler, 3.5e-12), 6)
    expected = stated(mechanism, sampler, 3, delta=3.5e-12)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-3)
    assert np.isinf(found[3:]).all()


def test_its_event_is_that_of_its_own_sampler():
    live = dp.live(dp.gaussian(1.0, 1.0), federated.poisson(500, 0.1), DELTA)
    with pytest.raises(ValueError, match="not the sampler of the live"):
        live.event(federated.poisson(500, 0.2), 3)


@pytest.mark.parametrize(
    ("mechanism", "sampler", "delta", "message"),
    [
        (dp.no_privacy(), federated.everyone(5), 1e-3, "mechanism must release a sum"),
        (
            dp.local_laplace(1.0, 1.0),
            federated.everyone(5),
            1e-3,
            "mechanism must release a sum",
        ),
        (dp.gaussian(1.0, 1.0), federated.fixed_size(5, 2), 1e-3, "federated.poisson"),
        (dp.gaussian(1.0, 1.0), federated.fixed_size(5, 5), 1e-3, "federated.poisson"),
        (dp.gaussian(1.0, 1.0), federated.everyone(5), 1.0, "delta must lie"),
        (dp.gaussian(1.0, 1.0), federated.everyone(5), -0.1, "delta must lie"),
    ],
)
def test_bad_arguments_are_named(mechanism, sampler, delta, message):
    with pytest.raises(ValueError, match=message):
        dp.live(mechanism, sampler, delta)
