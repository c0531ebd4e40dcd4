"""Correlated noise against the matrix product, and its cost against all patterns."""

import itertools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp, federated, random
from ppml_lab.base import Participation
from ppml_lab.dp import accounting, events, strategies

KEY = jax.random.key(3)
CLIP, NOISE, ROUNDS = 0.5, 3.0, 12
BANDS = strategies.square_root(4)
BEST = 0.94642
"""The golden table's lambda, .946 there, of 1024 rounds, 16 of them anyone's."""
LIKE = {"b": jnp.zeros(3), "w": jnp.zeros((2, 4))}
TURNS = federated.min_separation(30, 5)


def inverse(parts, num_rounds):
    """C^-1 as a matrix."""
    row = np.zeros(num_rounds)
    row[: len(parts) + 1] = [1.0, *(-float(part) for part in parts)][:num_rounds]
    return np.array(
        [[row[i - j] if i >= j else 0 for j in range(num_rounds)]
         for i in range(num_rounds)]
    )  # fmt: skip


def fresh(state, num_rounds, place, size):
    """The noises of a leaf, by round, as the generator has them."""
    numbers = jnp.arange(num_rounds)
    seeds = random.child(state.seed, numbers, jnp.full(num_rounds, place))
    return np.asarray(random.normal(seeds, size), np.float64)


def matrix_product(state, parts, num_rounds):
    """`C^-1 z` in float64, by leaf."""
    return [
        inverse(parts, num_rounds) @ fresh(state, num_rounds, place, leaf.size)
        for place, leaf in enumerate(jax.tree.leaves(LIKE))
    ]


def released(mechanism, state, sensitivities):
    """Releases of nothing, and the states before them."""

    def release(state, sensitivity):
        noisy, after = mechanism.privatize(KEY, state, LIKE, sensitivity)
        return after, (noisy, state)

    return jax.lax.scan(release, state, sensitivities)[1]


def check_product(state, parts, found, scales):
    product = matrix_product(state, parts, len(scales))
    for leaf, expected in zip(jax.tree.leaves(found), product, strict=True):
        noise = np.asarray(leaf, np.float64).reshape(len(scales), -1)
        noise = noise / (NOISE * np.asarray(scales, np.float64)[:, None])
        np.testing.assert_allclose(noise, expected, atol=1e-5)


def test_noise_is_the_matrix_product_also_after_a_stop():
    mechanism = dp.correlated_gaussian(CLIP, NOISE, BANDS)
    run = jax.jit(lambda state, scales: released(mechanism, state, scales))
    first = mechanism.init(KEY, LIKE)
    # Rounds of a secure sum may round differently: noise keeps the round's own scale.
    scales = jnp.linspace(0.5, 0.7, ROUNDS)
    whole, states = run(first, scales)
    check_product(first, BANDS, whole, scales)
    kept = jax.tree.map(lambda leaf: np.asarray(leaf)[5], states)
    assert (kept.seed.dtype, kept.seed.shape, int(kept.releases)) == ("u4", (2,), 5)
    after, _ = run(jax.tree.map(jnp.asarray, kept), jnp.roll(scales, -5))
    for leaf, rest in zip(*map(jax.tree.leaves, (whole, after)), strict=True):
        np.testing.assert_array_equal(leaf[5:], rest[:-5])


def test_three_points_of_one_seed_are_vmapped():
    """Lambda is traced, so that one program has all of them."""
    lambdas = jnp.array([0.0, 0.5, 0.9])

    def run(subtracted):
        mechanism = dp.correlated_gaussian(CLIP, NOISE, subtracted)
        return released(mechanism, mechanism.init(KEY, LIKE), jnp.ones(ROUNDS))[0]

    found = jax.jit(jax.vmap(run))(lambdas)
    state = dp.correlated_gaussian(CLIP, NOISE, 0.0).init(KEY, LIKE)
    for place, subtracted in enumerate(lambdas):
        own = jax.tree.map(lambda leaf, at=place: leaf[at], found)
        check_product(state, (subtracted,), own, np.ones(ROUNDS))


