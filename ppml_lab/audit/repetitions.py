"""Checks for randomness that comes again: in rounds far apart, or in another run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import PyTree
from scipy import stats

from ppml_lab import arguments, checks
from ppml_lab.audit import probes, worlds
from ppml_lab.audit.probes import Finding
from ppml_lab.audit.subjects import Rounds, Subject

FAR_APART = (
    *range(12),
    *(place for power in range(4, 31) for place in (2**power, 2**power + 1)),
)
"""Rounds of which every pair is compared: counters wrap around at powers of two."""

_SHUFFLES = 100_000


def rounds(subject: Subject, run: probes.Runner, num_runs: int = 256) -> Finding:
    """Checks that no two rounds have noise or cohorts in common, except as claimed.

    Rounds are near each other and up to 2^30 apart.
    """
    if not isinstance(subject.run, Rounds):
        return Finding(
            "rounds", False, "not applicable: a run cannot begin at a later round"
        )
    length = subject.run.num_rounds
    missing = -len(FAR_APART) % length
    # More rounds, to fill the last run.
    last = FAR_APART[-1] + 2 * np.arange(1, missing + 1)
    numbers = np.concatenate([FAR_APART, last]).astype(np.int64)
    groups = np.repeat(numbers.reshape(-1, length), num_runs, axis=0)
    keys = np.tile(np.arange(num_runs), len(numbers) // length)

    def by_round(x: np.ndarray) -> np.ndarray:
        parts = x.reshape(len(numbers) // length, num_runs, length, -1)
        return parts.transpose(0, 2, 1, 3).reshape(len(numbers), num_runs, -1)

    empty = worlds.nobody(subject.event.neighboring_relation)
    alone = probes.alone(empty)
    values = run(keys, *alone, np.zeros(len(keys)), groups).values
    found = {"noise": by_round(values.astype(np.float64))}
    if subject.sampling_prob is not None or subject.cohort_size is not None:
        drawn = probes.who_took_part(subject, run, keys, groups)
        found["cohorts"] = by_round(drawn.astype(np.float64))
    shared = {"noise": _shared(numbers, subject.mixing)}
    for what, drawn in found.items():
        claimed = shared.get(what, np.eye(len(numbers)))
        problem = _in_common(drawn, numbers, claimed, probes.ALPHA / len(found))
        if problem:
            return Finding("rounds", True, f"{what} of {problem}")
    return Finding("rounds", False, f"{len(numbers)} rounds have nothing in common")


def _shared(numbers: np.ndarray, mixing: tuple[float, ...]) -> np.ndarray:
    """The correlations between noises of rounds that share fresh noises."""
    fresh = np.unique(numbers[:, None] - np.arange(len(mixing)))
    made_of = np.zeros((len(numbers), len(fresh)))
    for ago, part in enumerate(mixing):
        # Before the first round there is no noise.
        rows = np.flatnonzero(numbers >= ago)
        made_of[rows, np.searchsorted(fresh, numbers[rows] - ago)] = part
    made_of /= np.linalg.norm(made_of, axis=1, keepdims=True)
    return made_of @ made_of.T


def _in_common(
    drawn: np.ndarray, numbers: np.ndarray, claimed: np.ndarray, alpha: float
) -> str | None:
    """Names two rounds of `[rounds, runs, values]` that correlate unlike the claim."""
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    standard = np.where(spread > 0, centred / np.maximum(spread, 1e-30), 0)
    flat = standard.reshape(len(drawn), -1)
    # Members of a cohort of fixed size depend on each other, at most as if all equal.
    table = flat @ flat.T / flat.shape[1]
    first, second = np.triu_indices(len(table), 1)
    due = claimed[first, second]
    # The error of an estimated correlation is largest where there is none.
    sizes = np.abs(table[first, second] - due)
    worst = int(np.argmax(sizes))
    p_value = 2 * stats.norm.sf(sizes[worst] * np.sqrt(drawn.shape[1])) * len(sizes)
    if p_value >= alpha:
        return None
    one, other = numbers[first[worst]], numbers[second[worst]]
    seen = table[first[worst], second[worst]]
    return f"rounds {one} and {other} correlate by {abs(seen):.2f}"


@arguments.checked
def check_independence(
    runs: Mapping[str, Callable[[int], PyTree]],
    *,
    num_seeds: int = 12,
    seed: int = 0,
) -> Finding:
    """Checks whether runs that share a seed share randomness.

    The runs are points of one sweep, or one point on data that differ by one row.
    Whoever sees two releases with the same noise, or of the same cohort, can subtract
    one from the other, so that their composition promises nothing. Every run is made at
    every seed; what two runs have in common at equal seeds is compared with what they
    have in common at different seeds.

    **Guarantee:** it refutes runs that are independent with probability 1e-4 at most.
    It sees what most of a run's numbers are made of: give noise that is most of a
    release, and cohorts as numbers of their own. Passing is no proof.

    Args:
      runs: By the name of the point, a function from a seed to all that the run draws,
        such as `{"model": change of the parameters, "cohort": who took part}`; trees of
        equal structure whose leaves of one name are compared, at equal shapes.
      num_seeds: The number of seeds, from `seed` on; at least 9.
      seed: The first seed.

    Returns:
      The finding, as detector "independence".

    Raises:
      ValueError: For fewer than two runs, fewer than 9 seeds at which all runs are
        finite (other seeds are left out, and counted in the detail), or different
        structures.
    """
    checks.at_least("num_seeds", num_seeds, 9)
    checks.at_least("seed", seed, 0)
    if len(runs) < 2:
        raise ValueError(f"runs must be at least two to be compared, got {len(runs)}")
    seeds = range(seed, seed + num_seeds)
    drawn = {name: _stacked([run(own) for own in seeds]) for name, run in runs.items()}
    structures = {jax.tree.structure(tree) for tree in drawn.values()}
    if len(structures) > 1:
        raise ValueError(f"runs must return trees of one structure, got {structures}")
    drawn, lost = _finite(drawn)
    num_seeds -= lost
    checks.at_least("num_seeds: seeds at which all runs are finite", num_seeds, 9)
    pairs = list(itertools.combinations(drawn, 2))
    shuffles = _shuffles(num_seeds)
    least, detail = 1.0, f"{len(runs)} runs have nothing in common"
    for one, other in pairs:
        leaves = jax.tree_util.tree_leaves_with_path(drawn[one])
        others = jax.tree.leaves(drawn[other])
        for (path, leaf), same in zip(leaves, others, strict=True):
            p_value = _p_value(leaf, same, shuffles) * len(pairs) * len(leaves)
            if p_value < least:
                where = jax.tree_util.keystr(path) or "what is drawn"
                least = p_value
                seen = (
                    f"'{one}' and '{other}' share {where} at the same seed, p = "
                    f"{p_value}"
                )
                detail = seen if p_value < _RARE else detail
    if lost:
        detail += f"; {lost} seeds with a run that is not finite are left out"
    return Finding("independence", least < _RARE, detail)


_RARE = 1e-4


def _finite(drawn: dict[str, PyTree]) -> tuple[dict[str, PyTree], int]:
    """The draws at seeds where all runs are finite, and the number of other seeds.

    A run that diverged is like no other.
    """
    leaves = jax.tree.leaves(drawn)
    whole = np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)
    kept = {
        name: jax.tree.map(lambda leaf: leaf[whole], tree)
        for name, tree in drawn.items()
    }
    return kept, int((~whole).sum())


def _stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(
        lambda *leaves: np.stack([np.ravel(leaf) for leaf in leaves]).astype(float),
        *trees,
    )


def _shuffles(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.argsort(rng.random((_SHUFFLES, count)), axis=1)


def _p_value(one: np.ndarray, other: np.ndarray, shuffles: np.ndarray) -> float:
    """The probability that shuffled seeds have as much in common as equal seeds."""
    if one.shape != other.shape:
        return 1.0
    table = _standard(one) @ _standard(other).T
    seeds = np.arange(len(table))
    # Noise with the opposite sign, or scaled, cancels as well.
    seen = abs(np.trace(table))
    if seen == 0:
        return 1.0
    by_chance = np.abs(table[seeds, shuffles].sum(axis=1))
    as_much = (by_chance >= seen * (1 - 1e-9)).sum()
    return float((as_much + 1) / (len(shuffles) + 1))


def _standard(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    return np.where(x.std(axis=0) > 0, centred / np.maximum(x.std(axis=0), 1e-300), 0)
