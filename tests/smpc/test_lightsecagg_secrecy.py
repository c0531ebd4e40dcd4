"""What a server and those that collude with it see of coded masks says only the sum.

Chi-square tests, which positive controls show to have the power: codes without uniform
pieces, and one holder more than may collude.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import random
from ppml_lab.smpc import dropouts, field, lightsecagg, shamir
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.aggregation.lightsecagg import Code
from ppml_lab.smpc.field import F31

# Two may collude; a mask is one piece.
HIDING = Code(4, 3, 2)
NUM_RUNS, COORDINATES = 600, 30
p = F31.modulus
SAME = np.full((4, COORDINATES), 0x5EADBEEF, np.uint32)
OTHER = (np.array([[5], [0], [1], [0]], object) * SAME % p).astype(np.uint32)
OTHER[3] = (SAME.astype(object).sum(0) - OTHER.astype(object).sum(0)) % p


def seed_of(number: int):
    return random.seed(jax.random.key(number))


def seeds_of(number: int):
    return random.child(seed_of(number), jnp.arange(NUM_RUNS))


# Of a mask's only piece in each coded one.
SHARE_OF_MASK = rings.to_integers(
    F31, shamir.lagrange_weights(F31, [5, 6, 7], at=range(1, 5))
)[:, 0]


def all_pieces(values):
    """What is coded, from its values at the first three clients' points: the mask and
    the uniform pieces.
    """
    weights = shamir.lagrange_weights(F31, [1, 2, 3], at=[5, 6, 7])
    return field.matmul(F31, weights, values)


def flat(rows) -> np.ndarray:
    """`[rows, runs * coordinates]`."""
    rows = np.moveaxis(np.asarray(rows), 1, 0)
    return rows.reshape(len(rows), -1).astype(np.int64)


def server_view(seen):
    """Four uploads, their masks' sum, and what else the answers say."""
    return jnp.concatenate([seen.uploads, all_pieces(seen.answers)])


@functools.cache
def program():
    """Of all runs: what the server sees, and all that the clients hold of the first
    two's masks, so scaled as `views` has it.
    """
    scale = rings.from_integers(F31, [pow(int(c), -1, p) for c in SHARE_OF_MASK])

    def one(seed, inputs):
        seen = lightsecagg.transcript(seed, HIDING, inputs, dropouts.everybody(4))
        pieces = jax.vmap(
            lambda place: lightsecagg.coded_mask(seed, HIDING, place, COORDINATES)
        )(jnp.arange(2))
        return server_view(seen), F31.multiply(scale[:, None], pieces)

    many = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return lambda *args: tuple(map(np.asarray, many(*args)))


@functools.cache
def views(number: int, same: bool, colluding: int = 0) -> np.ndarray:
    """Of the server, and of the last so many clients: the first two's pieces, so scaled
    that each is the mask plus multiples of uniform pieces.
    """
    server, held = program()(seeds_of(number), jnp.asarray(SAME if same else OTHER))
    held = held[:, :, 4 - colluding :].reshape(NUM_RUNS, -1, COORDINATES)
    return flat(np.concatenate([server, held], axis=1))


@functools.cache
def ideal(number: int) -> np.ndarray:
    total = F31.sum_over(jnp.asarray(SAME), 0)

    @jax.jit
    @jax.vmap
    def many(seed):
        alive = dropouts.everybody(4)
        return server_view(lightsecagg.ideal_transcript(seed, HIDING, total, alive))

    return flat(many(seeds_of(number)))


def combinations(rows) -> list[np.ndarray]:
    """The rows, and the sums and differences of two, modulo p."""
    pairs = list(itertools.combinations(rows, 2))
    return [*rows, *((a + b) % p for a, b in pairs), *((a - b) % p for a, b in pairs)]


def least(p_values: list[float]) -> float:
    """Bonferroni's correction."""
    return min(p_values) * len(p_values)


def uniform_p_value(rows) -> float:
    """Of chi-square tests of low and high bytes."""
    return least(
        [
            scipy.stats.chisquare(np.bincount((row >> s) & 255, minlength=256)).pvalue
            for row in combinations(rows)
            for s in (0, 23)
        ]
    )


def same_law_p_value(rows, others) -> float:
    """Of chi-square tests with two samples, of the lowest and the highest bits."""
    p_values = []
    pairs = zip(combinations(rows), combinations(others), strict=True)
    for pair, shift in itertools.product(pairs, (0, 27)):
        table = np.stack([np.bincount((x >> shift) & 15, minlength=16) for x in pair])
        table = table[:, table.sum(0) > 0]
        p_values.append(scipy.stats.chi2_contingency(table).pvalue)
    return least(p_values)


