"""The points of a sweep, and their runs, outcomes and results.

A run's key is made from its seed. A run that promises privacy also folds its identity
into the key, its setup and the data: so no two private runs share initial parameters,
cohorts, batches or noise, which anybody who sees both runs could cancel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree, UInt32

from ppml_lab import arguments, shown, tables
from ppml_lab.lab.building import built, promises_privacy, reads_schedule
from ppml_lab.lab.disk import records
from ppml_lab.lab.disk.kept import Kept
from ppml_lab.lab.disk.kept import load as load_kept
from ppml_lab.lab.loading import CURE_OF_CHANCE, facts_of
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.identity import described, digest

SEED_ALONE = "seed"
"""The key identity of runs that promise nothing: runs of one seed are paired."""


class Point(NamedTuple):
    """One run of a sweep."""

    setup: Any
    """The setup that runs, with concrete numbers."""
    seed: int
    """Seed of initial parameters, sampling, batches, noise and rounding; see `key`."""
    labels: Mapping[str, Any]
    """Columns that say which point this is; they come first in the table."""
    delta: float | None = None
    """The delta at which its epsilon is stated; only private runs need it."""
    swept: frozenset[str] = frozenset()
    """The key paths that the sweep sets."""

    def __repr__(self) -> str:
        name = type(self.setup).__name__
        return shown.record("Point", {"setup": name} | dict(self.labels))

    @property
    def key(self) -> str:
        """The identity that the run's key folds in beside its seed, see `key_identity`.

        Reading it loads the data, as reading `id` does.
        """
        promises = promises_privacy(self.setup)
        return key_identity(
            self.setup,
            facts_of(self.setup),
            promises=promises,
            by_schedule=promises and reads_schedule(self.setup),
        )

    @property
    def id(self) -> str:
        """The name of the point's run, made from all that the result depends on."""
        return run_id(self.setup, self.seed, self.delta, facts_of(self.setup))

    def record(self) -> dict[str, Any]:
        """Returns plain values that say what the run is."""
        facts = facts_of(self.setup)
        return {
            "setup": described(self.setup),
            "seed": self.seed,
            "labels": dict(self.labels),
            "delta": self.delta,
            "data": facts.digests and facts.digests.stored,
            "judged_by": facts.judged_by,
            "key": self.key,
        }


class Run(NamedTuple):
    """A point and its run folder; the folder's name is the run's id."""

    point: Point
    folder: Path

    @property
    def name(self) -> str:
        """The run's id."""
        return self.folder.name

    @property
    def title(self) -> str:
        """The point's labels as a text."""
        return ", ".join(f"{name} {v}" for name, v in self.point.labels.items())

    @property
    def is_finished(self) -> bool:
        """True where there is a result that is not damaged."""
        return (self.folder / "result.json").exists() and not self.damage

    @property
    def damage(self) -> str:
        """A text about what is wrong with an existing result; "" if nothing is."""
        try:
            records.read_result(self.folder)
            records.read_json(self.folder / "provenance.json")
        except records.DamagedError as error:
            return str(error)
        except (FileNotFoundError, NotADirectoryError) as error:
            result = self.folder / "result.json"
            return f"{error.filename} is missing" if result.exists() else ""
        return ""

    @property
    def kept(self) -> Kept | None:
        """The parameters that the finished run kept; None if it kept none."""
        return _kept(records.read_result(self.folder))

    @property
    def made_by(self) -> dict[str, Any]:
        """The code that made the result, see `provenance.made_by`."""
        return records.read_json(self.folder / "provenance.json").get("made_by", {})

    def outcome(self, keep: str | None = None) -> Outcome:
        """Returns the outcome of the finished run.

        Args:
          keep: Which parameters the sweep asked the run to keep.
        """
        last = records.read_result(self.folder)
        kept = _kept(last)
        last.pop("kept", None)
        setup, labels = self.point.setup, dict(self.point.labels)
        return Outcome(_with_nan(last), self.folder, kept, setup, keep, labels)


@arguments.checked
def run_of(point: Point, folder: str | Path) -> Run:
    """Returns a point's run in a results folder."""
    return Run(point, Path(folder) / "runs" / point.id)


