"""Models of other floats than float32 train, and stay what they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, smpc
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(4)
TYPES = [
    "bfloat16",
    pytest.param("float16", marks=pytest.mark.exhaustive),
    pytest.param("float64", marks=pytest.mark.exhaustive),
]
EXAMPLE = dp.gaussian(1.0, 0.5, privacy_unit="example")
CLIENT = dp.gaussian(1.0, 0.5)


def least_squares(dtype):
    """The gradient at an example is `residual * x`."""

    def residual(params, rows):
        x, y = (rows[name].astype(dtype) for name in "xy")
        return jnp.sum(x * params["w"], axis=1) - y

    return base.Task(
        init=lambda key: {"w": jnp.full(2, 0.25, dtype)},
        loss=lambda key, params, rows: 0.5 * residual(params, rows) ** 2,
        evaluate=lambda params, rows: {"loss": residual(params, rows) ** 2},
    )


def build(kind, task):
    sgd = optax.sgd(0.1, momentum=0.5)
    local = federated.local_sgd(task, sgd, 2, num_epochs=1)
    four = federated.fixed_size(4, 4)
    graph = smpc.graphs.complete(4, 3)
    if kind == "central":
        sampler = federated.poisson(8, 0.5)
        return federated.central_sgd(task, optax.adam(0.1), sampler, mechanism=EXAMPLE)
    if kind == "scaffold":
        trainer, server = federated.scaffold(task, sgd, 2, num_epochs=1)
        return federated.averaging(
            task,
            trainer,
            four,
            server=server,
            mechanism=CLIENT,
            aggregator=smpc.additive_sharing(3, 4, 1.0),
        )
    parts: Any = {
        "clear": lambda: (local, {"weighting": "examples"}),
        "masked": lambda: (local, {"aggregator": smpc.pairwise_masking(graph, 4.0)}),
        "fedopt": lambda: (
            federated.proximal_sgd(task, sgd, 2, jnp.float32(0.1), num_epochs=1),
            {
                "mechanism": dp.adaptive_gaussian(1.0, 0.5, 4),
                "server": federated.fedopt(optax.adam(0.1)),
            },
        ),
        "local": lambda: (local, {"mechanism": dp.local_gaussian(1.0, 0.5)}),
        "local_dp_sgd": lambda: (
            federated.local_dp_sgd(task, sgd, EXAMPLE, 0.5, 2, 2, method="vmap"),
            {},
        ),
    }
    trainer, options = parts[kind]()
    return federated.averaging(task, trainer, four, **options)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "kind",
    [
        "scaffold",
        *(
            pytest.param(kind, marks=pytest.mark.exhaustive)
            for kind in (
                "local_dp_sgd",
                "clear",
                "masked",
                "fedopt",
                "local",
                "central",
            )
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:slower per-example gradients")
def test_rounds_run_and_the_model_keeps_its_type(kind, dtype):
    rng = np.random.default_rng(0)
    rows = {
        "x": rng.normal(size=(8, 2)).astype(np.float32),
        "y": np.ones(8, np.float32),
    }
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(dtype == "float64"):
        clients = data.federate(rows, np.arange(8) % 4)
        algorithm = build(kind, least_squares(jnp.dtype(dtype)))
        start = jax.jit(algorithm.init)(KEY)
        run = jax.jit(lambda state: run_chunk(KEY, algorithm, state, clients, 0, 2))
        state, history = run(start)
        before, after = (np.asarray(s.params["w"], np.float64) for s in (start, state))
        assert state.params["w"].dtype == dtype
    assert np.isfinite(after).all()
    assert (before != after).all()
    assert np.isfinite(history["train_loss"]).all()


@pytest.mark.parametrize(
    "aggregator", ["clear", pytest.param("shared", marks=pytest.mark.exhaustive)]
)
def test_noise_finer_than_the_sum_is_not_rounded_away(aggregator):
    """Each update takes the model to 0; short floats of 4 have no digit for noise."""
    task = base.Task(
        init=lambda key: jnp.ones(64, jnp.bfloat16) / 8,
        loss=lambda key, params, rows: jnp.sum(params) * rows.astype(params.dtype),
        evaluate=lambda params, rows: {},
    )
    sums = {"clear": smpc.clear(), "shared": smpc.additive_sharing(3, 4, 1.0, 2.0**20)}
    algorithm = federated.averaging(
        task,
        federated.local_sgd(task, optax.sgd(0.125), 1, num_steps=1),
        federated.everyone(4),
        mechanism=dp.gaussian(1.0, 1e-3),
        aggregator=sums[aggregator],
    )
    clients = data.federate(np.ones(4, np.float32), np.arange(4))
    state, _ = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
    left = np.asarray(state.params, np.float64)
    assert (left != 0).all()
    assert 0.7e-3 / 4 < left.std() < 1.4e-3 / 4
