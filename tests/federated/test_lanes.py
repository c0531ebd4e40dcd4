"""Lanes: clients of any sizes, any number at once, and the same reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, data, federated, pairs, smpc, trees
from ppml_lab.federated import lanes

SIZES = np.array([3, 1, 8, 2, 2, 5, 1, 9, 4, 4, 1, 6])
DRAWN = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], np.float32)
# Example k of a client in step k; whole numbers, which float sums exactly.
ROWS = np.split(np.arange(SIZES.sum()) % 7, np.cumsum(SIZES)[:-1])
UPDATES = np.array([np.arange(1, len(own) + 1) @ own for own in ROWS])
SUMS = {
    "clear": smpc.clear(),
    "secure": smpc.additive_sharing(2, 12, 64.0, rounding="nearest"),
}
EVERYONE = jnp.ones(12, bool)
SESSIONS = {
    name: total.begin(jax.random.key(0), EVERYONE, EVERYONE, jnp.inf)
    for name, total in SUMS.items()
}
# Some and too many lanes, on one device and on several; the other ways are exhaustive.
LANES_AND_DEVICES = [(2, 1), (5, 1), (32, 4)]
MORE_LANES_AND_DEVICES = [(4, 1), (32, 1), (1, 4), (4, 4)]


def exhaustive(ways):
    return [pytest.param(*way, marks=pytest.mark.exhaustive) for way in ways]


def test_a_cpu_trains_small_models_side_by_side_and_others_alone():
    logistic, two_nn = 7_850, 199_210
    assert lanes.default_num_lanes(logistic) > 1
    assert lanes.default_num_lanes(two_nn) == 1


def tracing(weigh_key):
    """A client that takes one step per example, and whose update says which example was
    used in which step and, with `weigh_key`, which key the client had. It keeps its
    name and the sum of what it has told.
    """

    def step(key, sent, state, client, step_number):
        words = jax.random.key_data(key)
        row = client.examples[client.start + step_number]
        position = (step_number + 1).astype(jnp.float32)
        total = position * row + weigh_key * (words[1] >> 24).astype(jnp.float32)
        return state | {"local": state["local"] + total, "key": words}

    def finish(sent, state):
        update, name = state["local"] - sent, state["name"]
        keeps = {"name": name, "told": state["told"] + update}
        return update, keeps, {"name": name, "key": state["key"]}

    return base.ClientTrainer(
        num_steps=lambda size: size,
        keep=lambda params: {"name": jnp.int32(0), "told": jnp.float32(0)},
        init=lambda key, sent, kept, round_number: (
            {"local": sent, "key": NO_KEY, "round": round_number} | kept
        ),
        step=step,
        finish=finish,
        model=lambda sent, kept: sent,
        event=lambda: base.PrivacyEvent(None, "replace_one", None),
    )


def report(key, place, size, update, info):
    seen = jnp.zeros(12).at[info["name"]].add(1.0)
    keys = jnp.stack([info["key"], jax.random.key_data(key)])
    table = jnp.zeros((12, 2, 2), jnp.uint32).at[info["name"]].set(keys)
    messages = {
        name: total.encode(key, SESSIONS[name], place, update / 16)
        for name, total in SUMS.items()
    }
    sizes = seen * size.astype(jnp.float32)
    return messages | {"seen": seen, "sizes": sizes, "keys": table}


PLAIN = ("seen", "sizes", "keys")


def absorb(total, reports, places, present):
    sent = {n: SUMS[n].absorb(total[n], reports[n], places, present) for n in SUMS}
    heard = trees.where(present, {n: reports[n] for n in PLAIN}, 0)
    return sent | {n: total[n] + heard[n].sum(0, dtype=total[n].dtype) for n in PLAIN}


FOLD = lanes.Fold(
    empty=lambda like: (
        {n: SUMS[n].empty(like[n]) for n in SUMS}
        | {n: jnp.zeros(like[n].shape, like[n].dtype) for n in PLAIN}
    ),
    absorb=absorb,
    merge=lambda totals: (
        {n: SUMS[n].merge(totals[n]) for n in SUMS}
        | {n: totals[n].sum(0, dtype=totals[n].dtype) for n in PLAIN}
    ),
)


def clear(found):
    return pairs.value(SUMS["clear"].finish(SESSIONS["clear"], found["clear"])[0])


NO_KEY = jnp.zeros(2, jnp.uint32)
KEPT = {
    "name": np.arange(12, dtype=np.int32),
    "told": 1000 * np.arange(12, dtype=np.float32),
}


@pytest.fixture(scope="module")
def trained():
    """`trained(num_lanes, num_devices, cohort, weigh_key, storage)`: the folded reports
    of a cohort, and what everybody keeps.
    """
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    rows = np.concatenate(ROWS).astype(np.float32)
    whole = base.Clients(jnp.asarray(rows), jnp.asarray(offsets, jnp.int32))
    padded = np.stack([np.pad(own, (0, 9 - len(own))) for own in ROWS])
    generated = data.generated(
        lambda table, client: table[client], SIZES, jnp.asarray(padded, jnp.float32)
    )

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(num_lanes, num_devices, cohort, weigh_key, clients):
        return lanes.train_cohort(
            jax.random.key(5), tracing(weigh_key), jnp.float32(3),
            jax.tree.map(jnp.asarray, KEPT), clients, cohort, jnp.int32(7),
            jax.tree_util.Partial(report), FOLD, num_lanes,
            federated.client_mesh(num_devices),
        )  # fmt: skip

    def train(num_lanes, num_devices, cohort, weigh_key, storage="whole"):
        mesh = federated.client_mesh(num_devices)
        clients = generated if storage == "generated" else whole
        if storage == "by shard":
            clients = data.shard(whole, federated.sharded_by_client(mesh))
        weight = jnp.float32(weigh_key)
        return run(num_lanes, num_devices, cohort, weight, clients)

    return train


def backwards(weights):
    """A cohort of all clients, the last first."""
    indices = jnp.arange(12, dtype=jnp.int32)[::-1]
    return base.Cohort(indices, jnp.asarray(weights)[::-1])


@pytest.mark.parametrize(
    ("num_lanes", "num_devices"),
    [(1, 1), *LANES_AND_DEVICES, *exhaustive(MORE_LANES_AND_DEVICES)],
)
def test_everybody_drawn_is_trained_once_and_reported_once(
    trained, num_lanes, num_devices
):
    found, kept = trained(num_lanes, num_devices, backwards(DRAWN), 0)
    np.testing.assert_array_equal(found["seen"], DRAWN)
    np.testing.assert_array_equal(found["sizes"], DRAWN * SIZES)
    np.testing.assert_array_equal(clear(found) * 16, DRAWN @ UPDATES)
    assert found["clear"].count == found["secure"].count == DRAWN.sum()
    opened, *_ = SUMS["secure"].finish(SESSIONS["secure"], found["secure"])
    np.testing.assert_array_equal(opened, clear(found))
    # Everybody trained from what it had kept itself, and keeps its own result.
    np.testing.assert_array_equal(kept["name"], KEPT["name"])
    np.testing.assert_array_equal(kept["told"], KEPT["told"] + DRAWN * UPDATES)


WAYS = [
    *((*pair, "whole") for pair in LANES_AND_DEVICES),
    *((4, 4, storage) for storage in ("by shard", "generated")),
    *exhaustive((*pair, "whole") for pair in MORE_LANES_AND_DEVICES),
    *exhaustive((*pair, "by shard") for pair in [(1, 1), (1, 2)]),
    *exhaustive((*pair, "generated") for pair in [(1, 1), (4, 1)]),
]


@pytest.mark.parametrize(("num_lanes", "num_devices", "storage"), WAYS)
def test_lanes_devices_and_storage_change_neither_keys_nor_shares(
    trained, num_lanes, num_devices, storage
):
    arguments = backwards(DRAWN), 2**-10
    first, first_kept = trained(1, 1, *arguments)
    other, other_kept = trained(num_lanes, num_devices, *arguments, storage)
    np.testing.assert_allclose(clear(other), clear(first), rtol=1e-6)
    # The sums of shares are whole numbers of a ring: the same bit by bit.
    np.testing.assert_array_equal(other["secure"].messages, first["secure"].messages)
    np.testing.assert_array_equal(other["keys"], first["keys"])
    jax.tree.map(np.testing.assert_array_equal, other_kept, first_kept)


@pytest.mark.parametrize(("num_lanes", "num_devices"), [(1, 1), (5, 1), (2, 4)])
def test_padding_changes_nobody(trained, num_lanes, num_devices):
    # Clients 4, 0 and 7 take part; the padding names 0 and 7 again, before and after
    # they come, and 2, who does not take part.
    cohort = base.Cohort(
        indices=jnp.array([0, 4, 7, 0, 0, 2, 7, 0, 0], jnp.int32),
        weights=jnp.array([0, 1, 0, 1, 0, 0, 1, 0, 0], jnp.float32),
    )
    found, kept = trained(num_lanes, num_devices, cohort, 0)
    drawn = np.isin(np.arange(12), [4, 0, 7])
    np.testing.assert_array_equal(found["seen"], drawn)
    np.testing.assert_array_equal(clear(found) * 16, drawn @ UPDATES)
    np.testing.assert_array_equal(kept["name"], KEPT["name"])
    np.testing.assert_array_equal(kept["told"], KEPT["told"] + drawn * UPDATES)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_client_does_not_depend_on_the_rest_of_the_cohort(trained, num_devices):
    each = [
        float(clear(trained(2, num_devices, backwards(one), 1)[0]))
        for one in np.eye(12, dtype=np.float32)
    ]
    together, _ = trained(2, num_devices, backwards(DRAWN), 1)
    np.testing.assert_array_equal(clear(together), np.float32(np.dot(DRAWN, each)))
    assert len(set(each)) == 12


def test_every_clients_training_and_report_have_keys_of_their_own(trained):
    everybody = backwards(np.ones(12, np.float32))
    found, _ = trained(1, 1, everybody, 0)
    keys = np.asarray(found["keys"]).reshape(24, 2)
    assert len(np.unique(keys, axis=0)) == 24


@pytest.mark.parametrize("num_devices", [1, 4])
def test_nobody_reports_zeros_and_keeps_what_it_kept(trained, num_devices):
    none, kept = trained(2, num_devices, backwards(np.zeros(12, np.float32)), 1)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(none))
    jax.tree.map(np.testing.assert_array_equal, kept, KEPT)


@pytest.mark.parametrize("num_lanes", [1, 3])
def test_side_by_side_runs_wait_for_each_other(trained, num_lanes):
    """Runs of a vmapped sweep draw cohorts of different sizes, nobody too."""
    weights = np.stack([np.zeros(12), DRAWN, np.eye(12)[7], np.ones(12)])
    weights = weights.astype(np.float32)
    together = jax.vmap(lambda own: trained(num_lanes, 1, backwards(own), 1))(weights)
    for place, own in enumerate(weights):
        alone = trained(num_lanes, 1, backwards(own), 1)
        mine = jax.tree.map(lambda leaf, place=place: leaf[place], together)
        jax.tree.map(np.testing.assert_array_equal, mine, alone)


@pytest.mark.parametrize("num_devices", [1, 2, 4, 7])
def test_everybody_is_dealt_to_one_device_and_loads_are_even(num_devices):
    deal = jax.jit(lanes._queue, static_argnums=4)
    whole = base.Clients(jnp.zeros(30), jnp.arange(31, dtype=jnp.int32))
    everybody = federated.everyone(30).sample(jax.random.key(0), ())[0]
    rng = np.random.default_rng(num_devices)
    for number in range(20):
        # From equal trainings to one that is as long as all others together.
        steps = np.ceil(rng.lognormal(1, number / 8, size=30)).astype(np.int32)
        steps[rng.random(30) < 0.3] = 0
        queues = []
        for device in range(num_devices):
            places, length = deal(
                whole, everybody, jnp.asarray(steps), jnp.int32(device), num_devices
            )
            queues.append(np.asarray(places)[: int(length)])
        np.testing.assert_array_equal(
            np.sort(np.concatenate(queues)), np.flatnonzero(steps)
        )
        # Longest first: the last that a device got is its shortest.
        assert all((np.diff(steps[queue]) <= 0).all() for queue in queues)
        loads = [steps[queue].sum() for queue in queues]
        assert max(loads) - min(loads) <= steps.max()