def check_same_data(runs: Sequence[Run], folder: Path) -> None:
    """Raises ValueError if the folder has a run that differs from a new one in its data
    alone.

    Then `load()` returned other data, or the data were changed.
    """
    names = {run.name for run in runs}
    others = [
        path
        for path in sorted((folder / "runs").glob("*/config.json"))
        if path.parent.name not in names
    ]
    new = [run for run in runs if others and not run.folder.exists()]
    known = {_but_for_data(records.described(run.point.record())): run for run in new}
    for path in others:
        try:
            found = records.read_json(path)
        except (records.DamagedError, OSError):
            continue
        run = known.get(_but_for_data(found))
        if run is not None:
            name = type(run.point.setup.data).__name__
            raise ValueError(
                f"{path.parent} is a run of the same setup and seed on other data than "
                f"{name}.load() gives now: {CURE_OF_CHANCE}. If the data were changed "
                "on purpose, give another folder, or again=True (--again)"
            )


def _but_for_data(record: Any) -> str | None:
    """Returns a name of what a run is, without its data; None if `record` is no
    run's.
    """
    try:
        fields = record["setup"]["fields"] | {"layout": None}
        setup = record["setup"] | {"fields": fields}
        return records.name_of([setup, record["seed"], record["delta"]])
    except (KeyError, TypeError):
        return None


class Outcome(NamedTuple):
    """The outcome of a finished run."""

    last: dict[str, Any]
    """Scalars of the round that judges the run (the last, or the best of
    `Schedule.keep`): its metrics by name, `params_digest` (of the last parameters;
    equal where parameters are equal to the bit), `seconds` (wall time without
    compilation, divided among a slice's points) and `compile_seconds` (of the slice's
    programs)."""
    folder: Path
    """The run's folder."""
    kept: Kept | None = None
    """The parameters that are kept in the folder; None if none are."""
    setup: Any = None
    """The setup that ran."""
    asked: str | None = None
    """The parameters that this sweep asked for; a run that was already finished keeps
    those that an earlier sweep asked for."""
    labels: Mapping[str, Any] = MappingProxyType({})
    """The point's columns in a table, see `Point.labels`."""

    def __repr__(self) -> str:
        try:
            told = self.row()
        except (OSError, records.DamagedError):
            told = {**self.labels, "folder": str(self.folder)}
        return shown.record("Outcome", told)

    def row(self, *columns: str) -> tables.Row:
        """The run's row in a table: its labels, the seed last, and scalars of `last`.

        Args:
          *columns: Names in `last`; by default the metrics. `epsilon` is a bound by RDP
            alone, above a `target_epsilon` that a tighter accountant met;
            `lab.statement` states a run's guarantee.

        Raises:
          ValueError: For a name that is not in `last`.
        """
        if not columns:
            stamp = records.read_json(self.folder / "provenance.json")
            columns = (*stamp.get("metrics", []),)
        for name in columns:
            if name not in self.last:
                known = ", ".join(self.last)
                raise ValueError(f"columns has '{name}'; the run recorded {known}")
        labels = dict(self.labels)
        if tables.SEED in labels:
            labels[tables.SEED] = labels.pop(tables.SEED)
        return labels | {name: self.last[name] for name in columns}

    def params(self) -> PyTree:
        """Loads the parameters that the sweep kept (`run_sweep(..., keep=)`).

        They are arrays on this process's device, in the structure of
        `setup.algorithm(facts).init`'s parameters, as `setup.predict` takes them.
        `kept` says after which round they were kept, and by which metric.

        **Guarantee:** the parameters of a private run are one of the models that the
        run releases, and its epsilon covers them for the rows that it trained; see
        `lab.disk.kept` for what choosing by validation rows costs these rows.

        Raises:
          FileNotFoundError: If the run kept no parameters, or others than the sweep
            asked for; says how to get them.
          DamagedError: If the file changed since the run ended, or is gone; says where.
        """
        if self.kept and self.asked not in (None, self.kept.keep):
            raise FileNotFoundError(
                f"{self.folder} keeps the parameters of its {self.kept.keep} round or "
                f"evaluation, but this sweep asked for the {self.asked}; again=True "
                "(--again) reruns it"
            )
        like = jax.eval_shape(built(self.setup).init, jax.random.key(0)).params
        return load_kept(self.folder, self.kept, like)

    @property
    def diverged(self) -> bool:
        """True if the run ended early because a loss or a parameter was not finite.

        `last["diverged_round"]` is the round in which this happened.
        """
        return "diverged_round" in self.last

    def history(self, name: str) -> list[Any]:
        """Returns the values of a scalar at every round that recorded it."""
        return [value for _, value in self.curve(name)]

    def curve(self, *names: str) -> list[tuple[Any, ...]]:
        """Returns the round and these scalars, for every round that recorded all of
        them.
        """
        lines = map(_with_nan, records.read_lines(self.folder / "rounds.jsonl"))
        asked = ("round", *names)
        return [tuple(map(line.get, asked)) for line in lines if {*asked} <= {*line}]


