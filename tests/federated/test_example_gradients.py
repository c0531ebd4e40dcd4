"""Hospitals that draw and bound their own people: the step of central DP-SGD, with one
noise on a sum that nobody sees the parts of.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, data, dp, federated, models, smpc
from ppml_lab.dp import accounting

KEY = jax.random.key(6)
PROB = 0.4
SIZES = np.array([5, 1, 3, 7, 2])
EVERYONE = federated.everyone(5)


def hospitals(
    task,
    clients,
    prob=PROB,
    *,
    sampler=EVERYONE,
    method="vmap",
    num_lanes=1,
    **parts: Any,
):
    trainer = federated.example_gradients(
        task, data.people(clients), prob, method=method
    )
    return federated.averaging(task, trainer, sampler, num_lanes=num_lanes, **parts)


def example(clip_norm, noise=0.0):
    return dp.gaussian(clip_norm, noise, privacy_unit="example")


@pytest.fixture(scope="module")
def telling():
    """Each person moves a coordinate of their own."""
    return base.Task(
        init=lambda key: jnp.zeros(18),
        loss=lambda key, params, rows: -rows @ params,
        evaluate=lambda params, rows: {},
    )


ONE_HOT = base.Clients(
    jnp.eye(18), jnp.asarray(np.concatenate([[0], np.cumsum(SIZES)]), jnp.int32)
)


def drawn_by(algorithm, clients, keys):
    """Who is drawn in the rounds of these keys, `[rounds, 18]`."""
    start = algorithm.init(KEY)
    moved = jax.jit(
        jax.vmap(lambda key: algorithm.round(key, start, clients)[0].params)
    )(keys)
    return np.asarray(moved) > 0


MUCH = pytest.param(float("inf"), marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("clip_norm", [MUCH, 0.3])
def test_without_noise_a_round_is_a_central_step_on_the_same_draw(
    clip_norm, telling, regression, clients
):
    optimizer = optax.sgd(0.3, momentum=0.9)
    algorithm = hospitals(
        regression,
        clients,
        server=federated.fedopt(optimizer),
        mechanism=example(clip_norm),
        num_lanes=2,
    )
    keys = jax.random.split(KEY, 3)
    drawn = drawn_by(hospitals(telling, ONE_HOT), ONE_HOT, keys)
    assert 0 < drawn.sum() < drawn.size

    def central(who):
        def sample(key, state):
            return base.Cohort(jnp.arange(18), who.astype(jnp.float32)), state

        sampler = federated.poisson(18, PROB)._replace(sample=sample)
        return federated.central_sgd(
            regression, optimizer, sampler, mechanism=example(clip_norm), method="vmap"
        )

    federated_round = jax.jit(algorithm.round)
    central_round = jax.jit(
        lambda who, key, state: central(who).round(key, state, clients)
    )
    one = other = algorithm.init(KEY)
    for key, who in zip(keys, drawn, strict=True):
        one, info = federated_round(key, one, clients)
        other, seen = central_round(who, key, other)
        for name in ("w", "b"):
            np.testing.assert_allclose(one.params[name], other.params[name], rtol=1e-5)
        # The researcher's look: over those expected, not those drawn.
        assert int(info["batch_size"]) == int(seen["batch_size"]) == who.sum()
        share = who.sum() / (PROB * 18)
        for name, wanted in (
            ("train_loss", seen["train_loss"]),
            ("gradient_norm", seen["gradient_norm"]),
            ("gradient_clipped_share", seen["clipped_share"]),
        ):
            np.testing.assert_allclose(info[name], share * wanted, rtol=1e-4)


def test_the_event_is_that_of_central_training(regression, clients):
    """Poisson over everybody's people, up to the last number."""
    mechanism = example(0.5, 1.3)
    one = hospitals(regression, clients, mechanism=mechanism).event(7)
    sampler = federated.poisson(18, PROB)
    two = federated.central_sgd(
        regression, optax.sgd(1.0), sampler, mechanism=mechanism
    ).event(7)
    assert one == two
    assert (one.privacy_unit, one.neighboring_relation, one.population) == (
        "example", "add_or_remove_one", 18,
    )  # fmt: skip
    # Who adds the noise sees the sum.
    assert accounting.epsilon_server(one, 1e-2) == float("inf")


@pytest.mark.exhaustive
def test_a_round_says_what_was_spent(regression, clients):
    mechanism = example(0.5, 1.3)
    live = hospitals(regression, clients, mechanism=mechanism, live_delta=1e-2)
    _, info = jax.jit(live.round)(KEY, live.init(KEY), clients)
    stated = accounting.epsilon(live.event(1), 1e-2)
    np.testing.assert_allclose(info["epsilon"], stated, rtol=1e-3)


