"""Everything the lab builds keeps the contract of its protocol in `base`."""

import ast
import functools
import inspect
import itertools
import re

import dp_accounting
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, models, pairs, smpc
from ppml_lab.dp import clipping, events, mechanisms


def fresh():
    """A key object of its own: jax marks the one that a call has used."""
    return jax.random.key(11)


UPDATE = {"w": jnp.array([0.25, -0.5]), "b": jnp.float32(1.5)}
SGD = optax.sgd(0.1)

SAMPLERS = {
    "everyone": federated.everyone(5),
    "fixed_size": federated.fixed_size(5, 2),
    "min_separation": federated.min_separation(5, 2),
    "poisson": federated.poisson(5, 0.6),
}
MECHANISMS = {
    "no_privacy": dp.no_privacy(),
    "gaussian": dp.gaussian(0.5, 1.0),
    "per_layer": dp.gaussian(0.5, 1.0, rule="per_layer"),
    "normalised": dp.gaussian(0.5, 1.0, rule="normalised"),
    "adaptive_gaussian": dp.adaptive_gaussian(0.5, 1.0, 3.0),
    "additive": dp.additive(
        clipping.flat(0.5),
        lambda key, like, sensitivity: mechanisms.gaussian_noise(
            key, like, 1.0, sensitivity
        ),
        lambda change: events.gaussian(1 / change),
        norm_bound=0.5,
    ),
    "scheduled_gaussian": dp.scheduled_gaussian(
        0.5, optax.linear_schedule(1.0, 0.5, 10)
    ),
    "live": dp.live(dp.adaptive_gaussian(0.5, 1.0, 3.0), SAMPLERS["poisson"], 1e-2),
    "correlated_gaussian": dp.correlated_gaussian(0.5, 1.0, (0.5, 0.125)),
    "local_gaussian": dp.local_gaussian(0.5, 1.0),
    "local_laplace": dp.local_laplace(0.5, 1.0),
    "randomised_response": dp.randomised_response(0.5, 1.0),
}
AGGREGATORS = {
    "clear": smpc.clear(),
    "additive_sharing": smpc.additive_sharing(3, 5, 8.0),
    "summing": smpc.summing(
        encode=lambda key, session, place, update: update,
        decode=lambda session, total: (total, True),
        cost=lambda dimension: base.Cost(4 * dimension, 4 * dimension),
    ),
    "identity": smpc.additive_sharing(3, 5, 8.0, mode="identity"),
    "pairwise_masking": smpc.pairwise_masking(smpc.graphs.complete(5, 2), 8.0),
    "light_secagg": smpc.light_secagg(smpc.lightsecagg.Code(5, 2, 1), 8.0),
    "coordinate_median": federated.coordinate_median(),
    "trimmed_mean": federated.trimmed_mean(1),
    "estimating": federated.estimating(
        lambda messages, heard: jax.tree.map(
            lambda leaf: leaf[jnp.argmax(heard)], messages
        )
    ),
}
SAME_SUM = ("identity", "summing", "trimmed_mean", "estimating")
"""Aggregators made of another's functions."""
# One protocol with every mechanism; the others, which take longer to compile, with
# two. Masks do not go with central noise under these samplers' neighbours.
COMBINATIONS = [
    *itertools.product(
        [name for name in MECHANISMS if name != "correlated_gaussian"],
        ("clear", "additive_sharing"),
    ),
    *itertools.product(("no_privacy", "gaussian"), ("identity",)),
    *itertools.product(
        ("no_privacy", "local_gaussian"), ("pairwise_masking", "light_secagg")
    ),
]
ROUNDS = [
    (name, *combination)
    for name in ("local_sgd", "proximal_sgd", "scaffold")
    for combination in COMBINATIONS
] + [
    # Rules that no central noise protects, and clients whose messages none fills.
    ("local_sgd", "local_gaussian", "coordinate_median"),
    ("top_k", "gaussian", "clear"),
]
SERVERS = {"fedopt": federated.fedopt(SGD)}
TRAINERS = {
    "local_sgd": lambda task: federated.local_sgd(task, SGD, 3, num_epochs=1),
    "proximal_sgd": lambda task: federated.proximal_sgd(
        task, SGD, 3, 0.5, num_epochs=1
    ),
    "local_dp_sgd": lambda task: federated.local_dp_sgd(
        task,
        SGD,
        dp.gaussian(0.5, 1.0, privacy_unit="example"),
        0.5,
        2,
        7,
        method="vmap",
    ),
    "top_k": lambda task: federated.top_k(
        task, TRAINERS["local_sgd"](task), num_sent=2
    ),
    "lying": lambda task: federated.lying(
        TRAINERS["local_sgd"](task), [3], lambda update: jax.tree.map(jnp.sin, update)
    ),
    "sign_flipping": lambda task: federated.sign_flipping(
        TRAINERS["local_sgd"](task), [3, 0]
    ),
    "example_gradients": lambda task: federated.example_gradients(
        task, data.People(18, 5, 7, 7, 1), 0.5, method="vmap"
    ),
}
PAIRS = {"scaffold": lambda task: federated.scaffold(task, SGD, 3, num_epochs=1)}
"""A trainer and the server that understands it."""
TASKS = {
    "classification": lambda: models.classification(
        lambda key: jnp.zeros((2, 3)), lambda params, x: x @ params
    ),
    "flax_classification": lambda: models.flax_classification(models.logistic(3), (2,)),
    "personal": lambda: models.personal(
        models.flax_classification(models.BatchNormMLP((4, 3)), (2,)), ["BatchNorm_0"]
    ),
    "regression": lambda: models.regression(
        lambda key: jnp.ones(2), lambda params, x: x @ params, loss="huber"
    ),
    "flax_regression": lambda: models.flax_regression(models.MLP((3, 1)), (2,)),
    "sequence": lambda: models.sequence(
        lambda key: jnp.eye(3), lambda params, x: params[x]
    ),
    "flax_sequence": lambda: models.flax_sequence(nn.Embed(3, 3), 4),
    "survival": lambda: models.survival(
        lambda key: jnp.ones((2, 2)), lambda params, x: x @ params, (1.0, 2.0)
    ),
    "flax_survival": lambda: models.flax_survival(models.MLP((3, 1)), (2,), (1.5,)),
    "factorisation": lambda: models.factorisation(3, 2),
}
FEATURES = np.array([[0.5, -1], [2, 0], [1, 1]], np.float32)
TOKENS = np.array([[0, 1, 2, 2], [1, 1, 0, 2], [2, 0, 0, 1]])
LABELS = {
    "regression": {"x": FEATURES, "y": np.array([0.5, -0.5, 3], np.float32)},
    "sequence": {"x": TOKENS, "y": 2 - TOKENS, "weights": TOKENS > 0},
    "survival": {
        "x": FEATURES,
        "y": {
            "time": np.array([0.5, 1.6, 3], np.float32),
            "event": np.array([1, 0, 1]),
        },
    },
    "factorisation": {
        "item": np.arange(3),
        "rating": np.array([1, 5, 3], np.float32),
    },
}
"""Rows of tasks by the last word of their names; of others classes."""
ALGORITHMS = {
    "averaging": lambda task, trainer, **parts: federated.averaging(
        task,
        trainer,
        SAMPLERS["everyone" if trainer.contributions else "poisson"],
        **parts,
    ),
    "central_sgd": lambda task, trainer, **parts: federated.central_sgd(
        task, SGD, federated.poisson(18, 0.5), method="vmap", **parts
    ),
}