class Result(NamedTuple):
    """A finished run: its point, its privacy guarantee, and its outcome."""

    point: Point
    """The point of the run."""
    guarantee: dict[str, Any]
    """The columns of `lab.statement`, and `key`: runs share their randomness if and
    only if they have the same seed and the same key (`key_identity`)."""
    outcome: Outcome
    """The outcome of the run."""


def _kept(result: Mapping[str, Any]) -> Kept | None:
    return Kept(**result["kept"]) if "kept" in result else None


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with nan for None, as strict JSON stores null for nan.

    An epsilon stays None: nothing is promised there.
    """
    return {
        name: math.nan if value is None and name != "epsilon" else value
        for name, value in row.items()
    }


def run_id(setup: Any, seed: int, delta: float | None, facts: Facts) -> str:
    """Returns the name of a run, made from all that its result depends on.

    Labels and layout are left out.
    """
    told = (setup, seed, delta, _stored(facts), facts.judged_by)
    return digest(*told, without=("layout",))[:16]


def key_identity(
    setup: Any, facts: Facts, *, promises: bool, by_schedule: bool = False
) -> str:
    """Returns the identity that a run's key folds in beside its seed, as a short text.

    **Guarantee:** two runs with equal seeds and identities are the same run, up to its
    length, its layout on devices, and the rounding that depends on the layout: one
    release, and the shorter run is the beginning of the longer. Two private runs that
    differ in a number, a class or a single value of the train examples have independent
    keys, as far as the generator (no cryptographic one) makes them so.

    Args:
      setup: The run's setup.
      facts: Facts about its data.
      promises: Whether the run promises privacy to anybody.
      by_schedule: Whether its rounds depend on its schedule, such as a learning rate
        that falls until the last round: then a shorter run is not the beginning of a
        longer one.

    Returns:
      `SEED_ALONE` if the run promises nothing, else a text of 64 hexadecimal digits.

    Raises:
      ValueError: If the run promises privacy and `facts` have no data.
    """
    if not promises:
        return SEED_ALONE
    if facts.digests is None:
        raise ValueError(
            "facts.digests is None: a private run's key depends on a digest of the "
            "data's rows, but these data have none"
        )
    # The length of a run, and what judges it, changes no round.
    left_out = ("layout",) if by_schedule else ("layout", "schedule")
    return digest(setup, _stored(facts), same_bits=True, without=left_out)


def key_words(seeds: Any, identities: list[str]) -> UInt32[np.ndarray, "points 2"]:
    """Returns the seed words of runs' keys, from seeds and `key_identity`."""
    own = [identity != SEED_ALONE for identity in identities]
    words = [
        np.frombuffer(bytes.fromhex(identity), "<u4") if is_own else np.zeros(8, "<u4")
        for identity, is_own in zip(identities, own, strict=True)
    ]
    return np.asarray(
        _folded(np.asarray(seeds, np.uint32), np.stack(words), np.asarray(own))
    )


@jax.jit
@jax.vmap
def _folded(seed: Any, words: Any, own: Any) -> Any:
    plain = jax.random.key(seed)
    key, _ = jax.lax.scan(
        lambda key, word: (jax.random.fold_in(key, word), None), plain, words
    )
    chosen = [jax.random.key_data(one) for one in (key, plain)]
    return jax.numpy.where(own, *chosen)


def _stored(facts: Facts) -> str | None:
    return None if facts.digests is None else facts.digests.stored
