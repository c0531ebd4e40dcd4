"""Leaves that each client keeps: trained with the rest, and seen by nobody else."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, models
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(2)
RATE, MU, STEPS, ROUNDS = 0.1, 0.7, 2, 3
START = {"w": np.array([0.3, -0.2]), "b": 0.1}


@pytest.fixture(scope="module")
def own_bias(regression):
    """Least squares in which each client has an intercept of its own."""
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), START)
    return models.personal(regression._replace(init=lambda key: start), ["b"])


def trainers(task):
    one = optax.sgd(RATE)
    return {
        "local_sgd": (federated.local_sgd(task, one, 7, num_steps=STEPS), None),
        "proximal_sgd": (
            federated.proximal_sgd(task, one, 7, MU, num_steps=STEPS),
            None,
        ),
        "scaffold": federated.scaffold(task, one, 7, num_steps=STEPS),
    }


def by_hand(name, clients, cohorts):
    """Full-batch steps in float64: w is averaged, every b stays where it is."""
    x, y = (np.asarray(clients.examples[key], float) for key in "xy")
    offsets = np.asarray(clients.offsets)
    w, own = START["w"].copy(), np.full(5, START["b"])
    control, controls = np.zeros(2), np.zeros((5, 2))
    for members in cohorts:
        moved, changed = np.zeros(2), np.zeros(2)
        for i in members:
            rows = slice(offsets[i], offsets[i + 1])
            here, b, grads = w.copy(), own[i], np.zeros(2)
            for _ in range(STEPS):
                residual = x[rows] @ here + b - y[rows]
                grad = x[rows].T @ residual / len(residual)
                grads += grad / STEPS
                if name == "proximal_sgd":
                    grad = grad + MU * (here - w)
                if name == "scaffold":
                    grad = grad + control - controls[i]
                here, b = here - RATE * grad, b - RATE * residual.mean()
            moved, own[i] = moved + here - w, b
            changed, controls[i] = changed + grads - controls[i], grads
        w, control = w + moved / 2.5, control + changed / 5
    return w, own


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [
        ("proximal_sgd", 1),
        ("scaffold", 4),
        *(
            pytest.param(name, number, marks=pytest.mark.exhaustive)
            for name, number in [
                ("local_sgd", 1),
                ("local_sgd", 4),
                ("proximal_sgd", 4),
                ("scaffold", 1),
            ]
        ),
    ],
)
def test_rounds_by_hand(name, num_devices, own_bias, clients):
    trainer, server = trainers(own_bias)[name]
    sampler = federated.poisson(5, 0.5)
    mesh = federated.client_mesh(num_devices)
    algorithm = federated.averaging(
        own_bias, trainer, sampler, server=server, num_lanes=2, mesh=mesh
    )
    stored = clients
    if num_devices > 1:
        stored = data.shard(clients, federated.sharded_by_client(mesh))
    start = algorithm.init(KEY)
    run = jax.jit(lambda state: run_chunk(KEY, algorithm, state, stored, 0, ROUNDS))
    state, _ = run(start)
    cohorts = []
    for number in range(ROUNDS):
        key = jax.random.split(jax.random.fold_in(KEY, number), 5)[0]
        cohort, _ = sampler.sample(key, ())
        cohorts.append(np.asarray(cohort.indices)[np.asarray(cohort.weights) > 0])
    assert all(0 < len(members) < 5 for members in cohorts)
    w, own = by_hand(name, clients, cohorts)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(state.kept["b"], own, rtol=1e-5)
    # Nobody else ever sees an intercept: the server's is that of the beginning.
    np.testing.assert_array_equal(state.params["b"], start.params["b"])
    sent = 2 * 2 if name == "scaffold" else 2
    assert algorithm.cost() == base.Cost(4 * sent, 4 * sent)


def linear(rows, role):
    """Loss `row * a + 1e6 * b`; the gradient is (row, 1e6), of which b has a role."""
    return base.Task(
        init=lambda key: {"a": jnp.float32(0), "b": jnp.float32(0)},
        loss=lambda key, params, rows: rows * params["a"] + 1e6 * params["b"],
        evaluate=lambda params, rows: {"loss": rows * params["a"]},
        roles=lambda params: {"a": "trainable", "b": role},
    )


def test_neither_clip_nor_noise_nor_bytes_know_of_what_is_kept():
    rows = np.array([3, 0.25], np.float32)
    task, clients = linear(rows, "kept"), data.federate(rows, [0, 1])
    trainer = federated.local_sgd(task, optax.sgd(1.0), 1, num_steps=1)

    @jax.jit
    def after(noise):
        algorithm = federated.averaging(
            task,
            trainer,
            federated.everyone(2),
            mechanism=dp.gaussian(0.5, noise),
            num_lanes=1,
        )
        assert algorithm.cost() == base.Cost(4, 4)
        return algorithm.round(KEY, algorithm.init(KEY), clients)

    (quiet, info), (noisy, _) = (after(jnp.float32(noise)) for noise in (0, 5))
    # The norm that is told is of what is sent.
    np.testing.assert_allclose(info["update_norm"], (3 + 0.25) / 2, rtol=1e-6)
    # Clipped to 0.5 without b, whose gradient is a million.
    np.testing.assert_allclose(quiet.params["a"], -(0.5 + 0.25) / 2, rtol=1e-6)
    assert noisy.params["a"] != quiet.params["a"]
    for state in (quiet, noisy):
        np.testing.assert_array_equal(state.kept["b"], [-1e6, -1e6])
        assert state.params["b"] == 0


def test_an_optimizer_may_leave_what_is_kept_alone():
    """No noise moves it either."""
    frozen = optax.multi_transform(
        {"t": optax.sgd(1.0), "f": optax.set_to_zero()}, {"a": "t", "b": "f"}
    )
    task = linear(None, "kept")
    trainer = federated.local_sgd(task, frozen, 1, num_steps=1)
    sampler, mechanism = federated.everyone(2), dp.gaussian(1.0, 1.0)
    federated.averaging(task, trainer, sampler, mechanism=mechanism)
    turned = task._replace(roles=lambda params: {"a": "kept", "b": "trainable"})
    trainer = federated.local_sgd(turned, frozen, 1, num_steps=1)
    with pytest.raises(ValueError, match=r"never changes \['b'\]"):
        federated.averaging(turned, trainer, sampler, mechanism=mechanism)


# Rows that are held out.

HELD = np.array([0, 1, 0, 2, 1])


@pytest.fixture(scope="module")
def with_held_out(clients):
    """The five clients, whose last rows are held out, and the mask."""
    sizes = data.client_sizes(clients)
    owners = np.repeat(np.arange(5), sizes)
    mask = np.concatenate(
        [np.arange(n) >= n - held for n, held in zip(sizes, HELD, strict=True)]
    )
    # Dealt in another order, they come last all the same.
    order = np.random.default_rng(1).permutation(18)
    order = order[np.argsort(owners[order] * 20 + order, kind="stable")]
    examples = {k: np.asarray(leaf)[order] for k, leaf in clients.examples.items()}
    found = data.federate(examples, owners[order], held_out=mask[order])
    np.testing.assert_array_equal(found.held_out, HELD)
    return found, mask


def every_trainer(task, plain, clients) -> dict[str, tuple[Any, ...]]:
    """Trainers of a task that keeps leaves, and of the same without."""
    example = dp.gaussian(0.5, 0.0, privacy_unit="example")
    some = trainers(task)
    own_dp = federated.local_dp_sgd(
        plain, optax.sgd(RATE), example, 0.5, 2, 7, method="vmap"
    )
    return {
        **{name: (task, *made) for name, made in some.items()},
        "local_dp_sgd": (plain, own_dp, None),
        "example_gradients": (
            plain,
            federated.example_gradients(plain, data.people(clients), 1.0),
            None,
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "scaffold",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in (
                "local_sgd",
                "proximal_sgd",
                "local_dp_sgd",
                "example_gradients",
            )
        ),
    ],
)
def test_rows_that_are_held_out_are_never_trained(
    name, own_bias, regression, with_held_out
):
    held, mask = with_held_out
    task, trainer, server = every_trainer(own_bias, regression, held)[name]
    algorithm = federated.averaging(task, trainer, federated.everyone(5), server=server)
    run = jax.jit(lambda state, data: run_chunk(KEY, algorithm, state, data, 0, 2))

    def trained(clients):
        state, infos = run(algorithm.init(KEY), clients)
        return jax.tree.map(np.asarray, (state.params, state.kept, infos))

    found = trained(held)
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), found))
    bad = jnp.where(jnp.asarray(mask), jnp.nan, held.examples["y"])
    poisoned = held._replace(examples=held.examples | {"y": bad})
    jax.tree.map(np.testing.assert_array_equal, trained(poisoned), found)
    # As if they were not there; one client has no other row.
    kept = {k: np.asarray(leaf)[~mask] for k, leaf in held.examples.items()}
    sizes = np.diff(np.asarray(held.offsets)) - HELD
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    without = base.Clients(kept, jnp.asarray(offsets, jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, trained(without), found)


@pytest.mark.parametrize(
    ("num_devices", "batch_size"),
    [
        (4, 2),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [(1, 3), (1, 250), (4, 250)]
        ),
    ],
)
def test_a_personal_model_is_judged_by_its_clients_held_out_rows(
    own_bias, with_held_out, num_devices, batch_size
):
    held, mask = with_held_out
    trainer, server = trainers(own_bias)["scaffold"]
    algorithm = federated.averaging(
        own_bias, trainer, federated.everyone(5), server=server
    )
    biases = jnp.linspace(-1, 1, 5)
    state = algorithm.init(KEY)
    state = state._replace(kept=state.kept | {"b": biases})
    mesh = federated.client_mesh(num_devices)
    evaluate = federated.personal_evaluator(
        own_bias, trainer, server, batch_size=batch_size, mesh=mesh
    )
    sharded = data.shard(held, federated.sharded_by_client(mesh))
    x, y = (np.asarray(held.examples[key], float) for key in "xy")
    owners = np.repeat(np.arange(5), np.diff(np.asarray(held.offsets)))
    errors = (x @ START["w"] + np.asarray(biases, float)[owners] - y) ** 2
    wanted = [errors[mask & (owners == i)].mean() for i in np.flatnonzero(HELD)]
    for clients in (held, sharded):
        found = jax.jit(evaluate)(state, clients)["squared"]
        np.testing.assert_array_equal(np.isnan(found), HELD == 0)
        np.testing.assert_allclose(found[HELD > 0], wanted, rtol=1e-5)
    spread = federated.client_spread({"squared": found}, held)
    np.testing.assert_allclose(spread["client_squared"], np.mean(wanted), rtol=1e-5)
    np.testing.assert_allclose(
        spread["client_squared_weighted"], errors[mask].mean(), rtol=1e-5
    )
    np.testing.assert_allclose(spread["client_squared_std"], np.std(wanted), rtol=1e-4)
    assert spread["client_squared_worst_decile"] == pytest.approx(max(wanted), rel=1e-5)
    # A model of all is judged by the same rows.
    of_all = federated.client_evaluator(own_bias, batch_size, mesh)
    found = jax.jit(of_all)(state.params, held)["squared"]
    errors = (x @ START["w"] + START["b"] - y) ** 2
    wanted = [errors[mask & (owners == i)].mean() for i in np.flatnonzero(HELD)]
    np.testing.assert_allclose(found[HELD > 0], wanted, rtol=1e-5)


def test_without_rows_that_are_held_out_nobody_judges_a_personal_model(
    own_bias, clients
):
    trainer, _ = trainers(own_bias)["local_sgd"]
    algorithm = federated.averaging(own_bias, trainer, federated.everyone(5))
    evaluate = federated.personal_evaluator(own_bias, trainer)
    with pytest.raises(ValueError, match=r"held_out=data\.partition\.hold_out\(rng, "):
        evaluate(algorithm.init(KEY), clients)


@pytest.mark.parametrize("name", ["local_dp_sgd", "central_sgd", "example_gradients"])
def test_who_has_no_use_for_it_refuses_what_is_kept(name, own_bias, clients):
    example = dp.gaussian(0.5, 1.0, privacy_unit="example")
    build = {
        "local_dp_sgd": lambda: federated.local_dp_sgd(
            own_bias, optax.sgd(RATE), example, 0.5, 2, 7
        ),
        "central_sgd": lambda: federated.central_sgd(
            own_bias, optax.sgd(RATE), federated.everyone(18)
        ),
        "example_gradients": lambda: federated.example_gradients(
            own_bias, data.people(clients), 0.5
        ),
    }[name]
    with pytest.raises(
        ValueError, match=rf"{name}.* task keeps \['b'\]; give no leaf the role"
    ):
        build()


# BatchNorm, whose statistics a client's batches set.

MODULE = models.BatchNormMLP((4, 3), momentum=0.8)
X = np.random.default_rng(0).normal(2.0, 3.0, size=(14, 5)).astype(np.float32)
HOSPITALS = data.federate(
    {"x": X, "y": (np.arange(14) % 3).astype(np.int32)}, np.repeat([0, 1], 7)
)


def batch_norm(params, own, x):
    """Logits, and the next running statistics; not by flax."""
    hidden = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    mean = jnp.mean(hidden, axis=0)
    var = jnp.mean((hidden - mean) ** 2, axis=0)
    normal = (hidden - mean) / jnp.sqrt(var + 1e-5)
    hidden = jnp.maximum(normal * own["scale"] + own["bias"], 0)
    logits = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    moved = {
        name: 0.8 * own[name] + 0.2 * new
        for name, new in (("mean", mean), ("var", var))
    }
    return logits, moved


def fedbn_by_hand(start, num_rounds):
    """FedBN with two full-batch steps of each client per round."""
    shared = {name: start["params"][name] for name in ("Dense_0", "Dense_1")}
    first = start["params"]["BatchNorm_0"] | start["batch_stats"]["BatchNorm_0"]
    own = [first, first]

    def loss(both, x, y):
        logits, moved = batch_norm(both[0], both[1], x)
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, y)
        ), moved

    step = jax.jit(jax.grad(loss, has_aux=True))
    for _ in range(num_rounds):
        ends = []
        for i, rows in enumerate((slice(0, 7), slice(7, 14))):
            here, mine = shared, own[i]
            for _ in range(2):
                x, y = (HOSPITALS.examples[k][rows] for k in "xy")
                (grads, of_own), moved = step((here, mine), x, y)
                here = jax.tree.map(lambda p, g: p - 0.5 * g, here, grads)
                learnt = {n: mine[n] - 0.5 * of_own[n] for n in ("scale", "bias")}
                mine = learnt | moved
            ends.append(here)
            own[i] = mine
        shared = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    return shared, own


@pytest.fixture(scope="module")
def fedbn():
    """The task of FedBN, and its state after two rounds."""
    task = models.personal(models.flax_classification(MODULE, (5,)), ["BatchNorm_*"])
    trainer = federated.local_sgd(task, optax.sgd(0.5), 7, num_steps=2)
    algorithm = federated.averaging(task, trainer, federated.everyone(2), num_lanes=2)
    start = algorithm.init(KEY)
    run = jax.jit(lambda state: run_chunk(KEY, algorithm, state, HOSPITALS, 0, 2))
    return task, trainer, algorithm, start, run(start)[0]


def test_fedbn_by_hand(fedbn):
    _, _, algorithm, start, state = fedbn
    shared, own = fedbn_by_hand(start.params, 2)
    for layer, leaves in shared.items():
        for name, wanted in leaves.items():
            found = state.params["params"][layer][name]
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
    norm = (
        state.kept["params"]["BatchNorm_0"] | state.kept["batch_stats"]["BatchNorm_0"]
    )
    assert norm.keys() == {"scale", "bias", "mean", "var"}
    for i in range(2):
        for name, wanted in own[i].items():
            np.testing.assert_allclose(norm[name][i], wanted, rtol=2e-4, atol=1e-6)
    # Two hospitals differ, and the server has neither's.
    assert np.all(norm["mean"][0] != norm["mean"][1])
    for kind, leaf in (("params", "scale"), ("batch_stats", "var")):
        np.testing.assert_array_equal(state.params[kind]["BatchNorm_0"][leaf], 1)
    assert algorithm.cost() == base.Cost(4 * (24 + 15), 4 * (24 + 15))


def test_a_client_predicts_with_its_own_statistics(fedbn):
    task, trainer, _, _, state = fedbn
    whole = trainer.model(state.params, jax.tree.map(lambda leaf: leaf[1], state.kept))
    found = task.evaluate(whole, HOSPITALS.examples)["loss"]
    x, y = (np.asarray(HOSPITALS.examples[k], float) for k in "xy")
    norm = {
        name: np.asarray(leaf[1], float)
        for kind in ("params", "batch_stats")
        for name, leaf in state.kept[kind]["BatchNorm_0"].items()
    }
    first, last = (
        jax.tree.map(lambda leaf: np.asarray(leaf, float), state.params["params"][name])
        for name in ("Dense_0", "Dense_1")
    )
    hidden = x @ first["kernel"] + first["bias"]
    hidden = (hidden - norm["mean"]) / np.sqrt(norm["var"] + 1e-5)
    hidden = np.maximum(hidden * norm["scale"] + norm["bias"], 0)
    logits = hidden @ last["kernel"] + last["bias"]
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(14), y.astype(int)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def roles_of(task: Any) -> Any:
    return task.roles(task.init(KEY))


class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(x))


def test_statistics_are_kept_and_nothing_else():
    roles = roles_of(models.flax_classification(MODULE, (5,)))
    assert set(jax.tree.leaves(roles["params"])) == {"trainable"}
    assert set(jax.tree.leaves(roles["batch_stats"])) == {"kept"}
    # One that is trained as it predicts never sets its statistics.
    frozen = models.flax_classification(Frozen(), (5,))
    assert set(jax.tree.leaves(roles_of(frozen)["batch_stats"])) == {"constant"}
    assert frozen.observe is None

    def averaged(params):
        return jax.tree.map(lambda leaf: "trainable", params)

    task = models.flax_classification(MODULE, (5,), roles=averaged)
    trainer = federated.local_sgd(task, optax.sgd(0.5), 7, num_steps=2)
    algorithm = federated.averaging(task, trainer, federated.everyone(2))
    with pytest.raises(ValueError, match=r"'mean'\] is observed on .* the role 'kept'"):
        jax.eval_shape(algorithm.round, KEY, algorithm.init(KEY), HOSPITALS)


# Names.


class Named(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        table = self.variable("tables", "shift", lambda: jnp.ones(()))
        x = nn.Dense(4, name="body")(x + table.value)
        return nn.Dense(2, name="head")(x)


NAMED = models.flax_classification(Named(), (3,))


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["head"], {"params/head/kernel", "params/head/bias"}),
        (["head/bias"], {"params/head/bias"}),
        (["h*", "body/bias"], {"params/head/kernel", "params/head/bias",
                               "params/body/bias"}),
        (["bias"], {"params/head/bias", "params/body/bias"}),
    ],
)  # fmt: skip
def test_names_choose_leaves(names, kept):
    task = models.personal(NAMED, names)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): role
        for path, role in jax.tree_util.tree_leaves_with_path(roles_of(task))
    }
    assert {path for path, role in found.items() if role == "kept"} == kept
    assert found["tables/shift"] == "constant"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["haed"],
            r"no leaf is called 'haed'; did you mean 'head'\? There are: .*body",
        ),
        (["head/biass"], "no leaf is called 'head/biass'"),
        (["Dense_0"], "no leaf is called 'Dense_0'"),
        (["tables"], "'tables' names tables/shift, which nobody trains"),
        (["*"], "which nobody trains"),
        (["head", "body"], r"\('head', 'body'\) leaves nothing to share"),
        ([], "kept is empty; name a layer"),
        ("head", "kept must be a sequence .* got 'head'"),
    ],
)
def test_bad_names_are_told(names, message):
    with pytest.raises(ValueError, match=message):
        models.personal(NAMED, names)
