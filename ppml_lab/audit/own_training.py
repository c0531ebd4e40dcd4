"""Audits of any training function, unchanged: many trainings, or a single training.

Many trainings are made with and without one record; a single training has many records
that may or may not be in. The function needs only the form `train(key, examples) ->
model`, and the attack `score(model, rows)`, higher where the rows look as if they were
in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.audit import bounds, evidence, one_run, roc

Train = Callable[[base.Key, PyTree], Any]
"""`(key, examples) -> model`, where the model is anything that `Score` reads."""
Score = Callable[[Any, PyTree], Any]
"""`(model, rows) -> numbers`, higher where the rows look as if they were trained on."""

_OWN = 0x61756474
"""Folded into keys, so that data made from `jax.random.key(seed)` share none of them.
"""


class Leak(NamedTuple):
    """The result of an attack on many trainings."""

    bound: bounds.LowerBound
    """The lower bound on epsilon, valid for any training."""
    ceiling: float
    """The most that this number of runs can show; a bound near it is the audit's."""
    auc: roc.Interval
    """The AUC with which scores rank runs with the record above runs without it."""
    errors: evidence.Errors
    """The errors, for other bounds and for `tradeoff.judge`."""
    scores_in: Float[np.ndarray, " runs"]
    """Scores of trainings with the record."""
    scores_out: Float[np.ndarray, " runs"]
    """Scores of trainings without the record."""


class LeakInOneRun(NamedTuple):
    """The result of an attack on a single training."""

    bound: bounds.LowerBound
    """The lower bound on epsilon, valid for any training."""
    ceiling: float
    """The most that this number of guesses can show."""
    guesses: one_run.Guesses
    """The guesses, for other bounds such as `one_run.gaussian`."""
    scores: Float[np.ndarray, " canaries"]
    """The score of each canary."""
    included: Bool[np.ndarray, " canaries"]
    """True for the canaries that were in."""


@arguments.checked
def training(
    train: Train,
    examples: PyTree,
    canary: PyTree,
    *,
    score: Score,
    instead: PyTree = None,
    num_runs: int = 200,
    width: int | None = 8,
    seed: int = 0,
    delta: float,
    alpha: float = 0.05,
) -> Leak:
    """A lower bound on the epsilon of a training function, from many runs.

    Half of the runs have a record and half do not: Jagielski, Ullman, Oprea, "Auditing
    Differentially Private Machine Learning", NeurIPS 2020. The threshold on the scores
    is chosen on one half of the runs; errors are counted on the other half, and bounded
    after Clopper and Pearson.

    **Guarantee:** the bound is above the epsilon of `train`, for the privacy unit that
    `canary` is and the neighbouring relation that `instead` sets, with probability
    `alpha` at most, for any function. An attack that finds nothing shows nothing.

    Args:
      train: The audited function. All its randomness comes from the key, and it looks
        at no data but the examples, whose number it must take from them. With a width
        it is traced once more, to see whether that gives the same program.
      examples: The training data: arrays, rows along the leading axis.
      canary: The record: rows of the same fields, one for a row of data, or all rows of
        one person. `audit.canaries` has some that are easily found.
      score: One number for the canary's rows, such as minus their loss.
      instead: Rows in place of the canary in the runs without it, which makes the two
        data sets neighbours under "replace_one"; None leaves the canary out
        ("add_or_remove_one").
      num_runs: Trainings on each side.
      width: Trainings at once in one compiled program, for functions that jax can
        trace; None calls the functions run by run, as they are, both sides in random
        order.
      seed: The seed of the runs' keys and of the halves.
      delta: The delta at which epsilon is bounded.
      alpha: The probability that the bound is wrong.

    Raises:
      ValueError: For rows that do not fit the examples, a score that is not one number
        or NaN, with a width functions that jax cannot trace or that make randomness of
        their own, or too few runs.
    """
    checks.at_least("seed", seed, 0)
    check_runs(num_runs, alpha, delta)
    if width is not None:
        checks.at_least("width", width, 1)
    _check_rows("canary", canary, examples)
    inside, outside = _joined(examples, canary), examples
    if instead is not None:
        _check_rows("instead", instead, examples)
        if _count(instead) != _count(canary):
            raise ValueError(
                f"instead has {_count(instead)} rows, but canary has {_count(canary)}; "
                "give both the same number of rows"
            )
        outside = _joined(examples, instead)
    own = jax.random.fold_in(jax.random.key(seed), _OWN)
    keys = jax.random.split(own, 2 * num_runs)
    sides = (keys[:num_runs], inside), (keys[num_runs:], outside)
    if width is None:
        scores_in, scores_out = _one_by_one(train, score, sides, canary, seed)
    else:
        scores_in, scores_out = (
            _compiled(train, score, own, rows, canary, width) for own, rows in sides
        )
    return leak_of(scores_in, scores_out, seed, delta, alpha)


