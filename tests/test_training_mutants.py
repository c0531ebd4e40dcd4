"""Whole trainings with a planted bug, each of which a probe of the contract must see.

The bugs are those that an earlier contract did not see; each stands for a kind. Their
healthy forms pass in `tests/audit/test_contract.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from ppml_lab import audit, base, dp, federated, pairs, random, smpc, trees
from ppml_lab.audit import subjects, training_subjects, worlds
from ppml_lab.dp import clipping
from ppml_lab.federated import on_shares, sampling
from ppml_lab.federated.scaffold import Model

N = worlds.NUM_ROWS
SGD = optax.sgd(1.0)
MOMENTUM = optax.sgd(1.0, momentum=0.9)
POISSON = federated.poisson(N, 0.25)
EVERYONE = federated.everyone(N)
CLIENT = dp.gaussian(0.5, 0.8)
EXAMPLE = dp.gaussian(0.5, 0.8, privacy_unit="example")
TREE = worlds.as_nested


def fedavg(
    mechanism=CLIENT,
    sampler=POISSON,
    *,
    num_rounds=2,
    server=None,
    change=lambda algorithm, task, sampler: algorithm,
    **seen: Any,
):
    """FedAvg whose algorithm `change` breaks."""

    def make(task, sampler):
        trainer = federated.local_sgd(task, SGD, 1, num_steps=1)
        algorithm = federated.averaging(
            task, trainer, sampler, mechanism=mechanism, server=server
        )
        return change(algorithm, task, sampler)

    return audit.of_algorithm(make, CLIENT, sampler, num_rounds, **seen)


def central(
    mechanism=EXAMPLE,
    *,
    optimizer=SGD,
    steps=1,
    num_rounds=2,
    sampler_of=lambda sampler: sampler,
    change=lambda algorithm, task, sampler: algorithm,
    task_of=lambda task: task,
    **seen: Any,
):
    """DP-SGD whose task, sampler or algorithm is broken."""

    def make(task, sampler):
        task = task_of(task)
        algorithm = federated.central_sgd(
            task,
            optimizer,
            sampler_of(sampler),
            mechanism=mechanism,
            method="vmap",
            steps_per_round=steps,
        )
        return change(algorithm, task, sampler)

    return audit.of_algorithm(
        make, EXAMPLE, POISSON, num_rounds, steps_per_round=steps, **seen
    )


def remembering_what_was_not_released(make):
    """Its memory is made of the sum without noise."""

    def change(algorithm, task, sampler):
        silent = make(task, sampler)

        def round(key, state, clients):
            after, info = algorithm.round(key, state, clients)
            clean, _ = silent.round(key, state, clients)
            return after._replace(memory=clean.memory), info

        return algorithm._replace(round=round)

    return change


def silent(mechanism):
    return mechanism._replace(
        privatize=lambda key, state, total, sensitivity: (pairs.value(total), state)
    )


def silent_central(task, sampler):
    return federated.central_sgd(
        task, MOMENTUM, sampler, mechanism=silent(EXAMPLE), method="vmap"
    )


def silent_fedavg(task, sampler):
    return federated.averaging(
        task,
        federated.local_sgd(task, SGD, 1, num_steps=1),
        sampler,
        mechanism=silent(CLIENT),
        server=federated.fedopt(MOMENTUM),
    )


def gaussian():
    return audit.of_mechanism(CLIENT, EVERYONE, 2)


def held(key, state):
    """The key of the first of every two draws, and the next state."""
    count, words = state
    own = jnp.where(count % 2 == 0, jax.random.key_data(key), words)
    return jax.random.wrap_key_data(own), (count + 1, own)


HELD = jnp.int32(0), jnp.zeros(2, jnp.uint32)


def one_batch_for_two_steps(sampler):
    def sample(key, state):
        held_key, after = held(key, state)
        cohort, _ = sampler.sample(held_key, ())
        return cohort, after

    return sampler._replace(init=lambda key: HELD, sample=sample)


def one_noise_for_two_steps(mechanism):
    def privatize(key, state, total, sensitivity):
        held_key, after = held(key, state)
        return mechanism.privatize(held_key, (), total, sensitivity)[0], after

    return mechanism._replace(init=lambda key, like: HELD, privatize=privatize)


def scaffold_with(mechanism):
    def make(task, sampler):
        trainer, server = federated.scaffold(task, SGD, 1, num_steps=1)
        return federated.averaging(
            task, trainer, sampler, server=server, mechanism=mechanism
        )

    def control(state):
        scale = POISSON.population / POISSON.expected_cohort
        return scale * worlds.as_rows(state.memory[1])

    seen = audit.of_algorithm(make, CLIENT, POISSON, 2, also_seen=control)
    return seen._replace(sampling_prob=None)


def unclipped_control():
    def clip(key, state, update):
        if not isinstance(update, Model):
            return CLIENT.clip(key, state, update)
        bounded = CLIENT.clip(key, state, update.params)
        return Model(bounded, update.control)

    return scaffold_with(CLIENT._replace(clip=clip))


def control_without_noise():
    def privatize(key, state, total, sensitivity):
        noisy, after = CLIENT.privatize(key, state, total, sensitivity)
        return noisy._replace(control=pairs.value(total).control), after

    return scaffold_with(CLIENT._replace(privatize=privatize))


def shares_by_top_level_modules(clip_norm):
    """Per-layer clipping of which a tree's first level counts as its layers."""

    def factors(squared_norms):
        paths, structure = jax.tree.flatten_with_path(squared_norms)
        share = clip_norm / len({path[0] for path, _ in paths}) ** 0.5
        layers: dict[Any, Any] = {}
        for path, leaf in paths:
            layers[path[:-1]] = layers.get(path[:-1], 0.0) + leaf
        found = [
            jnp.minimum(1.0, share / jnp.sqrt(layers[path[:-1]])) for path, _ in paths
        ]
        finite = jnp.isfinite(sum(layers.values()))
        found = [jnp.where(finite, factor, 0.0) for factor in found]
        return jax.tree.unflatten(structure, found)

    return clipping.Clipping(factors, clip_norm)


