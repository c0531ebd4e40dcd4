"""JAX functions on shares: the clear result, up to fixed point, by any protocol."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppml_lab import random
from ppml_lab.smpc import private, ring, sharing, transcript

SEED = jnp.array([3, 5], jnp.uint32)
BITS = 18
STEP = 2.0**-BITS


class Small(nn.Module):
    """A convolution, a pool, two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), strides=2)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(4)(x)


@pytest.fixture(scope="module")
def model():
    images = jax.random.uniform(jax.random.key(1), (8, 8, 8, 2))
    params = Small().init(jax.random.key(0), images)
    return params, images


def run(protocol, function, *args, seed=SEED):
    """Shares everything, computes, reveals."""
    parts = [random.child(seed, n) for n in range(len(args) + 1)]
    shared = [
        private.share(protocol, part, arg)
        for part, arg in zip(parts[1:], args, strict=True)
    ]
    return private.reveal(
        protocol, private.evaluate(protocol, parts[0], function, *shared)
    )


class Smallest(nn.Module):
    """A comparison and two kinds of products: more compiles long for all parties."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (3, 3), strides=2)(x)
        x = nn.max_pool(x, (1, 2), strides=(1, 2))
        return nn.Dense(3)(x[:, 0, 0])


@pytest.fixture(scope="module")
def ideal_logits(model):
    how = private.protocol(fraction_bits=BITS, ideal=True)
    return jax.jit(functools.partial(run, how, Small().apply))(*model)


def test_a_cnn_on_shares_is_the_clear_one_within_its_fixed_point_error(
    model, ideal_logits
):
    params, images = model
    clear = Small().apply(params, images)
    # Every logit sums fewer than 300 rounded products of numbers below 2, three deep.
    assert np.abs(ideal_logits - clear).max() < 300 * STEP
    assert np.abs(ideal_logits - clear).max() > 0


KINDS = [{"kind": "replicated"}, {"kind": "additive", "num_parties": 2}]
RINGS = [(ring.Z64, BITS), (ring.Z32, 10)]


@pytest.mark.parametrize(
    ("kind", "where", "bits"),
    [
        (KINDS[0], *RINGS[0]),
        pytest.param(KINDS[1], *RINGS[1], marks=pytest.mark.exhaustive),
    ],
    ids=["replicated", "additive"],
)
def test_shares_of_all_parties_give_the_bits_of_the_ideal_mode(
    model, kind, where, bits
):
    images = model[1][:2]
    params = jax.jit(Smallest().init)(jax.random.key(0), images)
    full, ideal = (
        jax.jit(functools.partial(run, how, Smallest().apply))(params, images)
        for how in (
            private.protocol(ring=where, fraction_bits=bits, ideal=ideal, **kind)
            for ideal in (False, True)
        )
    )
    np.testing.assert_array_equal(full, ideal)
    assert np.unique(full).size > 1


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS, ids=["replicated", "additive"])
def test_a_whole_cnn_of_all_parties_gives_the_bits_of_the_ideal_mode(
    model, ideal_logits, kind
):
    how = private.protocol(fraction_bits=BITS, **kind)
    full = jax.jit(functools.partial(run, how, Small().apply))(*model)
    np.testing.assert_array_equal(full, ideal_logits)


@pytest.mark.parametrize(
    "kind", [pytest.param("replicated", marks=pytest.mark.exhaustive), "additive"]
)
def test_the_ideal_mode_sends_what_the_parties_send(model, kind):
    recorders = [
        transcript.priced(
            functools.partial(
                run, private.protocol(kind, ideal=ideal), Small().apply, seed=SEED
            ),
            *model,
        )
        for ideal in (True, False)
    ]
    assert recorders[0].messages == recorders[1].messages
    assert recorders[0].num_rounds() == recorders[1].num_rounds() > 30


def test_costs_are_named_by_layers(model):
    how = private.protocol(ideal=True)
    sent = transcript.priced(functools.partial(run, how, Small().apply), *model)
    tree = sent.by_path()
    for layer in ("Small/Conv_0", "Small/Dense_0", "Small/Dense_1"):
        assert sum(tree[layer].values()) > 0
        assert sent.num_rounds(layer) >= 3  # A product and its truncation.
    # A product of [8, 6] by [6, 4]: 32 words from each party.
    assert tree["Small/Dense_1/dot"] == dict.fromkeys(range(3), 32 * 64)


def test_bits_swept_in_one_program_are_those_of_separate_ones(model, compile_counter):
    def at(bits):
        return run(
            private.protocol(fraction_bits=bits, ideal=True), Small().apply, *model
        )

    swept = jnp.array([6, 12, BITS])
    program = jax.jit(lambda bits: jax.lax.map(at, bits))
    program.lower(swept).compile()
    compile_counter.reset()
    found = program(swept)
    assert compile_counter.compilations <= 1
    clear = Small().apply(*model)
    errors = np.abs(found - clear).max(axis=(1, 2))
    assert errors[0] > 8 * errors[1] > 64 * errors[2]
    how = private.protocol(fraction_bits=12, ideal=True)
    np.testing.assert_array_equal(
        found[1], jax.jit(functools.partial(run, how, Small().apply))(*model)
    )


def test_four_devices_compute_the_bits_of_one(model, ideal_logits):
    params, images = model
    how = private.protocol(fraction_bits=BITS, ideal=True)
    mesh = Mesh(np.array(jax.devices()[:4]), ("images",))
    dealt = jax.device_put(images, NamedSharding(mesh, PartitionSpec("images")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    found = jax.jit(functools.partial(run, how, Small().apply))(params, dealt)
    assert len(dealt.sharding.device_set) == 4
    np.testing.assert_array_equal(found, ideal_logits)


def test_x64_changes_nothing(model, ideal_logits):
    how = private.protocol(fraction_bits=BITS, ideal=True)
    with jax.enable_x64(True):
        found = jax.jit(functools.partial(run, how, Small().apply))(*model)
        np.testing.assert_array_equal(found, ideal_logits)


def softmax_step(weights, x, y):
    """A gradient through a ReLU and a softmax."""

    def logits(weights):
        return jnp.maximum(x @ weights["a"], 0) @ weights["b"]

    found, pull = jax.vjp(logits, weights)
    (gradient,) = pull((jax.nn.softmax(found) - y) / 16)
    return jax.tree.map(lambda w, g: w - 0.5 * g, weights, gradient)


@pytest.mark.exhaustive  # federated/test_on_shares trains
def test_a_training_step_through_relu_and_softmax_is_the_clear_one():
    rng = np.random.default_rng(2)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    weights = {"a": normal(5, 6), "b": normal(6, 2)}
    x, y = normal(16, 5), jnp.asarray(np.eye(2)[np.arange(16) % 2], jnp.float32)
    how = private.protocol(fraction_bits=20, ideal=True)
    found = jax.jit(functools.partial(run, how, softmax_step))(weights, x, y)
    clear = jax.jit(softmax_step)(weights, x, y)
    for name in weights:
        moved = np.abs(clear[name] - weights[name]).max()
        # The exponential is off by half a percent at most, where it matters.
        assert np.abs(found[name] - clear[name]).max() < 0.01 * moved


CASES = {
    "sums": lambda x, y: (x + y - 0.5, -x, jnp.sum(x, axis=0), x.mean()),
    "products": lambda x, y: (x * y, 0.3 * x, x * 3.0, x**3, x @ y.T),
    "small factors": lambda x, y: ((x * 1000.0) * 1e-3, y / 3.0),
    "comparisons": lambda x, y: (jnp.where(x > y, x, 2 * y), jnp.where(x <= 0, y, x)),
    "maxima": lambda x, y: (
        jnp.maximum(x, y), jnp.minimum(x, 0.25), jnp.max(x, axis=1), jnp.clip(y, 0, 1)
    ),
    "moves": lambda x, y: (
        jnp.concatenate([x, y])[::2], x.T.reshape(-1), jnp.pad(x, 1), x[:, ::-1]
    ),
    "bits": lambda x, y: ((x > 0).astype(jnp.float32) * y, (x < y).astype(jnp.float32)),
    "loops": lambda x, y: jax.lax.fori_loop(
        0, 3, lambda i, z: 0.5 * z + i.astype(jnp.float32) * x, y
    ),
    "known": lambda x, y: (x @ jnp.ones((4, 2)), x * jnp.arange(4.0), 2.5 + y),
    "scans": lambda x, y: jax.lax.scan(lambda c, r: (c + r, c * r), y[0], x),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operations_are_the_clear_ones(name):
    keys = jax.random.split(jax.random.key(4))
    x, y = (jax.random.normal(key, (3, 4)) for key in keys)
    how = private.protocol(fraction_bits=20, ideal=True)
    with jax.numpy_dtype_promotion("standard"):
        found = jax.jit(functools.partial(run, how, CASES[name]))(x, y)
        clear = CASES[name](x, y)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(clear), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=40 * 2.0**-20)


def test_a_division_is_approximated_once_for_what_repeats():
    def normalised(x):
        return x / jnp.sum(x, axis=-1, keepdims=True)

    how = private.protocol(fraction_bits=20, ideal=True)
    x = jax.random.uniform(jax.random.key(0), (3, 4), minval=0.5, maxval=2.0)
    found = jax.jit(functools.partial(run, how, normalised))(x)
    np.testing.assert_allclose(found, normalised(x), atol=4 * 2.0**-20)
    sent = transcript.priced(functools.partial(run, how, normalised), x)
    # Three top bits are looked for, not twelve: 64 places of a word each.
    by_bits = [m.num_bits for m in sent.messages if "from_bit" in m.path]
    assert max(by_bits) == 3 * 64 * 64


def test_known_arrays_stay_known():
    how = private.protocol(ideal=True)
    shared = private.share(how, SEED, jnp.ones(3))
    out = private.evaluate(how, SEED, lambda x, y: (x + y, 2 * y), shared, jnp.ones(3))
    assert isinstance(out[0], sharing.Shared)
    np.testing.assert_array_equal(out[1], 2 * np.ones(3))


def test_what_has_no_private_form_is_named():
    how = private.protocol(ideal=True)
    shared = private.share(how, SEED, jnp.ones(3))

    def function(x):
        with jax.named_scope("block"):
            return jnp.sin(x)

    with pytest.raises(
        NotImplementedError, match=r"sin has no private form \(in block\)"
    ):
        private.evaluate(how, SEED, function, shared)


def test_a_depth_that_overflows_is_found_before_it_runs(model):
    how = private.protocol(ring=ring.Z32, fraction_bits=14)
    message = (
        r"layer Small/Dense_\d needs 3\d bits, .*; take at most 1\d, or take ring.Z64"
    )
    large = jax.tree.map(lambda leaf: 4 * leaf, model[0])
    with pytest.raises(ValueError, match=message):
        private.check_ranges(how, Small().apply, large, model[1])
    enough = private.protocol(ring=ring.Z32, fraction_bits=8)
    needed = private.check_ranges(enough, Small().apply, *model)
    assert 18 <= max(needed.values()) <= 32
    how = private.protocol(ring=ring.Z32, fraction_bits=8, ideal=True)
    found = jax.jit(functools.partial(run, how, Small().apply))(*model)
    assert np.abs(found - Small().apply(*model)).max() < 0.2


def test_a_known_divisor_needs_no_more_bits_than_its_dividend():
    """On shares it is a factor: no reciprocal is approximated, which fails at 1e4."""
    how = private.protocol(fraction_bits=16)
    needed = private.check_ranges(how, lambda x: x / 1e4, jnp.full(3, 5.0))
    assert max(needed.values()) == 3 + 2 * 16 + 2


def test_values_beyond_the_checked_range_do_wrap(model):
    """The control: what `check_ranges` refuses is really wrong."""
    how = private.protocol(ring=ring.Z32, fraction_bits=14, ideal=True)
    large = jax.tree.map(lambda leaf: 4 * leaf, model[0])
    found = jax.jit(functools.partial(run, how, Small().apply))(large, model[1])
    assert np.abs(found - Small().apply(large, model[1])).max() > 1


def test_mixing_protocols_is_refused():
    how, other = private.protocol(ideal=True), private.protocol("additive", ideal=True)
    x, y = (
        private.share(how, SEED, jnp.ones(2)),
        private.share(other, SEED, jnp.ones(2)),
    )
    with pytest.raises(ValueError, match="cannot mix shares"):
        private.evaluate(how, SEED, jnp.add, x, y)
    finer = private.protocol(fraction_bits=20, ideal=True)
    with pytest.raises(ValueError, match="cannot mix shares"):
        private.evaluate(finer, SEED, jnp.add, x, x)
    with pytest.raises(ValueError, match="cannot mix shares"):
        sharing.add(x, private.share(finer, SEED, jnp.ones(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "shamir"}, "unknown kind 'shamir'"),
        ({"fraction_bits": 32}, "from 1 to 31"),
        ({"ring": ring.Z32, "fraction_bits": 16}, "from 1 to 15"),
        ({"num_parties": 4}, "replicated shares need 3 parties"),
        ({"truncation_method": "local"}, "is for 2 parties"),
        ({"truncation_method": "none"}, "unknown truncation"),
    ],
)
def test_bad_protocols_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        private.protocol(**options)
