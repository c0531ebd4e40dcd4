"""The federated round: hand-computed rounds, closed forms, privacy, secure sums."""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ppml_lab import base, dp, federated, smpc
from ppml_lab.dp import events

INF = float("inf")
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def run(regression, clients):
    """One FedSGD round (full batch, rate 0.1), compiled once per kind of round and
    traced in clip norm, noise and data: `run(params, clients=, clip_norm=, ...)`.
    """
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    samplers = {
        "everyone": federated.everyone(5),
        "half": federated.poisson(5, 0.5),
        "rarely": federated.poisson(5, 1e-6),
    }
    sums = {
        "clear": smpc.clear(),
        "stochastic": smpc.additive_sharing(3, 5, 8.0),
        "nearest": smpc.additive_sharing(3, 5, 8.0, rounding="nearest"),
    }

    @functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
    def compiled(
        sampler, aggregator, private, num_lanes, num_devices, numbers, key, params, data
    ):
        algorithm = federated.averaging(
            regression,
            trainer,
            samplers[sampler],
            mechanism=dp.gaussian(*numbers) if private else None,
            aggregator=sums[aggregator],
            num_lanes=num_lanes,
            mesh=num_devices and federated.client_mesh(num_devices),
        )
        state = algorithm.init(key)._replace(params=params)
        return algorithm.round(key, state, data)

    def one(
        params, clients=clients, key=KEY, sampler="everyone", aggregator="clear",
        clip_norm=None, noise_multiplier=0.0, num_lanes=1, num_devices=None,
    ):  # fmt: skip
        private = clip_norm is not None
        numbers = (jnp.float32(clip_norm or 1), jnp.float32(noise_multiplier))
        state, info = compiled(
            sampler, aggregator, private, num_lanes, num_devices, numbers, key, params,
            clients,
        )  # fmt: skip
        assert int(state.rounds_done) == 1
        return flat(state.params), info

    return one


START = {"w": jnp.array([0.3, -0.2]), "b": jnp.float32(0.1)}


def flat(params):
    return np.concatenate([np.asarray(params["w"]), np.asarray(params["b"])[None]])


def client_updates(clients, params, clip_norm=INF):
    """What the five clients send: one full-batch step at rate 0.1, clipped."""
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    inputs = np.column_stack([x, np.ones(len(x))])
    grads = (inputs @ flat(params) - y)[:, None] * inputs
    parts = np.split(grads, np.asarray(clients.offsets)[1:-1])
    updates = np.array([-0.1 * part.mean(0) for part in parts])
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return updates * np.minimum(1, clip_norm / norms)


def in_cohort(sampler, key):
    """Who takes part in the round of `key`."""
    cohort, _ = sampler.sample(jax.random.split(key, 4)[0], ())
    return np.asarray(cohort.indices)[np.asarray(cohort.weights) > 0]


def test_a_round_runs_without_jit_as_with_it(regression, clients):
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 3, num_epochs=1)
    algorithm = federated.averaging(regression, trainer, federated.everyone(5))
    state = algorithm.init(KEY)
    eager, _ = algorithm.round(KEY, state, clients)
    compiled, _ = jax.jit(algorithm.round)(KEY, state, clients)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6),
        eager.params,
        compiled.params,
    )


def test_the_mean_of_one_step_each_is_fedsgd(run, clients):
    params, info = run(START)
    updates = client_updates(clients, START)
    np.testing.assert_allclose(params, flat(START) + updates.mean(0), rtol=1e-5)
    assert info["cohort_size"] == info["num_reports"] == 5


def test_one_client_is_gradient_descent(regression, clients):
    alone = clients._replace(offsets=jnp.array([0, 18], jnp.int32))
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 18, num_steps=1)
    algorithm = federated.averaging(regression, trainer, federated.everyone(1))
    state = algorithm.init(KEY)._replace(params=START)
    one_round = jax.jit(algorithm.round)
    params = flat(START)
    x, y = (np.asarray(clients.examples[name], float) for name in "xy")
    inputs = np.column_stack([x, np.ones(18)])
    for number in range(3):
        state, _ = one_round(jax.random.key(number), state, alone)
        params = params - 0.1 * inputs.T @ (inputs @ params - y) / 18
    np.testing.assert_allclose(flat(state.params), params, rtol=1e-5)