def keys_by_last_two_names(key, tree):
    def own(path, leaf):
        name = jax.tree_util.keystr(path[-2:])
        return jax.random.fold_in(key, sum(name.encode()))

    return jax.tree_util.tree_map_with_path(own, tree)


def of_a_thousand_rounds(run_chunk):
    def wrapped(key, algorithm, state, clients, first_round, num_rounds):
        first = jnp.asarray(first_round) % 1024
        return run_chunk(key, algorithm, state, clients, first, num_rounds)

    return wrapped


def cut_at(place, normal):
    return lambda *args: jnp.clip(normal(*args), -place, place)


def times(factor, normal):
    return lambda *args: jnp.float32(factor) * normal(*args)


def of_23_bits(seed, length, first_block=0):
    """Inverse transform of a float32 uniform."""
    words = random.words(seed, length, first_block)
    centres = (words >> 9).astype(jnp.int32).astype(jnp.float32) + 0.5
    return jax.scipy.special.ndtri(centres * jnp.float32(2.0**-23))


def moving_its_constants(algorithm, task, sampler):
    def round(key, state, clients):
        after, info = algorithm.round(key, state, clients)
        noise = jax.random.normal(jax.random.fold_in(key, 7), (3,))
        frozen = after.params["frozen"] + noise
        return after._replace(params=after.params | {"frozen": frozen}), info

    return algorithm._replace(round=round)


def counting_its_constants(task):
    """All gradients are as long as if the constant leaf's, the longest, counted."""

    def loss(key, params, examples):
        rows = worlds.as_rows(examples)
        norm = jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True) + 1e14)
        own = 0.5 * rows / norm
        return task.loss(key, params, worlds.as_tree(own))

    return task._replace(loss=loss)


def scaled_as_they_are(update, factors):
    """Factors rounded to bfloat16, whatever precision a compiler adds."""

    def scaled(leaf, factor):
        factor = jax.lax.reduce_precision(factor, 8, 7)
        return (leaf.astype(jnp.float32) * factor).astype(leaf.dtype)

    return jax.tree.map(scaled, update, factors)


def hospitals(rows_each=1, aggregator=None):
    def make(task, people):
        return federated.averaging(
            task,
            federated.example_gradients(task, people, 0.25, method="vmap"),
            federated.everyone(people.num_clients),
            mechanism=EXAMPLE,
            aggregator=aggregator,
        )

    return audit.of_people(
        make, EXAMPLE, 0.25, 2, rows_each=rows_each, aggregator=aggregator
    )


def clipped_as_one(loss, mechanism, **how):
    """The gradient of all whom a client drew, clipped in place of each person's."""
    plain = dp.summed_gradient(loss)

    def total(keys, state, params, examples, weights):
        summed, loss_sum = plain(keys[0], params, examples, weights)
        bounded = mechanism.clip(keys[0], state, summed)
        none = jnp.float32(0)
        return pairs.of(bounded), {"loss": loss_sum, "norm": none, "clipped": none}

    return total


