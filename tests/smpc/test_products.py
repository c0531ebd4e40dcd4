"""Products of matrices and images against Python's integers, at the bounds of units."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppml_lab.smpc import field, limbs, products, ring

CASES = [
    (where, unit) for where in (ring.Z32, ring.Z64) for unit in ("float64", "int8")
]
each_case = pytest.mark.parametrize(
    ("where", "unit"), CASES, ids=lambda part: getattr(part, "name", part)
)
each_ring = pytest.mark.parametrize("where", [ring.Z32, ring.Z64], ids=lambda r: r.name)
each_x64 = pytest.mark.parametrize("x64", [False, True])
# Either ring, unit and setting with either of the others.
PAIRS = (
    (ring.Z32, "float64", False),
    (ring.Z32, "int8", True),
    (ring.Z64, "float64", True),
    (ring.Z64, "int8", False),
)
each_pair = pytest.mark.parametrize(
    ("where", "unit", "x64"),
    [
        pytest.param(
            *(case := (where, unit, x64)),
            id=f"{where.name}-{unit}-{x64}",
            marks=[] if case in PAIRS else [pytest.mark.exhaustive],
        )
        for where, unit in CASES
        for x64 in (False, True)
    ],
)
few = settings(max_examples=15, deadline=None, derandomize=True)
MATRICES = (((1,), (0,)), ((), ()))
BATCHED = (((2,), (1,)), ((0,), (0,)))
WIDTHS = {
    ("float64", 32): (11, 21),
    ("float64", 64): (22, 22, 20),
    ("int8", 32): (8,) * 4,
    ("int8", 64): (8,) * 8,
}
"""Of the limbs at the longest inner dimension."""


@functools.cache
def compiled(where, unit, dims=MATRICES):
    return jax.jit(
        lambda left, right: products.dot_general(where, left, right, dims, unit=unit)
    )


def words_of(element):
    leaves = jax.tree.leaves(element)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.uint32)}
    return leaves


def check(where, function, left, right, exact=None):
    """`function` of elements against the product of matrices of Python integers."""
    left, right = (np.asarray(operand, object) for operand in (left, right))
    result = function(*(ring.from_integers(where, v) for v in (left, right)))
    words_of(result)
    exact = left @ right if exact is None else exact
    assert ring.to_integers(where, result).tolist() == (exact % where.modulus).tolist()


def joined(limbs, widths):
    """The integer that has these signed limbs, lowest first."""
    places = np.cumsum([0, *widths[:-1]])
    return sum(limb << int(p) for limb, p in zip(limbs, places, strict=True))


def hard_rows(where, unit, terms):
    """Rows of words whose limbs are as large as they get, or beside a boundary."""
    modulus, bits = where.modulus, where.bits
    widths = WIDTHS[unit, bits]
    most = [(1 << width - 1) - 1 for width in widths]
    least = [-(1 << width - 1) for width in widths]
    # Odd sums of limbs: only they need every bit of a float's.
    odd = [limb - place % 2 for place, limb in enumerate(most)]
    constants = [
        *(joined(limbs, widths) for limbs in (most, least, odd)),
        *(1, modulus - 1, modulus // 2, modulus // 2 - 1),
        *(2**21 + bits % 32, 2**22 - 1, 2**22, 2**43 % modulus),
        int("01" * (bits // 2), 2),
    ]
    rows = [np.full(terms, value, object) for value in constants]
    one_sign = joined(most, widths)
    signs = np.where(np.arange(terms) % 2, one_sign, -one_sign).astype(object)
    rng = np.random.default_rng(terms)
    pick = rng.integers(0, 2, (len(widths), terms)).astype(bool)
    ends = [np.where(p, a, b) for p, a, b in zip(pick, most, least, strict=True)]
    mixed = joined([end.astype(object) for end in ends], widths)
    return np.stack([*rows, signs, mixed]) % modulus


def near_most(rng, widths, shape):
    """Words of which every limb is a little below its largest value."""
    below = rng.integers(0, 8, (len(widths), *shape)).astype(object)
    return joined(
        [2 ** (w - 1) - 1 - d for w, d in zip(widths, below, strict=True)], widths
    )


@each_pair
@few
@given(data=st.data())
def test_products_of_random_matrices(where, unit, x64, data):
    near = [2**k + d for k in (0, 7, 10, 21, 22, 31, 32, 43, 44, 63) for d in (-1, 0)]
    edges = [value for value in near if value < where.modulus]
    one = st.one_of(st.sampled_from(edges), st.integers(0, where.modulus - 1))
    drawn = data.draw(st.lists(one, min_size=25, max_size=25))
    left, right = np.array(drawn[:15], object), np.array(drawn[15:], object)
    with jax.enable_x64(x64):
        function = compiled(where, unit)
        check(where, function, left.reshape(3, 5), right.reshape(5, 2))


@each_pair
@pytest.mark.parametrize("beyond", [0, 1])
def test_the_largest_limbs_are_exact_at_the_bound_and_one_beyond(
    where, unit, x64, beyond
):
    """Beyond it the product is added up from two, of which one has a single term."""
    terms = products.MOST_TERMS[unit, where.bits] + beyond
    if unit == "int8" and (x64 or where.bits == 32):
        # As long as this its bound makes Python's integers slow.
        terms = 700 + beyond
    rows = hard_rows(where, unit, terms)
    if terms > 5000:
        rows = rows[[0, 1, 2, -1]]
    columns = rows.T
    if (unit, where.bits) == ("float64", 32):
        # Cut as the length has it, words are narrow on the left and whole on the right.
        rng = np.random.default_rng(0)
        for low in (9, 10, 11, 12):
            widths = (low, 32 - low)
            rows = np.vstack([rows, near_most(rng, widths, (1, terms))])
            columns = np.hstack([columns, near_most(rng, widths[::-1], (terms, 1))])
    with jax.enable_x64(x64):
        check(where, compiled(where, unit), rows, columns)


def test_every_inner_dimension_leaves_the_limbs_of_words_their_room():
    """They get narrower at powers of two."""
    several = (1, 2, 127, 128, 129, 256, 257)
    rows = hard_rows(ring.Z32, "float64", max(several))[[0, 1, 2, 4, -1]]
    element = ring.from_integers(ring.Z32, rows)

    @jax.jit
    def compute(element):
        pieces = [element[:, :terms] for terms in several]
        return [products.matmul(ring.Z32, piece, piece.T) for piece in pieces]

    for terms, result in zip(several, compute(element), strict=True):
        piece = rows[:, :terms]
        exact = (piece @ piece.T) % 2**32
        assert ring.to_integers(ring.Z32, result).tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("case", "pieces", "widths"),
    [
        (CASES[0], 8, ((8, 24), (24, 8))),
        (CASES[2], 4, ((22, 22, 20),) * 2),
        (CASES[3], 3, ((8,) * 8,) * 2),
    ],
    ids=["words", "wide", "bytes"],
)
def test_a_long_product_in_one_piece_is_wrong_and_in_several_is_exact(
    case, pieces, widths
):
    """A control of the bounds. Modulo 2^32 bytes need none: their sums wrap rightly."""
    (where, unit), (wide, tall) = case, widths
    terms = pieces * products.MOST_TERMS[unit, where.bits]
    rng = np.random.default_rng(0)
    left: Any = near_most(rng, wide, (1, terms))
    right: Any = near_most(rng, tall, (terms, 1))
    operands = [ring.from_integers(where, operand) for operand in (left, right)]

    def at_once(a, b):
        return products._limb_product(where, a, b, MATRICES, unit)

    whole = ring.to_integers(where, jax.jit(at_once)(*operands))
    assert whole.tolist() != ((left @ right) % where.modulus).tolist()
    check(where, compiled(where, unit), left, right)


@pytest.mark.parametrize("pieces", [1, 4])
def test_three_limbs_fill_a_float_at_their_bound(pieces):
    rng, widths = np.random.default_rng(0), WIDTHS["float64", 64]
    left: Any = near_most(rng, widths, (3, 512 * pieces))
    right: Any = near_most(rng, widths, (512 * pieces, 3))
    a, b = (ring.from_integers(ring.Z64, value) for value in (left, right))
    dot = functools.partial(lax.dot, precision=lax.Precision.HIGHEST)
    with ring.x64():
        words = products._wide_words(ring.widened(a), ring.widened(b), dot)
        result = ring.to_integers(ring.Z64, ring.narrowed(words))
    assert np.array_equal(result, (left @ right) % 2**64) == (pieces == 1)


@pytest.mark.parametrize("where", [field.F31, field.F61], ids=lambda f: f.name)
@each_x64
@few
@given(data=st.data())
def test_matrix_products_in_fields(where, x64, data):
    p = where.modulus
    edges = st.sampled_from([0, 1, p // 2, 2**16, 2 ** (where.bits - 1), p - 2, p - 1])
    one = st.one_of(edges, st.integers(0, p - 1))
    drawn = data.draw(st.lists(one, min_size=10, max_size=10))
    # Longer than the field's own bound of 64 terms.
    left = np.array(drawn * 14, object).reshape(2, 70)
    with jax.enable_x64(x64):
        check(where, matmul_in(where), left, np.flip(left).T)


@functools.cache
def matmul_in(where):
    return jax.jit(functools.partial(products.matmul, where))


@each_ring
def test_matmul_is_by_the_unit_of_the_backend(where):
    assert limbs.unit_of("cpu") == limbs.unit_of("gpu") == "float64"
    assert limbs.unit_of("tpu") == "int8"
    rows = hard_rows(where, "float64", 20)
    check(where, matmul_in(where), rows, rows.T)


@each_pair
def test_batches_and_vmap(where, unit, x64):
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**63, (2, 3, 6)).astype(object) * 2 + 1
    right = rng.integers(0, 2**63, (2, 6, 4)).astype(object) * 2
    exact = np.stack([a @ b for a, b in zip(left, right, strict=True)])
    with jax.enable_x64(x64):
        check(where, compiled(where, unit, BATCHED), left, right, exact)
        # It is traced again, where 64-bit types may be off.
        check(where, jax.jit(jax.vmap(compiled(where, unit))), left, right, exact)
        one_side = jax.jit(jax.vmap(compiled(where, unit), in_axes=(0, None)))
        shared = np.stack([a @ right[0] for a in left])
        check(where, one_side, left, right[0], shared)


@each_case
def test_several_contracted_axes_count_together(where, unit):
    most = products.MOST_TERMS[unit, where.bits]
    shape = (3, most // 3 + 30)
    if unit == "int8":
        shape = (3, 50)
    rows = hard_rows(where, unit, shape[0] * shape[1])[[0, 1, 2, -1]]
    left, right = rows.reshape(4, *shape), rows.T.reshape(*shape, 4)
    function = compiled(where, unit, (((1, 2), (0, 1)), ((), ())))
    check(where, function, left, right, rows @ rows.T)
    with pytest.raises(ValueError, match="flatten them into one"):
        jax.eval_shape(
            compiled(where, unit, (((0, 1), (0, 1)), ((), ()))),
            *2 * [jax.eval_shape(lambda: ring.zeros(where, (most + 1, most + 1)))],
        )


@each_case
def test_products_without_a_contracted_axis_or_with_an_empty_one(where, unit):
    left, right = np.array([3, -1], object), np.array([2**31, -1], object)
    outer = compiled(where, unit, (((), ()), ((), ())))
    check(where, outer, left, right, np.outer(left, right))
    empty = [ring.zeros(where, shape) for shape in ((2, 0), (0, 3))]
    result = ring.to_integers(where, compiled(where, unit)(*empty))
    assert result.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("where", "unit", "split"),
    [
        pytest.param(
            where,
            unit,
            "contracted axis" if contracted else "rows",
            id=f"{where.name}-{unit}-{'contracted axis' if contracted else 'rows'}",
            marks=[]
            if (where, unit, contracted) in PAIRS
            else [pytest.mark.exhaustive],
        )
        for where, unit in CASES
        for contracted in (False, True)
    ],
)
def test_devices_together_compute_the_same(where, unit, split):
    terms = 600 + 600 * (where.bits == 32)
    rows = hard_rows(where, unit, terms)[:8]
    a, b = (ring.from_integers(where, operand) for operand in (rows, rows.T))
    alone = words_of(compiled(where, unit)(a, b))
    mesh = Mesh(np.array(jax.devices()[:4]), ("part",))
    by_rows = split == "rows"
    specs = [
        PartitionSpec("part") if by_rows else PartitionSpec(None, "part"),
        PartitionSpec() if by_rows else PartitionSpec("part"),
    ]
    spread = [
        jax.device_put(operand, NamedSharding(mesh, spec))
        for operand, spec in zip((a, b), specs, strict=True)
    ]
    assert len(jax.tree.leaves(spread)[0].sharding.device_set) == 4
    together = words_of(compiled(where, unit)(*spread))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    check(where, compiled(where, unit), rows, rows.T)


def direct_convolution(images, kernel, strides, padding):
    """By definition, in Python's integers."""
    (above, below), (before, after) = padding
    n, h, w, channels = images.shape
    # Not np.pad, whose zeros are of 64 bits.
    padded = np.zeros((n, above + h + below, before + w + after, channels), object)
    padded[:, above : above + h, before : before + w] = images
    rows, columns = kernel.shape[:2]
    height = (padded.shape[1] - rows) // strides[0] + 1
    width = (padded.shape[2] - columns) // strides[1] + 1
    out = np.zeros((len(images), height, width, kernel.shape[3]), object)
    for i in range(height):
        for j in range(width):
            top, left = i * strides[0], j * strides[1]
            window = padded[:, top : top + rows, left : left + columns]
            out[:, i, j] = np.tensordot(window, kernel, axes=3)
    return out


