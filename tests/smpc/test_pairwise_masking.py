"""Pairwise masking as a sum of a round: one sum in all modes, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import smpc
from ppml_lab.smpc import graphs, mask_keys

NUM_CLIENTS = 12
GRAPHS = {
    "complete": graphs.complete(NUM_CLIENTS, threshold=7),
    "k_regular": graphs.check(graphs.Graph(NUM_CLIENTS, degree=6, threshold=4)),
}
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
UPDATES = {
    "w": jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CLIENTS, 5, 3))),
    "b": jnp.asarray(np.random.default_rng(1).normal(size=NUM_CLIENTS)),
}
UPDATES = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), UPDATES)


def aggregators(graph, **options):
    return {
        mode: smpc.pairwise_masking(graph, 8.0, mode=mode, **options)
        for mode in ("identity", "ideal", "full")
    }


def run(aggregator, invited, reporting, key=None):
    """A round's messages, what they decode to, and whether it completed."""
    key = jax.random.key(0) if key is None else key
    keys = jax.random.split(jax.random.key(1), NUM_CLIENTS)
    session = aggregator.begin(key, invited, reporting)
    encode = jax.vmap(aggregator.encode, in_axes=(0, None, 0, 0))
    messages = encode(keys, session, jnp.arange(NUM_CLIENTS), UPDATES)
    heard = jax.tree.map(
        lambda m: jnp.where(jnp.reshape(reporting, (-1, *[1] * (m.ndim - 1))), m, 0),
        messages,
    )
    zeros = jax.tree.map(lambda m: jnp.zeros_like(m[0]), messages)
    total, completed = aggregator.decode(session, aggregator.aggregate(zeros, heard))
    return messages, total, completed


@each_graph
@pytest.mark.parametrize("missing", [0, 1, 3, 5, 6, 12])
def test_all_modes_give_the_same_sum_or_none(graph, missing):
    rng = np.random.default_rng(missing)
    invited = jnp.asarray(rng.permutation(NUM_CLIENTS) >= missing // 4)
    reporting = invited & jnp.asarray(rng.permutation(NUM_CLIENTS) >= missing)
    found = {
        mode: jax.jit(lambda i, r, a=aggregator: run(a, i, r)[1:])(invited, reporting)
        for mode, aggregator in aggregators(graph).items()
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
    if graph.degree == NUM_CLIENTS - 1:
        assert completed == (heard.sum() >= graph.threshold)
    assert completed or missing > 0


@each_graph
def test_completes_says_what_unmasking_finds(graph):
    setup = mask_keys.setup(jnp.arange(2, dtype=jnp.uint32), graph)
    unmask = jax.jit(lambda alive: mask_keys.unmask(setup, graph, alive).completed)
    rng = np.random.default_rng(0)
    outcomes = []
    for share in np.linspace(0.2, 1, 40):
        alive = mask_keys.nested(*jnp.asarray(rng.random((4, NUM_CLIENTS)) < share))
        outcomes.append(bool(unmask(alive)))
        assert mask_keys.completes(graph, alive) == outcomes[-1]
    assert len(set(outcomes)) == 2


def test_the_sum_is_that_of_additive_sharing():
    everybody = jnp.ones(NUM_CLIENTS, bool)
    masked = run(aggregators(GRAPHS["complete"])["full"], everybody, everybody)[1]
    shared = run(smpc.additive_sharing(3, NUM_CLIENTS, 8.0), everybody, everybody)[1]
    jax.tree.map(np.testing.assert_array_equal, masked, shared)


@pytest.mark.parametrize("mode", ["ideal", "full"])
def test_messages_hide_the_updates(mode):
    """No word of a message is the integer that it hides, nor the same in two rounds."""
    everybody = jnp.ones(NUM_CLIENTS, bool)
    build = aggregators(GRAPHS["complete"], rounding="nearest")
    plain = run(build["identity"], everybody, everybody)[0]
    one, two = (
        run(build[mode], everybody, everybody, jax.random.key(seed))[0]
        for seed in (0, 1)
    )
    for a, b, bare in zip(*map(jax.tree.leaves, (one, two, plain)), strict=True):
        assert not np.any(a == bare)
        assert not np.any(a == b)


def test_states_the_cost_of_its_protocol():
    sums = aggregators(GRAPHS["complete"])
    costs = {aggregator.cost(1000) for aggregator in sums.values()}
    assert len(costs) == 1
    uplink = costs.pop().uplink_bytes
    assert 4000 < uplink < 4000 + 100 * NUM_CLIENTS


def test_bad_arguments():
    graph = GRAPHS["complete"]
    with pytest.raises(ValueError, match="unknown mode 'real'"):
        smpc.pairwise_masking(graph, 8.0, mode="real")
    with pytest.raises(ValueError, match=r"12 clients .* needs .* bits, have 32"):
        smpc.pairwise_masking(graph, 8.0, 2.0**30)
    six = jnp.ones(6, bool)
    with pytest.raises(ValueError, match="12 places and the cohort 6; build it for 6"):
        smpc.pairwise_masking(graph, 8.0).begin(jax.random.key(0), six, six)
