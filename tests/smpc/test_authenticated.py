"""Authenticated values compute as integers do, and no change of a share goes unseen."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import authenticated, field, ring, scheme, sharing, transcript
from ppml_lab.smpc.computing.authenticated import Authenticated, Opened

SEED = jnp.array([7, 8], jnp.uint32)
HOWS = [(2, field.F31), (3, field.F61)]
setup = jax.jit(
    lambda pair, n, prime: inputs(SEED, pair, n, prime), static_argnums=(1, 2)
)


def over(*hows):
    return pytest.mark.parametrize(
        ("num_parties", "prime"), hows, ids=lambda v: getattr(v, "name", str(v))
    )


# What opens values over F61 tells its arithmetic: the rest is the same over F31.
ids = over(HOWS[0], pytest.param(*HOWS[1], marks=pytest.mark.exhaustive))


def seeds(count, number=0):
    return random.child(SEED, jnp.arange(count, dtype=jnp.uint32), number)


def integers(prime, element):
    return ring.to_integers(prime, element).tolist()


def opened(value):
    """By definition, in Python's integers."""
    shared = value.value
    p = shared.scheme.ring.modulus
    return (ring.to_integers(shared.scheme.ring, shared.shares).sum(0) % p).tolist()


def times_key(value, key):
    """What the MAC should be, and what it is."""
    prime = key.scheme.ring
    alpha, x, mac = (
        ring.to_integers(prime, shared.shares).sum(0)
        for shared in (key, value.value, value.mac)
    )
    return (alpha * x % prime.modulus).tolist(), (mac % prime.modulus).tolist()


def inputs(seed, pair, num_parties, prime):
    """A key, and two authenticated values."""
    first, *others = (random.child(seed, number) for number in range(3))
    key = authenticated.mac_key(first, num_parties, prime)
    both = jax.vmap(authenticated.authenticate, in_axes=(0, 0, None))(
        jnp.stack(others), pair, key
    )
    return key, *(jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))


@functools.cache
def computed(num_parties, prime):
    """Compiled once: everything there is, of two values and a public one."""

    def compute(seed, pair, public):
        key, x, y = inputs(seed, pair, num_parties, prime)
        one, two = random.child(seed, jnp.arange(3, 5, dtype=jnp.uint32))
        product, masked = authenticated.multiply(one, x, y, key)
        results = [
            x,
            authenticated.add(x, y),
            authenticated.subtract(x, y),
            authenticated.add_public(x, public, key),
            authenticated.multiply_public(x, public),
            product,
        ]
        told = [authenticated.open_values(value, name="value") for value in results]
        return results, key, authenticated.check(two, [*masked, *told], key)

    return jax.jit(compute)


