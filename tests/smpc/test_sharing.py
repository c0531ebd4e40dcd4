"""Shared values open to the secret, hide it before, and are no arrays."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from ppml_lab import random
from ppml_lab.smpc import field, ring, scheme, shamir, sharing

SEED = jnp.array([7, 8], jnp.uint32)
ONE_EACH = [
    sharing.additive(2),
    sharing.additive(5, ring.Z64, scale=2.0**16),
    sharing.replicated(ring.Z64, scale=2.0**20),
    shamir.shamir(2, 3),
]
OTHERS = [
    sharing.additive(3, field.F31),
    sharing.additive(3, field.F61),
    sharing.replicated(),
    shamir.shamir(3, 4, field.F61),
]
share = jax.jit(sharing.share, static_argnames="scheme")
ONE = share(SEED, jnp.arange(3, dtype=jnp.uint32), scheme=ONE_EACH[0])
names = scheme.describe
one_each = pytest.mark.parametrize("how", ONE_EACH, ids=names)


def integers(how, element):
    return ring.to_integers(how.ring, element)


def opened(shared):
    """By definition, in Python's integers."""
    shares, p = integers(shared.scheme, shared.shares), shared.scheme.ring.modulus
    weights = [1] * len(shares)
    if shared.scheme.kind == "shamir":
        points = range(1, len(shares) + 1)
        for j, x in enumerate(points):
            for y in {*points} - {x}:
                weights[j] = weights[j] * y * pow(y - x, -1, p) % p
    total = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    return np.asarray(total % p, object)


@functools.cache
def computed(how):
    """Compiled once: shares of two values, and what is computed from them."""

    def compute(seeds, pair, factor):
        both = jax.vmap(lambda seed, v: sharing.share(seed, v, how))(seeds, pair)
        one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))
        results = [
            one,
            sharing.add(one, other),
            sharing.subtract(one, other),
            sharing.add_public(one, factor),
            sharing.multiply_public(other, factor),
        ]
        return results, [sharing.reveal(result, name="value") for result in results]

    return jax.jit(compute)


