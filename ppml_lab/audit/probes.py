"""Quick checks inside a mechanism: its clipping, its noise, its participation.

With an explicit key the same noise falls on both neighbours, so that the difference of
two releases IS the difference of the sums before noise. Probes say what is wrong; the
mechanism audit (`contract.audit`) says how much privacy the fault costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from scipy import stats

from ppml_lab import base
from ppml_lab.audit import worlds
from ppml_lab.audit.subjects import Release, Rounds, Subject

ALPHA = 1e-5
"""The probability that a statistical probe refutes a mechanism that is as stated."""

_FLOAT_ROUNDING = 1e-3


class Finding(NamedTuple):
    """A detector's finding.

    Attributes:
      detector: One of `contract.DETECTORS`.
      refuted: True where the mechanism is not what it states.
      detail: The observation, and its world.
    """

    detector: str
    refuted: bool
    detail: str


class Seen(NamedTuple):
    """The `Release`s of many runs, `[runs, rounds, ...]`, on the host."""

    values: np.ndarray
    hidden: np.ndarray
    extras: np.ndarray
    hidden_low: np.ndarray | None = None
    memory: np.ndarray | None = None
    unmoved: np.ndarray | None = None


Runner = Callable[..., Seen]
"""`(key numbers [runs], rows [worlds, ...], present, world of each run, numbers of the
rounds [runs, rounds] (by default from 0 on)) -> Seen`."""


def runner(subject: Subject, seed: int, chunk: int = 4096) -> Runner:
    """Runs a subject many times, vmapped, in chunks that share one program."""
    key = jax.random.key(seed)

    @jax.jit
    def program(
        numbers: Any, rows: Any, present: Any, which: Any, rounds: Any
    ) -> Release:
        def one(number: Array, world: Array, rounds: Array) -> Release:
            own = jax.random.fold_in(key, number)
            if isinstance(subject.run, Rounds):
                return subject.run.at(own, rows[world], present[world], rounds)
            return subject.run(own, rows[world], present[world])

        return jax.vmap(one)(numbers, which, rounds)

    def run(
        numbers: np.ndarray,
        rows: np.ndarray,
        present: np.ndarray,
        which: np.ndarray,
        rounds: np.ndarray | None = None,
    ) -> Seen:
        # All callers' worlds come in arrays of one shape: one compilation.
        data = _padded(rows, present)
        if rounds is None:
            of_a_run = subject.run.num_rounds if isinstance(subject.run, Rounds) else 1
            rounds = np.tile(np.arange(of_a_run), (len(numbers), 1))
        parts = []
        for begin in range(0, len(numbers), chunk):
            cut = slice(begin, begin + chunk)
            missing = chunk - len(numbers[cut])
            own, world = (np.pad(part[cut], (0, missing)) for part in (numbers, which))
            places = np.pad(rounds[cut], ((0, missing), (0, 0)))
            release = program(
                own.astype(np.int32),
                *data,
                world.astype(np.int32),
                places.astype(np.int32),
            )
            parts.append(
                jax.tree.map(
                    lambda leaf, missing=missing: np.asarray(leaf)[: chunk - missing],
                    release,
                )
            )
        return Seen(*jax.tree.map(lambda *all: np.concatenate(all), *parts))

    return run


_MOST_WORLDS = 32


def _padded(rows: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    missing = _MOST_WORLDS - len(rows)
    return (
        np.pad(rows, ((0, missing), (0, 0), (0, 0))),
        np.pad(present, ((0, missing), (0, 0))),
    )


def replay(subject: Subject, run: Runner, num_keys: int = 100) -> Finding:
    """Checks that a contribution moves the first sum by at most the sensitivity.

    Neighbouring data sets that are made to be difficult run under the same keys.
    """
    if not subject.additive:
        return Finding("replay", False, "not applicable: noise depends on the data")
    relation = subject.event.neighboring_relation
    pairs = worlds.adversarial(subject.clip_norm, relation)
    rows = np.stack([r for w in pairs.values() for r in (w.rows_in, w.rows_out)])
    present = np.stack(
        [p for w in pairs.values() for p in (w.present_in, w.present_out)]
    )
    numbers = np.tile(np.arange(num_keys), len(rows))
    release = run(numbers, rows, present, np.repeat(np.arange(len(rows)), num_keys))
    limit = subject.steps * (2.0 if relation == "replace_one" else 1.0)
    worst, where = 0.0, ""
    hidden = release.hidden[:, 0].astype(np.float64)
    if release.hidden_low is not None:
        hidden = hidden + release.hidden_low[:, 0]
    for seen in (release.values[:, 0].astype(np.float64), hidden):
        by_world = seen.reshape(len(pairs), 2, num_keys, -1)
        for name, (inside, outside) in zip(pairs, by_world, strict=True):
            if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
                return Finding(
                    "replay", True, f"the sum is not finite in world '{name}'"
                )
            gap = _wrapped(inside - outside, subject.modulus)
            moved = float(np.linalg.norm(gap, axis=-1).max(initial=0.0))
            if moved > worst:
                worst, where = moved, name
    detail = f"one contribution moves the sum by {worst:.4g} sensitivities"
    return Finding(
        "replay",
        worst > limit * (1 + _FLOAT_ROUNDING),
        f"{detail} (at most {limit:g}) in world '{where}'",
    )


def noise(subject: Subject, run: Runner, num_runs: int = 8192) -> Finding:
    """Checks the noise alone, on nobody's data: its scale, distribution, independence.

    Noise must be independent across coordinates, leaves, rounds and runs, and of the
    sampling. Where rounds share noise, this holds for the noise that each round adds.
    """
    if subject.noise is None:
        return Finding(
            "noise",
            False,
            "not applicable: the subject claims noise that is not Gaussian",
        )
    relation = subject.event.neighboring_relation
    empty = worlds.nobody(relation)
    values = run(np.arange(num_runs), *alone(empty), np.zeros(num_runs)).values
    scaled = fresh(values, subject.mixing) / np.asarray(subject.noise)[:, None]
    flat = scaled.reshape(num_runs, -1)
    grain = () if subject.grid else (_grain,)
    for test in (_finite, _scale, *grain, _independence, _shape):
        problem = test(flat)
        if problem:
            return Finding("noise", True, problem)
    problem = _tied_to_sampling(subject, run, scaled[:2048])
    return Finding("noise", problem is not None, problem or "as claimed")


def participation(subject: Subject, run: Runner, num_runs: int = 8192) -> Finding:
    """Checks who takes part: the sampling rate, independence, and counts per round.

    Where the claim is a participation pattern, checks how far apart and how often rows
    take part instead.
    """
    if subject.pattern is not None:
        return _turns(subject, subject.pattern, run, num_runs)
    prob, size = subject.sampling_prob, subject.cohort_size
    if prob is None and size is None:
        return Finding("participation", False, "not applicable: nothing is claimed")
    chance = prob if size is None else size / worlds.NUM_ROWS
    took_part = who_took_part(subject, run, np.arange(num_runs))
    _, num_rounds, members = took_part.shape
    rates = took_part.mean(axis=0) / subject.steps
    least = min(
        stats.binomtest(int(count), num_runs * subject.steps, chance).pvalue
        for count in took_part.sum(axis=0).reshape(-1)
    )
    if least < ALPHA / (3 * rates.size):
        seen = f"{rates.min():.3f} to {rates.max():.3f}"
        return Finding("participation", True, f"rates {seen}, claimed {chance:.3f}")
    number = np.arange(members * subject.steps + 1)
    in_a_round = stats.binom.pmf(number, members * subject.steps, chance)
    if size is not None:
        in_a_round = stats.hypergeom.pmf(number, worlds.NUM_ROWS, size, members)
    # Members of a round depend on each other if its size is fixed; rounds never depend.
    drawn = num_rounds * subject.steps
    laws = {
        "members per round": (took_part.sum(axis=2).reshape(-1), in_a_round),
        "rounds per member": (
            took_part[:, :, 0].sum(axis=1),
            stats.binom.pmf(np.arange(drawn + 1), drawn, chance),
        ),
    }
    if size is not None and subject.steps > 1:
        # Sums of hypergeometric counts have no named distribution.
        del laws["members per round"]
    for name, (counts, law) in laws.items():
        p_value = _law_p_value(counts, law)
        if p_value < ALPHA / 3:
            detail = f"{name} do not follow the claimed distribution, p = {p_value:.1e}"
            return Finding("participation", True, detail)
    return Finding("participation", False, f"rate {chance:.3f} as claimed")


def _turns(
    subject: Subject, pattern: base.Participation, run: Runner, num_runs: int
) -> Finding:
    """Checks that nobody takes part sooner, or more often, than a pattern allows."""
    took_part = who_took_part(subject, run, np.arange(num_runs)) > 0
    most = int(took_part.sum(axis=1).max())
    if most > pattern.max_participations:
        detail = f"a row takes part {most} times, claimed {pattern.max_participations}"
        return Finding("participation", True, detail)
    apart = pattern.min_separation
    for gap in range(1, min(apart, took_part.shape[1])):
        if (took_part[:, gap:] & took_part[:, :-gap]).any():
            detail = f"a row comes again after {gap} rounds, claimed {apart}"
            return Finding("participation", True, detail)
    return Finding("participation", False, f"at least {apart} rounds apart as claimed")


def fresh(values: np.ndarray, mixing: tuple[float, ...]) -> np.ndarray:
    """The noise that every round adds to the noise that it shares with earlier rounds.

    `values` and the result are `[runs, rounds, ...]`, from the first round of a run on.
    """
    found = values.astype(np.float64)
    for number in range(1, found.shape[1]):
        for ago, part in enumerate(mixing[1 : number + 1], start=1):
            found[:, number] -= part * found[:, number - ago]
    return found


def alone(data: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the presence of one data set, as the only world of a run."""
    rows, present = data
    return rows[None], present[None]