def test_everybody_has_a_coin_of_their_own(telling):
    """Of 3,000 rounds: each at the stated rate, and no two alike."""
    keys = jax.random.split(jax.random.key(1), 3000)
    drawn = drawn_by(hospitals(telling, ONE_HOT), ONE_HOT, keys)

    def unlikely(prob):
        z = (drawn.sum(0) - 3000 * prob) / np.sqrt(3000 * prob * (1 - prob))
        return scipy.stats.chi2.sf(np.sum(z**2), 18)

    assert unlikely(PROB) > 1e-4
    assert max(unlikely(PROB * 2 / 3), unlikely(PROB * 3 / 2)) < 1e-9
    pairs = np.corrcoef(drawn.T)[np.triu_indices(18, 1)]
    assert np.abs(pairs).max() < 4.5 / np.sqrt(3000)
    sizes = np.bincount(drawn.sum(1), minlength=19)
    expected = 3000 * scipy.stats.binom.pmf(np.arange(19), 18, PROB)
    often = expected > 5
    assert scipy.stats.chisquare(
        [*sizes[often], sizes[~often].sum()], [*expected[often], expected[~often].sum()]
    ).pvalue > 1e-4  # fmt: skip


@pytest.mark.parametrize(
    ("num_devices", "num_lanes"),
    [
        (4, 3),
        *(
            pytest.param(*layout, marks=pytest.mark.exhaustive)
            for layout in [(1, 1), (1, 3), (4, 1)]
        ),
    ],
)
def test_no_layout_changes_who_is_drawn(telling, num_lanes, num_devices):
    keys = jax.random.split(KEY, 4)
    wanted = drawn_by(hospitals(telling, ONE_HOT), ONE_HOT, keys)
    mesh = federated.client_mesh(num_devices)
    sharded = data.shard(ONE_HOT, federated.sharded_by_client(mesh))
    algorithm = hospitals(telling, ONE_HOT, num_lanes=num_lanes, mesh=mesh)
    start = algorithm.init(KEY)
    one_round = jax.jit(algorithm.round)
    for clients in (ONE_HOT, sharded):
        for key, who in zip(keys, wanted, strict=True):
            state, _ = one_round(key, start, clients)
            np.testing.assert_array_equal(np.asarray(state.params) > 0, who)


# People with several rows.

PEOPLE = np.array([7, 7, 3, 7, 3, 5, 20, 21, 21, 9, 8, 9, 9, 8, 11, 12, 2, 2])
"""Whose the clients' rows are: of 2, 1, 2, 4 and 1 people, whose rows lie apart."""


@pytest.fixture(scope="module")
def with_people(clients):
    named = clients.examples | {"person": jnp.asarray(PEOPLE, jnp.int32)}
    return clients._replace(examples=named)


def mean_gradients(params, clients, rows=slice(None)):
    """Each person's mean gradient in float64, `[people, 3]`."""
    x, y = (np.asarray(clients.examples[key], float)[rows] for key in "xy")
    inputs = np.column_stack([x, np.ones(len(x))])
    grads = (inputs @ params - y)[:, None] * inputs
    names = np.asarray(clients.examples["person"])[rows]
    return np.array([grads[names == name].mean(0) for name in np.unique(names)])


def flat(params):
    return np.array([*params["w"], params["b"]], float)


def test_people_are_counted(clients, with_people):
    assert data.people(clients) == data.People(18, 5, 7, 7, 1)
    assert data.people(with_people) == data.People(10, 5, 4, 7, 3)
    # Rows that are held out are nobody's in training: person 2 is gone.
    held = with_people._replace(held_out=jnp.array([1, 0, 0, 3, 2]))
    assert data.people(held) == data.People(7, 5, 2, 4, 3)


def test_hospitals_without_people_change_no_number_that_is_told(regression, clients):
    """Nobody of theirs can be drawn, and means are over the people there are."""
    told = []
    for empty in (0, 2):
        offsets = np.append(np.zeros(empty, np.int32), clients.offsets)
        some = clients._replace(offsets=jnp.asarray(offsets))
        algorithm = federated.averaging(
            regression,
            federated.example_gradients(regression, data.people(some), 1.0),
            federated.everyone(len(offsets) - 1),
        )
        state, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), some)
        told.append((state.params, info["batch_size"], info["train_loss"]))
    assert told[0][1] == 18
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), *told
    )