@functools.cache
def stated():
    """By type and field, the arguments that `base` states: None for data."""
    source, found = inspect.getsource(base), {}
    for kind in ast.parse(source).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        for node, below in itertools.pairwise([*kind.body, None]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                said = ast.get_source_segment(source, below) if below else ""
                match = re.match(r'"""`\(([^)]*)\)`', said or "")
                names = match[1].split(", ") if match and match[1] else []
                arguments = [name.split("=")[0] for name in names]
                found[kind.name, node.target.id] = arguments if match else None
    return found


def check_signatures(built):
    """Every function has the arguments that its field states, by name and in order."""
    for name, value in built._asdict().items():
        wanted = stated()[type(built).__name__, name]
        if value is None:
            continue
        if wanted is None:
            assert not callable(value), f"{name} is data"
            continue
        assert [*inspect.signature(value).parameters] == wanted, name


def test_every_function_of_the_types_states_its_arguments():
    functions = {
        (kind.__name__, name)
        for kind in vars(base).values()
        if inspect.isclass(kind) and issubclass(kind, tuple)
        for name, hint in kind.__annotations__.items()
        if re.search("Callable|TaskInit|TaskLoss", str(hint))
    }
    assert functions == {
        field for field, names in stated().items() if names is not None
    }
    assert len(functions) > 30


@pytest.mark.parametrize("table", [SAMPLERS, MECHANISMS, AGGREGATORS, SERVERS])
def test_arguments_are_those_of_the_protocol(table):
    for built in table.values():
        check_signatures(built)


def test_arguments_of_what_is_built_from_a_task(regression):
    check_signatures(regression)
    for make in TASKS.values():
        check_signatures(make())
    for make in TRAINERS.values():
        trainer = make(regression)
        check_signatures(trainer)
        for algorithm in ALGORITHMS.values():
            check_signatures(algorithm(regression, trainer))
    for make in PAIRS.values():
        for built in make(regression):
            check_signatures(built)


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("name", TASKS)
def test_tasks(name):
    """An example is judged alone as it is among others."""
    task = TASKS[name]()
    classes = {"x": FEATURES, "y": np.array([0, 2, 1])}
    rows = jax.tree.map(jnp.asarray, LABELS.get(name.split("_")[-1], classes))

    def judged(key, params, rows):
        weights = () if task.weigh is None else task.weigh(rows)
        return task.loss(key, params, rows), task.evaluate(params, rows), weights

    def alone(key, params, row):
        one = judged(key, params, jax.tree.map(lambda leaf: leaf[None], row))
        return jax.tree.map(lambda leaf: leaf[0], one)

    @jax.jit
    def both(init_key, key):
        params = task.init(init_key)
        each = jax.vmap(alone, in_axes=(None, None, 0))(key, params, rows)
        part = federated.roles.trained(task, params)
        loss = federated.roles.loss_of_part(task, params)
        grads = jax.grad(lambda part: jnp.sum(loss(key, part, rows)))(part)
        return judged(key, params, rows), each, grads

    together, each, grads = both(fresh(), jax.random.key(12))
    losses, metrics, _ = together
    for leaf in jax.tree.leaves(together):
        assert (leaf.shape, leaf.dtype) == ((3,), jnp.float32)
        assert np.isfinite(leaf).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    if task.observe is None:  # which trains by what a batch has in common
        np.testing.assert_array_equal(losses, metrics["loss"])
        np.testing.assert_allclose(each[0], losses, rtol=1e-5, atol=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (each[1:], together[1:])), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_every_builder_is_in_these_tables():
    tables = {
        "base.Task": TASKS,
        "base.ClientTrainer": TRAINERS,
        "base.Server": SERVERS,
        "tuple[base.ClientTrainer, base.Server]": PAIRS,
        "base.ClientSampler": SAMPLERS,
        "base.PrivacyMechanism": MECHANISMS,
        "base.SecureAggregator": AGGREGATORS,
        "base.FederatedAlgorithm": ALGORITHMS,
    }
    for module in (dp, smpc, federated, models):
        for name in module.__all__:
            builder = getattr(module, name)
            if inspect.isfunction(builder):
                kind = builder.__annotations__.get("return")
                assert kind not in tables or name in tables[kind], (
                    f"{name} builds a {kind}"
                )


def same_shapes(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def stacked(count):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), UPDATE)