def one_coin_for_all(poisson):
    """A hospital's people come and go together."""

    def built(population, prob, **how):
        made = poisson(population, prob, **how)

        def sample(key, state):
            heads = jax.random.bernoulli(key, prob)
            everybody = jnp.arange(made.max_cohort, dtype=jnp.int32)
            weight = jnp.where(heads, jnp.float32(1), jnp.float32(0))
            return base.Cohort(everybody, jnp.full(everybody.shape, weight)), state

        return made._replace(sample=sample)

    return built


class Mutant(NamedTuple):
    """A broken training, who must see it, and what is broken beneath it."""

    make: Callable[[], audit.Subject]
    detector: str
    breaks: Callable[[pytest.MonkeyPatch], None] = lambda monkeypatch: None


def patch(owner, name, value):
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def two_steps_on_shares():
    protocol = smpc.private.protocol("additive", fraction_bits=16, ideal=True)
    return audit.of_shared_training(protocol, 0.5, 0.8, 2)


def same_noise_in_every_step(monkeypatch):
    draw = on_shares._noise

    def noise(seed, like, stddev):
        # One draw for all steps, with the variance of one.
        return draw(random.child(jnp.zeros(2, jnp.uint32), 5), like, stddev)

    monkeypatch.setattr(on_shares, "_noise", noise)


MUTANTS = {
    "central optimizer state from the sum before noise": Mutant(
        lambda: central(
            optimizer=MOMENTUM,
            num_rounds=1,
            change=remembering_what_was_not_released(silent_central),
        ),
        "state",
    ),
    "server momentum from the sum before noise": Mutant(
        lambda: fedavg(
            server=federated.fedopt(MOMENTUM),
            num_rounds=1,
            change=remembering_what_was_not_released(silent_fedavg),
        ),
        "state",
    ),
    "one batch for all steps of a round": Mutant(
        lambda: central(steps=2, sampler_of=one_batch_for_two_steps), "participation"
    ),
    "one noise for all steps of a round": Mutant(
        lambda: central(one_noise_for_two_steps(EXAMPLE), steps=2), "noise"
    ),
    "SCAFFOLD's control unclipped": Mutant(unclipped_control, "replay"),
    "SCAFFOLD's control without noise": Mutant(control_without_noise, "noise"),
    "per-layer shares by top-level modules": Mutant(
        lambda: audit.of_mechanism(
            dp.gaussian(0.5, 0.8, rule="per_layer"), EVERYONE, 2, tree=TREE
        ),
        "replay",
        lambda m: m.setitem(clipping.RULES, "per_layer", shares_by_top_level_modules),
    ),
    "noise keys by a leaf's last two names": Mutant(
        lambda: audit.of_mechanism(CLIENT, EVERYONE, 2, tree=TREE),
        "noise",
        patch(trees, "leaf_keys", keys_by_last_two_names),
    ),
    "noise cut at 3.3 standard deviations": Mutant(
        gaussian, "tails", patch(random, "normal", cut_at(3.3, random.normal))
    ),
    "noise cut at 4.5 standard deviations": Mutant(
        gaussian, "tails", patch(random, "normal", cut_at(4.5, random.normal))
    ),
    "noise half a percent low": Mutant(
        gaussian, "tails", patch(random, "normal", times(0.995, random.normal))
    ),
    "noise of 2^23 values": Mutant(
        gaussian, "tails", patch(random, "normal", of_23_bits)
    ),
    "rounds come again after 1,024": Mutant(
        central,
        "rounds",
        patch(
            training_subjects,
            "run_chunk",
            of_a_thousand_rounds(training_subjects.run_chunk),
        ),
    ),
    "the same noise in every step on shares": Mutant(
        two_steps_on_shares, "noise", same_noise_in_every_step
    ),
    "constant leaves get noise": Mutant(
        lambda: central(frozen=True, change=moving_its_constants), "frozen"
    ),
    "constant leaves are trained": Mutant(
        lambda: central(frozen=True, task_of=lambda task: task._replace(roles=None)),
        "frozen",
    ),
    "constant leaves use up the clip norm": Mutant(
        lambda: central(frozen=True, task_of=counting_its_constants), "frozen"
    ),
    "sums in float32": Mutant(
        fedavg,
        "crowd",
        patch(pairs, "two_sum", lambda one, other: (one + other, 0 * one)),
    ),
    "sums of examples in float32": Mutant(
        lambda: audit.of_mechanism(EXAMPLE, POISSON, 2),
        "crowd",
        patch(pairs, "two_sum", lambda one, other: (one + other, 0 * one)),
    ),
    "a hospital's batch clipped as one": Mutant(
        hospitals, "replay", patch(dp, "clipped_total", clipped_as_one)
    ),
    "people of a hospital drawn together": Mutant(
        hospitals,
        "participation",
        patch(sampling, "poisson", one_coin_for_all(sampling.poisson)),
    ),
    "short floats clipped in short floats": Mutant(
        lambda: audit.of_mechanism(CLIENT, EVERYONE, 2, dtype=jnp.bfloat16),
        "replay",
        patch(clipping, "scale", scaled_as_they_are),
    ),
}


