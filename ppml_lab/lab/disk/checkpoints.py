"""Checkpoints: the states of unfinished runs, and their privacy ledgers.

    <folder>/checkpoints/<slice>/<rounds done>/

is an orbax checkpoint. It holds the stacked states of the slice's runs, and
ledger.json, which says which run is in which row, what the run has released so far, and
digests of all this: a checkpoint in which one bit has changed is refused.

A checkpoint appears in one step, and the slice's older checkpoint is removed after
that. The runs that share a slice may change: rows are gathered from any checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ppml_lab import trees
from ppml_lab.lab.disk import arrays, kept
from ppml_lab.lab.disk.records import DamagedError
from ppml_lab.lab.processes import Claims


class Saved(NamedTuple):
    """A run in a checkpoint.

    Attributes:
      path: The checkpoint.
      row: The run's row in the checkpoint's arrays.
      rounds: Number of rounds done.
      spent: The run's privacy ledger, see `budget.spent`.
      made_by: The code that made it, see `provenance.made_by`.
      keeps_best: Whether its states carry the best parameters so far.
    """

    path: Path
    row: int
    rounds: int
    spent: dict[str, Any]
    made_by: dict[str, str]
    keeps_best: bool


def slice_name(runs: Iterable[str]) -> str:
    """Returns a name for runs that are saved together."""
    return hashlib.sha256("".join(runs).encode()).hexdigest()[:16]


def save(
    folder: Path,
    name: str,
    rounds: int,
    states: PyTree,
    spent: Mapping[str, tuple[int, Mapping[str, Any]]],
    made_by: Mapping[str, str],
) -> None:
    """Saves a slice and removes its earlier checkpoints.

    Args:
      folder: The results folder.
      name: The slice's name.
      rounds: Number of rounds done.
      states: Leaves `[rows, ...]`.
      spent: Run id -> its row and its privacy ledger.
      made_by: The code that made it.

    Raises:
      OSError: If the checkpoint cannot be written; the older one stays.
    """
    path = _slices(folder) / name / str(rounds)
    whole = arrays.named(states)
    runs = [{"run": run, "row": row, "spent": it} for run, (row, it) in spent.items()]
    ledger: dict[str, Any] = {
        "runs": runs,
        "arrays": {key: trees.digest(leaf) for key, leaf in whole.items()},
        "made_by": {**made_by},
        "keeps_best": isinstance(states, kept.Carried),
    }
    ledger["digest"] = _digest(ledger)
    if path.exists():
        # No run continued from it, for example because other code made it.
        shutil.rmtree(path)
    arrays.save(path, whole, ledger)
    for older in path.parent.iterdir():
        if older != path:
            shutil.rmtree(older)


def find(
    folder: Path,
    is_usable: Callable[[str, Saved], bool] = lambda run, saved: True,
    report: Callable[[str], None] = print,
) -> dict[str, Saved]:
    """Returns the usable checkpoint with the most rounds, for every run that has one.

    Damaged checkpoints are reported and left out.
    """
    found: dict[str, Saved] = {}
    for path in _places(folder):
        try:
            runs = _runs(path)
        except DamagedError as error:
            report(str(error))
            continue
        for run, saved in runs.items():
            is_further = run not in found or found[run].rounds < saved.rounds
            if is_further and is_usable(run, saved):
                found[run] = saved
    return found


def load(saved: Sequence[Saved], like: PyTree) -> PyTree:
    """Returns the states of runs, stacked in their order, as NumPy arrays.

    Args:
      saved: The place of each run.
      like: States of the wanted structure, shapes `[any, ...]` and types.

    Raises:
      ValueError: If a checkpoint holds other arrays, or arrays that have changed since
        they were saved.
    """
    loaded = {path: _load(path) for path in {one.path for one in saved}}
    names = [jax.tree_util.keystr(at) for at, _ in jax.tree.leaves_with_path(like)]
    stacked = []
    for name, leaf in zip(names, jax.tree.leaves(like), strict=True):
        if 0 in leaf.shape:
            stacked.append(np.zeros((len(saved), *leaf.shape[1:]), leaf.dtype))
            continue
        for path, found in loaded.items():
            there = found.get(name)
            if there is None or (there.shape[1:], there.dtype) != (
                leaf.shape[1:],
                leaf.dtype,
            ):
                raise ValueError(
                    f"{path} was saved by another program: its array {name} is "
                    f"{_shape(there)}, but this program needs {_shape(leaf)}; delete "
                    "that folder to start its runs again"
                )
        stacked.append(np.stack([loaded[one.path][name][one.row] for one in saved]))
    return jax.tree.unflatten(jax.tree.structure(like), stacked)


def drop(folder: Path, name: str) -> None:
    """Removes a slice's checkpoints."""
    shutil.rmtree(_slices(folder) / name, ignore_errors=True)


