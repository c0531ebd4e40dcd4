"""Clients drop out with their probabilities, and nobody comes back."""

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import random
from ppml_lab.smpc import dropouts


def seed_of(number: int):
    return random.seed(jax.random.key(number))


def test_dropouts_have_their_probabilities():
    probs = [0.0, 0.1, 0.5, 0.25]
    alive = dropouts.drop_out(seed_of(0), 100_000, probs)
    left = np.ones(100_000, bool)
    for stage, prob in zip(alive, probs, strict=True):
        assert not np.any(stage & ~left)
        stayed, out_of = np.sum(np.asarray(stage)), np.sum(left)
        assert abs(stayed - out_of * (1 - prob)) <= 5 * np.sqrt(out_of * prob)
        left = np.asarray(stage)
    assert all(np.all(stage) for stage in dropouts.drop_out(seed_of(0), 9, [0.0] * 4))
    assert all(np.all(stage) for stage in dropouts.everybody(9))
    assert not np.any(dropouts.drop_out(seed_of(0), 99, [1.0, 0, 0, 0]).advertised)


def test_nobody_comes_back():
    rounds = np.array(list(np.ndindex(2, 2, 2, 2)), bool).T
    alive = dropouts.nested(*jnp.asarray(rounds))
    np.testing.assert_array_equal(alive, np.logical_and.accumulate(rounds))
