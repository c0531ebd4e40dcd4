"""Signs, choices and bits of shared values, and what parties see of them.

Values are compared operation by operation: compiling a generator for every product
takes longer than all of them. Compiled programs are one for each scheme.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppml_lab import random
from ppml_lab.smpc import (
    bits,
    comparison,
    field,
    ring,
    scheme,
    shamir,
    sharing,
    transcript,
)

SEED = jnp.array([41, 42], jnp.uint32)
SCHEMES = [
    make(where)
    for where in (ring.Z32, ring.Z64)
    for make in (
        functools.partial(sharing.additive, 2),
        functools.partial(sharing.additive, 3),
        sharing.replicated,
    )
]
IDEAL = [how._replace(ideal=True) for how in SCHEMES]
# Ideal values are the same for any number of parties; two over Z_2^64 cost time only.
WAYS = [*SCHEMES[:3], *SCHEMES[4:], IDEAL[0], IDEAL[2], IDEAL[3], IDEAL[5]]
names = scheme.describe
each_scheme = pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[] if i in (1, 5) else [pytest.mark.exhaustive])
        for i, how in enumerate(SCHEMES)
    ],
    ids=names,
)


def quick(*some):
    """These ways, and all others where everything is run."""
    return pytest.mark.parametrize(
        "how",
        [
            pytest.param(how, marks=[] if how in some else [pytest.mark.exhaustive])
            for how in WAYS
        ],
        ids=names,
    )


# Each protocol, over one ring each: products are tested over both.
each_protocol = quick(SCHEMES[0], SCHEMES[5], IDEAL[0], IDEAL[5])


def shared(how, secret, stream=0):
    """Made with numpy's generator, and so compiling nothing."""
    secret = np.asarray(secret, object) % how.ring.modulus
    size = (scheme.num_shares(how) - 1, *secret.shape)
    rng = np.random.default_rng(stream)
    others = rng.integers(2**64 - 1, size=size, dtype=np.uint64, endpoint=True)
    others = others.astype(object) % how.ring.modulus
    first = secret
    for row in others:
        first = first ^ row if is_bits(how) else first - row
    rows = np.concatenate([np.asarray(first, object)[None], others])
    return scheme.Shared(ring.from_integers(how.ring, rows), how)


def is_bits(how):
    return how.ring.name.startswith("GF")


def residues(value):
    """Opened, as Python's integers."""
    how = value.scheme
    rows = ring.to_integers(how.ring, value.shares)
    if is_bits(how):
        return np.asarray(functools.reduce(lambda a, b: a ^ b, rows), object)
    return np.asarray(rows.sum(0) % how.ring.modulus, object)


