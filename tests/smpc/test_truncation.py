"""Truncated values: the law of their errors, costs, and what parties see.

Chi-square tests, which positive controls show to have the power: a mask that is too
short, a secret that is too large, new shares without renewal, a seed used twice.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import random
from ppml_lab.smpc import (
    bits,
    field,
    ring,
    scheme,
    shamir,
    sharing,
    transcript,
    truncation,
)
from ppml_lab.smpc.scheme import Shared, TracedScale

RUNS, LENGTH = 64, 1024
SAMPLES = RUNS * LENGTH
SHARING = [
    (sharing.additive(2), "local"),
    (sharing.additive(2), "pair"),
    (sharing.additive(2), "msb"),
    (sharing.additive(3), "pair"),
    (sharing.additive(3), "msb"),
    (sharing.replicated(), "msb"),
]
SCALE = TracedScale("step", 2)
FULL = [
    (how._replace(ring=where, scale=SCALE), method)
    for where in (ring.Z32, ring.Z64)
    for how, method in SHARING
]
IDEAL = [(how._replace(ideal=True), method) for how, method in FULL]
MASKED = [case for case in FULL if case[1] != "local"]
# Every scheme and method over one ring, and half of them over the other, whose own
# arithmetic is tested.
COMPLETE = [(how._replace(ideal=i), m) for how, m in FULL[8:11] for i in (True, False)]


def each(cases):
    params = [
        pytest.param(
            *case,
            id=f"{case[0].kind} {case[0].num_parties} {case[0].ring.name} {case[1]}"
            + (" ideal" if case[0].ideal else ""),
            marks=[pytest.mark.exhaustive] if case in COMPLETE else [],
        )
        for case in cases
    ]
    return pytest.mark.parametrize(("how", "method"), params)


def seeds_of(number):
    return random.child(jnp.array([number, 11], jnp.uint32), jnp.arange(RUNS))


def element_of(where, words):
    """Of an array of 64-bit integers, modulo the ring."""
    words = np.asarray(words).astype(np.uint64)
    low = jnp.asarray((words & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    if where.bits == 32:
        return low
    return ring.Wide(low, jnp.asarray((words >> np.uint64(32)).astype(np.uint32)))


def words_of(where, element):
    """As uint64."""
    low, high = (np.asarray(w).astype(np.uint64) for w in where.to_unsigned(element))
    return low | high << np.uint64(32)


def signed(where, element):
    up = 64 - where.bits
    return (words_of(where, element) << np.uint64(up)).view(np.int64) >> up


def shares_of(how, values, number):
    """Uniform, of signed values `[RUNS, LENGTH]`: `[RUNS, parties, LENGTH]`."""
    if how.ideal:
        return element_of(how.ring, values[:, None])
    rng = np.random.default_rng(number)
    shape = (RUNS, how.num_parties - 1, LENGTH)
    others = rng.integers(0, 2**64, shape, dtype=np.uint64)
    first = values.astype(np.uint64) - others.sum(1, dtype=np.uint64)
    return element_of(how.ring, np.concatenate([first[:, None], others], axis=1))


@functools.cache
def program(how, method):
    """Compiled once: new shares, what they open to, and what was shown to parties."""

    def one(seed, shares, num_bits):
        with transcript.recording() as record:
            out = truncation.truncate(seed, Shared(shares, how), num_bits, method)
        opened = how.ring.sum_over(out.shares, 0)
        return out.shares, opened, [view.value for view in record.views]

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def truncated(how, method, values, num_bits, number=0):
    """The results, as signed integers."""
    shares = shares_of(how, values, number)
    _, opened, _ = program(how, method)(seeds_of(number), shares, num_bits)
    return signed(how.ring, opened)


def above_floor(results, values, num_bits):
    """How many steps above the quotient rounded down: 0 or 1 if all is well."""
    return results - (values >> num_bits)


def errors_of(results, values, num_bits):
    """In steps."""
    fraction = (values & (2**num_bits - 1)) / 2.0**num_bits
    return above_floor(results, values, num_bits) - fraction


def uniform_values(limit, number=0):
    rng = np.random.default_rng(1000 + number)
    return rng.integers(-limit + 1, limit, (RUNS, LENGTH))


def mean_is_zero(errors):
    return abs(errors.mean()) < 5 * errors.std() / np.sqrt(errors.size)


@each(FULL + IDEAL)
def test_errors_are_below_a_step_and_zero_in_the_mean(how, method):
    values = uniform_values(2**20 if how.ring.bits == 32 else 2**40)
    errors = errors_of(truncated(how, method, values, 8), values, 8)
    if (method, how.ring.bits) == ("local", 32):
        wrong = np.abs(errors) > 2
        assert wrong.mean() < 1e-3
        errors = errors[~wrong]
    assert np.abs(errors).max() <= 1
    assert mean_is_zero(errors)
    assert abs(errors.std() - 0.408) < 0.01


@each(FULL + IDEAL)
def test_the_fraction_is_the_probability_of_rounding_up(how, method):
    """So what divides exactly stays."""
    values = uniform_values(64) * 8 + np.arange(LENGTH) % 8
    up = above_floor(truncated(how, method, values, 3), values, 3)
    assert np.isin(up, (0, 1)).all()
    num_each = SAMPLES // 8
    counts = [int(up[values % 8 == eighths].sum()) for eighths in range(8)]
    assert counts[0] == 0
    for eighths, count in enumerate(counts):
        assert scipy.stats.binomtest(count, num_each, eighths / 8).pvalue > 1e-5


@each(FULL + IDEAL)
def test_over_one_a_value_stays(how, method):
    values = uniform_values(64)
    assert np.array_equal(truncated(how, method, values, 0), values)


def test_rounding_every_share_down_fails_the_test_of_the_mean():
    """A control: the result is a step low."""
    values = uniform_values(2**20)
    shares = shares_of(sharing.additive(2, ring.Z64), values, 0)
    down = signed(ring.Z64, shares) >> 8
    errors = errors_of(down.sum(1), values, 8)
    assert not mean_is_zero(errors)
    assert abs(errors.mean() + 1) < 0.01
    assert abs(errors.std() - 0.408) < 0.01


@each([FULL[0], IDEAL[0]])
@pytest.mark.parametrize(("log_limit", "rate"), [(24, 2.0e-3), (28, 3.1e-2)])
def test_local_truncation_is_wrong_by_far_as_often_as_stated(
    how, method, log_limit, rate
):
    values = uniform_values(2**log_limit)
    above = above_floor(truncated(how, method, values, 8), values, 8)
    is_right = np.isin(above, (0, 1))
    expected = np.abs(values).mean() / 2**32
    assert abs(expected - rate) < 0.03 * rate
    assert (
        scipy.stats.binomtest(int((~is_right).sum()), SAMPLES, expected).pvalue > 1e-4
    )
    # Of the ring's size, at the new scale.
    by_far = np.abs(above[~is_right])
    assert np.all(np.abs(by_far - 2**24) <= 1)


@each([case for case in FULL + IDEAL if case not in (FULL[0], IDEAL[0])])
@pytest.mark.parametrize("log_limit", [24, 28])
def test_none_of_the_others_is_ever_wrong_there(how, method, log_limit):
    values = uniform_values(2**log_limit)
    errors = errors_of(truncated(how, method, values, 8), values, 8)
    assert np.abs(errors).max() <= 1


@each([case for case in FULL + IDEAL if case[1] != "local"])
def test_with_a_mask_values_are_right_up_to_a_quarter_of_the_ring(how, method):
    quarter = 2 ** (how.ring.bits - 2)
    edges = [quarter - 1, quarter - 2, 1 - quarter, 2 - quarter, 255, 256, 0, -1]
    values = np.tile(np.array(edges), (RUNS, LENGTH // len(edges)))
    for num_bits in (8, 20):
        errors = errors_of(truncated(how, method, values, num_bits), values, num_bits)
        assert np.abs(errors).max() <= 1
    # A control: the bound is where it is.
    values = np.tile(np.array([2 * quarter - 1, 1 - 2 * quarter]), (RUNS, LENGTH // 2))
    assert np.abs(errors_of(truncated(how, method, values, 8), values, 8)).max() > 2


def test_if_three_parties_shift_their_own_shares_one_result_of_four_is_wrong():
    """Why it is refused. Uniform signed numbers that add up to nearly 0 modulo the ring
    add up to 0 with probability 3/4, and else to the ring's size.
    """
    values = uniform_values(2**10)
    shares = shares_of(sharing.additive(3), values, 0)
    results = (signed(ring.Z32, shares) >> 8).sum(1)
    errors = np.abs(errors_of(results, values, 8))
    # Three roundings down lose more than two steps one time in six.
    for limit, rate in ((3, 1 / 4), (2, 1 / 4 + 3 / 4 / 6)):
        count = int((errors > limit).sum())
        assert scipy.stats.binomtest(count, SAMPLES, rate).pvalue > 1e-4
    assert np.all(np.abs(errors[errors > 3] - 2**24) <= 3)


def test_local_truncation_among_three_is_refused():
    for how in (sharing.additive(3), sharing.replicated(ring.Z64)):
        shared = Shared(ring.zeros(how.ring, (3, 2)), how)
        with pytest.raises(
            ValueError, match="'local' is for 2 parties, got 3"
        ) as error:
            truncation.truncate(seeds_of(0)[0], shared, 8, "local")
        assert "use 'msb'" in str(error.value)


@each(FULL[6:])
def test_bits_known_when_the_program_runs_give_what_static_ones_do(how, method):
    """Three numbers of bits in one program; with 64-bit types on and off."""
    several = [4, 8, 20]
    shares = jax.tree.map(
        lambda leaf: leaf[0], shares_of(how, uniform_values(2**40), 0)
    )
    seed = seeds_of(0)[0]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def traced(num_bits, shares):
        return truncation.truncate(seed, Shared(shares, how), num_bits, method)

    @jax.jit
    def static(shares):
        schemes = [how._replace(scale=4.0**num_bits) for num_bits in several]
        return [
            truncation.truncate(seed, Shared(shares, scheme), num_bits, method)
            for scheme, num_bits in zip(schemes, several, strict=True)
        ]

    together = traced(jnp.array(several), shares)
    assert together.scheme == how._replace(scale=TracedScale("step", 1))
    with jax.enable_x64(True):
        apart = static(shares)
    for i, (num_bits, alone) in enumerate(zip(several, apart, strict=True)):
        assert alone.scheme == how._replace(scale=2.0**num_bits)
        for one, other in zip(
            *map(jax.tree.leaves, (together.shares, alone.shares)), strict=True
        ):
            assert one.dtype == other.dtype == jnp.uint32
            np.testing.assert_array_equal(one[i], other)


@each(MASKED)
def test_ideal_values_are_the_very_same(how, method):
    values = uniform_values(2**20)
    full, ideal = (
        truncated(how._replace(ideal=ideal), method, values, 8)
        for ideal in (False, True)
    )
    assert np.array_equal(full, ideal)
    # Another seed rounds otherwise.
    assert not np.array_equal(full, truncated(how, method, values, 8, number=1))


@each([*FULL[:6], IDEAL[5]])
def test_new_shares_have_the_shape_of_the_old(how, method):
    start = jax.ShapeDtypeStruct(
        (1 if how.ideal else how.num_parties, 2, 3), jnp.uint32
    )
    out = jax.eval_shape(
        lambda shares: truncation.truncate(
            seeds_of(0)[0], Shared(shares, how._replace(scale=2.0**13)), 5, method
        ),
        start,
    )
    assert out.scheme == how._replace(scale=2.0**8)
    assert out.shares == start


def test_arguments_that_do_not_fit_are_refused():
    seed = seeds_of(0)[0]

    def fails(how, match, num_bits=8, method="msb"):
        parties = how.num_parties
        shared = Shared(ring.zeros(how.ring, (parties, 2)), how)
        with pytest.raises(ValueError, match=match):
            truncation.truncate(seed, shared, num_bits, method)

    fails(sharing.additive(2, field.F31), "cannot shift in F_.*use ring.Z32")
    fails(sharing.replicated(field.F61), "cannot shift in F_.*ring.Z64")
    fails(sharing.additive(2, bits.bit_ring(32)), "cannot shift in GF")
    fails(shamir.shamir(2, 3), "need additive or replicated shares, got shamir")
    fails(sharing.replicated(), "'pair' is for additive shares.*'msb'", method="pair")
    fails(sharing.additive(2), "unknown truncation 'pairs'", method="pairs")
    once = sharing.additive(2, scale=TracedScale("step"))
    fails(once, "is not the scale of a product, so that there is nothing")
    shared = Shared(jnp.zeros((2, 2), jnp.uint32), sharing.additive(2))
    with pytest.raises(ValueError, match="only where the scale is a TracedScale"):
        jax.eval_shape(lambda n: truncation.truncate(seed, shared, n), 8)


@each(FULL + IDEAL)
def test_rounds_and_bits_as_counted_by_hand(how, method):
    shape = (3, 5)
    width, count = how.ring.bits, 1 if how.ideal else how.num_parties
    word: Any = jax.ShapeDtypeStruct((count, *shape), jnp.uint32)
    shares = word if width == 32 else ring.Wide(word, word)
    record = transcript.priced(
        lambda shares: truncation.truncate(
            seeds_of(0)[0], Shared(shares, how), 8, method
        ),
        shares,
    )
    words = 15 * width
    rounds, online, offline = {
        # Each party opens to each other; a dealer sends one of them two corrections.
        "additive": (1, [(how.num_parties - 1) * words] * how.num_parties, "dealer"),
        # Two open to each other, and then renew to each other; the third deals.
        "replicated": (2, [2 * words, 2 * words, 0], 2),
    }[how.kind]
    if method == "local":
        assert record.messages == record.views == []
        assert record.num_rounds() == 0
        return
    assert record.num_rounds() == record.num_rounds("truncate") == rounds
    parties = range(how.num_parties)
    assert [record.sent_bits(party) for party in parties] == online
    assert [record.received_bits(party) for party in parties] == online
    assert record.sent_bits("dealer") == 0
    assert record.sent_bits(offline, offline=True) == 2 * words
    assert record.sent_bits(offline=True) == 2 * words
    assert {m.path.split("/")[0] for m in record.messages} == {"truncate"}
    if not how.ideal:
        (view,) = record.views
        assert view.path == "truncate/opened"
        saw = (0, 1) if how.kind == "replicated" else tuple(parties)
        assert view.receivers == saw


@functools.cache
def observed(how, method, secret, number):
    """Rows of words: the shares, the new shares, and what was opened."""
    values = np.full((RUNS, LENGTH), secret)
    shares = shares_of(how, values, number)
    out, _, views = program(how, method)(seeds_of(number), shares, 8)
    (opened,) = views
    return *map(functools.partial(rows_of, how.ring), (shares, out)), flat(how, opened)


def flat(how, element):
    return words_of(how.ring, element).reshape(-1)


def rows_of(where, shares):
    return [*np.moveaxis(words_of(where, shares), 1, 0).reshape(-1, SAMPLES)]


def known_together(how, method, secret, number):
    """What those know who may conspire: all additive parties but one; one replicated
    party, of which the last knows the mask in place of what it hides.
    """
    before, after, opened = observed(how, method, secret, number)
    if how.kind == "additive":
        coalitions = itertools.combinations(range(how.num_parties), how.num_parties - 1)
        return [
            [*(before[i] for i in some), opened, *(after[i] for i in some)]
            for some in coalitions
        ]
    quarter = 2 ** (how.ring.bits - 2)
    shift = np.array(secret + quarter).astype(np.uint64)
    seen = [opened, opened, opened - shift]
    pairs = [(0, 1), (1, 2), (2, 0)]
    return [
        [*(before[i] for i in pair), what, *(after[i] for i in pair)]
        for pair, what in zip(pairs, seen, strict=True)
    ]


def combinations(rows):
    """Sums and differences of some of the words, one of each and its negative."""
    for signs in itertools.product((-1, 0, 1), repeat=len(rows)):
        if next((sign for sign in signs if sign), -1) == 1:
            total = np.zeros(SAMPLES, np.uint64)
            for sign, row in zip(signs, rows, strict=True):
                total = total + row if sign == 1 else total - row if sign else total
            yield total


def least(p_values):
    """Bonferroni's correction."""
    return min(p_values) * len(p_values)