@pytest.fixture
def no_key_twice():
    """No key may be used twice, nowhere in a round either."""
    with jax.debug_key_reuse(True):
        yield


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name):
    sampler = SAMPLERS[name]
    state = sampler.init(fresh())
    cohort, after = jax.jit(sampler.sample)(fresh(), state)
    same_shapes(after, state)
    assert cohort.indices.shape == cohort.weights.shape == (sampler.max_cohort,)
    keys = jax.random.split(fresh(), 3)
    many, _ = jax.vmap(sampler.sample, in_axes=(0, None))(keys, state)
    same_shapes(jax.tree.map(lambda leaf: leaf[0], many), cohort)
    assert sampler.population == 5
    assert 0 < sampler.expected_cohort <= sampler.max_cohort <= 5
    amplified = sampler.amplify(dp_accounting.GaussianDpEvent(1.0))
    assert isinstance(amplified, dp_accounting.DpEvent)
    assert sampler.neighboring_relation in base.RELATIONS
    pattern = sampler.participation(7)
    # Of 5 members in turn 2 at a time one comes again 2 rounds later, in 7 rounds 3
    # times; who is drawn anew may come every time.
    most = (2, 3) if name == "min_separation" else (1, 7)
    assert (pattern.min_separation, pattern.max_participations) == most
    assert pattern.unit == "member"
    if pattern.sampling_prob is not None:
        assert pattern.sampling_prob * 5 == sampler.expected_cohort


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanisms(name):
    mechanism = MECHANISMS[name]
    state = mechanism.init(fresh(), UPDATE)
    message = jax.jit(mechanism.clip)(fresh(), state, UPDATE)
    keys = jax.random.split(fresh(), 3)
    clipped = jax.vmap(mechanism.clip, in_axes=(0, None, 0))(keys, state, stacked(3))
    same_shapes(jax.tree.map(lambda leaf: leaf[0], clipped), message)
    bound = mechanism.norm_bound(state)
    if not name.startswith("local"):  # which add noise to the message
        assert float(optax.tree.norm(message)) <= bound * (1 + 1e-6)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(message))
    assert largest <= mechanism.message_bound(state) * (1 + 1e-6)
    assert (mechanism.trust is None) == (mechanism.privacy_unit is None)
    noisy, next_state = jax.jit(mechanism.privatize)(fresh(), state, message, bound)
    same_shapes(noisy, UPDATE)
    assert jax.tree.structure(next_state) == jax.tree.structure(state)
    report = mechanism.report(next_state)
    assert all(value.shape == () for value in report.values())
    if mechanism.noise_multiplier is not None:
        assert mechanism.noise_multiplier(state) > 0
    samplers = [SAMPLERS["poisson"]] if name == "live" else SAMPLERS.values()
    if mechanism.check_sampler is not None:
        samplers = [SAMPLERS["everyone"], SAMPLERS["min_separation"]]
    for sampler in samplers:
        event = mechanism.event(sampler, 3)
        assert isinstance(event.event, dp_accounting.DpEvent)
        assert (event.privacy_unit is not None) == (mechanism.privacy_unit is not None)
        assert event.population == sampler.population


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in SAME_SUM else [])
        for name in AGGREGATORS
    ],
)
def test_aggregators(name):
    aggregator = AGGREGATORS[name]
    keys = jax.random.split(fresh(), 4)
    everyone = jnp.arange(5) < 4
    session = jax.jit(aggregator.begin)(fresh(), everyone, everyone, jnp.float32(1))
    encode = jax.vmap(aggregator.encode, in_axes=(0, None, 0, 0))
    messages = jax.jit(encode)(keys, session, jnp.arange(4), stacked(4))
    # Whoever is not present does not count, whatever stands in its place.
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), messages)
    places, present = jnp.array([0, 1, 2, 3, 0]), jnp.arange(5) < 4
    empty = aggregator.empty(jax.tree.map(lambda leaf: leaf[0], messages))
    total = jax.jit(aggregator.absorb)(empty, padded, places, present)
    same_shapes(total, empty)
    decoded, count, completed = aggregator.finish(session, total)
    assert completed
    assert count == 4
    decoded = pairs.value(decoded)
    same_shapes(decoded, UPDATE)
    # Of four who send the same, a sum is four times what an estimate of the mean is.
    times = 4 if aggregator.ends_in == "sum" else 1
    for leaf, update in zip(*map(jax.tree.leaves, (decoded, UPDATE)), strict=True):
        np.testing.assert_allclose(leaf, times * update, atol=4 / 2**16)
    # The same total from two halves.
    halves = [
        aggregator.absorb(empty, padded, places, present & (places < 1)),
        aggregator.absorb(empty, padded, places, present & (places >= 1)),
    ]
    both = aggregator.merge(jax.tree.map(lambda *leaves: jnp.stack(leaves), *halves))
    jax.tree.map(np.testing.assert_array_equal, both, total)
    assert aggregator.sensitivity(session, 1.0, 3) >= 1.0
    # A sum of one's own does not say it by itself.
    assert (aggregator.change is None) == (
        name in ("summing", "coordinate_median", "trimmed_mean", "estimating")
    )
    assert aggregator.change is None or aggregator.change(session, 1.0, 3) >= 1.0
    assert aggregator.cost(30).uplink_bytes >= 120
    assert aggregator.ends_in in ("sum", "estimate")
    assert aggregator.needs in ("sum", "individual")
    assert aggregator.shows in ("individual", aggregator.needs)
    assert aggregator.name == {"identity": "additive_sharing"}.get(name, name)


