"""The generator is threefry, the same under chunks, vmap and devices; noise has its law
out to the cut; choices are uniform; `permute` is a bijection for every key and size.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from ppml_lab import random

LONGEST = 5000
whole = jax.jit(
    lambda key, size: random.permute(key, jnp.arange(LONGEST, dtype=jnp.int32), size)
)


def permutation(key: jax.Array, size: int) -> np.ndarray:
    """All of it, by the one program compiled for a traced size."""
    return np.asarray(whole(key, jnp.int32(size)))[:size]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, LONGEST))
@example(seed=0, size=1)
@example(seed=1, size=2)
@example(seed=2, size=3)
@example(seed=3, size=64)
@example(seed=4, size=4096)
@example(seed=5, size=127)
@example(seed=6, size=4999)
@example(seed=2**32 - 1, size=LONGEST)
def test_is_a_bijection(seed, size):
    order = permutation(jax.random.key(seed), size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 2**31 - 1), data=st.data())
def test_distinct_positions_stay_distinct_and_inside_at_any_size(seed, size, data):
    drawn = data.draw(
        st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
    )
    key, positions = jax.random.key(seed), jnp.array(drawn, jnp.int32)
    image = np.asarray(jit_permute(key, positions, jnp.int32(size)))
    assert image[0] != image[1]
    assert (image >= 0).all()
    assert (image < size).all()


jit_permute = jax.jit(random.permute)


vmap_positions = jax.jit(jax.vmap(random.permute, in_axes=(None, 0, None)))


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 100])
def test_each_element_can_be_computed_alone(size):
    key = jax.random.key(7)
    positions = jnp.arange(100, dtype=jnp.int32)[::-1] % size
    alone = vmap_positions(key, positions, jnp.int32(size))
    assert alone.dtype == positions.dtype
    np.testing.assert_array_equal(alone, permutation(key, size)[positions])


def test_a_known_size_gives_the_same_outside_jit():
    key, positions = jax.random.key(8), jnp.array([[4, 2], [0, 16]], jnp.int32)
    together = random.permute(key, positions, 17)
    np.testing.assert_array_equal(together, permutation(key, 17)[positions])


@pytest.mark.parametrize("size", [1, 2])
def test_a_size_that_is_a_constant_of_the_program(size):
    """XLA folds remainders by 1, of which it once made what it could not compile."""
    key, positions = jax.random.key(9), jnp.zeros(1, jnp.int32)
    alone = jax.jit(lambda key: random.permute(key, positions, size))(key)
    np.testing.assert_array_equal(alone, permutation(key, size)[:1])


def test_lanes_with_their_own_key_and_size():
    keys = jax.random.split(jax.random.key(3), 4)
    sizes = jnp.array([1, 5, 8, 100], jnp.int32)
    positions = jnp.arange(100, dtype=jnp.int32)
    lanes = jax.jit(jax.vmap(random.permute, in_axes=(0, None, 0)))(
        keys, positions, sizes
    )
    for key, size, lane in zip(keys, sizes.tolist(), lanes, strict=True):
        np.testing.assert_array_equal(lane[:size], permutation(key, size))


def test_keys_differ_also_in_one_word_only():
    base_words = np.array([123, 456], np.uint32)
    orders = set()
    for word, bit in itertools.product((0, 1), range(32)):
        words = base_words.copy()
        words[word] ^= np.uint32(1 << bit)
        key = jax.random.wrap_key_data(jnp.asarray(words))
        orders.add(tuple(permutation(key, 50).tolist()))
    assert len(orders) == 64


def permutations(size: int, num_keys: int, fold: bool = False) -> np.ndarray:
    """`[num_keys, size]`: one permutation per key, split or folded."""
    key = jax.random.key(size)
    if fold:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            key, jnp.arange(num_keys, dtype=jnp.uint32)
        )
    else:
        keys = jax.random.split(key, num_keys)
    positions = jnp.arange(size, dtype=jnp.int32)
    shuffle = jax.jit(jax.vmap(lambda key: random.permute(key, positions, size)))
    return np.asarray(shuffle(keys))


def least_p_value(orders: np.ndarray) -> float:
    """The least of chi-square p-values, times how many there were (Bonferroni).

    Where each position goes, where each pair goes, and, for up to 5 elements, which of
    all permutations it is.
    """
    size = orders.shape[1]
    counts = [np.bincount(orders[:, i], minlength=size) for i in range(size)]
    for i, j in itertools.combinations(range(size), 2):
        pairs = np.bincount(orders[:, i] * size + orders[:, j], minlength=size**2)
        counts.append(np.delete(pairs, np.arange(size) * (size + 1)))
    if size <= 5:
        which = np.zeros(math.factorial(size), int)
        lookup = {p: n for n, p in enumerate(itertools.permutations(range(size)))}
        for order in orders.tolist():
            which[lookup[tuple(order)]] += 1
        counts.append(which)
    p_values = [scipy.stats.chisquare(c).pvalue for c in counts if len(c) > 1]
    return min(p_values) * len(p_values)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("size", [3, 5, 13])
def test_is_close_to_a_uniform_shuffle(size, fold):
    assert least_p_value(permutations(size, 20_000, fold)) > 1e-3


@pytest.mark.parametrize("size", [3, 5, 8, 13])
def test_the_test_of_uniformity_rejects_rotations(size):
    offsets = np.random.default_rng(0).integers(0, size, 20_000)
    rotations = (np.arange(size) + offsets[:, None]) % size
    assert least_p_value(rotations) < 1e-9


@pytest.mark.parametrize("size", [4, 13])
def test_the_test_of_uniformity_rejects_a_short_network(size, monkeypatch):
    monkeypatch.setattr(random, "_SWAP_ROUNDS", 4)
    assert least_p_value(permutations(size, 20_000)) < 1e-9


def test_long_permutations_mix_neighbours():
    """In a uniform shuffle neighbours end up as far apart as any two elements."""
    orders = permutations(1000, 200)
    distances = np.abs(np.diff(orders.astype(float), axis=1)).mean()
    assert abs(distances - 1001 / 3) < 5 * 236 / np.sqrt(200 * 999 / 2)
    displaced = np.abs(orders - np.arange(1000)).mean()
    assert abs(displaced - 1000 / 3) < 5 * 236 / np.sqrt(200 * 1000 / 2)


SEED = jnp.array([11, 12], jnp.uint32)
LONG = 8 * random.BLOCK
words = jax.jit(random.words, static_argnums=1)
normal = jax.jit(random.normal, static_argnums=1)
laplace = jax.jit(random.laplace, static_argnums=1)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_published_vectors(x64, key, counter, expected):
    """Of Random123's `kat_vectors`."""
    with jax.enable_x64(x64):
        seed, (high, low) = (jnp.asarray(np.uint32(v)) for v in (key, counter))
        pair = random.threefry2x32(seed, high, low)
        assert all(word.dtype == jnp.uint32 for word in pair)
        assert tuple(map(int, pair)) == expected
        assert tuple(random.child(seed, high, low).tolist()) == expected