def pieces_held(mask: int, rows) -> np.ndarray:
    """What some hold of a mask that is the same everywhere."""
    stream, constant = seed_of(8), jnp.full(20_000, mask, jnp.uint32)
    pieces = lightsecagg._with_uniform_pieces(stream, HIDING, constant, F31)
    return np.asarray(lightsecagg.encode(HIDING, pieces))[list(rows)].astype(np.int64)


@pytest.fixture
def without_uniform_pieces(monkeypatch):
    honest = lightsecagg._with_uniform_pieces

    def zeros(*args):
        return honest(*args).at[-HIDING.privacy :].set(0)

    monkeypatch.setattr(lightsecagg, "_with_uniform_pieces", zeros)


@pytest.mark.parametrize("mask", [0, 1, p - 1])
def test_who_may_collude_hold_uniform_elements_whatever_the_mask(mask):
    for rows in itertools.combinations(range(4), 2):
        assert uniform_p_value(pieces_held(mask, rows)) > 1e-3


@pytest.mark.usefixtures("without_uniform_pieces")
def test_without_uniform_pieces_a_single_client_knows_the_mask():
    """A positive control: FedML codes masks with zeros for them."""
    for row in range(4):
        one, other = (pieces_held(mask, [row]) for mask in (1, p - 1))
        assert uniform_p_value(one) < 1e-9
        assert same_law_p_value(one, other) < 1e-9


@pytest.mark.usefixtures("without_uniform_pieces")
def test_without_uniform_pieces_one_that_colludes_sees_an_input():
    """A positive control of the test of inputs with one sum."""
    for cached in (program, views):
        cached.cache_clear()
    one, other = views(1, True, 1), views(2, False, 1)
    for cached in (program, views):
        cached.cache_clear()
    assert same_law_p_value(one, other) < 1e-9


def test_one_more_than_may_collude_tell_masks_apart():
    """A positive control: with the right weights they see it."""
    weights = shamir.lagrange_weights(F31, [1, 2, 3], at=5)
    for mask in (1, p - 1):
        held = jnp.asarray(pieces_held(mask, range(3)).astype(np.uint32))
        assert np.all(shamir.reconstruct(F31, held, weights) == mask)


def test_every_piece_is_drawn_for_itself():
    """Three clients' masks and uniform pieces are uniform, and so are any two."""

    @jax.jit
    @jax.vmap
    def many(seed):
        coded = jax.vmap(
            lambda place: lightsecagg.coded_mask(seed, HIDING, place, COORDINATES)
        )(jnp.arange(3))
        return jnp.concatenate([all_pieces(one[:3]) for one in coded])

    assert uniform_p_value(flat(many(seeds_of(4)))) > 1e-3


def test_the_server_sees_uniform_elements_and_the_sum():
    seen = views(1, True)
    # The masks' sum follows from the uploads and the inputs' sum.
    assert uniform_p_value(np.delete(seen, 4, axis=0)) > 1e-3
    opened = (seen[:4].sum(0) - seen[4]) % p
    assert set(opened.tolist()) == set(SAME.astype(object).sum(0) % p)


@pytest.mark.parametrize("colluding", [0, 2])
def test_inputs_with_one_sum_look_the_same(colluding):
    assert np.array_equal(
        SAME.astype(object).sum(0) % p, OTHER.astype(object).sum(0) % p
    )
    one, other = views(1, True, colluding), views(2, False, colluding)
    assert same_law_p_value(one, other) > 1e-3
    # Of the first two, by those who may collude: uploads and pieces are independent.
    assert uniform_p_value(np.concatenate([one[:2], one[7:]])) > 1e-3


def test_three_that_collude_see_an_input():
    """A positive control: one more than may."""
    weights = rings.to_integers(F31, shamir.lagrange_weights(F31, [2, 3, 4], at=5))
    weights = weights * SHARE_OF_MASK[1:]
    for same, inputs in ((True, SAME), (False, OTHER)):
        seen = views(1 if same else 2, same, 3).astype(object)
        opened = (seen[0] - weights @ seen[7:10]) % p
        assert set(opened.tolist()) == {int(inputs[0, 0])}


def test_ideal_transcripts_follow_the_law_of_full_ones():
    seen = ideal(3)
    assert uniform_p_value(np.delete(seen, 4, axis=0)) > 1e-3
    opened = (seen[:4].sum(0) - seen[4]) % p
    assert set(opened.tolist()) == set(SAME.astype(object).sum(0) % p)
    assert same_law_p_value(views(1, True), seen) > 1e-3
