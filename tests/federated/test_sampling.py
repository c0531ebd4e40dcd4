"""Samplers: who is drawn, how often, and what that does to a round's event."""

import functools
import itertools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import federated, random
from ppml_lab.dp import events
from ppml_lab.federated import sampling

GAUSSIAN = dp_accounting.GaussianDpEvent(1.3)
POPULATION, DRAWS = 12, 4000
SIGNIFICANCE = 1e-4  # of tests on fixed keys: they pass or fail for good


def drawn_by(sampler):
    return lambda key: sampler.sample(key, ())[0]


def draw(sampler, num_draws=DRAWS, seed=0):
    """Cohorts of `num_draws` rounds, and who was in them as `[draws, population]`."""
    keys = jax.random.split(jax.random.key(seed), num_draws)
    cohorts = jax.tree.map(np.asarray, jax.jit(jax.vmap(drawn_by(sampler)))(keys))
    members = np.zeros((num_draws, sampler.population), int)
    for row, indices, weights in zip(members, *cohorts, strict=True):
        np.add.at(row, indices[weights > 0], 1)
    return cohorts, members


def test_everyone_takes_part_once_in_every_round():
    sampler = federated.everyone(POPULATION)
    cohort = sampler.sample(jax.random.key(0), ())[0]
    np.testing.assert_array_equal(cohort.indices, np.arange(POPULATION))
    np.testing.assert_array_equal(cohort.weights, np.ones(POPULATION))
    assert (sampler.expected_cohort, sampler.max_cohort) == (POPULATION, POPULATION)
    assert sampler.amplify(GAUSSIAN) == GAUSSIAN
    assert sampler.neighboring_relation == "add_or_remove_one"


@pytest.mark.parametrize(
    "sampler",
    [
        federated.everyone(POPULATION),
        federated.fixed_size(POPULATION, 5),
        federated.poisson(POPULATION, 0.3),
        federated.poisson(5000, 1e-3),
    ],
)
def test_cohorts_have_a_static_shape_and_distinct_members(sampler):
    (indices, weights), members = draw(sampler, 50)
    assert indices.shape == weights.shape == (50, sampler.max_cohort)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    assert indices.min() >= 0
    assert indices.max() < sampler.population
    assert members.max() == 1
    np.testing.assert_array_equal(members.sum(1), weights.sum(1))


@pytest.mark.parametrize(("population", "cohort_size"), [(5, 2), (8, 4)])
def test_fixed_size_is_exact_and_uniform_over_subsets(population, cohort_size):
    sampler = federated.fixed_size(population, cohort_size)
    _, members = draw(sampler)
    assert set(members.sum(1)) == {cohort_size}
    subsets = members @ (1 << np.arange(population))
    counts = np.unique(subsets, return_counts=True)[1]
    assert len(counts) == math.comb(population, cohort_size)
    assert scipy.stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_fixed_size_draws_members_and_pairs_of_a_large_population_evenly():
    population, cohort_size = 400, 20
    _, members = draw(federated.fixed_size(population, cohort_size))
    taken = members.sum(0)
    # Negatively correlated counts: a chi-square with a known scale.
    spread = DRAWS * (cohort_size / population) * (1 - cohort_size / population)
    statistic = ((taken - taken.mean()) ** 2).sum() / spread
    tails = scipy.stats.chi2(population - 1).cdf(statistic)
    assert SIGNIFICANCE < tails < 1 - SIGNIFICANCE
    # Two rounds share 20 * 20 / 400 members on average, hypergeometrically.
    shared = (members[1:] * members[:-1]).sum(1)
    sizes = (population, cohort_size, cohort_size)
    below = scipy.stats.hypergeom.pmf(np.arange(4), *sizes)
    observed = np.bincount(np.minimum(shared, 4), minlength=5)
    expected = len(shared) * np.append(below, 1 - below.sum())
    assert scipy.stats.chisquare(observed, expected).pvalue > SIGNIFICANCE


def test_fixed_size_of_everybody_leaves_nobody_out():
    sampler = federated.fixed_size(POPULATION, POPULATION)
    _, members = draw(sampler, 10)
    assert members.min() == 1
    assert sampler.amplify(GAUSSIAN) == GAUSSIAN


