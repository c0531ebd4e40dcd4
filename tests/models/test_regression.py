"""Regression: losses and metrics by numpy, targets that fit, gradients per example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import dp, models

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
W = RNG.normal(size=(3, 2)).astype(np.float32)
LOSSES = {
    "squared": lambda e: e**2,
    "absolute": np.abs,
    "huber": lambda e: np.where(np.abs(e) < 0.5, e**2 / 2, 0.5 * np.abs(e) - 0.125),
}


def linear(loss: Any = "squared", outputs=lambda params, x: x @ params):
    return models.regression(lambda key: W, outputs, loss=loss, huber_delta=0.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_targets", [0, 2])
def test_losses_and_metrics_per_example_against_numpy(loss, num_targets):
    """One target `[n]`, of outputs `[n, 1]`, or two."""
    y = RNG.normal(size=(6, num_targets or 1)).astype(np.float32)
    task = linear(loss, lambda params, x: x @ params[:, : num_targets or 1])
    errors = X @ W[:, : num_targets or 1] - y
    rows = {"x": X, "y": y if num_targets else y[:, 0]}
    found = jax.jit(task.evaluate)(W, rows)
    wanted = {"loss": LOSSES[loss], "mse": np.square, "mae": np.abs}
    assert found.keys() == wanted.keys()
    for name, function in wanted.items():
        np.testing.assert_allclose(found[name], function(errors).mean(1), rtol=2e-5)
    np.testing.assert_array_equal(jax.jit(task.loss)(KEY, W, rows), found["loss"])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(6, int), r'"y" must hold real targets.*int64\[6\]; .*astype'),
        (np.zeros((6, 2), bool), r"got bool\[6, 2\]"),
        (np.zeros(6), r'of the shape of the targets "y", \[6\], got \[6, 2\]'),
        (np.zeros((6, 3)), r"\[6, 3\], got \[6, 2\]; .* one output per target"),
        (np.zeros((3, 4)), r"\[3, 4\], got \[6, 2\]"),
        (np.full((6, 2), np.nan), '"y" must be finite, got nan in row 0'),
        (np.float32(0), r"\[\], got \[6, 2\]"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y, message):
    task = linear()
    for function in (task.evaluate, lambda *given: task.loss(KEY, *given)):
        with pytest.raises(ValueError, match=message):
            function(W, {"x": X, "y": y})


def test_what_makes_no_regression():
    with pytest.raises(ValueError, match=r"huber_delta must be positive.*got 0"):
        models.regression(lambda key: W, lambda w, x: x @ w, huber_delta=0)
    with pytest.raises(ValueError, match=r"loss must be 'squared' or .*got 'l2'"):
        models.flax_regression(models.linear(1), (3,), loss="l2")  # pyrefly: ignore
    with pytest.raises(ValueError, match="num_outputs must be"):
        models.linear(0)
    whole = linear(outputs=lambda params, x: jnp.zeros((6, 2), int))
    with pytest.raises(ValueError, match="real outputs, got int"):
        jax.eval_shape(whole.loss, KEY, W, {"x": X, "y": np.zeros((6, 2))})


def test_short_floats_are_compared_in_float32():
    """Of 256 and 257 bfloat16 holds the first alone."""
    task = linear(outputs=lambda params, x: jnp.full(len(x), 256, jnp.bfloat16))
    found = task.evaluate(W, {"x": X, "y": np.full(6, 257.0)})
    np.testing.assert_array_equal(found["mse"], np.ones(6))


@pytest.mark.exhaustive  # of such layers: test_sequence.py and dp/test_ghost.py
@pytest.mark.parametrize("loss", LOSSES)
def test_clipped_gradients_by_layers_are_those_of_vmap(loss):
    task = models.flax_regression(models.MLP((4, 2)), (3,), loss=loss, huber_delta=0.5)
    params = jax.jit(task.init)(KEY)
    mechanism = dp.gaussian(0.1, 1.0, privacy_unit="example")
    keys, counts = dp.example_keys(KEY, 6), np.ones(6, np.float32)
    rows = {"x": X, "y": X[:, :2] + 1}
    ghost, plain = (
        jax.jit(dp.clipped_gradient(task.loss, mechanism, method=method))(
            keys, mechanism.init(KEY, params), params, rows, counts
        )
        for method in ("auto", "vmap")
    )
    for one, other in zip(*map(jax.tree.leaves, (ghost, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