def test_norms_before_clipping_and_the_share_clipped_are_told(run, clients):
    """The researcher's look, by which a clip norm is chosen."""
    norms = np.linalg.norm(client_updates(clients, START), axis=1)
    for clip_norm in (0.9 * norms.min(), np.median(norms) * 1.01, 1.1 * norms.max()):
        _, info = run(START, clip_norm=clip_norm)
        np.testing.assert_allclose(info["update_norm"], norms.mean(), rtol=1e-5)
        np.testing.assert_allclose(info["clipped_share"], np.mean(norms > clip_norm))
    assert "clipped_share" not in run(START)[1]
    # Whom clipping drops for not being finite counts as clipped.
    first = clients.examples["x"].at[0].set(jnp.nan)
    broken = clients._replace(examples=clients.examples | {"x": first})
    params, info = run(START, clip_norm=1.1 * norms.max(), clients=broken)
    np.testing.assert_allclose(info["clipped_share"], 1 / 5)
    assert np.isfinite(params).all()


def test_the_share_clipped_is_that_of_those_who_report(run, clients):
    norms = np.linalg.norm(client_updates(clients, START), axis=1)
    clip_norm, shares = float(np.median(norms)) * 1.01, set()
    for number in range(5):
        key = jax.random.key(number)
        _, info = run(START, key=key, sampler="half", clip_norm=clip_norm)
        here = norms[in_cohort(federated.poisson(5, 0.5), key)]
        shares.add(float(info["clipped_share"]))
        np.testing.assert_allclose(info["clipped_share"], np.mean(here > clip_norm))
        np.testing.assert_allclose(info["update_norm"], np.mean(here), rtol=1e-5)
    assert len(shares) > 1


def test_adaptive_clipping_counts_on_those_who_are_expected_to_report(regression):
    """Told the whole cohort of 12 at drop-outs of 0.3, its clip norm would grow for
    ever.
    """
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    sampler = federated.poisson(60, 0.2)

    def build(contributions, dropout_prob):
        return federated.averaging(
            regression,
            trainer,
            sampler,
            mechanism=dp.adaptive_gaussian(0.1, 1.0, contributions),
            dropout_prob=dropout_prob,
        )

    told = r"expected_contributions 12, but 8\.4 .*cohort 12, dropout_prob 0\.3"
    with pytest.raises(ValueError, match=told):
        build(12.0, 0.3)
    with pytest.raises(ValueError, match=r"expected_contributions 8\.4, but 12 "):
        build(8.4, 0.0)
    build(8.4, 0.3)
    build(12.0, 0.0)


# Two clients with examples {1, 3} and {5}, loss (w - x)^2 / 2, w = 0, two full-batch
# steps at rate 1/2: w goes 0 -> 1 -> 1.5 and 0 -> 2.5 -> 3.75. A clip at 2 leaves 1.5
# and 2.
@pytest.mark.parametrize(
    ("weighting", "mechanism", "expected"),
    [
        pytest.param("uniform", None, (1.5 + 3.75) / 2, marks=pytest.mark.exhaustive),
        ("examples", None, (2 * 1.5 + 1 * 3.75) / 3),
        ("realised", None, (1.5 + 3.75) / 2),
        ("uniform", dp.gaussian(2.0, 0.0), (1.5 + 2) / 2),
    ],
)
def test_a_round_of_two_clients_by_hand(weighting, mechanism, expected):
    task = base.Task(
        init=lambda key: jnp.zeros(1),
        loss=lambda key, params, examples: 0.5 * (params - examples) ** 2,
        evaluate=lambda params, examples: {},
    )
    clients = base.Clients(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 2, 3], jnp.int32))
    algorithm = federated.averaging(
        task,
        federated.local_sgd(task, optax.sgd(0.5), 2, num_epochs=2),
        federated.everyone(2),
        mechanism=mechanism,
        weighting=weighting,
    )
    state, info = jax.jit(algorithm.round)(KEY, algorithm.init(KEY), clients)
    np.testing.assert_array_equal(state.params, [expected])
    # Losses of client one: (1 + 9) / 4, then (0 + 4) / 4; of the other 12.5, 3.125.
    # Weighed as the updates are: the mean is that of the objective.
    shares = (2 / 3, 1 / 3) if weighting == "examples" else (0.5, 0.5)
    np.testing.assert_allclose(
        info["train_loss"], shares[0] * 1.75 + shares[1] * 7.8125, rtol=1e-6
    )
    if mechanism is not None:
        np.testing.assert_array_equal(info["update_norm"], (1.5 + 3.75) / 2)


@pytest.mark.parametrize(
    "sampler", ["everyone", pytest.param("half", marks=pytest.mark.exhaustive)]
)
def test_without_clip_and_noise_a_private_round_is_fedavg_bit_by_bit(run, sampler):
    plain, _ = run(START, sampler=sampler)
    private, _ = run(START, sampler=sampler, clip_norm=INF)
    np.testing.assert_array_equal(private, plain)