@pytest.mark.parametrize("prob", [0.05, 0.4, 0.9])
def test_poisson_draws_each_member_at_its_probability(prob):
    sampler = federated.poisson(POPULATION, prob)
    assert sampler.expected_cohort == pytest.approx(POPULATION * prob)
    _, members = draw(sampler)
    for count in members.sum(0):
        test = scipy.stats.binomtest(int(count), DRAWS, prob)
        assert test.pvalue > SIGNIFICANCE / POPULATION
    # Sizes are binomial, which those of a fixed or clipped cohort are not.
    sizes = np.bincount(members.sum(1), minlength=POPULATION + 1)
    expected = DRAWS * scipy.stats.binom.pmf(
        np.arange(POPULATION + 1), POPULATION, prob
    )
    common = expected > 5
    observed = np.append(sizes[common], sizes[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert scipy.stats.chisquare(observed, wanted).pvalue > SIGNIFICANCE


def test_poisson_members_are_independent_of_each_other_and_over_rounds():
    _, members = draw(federated.poisson(POPULATION, 0.4))
    limit = scipy.stats.norm.isf(SIGNIFICANCE / POPULATION**2) / np.sqrt(DRAWS)
    between = np.corrcoef(members.T) - np.eye(POPULATION)
    assert np.abs(between).max() < limit
    over_rounds = np.corrcoef(members[:-1].T, members[1:].T)[:POPULATION, POPULATION:]
    assert np.abs(over_rounds).max() < limit


@pytest.mark.parametrize("num_devices", [2, 4])
@pytest.mark.parametrize(
    ("population", "prob"), [(5, 0.5), (1000, 0.03), (13, 1.0), (200_000, 1e-5)]
)
def test_devices_toss_their_own_members_coins_to_the_same_cohort(
    num_devices, population, prob
):
    mesh = federated.client_mesh(num_devices)
    alone, shared = (
        jax.jit(jax.vmap(drawn_by(federated.poisson(population, prob, mesh))))
        for mesh in (None, mesh)
    )
    keys = jax.random.split(jax.random.key(2), 20)
    one, other = alone(keys), shared(keys)
    np.testing.assert_array_equal(one.weights, other.weights)
    present = np.asarray(one.weights) > 0
    np.testing.assert_array_equal(one.indices[present], other.indices[present])


@pytest.mark.parametrize("length", [1000, 2560, 5001])
@pytest.mark.parametrize("prob", [0.0005, 0.01])
def test_few_among_many_are_found_without_an_array_of_all(length, prob):
    @functools.partial(jax.jit, static_argnums=1)
    def both(seed, max_cohort):
        def tossed(members):
            return sampling._coins(seed, members, prob) & (members < length)

        everybody = jnp.arange(length, dtype=jnp.int32)
        return (
            sampling._few_drawn(tossed, length, max_cohort),
            sampling.drawn_to_cohort(tossed(everybody), max_cohort),
        )

    # Also cut off where there are more than fit.
    for number, max_cohort in itertools.product(range(20), (3, 100)):
        seed = jnp.array([number, 7], jnp.uint32)
        jax.tree.map(np.testing.assert_array_equal, *both(seed, max_cohort))


def test_coins_are_64_bits_fine():
    members = jnp.arange(2**16, dtype=jnp.int32)
    seed = jnp.array([3, 4], jnp.uint32)
    high, low = random.threefry2x32(seed, jnp.zeros_like(members), members)
    words = [int(a) << 32 | int(b) for a, b in zip(high, low, strict=True)]
    # The rarest member joins at the next larger probability, and not before.
    rarest = int(np.argmin(words))
    assert words[rarest] < 2**53
    for numerator, joins in [(words[rarest], False), (words[rarest] + 1, True)]:
        prob = numerator / 2**64
        assert bool(sampling._coins(seed, members, prob)[rarest]) is joins


def test_a_key_fixes_the_cohort():
    sampler = federated.poisson(POPULATION, 0.4)
    one, two = (sampler.sample(jax.random.key(1), ())[0] for _ in range(2))
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.weights, two.weights)


@pytest.mark.parametrize(
    ("population", "prob"), [(1, 0.5), (10, 1e-6), (100, 0.1), (2000, 5e-3), (50, 1.0)]
)
@pytest.mark.parametrize("overflow", [1e-18, 1e-12, 1e-40])
def test_poisson_outgrows_its_arrays_as_rarely_as_it_says(population, prob, overflow):
    sampler = federated.poisson(population, prob, overflow_prob=overflow)
    limit = sampler.max_cohort
    assert 1 <= limit <= population
    # Not even a sample that just fills them: accounting counts it as a failure.
    assert scipy.stats.binom.sf(limit - 1, population, prob) <= overflow or (
        limit == population
    )
    # And they are no longer than needed.
    if limit > 1:
        assert scipy.stats.binom.sf(limit - 2, population, prob) > overflow
    assert overflow != 1e-18 or limit == federated.poisson(population, prob).max_cohort


def test_the_places_of_a_published_population():
    """McMahan et al., ICLR 2018: 763,430 users, 5,000 in a round, delta 1e-9."""
    limit = sampling.largest_poisson_sample(763_430, 5000 / 763_430)
    assert 5600 <= limit <= 5660


@pytest.mark.parametrize(
    "number",
    [np.float32(0.1), np.float64(0.1), jnp.float32(0.1), np.array(0.1), 0.1],
    ids=lambda number: type(number).__name__,
)
def test_a_probability_may_be_of_any_type(number):
    sampler = federated.poisson(100, number)
    plain = federated.poisson(100, float(number))
    key = jax.random.key(2)
    drawn, expected = (drawn_by(s)(key) for s in (sampler, plain))
    np.testing.assert_array_equal(drawn.weights, expected.weights)
    assert sampler.amplify(GAUSSIAN) == plain.amplify(GAUSSIAN)
    assert type(sampler.expected_cohort) is float


def test_a_traced_probability_is_refused():
    with pytest.raises(
        ValueError, match="sampling_prob must be known when the sampler"
    ):
        jax.jit(lambda prob: federated.poisson(100, prob).expected_cohort)(0.1)


def test_members_drawn_are_padded_or_cut_off():
    drawn = jnp.array([False, True, False, True, True])
    padded = sampling.drawn_to_cohort(drawn, 4)
    np.testing.assert_array_equal(padded.indices[:3], [1, 3, 4])
    np.testing.assert_array_equal(padded.weights, [1, 1, 1, 0])
    cut = sampling.drawn_to_cohort(drawn, 2)
    np.testing.assert_array_equal(cut.indices, [1, 3])
    np.testing.assert_array_equal(cut.weights, [1, 1])
    nobody = sampling.drawn_to_cohort(jnp.zeros(5, bool), 3)
    np.testing.assert_array_equal(nobody.weights, np.zeros(3))


def test_events_are_those_of_dp_accounting():
    poisson = federated.poisson(100, 0.05)
    sampled = dp_accounting.PoissonSampledDpEvent(0.05, GAUSSIAN)
    assert poisson.amplify(GAUSSIAN) == events.failing(sampled, 1e-18)
    rare = federated.poisson(100, 0.05, overflow_prob=1e-30)
    assert rare.amplify(GAUSSIAN) == events.failing(sampled, 1e-30)
    # Where the arrays hold everybody nothing is ever cut.
    assert federated.poisson(5, 0.05).amplify(GAUSSIAN) == sampled
    assert poisson.neighboring_relation == "add_or_remove_one"
    fixed = federated.fixed_size(100, 7)
    assert fixed.amplify(GAUSSIAN) == dp_accounting.SampledWithoutReplacementDpEvent(
        100, 7, GAUSSIAN
    )
    assert fixed.neighboring_relation == "replace_one"
    assert fixed.expected_cohort == 7.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: federated.everyone(0), "population"),
        (lambda: federated.fixed_size(5, 6), "cohort_size 6 is larger"),
        (lambda: federated.fixed_size(5, 0), "cohort_size"),
        (lambda: federated.poisson(0, 0.5), "population"),
        (lambda: federated.poisson(5, 0.0), "sampling_prob"),
        (lambda: federated.poisson(5, -0.1), "sampling_prob"),
        (lambda: federated.poisson(5, 1.01), "sampling_prob"),
        (lambda: federated.poisson(5, float("nan")), "sampling_prob"),
        (lambda: federated.poisson(5, 0.5, overflow_prob=0.0), "overflow_prob"),
        (lambda: federated.poisson(5, 0.5, overflow_prob=1.0), "overflow_prob"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_traced_size_draws_the_first_of_a_larger_cohort():
    def draw(size):
        return federated.fixed_size(50, size, max_cohort=9).sample(
            jax.random.key(3), ()
        )[0]

    whole = federated.fixed_size(50, 9).sample(jax.random.key(3), ())[0]
    for size in (1, 4, 9):
        indices, weights = jax.jit(draw)(jnp.float32(size))
        np.testing.assert_array_equal(indices, whole.indices)
        np.testing.assert_array_equal(weights, np.arange(9) < size)
    with pytest.raises(ValueError, match="cohort_size 10 is larger than max_cohort 9"):
        draw(10)
    with pytest.raises(ValueError, match="traced cohort_size needs max_cohort"):
        jax.jit(lambda size: federated.fixed_size(50, size).expected_cohort)(3.0)
