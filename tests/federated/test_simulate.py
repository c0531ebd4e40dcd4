"""Whole runs: chunks, stopping, history, and one compiled program."""

import gc
import itertools
import signal
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import data, dp, federated, models, smpc
from ppml_lab.federated.simulate import run_chunk

KEY = jax.random.key(3)


def build(regression, mesh=None):
    return federated.averaging(
        regression,
        federated.local_sgd(regression, optax.sgd(0.1), 3, num_epochs=1),
        federated.poisson(5, 0.6),
        mechanism=dp.gaussian(0.5, 0.3),
        server=federated.fedopt(optax.sgd(1.0, momentum=0.5)),
        mesh=mesh,
    )


@pytest.fixture(scope="module")
def algorithm(regression):
    return build(regression)


@pytest.fixture(scope="module")
def whole(algorithm, regression, clients):
    """Six rounds at once, with one evaluation at the end."""
    return federated.simulate(
        KEY,
        algorithm,
        clients,
        6,
        test=clients.examples,
        evaluate=federated.evaluator(regression),
    )


def test_the_history_has_one_entry_per_round_and_evaluation(whole):
    state, history = whole
    assert int(state.rounds_done) == 6
    assert {name: values.shape for name, values in history.items()} == {
        "cohort_size": (6,),
        "num_reports": (6,),
        "train_loss": (6,),
        "update_norm": (6,),
        "clipped_share": (6,),
        "squared": (1,),
        "eval_round": (1,),
    }
    assert all(isinstance(values, np.ndarray) for values in history.values())
    assert len(set(history["cohort_size"])) > 1


def test_a_run_is_its_rounds_one_after_the_other(whole, algorithm, clients):
    init_key, rounds_key = jax.random.split(KEY)
    state = algorithm.init(init_key)
    one_round = jax.jit(algorithm.round)
    for number in range(6):
        state, info = one_round(jax.random.fold_in(rounds_key, number), state, clients)
        for name, value in info.items():
            np.testing.assert_allclose(whole[1][name][number], value, rtol=1e-5)
    for found, expected in zip(*map(jax.tree.leaves, (whole[0], state)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_chunks_change_nothing_bit_by_bit(whole, algorithm, regression, clients):
    seen = []
    state, history = federated.simulate(
        KEY,
        algorithm,
        clients,
        6,
        test=clients.examples,
        evaluate=federated.evaluator(regression),
        eval_every=4,
        on_chunk=lambda done, state, part: seen.append(
            (done, int(state.rounds_done), len(part["train_loss"]))
        ),
    )
    assert seen == [(4, 4, 4), (6, 6, 2)]
    jax.tree.map(np.testing.assert_array_equal, state, whole[0])
    for name in ("cohort_size", "train_loss", "update_norm"):
        np.testing.assert_array_equal(history[name], whole[1][name])
    np.testing.assert_array_equal(history["eval_round"], [4, 6])
    assert history["squared"][1] == whole[1]["squared"][0]
    assert history["squared"][0] != history["squared"][1]


def test_on_chunk_stops_the_run_where_it_wants(algorithm, clients, compile_counter):
    compile_counter.reset()
    counts = []

    def stop_at_four(done, state, part):
        counts.append(compile_counter.compilations)
        return done >= 4

    state, history = federated.simulate(
        KEY, algorithm, clients, 10, eval_every=1, on_chunk=stop_at_four
    )
    assert int(state.rounds_done) == 4
    assert history["cohort_size"].shape == (4,)
    # The second chunk and those after it compile nothing.
    assert len(counts) == 4
    assert counts[0] == counts[-1] > 0


def test_other_seeds_compile_nothing(algorithm, regression, clients, compile_counter):
    """As README's block in a loop, `evaluator` inline; seeds and tests of the host."""
    test = jax.tree.map(np.asarray, clients.examples)
    ends, counts = [], []
    for seed in range(3):
        state, history = federated.simulate(
            seed,
            algorithm,
            clients,
            3,
            test=test,
            evaluate=federated.evaluator(regression),
        )
        counts.append(compile_counter.compilations)
        ends.append(float(history["squared"][-1]))
    assert counts[0] > 0
    assert counts[0] == counts[2]
    assert len(set(ends)) == 3
    same, _ = federated.simulate(jax.random.key(2), algorithm, clients, 3)
    jax.tree.map(np.testing.assert_array_equal, same, state)


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.exhaustive)])
def test_programs_of_few_algorithms_are_kept(regression, clients, count):
    resource = pytest.importorskip("resource")
    held = []
    for _ in range(count):
        algorithm = build(regression)
        federated.simulate(0, algorithm, clients, 1)
        held.append(weakref.ref(algorithm.round))
    del algorithm
    gc.collect()
    assert sum(one() is not None for one in held) == 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20  # KiB


