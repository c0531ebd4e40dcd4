"""Per-example gradients of a model of which some weights are constant."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp, models
from ppml_lab.federated import roles

KEY = jax.random.key(2)
ROWS = {
    "x": jax.random.normal(jax.random.key(1), (5, 6)),
    "y": jnp.array([0, 1, 1, 0, 1]),
}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(4, name="first")(x))
        x = nn.LayerNorm(name="norm")(x)
        x = nn.tanh(nn.Dense(4, name="shared")(x))
        return nn.Dense(2, name="last")(x)


class Adapted(nn.Module):
    """A kernel made of a constant one and two small ones that are trained."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal(0.5)
        base = self.param("base", init, (6, 2))
        low = self.param("low", init, (6, 1)) @ self.param("high", init, (1, 2))
        bias = self.param("bias", init, (2,))
        layer = nn.Dense(2, parent=None)
        return layer.apply({"params": {"kernel": base + low, "bias": bias}}, x)


def freezing(*names):
    def by_name(variables):
        def role(path, leaf):
            where = jax.tree_util.keystr(path)
            is_frozen = any(name in where for name in names)
            return "constant" if is_frozen else "trainable"

        return jax.tree_util.tree_map_with_path(role, variables)

    return by_name


def clipped(module, frozen, method, rule="flat") -> Any:
    task = models.flax_classification(module, (6,), roles=freezing(*frozen))
    whole = task.init(KEY)
    part = roles.trainable(task, whole)
    gradient = dp.clipped_gradient(
        roles.loss_of_part(task, whole),
        dp.gaussian(0.3, 1.0, privacy_unit="example", rule=rule),
        method=method,
    )
    keys, weights = dp.example_keys(KEY, 5), jnp.ones(5)
    return part, jax.jit(gradient)(keys, (), part, ROWS, weights)


@pytest.mark.parametrize(
    ("frozen", "rule"),
    [
        (("first", "norm"), "flat"),
        (("['first']['kernel']", "['norm']['scale']", "['last']['bias']"), "per_layer"),
        pytest.param(
            ("['norm']['bias']", "last"), "flat", marks=pytest.mark.exhaustive
        ),
    ],
)
def test_ghost_norms_are_of_the_trained_leaves_alone(frozen, rule):
    part, (total, losses) = clipped(Net(), frozen, "ghost", rule)
    _, (expected, expected_losses) = clipped(Net(), frozen, "vmap", rule)
    assert jax.tree.structure(total) == jax.tree.structure(part)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6),
        total,
        expected,
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)


def test_a_weight_made_of_trained_ones_is_no_constant():
    with pytest.raises(ValueError, match=r"'(high|low)'.*reach the loss in another"):
        clipped(Adapted(), ["base"], "ghost")
    with pytest.warns(UserWarning, match="slower per-example gradients"):
        part, (total, _) = clipped(Adapted(), ["base"], "auto")
    assert jax.tree.structure(total) == jax.tree.structure(part)
    assert part["params"]["base"] is None
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(total))