def test_words_are_the_counters_of_their_block_and_place():
    drawn = np.asarray(words(SEED, 1500, 3))
    half = random.BLOCK // 2
    for index in (0, 1, half - 1, half, random.BLOCK - 1, random.BLOCK, 1499):
        block, place = 3 + index // random.BLOCK, index % random.BLOCK
        pair = random.child(SEED, block, place % half)
        assert drawn[index] == pair[place // half]


@pytest.mark.parametrize(
    "draw", [words, normal, laplace], ids=["words", "normal", "laplace"]
)
def test_the_same_numbers_in_chunks_under_vmap_on_devices_and_with_x64(draw):
    whole = np.asarray(draw(SEED, LONG))
    mesh = Mesh(np.array(jax.devices()[:4]), ("parts",))
    spread = PartitionSpec("parts")
    with jax.enable_x64(True):
        for length in (0, 1, 700, 5000):
            np.testing.assert_array_equal(draw(SEED, length), whole[:length])
        chunks = [draw(SEED, 3 * random.BLOCK, first) for first in (0, jnp.int32(3))]
        chunks.append(draw(SEED, 2 * random.BLOCK, 6))
        np.testing.assert_array_equal(np.concatenate(chunks), whole)

        blocks = jnp.arange(8, dtype=jnp.int32)
        each = jax.vmap(lambda first: draw(SEED, random.BLOCK, first))
        np.testing.assert_array_equal(each(blocks).reshape(-1), whole)
        dealt = jax.shard_map(each, mesh=mesh, in_specs=spread, out_specs=spread)
        np.testing.assert_array_equal(jax.jit(dealt)(blocks).reshape(-1), whole)

        seeds = jnp.stack([random.child(SEED, 5), SEED])
        rows = draw(seeds, LONG)
        lanes = jax.vmap(lambda seed: draw(seed, LONG))(seeds)
    np.testing.assert_array_equal(rows, lanes)
    np.testing.assert_array_equal(rows[1], whole)
    assert rows.dtype == whole.dtype
    assert np.mean(rows[0] == whole) < 0.01


def least_p_value_of_bytes(drawn: np.ndarray) -> float:
    """As `least_p_value`, of each byte of 32-bit words, and of the lowest two bits."""
    counts = [np.bincount((drawn >> s) & 255, minlength=256) for s in (0, 8, 16, 24)]
    counts.append(np.bincount(drawn & 3, minlength=4))
    return min(scipy.stats.chisquare(c).pvalue for c in counts) * len(counts)


def test_words_are_uniform():
    assert least_p_value_of_bytes(np.asarray(words(SEED, 200_000))) > 1e-3
    seeds = random.child(SEED, jnp.arange(20_000, dtype=jnp.uint32))
    across = np.asarray(words(seeds, 3))
    for column in across.T:
        assert least_p_value_of_bytes(column) > 1e-3
    assert least_p_value_of_bytes(across[:, 0] ^ across[:, 1]) > 1e-3
    assert least_p_value_of_bytes(across[1:, 0] - across[:-1, 0]) > 1e-3


@pytest.mark.parametrize("bits", [2, 8])
def test_the_test_of_uniformity_rejects_a_missing_top_value(bits):
    """Flower 1.42 draws masks by `randint(0, num_range - 1)`, its end excluded."""
    rng = np.random.default_rng(0)
    high = rng.integers(0, 2 ** (32 - bits), 200_000, np.uint32) << np.uint32(bits)
    low = rng.integers(0, 2**bits - 1, 200_000, np.uint32)
    assert least_p_value_of_bytes(high | low) < 1e-9
    whole = rng.integers(0, 2**bits, 200_000, np.uint32)
    assert least_p_value_of_bytes(high | whole) > 1e-3


def test_seeds_differ_in_every_bit_of_key_and_name():
    """Flower 1.42 folds 256 bits of a seed to 32: equal folds give equal masks."""
    flips = jnp.asarray(np.array([[1 << k, 0] for k in range(32)], np.uint32))
    seeds = jnp.concatenate([SEED[None], SEED ^ flips, SEED ^ flips[:, ::-1]])
    streams = {tuple(row) for row in np.asarray(words(seeds, 4)).tolist()}
    assert len(streams) == 65
    names = jnp.arange(100, dtype=jnp.uint32)
    children = random.child(SEED, names[:, None], names)
    assert len({tuple(c) for c in children.reshape(-1, 2).tolist()}) == 100**2
    keys = jax.random.split(jax.random.key(0), 100)
    from_keys = jax.vmap(random.seed)(keys)
    assert len({tuple(s) for s in from_keys.tolist()}) == 100
    assert not np.isin(np.asarray(jax.random.key_data(keys)), from_keys).any()


def as_words(numbers: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """64-bit numbers as two words each."""
    high, low = numbers >> np.uint64(32), numbers & np.uint64(2**32 - 1)
    return jnp.asarray(high.astype(np.uint32)), jnp.asarray(low.astype(np.uint32))


def near_the_ends() -> np.ndarray:
    """64-bit numbers of both signs, uniform and near 0, the middle and the extremes."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**63, 20_000, dtype=np.uint64)
    tails = drawn >> rng.integers(0, 62, len(drawn)).astype(np.uint64)
    magnitudes = np.concatenate([drawn, tails, np.arange(100, dtype=np.uint64)])
    # The second bit says on which side of the median of absolute values.
    magnitudes = np.concatenate([magnitudes, magnitudes ^ np.uint64(2**62)])
    return np.concatenate([magnitudes, magnitudes | np.uint64(2**63)])


to_normal, to_laplace = jax.jit(random.to_normal), jax.jit(random.to_laplace)


def exact(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sign, -log(y) and -ndtri(y / 2) in float64 for the middle y of each cell."""
    words = [(int(n) >> 32, int(n) & (2**32 - 1)) for n in numbers]
    above = np.array([bool(high >> 30 & 1) for high, _ in words])
    tops = [(~high if high >> 30 & 1 else high) & (2**30 - 1) for high, _ in words]
    rest = np.array(
        [
            (2 * (top << 31 | low >> 1) + 1) * 2.0**-63
            for top, (_, low) in zip(tops, words, strict=True)
        ]
    )
    sign = np.where(numbers >> np.uint64(63), -1.0, 1.0)
    logs = np.where(above, -np.log1p(-np.minimum(rest, 0.6)), -np.log(rest))
    quantiles = np.where(
        above, math.sqrt(2) * scipy.special.erfinv(rest), -scipy.special.ndtri(rest / 2)
    )
    return sign, logs, quantiles


def test_normal_and_laplace_numbers_are_exact_to_8_units_in_the_last_place():
    numbers = near_the_ends()
    sign, logs, quantiles = exact(numbers)
    for draw, right in ((to_laplace, logs), (to_normal, quantiles)):
        found = np.asarray(draw(*as_words(numbers)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.sign(found), sign)
        errors = np.abs(np.abs(found.astype(np.float64)) - right)
        units = np.spacing(right.astype(np.float32)).astype(np.float64)
        assert (errors / units).max() < 8
    beyond = quantiles[quantiles > 5.3]
    assert len(beyond) > 10_000
    assert beyond.max() > 9


@pytest.mark.parametrize(
    ("draw", "cut", "tail"),
    [
        (to_normal, random.NORMAL_CUT, scipy.stats.norm.sf),
        (to_laplace, random.LAPLACE_CUT, lambda cut: np.exp(-cut) / 2),
    ],
    ids=["normal", "laplace"],
)
def test_the_cut_is_attained_on_both_sides_and_never_exceeded(draw, cut, tail):
    ends = draw(*as_words(np.array([0, 2**63], np.uint64)))
    assert ends.tolist() == [cut, -cut]
    assert np.abs(draw(*as_words(near_the_ends()))).max() == cut
    assert tail(cut) == pytest.approx(2.0**-64, rel=1e-5)


def test_what_lies_outside_a_shifted_support_is_bounded_in_every_direction():
    cut, normal, rng = random.NORMAL_CUT, scipy.stats.norm, np.random.default_rng(1)

    def outside(shifts: np.ndarray) -> float:
        return float((normal.sf(cut - shifts) - normal.sf(cut)).sum())

    for size in (1, 2, 100, 10_000):
        for norm in (1e-3, 0.1, 1.0, 3.0, cut - 1):
            bound = normal.sf(cut - norm) + math.sqrt(size) * norm * normal.pdf(cut)
            directions = [np.eye(1, size)[0], np.ones(size)]
            directions += list(rng.standard_normal((5, size)) ** 3)
            for direction in directions:
                shifts = np.abs(direction) / np.linalg.norm(direction) * norm
                assert outside(shifts) <= bound
            spread = outside(np.full(size, norm / math.sqrt(size)))
            if norm == 0.1 and size == 10_000:
                assert spread > normal.sf(cut - norm)  # The second term is needed.


def double_factorial(power: int) -> int:
    """The moment of a standard normal number, for even powers."""
    return math.prod(range(1, power, 2))


def deviations(drawn: np.ndarray, law: scipy.stats.rv_continuous) -> float:
    """The worst of some counts and moments, in standard deviations of a true sample."""
    size, worst = len(drawn), 0.0
    for level in (0.5, 1.0, 2.0, 3.3, 4.0, 4.5):
        chance = law.sf(level)
        for count in ((drawn > level).sum(), (drawn < -level).sum()):
            spread = math.sqrt(size * chance * (1 - chance))
            worst = max(worst, abs(count - size * chance) / spread)
    powers = np.ones(size)
    for power in (1, 2, 3, 4):
        powers *= drawn
        even = math.factorial if law is scipy.stats.laplace else double_factorial
        mean = 0 if power % 2 else even(power)
        spread = math.sqrt((even(2 * power) - mean**2) / size)
        worst = max(worst, abs(powers.mean() - mean) / spread)
    return worst


@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_numbers_have_the_right_law_and_no_other(name):
    """Also not half a percent less, and not clipped where one in 2,000 is."""
    law = {"normal": scipy.stats.norm, "laplace": scipy.stats.laplace}[name]
    draw = jax.jit(getattr(random, name), static_argnums=1)
    drawn = np.asarray(draw(SEED, 4_000_000), np.float64)
    assert deviations(drawn, law) < 5
    for wrong in (
        0.995 * drawn,
        1.005 * drawn,
        np.clip(drawn, -3.3, 3.3),
        drawn + 0.01,
    ):
        assert deviations(wrong, law) > 5.5
    part = drawn[:50_000]
    assert scipy.stats.kstest(part, law.cdf).pvalue > 1e-3
    for scale in (2 / 3, 3 / 2):
        assert scipy.stats.kstest(part * scale, law.cdf).pvalue < 1e-9


def test_normal_numbers_do_not_depend_on_each_other():
    """Neighbours, half a block and a block apart; values, sizes and signs."""
    drawn = np.asarray(normal(SEED, 2**20), np.float64)
    for lag in (1, 2, 3, random.BLOCK // 2, random.BLOCK):
        for kind in (lambda x: x, np.square, np.sign):
            found = np.corrcoef(kind(drawn[:-lag]), kind(drawn[lag:]))[0, 1]
            assert abs(found) < 5 / 2**10
    streams = normal(random.child(SEED, jnp.arange(200)), 500)
    correlations = np.corrcoef(np.asarray(streams, np.float64)) - np.eye(200)
    assert np.abs(correlations).max() < 5.5 / math.sqrt(500)


def test_coins_show_heads_at_their_chance():
    chances = jnp.repeat(jnp.array([0.0, 0.01, 0.5, 0.9, 1.0], jnp.float32), 50_000)
    heads = np.asarray(jax.jit(random.coins)(SEED, chances)).reshape(5, -1)
    assert heads[0].sum() == 0
    assert heads[-1].all()
    for row, chance in zip(heads[1:4], (0.01, 0.5, 0.9), strict=True):
        assert scipy.stats.binomtest(int(row.sum()), 50_000, chance).pvalue > 1e-3


@pytest.mark.parametrize(
    ("chance", "threshold"),
    [(2.0**-64, 1), (2.0**-70, 1), (1.5 * 2.0**-40, 3 * 2**23), (0.5, 2**63)],
)
def test_coins_are_64_bits_fine_and_rounded_up(chance, threshold, monkeypatch):
    numbers = np.array([0, threshold - 1, threshold, 2**64 - 1], np.uint64)
    monkeypatch.setattr(random, "threefry2x32", lambda *_: as_words(numbers))
    heads = random.coins(SEED, jnp.full(4, chance, jnp.float32))
    assert heads.tolist() == [True, True, False, False]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 4), (2, 5), (3, 5), (4, 4)])
def test_every_ordered_choice_of_distinct_numbers_is_as_likely(count, size):
    seeds = random.child(SEED, jnp.arange(30_000))
    draw = jax.jit(jax.vmap(lambda seed: random.distinct(seed, count, size)))
    drawn = np.asarray(draw(seeds))
    assert drawn.dtype == np.int32
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(kinds) == math.perm(size, count)
    assert all(len(set(kind)) == count for kind in kinds.tolist())
    assert len(counts) == 1 or scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_few_distinct_numbers_of_many():
    size = 2**31 - 1
    drawn = np.asarray(jax.jit(lambda: random.distinct(SEED, 5000, size))())
    assert len(np.unique(drawn)) == 5000
    assert scipy.stats.kstest(drawn / size, "uniform").pvalue > 1e-3
    many = np.asarray(jax.jit(lambda: random.distinct(SEED, 2000, 4001))())
    assert len(np.unique(many)) == 2000
    assert many.min() >= 0
    assert many.max() <= 4000


@pytest.mark.parametrize("size", [1, 3, 1000, 2**31 - 1])
def test_a_fraction_of_a_size_is_exact(size):
    numbers = np.random.default_rng(2).integers(0, 2**64, 200, dtype=np.uint64)
    numbers = np.append(numbers, np.array([0, 2**64 - 1], np.uint64))
    found = random._fraction_of(*as_words(numbers), size)
    assert found.tolist() == [int(number) * size >> 64 for number in numbers]


def test_dither_is_uniform_below_one():
    drawn = np.asarray(random.dither(jax.random.key(1), 50_000), np.float64)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(drawn**1.1, "uniform").pvalue < 1e-9


def test_dithers_hardly_correlate():
    """Neighbours of one key, and one place of many keys."""
    drawn = np.asarray(random.dither(jax.random.key(1), 2**18), np.float64)
    for lag in (*range(1, 300), 784, 1000, 1024, 4096):
        assert abs(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]) < 0.04
    keys = jax.random.split(jax.random.key(2), 4000)
    clients = jax.vmap(lambda key: random.dither(key, 8))(keys)
    assert scipy.stats.kstest(np.ravel(clients), "uniform").pvalue > 1e-3
    correlations = np.corrcoef(np.asarray(clients), rowvar=False) - np.eye(8)
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)