def uniform_p_value(rows, top):
    """Of chi-square tests of the bottom byte and of the one that ends at bit `top`."""
    return least(
        [
            scipy.stats.chisquare(
                np.bincount((words >> np.uint64(s) & 255).astype(int), minlength=256)
            ).pvalue
            for words in combinations(rows)
            for s in (0, top - 8)
        ]
    )


def same_law_p_value(rows, others, num_bits):
    """Of chi-square tests with two samples, of the lowest and the highest bits."""
    p_values = []
    pairs = zip(combinations(rows), combinations(others), strict=True)
    for pair, shift in itertools.product(pairs, (0, num_bits - 4)):
        table = np.stack(
            [
                np.bincount((x >> np.uint64(shift) & 15).astype(int), minlength=16)
                for x in pair
            ]
        )
        table = table[:, table.sum(0) > 0]
        if table.shape[1] > 1:
            p_values.append(scipy.stats.chi2_contingency(table).pvalue)
    return least(p_values)


def two_secrets(how, method):
    """As far apart as the method hides them."""
    width = how.ring.bits
    # A pair's statistical distance is the secret over a quarter of the ring.
    end = 2 ** (width - 20) if method == "pair" else 2 ** (width - 2)
    return end - 1, 1 - end


@each(MASKED)
def test_all_that_a_party_knows_is_uniform(how, method):
    # A pair's mask lacks two bits, and so does what it hides.
    top = how.ring.bits - 2 * (method == "pair")
    for number, secret in enumerate(two_secrets(how, method)):
        for rows in known_together(how, method, secret, number):
            assert uniform_p_value(rows, top) > 1e-4