@pytest.mark.parametrize("clip_norm", [MUCH, 0.4])
def test_a_persons_rows_are_one_contribution(regression, with_people, clip_norm):
    algorithm = hospitals(
        regression, with_people, prob=1.0, mechanism=example(clip_norm)
    )
    start = algorithm.init(KEY)
    algorithm.check(with_people)
    state, _ = jax.jit(algorithm.round)(KEY, start, with_people)
    each = mean_gradients(flat(start.params), with_people)
    norms = np.linalg.norm(each, axis=1, keepdims=True)
    step = (each * np.minimum(1, clip_norm / norms)).sum(0) / 10
    assert (norms > 0.4).any()
    np.testing.assert_allclose(
        flat(state.params), flat(start.params) - step, rtol=1e-5, atol=1e-7
    )


def test_a_row_that_is_broken_takes_its_person_along_and_nobody_else(
    regression, with_people
):
    bad = with_people.examples["y"].at[3].set(jnp.nan)
    broken = with_people._replace(examples=with_people.examples | {"y": bad})
    algorithm = hospitals(regression, with_people, prob=1.0, mechanism=example(0.4))
    start = algorithm.init(KEY)
    state, _ = jax.jit(algorithm.round)(KEY, start, broken)
    others = np.flatnonzero(PEOPLE != 7)
    each = mean_gradients(flat(start.params), with_people, others)
    norms = np.linalg.norm(each, axis=1, keepdims=True)
    step = (each * np.minimum(1, 0.4 / norms)).sum(0) / 10
    np.testing.assert_allclose(
        flat(state.params), flat(start.params) - step, rtol=1e-5, atol=1e-7
    )


@pytest.mark.exhaustive
def test_ghost_norms_know_people_too():
    rng = np.random.default_rng(3)
    rows = {
        "x": rng.normal(size=(18, 3)).astype(np.float32),
        "y": rng.integers(0, 2, 18).astype(np.int32),
        "person": PEOPLE.astype(np.int32),
    }
    clients = data.federate(rows, np.repeat(np.arange(5), SIZES))
    task = models.flax_classification(models.MLP((4, 2)), (3,))
    ends = []
    for method in ("ghost", "vmap"):
        algorithm = hospitals(task, clients, method=method, mechanism=example(0.2))
        state, _ = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
        ends.append(state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *ends
    )


@pytest.mark.parametrize(
    "field",
    [
        "most_each",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("most_people", "most_rows")
        ),
    ],
)
def test_nobody_is_left_out_in_silence(field, regression, with_people):
    """A client with more people, or more rows of one, than there is room for."""
    people = data.people(with_people)
    tight = people._replace(**{field: getattr(people, field) - 1})
    trainer = federated.example_gradients(regression, tight, 1.0, method="vmap")
    algorithm = federated.averaging(regression, trainer, EVERYONE, num_lanes=1)
    state, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), with_people)
    assert np.isnan(flat(state.params)).all()
    # Also where a secure sum takes NaN for nothing.
    assert np.isnan(info["train_loss"])
    with pytest.raises(ValueError, match=r"build (it|the trainer) with"):
        algorithm.check(with_people)


# Sums.

SUMS = {
    "additive_sharing": smpc.additive_sharing(3),
    "pairwise_masking": smpc.pairwise_masking(smpc.graphs.complete(5, 4)),
}


@pytest.mark.parametrize(
    "name",
    [
        "additive_sharing",
        pytest.param("pairwise_masking", marks=pytest.mark.exhaustive),
    ],
)
def test_a_secure_sum_holds_what_many_people_add_up_to(name, telling):
    """All push the same way, so that a client sends seven times what one may."""
    together = ONE_HOT._replace(examples=jnp.eye(18)[jnp.zeros(18, int)])
    moved = [
        jax.jit(algorithm.round)(KEY, algorithm.init(KEY), together)[0].params
        for aggregator in (None, SUMS[name])
        for algorithm in [
            hospitals(
                telling, together, 1.0, mechanism=example(0.5), aggregator=aggregator
            )
        ]
    ]
    np.testing.assert_allclose(moved[0][0], 0.5, rtol=1e-6)
    np.testing.assert_allclose(moved[1], moved[0], atol=5 / 2**16 / 18 * 1.01)


