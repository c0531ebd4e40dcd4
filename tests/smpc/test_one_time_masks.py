"""Secrets of masks open from the side that must not: one share fewer, a block twice."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import random
from ppml_lab.smpc import dropouts, graphs, lightsecagg, mask_keys, masking, shamir
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.field import F31, F61
from ppml_lab.smpc.ring import Wide

PRIME = 2**61 - 1
SEED = jnp.array([1, 2], jnp.uint32)
KINDS = {"self_seeds": mask_keys.SELF_SEED, "secret_keys": mask_keys.SECRET_KEY}


def at_zero(points: dict[int, int]) -> int:
    """Of the polynomial of the least degree through these."""
    total = 0
    for x, y in points.items():
        above = below = 1
        for other in points:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        total += y * above * pow(below, -1, PRIME)
    return total % PRIME


@pytest.fixture(scope="module", params=[(9, 6, 4), (5, 4, 5), (7, 4, 2)], ids=str)
def secrets(request):
    """By client and kind, the secret and who holds which share of it."""
    graph = graphs.check(graphs.Graph(*request.param))
    setup = jax.jit(functools.partial(mask_keys.setup, graph=graph))(SEED)
    steps = np.concatenate([[0], mask_keys.distances(graph)])
    holders = (np.arange(graph.num_clients)[:, None] + steps) % graph.num_clients

    @jax.jit
    @jax.vmap
    def held(place, kind, holders):
        points = holders.astype(jnp.uint32) + jnp.uint32(1)
        points = Wide(points, jnp.zeros_like(points))
        return mask_keys.shares(setup, graph, place, kind, points)

    found = {}
    for name, kind in KINDS.items():
        places = jnp.arange(graph.num_clients)
        shares = held(places, jnp.full_like(places, kind), jnp.asarray(holders))
        values = rings.to_integers(F61, shares)
        opened = rings.to_integers(F61, getattr(setup, name))
        for place, row in enumerate(values):
            points = dict(
                zip((holders[place] + 1).tolist(), map(int, row), strict=True)
            )
            found[place, name] = int(opened[place]), points
    return graph, found


def test_as_many_shares_as_the_threshold_open_a_secret_and_one_fewer_do_not(secrets):
    graph, found = secrets
    for secret, points in found.values():
        for chosen in itertools.combinations(points, graph.threshold):
            assert at_zero({x: points[x] for x in chosen}) == secret
        for fewer in itertools.combinations(points, graph.threshold - 1):
            assert at_zero({x: points[x] for x in fewer}) != secret
            assert all(points[x] != secret for x in fewer)


def test_every_secret_has_a_polynomial_of_its_own(secrets):
    """Shares less the secret would be the same if two had one between them."""
    _, found = secrets
    rises = [
        (y - secret) % PRIME
        for secret, points in found.values()
        for y in points.values()
    ]
    assert len(set(rises)) == len(rises)
    values = [y for _, points in found.values() for y in points.values()]
    assert len(set(values)) == len(values)


def test_every_block_is_masked_by_itself_and_unmasked_so():
    """In `run`: each chunk draws its own block of every stream, once."""
    drawn, blocks = [], 3
    graph, inputs = (
        graphs.Graph(3, 2, 2),
        jnp.ones((3, blocks * masking.CHUNK), jnp.uint32),
    )

    def uniform(seed, length, first_block=0):
        jax.debug.callback(lambda n: drawn.append(int(n)), jnp.asarray(first_block))
        return rings.Z32.uniform(seed, length, first_block)

    ring = rings.Z32._replace(uniform=uniform)
    alive = dropouts.nested(
        *jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]], bool)
    )
    outcome = jax.jit(lambda x: masking.run(SEED, graph, x, alive, ring=ring))(inputs)
    jax.block_until_ready(outcome)
    jax.effects_barrier()
    assert outcome.completed
    np.testing.assert_array_equal(outcome.total, 2)
    counts = Counter(drawn)
    assert set(counts) == set(range(blocks))
    assert len(set(counts.values())) == 1


def test_blocks_of_a_mask_differ():
    """And are the same however the coordinates are cut."""
    graph, shared = graphs.Graph(5, 4, 3), jnp.ones(5, bool)
    two = 2 * random.BLOCK

    @jax.jit
    def draw(seed):
        setup = mask_keys.setup(seed, graph)
        mask = functools.partial(masking.client_mask, setup, graph, shared)
        coded = functools.partial(lightsecagg.client_mask, seed, length=two)
        return (
            jax.vmap(lambda place: mask(place, two))(jnp.array([0, 3])),
            mask(3, random.BLOCK, first_block=1),
            jax.vmap(coded)(jnp.arange(2)),
        )

    pairwise, later, coded = draw(SEED)
    np.testing.assert_array_equal(pairwise[1][random.BLOCK :], later)
    masks = [*pairwise, *coded]
    for one in masks:
        assert np.unique(one).size > two - 2
    assert np.unique(np.concatenate(masks)).size > len(masks) * two - 8


def test_a_coded_mask_has_all_its_uniform_pieces():
    """Of five rows, two are the mask's and three hide it: each drawn by itself."""
    code = lightsecagg.Code(6, 5, 3)
    length = 2 * 8
    points, pieces = list(range(1, 6)), list(range(7, 12))

    @jax.jit
    def compute(seed):
        return (
            lightsecagg.client_mask(seed, 1, length),
            lightsecagg.coded_mask(seed, code, 1, length),
            shamir.lagrange_weights(F31, points, pieces),
        )

    mask, rows, weights = compute(SEED)
    table = np.array(rings.to_integers(F31, weights), object)
    values = np.array(rings.to_integers(F31, rows), object)[:5]
    opened = table @ values % (2**31 - 1)
    known = np.array(rings.to_integers(F31, mask), object).reshape(2, 8)
    np.testing.assert_array_equal(opened[:2], known)
    assert len(set(opened.ravel().tolist())) == 5 * 8
    assert 0 not in opened