@pytest.mark.exhaustive  # as dp.gaussian's, by the same lines
def test_without_noise_any_sensitivity_is_none():
    mechanism = dp.correlated_gaussian(math.inf, 0.0, 0.5)
    state = mechanism.init(KEY, LIKE)
    noisy, _ = mechanism.privatize(KEY, state, LIKE, math.inf)
    jax.tree.map(np.testing.assert_array_equal, noisy, LIKE)
    event = mechanism.event(TURNS, 3)
    assert accounting.epsilon(event, 1e-5) == math.inf


@pytest.mark.parametrize("parts", [(0.7,), BANDS, (0.0, 0.8)])
@pytest.mark.parametrize("size", [16, 64])
def test_the_strategy_is_the_inverse(parts, size):
    column = strategies.column(parts, size)
    first = inverse(parts, size) @ column
    np.testing.assert_allclose(first, np.eye(size)[0], atol=1e-12)


def by_brute_force(column, pattern):
    """The worst of all sets of rounds that a pattern allows, and a bound for any signs
    of contributions: sums of |C'C|.
    """
    n = len(column)
    strategy = [[column[i - j] if i >= j else 0 for j in range(n)] for i in range(n)]
    gram = np.abs(np.array(strategy).T @ np.array(strategy))
    worst = 0.0
    for count in range(1, pattern.max_participations + 1):
        for rounds in itertools.combinations(range(n), count):
            if all(np.diff(rounds) >= pattern.min_separation):
                worst = max(worst, gram[np.ix_(rounds, rounds)].sum())
    return math.sqrt(worst)


@pytest.mark.parametrize("parts", [(0.8,), BANDS, (0.1, 0.7)])
def test_sensitivity_is_the_worst_of_all_patterns(parts):
    """Off by one in the separation, or in the participations, is off by far."""
    column = strategies.column(parts, 9)
    is_decreasing = bool((np.diff(column) <= 0).all())
    assert is_decreasing == (parts != (0.1, 0.7))
    for apart, times in itertools.product((1, 2, 3, 4), (1, 2, 3, 9)):
        pattern = Participation("member", apart, times, None)
        found = strategies.sensitivity(column, pattern)
        worst = by_brute_force(column, pattern)
        assert found >= worst * (1 - 1e-12)
        if is_decreasing:
            assert found == pytest.approx(worst, rel=1e-12)


def losses(parts, pattern, num_rounds):
    """Sensitivity, and with it the largest and the root mean square error of prefix
    sums, over the noise multiplier of the run.
    """
    moved = strategies.sensitivity(strategies.column(parts, num_rounds), pattern)
    squares = np.cumsum(np.cumsum([1.0, *(-part for part in parts)]) ** 2)
    squares = np.append(squares, np.zeros(max(0, num_rounds - len(squares))))
    rest = 1 - sum(parts)
    squares[len(parts) + 1 :] = squares[len(parts)] + rest**2 * np.arange(
        1, num_rounds - len(parts)
    )
    squares = squares[:num_rounds]
    return moved, moved * squares[-1] ** 0.5, moved * squares.mean() ** 0.5


def golden(rounds, times, apart):
    return rounds, Participation("member", apart, times, None)


def test_golden_errors_of_published_strategies():
    """Of an independent implementation."""
    rounds, pattern = golden(1024, 16, 64)
    np.testing.assert_allclose(
        losses((0.0,), pattern, rounds), (4, 128, 90.5539), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses(strategies.square_root(64), pattern, rounds),
        (8.2333, 22.1232, 17.7287),
        rtol=1e-5,
    )
    found = losses((BEST,), pattern, rounds)[1:]
    np.testing.assert_allclose(found, (25.2640, 20.0050), rtol=2e-5)
    rounds, pattern = golden(2000, 10, 200)
    found = losses(strategies.square_root(200), pattern, rounds)[1:]
    np.testing.assert_allclose(found, (15.8711, 13.4063), rtol=1e-5)
    rounds, pattern = golden(128, 1, 128)
    found = losses(strategies.square_root(128), pattern, rounds)[1:]
    np.testing.assert_allclose(found, (2.6101, 2.4488), rtol=2e-5)


