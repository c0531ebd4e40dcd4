"""The parameters that a run ends with, kept on request: those of its last round, or of
its best evaluation by the validation metric.

    <folder>/runs/<id>/params/    an orbax checkpoint

lies on the disk before the run's result, which has a digest of them: what has changed
since is not believed. The best ones so far travel in the state of a run's program, and
so in its checkpoints, in which a killed run finds them again.

**Guarantee:** what a private run promises covers every model that it releases, of which
these are one; for the rows that it trained. Choosing the best reads validation rows as
well: nothing is promised for these, and the choice may tell of them. What `OnShares`
reveals before its last round is the researcher's look, and so is a best one of these.
What clients keep for themselves is not here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ppml_lab import trees
from ppml_lab.lab.disk import arrays
from ppml_lab.lab.disk.records import DamagedError

HOW = "run_sweep(..., keep='last', again=True), or --keep last --again"
"""How a finished run gets parameters."""


class Kept(NamedTuple):
    """Which parameters of a run are kept."""

    keep: str
    """"last" or "best"."""
    round: int
    """The round after which the model had them."""
    metric: str | None
    """By which they are the best, of validation rows; None for the last."""
    digest: str
    """See `trees.digest`."""


class Best(NamedTuple):
    """A run's best evaluation so far, by its schedule's metric."""

    params: PyTree
    """The parameters that were evaluated."""
    rank: Array
    """See `Schedule.rank`."""
    round: Array
    """The round after which; 0 before the first evaluation."""


class Carried(NamedTuple):
    """What a run whose best parameters are kept carries over chunks."""

    state: Any
    """The algorithm's."""
    best: Best
    """Its best evaluation."""


def begin(state: Any) -> Carried:
    """What is carried before the first round."""
    return Carried(state, Best(state.params, jnp.float32(jnp.inf), jnp.int32(0)))


def after(before: Carried, state: Any, rank: Array, done: Array) -> Carried:
    """What is carried after an evaluation of this rank, `done` rounds from the start;
    of evaluations of one rank the first stays.
    """
    best = before.best
    is_better = (best.round == 0) | (rank < best.rank)
    found = Best(state.params, rank, done.astype(jnp.int32))
    return Carried(state, trees.where(is_better, found, best))


def latest(states: Any) -> Any:
    """The algorithm's state, or states, of what programs carry."""
    return states.state if isinstance(states, Carried) else states


def save(run: Path, params: PyTree) -> None:
    """Puts parameters into a run folder, in place of others that are there."""
    drop(run)
    arrays.save(run.resolve() / "params", arrays.named(params), {})


def drop(run: Path) -> None:
    """Removes parameters from a run folder, half-written ones too."""
    for path in run.glob("params*"):
        shutil.rmtree(path)


def load(run: Path, kept: Kept | None, like: PyTree) -> PyTree:
    """What was saved, as jax arrays in the structure of `like`.

    Raises:
      FileNotFoundError: If none are kept; says how to get them.
      DamagedError: If they are not those that were saved, or not there any more.
    """
    if kept is None:
        raise FileNotFoundError(
            f"{run} has a result and no parameters, for its sweep kept none: {HOW}, "
            "makes the run anew and keeps them"
        )
    path = run.resolve() / "params"
    cure = f"delete {run}, and run the sweep again with keep='{kept.keep}'"
    if not path.is_dir():
        raise DamagedError(f"{path} is missing: its run kept it; {cure}")
    leaves = jax.tree.leaves_with_path(like)
    named = {jax.tree_util.keystr(at): leaf for at, leaf in leaves}
    try:
        found = arrays.load(path, [n for n, leaf in named.items() if leaf.size])
    except DamagedError as error:
        raise DamagedError(f"{path} is damaged: {error}; {cure}") from error
    whole = [
        found.get(name, np.zeros(leaf.shape, leaf.dtype))
        for name, leaf in named.items()
    ]
    if trees.digest(whole) != kept.digest:
        raise DamagedError(f"{path} has changed since the run ended; {cure}")
    params = jax.tree.unflatten(jax.tree.structure(like), whole)
    return jax.tree.map(jnp.asarray, params)
