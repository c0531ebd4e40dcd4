"""Deliberately broken mechanisms, each of which the contract must catch.

Every mutant names the probe that must find it, and the setting in which the mechanism
audit must refute its claim. Settings avoid noise and clip norms of 1, where several
mutants are equivalent to correct code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import audit, base, dp, federated
from ppml_lab.audit import subjects, worlds

N = worlds.NUM_ROWS


class Setting(NamedTuple):
    """A mechanism's numbers, at which it is audited."""

    noise: float
    clip: float
    prob: float
    rounds: int

    @property
    def mechanism(self):
        return dp.gaussian(self.clip, self.noise)

    @property
    def sampler(self):
        if self.prob == 1:
            return federated.everyone(N)
        return federated.poisson(N, self.prob)


SMALL = Setting(0.8, 0.5, 1.0, 2)
LARGE = Setting(0.8, 2.0, 1.0, 2)
SAMPLED = Setting(0.8, 0.5, 0.25, 4)
RARE = Setting(0.3, 2.0, 1 / 8, 8)


def correct(setting):
    return audit.of_mechanism(setting.mechanism, setting.sampler, setting.rounds)


# Broken mechanisms: one field of a correct one is replaced.


def of_fields(setting, **broken):
    """The claim of the correct mechanism, and what a broken one does."""
    mechanism = setting.mechanism._replace(**broken)
    found = audit.of_mechanism(mechanism, setting.sampler, setting.rounds)
    return found._replace(event=correct(setting).event, clip_norm=setting.clip)


def finite(update):
    ok = jnp.all(jnp.isfinite(worlds.as_rows(update)))
    return jax.tree.map(lambda leaf: jnp.where(ok, leaf, 0), update)


def scaled_by(factor_of):
    """A clip that scales a finite update by a factor of it and the clip norm."""

    def make(setting):
        def clip(key, state, update):
            update = finite(update)
            factor = factor_of(update, setting.clip)
            return jax.tree.map(lambda leaf: leaf * factor, update)

        return of_fields(setting, clip=clip)

    return make


def shrunk(norm, bound):
    return jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))


def norm(update):
    return jnp.linalg.norm(worlds.as_rows(update))


def clipped_leaves(bound_leaf):
    def make(setting):
        def clip(key, state, update):
            update = finite(update)
            return jax.tree.map(lambda leaf: bound_leaf(leaf, setting.clip), update)

        return of_fields(setting, clip=clip)

    return make


def clip_after_averaging(setting):
    def privatize(key, state, total, sensitivity):
        average = jax.tree.map(lambda leaf: leaf / N, total)
        factor = N * shrunk(norm(average), setting.clip)
        total = jax.tree.map(lambda leaf: factor * leaf, average)
        return setting.mechanism.privatize(key, state, total, sensitivity)

    return of_fields(
        setting, clip=lambda key, state, update: finite(update), privatize=privatize
    )


def nan_passes(setting):
    def clip(key, state, update):
        return jax.tree.map(
            lambda leaf: leaf * jnp.minimum(1.0, setting.clip / norm(update)), update
        )

    return of_fields(setting, clip=clip)


def rounded_to_a_grid(setting):
    def clip(key, state, update):
        step = setting.clip / 2
        clipped = setting.mechanism.clip(key, state, update)
        return jax.tree.map(lambda leaf: jnp.round(leaf / step) * step, clipped)

    return of_fields(setting, clip=clip)


def noised(noise_of):
    """A mechanism whose noise is what `noise_of(key, setting)` draws."""

    def make(setting):
        def privatize(key, state, total, sensitivity):
            noise = worlds.as_tree(noise_of(key, setting))
            return jax.tree.map(jnp.add, total, noise), state

        return of_fields(setting, privatize=privatize)

    return make


def normals(key, stddev):
    return stddev * jax.random.normal(key, (worlds.DIMENSION,))


def stddev(setting):
    return setting.noise * setting.clip


def times(factor_of):
    return noised(lambda key, s: normals(key, factor_of(s) * stddev(s)))


def no_noise_on_the_bias(key, s):
    return normals(key, stddev(s)).at[worlds.LEAVES["w"] :].set(0)


def same_key_every_leaf(key, s):
    leaves = [jax.random.normal(key, (n,)) for n in worlds.LEAVES.values()]
    return stddev(s) * jnp.concatenate(leaves)


def uniform(key, s):
    reach = 3**0.5 * stddev(s)
    return jax.random.uniform(key, (worlds.DIMENSION,), minval=-reach, maxval=reach)


def laplace(key, s):
    return stddev(s) / 2**0.5 * jax.random.laplace(key, (worlds.DIMENSION,))