@pytest.mark.exhaustive
def test_errors_of_prefix_sums_are_measured():
    """Lambda-CGD against independent noise of the same epsilon: the golden table's
    20.0050 against 90.5539.
    """
    rounds, pattern = golden(1024, 16, 64)
    sampler = federated.min_separation(64, 1)
    assert sampler.participation(rounds) == pattern

    def measured(noise, subtracted):
        mechanism = dp.correlated_gaussian(1.0, noise, subtracted)
        state, total = mechanism.init(KEY, ()), jnp.zeros(1000)

        def release(carry, _):
            state, prefix = carry
            noisy, state = mechanism.privatize(KEY, state, total, 1.0)
            return (state, prefix + noisy), jnp.mean((prefix + noisy) ** 2)

        _, squares = jax.lax.scan(release, (state, total), None, rounds)
        return jnp.sqrt(jnp.mean(squares))

    run = 1.0  # the noise multiplier of the one Gaussian that a run is
    noises = [run * losses((part,), pattern, rounds)[0] for part in (0.0, BEST)]
    for noise, part in zip(noises, (0.0, BEST), strict=True):
        event = dp.correlated_gaussian(1.0, noise, part).event(sampler, rounds)
        assert one_gaussian(event) == pytest.approx(run, rel=1e-6)
    found = jax.jit(jax.vmap(measured))(jnp.array(noises), jnp.array([0.0, BEST]))
    np.testing.assert_allclose(found, (90.5539, 20.0050), rtol=0.04)
    np.testing.assert_allclose(found[1] / found[0], 20.0050 / 90.5539, rtol=0.04)


def one_gaussian(privacy_event):
    """The noise multiplier of the one release that an event is."""
    counted = events.flatten(privacy_event.event)
    (release,) = [part for part in counted if not isinstance(part, events.Failure)]
    assert isinstance(release, dp_accounting.GaussianDpEvent)
    assert counted[release] == 1
    return release.noise_multiplier