def conversations(task):
    """Every trainer with a server that it understands."""
    plain = {name: (make(task), SERVERS["fedopt"]) for name, make in TRAINERS.items()}
    return plain | {name: make(task) for name, make in PAIRS.items()}


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("name", [*TRAINERS, *PAIRS])
def test_trainers_and_servers(name, regression, clients):
    trainer, server = conversations(regression)[name]
    view = base.ClientView(clients.examples, jnp.int32(9), jnp.int32(7), jnp.int32(3))
    steps = trainer.num_steps(view.size)
    assert (steps.shape, steps.dtype) == ((), jnp.int32)
    assert jax.vmap(trainer.num_steps)(jnp.array([1, 7])).min() >= 1
    memory, kept = server.init(UPDATE), trainer.keep(UPDATE)
    sent = jax.jit(server.send)(UPDATE, memory)
    state = trainer.init(fresh(), sent, kept, jnp.int32(0))
    after = jax.jit(trainer.step)(fresh(), sent, state, view, jnp.int32(0))
    same_shapes(after, state)
    update, keeps, info = trainer.finish(sent, after)
    same_shapes(keeps, kept)
    same_shapes(trainer.model(sent, kept), UPDATE)
    assert all(value.shape == () for value in info.values())
    assert isinstance(trainer.event(), base.PrivacyEvent)
    # The servers' mean has the shape of an update.
    for share in (0.5, jnp.float32(0.5)):
        stepped = server.step(UPDATE, memory, update, share)
        same_shapes(stepped, (UPDATE, memory))
    assert server.weighting in (None, "uniform", "examples")