def test_those_who_drop_out_take_their_people_along(telling):
    algorithm = hospitals(telling, ONE_HOT, 1.0, dropout_prob=0.5)
    owners = np.repeat(np.arange(5), SIZES)
    one_round, seen = jax.jit(algorithm.round), set()
    for number in range(6):
        state, info = one_round(jax.random.key(number), algorithm.init(KEY), ONE_HOT)
        reported = np.unique(owners[np.asarray(state.params) > 0])
        assert info["num_reports"] == len(reported)
        seen.add(len(reported))
        # The public expectation divides.
        wanted = np.isin(owners, reported) / (18 * 0.5)
        np.testing.assert_allclose(state.params, wanted, rtol=1e-6)
    assert len(seen) > 1


@pytest.mark.exhaustive
def test_noise_covers_the_rounding_of_a_sum(telling):
    """A person moves a client's message, which is rounded with them and without."""
    coarse = smpc.additive_sharing(3, scale=4.0, rounding="nearest")
    silent = telling._replace(loss=lambda key, params, rows: 0 * rows @ params)

    def noise(aggregator):
        algorithm = hospitals(
            silent, ONE_HOT, 1.0, mechanism=example(0.5, 2.0), aggregator=aggregator
        )
        start = algorithm.init(KEY)
        one = jax.vmap(lambda key: algorithm.round(key, start, ONE_HOT)[0].params)
        return 18 * np.std(jax.jit(one)(jax.random.split(KEY, 400)))

    np.testing.assert_allclose(noise(None), 2 * 0.5, rtol=0.03)
    # Half a step before and half a step after, in each of 18 coordinates.
    np.testing.assert_allclose(noise(coarse), 2 * (0.5 + np.sqrt(18) / 4), rtol=0.03)


def test_bad_combinations_are_told(regression, clients, with_people):
    people = data.people(clients)
    private = {"mechanism": example(0.5, 1.0)}

    def built(**parts: Any) -> Any:
        return hospitals(regression, clients, **{**private, **parts})

    for parts, message in [
        ({"sampler": federated.poisson(5, 0.5)}, r"draws 2\.5 of 5 clients.*everyone"),
        ({"sampler": federated.fixed_size(5, 3)}, "draws 3 of 5 clients"),
        ({"mechanism": dp.gaussian(0.5, 1.0)}, "protects examples, not 'client'"),
        ({"mechanism": dp.local_gaussian(0.5, 1.0)}, "not 'client'"),
        ({"weighting": "examples"}, "use weighting='uniform'"),
        ({"weighting": "realised", "mechanism": None}, "use weighting='uniform'"),
        (
            {"mechanism": dp.adaptive_gaussian(
                0.5, 0.2, 5.0, privacy_unit="example")},
            r"expected_contributions 5, but 7\.2 ",
        ),
        ({"aggregator": OWN_SUM}, "does not state how far .* give .* a `change`"),
        (
            {"aggregator": smpc.clear()._replace(ends_in="estimate"),
             "mechanism": None},
            "sums over clients of any size",
        ),
        (
            {"aggregator": smpc.additive_sharing(3, scale=2.0**28)},
            "modulus too small: 5 summands x max_abs 3.5",
        ),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            built(**parts)
    built(sampler=federated.fixed_size(5, 5))
    built(sampler=federated.poisson(5, 1.0))
    # Who reports does not depend on anyone's people.
    built(aggregator=SUMS["pairwise_masking"])
    built(mechanism=dp.adaptive_gaussian(0.5, 0.2, 7.2, privacy_unit="example"))
    built(aggregator=OWN_SUM._replace(change=lambda session, norm, dimension: norm))
    with pytest.raises(ValueError, match=r"or take federated\.example_gradients"):
        federated.averaging(
            regression,
            federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1),
            EVERYONE,
            mechanism=example(0.5, 1.0),
        )
    trainer = federated.example_gradients(regression, people, 0.5)
    scaled = trainer._replace(finish=lambda sent, state: trainer.finish(sent, state))
    with pytest.raises(ValueError, match=r"use federated.example_gradients unwrapped"):
        federated.averaging(regression, scaled, EVERYONE, **private)
    with pytest.raises(ValueError, match=r"clients have People\(count=10"):
        hospitals(regression, clients).check(with_people)
    shared = with_people.examples | {
        "person": with_people.examples["person"].at[0].set(2)
    }
    two = with_people._replace(examples=shared)
    with pytest.raises(ValueError, match="person 2 has rows in clients 0 and 4"):
        federated.example_gradients(regression, data.people(two), 0.5)
    named = hospitals(regression, with_people)
    with pytest.raises(ValueError, match="person 2 has rows in clients 0 and 4"):
        named.check(two)


OWN_SUM = smpc.summing(
    encode=lambda key, session, place, update: update,
    decode=lambda session, total: (total, True),
    cost=lambda dimension: base.Cost(4 * dimension, 4 * dimension),
)