def check_runs(num_runs: int, alpha: float, delta: float) -> None:
    """Raises ValueError where half of `num_runs` runs on a side bound nothing."""
    checks.at_least("num_runs", num_runs, 1)
    checks.probability("delta", delta, allow_one=False)
    evidence.check_enough(num_runs // 2, alpha, factor=2, name="num_runs")


def leak_of(
    scores_in: np.ndarray, scores_out: np.ndarray, seed: int, delta: float, alpha: float
) -> Leak:
    """The `Leak` that scores show, with a threshold from one half of the scores."""
    errors = evidence.halves(
        scores_in, scores_out, seed=seed, alpha=alpha, objective=evidence.ratio
    )
    return Leak(
        bounds.clopper_pearson(errors, delta=delta, alpha=alpha),
        bounds.ceiling(errors.num_in, delta=delta, alpha=alpha),
        roc.auc(scores_in, scores_out, alpha=alpha),
        errors,
        scores_in,
        scores_out,
    )


@arguments.checked
def training_in_one_run(
    train: Train,
    examples: PyTree,
    canaries: PyTree,
    *,
    score: Score,
    guessed: float = 0.4,
    seed: int = 0,
    delta: float,
    alpha: float = 0.05,
) -> LeakInOneRun:
    """A lower bound on the epsilon of a training function, from a single call.

    The call has many records, and each is in by its own fair coin: Steinke, Nasr,
    Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.

    **Guarantee:** the bound is above the epsilon of `train`, for one row and
    "add_or_remove_one", with probability `alpha` at most, for any function. The bound
    is loose: with m canaries hardly more than log(m) can be shown.

    Args:
      train: The audited function, called once, as it is; see `training`.
      examples: The training data, beside the canaries.
      canaries: Rows of the same fields, each a record of its own.
      score: One number for each row.
      guessed: The share of canaries for which the attack guesses: half of this share,
        with the highest scores, "in", and half, with the lowest, "out".
      seed: The seed of the training's key, and of the coins.
      delta: The delta at which epsilon is bounded.
      alpha: The probability that the bound is wrong.

    Raises:
      ValueError: For rows that do not fit the examples, scores that are not one number
        a row or NaN, or too few canaries.
    """
    checks.probability("guessed", guessed, allow_one=True)
    checks.at_least("seed", seed, 0)
    _check_rows("canaries", canaries, examples)
    count = _count(canaries)
    each = int(guessed * count / 2)
    most = one_run.Guesses(count, 2 * each, 2 * each)
    # Raises before the training, which takes long: too few canaries bound nothing.
    ceiling = one_run.steinke(most, delta=delta, alpha=alpha).epsilon
    # The coins have a stream of their own: canaries may come from `default_rng(seed)`.
    included = np.random.default_rng([seed, *b"coins"]).random(count) < 0.5
    chosen = jax.tree.map(lambda leaf: np.asarray(leaf)[included], canaries)
    model = train(
        jax.random.fold_in(jax.random.key(seed), _OWN), _joined(examples, chosen)
    )
    scores = np.asarray(score(model, canaries), np.float64)
    if scores.shape != (count,):
        raise ValueError(
            f"score must give one number for each of {count} canaries, got shape "
            f"{list(scores.shape)}"
        )
    guesses = one_run.guess(scores, included, num_in=each, num_out=each)
    bound = one_run.steinke(guesses, delta=delta, alpha=alpha)
    return LeakInOneRun(bound, ceiling, guesses, scores, included)


def _compiled(
    train: Train, score: Score, keys: base.Key, rows: PyTree, canary: PyTree, width: int
) -> np.ndarray:
    """Runs all trainings of a side in one program, `width` at once."""

    def one(key: base.Key, rows: PyTree, canary: PyTree) -> Array:
        return _one_number(score(train(key, rows), canary))

    @jax.jit
    def program(keys: base.Key, rows: PyTree, canary: PyTree) -> Array:
        return jax.lax.map(
            lambda key: one(key, rows, canary),
            keys,
            batch_size=None if width == 1 else width,
        )

    try:
        first, second = (_traced(one, keys[0], rows, canary) for _ in range(2))
        if first != second:
            raise ValueError(
                "train or score draws randomness without the key, which tracing turns "
                "into a constant of all runs; draw from the key, or give width=None"
            )
        return np.asarray(program(keys, rows, canary), np.float64)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"train or score cannot be traced by jax ({str(error).splitlines()[0]}); "
            "give width=None to call them untraced, one run at a time"
        ) from error


