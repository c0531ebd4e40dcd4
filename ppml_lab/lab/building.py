"""The algorithm of a setup: built once, and what building and tracing it shows."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from ppml_lab import base
from ppml_lab.lab.loading import facts_of, load_data
from ppml_lab.lab.setup import ON_HOST, Facts
from ppml_lab.lab.tree import paths

_known: dict[Any, bool] = {}
"""By the structure of setups."""
_MOST_KNOWN = 256


@functools.lru_cache(maxsize=256)
def built(setup: Any) -> base.FederatedAlgorithm:
    """The algorithm of a setup with concrete numbers, which it checks.

    Raises:
      ValueError: For a setup that is none, numbers that do not go together, or a number
        that decides a shape or a branch; names it.
    """
    if not callable(getattr(setup, "algorithm", None)):
        raise ValueError(
            f"{type(setup).__name__} has no method `algorithm(facts)` and is no setup; "
            "inherit from lab.parts.Federated, or give it one"
        )
    facts = facts_of(setup)
    with blaming(setup):
        return setup.algorithm(facts)


@functools.lru_cache(maxsize=8192)
def check_numbers(
    setup: Any, delta: float | None, swept: frozenset[str] = frozenset()
) -> None:
    """Raises ValueError unless a setup can be built with its numbers and, where its
    epsilon is live, with this delta; names the field to blame, a swept one if it can.
    """
    facts = facts_of(setup)
    is_live = getattr(setup, "live_epsilon", False)
    if is_live and delta is None:
        raise ValueError("live_epsilon needs a delta: give points one")
    try:
        events_of(setup)
        if is_live:
            setup.algorithm(facts._replace(delta=delta))
    except ValueError as error:
        path = _wrong(setup, facts._replace(delta=delta), swept)
        if path is None or path in str(error):
            raise
        value = paths.value_at(setup, path)
        raise ValueError(f"{path} is {value!r}: {error}") from error


def _wrong(setup: Any, facts: Facts, swept: frozenset[str]) -> str | None:
    """The path of a field with another value of which a setup could be built: of those
    that can be, the deepest swept one.
    """
    names = [n for n in paths.every(setup) if n.split(".")[0] not in ON_HOST]

    def order(name: str) -> tuple[bool, int]:
        steps = itertools.accumulate(name.split("."), "{}.{}".format)
        return swept.isdisjoint(steps), -name.count(".")

    for path in sorted(names, key=order):
        for value in _usual(setup, path):
            try:
                paths.replaced(setup, path, value).algorithm(facts)
            except (TypeError, ValueError):
                continue
            return path
    return None


def _usual(setup: Any, path: str) -> list[Any]:
    """Values that are likely to be right where another is not: a field's default, and
    for a number some in a usual range.
    """
    above, _, name = path.rpartition(".")
    held = paths.value_at(setup, above)
    if isinstance(held, tuple):
        return []
    (field,) = (one for one in dataclasses.fields(held) if one.name == name)
    given, values = getattr(held, name), [field.default]
    if isinstance(given, float):
        values += [0.5, 1.0]
    return [
        value
        for value in values
        if value is not dataclasses.MISSING
        and (type(value) is not type(given) or value != given)
    ]


@functools.lru_cache(maxsize=2048)
def events_of(setup: Any) -> Callable[[int], base.PrivacyEvent]:
    """`num_rounds -> event` of a run; cached, because the seeds of a sweep share it.

    Raises:
      ValueError: If the run cannot be built.
    """
    return built(setup).event


@functools.lru_cache(maxsize=1024)
def promises_privacy(setup: Any) -> bool:
    """Whether a run protects anything: also where its noise is 0."""
    event = events_of(setup)(1)
    return event.privacy_unit is not None or bool(event.beside)


@contextmanager
def blaming(setup: Any) -> Iterator[None]:
    """Turns an error in building or tracing a setup into one that names the number
    which decides a shape or a branch, if there is one.
    """
    try:
        yield
    except TypeError as error:
        path = _deciding(setup)
        if path is None:
            raise
        raise ValueError(
            f"{path} is annotated Traced and decides a shape or a branch; declare it "
            "int (or float, bool), so that it is compiled"
        ) from error


def _deciding(setup: Any) -> str | None:
    """The path of a number with which tracing fails, and without which it does not."""
    facts, clients = facts_of(setup), load_data(setup).clients
    leaves, structure = jax.tree.flatten(setup)
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in leaves]

    def fails(place: int | None, others: list[Any]) -> bool:
        def program(value: Any) -> Any:
            numbers = [value if i == place else v for i, v in enumerate(others)]
            algorithm = jax.tree.unflatten(structure, numbers).algorithm(facts)
            key = jax.random.key(0)
            return algorithm.round(key, algorithm.init(key), clients)

        try:
            jax.eval_shape(program, np.float32(1))
        except TypeError:
            return True
        except Exception:
            return False
        return False

    for others in (leaves, whole):
        if not fails(None, others):
            for place, path in enumerate(paths.numbers(setup)):
                if fails(place, others):
                    return path
    return None


class _Watched:
    """A schedule that notes what is read of it."""

    def __init__(self, schedule: Any) -> None:
        """Nothing is read yet."""
        self._schedule, self._read = schedule, set[str]()

    def __getattr__(self, name: str) -> Any:
        """What the schedule has."""
        self._read.add(name)
        return getattr(self._schedule, name)


def reads_schedule(setup: Any) -> bool:
    """Whether a setup's algorithm looks at its schedule, when it is built or traced:
    two runs of different length may then differ from their first round on.

    Only a setup's own class sees the schedule, and the package's own do not look. What
    cannot be found out counts as read.
    """
    method = getattr(type(setup), "algorithm", None)
    if getattr(method, "__module__", "").partition(".")[0] == __name__.split(".")[0]:
        return False
    structure = jax.tree.structure(setup)
    if structure not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[structure] = _reads(setup)
    return _known[structure]


def _reads(setup: Any) -> bool:
    schedule = _Watched(setup.schedule)
    watched = copy.copy(setup)
    watched.__dict__["schedule"] = schedule
    facts, clients = facts_of(setup), load_data(setup).clients

    def program(key: Any) -> Any:
        algorithm = watched.algorithm(facts)
        return algorithm.round(key, algorithm.init(key), clients)

    try:
        jax.eval_shape(program, jax.random.key(0))
    except Exception:
        return True
    # The share held out says which data there are, and these are in the key.
    return bool(schedule._read - {"validation"})