def _wrapped(gap: np.ndarray, modulus: float | None) -> np.ndarray:
    if modulus is None:
        return gap
    return (gap + modulus / 2) % modulus - modulus / 2


def who_took_part(
    subject: Subject,
    run: Runner,
    numbers: np.ndarray,
    rounds: np.ndarray | None = None,
) -> np.ndarray:
    """The number of times each of the first rows took part, `[runs, rounds, rows]`.

    Counted by replay without these rows under the same keys.
    """
    gap = gap_of_rows(subject, run, numbers, rounds)
    if subject.steps > 1:
        return np.rint(np.abs(gap)).astype(int)
    return (np.abs(gap) > 0.25).astype(int)


def gap_of_rows(
    subject: Subject,
    run: Runner,
    numbers: np.ndarray,
    rounds: np.ndarray | None = None,
) -> np.ndarray:
    """The moves of the releases by the first rows, each on a coordinate of its own."""
    relation = subject.event.neighboring_relation
    everyone = worlds.one_coordinate_each(subject.clip_norm, relation)
    nobody = worlds.nobody(relation)
    rows, present = (np.stack([everyone[i], nobody[i]]) for i in (0, 1))
    twice = np.tile(numbers, 2)
    which = np.repeat([0, 1], len(numbers))
    both = None if rounds is None else np.tile(rounds, (2, 1))
    seen = run(twice, rows, present, which, both)
    values = seen.values[:, :, : worlds.DIMENSION].astype(np.float64)
    return _wrapped(values[: len(numbers)] - values[len(numbers) :], subject.modulus)


