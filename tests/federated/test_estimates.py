"""Rules that need each message: goldens, lies, drop-outs, devices, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, dp, federated, smpc

KEY = jax.random.key(7)
EXHAUSTIVE = pytest.mark.exhaustive
# Five honest messages and two far off; the values are numpy's, in float64.
MESSAGES = np.array(
    [[1, 0], [0, 1], [1, 1], [0.5, 0.2], [0.8, 0.6], [10, -10], [12, -9]], np.float32
)
RULES = {
    "median": federated.coordinate_median(),
    "trimmed": federated.trimmed_mean(2),
    "untrimmed": federated.trimmed_mean(0),
    "own": federated.estimating(
        lambda messages, heard: jax.tree.map(lambda leaf: jnp.max(leaf, 0), messages)
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def run(name, messages, present, split):
    """All of a round of seven, in two totals of two messages lists each."""
    aggregator, places = RULES[name], jnp.arange(7)
    session = aggregator.begin(KEY, present, present, 1.0)
    encoded = jax.vmap(aggregator.encode, in_axes=(None, None, 0, 0))(
        KEY, session, places, {"w": messages}
    )
    empty = aggregator.empty(jax.tree.map(lambda leaf: leaf[0], encoded))
    backwards = jax.tree.map(lambda leaf: leaf[::-1], encoded)
    totals = []
    for mine in (present & split, present & ~split):
        some = aggregator.absorb(empty, encoded, places, mine & (places < 4))
        rest = (mine & (places >= 4))[::-1]
        totals.append(aggregator.absorb(some, backwards, places[::-1], rest))
    total = aggregator.merge(jax.tree.map(lambda *x: jnp.stack(x), *totals))
    value, reports, completed = aggregator.finish(session, total)
    return value["w"], reports, completed


def estimate(name, messages, present=True, split=True):
    """What a rule makes of messages `[7, 2]`."""
    masks = (jnp.broadcast_to(jnp.asarray(mask), 7) for mask in (present, split))
    value, reports, completed = run(name, jnp.asarray(messages), *masks)
    return np.asarray(value), float(reports), bool(completed)


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("median", [1, 0.2]),
        ("trimmed", [2.8 / 3, 0.8 / 3]),
        pytest.param("untrimmed", [25.3 / 7, -16.2 / 7], marks=EXHAUSTIVE),
        pytest.param("own", [12, 1], marks=EXHAUSTIVE),
    ],
)
def test_goldens(name, golden):
    value, reports, completed = estimate(name, MESSAGES)
    np.testing.assert_allclose(value, golden, rtol=1e-6)
    assert (reports, completed) == (7, True)


def test_only_who_is_present_counts_in_any_order_and_chunks():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 7):
        heard = np.isin(np.arange(7), rng.permutation(7)[:count])
        messages = np.where(heard[:, None], MESSAGES, 50.0).astype(np.float32)
        for split in (True, rng.random(7) < 0.5):
            value, reports, _ = estimate("median", messages, heard, split)
            expected = np.median(MESSAGES[heard].astype(float), axis=0)
            np.testing.assert_allclose(value, expected, rtol=1e-6)
            assert reports == count
        value, reports, completed = estimate("trimmed", messages, heard)
        expected = np.sort(MESSAGES[heard].astype(float), axis=0)[2:-2]
        if count > 4:
            np.testing.assert_allclose(value, expected.mean(0), rtol=1e-6)
        # Fewer are never trimmed.
        assert completed == (count > 4)
        assert reports == (count if completed else 0)
        assert completed or not value.any()


def test_nobody_makes_no_estimate():
    value, reports, completed = estimate("median", MESSAGES, False)
    assert (value.tolist(), reports, completed) == ([0, 0], 0, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_count(bad):
    lies = MESSAGES.copy()
    lies[5, 1] = bad  # its other coordinate is left out, too
    value, reports, _ = estimate("median", lies)
    expected = np.median(np.delete(MESSAGES, 5, axis=0).astype(float), axis=0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert reports == 6


def test_lies_of_any_size_leave_a_median_among_the_honest_ones():
    largest = np.finfo(np.float32).max
    for size in (largest, -largest):
        lies = MESSAGES.copy()
        lies[5:] = size
        for name in ("median", "trimmed"):
            value, _, _ = estimate(name, lies)
            assert (value >= MESSAGES[:5].min(0)).all()
            assert (value <= MESSAGES[:5].max(0)).all()
    # Two in the middle are not added before they are halved.
    both = np.full((7, 2), largest) / np.arange(1, 8, dtype=np.float32)[:, None]
    value, _, _ = estimate("median", both, np.arange(7) < 2)
    assert value.tolist() == [largest / 2 + largest / 4] * 2


def test_messages_are_decoded_by_their_carrier():
    halves = smpc.summing(
        encode=lambda key, session, place, update: jax.tree.map(
            lambda leaf: (2 * leaf).astype(jnp.float16), update
        ),
        decode=lambda session, total: (
            jax.tree.map(lambda leaf: leaf / 2, total.high),
            True,
        ),
        cost=lambda dimension: base.Cost(2 * dimension, 4 * dimension),
    )
    with pytest.raises(ValueError, match="summing shows the server only the sum"):
        federated.coordinate_median(halves)
    rule = federated.coordinate_median(halves._replace(shows="individual"))
    RULES["halves"] = rule
    value, _, _ = estimate("halves", MESSAGES)
    np.testing.assert_allclose(value, [1, 0.2], rtol=1e-3)
    assert rule.cost(10) == base.Cost(20, 40)
    assert RULES["median"].cost(10) == smpc.clear().cost(10)


# Client i's only example is what it sends, the opposite of which SCAFFOLD keeps.
VECTORS = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
CLIENTS = base.Clients(jnp.asarray(VECTORS), jnp.arange(9, dtype=jnp.int32))
TELLING = base.Task(
    init=lambda key: jnp.zeros(3),
    loss=lambda key, params, examples: -examples @ params,
    evaluate=lambda params, examples: {},
)


def rounds(num_lanes, num_devices):
    """Rounds of SCAFFOLD, each of a random cohort of which some drop out."""
    trainer, server = federated.scaffold(TELLING, optax.sgd(1.0), 1, num_steps=1)
    algorithm = federated.averaging(
        TELLING,
        trainer,
        federated.poisson(8, 0.8),
        server=server,
        aggregator=RULES["median"],
        dropout_prob=0.2,
        num_lanes=num_lanes,
        mesh=federated.client_mesh(num_devices),
    )
    one_round = jax.jit(lambda key: algorithm.round(key, algorithm.init(KEY), CLIENTS))
    return [one_round(jax.random.key(number))[0] for number in range(6)]


@pytest.fixture(scope="module")
def alone():
    return rounds(1, 1)


def test_a_round_is_the_median_of_those_who_report(alone):
    counts = set()
    for first in alone:
        reported = np.asarray(first.kept).any(axis=1)
        median = np.median(VECTORS[reported].astype(float), axis=0)
        np.testing.assert_allclose(first.params, median, rtol=1e-5)
        # The control is the part of the population that reported times the median.
        share = reported.sum() / 8
        np.testing.assert_allclose(first.memory[1], -share * median, rtol=1e-5)
        counts.add(int(reported.sum()))
    assert len({count % 2 for count in counts}) == 2


@pytest.mark.parametrize(
    ("num_lanes", "num_devices"),
    [
        (3, 2),
        (1, 4),
        pytest.param(3, 1, marks=EXHAUSTIVE),
        pytest.param(8, 4, marks=EXHAUSTIVE),
        pytest.param(1, 2, marks=EXHAUSTIVE),
    ],
)
def test_lanes_and_devices_change_no_bit_of_a_median(alone, num_lanes, num_devices):
    jax.tree.map(np.testing.assert_array_equal, rounds(num_lanes, num_devices), alone)


@EXHAUSTIVE
def test_a_round_of_too_few_did_not_happen():
    trainer = federated.local_sgd(TELLING, optax.sgd(1.0), 1, num_steps=1)
    algorithm = federated.averaging(
        TELLING,
        trainer,
        federated.fixed_size(8, 5),
        aggregator=federated.trimmed_mean(2),
        dropout_prob=0.1,
    )
    one_round = jax.jit(algorithm.round)
    start, happened = algorithm.init(KEY), set()
    for number in range(8):
        state, info = one_round(jax.random.key(number), start, CLIENTS)
        happened.add(bool(info["num_reports"]))
        assert bool(np.asarray(state.params).any()) == bool(info["num_reports"])
        assert info["num_reports"] in (0, 5)
    assert happened == {True, False}


MASKED = smpc.pairwise_masking(smpc.graphs.complete(8, 5), 1.0)
SECURE = {
    "pairwise_masking": MASKED,
    "light_secagg": smpc.light_secagg(smpc.lightsecagg.Code(8, 5, 1), 1.0),
    "additive_sharing": smpc.additive_sharing(3, 8, 1.0, mode="identity"),
}


@pytest.mark.parametrize("name", SECURE)
def test_a_sum_that_hides_messages_is_refused_by_name(name):
    message = rf"coordinate_median needs each .* {name} shows .*smpc\.clear\(\)"
    with pytest.raises(ValueError, match=message):
        federated.coordinate_median(SECURE[name])
    with pytest.raises(ValueError, match=rf"trimmed_mean needs each .* {name}"):
        federated.trimmed_mean(1, SECURE[name])


@pytest.fixture
def build():
    trainer = federated.local_sgd(TELLING, optax.sgd(1.0), 1, num_steps=1)
    sampler = federated.everyone(8)
    return functools.partial(federated.averaging, TELLING, trainer, sampler)


def test_an_estimate_is_refused_where_it_would_be_wrong(build):
    median = federated.coordinate_median()
    for mechanism in (
        dp.gaussian(1.0, 1.0),
        dp.adaptive_gaussian(1.0, 1.0, 8.0),
        dp.live(dp.gaussian(1.0, 1.0), federated.everyone(8), 1e-3),
    ):
        with pytest.raises(ValueError, match=r"^coordinate_median ends in .* central"):
            build(mechanism=mechanism, aggregator=median)
    spread = dp.gaussian(1.0, 1.0)._replace(trust="distributed")
    with pytest.raises(ValueError, match="distributed noise does not hide a client"):
        build(mechanism=spread, aggregator=median)
    # What clients hide themselves stays hidden.
    build(mechanism=dp.local_gaussian(1.0, 1.0), aggregator=median)
    with pytest.raises(ValueError, match="'examples' scales messages"):
        build(weighting="examples", aggregator=median)
    with pytest.raises(ValueError, match="pairwise_masking needs each client's"):
        build(aggregator=MASKED._replace(needs="individual"))


def test_a_cohort_too_small_to_trim_is_refused(build):
    with pytest.raises(ValueError, match=r"at least 9 reports, .* up to 8 clients"):
        federated.trimmed_mean(4).check(8, 1.0)
    # Private or not, an estimate that most rounds would lack.
    with pytest.raises(ValueError, match=r"would have no estimate: .* of trimmed_mean"):
        build(aggregator=federated.trimmed_mean(3), dropout_prob=0.3)