def half_of_the_shares(key, s):
    shares = jax.random.normal(key, (16, worlds.DIMENSION))
    return stddev(s) / 4 * jnp.sum(shares[:8], axis=0)


def float16(key, s):
    drawn = jax.random.normal(key, (worlds.DIMENSION,), jnp.float16)
    return (drawn * jnp.float16(stddev(s))).astype(jnp.float32)


def on_a_coarse_grid(key, s):
    step = s.clip / 4
    return jnp.round(normals(key, stddev(s)) / step) * step


def same_key_every_step(setting):
    def privatize(key, first, total, sensitivity):
        own = jax.random.key_data(key)
        first = jnp.where(jnp.any(first), first, own)
        noise = normals(jax.random.wrap_key_data(first), stddev(setting))
        return jax.tree.map(jnp.add, total, worlds.as_tree(noise)), first

    return of_fields(
        setting, init=lambda key, like: jnp.zeros(2, jnp.uint32), privatize=privatize
    )


def hard_coded_key(setting):
    def privatize(key, step, total, sensitivity):
        own = jax.random.fold_in(jax.random.key(0), step)
        noise = worlds.as_tree(normals(own, stddev(setting)))
        return jax.tree.map(jnp.add, total, noise), step + 1

    return of_fields(setting, init=lambda key, like: jnp.int32(0), privatize=privatize)


def sampling_rate_doubled(setting):
    sampler = federated.poisson(N, 2 * setting.prob)
    stated = correct(setting)
    found = audit.of_mechanism(setting.mechanism, sampler, setting.rounds)
    return found._replace(event=stated.event, sampling_prob=stated.sampling_prob)


# Broken rounds: what a mechanism and a sampler alone cannot get wrong.


class Step(NamedTuple):
    """One step of a broken round: its keys, its number, and who exists."""

    sample_key: base.Key
    noise_key: base.Key
    run_key: base.Key
    number: jax.Array
    present: jax.Array


def drawn(step, s):
    return (jax.random.uniform(step.sample_key, (N,)) < s.prob) & step.present


def summed(rows, took_part, s):
    return jnp.sum(jnp.where(took_part[:, None], clipped(rows, s.clip), 0), axis=0)


def clipped(rows, bound):
    ok = jnp.all(jnp.isfinite(rows), axis=1, keepdims=True)
    rows = jnp.where(ok, rows, 0)
    return rows * shrunk(jnp.linalg.norm(rows, axis=1, keepdims=True), bound)


def gaussian_noise(step, took_part, s):
    return normals(step.noise_key, stddev(s))


def of_round(*, who=drawn, total=summed, noise=gaussian_noise, after=lambda x, s: x):
    def make(setting):
        def run(key, rows, present):
            def one_round(number):
                own = jax.random.split(jax.random.fold_in(key, number))
                step = Step(own[0], own[1], key, number, present)
                took_part = who(step, setting)
                released = total(rows, took_part, setting)
                released = released + noise(step, took_part, setting)
                return after(released, setting) / setting.clip

            values = jax.vmap(one_round)(jnp.arange(setting.rounds))
            return subjects.Release(values, values[:, :0], values[:, :0])

        return correct(setting)._replace(run=run)

    return make


def fixed_size_batch(step, s):
    draw = jnp.where(step.present, jax.random.uniform(step.sample_key, (N,)), 2.0)
    size = max(1, round(s.prob * (N - 1)))
    return (draw <= jnp.sort(draw)[size - 1]) & step.present


def shuffling(step, s):
    draw = jax.random.uniform(jax.random.fold_in(step.run_key, 77), (N,))
    return (jnp.floor(draw * s.rounds).astype(jnp.int32) == step.number) & step.present


def round_robin(step, s):
    return (jnp.arange(N) % s.rounds == step.number) & step.present


def same_batch_every_step(step, s):
    own = jax.random.fold_in(step.run_key, 77)
    return (jax.random.uniform(own, (N,)) < s.prob) & step.present


def size(took_part):
    return jnp.sum(took_part, dtype=jnp.float32)


def sampling_key_for_noise(step, took_part, s):
    return normals(step.sample_key, stddev(s))


def over_the_realised_batch(rows, took_part, s):
    expected = s.prob * (N - 1)
    return expected * summed(rows, took_part, s) / jnp.maximum(size(took_part), 1)


def none_when_empty(step, took_part, s):
    return gaussian_noise(step, took_part, s) * (size(took_part) > 0).astype(
        jnp.float32
    )


def by_the_realised_batch(step, took_part, s):
    ratio = size(took_part) / (s.prob * (N - 1))
    return gaussian_noise(step, took_part, s) * jnp.sqrt(ratio)