SAME_TRAINING = {"proximal_sgd": "local_sgd"}
"""What sends and keeps the same meets mechanisms and sums in the same way."""
SAME_MESSAGE = dict.fromkeys(("per_layer", "normalised", "additive"), "gaussian") | {
    "live": "adaptive_gaussian",
    "local_laplace": "local_gaussian",
}
"""Mechanisms whose messages have the shape and the bound of another's."""


def all_pairs(cases):
    """Few of the cases: two parts that meet in one of all meet in one of these, or
    others that are the same to each other do.
    """

    def pairs(case):
        trainer, mechanism, total = case
        training = SAME_TRAINING.get(trainer, trainer)
        message = SAME_MESSAGE.get(mechanism, mechanism)
        both = (training, message), (training, total), (message, total)
        return {trainer, mechanism, *both}

    missing, chosen = set().union(*map(pairs, cases)), set()
    while missing:
        chosen.add(max(cases, key=lambda case: len(pairs(case) & missing)))
        missing -= set().union(*map(pairs, chosen))
    return chosen


def one_round(algorithm, clients, counter, moves=np.all, sizes_differ=True):
    """One compiled round, and another whose cohort is another; the event of three.

    `moves` says of which of its coordinates the model must move, `sizes_differ` whether
    the two cohorts are of two sizes.
    """
    traces = []

    def counted(key, state, clients):
        traces.append(key)
        return algorithm.round(key, state, clients)

    compiled = jax.jit(counted)
    state = jax.jit(algorithm.init)(fresh())
    # Of a cohort that is large enough for masks, which a key decides.
    after, info = compiled(jax.random.key(3), state, clients)
    same_shapes(after, state)
    assert int(after.rounds_done) == 1
    assert all(value.shape == () for value in info.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, info)))
    changed = jax.tree.map(lambda a, b: a != b, after.params, state.params)
    assert moves([moves(leaf) for leaf in jax.tree.leaves(changed)])
    other_key = jax.random.key(4)
    counter.reset()
    _, other = compiled(other_key, after, clients)
    assert counter.compilations == 0
    assert len(traces) == 1
    size = "batch_size" if "batch_size" in info else "cohort_size"
    assert (other[size] != info[size]) == sizes_differ
    event = algorithm.event(3)
    assert isinstance(event, base.PrivacyEvent)
    return event


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize(
    ("name", "mechanism", "aggregator"),
    [
        pytest.param(
            *case, marks=[] if case in all_pairs(ROUNDS) else pytest.mark.exhaustive
        )
        for case in ROUNDS
    ],
)
def test_every_algorithm_with_every_mechanism_and_sum(
    name, mechanism, aggregator, regression, clients, compile_counter
):
    trainer, server = conversations(regression)[name]
    algorithm = ALGORITHMS["averaging"](
        regression,
        trainer,
        server=server,
        mechanism=MECHANISMS[mechanism],
        aggregator=AGGREGATORS[aggregator],
    )
    # A client answers for one coordinate.
    moves = np.any if mechanism == "randomised_response" else np.all
    event = one_round(algorithm, clients, compile_counter, moves)
    assert (event.privacy_unit is not None) == (
        MECHANISMS[mechanism].privacy_unit is not None
    )