def test_each_update_is_clipped_before_the_sum(run, clients):
    params, _ = run(START, clip_norm=0.05)
    updates = client_updates(clients, START, clip_norm=0.05)
    assert np.linalg.norm(client_updates(clients, START), axis=1).max() > 0.05
    np.testing.assert_allclose(params, flat(START) + updates.mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("aggregator", "steps"),
    [
        ("stochastic", 1),
        pytest.param("nearest", 0.5, marks=pytest.mark.exhaustive),
    ],
)
def test_a_secure_sum_is_the_clear_sum_up_to_rounding(run, aggregator, steps):
    clear, _ = run(START)
    secure, _ = run(START, aggregator=aggregator)
    difference = np.abs(secure - clear).max()
    # Five clients, each within `steps` / 2^16, divided by five.
    assert 0 < difference <= steps / 2**16 + 1e-7


def test_the_mean_divides_by_the_expected_cohort(run, clients):
    sampler = federated.poisson(5, 0.5)
    keys = [jax.random.key(number) for number in range(6)]
    sizes = set()
    for key in keys:
        members = in_cohort(sampler, key)
        sizes.add(len(members))
        params, info = run(START, key=key, sampler="half")
        update = client_updates(clients, START)[members].sum(0) / 2.5
        np.testing.assert_allclose(params, flat(START) + update, rtol=2e-5)
        assert info["cohort_size"] == len(members)
    assert len(sizes) > 2


@pytest.mark.exhaustive
def test_an_empty_cohort_changes_nothing_without_privacy(run):
    assert len(in_cohort(federated.poisson(5, 1e-6), KEY)) == 0
    params, info = run(START, sampler="rarely")
    np.testing.assert_array_equal(params, flat(START))
    # No value, which is not 0, the best of all losses.
    assert np.isnan(info["train_loss"])
    assert (info["cohort_size"], info["num_reports"]) == (0, 0)


@pytest.mark.exhaustive
def test_an_empty_cohort_leaves_the_model_under_weights_by_examples(
    regression, clients
):
    algorithm = federated.averaging(
        regression,
        federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1),
        federated.poisson(5, 1e-6),
        weighting="examples",
    )
    state = algorithm.init(KEY)._replace(params=START)
    state, _ = jax.jit(algorithm.round)(KEY, state, clients)
    np.testing.assert_array_equal(flat(state.params), flat(START))


@pytest.mark.parametrize("sampler", ["everyone", "rarely"])
def test_noise_of_the_stated_scale_whether_or_not_anybody_takes_part(run, sampler):
    expected_cohort = {"everyone": 5, "rarely": 5e-6}[sampler]
    centre, _ = run(START, sampler=sampler, clip_norm=0.05)
    noise = np.concatenate(
        [
            run(START, key=jax.random.key(number), sampler=sampler, clip_norm=0.05,
                noise_multiplier=1.4)[0] - centre
            for number in range(400)
        ]
    )  # fmt: skip
    stddev = 1.4 * 0.05 / expected_cohort
    assert scipy.stats.kstest(noise / stddev, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert scipy.stats.kstest(noise / stddev / wrong, "norm").pvalue < 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_poisoned_client_contributes_exactly_zero(run, clients, bad):
    zeros = {"w": jnp.zeros(2), "b": jnp.float32(0)}
    x, y = (np.array(clients.examples[name]) for name in "xy")
    y[9:16] = 0  # at zero parameters, client 3 has no gradient at all
    silent = clients._replace(examples={"x": jnp.asarray(x), "y": jnp.asarray(y)})
    y[10] = bad
    poisoned = clients._replace(examples={"x": jnp.asarray(x), "y": jnp.asarray(y)})
    numbers = {"clip_norm": 0.05, "noise_multiplier": 0.7}
    expected, _ = run(zeros, silent, **numbers)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(run(zeros, poisoned, **numbers)[0], expected)


@pytest.mark.parametrize(
    ("server", "reference"),
    [
        (optax.sgd(0.5, momentum=0.9), "momentum"),
        (optax.adam(0.1, b2=0.99, eps=1e-3), "adam"),
    ],
)
def test_server_optimizers_step_on_the_mean_update(
    run, regression, clients, server, reference
):
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    # optax's Adam mixes an int count with its decay.
    with jax.numpy_dtype_promotion("standard"):
        algorithm = federated.averaging(
            regression, trainer, federated.everyone(5), server=federated.fedopt(server)
        )
        state = algorithm.init(KEY)._replace(params=START)
        one_round = jax.jit(algorithm.round).lower(KEY, state, clients).compile()
    params, first, second = flat(START).astype(float), 0.0, 0.0
    for number in range(1, 4):
        state, _ = one_round(KEY, state, clients)
        mean = client_updates(clients, {"w": params[:2], "b": params[2]}).mean(0)
        if reference == "momentum":
            first = 0.9 * first + mean
            params = params + 0.5 * first
        else:
            first, second = 0.9 * first + 0.1 * mean, 0.99 * second + 0.01 * mean**2
            root = np.sqrt(second / (1 - 0.99**number))
            params = params + 0.1 * first / (1 - 0.9**number) / (root + 1e-3)
        np.testing.assert_allclose(flat(state.params), params, rtol=1e-4)


@pytest.mark.exhaustive
def test_a_round_with_more_lanes_is_the_same_round(run):
    one, info = run(START, sampler="half", aggregator="clear", clip_norm=INF)
    many, same = run(
        START, sampler="half", aggregator="clear", clip_norm=INF, num_lanes=3
    )
    np.testing.assert_allclose(many, one, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), same, info)


