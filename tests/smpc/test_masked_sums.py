"""Sums under masks in a round: one sum in all modes and protocols, or none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import smpc
from ppml_lab.smpc import dropouts, graphs, lightsecagg, mask_keys

NUM_CLIENTS = 12
GRAPHS = {
    "complete": graphs.complete(NUM_CLIENTS, threshold=7),
    "k_regular": graphs.check(graphs.Graph(NUM_CLIENTS, degree=6, threshold=4)),
}
CODE = lightsecagg.Code(NUM_CLIENTS, surviving=7, privacy=3)
PROTOCOLS = GRAPHS | {"light_secagg": CODE}
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
UPDATES = {
    "w": jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CLIENTS, 5, 3))),
    "b": jnp.asarray(np.random.default_rng(1).normal(size=NUM_CLIENTS)),
}
UPDATES = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), UPDATES)


def build(protocol, max_abs=8.0, scale=2.0**16, **options):
    is_code = isinstance(protocol, lightsecagg.Code)
    builder = smpc.light_secagg if is_code else smpc.pairwise_masking
    return builder(protocol, max_abs, scale, **options)


def aggregators(protocol, **options):
    modes = ("identity", "ideal", "full")
    return {mode: build(protocol, mode=mode, **options) for mode in modes}


def run(aggregator, invited, reporting, key=None):
    """A round's messages, what they decode to, and whether it completed."""
    key = jax.random.key(0) if key is None else key
    keys = jax.random.split(jax.random.key(1), NUM_CLIENTS)
    session = aggregator.begin(key, invited, reporting, jnp.inf)
    encode = jax.vmap(aggregator.encode, in_axes=(0, None, 0, 0))
    messages = encode(keys, session, jnp.arange(NUM_CLIENTS), UPDATES)
    empty = aggregator.empty(jax.tree.map(lambda m: m[0], messages))
    places = jnp.arange(NUM_CLIENTS)
    heard = aggregator.absorb(empty, messages, places, reporting)
    total, _, completed = aggregator.finish(session, heard)
    return messages, total, completed


@functools.cache
def compiled(protocol):
    """Every mode's total and whether it completed, of who is invited and reports."""
    return {
        mode: jax.jit(lambda i, r, a=aggregator: run(a, i, r)[1:])
        for mode, aggregator in aggregators(protocol).items()
    }


@each_protocol
@pytest.mark.parametrize(
    "missing",
    [0, 6, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 3, 5, 12))],
)
def test_all_modes_give_the_same_sum_or_none(protocol, missing):
    rng = np.random.default_rng(missing)
    invited = jnp.asarray(rng.permutation(NUM_CLIENTS) >= missing // 4)
    reporting = invited & jnp.asarray(rng.permutation(NUM_CLIENTS) >= missing)
    found = {
        mode: program(invited, reporting)
        for mode, program in compiled(protocol).items()
    }
    total, completed = found["full"]
    for other in ("identity", "ideal"):
        jax.tree.map(np.testing.assert_array_equal, found[other], found["full"])
    heard = np.asarray(reporting)
    if completed:
        for leaf, update in zip(*map(jax.tree.leaves, (total, UPDATES)), strict=True):
            exact = np.asarray(update)[heard].sum(0)
            np.testing.assert_allclose(leaf, exact, atol=NUM_CLIENTS / 2**16)
    else:
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(total))
    if protocol is not GRAPHS["k_regular"]:
        assert completed == (heard.sum() >= 7)
    assert completed or missing > 0


@each_graph
def test_completes_says_what_unmasking_finds(graph):
    seed = jnp.arange(2, dtype=jnp.uint32)
    setup = jax.jit(functools.partial(mask_keys.setup, graph=graph))(seed)
    unmask = jax.jit(lambda alive: mask_keys.unmask(setup, graph, alive).completed)
    rng = np.random.default_rng(0)
    outcomes = []
    for share in np.linspace(0.2, 1, 40):
        alive = dropouts.nested(*jnp.asarray(rng.random((4, NUM_CLIENTS)) < share))
        outcomes.append(bool(unmask(alive)))
        assert mask_keys.completes(graph, alive) == outcomes[-1]
    assert len(set(outcomes)) == 2