@pytest.mark.exhaustive  # a sweep of both is in lab/test_correlated.py
@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("aggregator", ["clear", "additive_sharing", "light_secagg"])
def test_correlated_noise_with_cohorts_in_turn(
    aggregator, regression, clients, compile_counter
):
    """A sum that aborts hides who stays in its place, with nothing, as well."""
    coded = smpc.light_secagg(smpc.lightsecagg.Code(3, 2, 1), 8.0)
    algorithm = federated.averaging(
        regression,
        TRAINERS["local_sgd"](regression),
        federated.min_separation(5, 3),
        mechanism=MECHANISMS["correlated_gaussian"],
        aggregator=(AGGREGATORS | {"light_secagg": coded})[aggregator],
    )
    event = one_round(algorithm, clients, compile_counter, sizes_differ=False)
    assert (event.neighboring_relation, event.privacy_unit) == ("zero_out", "client")


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("num_devices", [1, 4])
def test_lanes_devices_and_dropouts_use_no_key_twice(
    num_devices, num_lanes, regression, clients, compile_counter
):
    trainer, server = conversations(regression)["scaffold"]
    algorithm = ALGORITHMS["averaging"](
        regression,
        trainer,
        server=server,
        dropout_prob=0.3,
        num_lanes=num_lanes,
        mesh=federated.client_mesh(num_devices),
    )
    everywhere = federated.on_every_device(federated.client_mesh(num_devices))
    on_devices = algorithm._replace(
        init=lambda key: jax.lax.with_sharding_constraint(
            algorithm.init(key), everywhere
        )
    )
    one_round(on_devices, jax.device_put(clients, everywhere), compile_counter)


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize(
    ("name", "mechanism"),
    [
        ("local_dp_sgd", None),
        (
            "example_gradients",
            dp.adaptive_gaussian(0.5, 1.0, 9.0, privacy_unit="example"),
        ),
    ],
    ids=["local_dp_sgd", "example_gradients"],
)
def test_averaging_with_private_trainers(
    name, mechanism, regression, clients, compile_counter
):
    trainer = TRAINERS[name](regression)
    algorithm = ALGORITHMS["averaging"](regression, trainer, mechanism=mechanism)
    assert one_round(algorithm, clients, compile_counter).privacy_unit == "example"


@pytest.mark.usefixtures("no_key_twice")
@pytest.mark.parametrize("mechanism", ["no_privacy", "example"])
def test_central(mechanism, regression, clients, compile_counter):
    example = dp.gaussian(0.5, 1.0, privacy_unit="example")
    algorithm = ALGORITHMS["central_sgd"](
        regression, None, mechanism=(MECHANISMS | {"example": example})[mechanism]
    )
    unit = one_round(algorithm, clients, compile_counter).privacy_unit
    assert unit == ("example" if mechanism == "example" else None)