@each_ring
@pytest.mark.parametrize(
    ("strides", "padding"),
    [
        ((1, 1), ((0, 0), (0, 0))),
        ((2, 3), ((1, 0), (2, 1))),
        ((2, 1), ((1, 1), (0, 2))),
    ],
)
def test_convolutions_with_strides_and_padding(where, strides, padding):
    rng = np.random.default_rng(1)
    images = rng.integers(-(2**62), 2**62, (2, 6, 7, 3)).astype(object) * 3
    kernel = rng.integers(-(2**62), 2**62, (3, 2, 3, 2)).astype(object) * 3
    function = functools.partial(
        products.convolution, where, strides=strides, padding=padding
    )
    exact = direct_convolution(images, kernel, strides, padding)
    check(where, jax.jit(function), images, kernel, exact)


@each_ring
def test_convolutions_with_many_channels_are_exact(where):
    """9 * 256 terms, of the largest limbs: a bound by the window alone would be wrong,
    as CrypTen 0.4.1's is on GPUs (its issue 307).
    """
    terms = 9 * 256
    least, odd = hard_rows(where, "float64", terms)[[1, 2]]
    padding = ((1, 1), (1, 1))
    images = np.tile(odd[: 3 * 3 * 256].reshape(1, 3, 3, 256), (2, 1, 1, 1))
    images[1] = least[0]
    kernel = np.stack([odd, least], axis=-1).reshape(3, 3, 256, 2)
    function = functools.partial(
        products.convolution, where, strides=(1, 1), padding=padding
    )
    exact = direct_convolution(images, kernel, (1, 1), padding)
    check(where, jax.jit(function), images, kernel, exact)


