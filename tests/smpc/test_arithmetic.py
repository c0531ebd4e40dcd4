"""Products of shares: the parties' own words, bit for bit, and what each of them sees.

All products of a scheme are one program, as compiling generators takes longest.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppml_lab import random
from ppml_lab.smpc import arithmetic, field, ring, scheme, shamir, sharing, transcript

SEED = jnp.array([21, 22], jnp.uint32)
SCHEMES = [
    make(where)
    for where in (ring.Z32, ring.Z64)
    for make in (
        functools.partial(sharing.additive, 2),
        functools.partial(sharing.additive, 3),
        sharing.replicated,
    )
]
names = scheme.describe
# Each protocol over each ring: what is left is a pair of the others.
PAIRS = [SCHEMES[i] for i in (0, 2, 4, 5)]


def each(schemes):
    # Grouped by scheme, as each has a program.
    return pytest.mark.parametrize(
        "how",
        [
            pytest.param(how, marks=[] if how in PAIRS else [pytest.mark.exhaustive])
            for how in schemes
        ],
        ids=names,
        scope="module",
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A product, in Python's integers too, and what it sends."""

    product: Callable[..., Any]
    exact: Callable[[Any, Any], Any]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    num_opened: int
    num_results: int


def convolved(images, kernel):
    """Strides 2 and 1, a row of zeros above and a column of them at the right."""
    (n, h, w, _), (rows, columns, _, d) = images.shape, kernel.shape
    padded = np.zeros((n, h + 1, w + 1, images.shape[3]), object)
    padded[:, 1:, :w] = images
    result = np.zeros((n, (h + 1 - rows) // 2 + 1, w + 2 - columns, d), object)
    for i, j in np.ndindex(*result.shape[1:3]):
        window = padded[:, 2 * i : 2 * i + rows, j : j + columns]
        result[:, i, j] = np.tensordot(window, kernel, 3)
    return result


DIMS = (((2,), (0,)), ((0,), (1,)))
CASES = {
    # All pairs of 12 values.
    "multiply": Case(
        arithmetic.multiply, lambda a, b: a * b, ((12, 1), (12,)), 24, 144
    ),
    "scalar": Case(arithmetic.multiply, lambda a, b: a * b, ((), (2, 3)), 7, 6),
    "matmul": Case(arithmetic.matmul, lambda a, b: a @ b, ((3, 5), (5, 2)), 25, 6),
    "dot_general": Case(
        lambda seed, one, other: arithmetic.dot_general(seed, one, other, DIMS),
        lambda a, b: a @ b.transpose(1, 0, 2),
        ((2, 3, 4), (4, 2, 5)),
        64,
        30,
    ),
    "convolution": Case(
        lambda seed, one, other: arithmetic.convolution(
            seed, one, other, (2, 1), ((1, 0), (0, 1))
        ),
        convolved,
        ((2, 5, 4, 2), (2, 3, 2, 3)),
        # 80 pixels, which would be 216 in patches, and 36 weights.
        80 + 36,
        54,
    ),
}


def integers(how, element):
    return ring.to_integers(how.ring, element)


def opened(shared):
    return integers(shared.scheme, shared.shares).sum(0) % shared.scheme.ring.modulus


def secrets(how, values, shapes):
    """Of two shapes; lists of any length are repeated."""
    sizes = [math.prod(shape) for shape in shapes]
    many = np.resize(np.array(values, object), sum(sizes)) % how.ring.modulus
    parts = np.split(many, sizes[:1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def shared(how, secret, stream=0):
    """Made with numpy's generator, and so compiling nothing."""
    secret, bits = np.asarray(secret, object), how.ring.bits
    rng = np.random.default_rng(stream)
    size = (scheme.num_shares(how) - 1, *secret.shape)
    others = rng.integers(2**bits - 1, size=size, dtype=np.uint64, endpoint=True)
    others = others.astype(object)
    shares = np.concatenate([np.asarray(secret - others.sum(0))[None], others])
    return scheme.Shared(ring.from_integers(how.ring, shares), how)


def shared_pair(how, pair):
    return [shared(how, secret, stream) for stream, secret in enumerate(pair)]


def ideal(how):
    return how._replace(ideal=True)


@functools.cache
def program(how):
    """Of pairs of shares: for each case the product, its views, and what was drawn."""

    def drawn(seed, case, shape):
        n = how.num_parties
        if how.kind == "replicated":
            return arithmetic.draws(seed, how.ring, (2, *shape))
        one, other = case.shapes
        shapes = ((n, *one), (n, *other), (n - 1, *shape))
        return arithmetic.draws(seed, how.ring, *shapes)

    def run(seed, pairs):
        results = {}
        for name, case in CASES.items():
            with transcript.recording() as recorder:
                product = case.product(seed, *pairs[name])
            receivers[name] = [view.receivers for view in recorder.views]
            views = [view.value for view in recorder.views]
            mine = None if how.ideal else drawn(seed, case, sharing.shape_of(product))
            results[name] = product, views, mine
        return results

    receivers = {}
    return jax.jit(run), receivers


def pairs_of(how, values):
    return {
        name: shared_pair(how, secrets(how, values, case.shapes))
        for name, case in CASES.items()
    }


def check_values(how, values):
    for way in (how, ideal(how)):
        run, _ = program(way)
        for name, (product, _, _) in run(SEED, pairs_of(way, values)).items():
            case = CASES[name]
            one, other = secrets(how, values, case.shapes)
            exact = np.asarray(case.exact(one, other) % how.ring.modulus, object)
            assert product.scheme == way
            assert opened(product).tolist() == exact.tolist()


def edges(p):
    near = [0, 1, 2, p - 1, p - 2, p // 2, p // 2 - 1, p // 2 + 1]
    # Whose squares are at and beside the modulus.
    root = math.isqrt(p)
    return [*near, root, root - 1, root + 1, p - root]


# Of Z_2^32 they are reduced. Prime numbers of them, so that rows of matrices differ.
EDGES = [edges(2**32), edges(2**64)]
words = st.one_of(st.sampled_from([*EDGES[0], *EDGES[1]]), st.integers(0, 2**64 - 1))


@each(SCHEMES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(values=st.lists(words, min_size=23, max_size=23))
@example(values=EDGES[0] * 2)
@example(values=EDGES[1] * 2)
@example(values=[2**64 - 1])
@example(values=[2**63 + 2**31])
def test_products_are_pythons(how, values):
    check_values(how, values)


def computed(how):
    """What a party may look at: `(name, inputs, product, messages, drawn)`."""
    pairs = pairs_of(how, [*edges(how.ring.modulus), 3, 5, 7, 11, 13])
    run, receivers = program(how)
    for name, (product, views, drawn) in run(SEED, pairs).items():
        messages = [
            (to, integers(how, value))
            for to, value in zip(receivers[name], views, strict=True)
        ]
        yield name, pairs[name], product, messages, [integers(how, d) for d in drawn]


@each([h for h in SCHEMES if h.kind == "additive"])
def test_every_party_computes_its_share_as_beaver_has_it(how):
    p, n = how.ring.modulus, how.num_parties
    for name, pair, product, messages, (a, b, c) in computed(how):
        exact = CASES[name].exact
        dealt = np.asarray(exact(a.sum(0), b.sum(0)) - c.sum(0), object)
        c = np.concatenate([dealt[None], c])
        masked = []
        for (to, value), shared_value, mask in zip(messages, pair, (a, b), strict=True):
            # Everybody sends its own difference to everybody.
            sent = [integers(how, sharing.view(shared_value, i)[0]) for i in range(n)]
            e = np.asarray((sum(sent) - mask.sum(0)) % p, object)
            assert to == tuple(range(n))
            assert value.reshape(e.shape).tolist() == e.tolist()
            masked.append(e)
        e, f = masked
        for party in range(n):
            own = c[party] + exact(e, b[party]) + exact(a[party], f)
            if party == 0:
                own = own + exact(e, f)
            (share,) = sharing.view(product, party)
            assert integers(how, share).tolist() == np.asarray(own % p).tolist()


@each([h for h in SCHEMES if h.kind == "replicated"])
def test_every_party_computes_its_summand_as_araki_has_it(how):
    p = how.ring.modulus

    def held(value, party):
        return [integers(how, element) for element in sharing.view(value, party)]

    for name, pair, product, messages, (drawn,) in computed(how):
        exact, zeros = CASES[name].exact, [-drawn.sum(0), *drawn]
        for party in range(3):
            (x, x_next), (y, y_next) = (held(value, party) for value in pair)
            own = exact(x, y) + exact(x, y_next) + exact(x_next, y) + zeros[party]
            # The party before it gets it too.
            before = (party - 1) % 3
            (sent,) = [value for to, value in messages if to == (before,)]
            mine, received = held(product, party)[0], held(product, before)[1]
            for words in (mine, sent, received):
                assert words.tolist() == np.asarray(own % p).tolist()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", SCHEMES, ids=names)
def test_costs_by_hand(how, name):
    case, bits, others = CASES[name], how.ring.bits, how.num_parties - 1

    def sends(way):
        count = scheme.num_shares(way)
        pair = [
            scheme.Shared(ring.zeros(way.ring, (count, *shape)), way)
            for shape in case.shapes
        ]
        return transcript.priced(case.product, SEED, *pair)

    full = sends(how)
    assert full.num_rounds() == 1
    if how.kind == "additive":
        # Both operands to all others; the dealer corrects the product's first share.
        online, offline = bits * case.num_opened * others, bits * case.num_results
        assert full.sent_bits("dealer", offline=True) == offline
        assert full.received_bits(0, offline=True) == offline
    else:
        online, offline = bits * case.num_results, 0
        assert {(m.sender, m.receiver) for m in full.messages} == {
            (0, 2),
            (1, 0),
            (2, 1),
        }
    assert full.sent_bits(offline=True) == offline
    for party in range(how.num_parties):
        assert full.sent_bits(party) == full.received_bits(party) == online
        assert full.sent_bits(party, offline=True) == 0
    assert sends(ideal(how)).messages == full.messages


@pytest.mark.parametrize("way", [SCHEMES[1], SCHEMES[2], ideal(SCHEMES[2])], ids=names)
def test_scales_multiply(way):
    def of(scale):
        return shared_pair(way._replace(scale=scale), ([1, 2], [3, 4]))[0]

    product = arithmetic.multiply(SEED, of(2.0**16), of(2.0**10))
    assert product.scheme == way._replace(scale=2.0**26)
    assert arithmetic.multiply(SEED, of(1.0), of(8.0)).scheme.scale == 8.0
    traced = scheme.TracedScale("fraction_bits")
    squared = arithmetic.multiply(SEED, of(traced), of(traced))
    assert squared.scheme.scale == scheme.TracedScale("fraction_bits", 2)
    assert arithmetic.multiply(SEED, of(1.0), of(traced)).scheme.scale == traced
    with pytest.raises(ValueError, match="cannot mix scales"):
        arithmetic.multiply(SEED, of(traced), of(2.0**16))
    with pytest.raises(ValueError, match="cannot mix scales"):
        arithmetic.multiply(SEED, of(traced), of(scheme.TracedScale("other")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sharing.additive(3), sharing.additive(2)),
        (sharing.additive(3), sharing.additive(3, ring.Z64)),
        (sharing.additive(3), sharing.replicated()),
        (sharing.replicated(), sharing.additive(3)),
        (sharing.replicated(), ideal(sharing.replicated())),
        (ideal(sharing.additive(3)), sharing.additive(3)),
        (ideal(sharing.additive(3)), ideal(sharing.replicated())),
        (sharing.additive(2), sharing.additive(2, field.F31)),
        (sharing.additive(3), shamir.shamir(2, 3)),
    ],
    ids=names,
)
def test_shares_that_differ_are_not_multiplied(one, other):
    pair = [shared_pair(how, ([[1]], [[2]]))[0] for how in (one, other)]
    for product in (arithmetic.multiply, arithmetic.matmul):
        with pytest.raises(ValueError, match="cannot mix shares") as error:
            product(SEED, *pair)
        assert names(one) in str(error.value)
        assert names(other) in str(error.value)


def test_polynomials_are_not_multiplied():
    how = shamir.shamir(2, 3)
    pair = shared_pair(how, ([[1]], [[2]]))
    with pytest.raises(ValueError, match=re.escape(names(how))) as error:
        arithmetic.matmul(SEED, *pair)
    assert "need additive or replicated shares" in str(error.value)


def products(seed, one, other):
    return (
        arithmetic.multiply(random.child(seed, 0), one, other),
        arithmetic.matmul(random.child(seed, 1), one, other),
    )


@pytest.mark.parametrize("how", [SCHEMES[1], SCHEMES[5]], ids=names)
def test_split_over_devices_or_with_64_bit_types_shares_are_the_same(how):
    pair = shared_pair(
        how, secrets(how, [*edges(how.ring.modulus), 17], ((8, 8), (8, 8)))
    )
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    split = NamedSharding(mesh, PartitionSpec(None, "batch"))
    whole = NamedSharding(mesh, PartitionSpec())
    alone = jax.jit(products)(SEED, *pair)
    parts = jax.jit(products, in_shardings=(whole, split, split))(SEED, *pair)
    with jax.enable_x64(True):
        wide = jax.jit(products)(SEED, *pair)
    for one, *others in zip(*map(jax.tree.leaves, (alone, parts, wide)), strict=True):
        for other in others:
            assert one.dtype == other.dtype == jnp.uint32
            np.testing.assert_array_equal(one, other)


# Secrecy. Columns are words, their rows are runs.

NUM_RUNS = 4096
"""16 for each of a byte's values: the controls below show the power."""
SECRETS = {"zeros": (0, 0, 0, 0), "others": (1, 2**31, 0xDEADBEEF, 2**32 - 1)}
HIDING = [SCHEMES[i] for i in (0, 1, 2, 5)]
each_hiding = pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[] if i in (1, 3) else [pytest.mark.exhaustive])
        for i, how in enumerate(HIDING)
    ],
    ids=names,
)


@functools.cache
def runs_of(how):
    """Of an inner product of two pairs: shares, what was drawn, and what was seen."""

    def run(share_seed, seed, values):
        wide = ring.Wide(values, values)
        element = how.ring.from_unsigned(wide)
        shared = sharing.share(share_seed, element, how)

        def cut(begin, shape):
            part = jax.tree.map(lambda leaf: leaf[:, begin : begin + 2], shared.shares)
            part = jax.tree.map(lambda leaf: leaf.reshape(-1, *shape), part)
            return scheme.Shared(part, how)

        one, other = cut(0, (1, 2)), cut(2, (2, 1))
        with transcript.recording() as recorder:
            product = arithmetic.matmul(seed, one, other)
        receivers.append([view.receivers for view in recorder.views])
        n = how.num_parties
        triple = [(n, 2), (n, 2), (n - 1, 1)]
        shapes = triple if how.kind == "additive" else [(2, 1)]
        return {
            "inputs": shared.shares,
            "drawn": arithmetic.draws(seed, how.ring, *shapes),
            "views": [view.value for view in recorder.views],
            "product": product.shares,
        }

    receivers = []
    return jax.jit(jax.vmap(run, in_axes=(0, 0, None))), receivers


@functools.cache
def seen(how, what, share_stream, stream):
    """Element arrays `[runs, ...]` as 64-bit integers, which wrap as the ring does."""
    run, receivers = runs_of(how)
    numbers = jnp.arange(NUM_RUNS, dtype=jnp.uint32)
    seeds = [
        random.child(random.child(SEED, stream), numbers)
        for stream in (share_stream, stream)
    ]
    raw = run(*seeds, jnp.array(SECRETS[what], jnp.uint32))

    def integer(element):
        wide = how.ring.to_unsigned(element)
        low, high = (np.asarray(word).astype(np.uint64) for word in wide)
        return low | high << np.uint64(32)

    is_element = lambda leaf: isinstance(leaf, (ring.Wide, jax.Array))  # noqa: E731
    return jax.tree.map(integer, raw, is_leaf=is_element), receivers[0]


def flat(array):
    return array.reshape(NUM_RUNS, -1)


def view_of(how, parties, run, receivers):
    """A coalition's words `[runs, words]`: its own; what it receives; and the same
    with all taken away that it can compute.
    """
    rows = [flat(run["inputs"][:, i]) for i in held_by(how, parties)]
    messages = [
        flat(value)
        for value, to in zip(run["views"], receivers, strict=True)
        if {*to} & {*parties}
    ]
    if how.kind == "additive":
        a, b, c = (array.copy() for array in run["drawn"])
        dealt = (a.sum(1) * b.sum(1)).sum(1, keepdims=True) - c.sum(1)
        c = np.concatenate([dealt[:, None], c], axis=1)
        masks = np.concatenate([a, b], axis=2)[:, list(parties)]
        rows += [flat(masks), flat(c[:, list(parties)])]
        sent = run["inputs"][:, list(parties)] - masks
        guess = np.concatenate(messages, axis=1) - sent.sum(1)
    else:
        (party,) = parties
        guess = resent_guess(run["inputs"], messages[0], party)
    own_words = np.concatenate(rows, axis=1)
    return own_words, np.concatenate(messages, axis=1), guess


def held_by(how, parties):
    if how.kind == "additive":
        return parties
    return [parties[0], (parties[0] + 1) % 3]


def resent_guess(inputs, message, party):
    """Without a sharing of zero this is linear in the secrets."""
    x, y = inputs[:, :, :2], inputs[:, :, 2:]
    i, j = party, (party + 1) % 3
    known = x[:, j] * y[:, j] + x[:, j] * y[:, i] + x[:, i] * y[:, j]
    return message + known.sum(1, keepdims=True)


def without_zeros(run):
    """What CrypTen resends: products with no sharing of zero added."""
    (drawn,) = run["drawn"]
    zeros = [-drawn.sum(1), *np.moveaxis(drawn, 1, 0)]
    # Views are of summand 0, 1 and 2.
    bare = [flat(v) - flat(z) for v, z in zip(run["views"], zeros, strict=True)]
    return {**run, "views": bare}


def whole_views(how, parties, run, receivers):
    """Two sets of words that are uniform together, or else something leaks."""
    own, received, guess = view_of(how, parties, run, receivers)
    return [np.concatenate([own, words], axis=1) for words in (received, guess)]


def bytes_of(how, columns):
    """The lowest and the highest byte of every word, and of all words' pairwise sums
    and differences: if words are uniform together, so are these.
    """
    pairs = itertools.combinations(columns.T, 2)
    words = [*columns.T]
    for one, other in pairs:
        words += [one + other, one - other]
    for word in words:
        for shift in (0, how.ring.bits - 8):
            yield (word >> np.uint64(shift)).astype(np.int64) & 255


def uniform_p_value(how, columns):
    counts = [np.bincount(byte, minlength=256) for byte in bytes_of(how, columns)]
    return min(scipy.stats.chisquare(counts, axis=1).pvalue) * len(counts)


def same_law_p_value(how, columns, others):
    p_values = []
    for pair in zip(bytes_of(how, columns), bytes_of(how, others), strict=True):
        one, other = (np.bincount(byte >> 3, minlength=32) for byte in pair)
        used = one + other > 0
        statistic = ((one - other)[used] ** 2 / (one + other)[used]).sum()
        p_values.append(scipy.stats.chi2.sf(statistic, max(1, used.sum() - 1)))
    return min(p_values) * len(p_values)


def coalitions(how):
    """As many as learn nothing."""
    return itertools.combinations(range(how.num_parties), how.threshold - 1)


def views_of_both(how, parties, change=lambda run: run):
    """Of two lists of secrets, by randomness of its own each."""
    both = []
    for number, what in enumerate(SECRETS):
        run, receivers = seen(how, what, 2 * number, 2 * number + 1)
        both.append(whole_views(how, parties, change(run), receivers))
    return zip(*both, strict=True)


@each_hiding
def test_what_parties_see_is_uniform_whatever_the_secrets(how):
    for parties in coalitions(how):
        for zeros, others in views_of_both(how, parties):
            assert uniform_p_value(how, zeros) > 1e-4
            assert uniform_p_value(how, others) > 1e-4
            assert same_law_p_value(how, zeros, others) > 1e-4


@pytest.mark.parametrize("party", range(3))
@pytest.mark.parametrize(
    "how",
    [pytest.param(HIDING[2], marks=pytest.mark.exhaustive), HIDING[3]],
    ids=names,
)
def test_products_resent_without_a_sharing_of_zero_show_the_secrets(how, party):
    """A positive control: as CrypTen 0.4.1 does it."""
    _, (zeros, others) = views_of_both(how, (party,), without_zeros)
    assert uniform_p_value(how, zeros) < 1e-9
    assert same_law_p_value(how, zeros, others) < 1e-9


@pytest.mark.parametrize("fresh", [True, False])
@each_hiding
def test_randomness_serves_once(how, fresh):
    """A positive control: a triple, or a sharing of zero, of two products."""
    parties = next(coalitions(how))
    first = view_of(how, parties, *seen(how, "zeros", 0, 1))
    second = view_of(how, parties, *seen(how, "zeros", 4, 5 if fresh else 1))
    # Without the own words, which repeat by right.
    p_values = [
        uniform_p_value(how, np.concatenate(pair, axis=1))
        for pair in list(zip(first, second, strict=True))[1:]
    ]
    assert (min(p_values) > 1e-4) if fresh else (min(p_values) < 1e-9)
