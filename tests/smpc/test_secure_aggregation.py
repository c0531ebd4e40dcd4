"""Secure sums: near the clear sum, the same in any order, with a sound sensitivity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import base, pairs, smpc

KEY = jax.random.key(0)
SHAPES = {"w": (4, 3), "deep": {"b": ()}}
DIMENSION = 13
each_rounding = pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
each_count = pytest.mark.parametrize("num_parties", [2, 5])


def updates(num_clients: int, max_abs: float = 1.0, seed: int = 0):
    """Stacked over clients."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.array(
            rng.uniform(-max_abs, max_abs, (num_clients, *shape)), jnp.float32
        ),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def begun(aggregator, num_clients=1, bound=jnp.inf):
    """The session of a round; by default of a mechanism without a bound."""
    everyone = jnp.ones(num_clients, bool)
    return aggregator.begin(KEY, everyone, everyone, bound)


def encode_all(aggregator, stacked, key=KEY):
    num_clients = len(jax.tree.leaves(stacked)[0])
    encode = jax.jit(jax.vmap(aggregator.encode, in_axes=(0, None, 0, 0)))
    keys, places = jax.random.split(key, num_clients), jnp.arange(num_clients)
    return encode(keys, begun(aggregator, num_clients), places, stacked)


def opened(aggregator, total):
    decoded, count, completed = aggregator.finish(begun(aggregator), total)
    assert count.dtype == jnp.float32
    decoded = pairs.value(decoded)
    assert completed.dtype == bool
    return decoded


def absorbed(aggregator, messages, total=None):
    """A running total (that of nobody by default) with all of these messages."""
    num_clients = len(jax.tree.leaves(messages)[0])
    if total is None:
        total = aggregator.empty(jax.tree.map(lambda m: m[0], messages))
    places = jnp.arange(num_clients)
    return aggregator.absorb(total, messages, places, jnp.ones(num_clients, bool))


def alone(aggregator, message):
    """What the sum of one message alone opens to."""
    one = jax.tree.map(lambda m: m[None], message)
    return opened(aggregator, absorbed(aggregator, one))


def secure_sum(aggregator, stacked, key=KEY):
    messages = encode_all(aggregator, stacked, key)
    return opened(aggregator, absorbed(aggregator, messages))


def largest_error(total, stacked) -> float:
    exact = jax.tree.map(lambda leaf: np.float64(leaf).sum(0), stacked)
    errors = jax.tree.map(lambda a, b: np.abs(np.float64(a) - b).max(), total, exact)
    return float(max(jax.tree.leaves(errors)))


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@each_rounding
@pytest.mark.parametrize(
    ("num_parties", "num_clients", "scale"),
    [(2, 1, 2.0**10), (5, 7, 2.0**4), (2, 200, 2.0**10)],
)
def test_is_near_the_clear_sum(num_parties, rounding, num_clients, scale):
    aggregator = smpc.additive_sharing(num_parties, 200, 3.0, scale, rounding)
    stacked = updates(num_clients, max_abs=3.0)
    total = secure_sum(aggregator, stacked)
    assert jax.tree.map(jnp.shape, total) == jax.tree.map(
        lambda leaf: leaf.shape[1:], stacked
    )
    error = largest_error(total, stacked)
    half = 0.5 if rounding == "nearest" else 1.0
    assert error <= half * num_clients / scale
    if num_clients == 200:  # a random walk of errors, far inside the hard bound
        deviation = np.sqrt(num_clients) / scale * (np.sqrt(1 / 12), 0.5)[half == 1.0]
        assert deviation / 2 < error < 5 * deviation


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.sampled_from([1, 50, 51, 150])))
def test_order_and_chunks_change_no_bit(seed, cuts):
    messages = MESSAGES
    whole = absorbed(SHARED, messages)
    order = np.random.default_rng(seed).permutation(200)
    total = None
    for chunk in np.split(order, sorted(cuts)):
        part = jax.tree.map(lambda m, chunk=chunk: m[chunk], messages)
        total = absorbed(SHARED, part, total)
    assert bits(total) == bits(whole)
    assert bits(opened(SHARED, total)) == bits(opened(SHARED, whole))