@each(MASKED)
def test_all_that_a_party_knows_looks_the_same_for_two_secrets(how, method):
    one, other = (
        known_together(how, method, secret, number)
        for number, secret in enumerate(two_secrets(how, method))
    )
    for rows, others in zip(one, other, strict=True):
        assert same_law_p_value(rows, others, how.ring.bits) > 1e-4


@each(MASKED)
def test_all_new_shares_together_are_the_result(how, method):
    """A control of the tests: one party too many."""
    secret, _ = two_secrets(how, method)
    _, after, _ = observed(how, method, secret, 0)
    assert uniform_p_value(after, how.ring.bits) < 1e-9


def test_a_short_mask_is_noticed():
    """A control: 20 bits instead of 30."""
    mask = ring.shift_right(ring.Z32, ring.Z32.uniform(seeds_of(7)[0], SAMPLES), 12)
    rows, others = (
        [words_of(ring.Z32, ring.Z32.subtract(element_of(ring.Z32, secret), mask))]
        for secret in (0, 2**16)
    )
    assert uniform_p_value(rows, 30) < 1e-9
    assert same_law_p_value(rows, others, 32) < 1e-9


def test_a_pair_shows_a_secret_that_is_large():
    """A control, and the limit that `truncation` states: a distance of a quarter."""
    how, method = FULL[1]
    one, other = (
        known_together(how, method, secret, number)[0]
        for number, secret in enumerate((0, 2**28))
    )
    assert same_law_p_value(one, other, 32) < 1e-9