def test_an_interrupt_returns_what_was_done(algorithm, clients, capsys):
    def interrupt(done, state, part):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    state, history = federated.simulate(
        KEY, algorithm, clients, 10, eval_every=1, on_chunk=interrupt
    )
    assert int(state.rounds_done) == len(history["cohort_size"]) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert "press Ctrl-C again to stop now" in capsys.readouterr().err

    def insist(done, state, part):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        federated.simulate(KEY, algorithm, clients, 2, eval_every=1, on_chunk=insist)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_in_a_long_chunk_is_heard(algorithm, clients, capsys):
    """The chunk of a million rounds returns to the host every second."""
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    told = []

    def report(done, total):
        if not told:
            timer.start()
        told.append(done)

    state, history = federated.simulate(
        KEY, algorithm, clients, 1_000_000, report=report
    )
    assert told[0] == 1
    assert int(state.rounds_done) == told[-1] == len(history["train_loss"])
    # After a round that compiles, numbers of rounds grow at most eightfold.
    sizes = np.diff([0, *told])
    assert all(after <= 8 * before for before, after in itertools.pairwise(sizes))


def test_a_run_goes_on_from_its_state_as_if_never_stopped(
    whole, algorithm, regression, clients
):
    state, first = federated.simulate(KEY, algorithm, clients, 2)
    before = jax.tree.map(np.array, state)
    for first_round in (None, 2):
        after, second = federated.simulate(
            KEY,
            algorithm,
            clients,
            4,
            state=state,
            first_round=first_round,
            test=clients.examples,
            evaluate=federated.evaluator(regression),
        )
        jax.tree.map(np.testing.assert_array_equal, after, whole[0])
        assert second["eval_round"] == [6]
        assert second["squared"] == whole[1]["squared"]
        for name in ("train_loss", "update_norm", "cohort_size"):
            both = np.concatenate([first[name], second[name]])
            np.testing.assert_array_equal(both, whole[1][name])
        # The caller's state is still there.
        jax.tree.map(np.testing.assert_array_equal, state, before)
    # Arrays from a disk are as good.
    again, _ = federated.simulate(KEY, algorithm, clients, 4, state=before)
    jax.tree.map(np.testing.assert_array_equal, again, whole[0])


def test_a_state_that_does_not_fit_is_refused(whole, algorithm, clients):
    def run(**options):
        federated.simulate(KEY, algorithm, clients, 1, **options)

    with pytest.raises(ValueError, match="first_round is 2, but no state is given"):
        run(first_round=2)
    with pytest.raises(ValueError, match="first_round is 2, but state has done 6"):
        run(state=whole[0], first_round=2)
    other = whole[0]._replace(params={"w": jnp.zeros((4, 4))})
    with pytest.raises(ValueError, match="state must be one that simulate returned"):
        run(state=other)