@pytest.mark.parametrize(
    "how",
    # Products and polynomials over the same rings are tested elsewhere.
    [*ONE_EACH, *(pytest.param(how, marks=pytest.mark.exhaustive) for how in OTHERS)],
    ids=names,
)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_opened_is_what_was_computed(how, data):
    p = how.ring.modulus
    edges = st.sampled_from([0, 1, p // 2, p // 2 + 1, p - 1])
    values = st.lists(st.one_of(edges, st.integers(0, p - 1)), min_size=15, max_size=15)
    drawn = np.array(data.draw(values), object)
    pair, factor = drawn[:12].reshape(2, 2, 3), drawn[12:]
    elements = [ring.from_integers(how.ring, v) for v in (pair, factor)]
    seeds = random.child(SEED, jnp.arange(2, dtype=jnp.uint32))
    shared, revealed = computed(how)(seeds, *elements)
    a, b = pair
    exact = [a, a + b, a - b, a + factor, b * factor]
    for result, element, value in zip(shared, revealed, exact, strict=True):
        assert result.scheme == how
        assert sharing.shape_of(result) == (2, 3)
        assert integers(how, element).tolist() == (value % p).tolist()
        assert opened(result).tolist() == (value % p).tolist()


@one_each
def test_the_same_with_64_bit_types(how):
    pair = ring.from_integers(how.ring, np.arange(12).reshape(2, 2, 3) * 2**29)
    seeds, factor = jnp.stack([SEED, SEED]), ring.from_integers(how.ring, [1, -1, 5])
    narrow = jax.tree.leaves(computed(how)(seeds, pair, factor))
    with jax.enable_x64(True):
        wide = jax.tree.leaves(computed(how)(seeds, pair, factor))
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == other.dtype == jnp.uint32
        np.testing.assert_array_equal(one, other)


@one_each
def test_shares_of_zero_make_shares_fresh(how):
    @jax.jit
    def compute(secret):
        before = sharing.share(SEED, secret, how)
        zeros = sharing.zero_sharing(random.child(SEED, 0), (1, 3), how)
        return before, zeros, sharing.add(before, zeros)

    before, zeros, after = compute(ring.from_integers(how.ring, [[1, 2, 3]]))
    assert opened(zeros).tolist() == [[0, 0, 0]]
    assert opened(after).tolist() == [[1, 2, 3]]
    assert not (integers(how, before.shares) == integers(how, after.shares)).any()


@one_each
def test_shapes_broadcast_past_the_parties(how):
    """With as many columns as parties, a careless broadcast would mix the two."""
    n = how.num_parties
    row, column = np.arange(n), 10 * np.arange(n).reshape(n, 1)

    @jax.jit
    def compute(a, b, three):
        one, other = (sharing.share(SEED, v, how) for v in (a, b))
        return (
            sharing.add(one, other),
            sharing.add_public(one, b),
            sharing.add_public(other, a),
            sharing.multiply_public(one, b),
            sharing.multiply_public(one, three),
            sharing.share(SEED, three, how),
        )

    results = compute(*(ring.from_integers(how.ring, v) for v in (row, column, 3)))
    added = row + column
    exact = (added, added, added, row * column, 3 * row, np.array(3))
    for result, value in zip(results, exact, strict=True):
        assert opened(result).tolist() == value.tolist()


def test_what_a_party_holds():
    secret = jnp.arange(4, dtype=jnp.uint32)
    shared = share(SEED, secret, scheme=sharing.replicated())
    held = [sharing.view(shared, party) for party in range(3)]
    for party in range(3):
        (first, second), (again, third) = held[party], held[(party + 1) % 3]
        np.testing.assert_array_equal(second, again)
        np.testing.assert_array_equal(first + second + third, secret)
    (alone,) = sharing.view(ONE, 1)
    np.testing.assert_array_equal(alone, ONE.shares[1])
    with pytest.raises(ValueError, match="party must be distinct, from 0 to 2, got"):
        sharing.view(shared, 3)


@pytest.mark.parametrize("how", [ONE_EACH[0], *ONE_EACH[2:], OTHERS[0]], ids=names)
def test_devices_that_share_a_part_each_make_the_shares_of_the_whole(how):
    secret = ring.from_integers(how.ring, np.arange(8192) * 12345)
    whole = share(SEED, secret, scheme=how)
    mesh = Mesh(np.array(jax.devices()[:4]), ("parts",))

    def part(mine):
        block = jax.lax.axis_index("parts") * (2048 // random.BLOCK)
        return sharing.share(SEED, mine, how, block)

    parts = jax.jit(
        jax.shard_map(
            part,
            mesh=mesh,
            in_specs=PartitionSpec("parts"),
            out_specs=PartitionSpec(None, "parts"),
        )
    )(secret)
    chunk = jax.tree.map(lambda leaf: leaf[2048:5000], secret)
    middle = share(SEED, chunk, scheme=how, first_block=2)
    for one, split, piece in zip(
        *map(jax.tree.leaves, (whole, parts, middle)), strict=True
    ):
        np.testing.assert_array_equal(one, split)
        np.testing.assert_array_equal(one[:, 2048:5000], piece)


@pytest.mark.parametrize("how", ONE_EACH[1:], ids=names)
def test_vmap_shares_each_as_alone(how):
    seeds = random.child(SEED, jnp.arange(3, dtype=jnp.uint32))
    secrets = ring.from_integers(how.ring, np.arange(12).reshape(3, 4))
    together = jax.vmap(functools.partial(share, scheme=how))(seeds, secrets)
    last = share(seeds[2], jax.tree.map(lambda leaf: leaf[2], secrets), scheme=how)
    for lanes, alone in zip(*map(jax.tree.leaves, (together, last)), strict=True):
        np.testing.assert_array_equal(lanes[2], alone)


def least_p_value(shares):
    """The least of chi-square p-values, times how many there were (Bonferroni).

    Of every byte of every combination, with coefficients -1, 0, 1, of all shares but
    one: words that are uniform together have only uniform combinations.
    """
    p_values = []
    choices = itertools.product((-1, 0, 1), repeat=len(shares))
    for signs in (c for c in choices if any(c) and not all(c)):
        combined = (np.array(signs, np.int32).view(np.uint32)[:, None] * shares).sum(
            axis=0, dtype=np.uint32
        )
        for byte in range(4):
            counts = np.bincount((combined >> (8 * byte)) & 255, minlength=256)
            p_values.append(scipy.stats.chisquare(counts).pvalue)
    return min(p_values) * len(p_values)


across = jax.jit(jax.vmap(sharing.share, in_axes=(0, None, None)), static_argnums=2)


def many_shares(how, secret, across_seeds):
    """`[num_parties, 20000]`, of one long secret or of one word by many seeds."""
    if not across_seeds:
        long = jnp.full(20_000, secret, jnp.uint32)
        return np.asarray(share(SEED, long, scheme=how).shares)
    seeds = random.child(SEED, jnp.arange(20_000, dtype=jnp.uint32))
    return np.asarray(across(seeds, jnp.asarray(secret, jnp.uint32), how).shares).T


# Every pair of a number of parties, a secret and a way to draw; else all three.
@pytest.mark.parametrize(
    ("num_parties", "secret", "across_seeds"),
    [
        pytest.param(n, secret, across, marks=[] if one else [pytest.mark.exhaustive])
        for n in (2, 3, 4)
        for secret in (0, 0xDEADBEEF)
        for across in (False, True)
        for one in [(across == bool(secret)) == (n != 3)]
    ],
)
def test_all_shares_but_one_are_uniform_whatever_the_secret(
    num_parties, secret, across_seeds
):
    shares = many_shares(sharing.additive(num_parties), secret, across_seeds)
    assert least_p_value(shares) > 1e-3


def test_the_test_of_uniformity_rejects_leaks():
    shares = many_shares(sharing.additive(3), 0, False)
    mask = shares[1]
    assert least_p_value(np.stack([-(mask + mask), mask, mask])) < 1e-9
    assert least_p_value(np.stack([0 * mask, mask, -mask])) < 1e-9
    assert least_p_value(shares & 0x7FFFFFFF) < 1e-9


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "as CrypTen"])
@pytest.mark.parametrize("shift", [0, 8])
def test_a_share_that_is_sent_on_must_be_made_fresh(fresh, shift):
    """Three parties shift their summands right, as replicated truncation does: party 0
    sends what it makes of its two to party 1, which holds the third.

    A positive control: CrypTen 0.4.1 sends it without a sharing of zero added.
    """
    how = sharing.replicated()
    zeros = sharing.zero_sharing(random.child(SEED, 1), (20_000,), how)
    (mask, _) = map(np.asarray, sharing.view(zeros, 0))

    def seen(secret):
        long = jnp.full(20_000, secret << shift, jnp.uint32)
        shared = share(SEED, long, scheme=how)
        first, second = map(np.asarray, sharing.view(shared, 0))
        held = map(np.asarray, sharing.view(shared, 1))
        sent = ((first + second).view(np.int32) >> shift).view(np.uint32)
        return [*held, sent + mask if fresh else sent]

    def guess(secret):
        """What the message would be a sharing of, if it were one."""
        _, third, sent = seen(secret)
        return sent + (third.view(np.int32) >> shift).view(np.uint32)

    table = [np.bincount(guess(secret) & 15, minlength=16) for secret in (3, 9)]
    table = np.stack(table)[:, np.sum(table, axis=0) > 0]
    p_value = scipy.stats.chi2_contingency(table).pvalue
    unrelated = np.random.default_rng(0).integers(2**32, size=20_000, dtype=np.uint32)
    whole_view = np.stack([*seen(3), unrelated])
    if fresh:
        assert p_value > 1e-3
        assert least_p_value(whole_view) > 1e-3
    else:
        assert p_value < 1e-9
        assert least_p_value(whole_view) < 1e-9 or shift


@pytest.mark.parametrize(
    "function",
    [
        np.asarray, np.sum, np.exp, jnp.asarray, jnp.sum, jnp.exp, float, int, bool,
        len, iter, lambda v: v + 1, lambda v: 2 * v, lambda v: v @ v, lambda v: v[0],
        lambda v: v > 0, lambda v: jnp.ones(3) + v, lambda v: np.ones(3) * v, jnp.stack,
        jax.grad(lambda v: v.shares.sum()), lambda v: jnp.where(v, 1, 0),
        jax.jit(lambda v: v + v), jax.jit(jnp.negative),
    ],
)  # fmt: skip
def test_a_shared_value_is_no_array(function):
    with pytest.raises(TypeError):
        function(ONE)


def test_a_shared_value_prints_how_it_is_shared():
    assert str(ONE) == "Shared(additive, 2 of 2 parties over Z_2^32, scale 1.0)"


@pytest.mark.parametrize(
    "other",
    [
        sharing.additive(3),
        sharing.additive(2, scale=2.0),
        sharing.additive(2, field.F31),
    ],
    ids=names,
)
def test_shares_that_differ_do_not_mix(other):
    theirs = sharing.share(SEED, jnp.arange(3, dtype=jnp.uint32), other)
    for operation in (sharing.add, sharing.subtract):
        with pytest.raises(ValueError, match="cannot mix shares") as error:
            operation(ONE, theirs)
        assert names(ONE.scheme) in str(error.value)
        assert names(other) in str(error.value)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_parties must be an integer"):
        sharing.additive(1)
    with pytest.raises(ValueError, match="scale must be positive and finite, got 0"):
        sharing.replicated(scale=0.0)
    with pytest.raises(ValueError, match="first_block 1 needs a flat secret"):
        sharing.share(SEED, jnp.zeros((2, 2), jnp.uint32), sharing.additive(2), 1)
    uses = [
        lambda bad: sharing.share(SEED, bad, sharing.additive(2)),
        lambda bad: sharing.add_public(ONE, bad),
        lambda bad: sharing.multiply_public(ONE, bad),
    ]
    wrong = [jnp.zeros(3), jnp.zeros(3, jnp.int32), ring.zeros(ring.Z64, (3,)), 1]
    for use, bad in itertools.product(uses, wrong):
        with pytest.raises(TypeError, match="must be an element of Z_2"):
            use(bad)
    with pytest.raises(TypeError, match="must be an element of Z_2"):
        sharing.share(SEED, jnp.zeros(3, jnp.uint32), ONE_EACH[1])