@ids
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_opened_is_what_was_computed(num_parties, prime, data):
    p = prime.modulus
    numbers = st.one_of(st.sampled_from([0, 1, p // 2, p - 1]), st.integers(0, p - 1))
    drawn = data.draw(st.lists(numbers, min_size=9, max_size=9))
    x, y, public = rows = np.array(drawn, object).reshape(3, 3)
    seed = random.child(SEED, data.draw(st.integers(0, 2**20)))
    results, key, checked = computed(num_parties, prime)(
        seed, *(ring.from_integers(prime, part) for part in (rows[:2], public))
    )
    exact = [x, x + y, x - y, x + public, x * public, x * y]
    # The first two are the masked operands.
    shown = authenticated.verified(checked)[2:]
    for result, value, exactly in zip(results, shown, exact, strict=True):
        assert opened(result) == (exactly % p).tolist()
        assert integers(prime, value) == opened(result)
        expected, mac = times_key(result, key)
        assert mac == expected


@pytest.mark.exhaustive  # of what it is made of: test_arithmetic
@ids
def test_the_same_with_64_bit_types(num_parties, prime):
    numbers = ([[1, -1, 2**30], [5, 0, -1]], [-1, 2**29, 3])
    arguments = [ring.from_integers(prime, part) for part in numbers]
    run = computed(num_parties, prime)
    narrow = jax.tree.leaves(run(SEED, *arguments))
    with jax.enable_x64(True):
        wide = jax.tree.leaves(run(SEED, *arguments))
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.exhaustive  # of sums and products: test_sharing, test_arithmetic
def test_vmap_computes_each_as_alone():
    run = computed(2, field.F31)
    numbers = np.arange(27).reshape(3, 3, 3) * 2**25
    every = [
        ring.from_integers(field.F31, part) for part in (numbers[:, :2], numbers[:, 2])
    ]
    lanes = jax.vmap(run)(seeds(3), *every)
    alone = run(seeds(3)[2], *jax.tree.map(lambda leaf: leaf[2], every))
    for one, other in zip(*map(jax.tree.leaves, (lanes, alone)), strict=True):
        np.testing.assert_array_equal(one[2], other)


def test_shapes_broadcast_past_the_parties():
    """With as many columns as parties, a careless broadcast would mix the two."""
    n, prime = 3, field.F31
    row, other = np.arange(n), 5 + 10 * np.arange(n)
    public = ring.from_integers(prime, row)

    @jax.jit
    def compute(pair):
        key, x, y = inputs(SEED, pair, n, prime)
        column = jax.tree.map(lambda leaf: leaf[..., None], y)
        five = jax.tree.map(lambda leaf: leaf[..., 0], y)
        product, masked = authenticated.multiply(SEED, x, column, key)
        results = [
            product,
            authenticated.add(x, column),
            authenticated.subtract(five, column),
            authenticated.add_public(column, public, key),
            authenticated.add_public(five, public, key),
            authenticated.multiply_public(column, public),
            authenticated.multiply_public(five, public),
        ]
        told = [authenticated.open_values(value, name="value") for value in results]
        return results, authenticated.check(SEED, [*masked, *told], key)

    results, checked = compute(ring.from_integers(prime, [row, other]))
    column = other[:, None]
    exact = [row * column, row + column, 5 - column, column + row, 5 + row]
    exact += [column * row, 5 * row]
    for result, value in zip(results, exact, strict=True):
        assert opened(result) == (value % prime.modulus).tolist()
    assert checked.passes


PLACES = (
    *(
        f"{name} {part}"
        for name in ("x", "y", "z", "result")
        for part in ("value", "mac")
    ),
    *(f"opened {number}" for number in range(5)),
)


def plus(prime, value, here, delta):
    """With `delta` added where `here`."""
    added = jax.tree.map(lambda leaf: jnp.where(here, leaf, jnp.uint32(0)), delta)
    return prime.add(value, added)


@functools.cache
def chain(num_parties, prime):
    """A computation in many runs, in each of which a party adds `delta` in a place.

    To one of its shares of the first of two elements, or to what it sends of one of
    five values, four of them masked, while it computes on with the right one.
    """
    pair = ring.from_integers(prime, [[3, -4], [5, 6]])

    def run(seed, place, party, delta):
        def changed(value, name):
            row = (jnp.arange(num_parties) == party)[:, None] & (jnp.arange(2) == 0)
            parts = [
                sharing.Shared(
                    plus(prime, shared.shares, row & (place == number), delta),
                    shared.scheme,
                )
                for shared, number in (
                    (value.value, PLACES.index(f"{name} value")),
                    (value.mac, PLACES.index(f"{name} mac")),
                )
            ]
            return Authenticated(*parts)

        key, x, y = inputs(seed, pair, num_parties, prime)
        one, two, three = random.child(seed, jnp.arange(3, 6, dtype=jnp.uint32))
        x, y = changed(x, "x"), changed(y, "y")
        z, masked = authenticated.multiply(one, x, y, key)
        z = changed(z, "z")
        public = ring.from_integers(prime, [7, 8])
        z = authenticated.add_public(authenticated.add(z, x), public, key)
        z = authenticated.multiply_public(z, public)
        difference = authenticated.subtract(x, y)
        result, more = authenticated.multiply(two, z, difference, key)
        result = authenticated.open_values(changed(result, "result"), name="result")
        told = [
            Opened(plus(prime, value, place == PLACES.index(f"opened {n}"), delta), mac)
            for n, (value, mac) in enumerate([*masked, *more, result])
        ]
        return authenticated.check(three, told, key)

    return jax.jit(jax.vmap(run))


@functools.cache
def runs(num_parties, prime):
    """50 of which are honest, then every change; what changes, and what comes out."""
    rng = np.random.default_rng(0)
    deltas = [1, -1, *rng.integers(1, prime.modulus, 3).tolist()]
    places = range(len(PLACES))
    cases = [(-1, -1, 1)] * 50
    cases += itertools.product(places, range(num_parties), deltas)
    place, party, delta = zip(*cases, strict=True)
    checked = chain(num_parties, prime)(
        seeds(len(cases)),
        jnp.array(place, jnp.int32),
        jnp.array(party, jnp.int32),
        ring.from_integers(prime, delta),
    )
    return cases, checked


@ids
def test_honest_parties_pass(num_parties, prime):
    _, result = runs(num_parties, prime)
    checked = jax.tree.map(lambda leaf: leaf[:50], result)
    exact = [(3 * 5 + 3 + 7) * 7 * (3 - 5), (-4 * 6 - 4 + 8) * 8 * (-4 - 6)]
    found = integers(prime, authenticated.verified(checked)[-1])
    assert found == [[number % prime.modulus for number in exact]] * 50


@ids
def test_every_single_change_is_detected(num_parties, prime):
    cases, checked = runs(num_parties, prime)
    changes = list(zip(cases, checked.passes, strict=True))[50:]
    assert len(changes) == 13 * num_parties * 5
    assert not [case for case, passed in changes if passed]
    count = f"{len(changes)} of {len(cases)} MAC checks failed"
    with pytest.raises(
        ValueError, match=f"a share was tampered with: {count}"
    ) as error:
        authenticated.verified(checked)
    assert "start again with a new key" in str(error.value)


def with_shares(shared, change):
    """Of party 1, of a single element."""
    prime = shared.scheme.ring
    here = jnp.arange(shared.scheme.num_parties) == 1
    return sharing.Shared(plus(prime, shared.shares, here, change), shared.scheme)


@functools.cache
def attack():
    """`(seeds, deltas, guesses, know_key)`: what is opened after an addition of delta
    to a value and of a guess to its MAC, or of what the key makes of delta; and whether
    it passes.
    """
    pair = ring.from_integers(field.F31, [3, 4])

    def run(seed, delta, guess, know_key):
        key, x, _ = inputs(seed, pair, 3, field.F31)
        alpha = field.F31.sum_over(key.shares, 0)
        guess = jnp.where(know_key, field.F31.multiply(alpha, delta), guess)
        forged = Authenticated(with_shares(x.value, delta), with_shares(x.mac, guess))
        told = authenticated.open_values(forged, name="x")
        return authenticated.check(random.child(seed, 9), [told], key)

    return jax.jit(jax.vmap(run, in_axes=(0, 0, 0, None)))


def attacks(num_batches, know_key):
    """In batches of 1024: the deltas, and what comes out."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(1, field.P31, (num_batches, 2, 1024)).astype(np.uint32)
    results = [
        attack()(seeds(1024, 2 + batch), *map(jnp.asarray, pair), know_key)
        for batch, pair in enumerate(drawn)
    ]
    values = np.concatenate([checked.values[0] for checked in results])
    passes = np.concatenate([checked.passes for checked in results])
    return drawn[:, 0].ravel(), values, passes


def test_no_guess_of_the_mac_passes():
    """Each would with probability 2^-30: one of all with 2^-16."""
    *_, passes = attacks(16, jnp.bool(False))
    assert passes.shape == (2**14,)
    assert not passes.any()


def test_who_knows_the_key_is_not_detected():
    """A positive control: the test above can fail."""
    deltas, values, passes = attacks(1, jnp.bool(True))
    assert passes.all()
    np.testing.assert_array_equal(values, (deltas + 3) % field.P31)


def test_a_product_of_operands_opened_wrongly_has_a_valid_mac():
    """So that masked operands have to be checked themselves."""

    @jax.jit
    def compute(pair, one):
        key, x, y = inputs(SEED, pair, 3, field.F31)
        forged = Authenticated(with_shares(x.value, one), x.mac)
        product, masked = authenticated.multiply(random.child(SEED, 5), forged, y, key)
        told = authenticated.open_values(product, name="product")
        sets = [told], [*masked, told], [masked[0]], [masked[1]]
        seed = random.child(SEED, 6)
        return told.value, [authenticated.check(seed, some, key) for some in sets]

    value, checks = compute(
        *(ring.from_integers(field.F31, part) for part in ([3, 5], 1))
    )
    assert integers(field.F31, value) == (3 + 1) * 5
    assert [bool(checked.passes) for checked in checks] == [True, False, False, True]
    # Nothing comes out with the pass of another check.
    assert [len(checked.values) for checked in checks] == [1, 3, 1, 1]


def test_changes_that_cancel_in_a_sum_are_detected():
    """Of two values, by one party; their plain sum is right."""

    @jax.jit
    @jax.vmap
    def passes(change, back):
        pair = ring.from_integers(field.F31, [3, 5])
        key, x, y = inputs(SEED, pair, 2, field.F31)
        told = [
            authenticated.open_values(
                Authenticated(with_shares(value.value, d), value.mac), name="value"
            )
            for value, d in ((x, change), (y, back))
        ]
        return authenticated.check(random.child(SEED, 6), told, key).passes

    by = [(0, 0), (1, -1), (-1, 1)]
    columns = (ring.from_integers(field.F31, part) for part in zip(*by, strict=True))
    assert passes(*columns).tolist() == [True, False, False]


def p_value(words, bits):
    """Of the chi-square test that the words' low bits are uniform together."""
    cells = sum(
        (np.asarray(word).astype(int) & (2**bits - 1)) << (bits * place)
        for place, word in enumerate(words)
    )
    counts = np.bincount(cells, minlength=2 ** (bits * len(words)))
    return scipy.stats.chisquare(counts).pvalue


@functools.cache
def many_shares(prime):
    """Of many seeds and a pair."""

    def run(seed, pair):
        key, x, _ = inputs(seed, pair, 3, prime)
        shares = (key.shares, x.value.shares, x.mac.shares)
        return jnp.stack([prime.to_unsigned(share).low for share in shares])

    return jax.jit(jax.vmap(run, in_axes=(0, None)))


@functools.cache
def all_shares(prime, secret):
    """Of 2^13 keys, and of a secret and its MAC: `[3, parties, 2^13]` low words, 32 for
    each cell of the largest table.
    """
    pair = ring.from_integers(prime, [secret, 0])
    every = many_shares(prime)(seeds(2**13, 3), pair)
    return np.moveaxis(np.asarray(every), 0, -1)


@pytest.mark.parametrize(
    "prime",
    [field.F31, pytest.param(field.F61, marks=pytest.mark.exhaustive)],
    ids=lambda p: p.name,
)
@pytest.mark.parametrize("secret", [0, 1, -1])
@pytest.mark.parametrize("absent", range(3))
def test_shares_of_all_parties_but_one_are_uniform(prime, secret, absent):
    present = [party for party in range(3) if party != absent]
    shares = all_shares(prime, secret)[:, present]
    assert p_value(shares.reshape(6, -1), 1) > 1e-4
    for kind in shares:
        assert p_value(kind, 4) > 1e-4


def test_the_test_of_uniformity_rejects_the_shares_of_all():
    _, value, mac = all_shares(field.F31, 0)
    assert p_value(value, 2) < 1e-9
    assert p_value(mac, 2) < 1e-9


def test_what_it_costs():
    def compute(x, y):
        key = authenticated.mac_key(SEED, 3, field.F61)
        x, y = (authenticated.authenticate(SEED, value, key) for value in (x, y))
        product, masked = authenticated.multiply(SEED, x, y, key)
        told = authenticated.open_values(product, name="product")
        return authenticated.check(SEED, [*masked, told], key)

    x, y = (ring.from_integers(field.F61, part) for part in ([1, 2, 3], [[4], [5]]))
    record = transcript.priced(compute, x, y)
    # The MACs of a and b, c and its MAC, corrected for one party.
    assert record.sent_bits(offline=True) == 61 * (3 + 2 + 2 * 6)
    assert record.sent_bits("dealer", offline=True) == 61 * 17
    # Six pairs of parties.
    assert record.sent_bits(scope="multiply") == 6 * 61 * (3 + 2)
    assert record.sent_bits(scope="product") == 6 * 61 * 6
    assert record.sent_bits(scope="check") == 6 * (256 + 61)
    assert record.sent_bits() == 6 * (61 * 11 + 256 + 61)
    assert record.sent_bits(1) == record.received_bits(2) == 2 * (61 * 11 + 256 + 61)
    rounds = [record.num_rounds(s) for s in ("multiply", "product", "check", "")]
    assert rounds == [1, 1, 2, 4]
    assert [reveal.path for reveal in record.reveals] == ["product"]


def test_forgery_probability():
    assert authenticated.forgery_probability(field.F31) == Fraction(2, 2**31 - 1)
    assert 2.0**-60 <= authenticated.forgery_probability(field.F61) < 2.0**-59.99


PAIR = [[1, 2], [3, 4]]


@pytest.fixture(scope="module")
def made():
    """A key and a value."""
    return setup(ring.from_integers(field.F31, PAIR), 2, field.F31)[:2]


@pytest.mark.parametrize(
    "function",
    [
        np.asarray, np.sum, jnp.asarray, jnp.sum, jnp.exp, float, int, bool, len, iter,
        lambda v: v + 1, lambda v: 2 * v, lambda v: v[0], lambda v: v > 0, jnp.stack,
        lambda v: jnp.where(v, 1, 0), jax.jit(lambda v: v + v), jax.jit(jnp.negative),
    ],
)  # fmt: skip
def test_an_authenticated_value_is_no_array(made, function):
    with pytest.raises(TypeError):
        function(made[1])


def test_an_authenticated_value_prints_how_it_is_shared(made):
    shown = "additive, 2 of 2 parties over F_(2^31-1), scale 1.0"
    assert str(made[1]) == f"Authenticated({shown})"


@pytest.mark.parametrize(("num_parties", "prime"), [(3, field.F31), (2, field.F61)])
def test_values_and_keys_that_differ_do_not_mix(made, num_parties, prime):
    own_key, one = made
    pair = ring.from_integers(prime, PAIR)
    other_key, other, _ = setup(pair, num_parties, prime)
    told = authenticated.open_values(one, name="one")
    uses = [
        lambda: authenticated.add(one, other),
        lambda: authenticated.subtract(one, other),
        lambda: authenticated.multiply(SEED, one, other, own_key),
        lambda: authenticated.multiply(SEED, one, one, other_key),
        lambda: authenticated.add_public(one, pair, other_key),
        lambda: authenticated.check(SEED, [told], other_key),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="cannot mix shares") as error:
            use()
        assert scheme.describe(own_key.scheme) in str(error.value)
        assert scheme.describe(other_key.scheme) in str(error.value)


def test_bad_arguments(made):
    own_key, one = made
    for bad in (ring.Z32, ring.Z64):
        words = rf"{bad.name.replace('^', '.')} is not a prime field; use field.F61 "
        key = sharing.constant(ring.zeros(bad, ()), sharing.additive(2, bad))
        for use in (
            lambda b=bad: authenticated.mac_key(SEED, 2, b),
            lambda b=bad: authenticated.forgery_probability(b),
            lambda b=bad, k=key: authenticated.authenticate(SEED, ring.zeros(b, ()), k),
        ):
            with pytest.raises(ValueError, match=words) as error:
                use()
            assert "SPDZ2k's longer ring, which the lab does not have" in str(
                error.value
            )
    with pytest.raises(ValueError, match="num_parties must be an integer"):
        authenticated.mac_key(SEED, 1, field.F61)
    with pytest.raises(ValueError, match="key must be one element, got shape"):
        authenticated.authenticate(SEED, jnp.zeros(2, jnp.uint32), one.value)
    with pytest.raises(ValueError, match="opened is empty; pass"):
        authenticated.check(SEED, [], own_key)
    ideal = sharing.constant(jnp.uint32(1), sharing.additive(2, field.F31, ideal=True))
    with pytest.raises(ValueError, match=r"scale 1\.0, ideal"):
        authenticated.authenticate(SEED, jnp.zeros(2, jnp.uint32), ideal)
    for use in (
        lambda bad: authenticated.authenticate(SEED, bad, own_key),
        lambda bad: authenticated.add_public(one, bad, own_key),
        lambda bad: authenticated.multiply_public(one, bad),
    ):
        for bad in (jnp.zeros(2), jnp.zeros(2, jnp.int32), ring.zeros(field.F61, (2,))):
            with pytest.raises(TypeError, match="must be an element of F_"):
                use(bad)