SHARED = smpc.additive_sharing(2, 200, 1.0)
MESSAGES = encode_all(SHARED, updates(200))


def test_sums_of_sums_are_sums():
    halves = [jax.tree.map(lambda m, s=s: m[s::2], MESSAGES) for s in (0, 1)]
    sums = [absorbed(SHARED, half) for half in halves]
    total = SHARED.merge(jax.tree.map(lambda *leaves: jnp.stack(leaves), *sums))
    assert bits(total) == bits(absorbed(SHARED, MESSAGES))


@each_rounding
def test_nobody_sums_to_zero(rounding):
    aggregator = smpc.additive_sharing(2, 5, 1.0, rounding=rounding)
    nobody = aggregator.empty(jax.tree.map(lambda m: m[0], MESSAGES))
    for leaf in jax.tree.leaves(opened(aggregator, nobody)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@each_rounding
def test_shares_hide_the_update_and_the_sum_does_not_depend_on_them(rounding):
    """Two rounds with other keys: other messages, nearly the same sum."""
    aggregator = smpc.additive_sharing(2, 200, 1.0, 2.0**10, rounding)
    stacked = updates(200)
    one, two = (encode_all(aggregator, stacked, jax.random.key(s)) for s in (1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.mean(np.asarray(a) == np.asarray(b)) < 0.01
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one)])
    assert len(set(flat.tolist())) == flat.size  # no mask serves two coordinates
    sums = [secure_sum(aggregator, stacked, jax.random.key(s)) for s in (1, 2)]
    if rounding == "nearest":
        assert bits(sums[0]) == bits(sums[1])
    else:
        assert bits(sums[0]) != bits(sums[1])


def test_bad_updates_cannot_wrap_the_sum():
    aggregator = smpc.additive_sharing(2, 3, 1.0, 2.0**16)
    stacked = {"x": jnp.array([[np.nan, np.inf], [0.25, 1e30], [0.5, 1.0]])}
    messages = encode_all(aggregator, stacked)
    total = opened(aggregator, absorbed(aggregator, messages))
    np.testing.assert_array_equal(total["x"], [0.75, 3.0])


@each_count
def test_cost_is_one_vector_and_seeds(num_parties):
    aggregator = smpc.additive_sharing(num_parties, 5, 1.0)
    seeds = 32 * (num_parties - 1)
    sent = 4 * DIMENSION + seeds
    assert aggregator.cost(DIMENSION) == base.Cost(sent, 4 * DIMENSION, 2, 1)
    assert smpc.clear().cost(DIMENSION) == base.Cost(4 * DIMENSION, 4 * DIMENSION)


def norms_of(stacked) -> np.ndarray:
    """Of each client, all leaves together."""
    rows = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(stacked)]
    return np.linalg.norm(np.concatenate(rows, axis=1), axis=1)


@each_rounding
@pytest.mark.parametrize("scale", [2.0, 64.0, 2.0**16])
def test_sensitivity_bounds_what_one_client_adds(rounding, scale):
    """Add a client to others: the decoded sum moves by at most the sensitivity."""
    clip_norm = 1.5
    aggregator = smpc.additive_sharing(2, 200, clip_norm, scale, rounding)
    bound = aggregator.sensitivity(begun(aggregator), clip_norm, DIMENSION)
    directions = updates(200, seed=3)
    norms = norms_of(directions)
    clipped = jax.tree.map(
        lambda d: d * (clip_norm / norms).reshape(-1, *[1] * (d.ndim - 1)), directions
    )
    sent = encode_all(aggregator, clipped)
    moved = norms_of(jax.vmap(lambda message: alone(aggregator, message))(sent))
    assert moved.max() <= bound * (1 + 1e-6)
    if scale == 2.0:
        assert moved.max() > clip_norm  # the plain clip norm would not have been one


