"""Cohorts in turn: how far apart everybody's rounds are."""

import itertools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp, federated
from ppml_lab.dp import accounting

ROUNDS = 200


def members(sampler, cohorts):
    """Who took part, `[..., rounds, population]`."""
    assert (np.asarray(cohorts.weights) == 1).all()
    return np.asarray(jax.nn.one_hot(cohorts.indices, sampler.population)).sum(-2)


def check_pattern(sampler, took_part):
    """Nobody comes sooner, or more often, than is stated."""
    num_rounds = len(took_part)
    pattern = sampler.participation(num_rounds)
    assert took_part.max() == 1
    assert took_part.sum(0).max() <= pattern.max_participations
    for gap in range(1, pattern.min_separation):
        assert not (took_part[gap:] * took_part[:-gap]).any()


exhaustive = pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("population", "cohort_size"),
    [
        (23, 4),
        *(pytest.param(*sizes, marks=exhaustive) for sizes in ((20, 4), (9, 9))),
        *(pytest.param(*sizes, marks=exhaustive) for sizes in ((7, 5), (5, 1))),
    ],
)
def test_separation_holds_over_200_rounds_of_three_points_and_a_stop(
    population, cohort_size
):
    sampler = federated.min_separation(population, cohort_size)
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    @jax.vmap
    def run(state):
        def one(state, number):
            cohort, after = sampler.sample(jax.random.key(number), state)
            return after, (cohort, state)

        return jax.lax.scan(one, state, jnp.arange(ROUNDS))[1]

    cohorts, states = run(jax.vmap(sampler.init)(keys))
    took_part = members(sampler, cohorts)
    for own in took_part:
        check_pattern(sampler, own)
        # As often as stated, and everybody else but once less.
        counts = own.sum(0)
        assert counts.max() == sampler.participation(ROUNDS).max_participations
        assert counts.max() - counts.min() <= 1
    # Stated separations are the true ones, and not one too many.
    least = min(
        np.diff(np.flatnonzero(own[:, member])).min()
        for own, member in itertools.product(took_part, range(population))
    )
    assert least == sampler.participation(ROUNDS).min_separation
    if cohort_size < population:
        assert (took_part[0] != took_part[1]).any()
    # A state that was on a disk goes on where it was.
    halfway = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:, 77]), states)
    after, _ = run(halfway)
    np.testing.assert_array_equal(after.indices[:, :-77], cohorts.indices[:, 77:])


def test_what_it_states():
    sampler = federated.min_separation(23, 4)
    assert tuple(sampler.participation(1)) == ("member", 5, 1, None)
    assert tuple(sampler.participation(6)) == ("member", 5, 2, None)
    # 40 of 23 places: some come twice, none three times in ten rounds.
    assert sampler.participation(10).max_participations == 2
    assert sampler.participation(12).max_participations == 3
    assert (sampler.expected_cohort, sampler.max_cohort) == (4.0, 4)
    assert sampler.neighboring_relation == "zero_out"
    release = dp_accounting.GaussianDpEvent(1.3)
    assert sampler.amplify(release) == release
    assert federated.min_separation(9, 9).participation(3).sampling_prob == 1


def test_noise_of_ones_own_costs_as_many_turns_as_anyone_has():
    """Coins of the same chance may come up more often, and cost more."""
    turns, mechanism = federated.min_separation(20, 2), dp.local_gaussian(0.5, 4.0)
    whole = mechanism.event(turns, 10)
    once = mechanism.event(federated.everyone(20), 1)
    for accountant in ("rdp", "pld"):
        epsilon = accounting.epsilon(whole, 0.01, accountant)
        assert epsilon == pytest.approx(accounting.epsilon(once, 0.01, accountant))
    by_coins = mechanism.event(federated.poisson(20, 0.1), 10)
    assert accounting.epsilon(by_coins, 0.01, "pld") > 1.2 * epsilon
    assert accounting.epsilon_server(whole, 0.01) == pytest.approx(epsilon)


@exhaustive
def test_orders_of_runs_are_random():
    """Every member is as often in the first cohort as any other."""
    sampler = federated.min_separation(12, 3)

    def first(key):
        return sampler.sample(key, sampler.init(key))[0].indices

    drawn = jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(1), 4000))
    counts = np.bincount(np.asarray(drawn).reshape(-1), minlength=12)
    assert ((counts - 1000) ** 2).sum() / 750 < 33  # 1e-3, of 11 degrees, and fewer


def test_sizes_that_cannot_be_are_named():
    federated.min_separation(20, 4, 5)
    for arguments, message in (
        ((20, 4, 6), "separation 6 times cohort_size 4 is 24, more than .*20"),
        ((20, 21), "cohort_size 21 is 21, more than the population 20"),
        ((0, 1), "population must lie in"),
        ((20, 0), "cohort_size must be an integer of at least 1"),
        ((20, 2, 0), "separation must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            federated.min_separation(*arguments)
    with pytest.raises(ValueError, match="state must be a Turn"):
        federated.min_separation(5, 1).sample(jax.random.key(0), ())