def test_progress_is_reported_where_someone_watches(
    algorithm, clients, monkeypatch, capsys
):
    told = []
    federated.simulate(
        KEY, algorithm, clients, 3, eval_every=1, report=lambda *of: told.append(of)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    federated.simulate(KEY, algorithm, clients, 2, eval_every=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    federated.simulate(KEY, algorithm, clients, 2, eval_every=1)
    assert capsys.readouterr().err == "\rround 1 of 2\rround 2 of 2\n"


@pytest.mark.parametrize(
    "num_devices", [1, pytest.param(4, marks=pytest.mark.exhaustive)]
)
def test_a_chunk_moves_nothing_between_host_and_devices(
    regression, clients, num_devices
):
    mesh = federated.client_mesh(num_devices)
    algorithm = build(regression, mesh)
    chunk = jax.jit(
        lambda key, state, clients, first: run_chunk(
            key, algorithm, state, clients, first, 2
        )
    )
    arguments = jax.device_put(
        (KEY, jax.jit(algorithm.init)(KEY), clients, jnp.int32(0)),
        federated.on_every_device(mesh),
    )
    chunk(*arguments)
    with jax.transfer_guard("disallow"):
        state, _ = chunk(*arguments)
    assert int(state.rounds_done) == 2
    # Every device has the whole state for the next chunk.
    assert all(
        len(leaf.devices()) == num_devices and leaf.is_fully_replicated
        for leaf in jax.tree.leaves(state)
    )


# What is sharded over many, and the ways there, on which test_lanes trains a cohort.
@pytest.mark.exhaustive  # one round: test_averaging
def test_a_run_on_many_devices_is_the_run_on_one(regression, clients, compile_counter):
    trainer, server = federated.scaffold(regression, optax.sgd(0.1), 3, num_epochs=1)

    def run(num_devices, by_shard):
        mesh = federated.client_mesh(num_devices)
        algorithm = federated.averaging(
            regression,
            trainer,
            federated.poisson(5, 0.6, mesh if by_shard else None),
            server=server,
            aggregator=smpc.additive_sharing(3, 5, 8.0),
            dropout_prob=0.2,
            mesh=mesh,
        )
        placed = jax.device_put(clients, federated.on_every_device(mesh))
        if by_shard:
            placed = data.shard(clients, federated.sharded_by_client(mesh))
        counts = []
        state, history = federated.simulate(
            KEY,
            algorithm,
            placed,
            6,
            eval_every=2,
            on_chunk=lambda *_: counts.append(compile_counter.compilations),
        )
        # The chunks after the first compile nothing.
        assert counts[0] == counts[-1]
        return state, history

    one, one_history = run(1, False)
    assert one_history["num_reports"].max() > 1
    for num_devices, by_shard in [(1, True), (2, True), (4, False), (4, True)]:
        many, history = run(num_devices, by_shard)
        # Sums of whole numbers: no bit of the run depends on who trained where.
        jax.tree.map(np.testing.assert_array_equal, many, one)
        for name, values in one_history.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-6)


def test_examples_sharded_for_other_devices_are_refused(regression, clients):
    two = data.shard(clients, federated.sharded_by_client(federated.client_mesh(2)))
    with pytest.raises(ValueError, match="sharded over 2 devices, but the mesh has 1"):
        federated.simulate(KEY, build(regression, None), two, 1)
    with pytest.raises(ValueError, match="are sharded"):
        data.view(two, 0)
    sampler = federated.everyone(18)
    central = federated.central_sgd(regression, optax.sgd(0.1), sampler)
    with pytest.raises(ValueError, match="stored whole"):
        federated.simulate(KEY, central, two, 1)


def test_two_thousand_clients_and_fifty_rounds_are_one_program(compile_counter):
    drawn = data.synthetic(0, 2000, 0.0, 0.0, mean_size=12.0, min_size=2)
    clients = data.federate(drawn.train, drawn.train_users, num_clients=2000)
    task = models.flax_classification(models.logistic(10), (60,))
    algorithm = federated.averaging(
        task,
        federated.local_sgd(task, optax.sgd(0.1), 10, num_epochs=1),
        federated.poisson(2000, 0.01),
    )
    traces = []

    def counted(key, state, clients):
        traces.append(state)
        return algorithm.round(key, state, clients)

    jnp.int32(0)  # what a first call of these compiles is not the simulation's
    _, _ = jax.random.split(KEY)
    compile_counter.reset()
    state, history = federated.simulate(
        KEY, algorithm._replace(round=counted), clients, 50
    )
    assert len(traces) == 1
    # One program makes the first state, one does all 50 rounds.
    assert compile_counter.compilations == 2
    assert int(state.rounds_done) == 50
    assert history["train_loss"][-5:].mean() < history["train_loss"][:5].mean()
    assert 10 < history["cohort_size"].mean() < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rounds": 0}, "num_rounds"),
        ({"num_rounds": 2, "eval_every": 0}, "eval_every"),
        ({"num_rounds": 2, "test": 0.0}, "test and evaluate together"),
        ({"num_rounds": 2, "evaluate": lambda p, t: {}}, "test and evaluate together"),
    ],
)
def test_bad_arguments_are_named(algorithm, clients, arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.simulate(KEY, algorithm, clients, **arguments)


def test_no_two_rounds_of_a_run_share_a_key(algorithm, clients):
    """Not after 1,024 rounds either, nor any power of two."""

    def seen(key, state, clients):
        return state, {"key": jax.random.key_data(key)}

    recording = algorithm._replace(round=seen)

    def keys(first):
        return run_chunk(KEY, recording, 0.0, clients, first, 8)[1]["key"]

    run = jax.jit(keys)
    starts = [0, *(2**power for power in range(3, 24)), 1000, 5000, 100_000]
    words = np.concatenate([np.asarray(run(jnp.int32(start))) for start in starts])
    assert len(np.unique(words, axis=0)) == 8 * len(starts)


def test_rounds_far_apart_draw_other_cohorts_and_noise(whole, algorithm, clients):
    """From one state, rounds that lie far apart share nothing."""
    state, _ = whole
    one_round = jax.jit(
        lambda first: run_chunk(KEY, algorithm, state, clients, first, 1)[0].params
    )
    numbers = (0, 1, 256, 1000, 1024, 4096, 2**16, 2**20)
    after = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one_round(number))])
        for number in map(jnp.int32, numbers)
    ]
    assert len(np.unique(np.array(after), axis=0)) == len(numbers)
    for leaf in np.array(after).T:
        assert len(np.unique(leaf)) == len(numbers)


def test_a_loss_that_is_not_finite_is_said_once(regression, clients):
    rows = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), clients.examples)
    bad = clients._replace(examples=rows)
    trainer = federated.local_sgd(regression, optax.sgd(0.1), 3, num_epochs=1)
    algorithm = federated.averaging(regression, trainer, federated.everyone(5))
    with pytest.warns(UserWarning, match="train_loss is not finite .* round 1;") as w:
        federated.simulate(0, algorithm, bad, 3, eval_every=1)
    assert len(w) == 1
