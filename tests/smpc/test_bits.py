"""Rings of bits, the order of their places, and shares of bits."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import arithmetic, bits, ring, scheme, sharing

SEED = jnp.array([9, 10], jnp.uint32)
WIDTHS = [1, 2, 7, 31, 32, 64]
each_width = pytest.mark.parametrize("width", WIDTHS)
few = settings(max_examples=15, deadline=None, derandomize=True)
HOW = [
    sharing.additive(2, bits.bit_ring(1)),
    sharing.additive(3, bits.bit_ring(32)),
    sharing.additive(3, bits.bit_ring(64)),
    sharing.replicated(bits.bit_ring(64)),
    sharing.replicated(bits.bit_ring(5)),
]
each_how = pytest.mark.parametrize("how", HOW, ids=scheme.describe)


def words(width, count):
    edges = [0, 1, 2**width - 1, 2 ** (width - 1), 2**width // 3]
    one = st.one_of(st.sampled_from(edges), st.integers(0, 2**width - 1))
    return st.lists(one, min_size=count, max_size=count)


def integers(where, element):
    return ring.to_integers(where, element)


def bits_of(value, width):
    return [value >> place & 1 for place in range(width)]


def xor_over(values, axis):
    return np.bitwise_xor.reduce(np.asarray(values, object), axis=axis)


@functools.cache
def computed(width):
    """Compiled once: all that takes no shares."""
    where = bits.bit_ring(width)

    def compute(a, b):
        return {
            "add": where.add(a, b),
            "subtract": where.subtract(a, b),
            "multiply": where.multiply(a, b),
            "first axis": where.sum_over(a, 0),
            "last axis": where.sum_over(a, -1),
            "inverted": bits.inverted(where, a),
            "one in": bits.shifted_in(where, a, 1),
            "zero in": bits.shifted_in(where, a, 0),
            "back": where.from_unsigned(where.to_unsigned(a)),
        }, (bits.top_bit(where, a), bits.unpacked(where, a))

    return where, jax.jit(compute)


@each_width
@pytest.mark.parametrize("x64", [False, True])
@few
@given(data=st.data())
def test_words_of_bits_against_integers(width, x64, data):
    full = 2**width - 1
    a, b = np.array(data.draw(words(width, 12)), object).reshape(2, 2, 3)
    where, compute = computed(width)
    assert (where.modulus, where.bits) == (2**width, width)
    with jax.enable_x64(x64):
        elements = [ring.from_integers(where, v) for v in (a, b)]
        results, (top, unpacked) = compute(*elements)
    exact = {
        "add": a ^ b,
        "subtract": a ^ b,
        "multiply": a & b,
        "first axis": xor_over(a, 0),
        "last axis": xor_over(a, 1),
        "inverted": a ^ full,
        "one in": (a << 1 | 1) & full,
        "zero in": a << 1 & full,
        "back": a,
    }
    for name, value in exact.items():
        assert {leaf.dtype for leaf in jax.tree.leaves(results[name])} == {
            np.dtype(np.uint32)
        }
        assert integers(where, results[name]).tolist() == value.tolist(), name
    assert top.tolist() == (a >> width - 1).tolist()
    assert unpacked.dtype == top.dtype == jnp.uint32
    assert unpacked.tolist() == [[bits_of(v, width) for v in row] for row in a]


@each_width
def test_sums_over_many_words_are_parities(width):
    where, _ = computed(width)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2**63, (1001, 3)).astype(object) * 2 % 2**width
    rows[0] = 2**width - 1
    total = where.sum_over(ring.from_integers(where, rows), 0)
    assert integers(where, total).tolist() == xor_over(rows, 0).tolist()
    empty = where.sum_over(ring.zeros(where, (0, 3)), 0)
    assert integers(where, empty).tolist() == [0, 0, 0]


@each_width
def test_uniform_words_of_bits(width):
    where, _ = computed(width)
    draw = jax.jit(where.uniform, static_argnums=1)
    values = integers(where, draw(SEED, 30_000))
    assert max(values) < 2**width
    assert np.bitwise_or.reduce(values) == 2**width - 1
    for shift in {0, width // 2, max(0, width - 8)}:
        num_values = 2 ** min(8, width - shift)
        counts = np.bincount(
            [int(v >> shift) % num_values for v in values], minlength=num_values
        )
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    # Of two places, each of the four pairs as often.
    pairs = [2 * (int(v) & 1) + int(v >> width - 1) for v in values]
    counts = np.bincount(pairs, minlength=4)
    counts = counts[[0, 3]] if width == 1 else counts
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    chunk = integers(where, where.uniform(SEED, random.BLOCK, 3))
    assert chunk.tolist() == values[3 * random.BLOCK : 4 * random.BLOCK].tolist()


def test_a_ring_of_bits_is_made_once_and_is_static():
    assert bits.bit_ring(7) is bits.bit_ring(7)
    assert hash(HOW[1]) == hash(sharing.additive(3, bits.bit_ring(32)))


@pytest.mark.parametrize("width", [0, -1, 33, 48, 63, 65, 128])
def test_other_widths_are_refused(width):
    with pytest.raises(ValueError, match=f"from 1 to 32, or 64, got {width}"):
        bits.bit_ring(width)


def reversed_index(place, width):
    """The place whose number has the bits of this one from the other end."""
    length = width.bit_length() - 1
    return int(f"{place:0{length}b}"[::-1], 2)


@pytest.mark.parametrize("width", [32, 64])
def test_each_bit_goes_to_the_place_with_the_reversed_index(width):
    where = bits.bit_ring(width)
    ones = ring.from_integers(where, [1 << place for place in range(width)])
    spread = integers(
        where, jax.jit(functools.partial(bits.spread_places, where))(ones)
    )
    assert spread.tolist() == [
        1 << reversed_index(place, width) for place in range(width)
    ]


@functools.cache
def carry_out(width):
    """Of a sum, by a tree: each level joins neighbours, the halves of its words."""

    def compute(a, b):
        where = bits.bit_ring(width)
        a, b = (bits.spread_places(where, operand) for operand in (a, b))
        generated, passed = where.multiply(a, b), where.add(a, b)
        while where.bits > 1:
            generated_low, generated_high, half = bits.halves(where, generated)
            passed_low, passed_high, _ = bits.halves(where, passed)
            # Not symmetric: it matters which of two is the lower.
            by_low = half.multiply(passed_high, generated_low)
            generated = half.add(generated_high, by_low)
            passed = half.multiply(passed_low, passed_high)
            where = half
        return generated

    return jax.jit(compute)


@pytest.mark.parametrize("width", [32, 64])
@few
@given(data=st.data())
def test_after_spreading_the_halves_are_neighbours_at_every_level(width, data):
    where = bits.bit_ring(width)
    a, b = np.array(data.draw(words(width, 16)), object).reshape(2, 8)
    # Sums of which every place passes a carry on, or just starts one.
    a[0] = 2**width - 1 - b[0]
    a[1] = -b[1] % 2**width
    carry = carry_out(width)(*(ring.from_integers(where, v) for v in (a, b)))
    assert carry.tolist() == ((a + b) >> width).tolist()


@pytest.mark.parametrize("width", [2, 8, 32, 64])
def test_halves_and_their_ring(width):
    where = bits.bit_ring(width)
    values = [0, 1, 2**width - 1, 2 ** (width // 2), (2**width - 1) // 3]
    low, high, half = bits.halves(where, ring.from_integers(where, values))
    assert half is bits.bit_ring(width // 2)
    below = 2 ** (width // 2)
    assert integers(half, low).tolist() == [v % below for v in values]
    assert integers(half, high).tolist() == [v // below for v in values]


@pytest.mark.parametrize("width", [1, 16, 31])
def test_places_of_other_words_are_not_spread(width):
    where = bits.bit_ring(width)
    with pytest.raises(ValueError, match=f"bits must be 32 or 64, got {width}"):
        bits.spread_places(where, ring.zeros(where, (2,)))


@functools.cache
def on_shares(how):
    """Compiled once: sums and products of shares, and what is opened."""

    def compute(seeds, a, b):
        one, other = (sharing.share(seeds[i], v, how) for i, v in ((0, a), (1, b)))
        results = [
            one,
            sharing.add(one, other),
            sharing.add_public(one, b),
            sharing.multiply_public(one, b),
            arithmetic.multiply(seeds[2], one, other),
        ]
        return results, [sharing.reveal(result, name="bits") for result in results]

    return jax.jit(compute)


@each_how
@few
@given(data=st.data())
def test_products_of_shared_bits_are_and(how, data):
    where = how.ring
    a, b = np.array(data.draw(words(where.bits, 12)), object).reshape(2, 2, 3)
    seeds = random.child(SEED, jnp.arange(3, dtype=jnp.uint32))
    elements = [ring.from_integers(where, v) for v in (a, b)]
    shared, opened = on_shares(how)(seeds, *elements)
    exact = [a, a ^ b, a ^ b, a & b, a & b]
    for result, element, value in zip(shared, opened, exact, strict=True):
        assert sharing.shape_of(result) == (2, 3)
        assert integers(where, element).tolist() == value.tolist()
        shares = integers(where, result.shares)
        assert xor_over(shares, 0).tolist() == value.tolist()


def least_p_value(rows, width):
    """Of chi-square tests of every XOR of some of the rows, in its lowest and its
    highest bits, times how many there were (Bonferroni).
    """
    p_values = []
    num_bits = min(width, 4)
    for chosen in range(1, 2 ** len(rows)):
        some = [row for i, row in enumerate(rows) if chosen >> i & 1]
        combined = functools.reduce(operator.xor, some)
        for shift in {0, width - num_bits}:
            places = (combined >> shift) % 2**num_bits
            counts = np.bincount(places.astype(int), minlength=2**num_bits)
            p_values.append(scipy.stats.chisquare(counts).pvalue)
    return min(p_values) * len(p_values)


@each_how
@pytest.mark.parametrize("secret", [0, -1])
def test_all_shares_of_bits_but_one_are_uniform(how, secret):
    where, count = how.ring, 20_000
    a, b = (
        ring.from_integers(where, np.full(count, value, object))
        for value in (secret, 1)
    )
    (one, *_, product), _ = on_shares(how)(random.child(SEED, jnp.arange(3)), a, b)
    for shared in (one, product):
        shares = integers(where, shared.shares)
        for missing in range(how.num_parties):
            assert least_p_value(np.delete(shares, missing, 0), where.bits) > 1e-4
    # A control of the test: all of them together open the secret.
    assert least_p_value(integers(where, one.shares), where.bits) < 1e-9
