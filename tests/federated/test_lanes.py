"""Lanes: clients of any sizes, any number at once, and the same reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, smpc
from ppml_lab.federated import lanes

SIZES = np.array([3, 1, 8, 2, 2, 5, 1, 9, 4, 4, 1, 6])
DRAWN = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], np.float32)
SUMS = {
    "clear": smpc.clear(),
    "secure": smpc.additive_sharing(2, 12, 64.0, rounding="nearest"),
}


def tracing(weigh_key):
    """A client that takes one step per example, and whose update says which example was
    used in which step and, with `weigh_key`, which key the client had.
    """

    def step(key, state, client, step_number):
        word = jax.random.key_data(key)[1] >> 24
        row = client.examples[client.start + step_number]
        position = (step_number + 1).astype(jnp.float32)
        return state + position * row + weigh_key * word.astype(jnp.float32)

    return base.ClientTrainer(
        num_steps=lambda size: size,
        init=lambda key, params: params,
        step=step,
        finish=lambda state, params: (state - params, {}),
        event=lambda: base.PrivacyEvent(None, "replace_one", None),
    )


def report(key, client, size, update, info):
    seen = jnp.zeros(12).at[client].add(1.0)
    messages = {name: total.encode(key, update / 16) for name, total in SUMS.items()}
    return messages | {"seen": seen, "sizes": seen * size.astype(jnp.float32)}


def fold(total, reports):
    sent = {n: SUMS[n].aggregate(total[n], reports[n]) for n in SUMS}
    return sent | {n: total[n] + reports[n].sum(0) for n in ("seen", "sizes")}


@pytest.fixture(scope="module")
def trained():
    """`trained(num_lanes, weights, weigh_key)`: the folded reports of a cohort."""
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    rows = (np.arange(SIZES.sum()) % 7).astype(np.float32)
    clients = base.Clients(jnp.asarray(rows), jnp.asarray(offsets, jnp.int32))

    @functools.partial(jax.jit, static_argnums=0)
    def run(num_lanes, weights, weigh_key):
        cohort = base.Cohort(jnp.arange(12, dtype=jnp.int32)[::-1], weights[::-1])
        return lanes.train_cohort(
            jax.random.key(5), tracing(weigh_key), jnp.float32(3), clients, cohort,
            report, fold, num_lanes,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("num_lanes", [1, 2, 5, 32])
def test_everybody_drawn_is_trained_once_and_reported_once(trained, num_lanes):
    found = trained(num_lanes, jnp.asarray(DRAWN), jnp.float32(0))
    np.testing.assert_array_equal(found["seen"], DRAWN)
    np.testing.assert_array_equal(found["sizes"], DRAWN * SIZES)
    # Whole numbers, which float sums exactly: example k of a client in step k.
    rows = np.split(np.arange(SIZES.sum()) % 7, np.cumsum(SIZES)[:-1])
    sums = [np.arange(1, len(own) + 1) @ own for own in rows]
    np.testing.assert_array_equal(found["clear"] * 16, np.dot(DRAWN, sums))
    np.testing.assert_array_equal(
        SUMS["secure"].decode(found["secure"]), found["clear"]
    )


@pytest.mark.parametrize("num_lanes", [2, 5, 32])
def test_lanes_change_neither_keys_nor_shares(trained, num_lanes):
    numbers = jnp.asarray(DRAWN), jnp.float32(2**-10)
    first, other = trained(1, *numbers), trained(num_lanes, *numbers)
    np.testing.assert_allclose(other["clear"], first["clear"], rtol=1e-6)
    # The sums of shares are whole numbers of a ring: the same bit by bit.
    np.testing.assert_array_equal(other["secure"], first["secure"])


def test_a_client_does_not_depend_on_the_rest_of_the_cohort(trained):
    each = [
        float(trained(2, jnp.asarray(one), jnp.float32(1))["clear"])
        for one in np.eye(12, dtype=np.float32)
    ]
    together = trained(2, jnp.asarray(DRAWN), jnp.float32(1))
    np.testing.assert_array_equal(together["clear"], np.float32(np.dot(DRAWN, each)))
    # Keys differ between clients.
    none = trained(2, jnp.zeros(12), jnp.float32(1))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(none))
    assert len(set(each)) == 12