@pytest.mark.parametrize(
    ("num_lanes", "num_devices"),
    [
        (32, 4),
        pytest.param(4, None, marks=pytest.mark.exhaustive),
        pytest.param(1, 4, marks=pytest.mark.exhaustive),
    ],
)
def test_lanes_and_devices_change_no_bit_of_a_secure_round(run, num_lanes, num_devices):
    round_of = functools.partial(
        run, START, sampler="half", aggregator="stochastic", clip_norm=0.05,
        noise_multiplier=0.7,
    )  # fmt: skip
    first, info = round_of()
    params, same = round_of(num_lanes=num_lanes, num_devices=num_devices)
    np.testing.assert_array_equal(params, first)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), same, info)


def test_every_part_of_a_round_has_a_key_of_its_own(regression, clients):
    seen = {}

    def spied(name, parts):
        function = getattr(parts, name)

        def record(words):
            seen.setdefault(name, set()).add(tuple(words.tolist()))

        def spy(key, *rest):
            jax.debug.callback(record, jax.random.key_data(key))
            return function(key, *rest)

        return parts._replace(**{name: spy})

    algorithm = federated.averaging(
        regression,
        spied("step", federated.local_sgd(regression, optax.sgd(0.1), 3, num_steps=2)),
        spied("sample", federated.everyone(5)),
        mechanism=spied("privatize", spied("clip", dp.gaussian(0.5, 1.0))),
        aggregator=spied("begin", spied("encode", smpc.clear())),
        num_lanes=1,
    )
    one_round, start = jax.jit(algorithm.round), algorithm.init(KEY)
    for number in (1, 2):
        jax.block_until_ready(one_round(jax.random.key(number), start, clients))
        jax.effects_barrier()
        # A client has one key for all its steps; what masks a sum is new in each round.
        counts = {"begin": 1, "sample": 1, "step": 5, "clip": 5, "encode": 5}
        counts |= {"privatize": 1}
        assert {name: len(keys) for name, keys in seen.items()} == {
            name: number * count for name, count in counts.items()
        }
        assert len(set.union(*seen.values())) == number * 18


def test_events_compose_over_rounds(regression):
    event, sampler = dp_accounting.GaussianDpEvent(1.3), federated.poisson(5, 0.5)
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    central = federated.averaging(
        regression, trainer, sampler, mechanism=dp.gaussian(1.0, 1.3)
    )
    nine = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.5, event), 9
    )
    assert central.event(9) == base.PrivacyEvent(
        events.on_coordinates(nine, 3),
        "add_or_remove_one",
        "client",
        5,
    )
    local = federated.averaging(
        regression, trainer, sampler, mechanism=dp.local_gaussian(1.0, 2.6)
    )
    # Half the rounds are a client's own, and everybody sees which.
    taken = events.participating(0.5, event)
    nine = dp_accounting.SelfComposedDpEvent(taken, 9)
    assert local.event(9) == base.PrivacyEvent(
        events.on_coordinates(nine, 3), "replace_one", "client", 5
    )
    example = dp.gaussian(1.0, 1.3, privacy_unit="example")
    private = federated.local_dp_sgd(regression, optax.sgd(0.1), example, 1.0, 4, 7)
    inherited = federated.averaging(regression, private, sampler).event(9)
    assert inherited.privacy_unit == "example"
    steps = events.on_coordinates(dp_accounting.SelfComposedDpEvent(event, 4), 3)
    assert inherited.event == dp_accounting.SelfComposedDpEvent(
        events.participating(0.5, steps), 9
    )
    # Both promises stand where both act.
    both = federated.averaging(
        regression, private, sampler, mechanism=dp.gaussian(1.0, 1.3)
    )
    assert both.event(9) == central.event(9)._replace(beside=(inherited,))
    plain = federated.averaging(regression, trainer, sampler)
    assert plain.event(9).privacy_unit is None
    assert plain.cost() == base.Cost(12, 12)


