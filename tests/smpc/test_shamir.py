"""Any `threshold` shares open the secret, and one fewer say nothing about it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import field, ring, shamir, sharing, transcript

SEED = jnp.array([9, 10], jnp.uint32)
FIELDS = [field.F31, field.F61]
each_field = pytest.mark.parametrize("where", FIELDS, ids=lambda f: f.name)
each_x64 = pytest.mark.parametrize("x64", [False, True])
few = settings(max_examples=8, deadline=None, derandomize=True)
share = jax.jit(sharing.share, static_argnames="scheme")


def residues(where, count, least=0):
    p = where.modulus
    edges = st.sampled_from([max(least, 0), 1, p // 2, p - 2, p - 1])
    one = st.one_of(edges, st.integers(least, p - 1))
    return st.lists(one, min_size=count, max_size=count, unique=least > 0)


def exact_weights(points, p):
    """At 0, by definition, in Python's integers."""
    weights = []
    for x in points:
        others = [y * pow(y - x, -1, p) for y in points if y != x]
        weights.append(functools.reduce(lambda a, b: a * b % p, others, 1))
    return weights


@functools.cache
def traced_weights(where):
    return jax.jit(jax.vmap(functools.partial(shamir.lagrange_weights, where)))


@each_field
@each_x64
@few
@given(data=st.data())
def test_weights_of_known_and_of_traced_points(where, x64, data):
    rows = [data.draw(residues(where, 5, least=1)) for _ in range(2)]
    expected = [exact_weights(row, where.modulus) for row in rows]
    with jax.enable_x64(x64):
        traced = traced_weights(where)(ring.from_integers(where, rows))
        known = [shamir.lagrange_weights(where, row) for row in rows]
    assert ring.to_integers(where, traced).tolist() == expected
    assert [ring.to_integers(where, w).tolist() for w in known] == expected


@each_field
@pytest.mark.parametrize("count", [1, 2, 7])
def test_weights_of_any_number_of_points(where, count):
    points = list(range(3, 3 + count))
    expected = exact_weights(points, where.modulus)
    elements = ring.from_integers(where, points)
    traced = jax.jit(functools.partial(shamir.lagrange_weights, where))(elements)
    assert ring.to_integers(where, traced).tolist() == expected


@each_field
@settings(few, max_examples=3)
@given(data=st.data())
def test_weights_at_other_targets(where, data):
    p = where.modulus
    points = data.draw(residues(where, 6, least=1))
    points, targets = points[:4], [*points[4:], 0]
    coefficients = np.array(data.draw(residues(where, 4)), object)
    powers = np.array(points, object)[:, None] ** np.arange(4)
    values = powers @ coefficients % p
    expected = np.array(targets, object)[:, None] ** np.arange(4) @ coefficients % p
    elements = ring.from_integers(where, points)
    for kind in (points, elements):
        weights = shamir.lagrange_weights(where, kind, targets)
        rows = ring.to_integers(where, weights)
        assert (rows @ values % p).tolist() == expected.tolist()
        one = shamir.lagrange_weights(where, kind, at=targets[0])
        assert ring.to_integers(where, one).tolist() == rows[0].tolist()


@functools.cache
def compiled_evaluate(where):
    evaluate = functools.partial(shamir.evaluate, where)
    return jax.jit(jax.vmap(evaluate))


@each_field
@each_x64
@few
@given(data=st.data())
def test_polynomials_of_traced_coefficients(where, x64, data):
    """Two clients, 4 coefficients of 3 secrets each, at 5 points of their own."""
    coefficients = np.array(data.draw(residues(where, 24)), object).reshape(2, 4, 3)
    points = np.array(data.draw(residues(where, 10)), object).reshape(2, 5)
    with jax.enable_x64(x64):
        values = compiled_evaluate(where)(
            ring.from_integers(where, coefficients), ring.from_integers(where, points)
        )
    powers = points[:, :, None] ** np.arange(4)
    assert (
        ring.to_integers(where, values).tolist()
        == ((powers @ coefficients) % where.modulus).tolist()
    )


def test_polynomials_at_known_points():
    values = shamir.evaluate(field.F31, jnp.array([1, 2], jnp.uint32), range(1, 4))
    assert values.tolist() == [3, 5, 7]


@each_field
@few
@given(data=st.data())
def test_any_threshold_of_shares_open_and_interpolate_the_others(where, data):
    secret = data.draw(residues(where, 3))
    how = shamir.shamir(3, 5, where, scale=8.0)
    shared = share(SEED, ring.from_integers(where, secret), scheme=how)
    assert shared.scheme == how
    shares = ring.to_integers(where, shared.shares)
    for chosen in itertools.combinations(range(5), 3):
        held = shares[list(chosen)]
        # Shifted so that each of all points is 0 once: secret and all five shares.
        for target, value in enumerate([np.array(secret, object), *shares]):
            shifted = [party + 1 - target for party in chosen]
            if 0 in shifted:
                continue
            weights = np.array(exact_weights(shifted, where.modulus), object)
            assert ((weights @ held - value) % where.modulus == 0).all()