def clean(folder: Path, is_finished: Callable[[str], bool], claims: Claims) -> None:
    """Removes half-written checkpoints, and checkpoints whose runs are all finished.

    Slices that another process has claimed stay.
    """
    for place in _slices(folder).glob("*"):
        if not _is_slice(place) or not claims.take(place.name):
            continue
        whole = [path for path in place.glob("*") if path.name.isdigit()]
        if all(is_finished(run) for path in whole for run in _known(path)):
            drop(folder, place.name)
        else:
            for path in {*place.glob("*")} - {*whole}:
                if path.is_dir():
                    shutil.rmtree(path)
        claims.release([place.name])


def _known(path: Path) -> Collection[str]:
    """Returns the runs in a checkpoint; none if it is damaged, and so of no use."""
    try:
        return _runs(path)
    except DamagedError:
        return ()


def _is_slice(place: Path) -> bool:
    """Returns whether a path is a slice's folder; other files belong to somebody
    else.
    """
    return place.is_dir() and bool(re.fullmatch(r"[0-9a-f]+", place.name))


def _places(folder: Path) -> list[Path]:
    """Returns the paths of all checkpoints."""
    slices = [place for place in _slices(folder).glob("*") if _is_slice(place)]
    return [path for place in slices for path in place.glob("*") if path.is_dir()]


def _slices(folder: Path) -> Path:
    return folder.resolve() / "checkpoints"


def _runs(path: Path) -> dict[str, Saved]:
    """Returns the runs in a checkpoint; none if it is half-written or was just
    removed.
    """
    if not path.name.isdigit():
        return {}
    try:
        ledger = _ledger(path)
    except FileNotFoundError:
        return {}
    return {
        row["run"]: Saved(
            path,
            row["row"],
            int(path.name),
            row["spent"],
            ledger["made_by"],
            ledger.get("keeps_best", False),
        )
        for row in ledger["runs"]
    }


def _ledger(path: Path) -> dict[str, Any]:
    text = (path / "ledger" / "ledger.json").read_text(errors="replace")
    try:
        ledger = json.loads(text)
        is_whole = ledger["digest"] == _digest(ledger) and "made_by" in ledger
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its ledger.json cannot be read ({error!r})") from error
    if not is_whole:
        raise _damaged(path, "its ledger.json has changed since it was saved")
    return ledger


def _digest(ledger: Mapping[str, Any]) -> str:
    """Returns the digest of which run is in which row, and of all arrays.

    The digest leaves out what runs have spent: that is compared with their
    configurations.
    """
    rows = [[row["run"], row["row"]] for row in ledger["runs"]]
    text = json.dumps([rows, ledger["arrays"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _damaged(path: Path, problem: str) -> DamagedError:
    return DamagedError(f"{path}: {problem}; its runs start again")


def _load(path: Path) -> dict[str, np.ndarray]:
    digests = _ledger(path)["arrays"]
    try:
        found = arrays.load(path, digests)
    except DamagedError as error:
        raise _damaged(path, str(error)) from error
    for name, digest in digests.items():
        if trees.digest(found[name]) != digest:
            raise _damaged(path, f"its array {name} has changed since it was saved")
    return found


def _shape(leaf: Any) -> str:
    return "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape[1:])}"