@pytest.fixture
def build(regression):
    """`build(population=, trainer=, **parts)`: averaging of FedSGD's clients."""
    local = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)

    def averaging(population=5, trainer=local, **parts):
        return federated.averaging(
            regression, trainer, federated.everyone(population), **parts
        )

    return averaging


def test_what_does_not_go_together_is_an_error(build, clients):
    for mechanism in (dp.gaussian(1.0, 1.0), dp.local_gaussian(1.0, 1.0)):
        with pytest.raises(ValueError, match="weighting='uniform'"):
            build(mechanism=mechanism, weighting="examples")
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        build(weighting="unifrom")
    for num_lanes in (0, -1):
        with pytest.raises(ValueError, match="num_lanes must be an integer of at"):
            build(num_lanes=num_lanes)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match=r"mesh has axes \('data',\).*'clients'"):
        build(mesh=mesh)
    algorithm = build(population=4)
    with pytest.raises(ValueError, match="4 clients, but the data set has 5"):
        algorithm.round(KEY, algorithm.init(KEY), clients)


def test_a_state_of_another_population_is_an_error(build, regression, clients):
    trainer, server = federated.scaffold(regression, optax.sgd(0.1), 7, num_steps=1)
    smaller, algorithm = (
        build(population, trainer, server=server) for population in (4, 5)
    )
    with pytest.raises(ValueError, match="for 4 clients, but the data set has 5"):
        algorithm.round(KEY, smaller.init(KEY), clients)


def test_a_trainer_that_does_not_understand_the_server_is_an_error(build, regression):
    trainer, _ = federated.scaffold(regression, optax.sgd(0.1), 7, num_steps=1)
    with pytest.raises(ValueError, match="trainer"):
        build(trainer=trainer)


def test_a_server_that_the_trainer_does_not_understand_is_an_error(build, regression):
    _, server = federated.scaffold(regression, optax.sgd(0.1), 7, num_steps=1)
    with pytest.raises(ValueError, match="server does not send the task's model"):
        build(server=server)


LONGER = {"w": jnp.zeros(3), "b": jnp.float32(0)}


def test_a_server_that_changes_the_models_shape_is_an_error(build):
    server = federated.fedopt(optax.sgd(1.0))
    for after, message in [
        (lambda params, memory: (LONGER, memory), r"float32\[2\] to float32\[3\]"),
        (lambda params, memory: (params["w"], memory), "the server's step changes"),
        (lambda params, memory: (params, params), "the server's step changes"),
    ]:
        changing = server._replace(
            step=lambda params, memory, mean, share, after=after: after(params, memory)
        )
        with pytest.raises(ValueError, match=message):
            build(server=changing)


def test_a_trainer_whose_update_has_another_shape_is_an_error(build, regression):
    local = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    with pytest.raises(ValueError, match="the mean update does not match the model"):
        build(trainer=local._replace(finish=lambda sent, state: (LONGER, (), {})))


def test_a_trainer_that_keeps_something_else_is_an_error(build, regression):
    trainer, server = federated.scaffold(regression, optax.sgd(0.1), 7, num_steps=1)

    def finish(sent, state):
        update, _, info = trainer.finish(sent, state)
        return update, LONGER, info

    with pytest.raises(ValueError, match=r"kept: \['w'\] from float32\[2\] to"):
        build(trainer=trainer._replace(finish=finish), server=server)


@pytest.mark.parametrize("num_lanes", [1, 3])
def test_a_step_that_changes_its_states_shape_is_an_error(
    build, regression, clients, num_lanes
):
    local = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)

    def step(key, sent, state, client, step_number):
        return state._replace(params=LONGER)

    algorithm = build(trainer=local._replace(step=step), num_lanes=num_lanes)
    # Known only with data, so in the first round; it says which leaf it was.
    with pytest.raises((TypeError, ValueError), match=r"params\['w'\]"):
        algorithm.round(KEY, algorithm.init(KEY), clients)


def test_a_mechanism_for_examples_is_refused(regression):
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 7, num_steps=1)
    mechanism = dp.gaussian(1.0, 1.0, privacy_unit="example")
    with pytest.raises(ValueError, match="protects clients, not 'example'"):
        federated.averaging(
            regression, trainer, federated.everyone(5), mechanism=mechanism
        )