def _law_p_value(counts: np.ndarray, law: np.ndarray) -> float:
    """The p-value of a chi-squared test; pools outcomes expected fewer than 5 times."""
    expected = law * len(counts)
    observed = np.bincount(counts.astype(int), minlength=len(law))[: len(law)]
    often = expected >= 5
    rest = [observed[~often].sum(), expected[~often].sum()]
    # Too rare for the normal approximation.
    if rest[1] < 5 and stats.poisson.sf(rest[0] - 1, max(rest[1], 1e-9)) < ALPHA / 10:
        return 0.0
    seen, due = observed[often], expected[often]
    if rest[1] >= 5:
        seen, due = np.append(seen, rest[0]), np.append(due, rest[1])
    if len(seen) < 2:
        return 1.0
    statistic = float(((seen - due) ** 2 / due).sum())
    return float(stats.chi2.sf(statistic, len(seen) - 1))


def _finite(x: np.ndarray) -> str | None:
    return None if np.isfinite(x).all() else "not finite"


def _scale(x: np.ndarray) -> str | None:
    num_runs, columns = x.shape
    energy = (x**2).sum(axis=0)
    each = ALPHA / (10 * columns)
    for total, degrees, level in (
        (energy.sum(), num_runs * columns, ALPHA / 10),
        (energy.min(), num_runs, each),
        (energy.max(), num_runs, each),
    ):
        if min(stats.chi2.cdf(total, degrees), stats.chi2.sf(total, degrees)) < level:
            return f"stddev is {np.sqrt(total / degrees):.3f} of the claimed"
    return None


def _grain(x: np.ndarray) -> str | None:
    # There are 2^23 float32 normals: of this few draws hardly any two are equal.
    drawn = x.reshape(-1)[: 1 << 17]
    distinct = len(np.unique(drawn)) / drawn.size
    if distinct < 0.9:
        return f"on a grid, or repeated: {distinct:.0%} of values are distinct"
    return None


def _independence(x: np.ndarray) -> str | None:
    num_runs, columns = x.shape
    table = np.corrcoef(x.T)[np.triu_indices(columns, 1)]
    largest = float(np.abs(table).max(initial=0.0))
    p_value = 2 * stats.norm.sf(largest * np.sqrt(num_runs)) * max(table.size, 1)
    if p_value < ALPHA / 5:
        return f"coordinates or rounds correlate by {largest:.2f}"
    return None


def _shape(x: np.ndarray) -> str | None:
    columns = x.shape[1]
    least = min(stats.kstest(x[:, j], "norm").pvalue for j in range(columns))
    if least * columns < ALPHA / 5:
        return f"not Gaussian at the claimed scale, p = {least:.1e}"
    return None


def _tied_to_sampling(subject: Subject, run: Runner, noise: np.ndarray) -> str | None:
    """Checks that noise does not tell who was sampled; `noise` is of the first keys."""
    claims = (subject.sampling_prob, subject.cohort_size, subject.pattern)
    if all(claim is None for claim in claims):
        return None
    num_runs = len(noise)
    took_part = who_took_part(subject, run, np.arange(num_runs)).astype(np.float64)
    for number in range(noise.shape[1]):
        who = took_part[:, number]
        who = who[:, who.std(axis=0) > 0]
        table = np.corrcoef(who.T, noise[:, number].T)[: who.shape[1], who.shape[1] :]
        largest = float(np.abs(table).max(initial=0.0))
        tests = max(table.size, 1) * noise.shape[1]
        if 2 * stats.norm.sf(largest * np.sqrt(num_runs)) * tests < ALPHA / 5:
            return f"noise and sampling correlate by {largest:.2f}"
    return None
