"""Which updates a mechanism shrinks, each by its own rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import dp, federated
from ppml_lab.dp import looks

KEY = jax.random.key(2)

# Two layers; norms 0.3 and 0.4, together 0.5; entries' sizes add up to 0.86.
UPDATE = {"a": {"w": jnp.array([0.3, 0.0])}, "b": {"w": jnp.array([0.24, -0.32])}}

MECHANISMS = {
    "flat above": (dp.gaussian(0.51, 1.0), False),
    "flat below": (dp.gaussian(0.49, 1.0), True),
    "none": (dp.gaussian(float("inf"), 0.0), False),
    # Its share is 0.39 a layer.
    "per_layer": (dp.gaussian(0.55, 1.0, rule="per_layer"), True),
    "per_layer above": (dp.gaussian(0.57, 1.0, rule="per_layer"), False),
    # Scaled up by it: 0.52 / (0.5 + 0.01).
    "normalised up": (dp.gaussian(0.52, 1.0, rule="normalised"), False),
    "normalised down": (dp.gaussian(0.505, 1.0, rule="normalised"), True),
    # Not its message's bound, 0.495 * sqrt(1.04).
    "adaptive": (dp.adaptive_gaussian(0.495, 1.0, 9.0, count_weight=0.2), True),
    "adaptive above": (dp.adaptive_gaussian(0.51, 1.0, 9.0), False),
    "live": (
        dp.live(
            dp.adaptive_gaussian(0.495, 1.0, 9.0, count_weight=0.2),
            federated.poisson(90, 0.1),
            1e-3,
        ),
        True,
    ),
    "scheduled": (dp.scheduled_gaussian(optax.constant_schedule(0.49), 1.0), True),
    "local": (dp.local_gaussian(0.49, 1.0), True),
    "local above": (dp.local_gaussian(0.51, 1.0), False),
    # Norms are L1's.
    "laplace": (dp.local_laplace(0.85, 1.0), True),
    "laplace above": (dp.local_laplace(0.87, 1.0), False),
    "response": (dp.randomised_response(0.31, 1.0), True),
    "response above": (dp.randomised_response(0.33, 1.0), False),
    "another's": (dp.gaussian(0.49, 1.0)._replace(clip=lambda *rest: rest[2]), True),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_shrunk_or_not_by_the_mechanisms_own_rule(name):
    mechanism, expected = MECHANISMS[name]
    state = mechanism.init(KEY, UPDATE)

    def shrunk(factor):
        update = jax.tree.map(lambda leaf: factor * leaf, UPDATE)
        return looks.clipped(mechanism, state, update)

    assert bool(shrunk(1.0)) == expected
    # What is not finite is dropped.
    assert shrunk(jnp.nan)
    assert shrunk(jnp.inf)
    assert not shrunk(1e-3)


def test_a_watched_clip_is_the_clip():
    mechanism, _ = MECHANISMS["per_layer"]
    assert hasattr(mechanism.clip, "shrinks")
    sent = jax.jit(mechanism.clip)(KEY, (), UPDATE)
    share = 0.55 / np.sqrt(2)
    np.testing.assert_allclose(sent["a"]["w"], [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(sent["b"]["w"], [0.6 * share, -0.8 * share], rtol=1e-6)
