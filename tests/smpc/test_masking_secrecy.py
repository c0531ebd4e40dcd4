"""What a server of masked sums sees looks the same whatever the inputs of one sum.

Chi-square tests, which positive controls show to have the power: masks that miss a
value, no own masks, and both secrets of a client open.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppml_lab import random
from ppml_lab.smpc import dropouts, field, graphs, mask_keys, masking
from ppml_lab.smpc import ring as rings

# Of four clients that all stay.
FOUR = graphs.Graph(4, 3, 3)
NUM_RUNS, COORDINATES = 500, 32
SAME = np.full((4, COORDINATES), 0xDEADBEEF, np.uint32)
OTHER = np.array([[5], [0], [1], [0]], np.uint32) * SAME
OTHER[3] = SAME.sum(0, dtype=np.uint32) - OTHER.sum(0, dtype=np.uint32)


def seed_of(number: int):
    return random.seed(jax.random.key(number))


@functools.cache
def views(number: int, same: bool) -> dict[str, np.ndarray]:
    """Arrays `[runs, clients or 1, coordinates]` by what the server knows."""
    seeds = random.child(seed_of(number), jnp.arange(NUM_RUNS))
    seen = many_runs(seeds, jnp.asarray(SAME if same else OTHER))
    return jax.tree.map(np.asarray, seen)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def many_runs(seed, inputs) -> dict[str, jax.Array]:
    alive = dropouts.everybody(4)
    seen, unmasking = masking.transcript(seed, FOUR, inputs, alive)
    keys = mask_keys.setup(seed, FOUR)
    own = rings.Z32.uniform(mask_keys.own_stream(unmasking.secrets), COORDINATES)
    client = functools.partial(masking.client_mask, keys, FOUR, alive.shared)
    masks = jax.vmap(lambda place: client(place, COORDINATES))(jnp.arange(4))
    return {
        "uploads": seen.uploads,
        "total": (seen.uploads.sum(0, dtype=jnp.uint32) - seen.removed)[None],
        "own masks removed": seen.uploads - own,
        "pair masks removed": seen.uploads - (masks - own),
        "both removed": seen.uploads - masks,
        "never had own masks": (seen.uploads - own) - (masks - own),
    }


@functools.cache
def ideal(number: int) -> masking.Transcript:
    total = jnp.asarray(SAME.sum(0, dtype=np.uint32))
    one_run = jax.jit(jax.vmap(masking.ideal_transcript, in_axes=(0, None, None)))
    seeds = random.child(seed_of(number), jnp.arange(NUM_RUNS))
    seen = one_run(seeds, total, jnp.ones(4, bool))
    return jax.tree.map(np.asarray, seen)


def combinations(words) -> list[np.ndarray]:
    """Each client's words, and the sums of two clients'."""
    rows = np.moveaxis(words, 1, 0).reshape(words.shape[1], -1)
    pairs = itertools.combinations(rows, 2)
    return [*rows, *(one + two for one, two in pairs)]


def least(p_values: list[float]) -> float:
    """Bonferroni's correction."""
    return min(p_values) * len(p_values)


def uniform_p_value(words) -> float:
    """Of chi-square tests of all bytes."""
    return least(
        [
            scipy.stats.chisquare(np.bincount((row >> s) & 255, minlength=256)).pvalue
            for row in combinations(words)
            for s in (0, 8, 16, 24)
        ]
    )


def same_law_p_value(words, others) -> float:
    """Of chi-square tests with two samples, of the lowest and the highest bits."""
    p_values = []
    pairs = zip(combinations(words), combinations(others), strict=True)
    for pair, shift in itertools.product(pairs, (0, 28)):
        table = np.stack([np.bincount((x >> shift) & 15, minlength=16) for x in pair])
        table = table[:, table.sum(0) > 0]
        p_values.append(scipy.stats.chi2_contingency(table).pvalue)
    return least(p_values)


def test_the_server_sees_uniform_words_and_the_sum():
    seen, total = views(1, True), SAME.sum(0, dtype=np.uint32)
    assert uniform_p_value(seen["uploads"]) > 1e-3
    # With all own masks open, all but the last: with it they sum up to the total.
    assert uniform_p_value(seen["own masks removed"][:, :3]) > 1e-3
    assert np.all(seen["own masks removed"].sum(1, dtype=np.uint32) == total)
    assert np.all(seen["total"] == total)


@pytest.mark.parametrize("view", ["uploads", "own masks removed", "pair masks removed"])
def test_inputs_with_one_sum_look_the_same(view):
    assert np.array_equal(SAME.sum(0, dtype=np.uint32), OTHER.sum(0, dtype=np.uint32))
    assert same_law_p_value(views(1, True)[view], views(2, False)[view]) > 1e-3


def test_ideal_uploads_follow_the_law_of_full_ones():
    full, ideals = views(1, True), ideal(3)
    assert uniform_p_value(ideals.uploads) > 1e-3
    assert same_law_p_value(full["uploads"], ideals.uploads) > 1e-3
    total = ideals.uploads.sum(1, dtype=np.uint32) - ideals.removed
    assert np.all(total == SAME.sum(0, dtype=np.uint32))


def test_ideal_uploads_are_of_those_that_uploaded():
    ring, total = field.F31, field.F31.uniform(seed_of(9), 50)
    some = jnp.array([True, False, True])
    uploads, removed = masking.ideal_transcript(seed_of(0), total, some, ring=ring)
    assert not np.any(uploads[1])
    opened = ring.subtract(ring.sum_over(uploads, 0), removed)
    np.testing.assert_array_equal(opened, total)


def test_both_secrets_of_a_client_are_its_input():
    """A positive control: why the server must not get them."""
    same, other = views(1, True)["both removed"], views(2, False)["both removed"]
    assert np.all(same == SAME)
    assert np.all(other == OTHER)
    assert uniform_p_value(same) < 1e-9
    assert same_law_p_value(same, other) < 1e-9


def test_without_its_own_mask_a_late_client_shows_its_input():
    """A positive control: the server opened the key of one that seemed to be gone."""
    assert uniform_p_value(views(1, True)["pair masks removed"]) > 1e-3
    assert uniform_p_value(views(1, True)["never had own masks"]) < 1e-9


def quarter_ring(num_values: int) -> rings.Ring:
    """Modulo 4, with masks of so many of the 4 values."""
    return rings.Z32._replace(
        name="Z_4",
        modulus=4,
        bits=2,
        add=lambda a, b: (a + b) & 3,
        subtract=lambda a, b: (a - b) & 3,
        uniform=lambda *a: rings.Z32.uniform(*a) % num_values,
    )


@pytest.mark.parametrize("num_values", [4, 3])
def test_masks_take_all_values(num_values):
    """A positive control: masks without the top value, as Flower 1.42 draws them."""
    graph, alive = graphs.Graph(3, 2, 2), dropouts.everybody(3)
    inputs, ring = jnp.ones((3, 2**16), jnp.uint32), quarter_ring(num_values)

    @jax.jit
    def sent(seed):
        keys = mask_keys.setup(seed, graph)
        seeds = mask_keys.pair_seeds(keys, graph)
        return masking.masked_inputs(keys, seeds, graph, inputs, alive, ring=ring)

    uploads = sent(seed_of(4))
    counts = [np.bincount(row, minlength=4) for row in np.asarray(uploads)]
    p_value = least([scipy.stats.chisquare(row).pvalue for row in counts])
    assert (p_value > 1e-3) if num_values == 4 else (p_value < 1e-9)
