"""Survival: the likelihood by hand, the expected time's sign, times that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import data, dp, federated, models
from ppml_lab.lab import parts

KEY = jax.random.key(0)
EDGES = (1.0, 2.0, 4.0)
TIME = np.array([0.5, 0.4, 1.0, 1.6, 3.9, 4.0, 9.0, 1.4], np.float32)
EVENT = np.array([1, 0, 1, 0, 1, 1, 0, 0], np.int32)
X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
ROWS = {"x": X, "y": {"time": TIME, "event": EVENT}}
TASK = models.survival(lambda key: jnp.ones((2, 3)), lambda w, x: x @ w, EDGES)


def by_hand(logits):
    """The negative logarithm of the likelihood, term by term."""
    hazards = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    begins, found = (0.0, *EDGES[:-1]), []
    for hazard, time, event in zip(hazards, TIME, EVENT, strict=True):
        likelihood = 1.0
        for one, begin, end in zip(hazard, begins, EDGES, strict=True):
            # Who is censored behind the middle of an interval survived it.
            if time >= (end if event else (begin + end) / 2):
                likelihood *= 1 - one
            elif event and time >= begin:
                likelihood *= one
        found.append(-np.log(likelihood))
    return np.array(found)


def test_the_loss_is_the_likelihood_of_what_was_seen():
    w = jax.random.normal(KEY, (2, 3))
    found = jax.jit(TASK.evaluate)(w, ROWS)
    assert found.keys() == {"loss"}
    np.testing.assert_allclose(found["loss"], by_hand(X @ w), rtol=1e-5, atol=1e-6)
    # The last was censored before the middle of its interval, the first two in theirs.
    np.testing.assert_array_equal(np.asarray(TASK.loss(KEY, 0 * w, ROWS) / np.log(2)),
                                  [1, 0, 2, 2, 3, 3, 3, 1])  # fmt: skip


def test_the_expected_time_is_the_area_under_the_survival_curve():
    logits = np.array([[0, 0, 0], [-40, -40, -40], [40, 0, 0]], np.float32)
    found = jax.jit(lambda z: models.mean_survival_time(z, EDGES))(logits)
    # Of one half, a quarter and an eighth at the edges, by trapezes.
    np.testing.assert_allclose(found, [0.75 + 0.375 + 2 * 0.1875, 4.0, 0.5], rtol=1e-6)
    with pytest.raises(ValueError, match=r"logits must be \[n, 2\].*got \[3, 3\]"):
        models.mean_survival_time(jnp.asarray(logits), (1.0, 2.0))


def test_who_has_the_event_first_has_the_higher_score():
    hazards = jnp.linspace(-3, 3, 8)[:, None] * jnp.ones(3)
    score = -models.mean_survival_time(hazards, EDGES)
    first = {"time": jnp.linspace(8, 1, 8), "event": jnp.ones(8, jnp.int32)}
    judge = jax.jit(parts.Concordance().__call__)
    assert judge(score, first, jnp.ones(8))["concordance"] == 1
    assert judge(-score, first, jnp.ones(8))["concordance"] == 0


@pytest.mark.exhaustive  # of such layers: test_sequence.py and dp/test_ghost.py
def test_clipped_gradients_by_layers_are_those_of_vmap():
    task = models.flax_survival(models.MLP((4, 3)), (2,), EDGES)
    params = jax.jit(task.init)(KEY)
    mechanism = dp.gaussian(0.1, 1.0, privacy_unit="example")
    keys, counts = dp.example_keys(KEY, 8), np.ones(8, np.float32)
    ghost, plain = (
        jax.jit(dp.clipped_gradient(task.loss, mechanism, method=method))(
            keys, mechanism.init(KEY, params), params, ROWS, counts
        )
        for method in ("auto", "vmap")
    )
    for one, other in zip(*map(jax.tree.leaves, (ghost, plain)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


BAD = {
    "time": (
        [(0.0, "got 0 in row 3"), (-1.0, "got -1 in"), (np.nan, "nan"), (np.inf, "inf")]
    ),
    "event": [(2, "censored, got 2 in row 3"), (-1, "got -1 in row 3")],
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(name, *bad) for name, values in BAD.items() for bad in values],
)
def test_times_and_events_that_are_none_are_errors_or_nan(name, value, message):
    labels = ROWS["y"] | {name: np.where(np.arange(8) == 3, value, ROWS["y"][name])}
    labels = {"time": labels["time"].astype(np.float32), "event": labels["event"]}
    rows = {"x": X, "y": labels}
    with pytest.raises(ValueError, match=f'"{name}" must be .*{message}'):
        TASK.evaluate(jnp.ones((2, 3)), rows)
    losses = LOSS(KEY, jnp.ones((2, 3)), rows)
    np.testing.assert_array_equal(np.isnan(losses), np.arange(8) == 3)
    # The host knows what clients hold before anything is trained.
    clients = data.federate(rows, np.arange(8) // 2)
    with pytest.raises(ValueError, match=f'"{name}" must be .*{message}'):
        federated.evaluator(TASK)(jnp.ones((2, 3)), rows)
    with pytest.raises(ValueError, match=f'"{name}" must be .*{message}'):
        federated.client_evaluator(TASK)(jnp.ones((2, 3)), clients)


LOSS = jax.jit(TASK.loss)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (
            {"x": X, "y": TIME},
            r'\{"time": ..., "event": ...\}\}, got "y" ndarray; turn',
        ),
        ({"x": X, "y": {"time": TIME}}, r"""with "y" keys \['time'\]"""),
        ({"x": X}, r"got keys \['x'\]"),
        ((X, TIME), "got tuple"),
        ({"x": X, "y": {"time": EVENT, "event": EVENT}}, '"time" must hold one float'),
        ({"x": X, "y": {"time": TIME, "event": TIME}}, '"event" must hold one 0 or 1'),
        (
            {"x": X, "y": {"time": TIME, "event": EVENT[:4]}},
            r"integers \[8\].*int32\[4",
        ),
        ({"x": X[:4], "y": ROWS["y"]}, r"for each of 3 edges, \[8, 3\], got \[4, 3\]"),
    ],
)
def test_examples_of_another_form_are_refused_with_the_cure(examples, message):
    for function in (TASK.evaluate, lambda *given: TASK.loss(KEY, *given)):
        with pytest.raises(ValueError, match=message):
            function(jnp.ones((2, 3)), examples)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((), "edges is empty"),
        ((1.0, 1.0), r"edges\[1\] must be above 1, .*got 1"),
        ((2.0, 1.0), r"edges\[1\] must be above 2"),
        ((0.0, 1.0), r"edges\[0\] must be positive.*got 0"),
        ((1.0, np.inf), r"edges\[1\] must be positive and finite"),
    ],
)
def test_edges_that_do_not_rise_are_refused(edges, message):
    for make in (
        lambda: models.flax_survival(models.linear(2), (2,), edges),
        lambda: models.mean_survival_time(jnp.zeros((1, 2)), edges),
    ):
        with pytest.raises(ValueError, match=message):
            make()