def test_new_summands_without_renewal_give_the_result_away():
    """A control: two parties hold shares of the result, and one sends its own on."""
    how = sharing.additive(2, scale=SCALE)
    before, after, opened = observed(how, "msb", 3 * 2**8 + 5, 0)
    first_party = [before[0], opened, *after]
    assert uniform_p_value(first_party, 32) < 1e-9
    _, others, _ = observed(how, "msb", 9 * 2**8 + 5, 1)
    assert same_law_p_value(after, others, 32) < 1e-9
    renewal = np.random.default_rng(0).integers(2**32, size=SAMPLES, dtype=np.uint64)
    renewed = [before[0], opened, after[0] + renewal, after[1]]
    assert uniform_p_value(renewed, 32) > 1e-4


def test_a_seed_that_is_used_twice_gives_the_difference_away():
    """A control."""
    how, method = FULL[2]
    first = known_together(how, method, 5, 0)[0][1]
    again = known_together(how, method, 77, 0)[0][1]
    assert np.all(again - first & np.uint64(2**32 - 1) == 72)
    assert uniform_p_value([first, again], 32) < 1e-9


@pytest.mark.parametrize(
    "how",
    [
        sharing.additive(3, ring.Z32, SCALE),
        sharing.replicated(ring.Z32, SCALE, ideal=True),
        pytest.param(sharing.replicated(ring.Z64, SCALE), marks=pytest.mark.exhaustive),
    ],
    ids=["additive", "ideal", "replicated"],
)
def test_exact_truncation_rounds_to_the_nearest_and_shows_nothing_else(how):
    """In each run alike, whatever lies below the step, up to the ring's ends."""
    half = 2 ** (how.ring.bits - 1)
    values = np.array([0, 1, 127, 128, 129, -127, -128, -129, 384, 12345 * 256 + 97])
    values = np.append(values, [half - 200, 128 - half])
    rng = np.random.default_rng(0)
    others = rng.integers(0, 2**62, (1 if not how.ideal else 0, values.size))
    rows = [values.astype(object) - others.sum(0), *others]
    rows += [0 * values] * (scheme.num_shares(how) - len(rows))
    shares = Shared(ring.from_integers(how.ring, np.array(rows)), how)

    @jax.jit
    def run(seeds):
        def one(seed):
            out = truncation.truncate(seed, shares, 8, "exact")
            return how.ring.sum_over(out.shares, 0)

        return jax.vmap(one)(seeds)

    found = signed(how.ring, run(seeds_of(7)[:3]))
    exact = (values + 128) >> 8
    np.testing.assert_array_equal(found, np.broadcast_to(exact, found.shape))


def test_rounding_at_random_shows_where_in_a_step_a_value_lies():
    """The control: what was opened and the result leave a window of one step."""
    how = sharing.replicated(ring.Z64, SCALE)
    secret, step = 12345 * 256 + 97, 256
    shares = shares_of(how, np.full((RUNS, LENGTH), secret), 3)
    _, opened, views = program(how, "msb")(seeds_of(5), shares, 8)
    result, low = (
        signed(how.ring, opened),
        words_of(how.ring, views[0]) % np.uint64(step),
    )
    # Rounded up if and only if the value's fraction exceeds what was opened.
    least = (result - 1) * step + low.astype(np.int64) + 1
    most = result * step + low.astype(np.int64)
    assert np.all((least <= secret) & (secret <= most) & (most - least < step))
    assert most.min() - least.max() < step // 16