@each_rounding
def test_sensitivity_is_nearly_met_by_the_worst_update(rounding):
    """Coordinates above the threshold go up: always, or all of them by luck."""
    aggregator = smpc.additive_sharing(2, 2, 1.0, 4.0, rounding)
    part = {"nearest": 0.126, "stochastic": 0.1}[rounding]
    update = jnp.full(8, part, jnp.float32)
    keys = jax.random.split(KEY, 5000)

    def send(key):
        message = aggregator.encode(key, begun(aggregator), jnp.int32(0), update)
        return alone(aggregator, message)

    sent = jax.jit(jax.vmap(send))(keys)
    norms = np.linalg.norm(sent, axis=1)
    bound = aggregator.sensitivity(begun(aggregator), part * np.sqrt(8), 8)
    assert norms.max() <= bound
    if rounding == "nearest":
        assert norms.max() > 0.99 * bound


@each_rounding
@each_count
def test_identity_is_the_same_sum_at_the_same_cost(num_parties, rounding):
    build = functools.partial(
        smpc.additive_sharing, num_parties, 200, 3.0, 2.0**12, rounding
    )
    full, identity = build(), build(mode="identity")
    stacked = updates(200, max_abs=3.0)
    assert bits(secure_sum(full, stacked)) == bits(secure_sum(identity, stacked))
    assert full.cost(DIMENSION) == identity.cost(DIMENSION)
    bounds = {a.sensitivity(begun(a), 1.0, 9) for a in (full, identity)}
    assert len(bounds) == 1


@pytest.mark.parametrize("num_bits", [9, 16, 31])
def test_fewer_bits_are_a_smaller_ring(num_bits):
    """Within the range the same sum, beyond it that sum modulo 2^bits."""
    scale = 2.0 ** (num_bits - 9)
    stacked = {"x": jnp.array([[100.0, -128.0, 127.0], [27.0, 0.0, 1.0]])}

    def build(bits):
        return smpc.additive_sharing(2, 2, 64.0, scale, "nearest", bits=bits)

    with pytest.raises(ValueError, match=f"has {num_bits - 1}"):
        build(num_bits - 2 + 1)
    narrow = build(num_bits)
    clamped = jax.tree.map(lambda x: jnp.clip(x, -64, 64), stacked)
    assert largest_error(secure_sum(narrow, stacked), clamped) == 0

    def traced(bits, max_abs, wraps):
        free = smpc.additive_sharing(
            2, 2, max_abs, scale, "nearest", bits=bits, wraps=wraps
        )
        return secure_sum(free, stacked)["x"]

    # Half the range: 127 and -128 fit, 128 wraps around where it may. Where it may not
    # a step is twice as large, and 127 of them are even.
    total = jax.jit(traced, static_argnums=2)
    np.testing.assert_array_equal(
        total(num_bits - 1, 128.0, True), [127.0, -128.0, -128.0]
    )
    np.testing.assert_allclose(
        total(num_bits - 1, 128.0, False), [127.0, -128.0, 128.0], atol=2 / scale
    )


def test_fewer_reports_than_the_least_make_no_sum():
    """A sum of one is that client's update."""
    for mode in ("identity", "full"):
        aggregator = smpc.additive_sharing(2, 5, 1.0, least_reports=3, mode=mode)
        assert aggregator.can_abort
        messages = encode_all(aggregator, updates(5))
        for count in (0, 1, 2, 3, 5):
            few = jax.tree.map(lambda m: m[0], messages)
            total = aggregator.absorb(
                aggregator.empty(few), messages, jnp.arange(5), jnp.arange(5) < count
            )
            session = begun(aggregator, 5)
            decoded, reports, completed = aggregator.finish(session, total)
            assert completed == (count >= 3)
            assert reports == (count if count >= 3 else 0)
            assert any(map(np.any, jax.tree.leaves(decoded))) == (count >= 3)
        assert aggregator.sums is not None
        assert aggregator.sums(13) == base.Sums(13, 2.0**16, 32, 3)
        with pytest.raises(
            ValueError, match="least_reports 3, which a cohort of up to 2"
        ):
            begun(aggregator, 2)
    assert not smpc.additive_sharing(2, 5, 1.0).can_abort


