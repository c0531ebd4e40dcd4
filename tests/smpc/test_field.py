"""Powers, inverses, matrix products and rejected draws of the prime fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import field, ring

FIELDS = [field.F31, field.F61]
each_field = pytest.mark.parametrize("where", FIELDS, ids=lambda f: f.name)
each_x64 = pytest.mark.parametrize("x64", [False, True])
few = settings(max_examples=8, deadline=None, derandomize=True)
each_unit = pytest.mark.parametrize("unit", ["float64", "int8"])
matmul_by = {
    unit: functools.partial(field.matmul, unit=unit) for unit in ("float64", "int8")
}
SEED = jnp.array([5, 6], jnp.uint32)


def residues(where, count):
    p = where.modulus
    edges = st.sampled_from([0, 1, 2, p // 2, 2 ** (where.bits - 1), p - 2, p - 1])
    one = st.one_of(edges, st.integers(0, p - 1))
    return st.lists(one, min_size=count, max_size=count)


@functools.cache
def compiled(function, where):
    return jax.jit(functools.partial(function, where))


def test_the_moduli_are_prime():
    assert (field.F31.modulus, field.F61.modulus) == (2**31 - 1, 2**61 - 1)
    # Lucas and Lehmer's test of Mersenne numbers.
    for bits in (31, 61):
        value = 4
        for _ in range(bits - 2):
            value = (value * value - 2) % (2**bits - 1)
        assert value == 0


@each_field
@each_x64
@few
@given(data=st.data())
def test_powers_and_inverses(where, x64, data):
    p = where.modulus
    bases = [0, 1, p - 1, 2, *data.draw(residues(where, 4))]
    exponents = [0, p - 1, p - 2, 31, *data.draw(residues(where, 4))]
    a, e = (ring.from_integers(where, values) for values in (bases, exponents))
    with jax.enable_x64(x64):
        power = compiled(field.power, where)(a, e)
        inverse = compiled(field.inverse, where)(a)
    exact = [pow(b, n, p) for b, n in zip(bases, exponents, strict=True)]
    assert ring.to_integers(where, power).tolist() == exact
    assert ring.to_integers(where, inverse).tolist() == [
        pow(b, -1, p) if b else 0 for b in bases
    ]


@each_field
def test_powers_broadcast(where):
    a = ring.from_integers(where, [[2], [3]])
    powers = field.power(where, a, ring.from_integers(where, [0, 5, 40]))
    exact = [[b**e % where.modulus for e in (0, 5, 40)] for b in (2, 3)]
    assert ring.to_integers(where, powers).tolist() == exact


def exact_product(where, left, right):
    return (np.array(left, object) @ np.array(right, object)) % where.modulus


@each_field
@each_x64
@each_unit
@few
@given(data=st.data())
def test_matrix_products(where, x64, unit, data):
    left = np.array(data.draw(residues(where, 15)), object).reshape(3, 5)
    right = np.array(data.draw(residues(where, 10)), object).reshape(5, 2)
    a, b = ring.from_integers(where, left), ring.from_integers(where, right)
    with jax.enable_x64(x64):
        product = compiled(matmul_by[unit], where)(a, b)
    assert {leaf.dtype for leaf in jax.tree.leaves(product)} == {np.dtype(np.uint32)}
    expected = exact_product(where, left, right)
    assert ring.to_integers(where, product).tolist() == expected.tolist()


@each_field
@each_x64
@pytest.mark.parametrize(
    ("unit", "terms"), [("float64", 64), ("float64", 200), ("int8", 2**13 + 7)]
)
def test_long_products_of_the_largest_elements_are_exact(where, x64, unit, terms):
    largest = where.modulus - 1
    left = np.full((2, terms), largest, object)
    # Bytes of -128 have the largest products.
    left[1] = lowest = -sum(128 << shift for shift in range(0, where.bits - 8, 8))
    right = np.full((terms, 4), largest, object)
    right[:, 1] = 2 ** (where.bits - 1)
    right[:, 3] = lowest
    right[:, 2] = [pow(3, k, where.modulus) for k in range(terms)]
    with jax.enable_x64(x64):
        product = compiled(matmul_by[unit], where)(
            ring.from_integers(where, left), ring.from_integers(where, right)
        )
    expected = exact_product(where, left, right)
    assert ring.to_integers(where, product).tolist() == expected.tolist()


@each_field
def test_matrix_products_under_vmap_of_a_compiled_function(where):
    """It is traced again, where 64-bit types may be off."""
    left = np.full((2, 3, 70), where.modulus - 1, object)
    right = np.full((2, 70, 2), where.modulus - 2, object)
    product = jax.jit(jax.vmap(compiled(field.matmul, where)))(
        ring.from_integers(where, left), ring.from_integers(where, right)
    )
    expected = exact_product(where, left, right)
    assert ring.to_integers(where, product).tolist() == expected.tolist()


@each_field
def test_matrix_products_need_matching_shapes(where):
    a, b = ring.zeros(where, (2, 3)), ring.zeros(where, (2, 3))
    with pytest.raises(ValueError, match=r"cannot multiply \(2, 3\) by \(2, 3\)"):
        field.matmul(where, a, b)


def few_bits(seed, length, first_block, bits=2):
    """Draws from 0 to 2^bits - 1, of which the largest will be refused often."""
    return random.words(seed, length, first_block) >> jnp.uint32(32 - bits)


def test_a_refused_value_is_drawn_again_without_a_trace():
    """In a field this happens once in 2^31 draws; here every fourth time."""
    draw = functools.partial(few_bits, length=30_000, first_block=0)
    without = jax.jit(lambda seed: field._without(3, draw, seed))
    values = np.asarray(without(SEED))
    counts = np.bincount(values, minlength=4)
    assert counts[3] == 0
    assert scipy.stats.chisquare(counts[:3]).pvalue > 1e-3
    chunk = functools.partial(few_bits, length=2048, first_block=jnp.int32(2))
    part = jax.jit(lambda seed: field._without(3, chunk, seed))(SEED)
    np.testing.assert_array_equal(part, values[2048:4096])
    lanes = jax.vmap(without)(jnp.stack([SEED, SEED + jnp.uint32(1)]))
    np.testing.assert_array_equal(lanes[0], values)


def test_a_pair_is_refused_only_as_a_pair():
    def draw(seed):
        halves = [few_bits(random.child(seed, k), 30_000, 0, 1) for k in (7, 8)]
        return ring.Wide(*halves)

    low, high = jax.jit(lambda seed: field._without(2**32 + 1, draw, seed))(SEED)
    counts = np.bincount(np.asarray(low) + 2 * np.asarray(high), minlength=4)
    assert counts[3] == 0
    assert scipy.stats.chisquare(counts[:3]).pvalue > 1e-3