@functools.cache
def additive_sum():
    """Of everybody, by three parties."""
    aggregator = smpc.additive_sharing(3, NUM_CLIENTS, 8.0)
    everybody = jnp.ones(NUM_CLIENTS, bool)
    return jax.jit(lambda i, r: run(aggregator, i, r)[1])(everybody, everybody)


@each_protocol
def test_the_sum_is_that_of_additive_sharing(protocol):
    everybody = jnp.ones(NUM_CLIENTS, bool)
    masked, completed = compiled(protocol)["full"](everybody, everybody)
    assert completed
    jax.tree.map(np.testing.assert_array_equal, masked, additive_sum())


@each_protocol
@pytest.mark.parametrize("mode", ["ideal", "full"])
def test_every_word_of_every_mask_is_used_once(mode, protocol):
    """Masks differ between clients, coordinates and rounds, whoever has which place:
    the difference of two uploads under one mask is that of their inputs.
    """
    everybody = jnp.ones(NUM_CLIENTS, bool)
    sums = aggregators(protocol, rounding="nearest")

    @jax.jit
    def both(key):
        masked = run(sums[mode], everybody, everybody, key)[0][0]
        return masked, run(sums["identity"], everybody, everybody)[0][0]

    modulus, words = 2**31 - 1 if protocol is CODE else 2**32, []
    for seed in range(3):
        masked, plain = both(jax.random.key(seed))
        for one, bare in zip(*map(jax.tree.leaves, (masked, plain)), strict=True):
            words.append((np.int64(one) - np.int64(bare)).ravel() % modulus)
    found = np.concatenate(words)
    assert found.size == 3 * NUM_CLIENTS * 16
    assert np.unique(found).size == found.size
    assert 0 not in found


@each_protocol
def test_states_the_cost_of_its_protocol(protocol):
    costs = {aggregator.cost(1000) for aggregator in aggregators(protocol).values()}
    assert len(costs) == 1
    uplink = costs.pop().uplink_bytes
    if protocol is CODE:
        # The vector of 31-bit elements; 11 coded pieces of 250 and one sum of these.
        assert uplink == (1000 + 12 * 250) * 31 / 8
    else:
        assert 4000 < uplink < 4000 + 100 * NUM_CLIENTS


@pytest.mark.parametrize("mode", ["identity", "ideal"])
def test_a_traced_threshold_aborts_alike(mode):
    def completed(threshold, reporting):
        graph = graphs.complete(NUM_CLIENTS, threshold)
        return run(smpc.pairwise_masking(graph, 8.0, mode=mode), reporting, reporting)[
            2
        ]

    reporting = jnp.arange(NUM_CLIENTS) < 8
    assert jax.jit(completed)(8, reporting)
    assert not jax.jit(completed)(9, reporting)


@each_protocol
def test_bad_arguments(protocol):
    with pytest.raises(ValueError, match="unknown mode 'real'"):
        build(protocol, mode="real")
    room = 31 if protocol is CODE else 32
    with pytest.raises(
        ValueError, match=rf"12 summands .* needs .* bits, but the sum has {room}"
    ):
        build(protocol, 8.0, 2.0**30)
    six = jnp.ones(6, bool)
    with pytest.raises(
        ValueError, match="12 places, but the cohort has 6; build the sum for 6"
    ):
        build(protocol).begin(jax.random.key(0), six, six, jnp.inf)


def test_a_traced_threshold_cannot_be_a_number_of_shares():
    def traced(threshold):
        graph = graphs.complete(NUM_CLIENTS, threshold)
        smpc.pairwise_masking(graph, 8.0)
        return threshold

    with pytest.raises(ValueError, match="needs a threshold that is not traced"):
        jax.jit(traced)(7)