AGAIN = (
    "SCAFFOLD's control without noise",
    *("server momentum from the sum before noise", "sums in float32"),
    *("noise cut at 4.5 standard deviations", "constant leaves are trained"),
    "people of a hospital drawn together",
)
"""Their kind has another one that runs in less time."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in AGAIN else [])
        for name in MUTANTS
    ],
)
def test_a_broken_training_is_seen_by_the_probe_it_names(name, monkeypatch):
    make, detector, breaks = MUTANTS[name]
    breaks(monkeypatch)
    report = audit.check_mechanism(make(), detectors=(detector,))
    assert report.refuted_by == (detector,), report


# Two runs of one seed.


def run_of(noise_multiplier, fold):
    """A round's noise and cohort at a seed; `fold` makes the point's own key of it."""

    @jax.jit
    def drawn(seed):
        key = fold(jax.random.key(seed))
        noise_key, sample_key = jax.random.split(key)
        noisy, _ = dp.gaussian(0.5, noise_multiplier).privatize(
            noise_key, (), {"w": jnp.zeros(64)}, 0.5
        )
        cohort, _ = federated.poisson(200, 0.3).sample(sample_key, ())
        took_part = jnp.zeros(200).at[cohort.indices].add(cohort.weights)
        return {"model": noisy["w"], "cohort": took_part}

    return drawn


def fold(number):
    return lambda key: jax.random.fold_in(key, number)


def test_points_with_keys_of_their_own_pass():
    points = {"low": run_of(0.5, fold(1)), "high": run_of(2.0, fold(2))}
    for seed in range(0, 240, 12):
        found = audit.check_independence(points, seed=seed)
        assert not found.refuted, found


def test_points_that_share_a_seeds_key_are_refuted():
    points = {"low": run_of(0.5, fold(0)), "high": run_of(2.0, fold(0))}
    found = audit.check_independence(points)
    assert found.refuted
    assert "'low' and 'high' share" in found.detail


@pytest.mark.parametrize("shared", ["model", "cohort"])
def test_noise_or_cohorts_alone_are_enough(shared):
    own, common = run_of(2.0, fold(2)), run_of(2.0, fold(1))

    def run(seed):
        return own(seed) | {shared: common(seed)[shared]}

    found = audit.check_independence({"one": run_of(0.5, fold(1)), "other": run})
    assert found.refuted
    assert f"['{shared}']" in found.detail


def test_a_seed_at_which_a_run_diverges_is_left_out_and_counted():
    points = {"low": run_of(0.5, fold(0)), "high": run_of(2.0, fold(0))}

    def diverges(seed):
        drawn = points["high"](seed)
        return {
            k: jnp.full_like(v, jnp.nan) if seed == 3 else v for k, v in drawn.items()
        }

    found = audit.check_independence(points | {"high": diverges})
    assert found.refuted
    assert "1 seeds with a run" in found.detail
    with pytest.raises(
        ValueError, match=r"all runs are finite .* of at least 9, got 8"
    ):
        audit.check_independence(points | {"high": diverges}, num_seeds=9)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least two to be compared, got 1"):
        audit.check_independence({"one": run_of(0.5, fold(1))})
    with pytest.raises(ValueError, match="num_seeds must be an integer of at least 9"):
        audit.check_independence({}, num_seeds=8)
    with pytest.raises(ValueError, match="trees of one structure"):
        audit.check_independence({"one": lambda s: 1.0, "two": lambda s: {"a": 1.0}})


def test_a_run_that_knows_no_round_numbers_is_not_compared():
    subject = fedavg()
    plain = subject._replace(run=lambda *args: subject.run(*args))
    report = audit.check_mechanism(plain, detectors=("rounds",))
    assert report.passed
    assert "cannot begin at a later round" in report.findings[0].detail
    assert isinstance(subject.run, subjects.Rounds)