def test_patches_are_the_windows_row_by_row():
    images = jnp.arange(2 * 4 * 5 * 3, dtype=jnp.uint32).reshape(2, 4, 5, 3)
    cut = products.patches(images, (2, 3), (2, 1), ((0, 0), (0, 0)))
    assert cut.shape == (2, 2, 3, 18)
    np.testing.assert_array_equal(cut[1, 1, 2], images[1, 2:4, 2:5].reshape(-1))


def test_operands_that_do_not_fit_are_refused():
    def fails(where, left, right, match, **options):
        a, b = ring.zeros(where, left), ring.zeros(where, right)
        options: dict[str, Any] = {"dims": MATRICES, **options}
        with pytest.raises(ValueError, match=match):
            products.dot_general(where, a, b, **options)

    for where in (ring.Z32, ring.Z64, field.F31):
        fails(where, (2, 3), (2, 3), r"cannot multiply \(2, 3\) by \(2, 3\)")
    shape = (2, 2, 2)
    fails(field.F61, shape, shape, "multiplies matrices only", dims=BATCHED)
    fails(ring.Z32, (2, 3), (3, 2), "unknown unit 'int9'; did you mean", unit="int9")
    with pytest.raises(ValueError, match="cannot multiply"):
        products.convolution(
            ring.Z32,
            ring.zeros(ring.Z32, (1, 4, 4, 2)),
            ring.zeros(ring.Z32, (3, 3, 3, 1)),
            (1, 1),
            ((0, 0), (0, 0)),
        )