@pytest.mark.parametrize("num_bits", [6, 8])
def test_a_sum_that_wraps_around_is_private_all_the_same(num_bits):
    """Wrapped after noise, it is the exact sum plus noise, wrapped."""
    scale = 2.0**4
    build = functools.partial(smpc.additive_sharing, 2, 50, 8.0, scale, "nearest")
    stacked = updates(50, max_abs=8.0)
    exact, narrow = build(), build(bits=num_bits, wraps=True)
    with pytest.raises(ValueError, match=f"has {num_bits}"):
        build(bits=num_bits)
    span = 2.0**num_bits / scale

    def noisy(total):
        return jax.tree.map(
            lambda leaf: leaf + 3 * jax.random.normal(jax.random.key(5), leaf.shape),
            total,
        )

    wrapped = narrow.wrap(begun(narrow), noisy(secure_sum(narrow, stacked)))
    whole = noisy(secure_sum(exact, stacked))
    for one, other in zip(*map(jax.tree.leaves, (wrapped, whole)), strict=True):
        turns = (one - other) / span
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)
        assert np.abs(one).max() <= span / 2 + 1e-3
        # A control: it did wrap around, and without `wrap` noise sticks out.
        assert np.round(turns).any()
    sticks_out = jax.tree.leaves(noisy(secure_sum(narrow, stacked)))
    assert max(np.abs(leaf).max() for leaf in sticks_out) > span / 2


@pytest.mark.exhaustive  # of rounds: federated/test_averaging
def test_clear_sums_are_float_sums():
    aggregator = smpc.clear()
    stacked = updates(200)
    total = secure_sum(aggregator, stacked)
    assert largest_error(total, stacked) < 1e-4
    assert aggregator.sensitivity(begun(aggregator), 2.5, 100) == 2.5


def test_stochastic_is_the_default_rounding_and_two_to_the_sixteen_the_scale():
    default = smpc.additive_sharing(2, 200, 1.0)
    explicit = smpc.additive_sharing(2, 200, 1.0, 2.0**16, "stochastic")
    assert bits(encode_all(default, updates(200))) == bits(
        encode_all(explicit, updates(200))
    )
    assert default.sensitivity(begun(default), 1.0, 100) == 1.0 + 10 / 2**16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10, 1.0), "num_parties must be an integer of at least 2, got 1"),
        ((2, 0, 1.0), "max_clients must be an integer of at least 1, got 0"),
        ((2, 40_000, 1.0), "40000 summands .* needs 33 bits, but .* has 32"),
        ((2, 10, float("inf")), "max_abs must be positive and finite, got inf"),
        ((2, 10, 1.0, 2.0, "down"), "unknown rounding 'down'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        smpc.additive_sharing(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be an integer of at least 1, got 0"),
        ({"bits": 33}, r"bits must be 32 in Z_2\^32"),
        ({"bits": 12, "scale": 2.0**32, "wraps": True}, "1 summands .* has 32"),
        (
            {"bits": 12},
            "needs 21 bits, but the sum has 12; lower the scale to at most 2\\^7",
        ),
        ({"mode": "ideal"}, "unknown mode 'ideal'.*full, identity"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        smpc.additive_sharing(2, 10, 1.0, **options)


@pytest.mark.parametrize("at_once", [1, 64])
def test_one_of_a_hundred_thousand_clients_moves_the_clear_sum_by_its_norm(at_once):
    """A float32 total would move by 1.137 times the norm of one."""
    dimension, num_clients = 16, 64 * 1600
    rng = np.random.default_rng(0)
    direction = rng.normal(size=dimension)
    rows = direction + 0.1 * rng.normal(size=(num_clients, dimension))
    rows = jnp.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    clear = smpc.clear()
    places = jnp.arange(at_once)

    @jax.jit
    def total(present):
        def absorb(total, chunk):
            return clear.absorb(total, chunk[0], places, chunk[1]), None

        chunks = rows.reshape(-1, at_once, dimension), present.reshape(-1, at_once)
        found, _ = jax.lax.scan(absorb, clear.empty(rows[0]), chunks)
        return clear.finish((), found)

    def exactly(pair):
        return np.float64(pair.high) + np.float64(pair.low)

    everybody = jnp.ones(num_clients, bool)
    whole, count, _ = total(everybody)
    assert count == num_clients
    for absent in (0, num_clients // 2, num_clients - 1):
        others, _, _ = total(everybody.at[absent].set(False))
        moved = np.linalg.norm(exactly(whole) - exactly(others))
        assert abs(moved - 1) < 1e-5
