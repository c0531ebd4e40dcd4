"""The parameters that a run keeps on request: those of its last round, or of its best
evaluation by the validation metric.

    <folder>/runs/<id>/params/    an orbax checkpoint

is on the disk before the run's result, which holds a digest of the parameters: changed
files are refused. The best parameters so far are part of the state of a run's program,
and so of its checkpoints, where a killed run finds them again.

**Guarantee:** what a private run promises covers every model that it releases, and the
kept parameters are one of these models; the promise is for the rows that it trained.
Choosing the best reads validation rows as well: nothing is promised for validation
rows, and the choice may tell of them. What `OnShares` reveals before its last round is
for the researcher only, and so are best parameters from such a round. Leaves that
clients keep for themselves are not kept here.
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
"""Instructions for keeping the parameters of a finished run."""


class Kept(NamedTuple):
    """A record of the parameters that a run keeps."""

    keep: str
    """"last" or "best"."""
    round: int
    """The round after which the model had these parameters."""
    metric: str | None
    """The validation metric that chose the best parameters; None for the last."""
    digest: str
    """Digest of the parameters, see `trees.digest`."""


class Best(NamedTuple):
    """A run's best evaluation so far, by its schedule's metric."""

    params: PyTree
    """The parameters that were evaluated."""
    rank: Array
    """The rank of the evaluation, see `Schedule.rank`."""
    round: Array
    """The round of the evaluation; 0 before the first one."""


class Carried(NamedTuple):
    """The state that a run carries from chunk to chunk if its best parameters are
    kept.
    """

    state: Any
    """The algorithm's state."""
    best: Best
    """The best evaluation so far."""


def begin(state: Any) -> Carried:
    """Returns the carried state before the first round."""
    return Carried(state, Best(state.params, jnp.float32(jnp.inf), jnp.int32(0)))


def after(before: Carried, state: Any, rank: Array, done: Array) -> Carried:
    """Returns the carried state after an evaluation of this rank, `done` rounds from
    the start; among evaluations of equal rank the first stays.
    """
    best = before.best
    is_better = (best.round == 0) | (rank < best.rank)
    found = Best(state.params, rank, done.astype(jnp.int32))
    return Carried(state, trees.where(is_better, found, best))


def latest(states: Any) -> Any:
    """Returns the algorithm's state, or states, from the state that programs carry."""
    return states.state if isinstance(states, Carried) else states


def save(run: Path, params: PyTree) -> None:
    """Writes parameters to a run folder, in place of earlier ones."""
    drop(run)
    arrays.save(run.resolve() / "params", arrays.named(params), {})


def drop(run: Path) -> None:
    """Removes parameters from a run folder, including half-written ones."""
    for path in run.glob("params*"):
        shutil.rmtree(path)


def load(run: Path, kept: Kept | None, like: PyTree) -> PyTree:
    """Returns the saved parameters, as jax arrays in the structure of `like`.

    Raises:
      FileNotFoundError: If no parameters are kept; says how to keep them.
      DamagedError: If the parameters are not those that were saved, or are gone.
    """
    if kept is None:
        raise FileNotFoundError(
            f"{run} has a result but no parameters, as its sweep kept none; rerun it "
            f"and keep them with {HOW}"
        )
    path = run.resolve() / "params"
    cure = f"delete {run}, and run the sweep again with keep='{kept.keep}'"
    if not path.is_dir():
        raise DamagedError(f"{path} is missing, but its run kept parameters; {cure}")
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