def mean_of_pairs(rows, took_part, s):
    rows = jnp.where(jnp.isfinite(rows).all(axis=1, keepdims=True), rows, 0)
    heard = jnp.where(took_part[:, None], rows, 0)
    pairs = jnp.concatenate([heard, jnp.zeros((1, worlds.DIMENSION))])
    means = pairs.reshape(-1, 2, worlds.DIMENSION).mean(axis=1)
    return jnp.sum(clipped(means, s.clip), axis=0)


def to_the_median_norm(rows, took_part, s):
    rows = jnp.where(jnp.isfinite(rows).all(axis=1, keepdims=True), rows, 0)
    norms = jnp.where(took_part, jnp.linalg.norm(rows, axis=1), jnp.nan)
    median = jnp.nan_to_num(jnp.nanmedian(norms), nan=s.clip)
    heard = jnp.where(took_part[:, None], clipped(rows, median), 0)
    return jnp.sum(heard, axis=0) / jnp.maximum(median, 1e-12) * s.clip


def mean_subtracted(rows, took_part, s):
    rows = jnp.where(jnp.isfinite(rows).all(axis=1, keepdims=True), rows, 0)
    heard = jnp.where(took_part[:, None], rows, 0)
    mean = jnp.sum(heard, axis=0) / jnp.maximum(size(took_part), 1)
    return summed(rows - mean, took_part, s)


class Mutant(NamedTuple):
    """A broken mechanism, who must find it, and where the audit must refute it."""

    make: Callable[[Setting], audit.Subject]
    probe: str
    setting: Setting
    runs: int = 20_000


MUTANTS = {
    "noise scaled to the mean": Mutant(times(lambda s: 1 / N), "noise", SMALL),
    "noise 10% low": Mutant(times(lambda s: 0.9), "noise", SMALL),
    "noise 3% low": Mutant(times(lambda s: 0.97), "noise", SMALL, 100_000),
    "clip after averaging": Mutant(clip_after_averaging, "replay", SMALL),
    "no clip": Mutant(scaled_by(lambda update, bound: 1.0), "replay", SMALL),
    "per-leaf clip accounted as global": Mutant(
        clipped_leaves(lambda leaf, bound: leaf * shrunk(jnp.linalg.norm(leaf), bound)),
        "replay",
        SMALL,
    ),
    "L-infinity clip": Mutant(
        clipped_leaves(lambda leaf, bound: jnp.clip(leaf, -bound, bound)),
        "replay",
        SMALL,
    ),
    "clip by squared norm": Mutant(
        scaled_by(lambda update, bound: shrunk(norm(update) ** 2, bound)),
        "replay",
        SMALL,
    ),
    "clip by the first leaf's norm": Mutant(
        scaled_by(lambda update, bound: shrunk(jnp.linalg.norm(update["w"]), bound)),
        "replay",
        SMALL,
    ),
    "no noise on bias leaves": Mutant(noised(no_noise_on_the_bias), "noise", SMALL),
    "same key every step": Mutant(same_key_every_step, "noise", SAMPLED),
    "same key every leaf": Mutant(noised(same_key_every_leaf), "noise", SMALL),
    "hard-coded key": Mutant(hard_coded_key, "noise", SMALL),
    "sampling key reused for noise": Mutant(
        of_round(noise=sampling_key_for_noise), "noise", SAMPLED
    ),
    "stddev sigma squared": Mutant(times(lambda s: s.noise), "noise", SMALL),
    "noise forgets C": Mutant(times(lambda s: 1 / s.clip), "noise", LARGE),
    "uniform noise": Mutant(noised(uniform), "noise", SMALL),
    "Laplace noise": Mutant(noised(laplace), "noise", SMALL),
    "fixed-size batch accounted as Poisson": Mutant(
        of_round(who=fixed_size_batch), "participation", SAMPLED
    ),
    "shuffling accounted as Poisson": Mutant(
        of_round(who=shuffling), "participation", RARE
    ),
    "round robin accounted as Poisson": Mutant(
        of_round(who=round_robin), "participation", SAMPLED
    ),
    "sampling rate doubled": Mutant(sampling_rate_doubled, "participation", SAMPLED),
    "same batch every step": Mutant(
        of_round(who=same_batch_every_step), "participation", SAMPLED
    ),
    "division by the realised batch": Mutant(
        of_round(total=over_the_realised_batch), "replay", SAMPLED
    ),
    "no noise when the batch is empty": Mutant(
        of_round(noise=none_when_empty), "noise", SAMPLED
    ),
    "noise scaled by the realised batch": Mutant(
        of_round(noise=by_the_realised_batch), "noise", SAMPLED
    ),
    "microbatch mean clip": Mutant(of_round(total=mean_of_pairs), "replay", SMALL),
    "clip to the batch median": Mutant(
        of_round(total=to_the_median_norm), "replay", SMALL
    ),
    "NaN passes the clip": Mutant(nan_passes, "replay", SMALL),
    "mean subtracted across the batch": Mutant(
        of_round(total=mean_subtracted), "replay", SMALL
    ),
    "rounding to a grid after clipping": Mutant(rounded_to_a_grid, "replay", SMALL),
    "half the noise shares lost": Mutant(noised(half_of_the_shares), "noise", SMALL),
    "float16 noise": Mutant(noised(float16), "noise", SMALL),
    "noise on a coarse grid": Mutant(noised(on_a_coarse_grid), "noise", SMALL),
}