def _traced(one: Callable[..., Array], *arguments: Any) -> tuple[str, list[bytes]]:
    """The operations and constants that a function is traced to."""

    # A new function at each call, because jax remembers what it has traced.
    def again(*arguments: Any) -> Array:
        return one(*arguments)

    found = jax.make_jaxpr(again)(*arguments)
    constants = [
        np.asarray(jax.random.key_data(c) if _is_key(c) else c) for c in found.consts
    ]
    words = re.sub(r"0x[0-9a-f]+", "", str(found.jaxpr))
    return words, [constant.tobytes() for constant in constants]


def _is_key(value: Any) -> bool:
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _one_by_one(
    train: Train,
    score: Score,
    sides: Sequence[tuple[base.Key, PyTree]],
    canary: PyTree,
    seed: int,
) -> np.ndarray:
    """Runs both sides in random order; returns scores `[2, num_runs]`.

    In random order, a change from call to call tells nothing about a side.
    """
    num_runs = len(sides[0][0])
    found = np.zeros(2 * num_runs)
    for run in np.random.default_rng([seed, *b"order"]).permutation(2 * num_runs):
        side, number = divmod(int(run), num_runs)
        keys, rows = sides[side]
        found[run] = _one_number(score(train(keys[number], rows), canary))
    return found.reshape(2, num_runs)


def _one_number(found: Any) -> Any:
    """Returns a score without axes; raises ValueError unless it is one number."""
    if np.size(found) != 1:
        raise ValueError(
            f"score must give one number for the canary, got shape "
            f"{list(np.shape(found))}"
        )
    return jnp.reshape(found, ())


def _check_rows(name: str, rows: PyTree, examples: PyTree) -> None:
    """Raises ValueError unless `rows` has at least one row like the examples'."""
    trees.check_arrays("examples", examples)
    trees.check_arrays(name, rows)
    if jax.tree.structure(rows) != jax.tree.structure(examples):
        raise ValueError(
            f"{name} must have the fields of the examples, {_fields(examples)}, got "
            f"{_fields(rows)}"
        )
    leaves = zip(jax.tree.leaves(rows), jax.tree.leaves(examples), strict=True)
    for own, like in leaves:
        is_alike = own.shape[1:] == like.shape[1:] and own.dtype == like.dtype
        if not own.ndim or not like.ndim or not is_alike:
            raise ValueError(
                f"{name} must be rows like those of the examples, {like.dtype}"
                f"{list(like.shape[1:])} each, got {own.dtype}{list(own.shape)}"
            )
    counts = {len(leaf) for leaf in jax.tree.leaves(rows)}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"{name} must have the same number of rows in all fields, at least 1, got "
            f"{counts}"
        )


def _fields(tree: PyTree) -> str:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return ", ".join(jax.tree_util.keystr(path) for path in paths)


def _count(rows: PyTree) -> int:
    return len(jax.tree.leaves(rows)[0])


def _joined(examples: PyTree, rows: PyTree) -> PyTree:
    """The examples, followed by these rows."""
    return jax.tree.map(
        lambda *both: np.concatenate([np.asarray(leaf) for leaf in both]),
        examples,
        rows,
    )
