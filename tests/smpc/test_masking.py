"""Masks cancel in the sum, or the protocol aborts, and a server sees nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from ppml_lab import random
from ppml_lab.smpc import dropouts, field, graphs, mask_keys, masking
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.field import F61

GRAPHS = {
    "odd": graphs.Graph(5, 4, 3),
    "even": graphs.Graph(6, 5, 4),
    "k_regular": graphs.Graph(9, 4, 3),
}
RINGS = {"Z32": rings.Z32, "Z64": rings.Z64, "F31": field.F31}
LENGTH = 2500
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
few_graphs = pytest.mark.parametrize(
    "graph",
    [
        pytest.param(graph, marks=pytest.mark.exhaustive if name == "even" else [])
        for name, graph in GRAPHS.items()
    ],
    ids=GRAPHS,
)
each_ring = pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS)


def compiled(function, *static: str):
    return jax.jit(function, static_argnames=("graph", *static))


setup = compiled(mask_keys.setup)
pair_seeds = compiled(mask_keys.pair_seeds)
unmask = compiled(mask_keys.unmask)
masked_inputs = compiled(masking.masked_inputs, "ring")
mask_of_sum = compiled(masking.mask_of_sum, "length", "ring")


def seed_of(number: int):
    return random.seed(jax.random.key(number))


def draw(ring, num_clients: int, length: int = LENGTH):
    return ring.uniform(random.child(seed_of(99), jnp.arange(num_clients)), length)


def alive_of(patterns) -> dropouts.Alive:
    return dropouts.nested(*jnp.asarray(patterns, bool))


def neighbours_of(graph, place: int) -> set[int]:
    reach = range(1, graph.num_clients)
    if graph.degree < graph.num_clients - 1:
        reach = [o for s in range(1, graph.degree // 2 + 1) for o in (s, -s)]
    return {(place + o) % graph.num_clients for o in reach}


def sums_up(graph, alive) -> bool:
    """As the papers have it, by sets."""
    advertised, shared, uploaded, answered = (
        set(np.flatnonzero(stage).tolist()) for stage in alive
    )
    assert advertised >= shared >= uploaded >= answered
    return bool(uploaded) and all(
        len((neighbours_of(graph, i) | {i}) & answered) >= graph.threshold
        for i in shared
    )


def exact_sum(ring, inputs, uploaded) -> list[int]:
    values = rings.to_integers(ring, inputs)[np.asarray(uploaded)]
    return (values.sum(axis=0) % ring.modulus).tolist()


def patterns_of(graph):
    """Mostly all there, for all numbers of rounds to be reached."""
    one = st.integers(0, 9).map(bool)
    clients = st.lists(one, min_size=graph.num_clients, max_size=graph.num_clients)
    return st.lists(clients, min_size=4, max_size=4)


def outcome(seed, graph, inputs, alive) -> tuple[list[int], bool]:
    """Of the protocol, put together of its parts."""
    keys = setup(seed, graph)
    unmasking = unmask(keys, graph, alive)
    uploads = masked_inputs(keys, pair_seeds(keys, graph), graph, inputs, alive)
    total = uploads.sum(0, dtype=jnp.uint32)
    total = total - mask_of_sum(unmasking, graph, alive, inputs.shape[1])
    return np.asarray(total).tolist(), bool(unmasking.completed)


@few_graphs
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), number=st.integers(0, 2**32 - 1))
def test_the_sum_over_uploads_or_nothing(graph, data, number):
    alive = alive_of(data.draw(patterns_of(graph)))
    inputs = draw(rings.Z32, graph.num_clients)
    total, completed = outcome(seed_of(number), graph, inputs, alive)
    assert completed == sums_up(graph, alive)
    exact = exact_sum(rings.Z32, inputs, alive.uploaded)
    assert (total == exact) == (completed or not np.any(alive.shared))


@each_graph
def test_the_threshold_is_sharp(graph):
    """As few answers as it takes, and then one fewer."""
    everybody = np.ones(graph.num_clients, bool)
    inputs = draw(rings.Z32, graph.num_clients)
    answers = everybody.copy()
    for place in range(graph.num_clients):
        fewer = answers & (np.arange(graph.num_clients) != place)
        alive = alive_of([everybody] * 3 + [fewer])
        if sums_up(graph, alive):
            answers = fewer
        else:
            assert not outcome(seed_of(0), graph, inputs, alive)[1]
    alive = alive_of([everybody] * 3 + [answers])
    total, completed = outcome(seed_of(0), graph, inputs, alive)
    assert completed
    assert total == exact_sum(rings.Z32, inputs, everybody)
    if graph.degree == graph.num_clients - 1:
        assert answers.sum() == graph.threshold


PATTERNS = {
    "odd": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 0]],
    "even": [[1] * 6, [1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]],
    "k_regular": [
        [1, 1, 1, 0, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 1, 1, 0, 1, 1],
        [1, 1, 1, 0, 1, 1, 0, 1, 1],
    ],
}
each_pattern = pytest.mark.parametrize("name", GRAPHS)


@functools.cache
def protocol(name: str):
    """Keys, and what the server knows, when some drop out in the rounds 2 and 3."""
    graph, alive = GRAPHS[name], alive_of(PATTERNS[name])
    keys = setup(seed_of(7), graph)
    return keys, pair_seeds(keys, graph), unmask(keys, graph, alive), alive


@each_ring
def test_in_any_ring(ring):
    graph = GRAPHS["even"]
    keys, seeds, unmasking, alive = protocol("even")
    inputs = draw(ring, 6)
    uploads = masked_inputs(keys, seeds, graph, inputs, alive, 3, ring=ring)
    removed = mask_of_sum(unmasking, graph, alive, LENGTH, 3, ring=ring)
    total = ring.subtract(ring.sum_over(uploads, 0), removed)
    expected = exact_sum(ring, inputs, alive.uploaded)
    assert rings.to_integers(ring, total).tolist() == expected
    assert exact_sum(ring, uploads, alive.uploaded) != expected


@pytest.mark.exhaustive  # test_chunks_of_uploads_are_those_of_the_whole
def test_a_run_is_its_parts_under_any_chunking():
    graph, inputs = GRAPHS["odd"], draw(rings.Z32, 5)

    def chunk_of(number):
        streams = random.child(seed_of(99), jnp.arange(5))
        return rings.Z32.uniform(streams, random.BLOCK, number)

    @jax.jit
    def both(alive):
        run = functools.partial(masking.run, seed_of(1), graph, alive=alive)
        return run(inputs, chunk=2 * random.BLOCK), run(chunk_of, num_chunks=3)

    alive = alive_of(PATTERNS["odd"])
    total, completed = outcome(seed_of(1), graph, inputs, alive)
    for found in both(alive):
        assert found.total[:LENGTH].tolist() == total
        assert found.completed == completed
    for missing in range(5):
        for found in both(alive_of([[r < missing] * 5 for r in range(4)])):
            assert found.completed == (missing == 4)
            assert found.completed or not np.any(found.total)


@each_pattern
def test_chunks_of_uploads_are_those_of_the_whole(name):
    graph, (keys, seeds, unmasking, alive) = GRAPHS[name], protocol(name)
    inputs = draw(rings.Z32, graph.num_clients)
    uploads = masked_inputs(keys, seeds, graph, inputs, alive)
    tail = masked_inputs(keys, seeds, graph, inputs[:, 1024:], alive, 1)
    np.testing.assert_array_equal(uploads[:, 1024:], tail)
    removed = mask_of_sum(unmasking, graph, alive, LENGTH)
    tail = mask_of_sum(unmasking, graph, alive, LENGTH - 1024, 1)
    np.testing.assert_array_equal(removed[1024:], tail)


def test_devices_change_no_bit():
    """Coordinates over 4 devices, no communication."""
    name, num_blocks = "k_regular", 2
    graph, (keys, seeds, unmasking, alive) = GRAPHS[name], protocol(name)
    length = 4 * num_blocks * random.BLOCK
    inputs = draw(rings.Z32, graph.num_clients, length)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def part(inputs):
        begin = jax.lax.axis_index("d") * num_blocks
        uploads = masking.masked_inputs(keys, seeds, graph, inputs, alive, begin)
        size = uploads.shape[1]
        return uploads, masking.mask_of_sum(unmasking, graph, alive, size, begin)

    spec = PartitionSpec(None, "d")
    sharded = jax.shard_map(
        part, mesh=mesh, in_specs=spec, out_specs=(spec, PartitionSpec("d"))
    )
    uploads, removed = jax.jit(sharded)(inputs)
    one = masked_inputs(keys, seeds, graph, inputs, alive)
    np.testing.assert_array_equal(uploads, one)
    one = mask_of_sum(unmasking, graph, alive, length)
    np.testing.assert_array_equal(removed, one)


@pytest.mark.exhaustive  # its parts: test_devices_change_no_bit
@pytest.mark.parametrize(
    "num_chunks",
    # More than devices, and fewer; a multiple of them is the easier case.
    [7, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 4))],
)
def test_a_run_dealt_to_devices_changes_no_bit(num_chunks):
    graph, (_, _, _, alive) = GRAPHS["k_regular"], protocol("k_regular")
    inputs = draw(rings.Z32, graph.num_clients, num_chunks * masking.CHUNK - 5)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def total(mesh):
        whole = jax.jit(
            lambda inputs: masking.run(seed_of(1), graph, inputs, alive, mesh=mesh)
        )
        return whole(inputs)

    dealt, alone = total(mesh), total(None)
    assert dealt.completed
    np.testing.assert_array_equal(dealt.total, alone.total)


@each_pattern
def test_one_client_masks_as_all_together_do(name):
    graph, (keys, seeds, _, alive) = GRAPHS[name], protocol(name)
    inputs = draw(rings.Z32, graph.num_clients)
    together = masked_inputs(keys, seeds, graph, inputs, alive, 5) - inputs
    places = jnp.arange(graph.num_clients)
    client = jax.jit(
        jax.vmap(
            lambda place: masking.client_mask(
                keys, graph, alive.shared, place, LENGTH, 5
            )
        )
    )
    uploaded = np.asarray(alive.uploaded)
    np.testing.assert_array_equal(client(places)[uploaded], together[uploaded])


def test_a_round_of_three_by_hand():
    """In Python integers, from the secrets and the words of the streams."""
    graph, prime = graphs.Graph(3, 2, 2), F61.modulus
    keys, alive = setup(seed_of(3), graph), dropouts.everybody(3)
    secret, public, own = (rings.to_integers(F61, key) for key in keys[:3])
    assert [pow(mask_keys.GENERATOR, int(a), prime) for a in secret] == list(public)

    def words(number: int, domain: int) -> np.ndarray:
        pair = jnp.array([number % 2**32, number >> 32], jnp.uint32)
        return np.asarray(random.words(random.child(pair, domain), 4)).astype(object)

    inputs = np.arange(12).reshape(3, 4)
    uploads = inputs + np.stack([words(int(b), 0) for b in own])
    for i in range(3):
        ahead = (i + 1) % 3
        mask = words(pow(int(public[ahead]), int(secret[i]), prime), 1)
        uploads[i] += mask
        uploads[ahead] -= mask
    sent = masked_inputs(
        keys, pair_seeds(keys, graph), graph, jnp.asarray(inputs, jnp.uint32), alive
    )
    assert np.asarray(sent).tolist() == (uploads % 2**32).tolist()


@pytest.mark.exhaustive
def test_loops_that_are_not_compiled():
    graph = graphs.Graph(4, 3, 2)
    alive = alive_of([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 1]])
    inputs = jnp.arange(12, dtype=jnp.uint32).reshape(4, 3)
    with jax.disable_jit():
        seen, unmasking = masking.transcript(seed_of(3), graph, inputs, alive)
    assert unmasking.completed
    total = seen.uploads.sum(0, dtype=jnp.uint32) - seen.removed
    assert total.tolist() == exact_sum(rings.Z32, inputs, alive.uploaded)


def test_the_generator_generates():
    """Its order is divided by no (p - 1) / q, so it is p - 1."""
    order = F61.modulus - 1
    primes = (2, 3, 5, 7, 11, 13, 31, 41, 61, 151, 331, 1321)
    rest = order
    for prime in primes:
        assert pow(mask_keys.GENERATOR, order // prime, F61.modulus) != 1
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


@each_pattern
def test_the_server_opens_what_it_asks_for_and_no_two_secrets(name):
    keys, _, unmasking, alive = protocol(name)
    opened, secret, own = (
        rings.to_integers(F61, key)
        for key in (unmasking.secrets, keys.secret_keys, keys.self_seeds)
    )
    uploaded, shared = np.asarray(alive.uploaded), np.asarray(alive.shared)
    np.testing.assert_array_equal(opened, np.where(uploaded, own, secret * shared))
    gone = np.flatnonzero(shared & ~uploaded)
    assert unmasking.num_dropped == len(gone) > 0
    assert unmasking.dropped[: len(gone)].tolist() == gone.tolist()
    assert not np.any(unmasking.pair_seeds[len(gone) :])


@each_graph
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_client_is_asked_for_twice(graph, data):
    alive = alive_of(data.draw(patterns_of(graph)))
    kinds = np.asarray(mask_keys.requested(alive))
    own, key = kinds == mask_keys.SELF_SEED, kinds == mask_keys.SECRET_KEY
    assert not np.any(own & key)
    np.testing.assert_array_equal(own, alive.uploaded)
    np.testing.assert_array_equal(own | key, alive.shared)


def test_too_few_shares_open_nothing():
    graph = GRAPHS["k_regular"]
    keys = protocol("k_regular")[0]
    answered = np.isin(np.arange(9), [0, 1, 2])  # three holders, of places 0 to 2 only
    alive = alive_of([np.ones(9)] * 3 + [answered])
    unmasking = unmask(keys, graph, alive)
    assert not unmasking.completed
    own = rings.to_integers(F61, keys.self_seeds)
    opened = rings.to_integers(F61, unmasking.secrets)
    expected = np.where(np.isin(np.arange(9), [0, 1, 2]), own, 0)
    np.testing.assert_array_equal(opened, expected)


def test_bad_arguments():
    graph, alive = GRAPHS["odd"], dropouts.everybody(5)
    inputs = draw(rings.Z32, 5)
    with pytest.raises(ValueError, match="chunk must be a multiple of 1024, got 1000"):
        masking.run(seed_of(0), graph, inputs, alive, chunk=1000)
    with pytest.raises(
        ValueError, match=r"num_chunks must be given .* num_chunks None"
    ):
        masking.run(seed_of(0), graph, lambda number: inputs, alive)
    with pytest.raises(ValueError, match=r"num_chunks must be given .* num_chunks 3"):
        masking.run(seed_of(0), graph, inputs, alive, num_chunks=3)
    with pytest.raises(ValueError, match="threshold 9 is out of reach"):
        mask_keys.setup(seed_of(0), graphs.Graph(5, 4, 9))
    keys = setup(seed_of(0), graph)
    seeds = pair_seeds(keys, graph)
    for rows, here in ((inputs[:1], alive), (inputs, dropouts.everybody(1))):
        with pytest.raises(
            ValueError, match="inputs and alive must have one row for each"
        ):
            masking.masked_inputs(keys, seeds, graph, rows, here)