def test_the_run_is_one_gaussian_release():
    mechanism = dp.correlated_gaussian(CLIP, NOISE, 0.8)
    event = mechanism.event(TURNS, 20)
    # 30 members, 5 in a round: six apart, at most 4 of 20 rounds.
    pattern = Participation("member", 6, 4, None)
    assert TURNS.participation(20) == pattern
    moved = by_brute_force(strategies.column((float(np.float32(0.8)),), 20), pattern)
    assert one_gaussian(event) == pytest.approx(NOISE / moved, rel=1e-12)
    assert event.neighboring_relation == "zero_out"
    assert (event.privacy_unit, event.population) == ("client", 30)
    assert accounting.epsilon_server(event, 1e-5) == math.inf
    # The cut of noise counts all rounds' coordinates.
    cut = accounting.cut_share(event, 1e-5)
    assert 0 < cut < 1e-3
    # A beginning costs less, and all of it as much as the longer run says.
    spent = [one_gaussian(mechanism.event(TURNS, n)) for n in (1, 6, 7, 20)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == NOISE


def test_independent_noise_pays_for_the_rounds_that_anyone_takes_part_in():
    for mechanism in (
        dp.gaussian(CLIP, NOISE),
        dp.scheduled_gaussian(CLIP, NOISE),
        dp.adaptive_gaussian(CLIP, 1.0, 5.0),
    ):
        (count,) = [
            count
            for part, count in events.flatten(mechanism.event(TURNS, 20).event).items()
            if not isinstance(part, events.Failure)
        ]
        assert count == 4
    # Without parts to take back both cost the same.
    plain = dp.correlated_gaussian(CLIP, NOISE, 0.0).event(TURNS, 20)
    assert one_gaussian(plain) == pytest.approx(NOISE / 2, rel=1e-12)
    # Of noises that differ, the worst that anyone may meet.
    falling = dp.scheduled_gaussian(CLIP, lambda number: 4.0 - jnp.float32(number))
    counted = events.flatten(falling.event(federated.min_separation(3, 1), 4).event)
    noises = {
        part.noise_multiplier
        for part in counted
        if isinstance(part, dp_accounting.GaussianDpEvent)
    }
    assert noises == {1.0, 2.0}


def test_everyone_in_every_round_gains_nothing():
    """The last prefix is as noisy as independent noise leaves it, at best."""
    everyone = federated.everyone(4)
    for parts in ((0.5,), (0.9,), BANDS):
        rounds, pattern = 20, everyone.participation(20)
        moved, largest, _ = losses(parts, pattern, rounds)
        event = dp.correlated_gaussian(CLIP, NOISE, parts).event(everyone, rounds)
        assert one_gaussian(event) == pytest.approx(NOISE / moved, rel=1e-6)
        assert event.neighboring_relation == "add_or_remove_one"
        # 20 rounds of everyone by independent noise.
        assert largest >= 20 * (1 - 1e-12)


def test_a_replaced_contribution_moves_twice_as_much():
    whole = federated.fixed_size(4, 4)
    replaced, removed = (
        one_gaussian(dp.correlated_gaussian(CLIP, NOISE, 0.5).event(sampler, 3))
        for sampler in (whole, federated.everyone(4))
    )
    assert replaced == pytest.approx(removed / 2)


@pytest.mark.parametrize(
    "sampler", [federated.poisson(10, 0.5), federated.fixed_size(10, 3)]
)
def test_amplification_by_sampling_is_refused_when_built(sampler, regression):
    mechanism = dp.correlated_gaussian(CLIP, NOISE, 0.5)
    message = r"no amplification by sampling.*federated\.min_separation or federated\."
    with pytest.raises(ValueError, match=message):
        mechanism.event(sampler, 3)
    trainer = federated.local_sgd(regression, dp_free(), 2, num_steps=1)
    with pytest.raises(ValueError, match=message):
        federated.averaging(regression, trainer, sampler, mechanism=mechanism)
    examples = dp.correlated_gaussian(CLIP, NOISE, 0.5, privacy_unit="example")
    with pytest.raises(ValueError, match=message):
        federated.central_sgd(regression, dp_free(), sampler, mechanism=examples)


def dp_free():
    import optax

    return optax.sgd(0.1)


def test_a_state_that_nobody_carries_is_refused(regression):
    """A trainer that starts mechanisms afresh would make the same noise again."""
    mechanism = dp.correlated_gaussian(CLIP, NOISE, 0.5, privacy_unit="example")
    with pytest.raises(ValueError, match=r"state carried .*seed, releases"):
        federated.local_dp_sgd(regression, dp_free(), mechanism, 0.5, 1, 7)
    with pytest.raises(ValueError, match=r"state must be a CorrelatedState, got \(\)"):
        mechanism.privatize(KEY, (), LIKE, 1.0)
    with pytest.raises(ValueError, match=r"epsilon of its event"):
        dp.live(mechanism, TURNS, 1e-5)


def test_bad_parts_are_named():
    for parts, message in (
        (1.0, "subtracted must sum to less than 1, got 1.0"),
        ((0.6, 0.5), "sum to less than 1"),
        (-0.1, "subtracted must be finite and not negative"),
        ((), "subtracted is empty"),
        ("0.5", "subtracted must be a number"),
        ([0.5, math.nan], "subtracted must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            dp.correlated_gaussian(CLIP, NOISE, parts)
    for parts in (0.5, [0.5], np.array([0.5, 0.25]), jnp.array(0.5)):
        dp.correlated_gaussian(CLIP, NOISE, parts)
    with pytest.raises(ValueError, match="width must be an integer of at least 2"):
        strategies.square_root(1)
    assert strategies.square_root(4) == (0.5, 0.125, 0.0625)