def signed(values, p):
    values = np.asarray(values, object) % p
    return np.asarray(np.where(values >= p // 2, values - p, values), object)


def of_bits(how, width):
    return how._replace(ring=bits.bit_ring(width), scale=1.0)


def edges(p):
    """0, the ends, and every eighth power of two with its neighbours."""
    powers = [2**k for k in range(1, p.bit_length() - 1, 8)]
    powers += [p // 4, p // 2, p - 1, 0]
    near = [
        sign * (power + d) for power in powers for d in (-1, 0, 1) for sign in (1, -1)
    ]
    return list(dict.fromkeys(value % p for value in near))


NUM_VALUES = 48
EDGES = {p: np.resize(np.array(edges(p), object), NUM_VALUES) for p in (2**32, 2**64)}
words = st.one_of(
    st.sampled_from([*edges(2**32), *edges(2**64)]),
    st.integers(-(2**63), 2**63),
    st.integers(-100, 100),
)
lists = st.lists(words, min_size=NUM_VALUES, max_size=NUM_VALUES)
few = settings(max_examples=2, deadline=None, derandomize=True)


def numbers(how, values):
    """As drawn, or the edges, as signed numbers of the ring."""
    p = how.ring.modulus
    return signed(EDGES[p] if values is None else values, p)


@each_protocol
@few
@given(values=lists)
@example(values=None)
def test_signs_are_those_of_pythons_integers(how, values):
    p, x = how.ring.modulus, numbers(how, values)
    value = shared(how, x)
    bit = comparison.is_negative(SEED, value)
    assert bit.scheme == of_bits(how, 1)
    assert residues(bit).tolist() == [int(v < 0) for v in x]
    cut = comparison.relu(SEED, value)
    assert cut.scheme == how
    # The least value is its own negative.
    exact = [v if v > 0 or v == -p // 2 else 0 for v in x]
    assert residues(cut).tolist() == [v % p for v in exact]


@each_protocol
def test_positive_is_above_zero_or_the_least_value(how):
    p, x = how.ring.modulus, numbers(how, None)
    positive = comparison.is_positive(SEED, shared(how, x))
    assert positive.scheme == how
    above = [int(v > 0 or v == -p // 2) for v in x]
    assert residues(positive).tolist() == above


@each_protocol
@few
@given(values=lists)
@example(values=None)
def test_bits_there_and_back_are_those_of_pythons_integers(how, values):
    p = how.ring.modulus
    exact = (numbers(how, values) % p).tolist()
    split = comparison.to_bits(SEED, shared(how, exact))
    assert split.scheme == of_bits(how, how.ring.bits)
    assert residues(split).tolist() == exact
    back = comparison.from_bits(SEED, split, how.ring)
    assert back.scheme == how
    assert residues(back).tolist() == exact


@each_protocol
def test_bits_become_numbers_of_any_ring(how):
    bit = shared(of_bits(how, 1), [0, 1, 1, 0])
    word = shared(of_bits(how, 5), [0, 31, 16, 21])
    for where in (ring.Z32, ring.Z64):
        number = comparison.from_bit(SEED, bit, where)
        assert number.scheme == how._replace(ring=where)
        assert residues(number).tolist() == [0, 1, 1, 0]
    assert residues(comparison.from_bits(SEED, word, how.ring)).tolist() == [
        0, 31, 16, 21,
    ]  # fmt: skip


@each_protocol
def test_pairs_are_compared_and_chosen_from(how):
    """Of half the ring, so that differences fit."""
    p = how.ring.modulus
    rng = np.random.default_rng(1)
    x, y = (
        np.array([v // 2 for v in signed(rng.permutation(EDGES[p]), p)], object)
        for _ in range(2)
    )
    y[:8] = x[:8]
    one, other = shared(how, x), shared(how, y, 1)
    less = comparison.less_than(SEED, one, other)
    assert residues(less).tolist() == [int(a < b) for a, b in zip(x, y, strict=True)]
    larger = comparison.maximum(SEED, one, other)
    assert residues(larger).tolist() == (np.maximum(x, y) % p).tolist()
    flags = rng.integers(2, size=NUM_VALUES)
    bit = shared(how._replace(scale=1.0), flags, 2)
    picked = comparison.select(SEED, bit, one, other)
    assert residues(picked).tolist() == (np.where(flags, x, y) % p).tolist()
    kept = comparison.chosen(SEED, bit, one)
    assert residues(kept).tolist() == (flags * x % p).tolist()


@pytest.mark.parametrize(
    ("how", "axis"),
    [(SCHEMES[0], -1), (IDEAL[5], 0), (IDEAL[5], -1)],
    ids=["additive, odd", "ideal, even", "ideal, odd"],
)
def test_the_largest_along_an_axis(how, axis):
    """Of 3 values; of 4 and of 5 where no party has to be computed."""
    p = how.ring.modulus
    some = np.array([v // 2 for v in signed(EDGES[p], p)], object)
    x = np.random.default_rng(2).permutation(np.resize(some, 60))
    x = x.reshape(4, 3, 5) if how.ideal else x[:36].reshape(4, 3, 3)
    largest = jax.jit(comparison.max_over, static_argnums=2)(SEED, shared(how, x), axis)
    assert residues(largest).tolist() == (x.max(axis) % p).tolist()


def test_the_largest_of_one_value_is_it():
    how = SCHEMES[0]
    with transcript.recording() as recorder:
        largest = comparison.max_over(SEED, shared(how, [[7], [-3]]), 1)
    assert residues(largest).tolist() == [7, how.ring.modulus - 3]
    assert recorder.messages == []


@pytest.mark.parametrize(
    "how",
    [pytest.param(SCHEMES[2], marks=pytest.mark.exhaustive), IDEAL[3]],
    ids=["replicated", "ideal"],
)
def test_the_place_of_the_largest_is_the_first_of_equal_ones(how):
    x = np.array([[3, 9, -2, 9, 9], [1, -7, 0, 1, -1]], object)
    place = jax.jit(comparison.place_of_max)(SEED, shared(how, x))
    assert place.scheme.scale == 1.0
    assert residues(place).tolist() == [1, 0]


# Messages.


def halving(width):
    """Widths of a carry tree's levels: half of the places, and so on down to one."""
    return [width >> level for level in range(1, width.bit_length())]


def sign_cost(how, k):
    """Rounds and the bits that parties 0, 1, 2 send, by hand.

    Each level multiplies the upper half's propagation with the lower half's generation
    and propagation, the last with its generation only.
    """
    results = sum(2 * w for w in halving(k)) - 1
    operands = sum(3 * w for w in halving(k)) - 1
    if how.kind == "replicated":
        # The first party shares the sum of two summands, their AND with the third.
        return 2 + len(halving(k)), [2 * k + results, k + results, k + results]
    others = how.num_parties - 1
    return 1 + len(halving(k)), [others * (k + operands)] * how.num_parties


def from_bit_cost(how, k):
    if how.kind == "replicated":
        return 2, [2 * k, k, k]
    return 1, [how.num_parties - 1] * how.num_parties


def product_cost(how, k):
    if how.kind == "replicated":
        return 1, [k] * 3
    return 1, [2 * k * (how.num_parties - 1)] * how.num_parties


def to_bits_cost(how, k):
    levels = k.bit_length() - 1
    if how.kind == "replicated":
        most = k + k + levels * 2 * k
        return 2 + levels, [most, most - k, most - k]
    others = how.num_parties - 1
    return 1 + levels, [others * (k + levels * 3 * k)] * how.num_parties


def in_all(*costs):
    """One after the other."""
    rounds, sent = zip(*costs, strict=True)
    return sum(rounds), [sum(bits) for bits in zip(*sent, strict=True)]


def times(cost, number, rounds=1):
    return cost[0] * rounds, [number * bits for bits in cost[1]]


def costs(how):
    """Of 6 elements each: the function and what it must send."""
    k = how.ring.bits
    sign, bit, product = (f(how, k) for f in (sign_cost, from_bit_cost, product_cost))
    positive = in_all(sign, bit)
    relu = in_all(positive, product)
    six = shared(how, np.arange(6))
    matrix = shared(how, np.zeros((6, 3), int))
    word = shared(of_bits(how, k), np.arange(6))
    one_bit = shared(of_bits(how, 1), np.zeros(6, int))
    # The bits of a word are converted all at once.
    places = times(from_bit_cost(how, k), k)
    c = comparison
    return {
        "is_negative": (lambda: c.is_negative(SEED, six), times(sign, 6)),
        "less_than": (lambda: c.less_than(SEED, six, six), times(sign, 6)),
        "is_positive": (lambda: c.is_positive(SEED, six), times(positive, 6)),
        "relu": (lambda: c.relu(SEED, six), times(relu, 6)),
        "maximum": (lambda: c.maximum(SEED, six, six), times(relu, 6)),
        # 2 of 3 lose, in 2 levels.
        "max_over": (lambda: c.max_over(SEED, matrix, 1), times(relu, 12, 2)),
        "select": (lambda: c.select(SEED, six, six, six), times(product, 6)),
        "to_bits": (lambda: c.to_bits(SEED, six), times(to_bits_cost(how, k), 6)),
        "from_bits": (lambda: c.from_bits(SEED, word, how.ring), times(places, 6)),
        "from_bit": (lambda: c.from_bit(SEED, one_bit, how.ring), times(bit, 6)),
    }


@pytest.fixture
def trivial_generator(monkeypatch):
    """Messages depend on shapes only, and tracing a generator takes longest."""

    def words(seed, high, low):
        shape = jnp.broadcast_shapes(seed.shape[:-1], jnp.shape(high), jnp.shape(low))
        return jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32)

    monkeypatch.setattr(random, "threefry2x32", words)


@pytest.mark.usefixtures("trivial_generator")
@each_scheme
def test_rounds_and_bits_by_hand_and_the_same_if_ideal(how):
    ideals = costs(how._replace(ideal=True))
    # What is made of others, of two schemes only.
    every = how in (SCHEMES[1], SCHEMES[5])
    some = ("is_negative", "from_bit", "to_bits")
    for name, (function, (rounds, sent)) in costs(how).items():
        if not every and name not in some:
            continue
        full = transcript.priced(function)
        assert full.num_rounds() == rounds, name
        assert [full.sent_bits(i) for i in range(how.num_parties)] == sent, name
        other = transcript.priced(ideals[name][0])
        assert other.messages == full.messages, name
        assert other.num_rounds() == rounds, name
        assert not other.views or how.kind == "additive", name


def test_known_costs():
    """By other people's formulas: levels, words and what one ReLU takes."""
    three, two = sharing.replicated(ring.Z64), sharing.additive(2, ring.Z64)
    assert sign_cost(three, 64) == (8, [253, 189, 189])
    assert sign_cost(two, 64) == (7, [252, 252])
    for how in (three, sharing.additive(3, ring.Z64)):
        rounds, sent = times(costs(how)["relu"][1], 1)
        # CrypTen 0.4.1: 16 rounds, 880 bytes by each of three parties.
        assert rounds < 16
        assert max(sent) / 6 / 8 < 880 / 8


@pytest.mark.usefixtures("trivial_generator")
@each_scheme
def test_a_dealer_deals_before_there_are_inputs(how):
    k = how.ring.bits
    recorder = transcript.priced(costs(how)["relu"][0])
    dealt = recorder.sent_bits(offline=True)
    if how.kind == "replicated":
        assert dealt == 0
    else:
        # A mask's bits, triples of the tree, a random bit as a number, a triple.
        tree = sum(2 * w for w in halving(k)) - 1
        assert dealt == recorder.received_bits(0, offline=True) == 6 * (3 * k + tree)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (sharing.additive(2, field.F31), "has no sign: use ring.Z32 or ring.Z64"),
        (shamir.shamir(2, 3), "need additive or replicated shares"),
    ],
    ids=["field", "polynomials"],
)
def test_what_has_no_sign_is_refused(how, message):
    value = scheme.Shared(ring.zeros(how.ring, (how.num_parties, 2)), how)
    for function in (comparison.is_negative, comparison.relu, comparison.to_bits):
        with pytest.raises(ValueError, match=message):
            function(SEED, value)


# Compiled.


def test_compiled_or_split_over_devices_or_with_64_bit_types_shares_are_the_same():
    how = SCHEMES[2]
    value = shared(how, EDGES[2**32])
    alone = jax.tree.leaves(comparison.relu(SEED, value))
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    split = NamedSharding(mesh, PartitionSpec(None, "batch"))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = jax.jit(comparison.relu, in_shardings=(whole, split))(SEED, value)
    with jax.enable_x64(True):
        wide = jax.jit(comparison.relu)(SEED, value)
    for one, *others in zip(alone, *map(jax.tree.leaves, (parts, wide)), strict=True):
        for other in others:
            assert one.dtype == other.dtype == jnp.uint32
            np.testing.assert_array_equal(one, other)


# Secrecy. Columns are words of a width, their rows are runs.

NUM_RUNS = 4096
"""16 for each of a byte's values: the controls below show the power."""
SECRETS = {"zero": 0, "other": 0xDEADBEEF}
HIDING = [SCHEMES[1], SCHEMES[2]]
each_hiding = pytest.mark.parametrize("how", HIDING, ids=names)


@functools.cache
def runs_of(how):
    """Of a ReLU: the input's shares, the result's, and what was seen on the way."""

    def run(share_seed, seed, secret):
        value = sharing.share(share_seed, secret, how)
        with transcript.recording() as recorder:
            result = comparison.relu(seed, value)
        known[:] = [(view.path, view.receivers) for view in recorder.views]
        return value.shares, result.shares, [view.value for view in recorder.views]

    known = []
    return jax.jit(jax.vmap(run, in_axes=(0, 0, None))), known


@functools.cache
def seen(how, what, share_stream, stream):
    run, known = runs_of(how)
    numbers = jnp.arange(NUM_RUNS, dtype=jnp.uint32)
    seeds = [
        random.child(random.child(SEED, number), numbers)
        for number in (share_stream, stream)
    ]
    inputs, result, views = run(*seeds, jnp.uint32(SECRETS[what]))
    widths = view_widths(how)
    messages = [
        (*place, width, np.asarray(view).reshape(NUM_RUNS, -1))
        for place, width, view in zip(known, widths, views, strict=True)
    ]
    return np.asarray(inputs), np.asarray(result), messages


def view_widths(how):
    """Of the words that are shown, in order."""
    k = how.ring.bits
    per_product = 3 if how.kind == "replicated" else 2
    tree = [w for w in halving(k) for _ in range(per_product)]
    if how.kind == "replicated":
        return [k] * 4 + tree + [k] * 4 + [k] * 3
    return [k, *tree, 1, k, k]


def view_of(how, parties, run):
    """A coalition's words, as pairs of a width and `[runs]`: what it receives, and its
    shares of input and result.
    """
    inputs, result, messages = run
    k = how.ring.bits
    if how.kind == "replicated":
        # Of the result's summands it made one and received the other.
        held = [*parties, (parties[0] + 1) % 3]
        own = [inputs[:, i] for i in held] + [result[:, parties[0]]]
    else:
        own = [shares[:, i] for shares in (inputs, result) for i in parties]
    received = [
        (width, column)
        for _, to, width, words in messages
        if {*to} & {*parties}
        for column in words.T
    ]
    return received + [(k, column) for column in own]


def small(view):
    """Words' lowest and highest bytes, and the lowest ones' pairwise exclusive ors and
    differences: if words are uniform together, so are these.
    """
    for width, word in view:
        yield min(width, 8), word
        if width > 8:
            yield 8, word >> np.uint32(width - 8)
    for (width, one), (other_width, other) in itertools.combinations(view, 2):
        yield min(width, other_width, 8), one ^ other
        yield min(width, other_width, 8), one - other


def counts_of(view):
    for width, word in small(view):
        low = word & np.uint32(2**width - 1)
        yield np.bincount(low.astype(np.int64), minlength=2**width)


def uniform_p_value(view):
    p_values = []
    for counts in counts_of(view):
        expected = counts.sum() / len(counts)
        statistic = ((counts - expected) ** 2).sum() / expected
        p_values.append(scipy.stats.chi2.sf(statistic, len(counts) - 1))
    return min(p_values) * len(p_values)


def same_law_p_value(view, others):
    p_values = []
    for one, other in zip(counts_of(view), counts_of(others), strict=True):
        # Of as many runs.
        used = one + other > 0
        statistic = ((one - other)[used] ** 2 / (one + other)[used]).sum()
        p_values.append(scipy.stats.chi2.sf(statistic, max(1, used.sum() - 1)))
    return min(p_values) * len(p_values)


def coalitions(how):
    return itertools.combinations(range(how.num_parties), how.threshold - 1)


@each_hiding
def test_what_parties_see_is_uniform_whatever_the_secret(how):
    runs = [seen(how, what, 2 * i, 2 * i + 1) for i, what in enumerate(SECRETS)]
    for parties in coalitions(how):
        zero, other = (view_of(how, parties, run) for run in runs)
        assert uniform_p_value(zero) > 1e-4
        assert uniform_p_value(other) > 1e-4
        assert same_law_p_value(zero, other) > 1e-4


def without_a_mask(how, run):
    """What from_bit opens, by its result's shares: the sign itself."""
    inputs, result, messages = run
    top = inputs.sum(1, dtype=np.uint32) >> np.uint32(31)
    bare = [
        (path, to, width, top[:, None] if path.endswith("from_bit/opened") else words)
        for path, to, width, words in messages
    ]
    return inputs, result, bare


def test_a_bit_that_is_opened_without_a_mask_shows_the_sign():
    """A positive control."""
    how = SCHEMES[1]
    zero, other = (
        view_of(how, (0,), without_a_mask(how, seen(how, what, 2 * i, 2 * i + 1)))
        for i, what in enumerate(SECRETS)
    )
    assert uniform_p_value(zero) < 1e-9
    assert same_law_p_value(zero, other) < 1e-9


@pytest.mark.exhaustive  # of products: test_arithmetic
@pytest.mark.parametrize("fresh", [True, False])
@each_hiding
def test_randomness_serves_once(how, fresh):
    """A positive control: the masks of two values."""
    both = [
        view_of(how, next(coalitions(how)), seen(how, "zero", share, seed))
        for share, seed in ((0, 1), (4, 5 if fresh else 1))
    ]
    p_value = uniform_p_value([word for view in both for word in view])
    assert (p_value > 1e-4) if fresh else (p_value < 1e-9)