def clip_after_noise(released, s):
    return released * shrunk(jnp.linalg.norm(released), s.clip)


def wrapped(released, s):
    return jnp.mod(released + 4 * s.clip, 8 * s.clip) - 4 * s.clip


SAFE = {
    "clip after noise": of_round(after=clip_after_noise),
    "double noise": times(lambda s: 2.0),
    "modular wrap": of_round(after=wrapped),
}
"""Not as the claim says, and no less private."""
SAME_PROBE = ("double noise",)
"""Allowed by the same probe as another that runs in less time."""
STATED = {
    "clip after noise": lambda found, s: found._replace(noise=None),
    "double noise": lambda found, s: found._replace(noise=(2 * s.noise,) * s.rounds),
    "modular wrap": lambda found, s: found._replace(modulus=8.0),
}
"""What their authors would say of them."""


BY_THE_AUDIT = ("Laplace noise",)
"""Their claims are refuted without a probe that knows where to look, too; all others'
are in the exhaustive tests.
"""


AGAIN = {
    "noise 10% low",
    "noise 3% low",
    "L-infinity clip",
    "clip by squared norm",
    "clip by the first leaf's norm",
    "same key every leaf",
    "stddev sigma squared",
    "uniform noise",
    "shuffling accounted as Poisson",
    "round robin accounted as Poisson",
    "noise scaled by the realised batch",
    "microbatch mean clip",
    "clip to the batch median",
    "mean subtracted across the batch",
    "float16 noise",
    "noise on a coarse grid",
}
"""What a probe finds that finds a mutant of the same kind among the others."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in AGAIN else [])
        for name in MUTANTS
    ],
)
def test_a_broken_mechanism_is_caught_by_the_probe_it_names(name):
    make, probe, setting, _ = MUTANTS[name]
    report = audit.check_mechanism(make(setting), detectors=(probe,))
    assert report.refuted_by == (probe,), report


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in BY_THE_AUDIT else pytest.mark.exhaustive)
        for name in MUTANTS
    ],
)
def test_the_audit_refutes_the_claim_of_a_broken_mechanism(name):
    make, _, setting, runs = MUTANTS[name]
    report = audit.check_mechanism(make(setting), num_runs=runs, detectors=("audit",))
    assert report.refuted_by == ("audit",), report


few_and_many_runs = pytest.mark.parametrize(
    "num_runs", [2000, pytest.param(20_000, marks=pytest.mark.exhaustive)]
)


# "gaussian" passes for everyone and for Poisson sampling in audit/test_contract.py.
@pytest.mark.exhaustive
@pytest.mark.parametrize("num_runs", [2000, 20_000])
@pytest.mark.parametrize("setting", [SMALL, SAMPLED, LARGE, RARE])
def test_the_correct_ones_pass(setting, num_runs):
    report = audit.check_mechanism(correct(setting), num_runs=num_runs)
    assert report.passed, report


@few_and_many_runs
def test_the_round_without_a_bug_passes(num_runs):
    report = audit.check_mechanism(of_round()(SAMPLED), num_runs=num_runs)
    assert report.passed, report


@few_and_many_runs
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in SAME_PROBE else [])
        for name in SAFE
    ],
)
def test_a_safe_variation_stays_alive(name, num_runs):
    unsaid = SAFE[name](SAMPLED)
    report = audit.check_mechanism(unsaid, num_runs=num_runs, detectors=("audit",))
    assert report.passed, report
    report = audit.check_mechanism(
        STATED[name](unsaid, SAMPLED), detectors=("replay", "noise", "participation")
    )
    # Clipping after noise hides who took part; that is nobody's loss.
    excused = {"participation"} if name == "clip after noise" else set()
    assert set(report.refuted_by) <= excused, report
