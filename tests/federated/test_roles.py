"""Constant leaves are never clipped, noised, sent or summed, whatever trains."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, models, smpc
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
CLIENTS = data.federate(
    {"x": X, "y": (X[:, 0] > 0).astype(np.int32)}, np.arange(24) % 4
)


class Mixed(nn.Module):
    """A layer to freeze, statistics and a counter that flax calls no parameters."""

    @nn.compact
    def __call__(self, x):
        doubled = self.variable("tables", "shift", lambda: jnp.int32(1))
        x = nn.Dense(4, name="body")(jnp.ldexp(x, doubled.value))
        normalised = nn.BatchNorm(True, use_scale=False, use_bias=False)(x)
        return nn.Dense(2, name="head")(normalised)


def by_name(variables):
    def role(path, leaf):
        trains = path[0].key == "params" and "body" not in jax.tree_util.keystr(path)
        return "trainable" if trains else "constant"

    return jax.tree_util.tree_map_with_path(role, variables)


TASK = models.flax_classification(Mixed(), (3,), roles=by_name)
TRAINED = 4 * 2 + 2
CLIENT = dp.gaussian(1.0, 3.0)
EXAMPLE = dp.gaussian(1.0, 3.0, privacy_unit="example")


def of_clients(trainer, server=None, mechanism=CLIENT, aggregator=None):
    return lambda mesh: federated.averaging(
        TASK,
        trainer,
        federated.fixed_size(4, 4),
        server=server,
        mechanism=mechanism,
        aggregator=aggregator,
        num_lanes=2,
        mesh=mesh,
    )


def central(mesh):
    sampler = federated.poisson(24, 0.5)
    return federated.central_sgd(
        TASK, optax.adam(0.1), sampler, mechanism=EXAMPLE, method="vmap", mesh=mesh
    )


SGD = optax.sgd(0.1, momentum=0.9)
SHARED = smpc.additive_sharing(3, 4, 1.0)
MASKED = smpc.pairwise_masking(smpc.graphs.complete(4, 3), 1.0)
ALGORITHMS = {
    "fedavg": of_clients(
        federated.local_sgd(TASK, SGD, 4, num_epochs=1), aggregator=SHARED
    ),
    "fedprox": of_clients(
        federated.proximal_sgd(TASK, SGD, 4, 0.1, num_epochs=1), aggregator=MASKED
    ),
    "scaffold": of_clients(*federated.scaffold(TASK, SGD, 4, num_epochs=1)),
    "fedopt": of_clients(
        federated.local_sgd(TASK, SGD, 4, num_epochs=1),
        federated.fedopt(optax.adamw(0.1)),
        dp.local_gaussian(1.0, 3.0),
    ),
    "local_dp_sgd": of_clients(
        federated.local_dp_sgd(TASK, SGD, EXAMPLE, 0.5, 2, 6, method="vmap"),
        mechanism=None,
    ),
    "central": central,
}


def split(params):
    """The constant leaves and the trained ones."""
    roles, leaves = jax.tree.leaves(by_name(params)), jax.tree.leaves(params)
    pairs = list(zip(roles, leaves, strict=True))
    return [
        [np.asarray(leaf) for role, leaf in pairs if role == kind]
        for kind in ("constant", "trainable")
    ]


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [
        ("scaffold", None),
        ("central", None),
        *(
            pytest.param(name, number, marks=pytest.mark.exhaustive)
            for name, number in [
                ("fedavg", 4),
                ("fedavg", None),
                ("fedprox", None),
                ("fedprox", 4),
                ("fedopt", None),
                ("fedopt", 4),
                ("scaffold", 4),
                ("local_dp_sgd", None),
                ("local_dp_sgd", 4),
                ("central", 4),
            ]
        ),
    ],
)
def test_constants_stay_to_the_bit_and_the_rest_trains(name, num_devices):
    mesh = None if num_devices is None else federated.client_mesh(num_devices)
    with jax.numpy_dtype_promotion("standard"):  # for optax.adam
        algorithm = ALGORITHMS[name](mesh)
        start = jax.jit(algorithm.init)(KEY)
        run = jax.jit(lambda state: run_chunk(KEY, algorithm, state, CLIENTS, 0, 3))
        state, history = run(start)
    before, (frozen, trained) = split(start.params), split(state.params)
    assert [leaf.dtype for leaf in frozen].count(np.int32) == 1
    for old, new in zip(before[0], frozen, strict=True):
        np.testing.assert_array_equal(old, new)
        assert old.dtype == new.dtype
    for old, new in zip(before[1], trained, strict=True):
        assert np.isfinite(new).all()
        assert (old != new).all()
    assert np.isfinite(history["train_loss"]).all()
    sent = 2 * TRAINED if name == "scaffold" else TRAINED
    cost = algorithm.cost()
    if cost is not None:
        aggregator = {"fedavg": SHARED, "fedprox": MASKED}.get(name, smpc.clear())
        assert cost == aggregator.cost(sent)


def linear(roles=None):
    """Loss `w * a + b`: the gradient at an example is (its a, 1)."""
    return base.Task(
        init=lambda key: {"w": jnp.float32(0), "b": jnp.float32(0)},
        loss=lambda key, params, rows: rows * params["w"] + params["b"],
        evaluate=lambda params, rows: {},
        roles=roles,
    )


def only_b(params):
    return {"w": "constant", "b": "trainable"}


NEVER_B = optax.multi_transform(
    {"t": optax.sgd(1.0), "f": optax.set_to_zero()}, {"w": "t", "b": "f"}
)


@pytest.mark.parametrize("kind", ["averaging", "central", "local_dp_sgd"])
@pytest.mark.parametrize("roles", [None, only_b])
def test_the_clip_norm_is_over_what_is_trained(kind, roles):
    # Both examples have gradient (3, 1); clipped to 2 without w, b's share stays 1.
    task, rows = linear(roles), data.federate(np.full(2, 3, np.float32), np.zeros(2))
    clip = {
        unit: dp.gaussian(2.0, 0.0, privacy_unit=unit) for unit in ("client", "example")
    }
    one = optax.sgd(1.0)
    algorithm = {
        "averaging": lambda: federated.averaging(
            task,
            federated.local_sgd(task, one, 2, num_steps=1),
            federated.everyone(1),
            mechanism=clip["client"],
        ),
        "central": lambda: federated.central_sgd(
            task, one, federated.everyone(2), mechanism=clip["example"], method="vmap"
        ),
        "local_dp_sgd": lambda: federated.averaging(
            task,
            federated.local_dp_sgd(
                task, one, clip["example"], 1.0, 1, 2, method="vmap"
            ),
            federated.everyone(1),
        ),
    }[kind]()
    state, _ = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), rows)
    share = 1.0 if roles else 2 / np.sqrt(10)
    np.testing.assert_allclose(state.params["b"], -share, rtol=1e-6)
    np.testing.assert_allclose(
        state.params["w"], 0.0 if roles else -3 * share, rtol=1e-6
    )


def trainers(task, optimizer):
    return {
        "local_sgd": (federated.local_sgd(task, optimizer, 2, num_steps=1), None),
        "proximal_sgd": (
            federated.proximal_sgd(task, optimizer, 2, 0.1, num_steps=1),
            None,
        ),
        "scaffold": federated.scaffold(task, optimizer, 2, num_steps=1),
        "local_dp_sgd": (
            federated.local_dp_sgd(task, optimizer, EXAMPLE, 0.5, 1, 2),
            None,
        ),
    }


@pytest.mark.parametrize(
    "name", ["local_sgd", "proximal_sgd", "scaffold", "local_dp_sgd"]
)
def test_an_optimizer_that_never_moves_a_leaf_is_refused_under_noise(name):
    trainer, server = trainers(linear(), NEVER_B)[name]

    def build(mechanism):
        return federated.averaging(
            linear(), trainer, federated.everyone(3), server=server, mechanism=mechanism
        )

    for private in (CLIENT, dp.local_gaussian(1.0, 1.0)):
        with pytest.raises(
            ValueError, match=r"\['b'\].*give \['b'\] the role 'constant'"
        ):
            build(private)
    build(None)
    # What the task freezes, the optimizer does not see.
    frozen = linear(lambda params: {"w": "trainable", "b": "constant"})
    trainer, server = trainers(frozen, optax.sgd(1.0))[name]
    federated.averaging(
        frozen, trainer, federated.everyone(3), server=server, mechanism=CLIENT
    )


@pytest.mark.parametrize(
    "name", ["local_sgd", "proximal_sgd", "scaffold", "local_dp_sgd"]
)
def test_a_client_predicts_by_the_model_that_it_is_sent(name):
    trainer, server = trainers(TASK, optax.sgd(1.0))[name]
    params = TASK.init(KEY)
    server = federated.fedopt(optax.sgd(1.0)) if server is None else server
    learnt: Any = jax.tree.map(
        lambda role, leaf: leaf if role == "trainable" else None,
        by_name(params),
        params,
    )
    sent = server.send(params, server.init(learnt))
    predicts = trainer.model(sent, trainer.keep(params))
    jax.tree.map(np.testing.assert_array_equal, predicts, params)


def test_roles_that_make_no_sense_are_an_error(clients):
    for roles, message in [
        (lambda params: {"w": "frozen", "b": "trainable"}, r"\['w'\].*got 'frozen'"),
        (lambda params: {"w": "constant", "b": "constant"}, "no trainable leaf"),
        (lambda params: "trainable", "one role per leaf"),
    ]:
        task = linear(roles)
        with pytest.raises(ValueError, match=message):
            federated.averaging(
                task,
                federated.local_sgd(task, optax.sgd(1.0), 2, num_steps=1),
                federated.everyone(3),
            )


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)


def apply_wrongly(params: Any, x: Any, train: Any) -> Any:
    return x @ params


WRONG: Any = apply_wrongly


@pytest.mark.parametrize("wrong", ["init", "apply"])
@pytest.mark.parametrize("kind", ["averaging", "scaffold", "local_dp_sgd", "central"])
def test_what_fails_in_the_users_model_is_told_as_it_is(kind, wrong):
    if wrong == "init":
        task = models.flax_classification(Train(), (3,))
    else:
        task = models.classification(lambda key: jnp.ones((3, 2)), WRONG)
    one = optax.sgd(1.0)

    def train():
        if kind == "central":
            sampler = federated.everyone(24)
            algorithm = federated.central_sgd(task, one, sampler, mechanism=EXAMPLE)
        else:
            trainer, server = {
                "averaging": lambda: trainers(task, one)["local_sgd"],
                "scaffold": lambda: trainers(task, one)["scaffold"],
                "local_dp_sgd": lambda: trainers(task, one)["local_dp_sgd"],
            }[kind]()
            everyone = federated.everyone(4)
            algorithm = federated.averaging(task, trainer, everyone, server=server)
        return jax.eval_shape(algorithm.round, KEY, algorithm.init(KEY), CLIENTS)

    with pytest.raises(TypeError, match="'train'"):
        train()


def failing_init(params):
    raise TypeError("my optimizer is broken")


def test_what_fails_in_the_users_optimizer_is_told_as_it_is():
    broken = optax.GradientTransformation(failing_init, optax.sgd(1.0).update)
    trainer = federated.local_sgd(linear(), broken, 2, num_steps=1)
    with pytest.raises(TypeError, match=r"^my optimizer is broken\b"):
        federated.averaging(linear(), trainer, federated.everyone(3))


def test_halves_of_two_algorithms_are_told_apart():
    trainer, server = federated.scaffold(linear(), optax.sgd(1.0), 2, num_steps=1)
    for other in (
        lambda: federated.averaging(linear(), trainer, federated.everyone(3)),
        lambda: server.step({}, ((), {}), {"w": jnp.zeros(1)}, 1.0),
    ):
        with pytest.raises(ValueError, match=r"from one scaffold\(\.\.\.\)"):
            other()


def test_a_model_that_was_first_asked_for_on_a_mesh_fits_everywhere():
    mesh = federated.client_mesh(4)
    task = models.flax_classification(models.logistic(2), (3,))

    def inside(x):
        weights = federated.roles.model(task)["params"]["Dense_0"]["kernel"]
        return x * weights.shape[0]

    share = jax.sharding.PartitionSpec("clients")
    mapped = jax.shard_map(
        inside, mesh=mesh, in_specs=share, out_specs=share, check_vma=False
    )
    jax.eval_shape(mapped, jnp.ones(4))
    rows = {name: jnp.asarray(leaf) for name, leaf in CLIENTS.examples.items()}
    there = jax.device_put(rows, jax.sharding.NamedSharding(mesh, share))
    jax.eval_shape(task.evaluate, federated.roles.model(task), there)