@each_field
@pytest.mark.parametrize("parties", [None, (4, 0, 2), (3, 1, 0, 2, 4)])
def test_reveal_by_chosen_parties(where, parties):
    how = shamir.shamir(3, 5, where)
    secret = ring.from_integers(where, [[1, 2], [3, -1]])
    shared = sharing.add(*(share(seed, secret, scheme=how) for seed in (SEED, SEED)))

    def opened(shared):
        return shamir.reveal(shared, name="sum", parties=parties, receivers=[0, "s"])

    element = jax.jit(opened)(shared)
    assert ring.to_integers(where, element).tolist() == [
        [2, 4],
        [6, where.modulus - 2],
    ]
    prices = transcript.priced(opened, shared)
    asked = parties or (0, 1, 2)
    for party in range(5):
        messages = 0 if party not in asked else 1 if party == 0 else 2
        assert prices.sent_bits(party) == messages * 4 * where.bits


def test_hundreds_of_parties():
    """More than 64 terms; powers of points that a 64-bit integer does not hold."""
    where = field.F31
    how = shamir.shamir(70, 130, where)
    secret = [0, 1, where.modulus - 1, 2**30]
    shared = share(SEED, ring.from_integers(where, secret), scheme=how)
    shares = ring.to_integers(where, shared.shares)
    for chosen in (range(70), range(60, 130)):
        points = [party + 1 for party in chosen]
        weights = np.array(exact_weights(points, where.modulus), object)
        assert (weights @ shares[list(chosen)] % where.modulus).tolist() == secret
        short = weights[:-1] @ shares[list(chosen)[:-1]] % where.modulus
        assert not (short == secret).any()
    traced = traced_weights(where)(ring.from_integers(where, [points]))
    assert ring.to_integers(where, traced).tolist() == [weights.tolist()]
    held = jax.tree.map(lambda leaf: leaf[60:], shared.shares)
    row = jax.tree.map(lambda leaf: leaf[0], traced)
    element = jax.jit(functools.partial(shamir.reconstruct, where))(held, row)
    assert ring.to_integers(where, element).tolist() == secret


def least_p_value(shares, parties):
    """The least of chi-square p-values, times how many there were (Bonferroni).

    Of low and high bytes of what the parties see: their shares, sums, differences, and
    what would be the secret if they were enough.
    """
    p = field.F31.modulus
    seen = shares[list(parties)].astype(object)
    points = [party + 1 for party in parties]
    combinations = [*itertools.product((-1, 0, 1), repeat=len(parties))]
    combinations.append(tuple(exact_weights(points, p)))
    p_values = []
    for coefficients in filter(any, combinations):
        combined = np.array(coefficients, object) @ seen % p
        for shift in (0, 23):
            counts = np.bincount((combined.astype(int) >> shift) & 255, minlength=256)
            p_values.append(scipy.stats.chisquare(counts).pvalue)
    return min(p_values) * len(p_values)


def many_shares(threshold, secret):
    long = jnp.full(20_000, secret, jnp.uint32)
    how = shamir.shamir(threshold, 4)
    return np.asarray(share(SEED, long, scheme=how).shares)


@pytest.mark.parametrize("secret", [0, 1, 0x7FFFFFFE])
def test_fewer_than_the_threshold_see_uniform_elements_whatever_the_secret(secret):
    shares = many_shares(3, secret)
    for parties in itertools.combinations(range(4), 2):
        assert least_p_value(shares, parties) > 1e-3


def test_the_test_of_uniformity_rejects_leaks():
    assert least_p_value(many_shares(2, 5), (1, 3)) < 1e-9
    assert least_p_value(many_shares(1, 5), (1, 3)) < 1e-9
    high_bit_missing = many_shares(3, 5) & 0x3FFFFFFF
    assert least_p_value(high_bit_missing, (1, 3)) < 1e-9


def test_a_threshold_of_one_hides_nothing():
    assert (many_shares(1, 77) == 77).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "threshold must be an integer of at least 1, got 0"),
        ((4, 3), "threshold 4 exceeds num_parties 3"),
        ((2, 2**31 - 1), "num_parties 2147483647 needs as many nonzero points"),
        ((2, 3, ring.Z32), "Z_2.32 is not a field; use field.F31 or field.F61"),
        ((2, 3, field.F31, -1.0), "scale must be positive and finite, got -1.0"),
    ],
)
def test_bad_schemes(arguments, message):
    with pytest.raises(ValueError, match=message):
        shamir.shamir(*arguments)


SHARED = share(SEED, jnp.zeros(2, jnp.uint32), scheme=shamir.shamir(2, 3))


@pytest.mark.parametrize(
    ("parties", "message"),
    [
        ((0,), "parties .0. are too few for shamir, 2 of 3 parties over"),
        ((1, 1), "parties must be distinct, from 0 to 2, got"),
        ((1, 3), "parties must be distinct, from 0 to 2, got"),
    ],
)
def test_bad_parties(parties, message):
    with pytest.raises(ValueError, match=message):
        shamir.reveal(SHARED, name="value", parties=parties)


def test_bad_arguments():
    for points in ([1, 2, 1], [0, 1], [1, 2**31]):
        with pytest.raises(ValueError, match="points must be distinct and not 0 mod"):
            shamir.lagrange_weights(field.F31, points)
    with pytest.raises(ValueError, match=r"must be distinct and not one of .4, 2. mod"):
        shamir.lagrange_weights(field.F31, [1, 2, 3], at=[4, 2])
    with pytest.raises(ValueError, match="weights must have shape"):
        shamir.reconstruct(field.F31, SHARED.shares, jnp.zeros(2, jnp.uint32))
    additive = sharing.additive(2)
    with pytest.raises(ValueError, match="need shamir shares, got additive, 2 of 2"):
        shamir.share(random.child(SEED, 0), jnp.zeros(2, jnp.uint32), additive)
