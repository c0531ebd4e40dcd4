"""The algorithm of a setup: building it once, and checks by building and tracing."""

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
"""Results of `reads_schedule`, by the structure of setups."""
_MOST_KNOWN = 256


@functools.lru_cache(maxsize=256)
def built(setup: Any) -> base.FederatedAlgorithm:
    """Builds the algorithm of a setup with concrete numbers, which are checked.

    Raises:
      ValueError: For an object that is no setup, numbers that do not go together, or a
        number that decides a shape or a branch; names the number.
    """
    if not callable(getattr(setup, "algorithm", None)):
        raise ValueError(
            f"{type(setup).__name__} is not a setup, as it has no method "
            "`algorithm(facts)`; inherit from lab.parts.Federated, or add this method"
        )
    facts = facts_of(setup)
    with blaming(setup):
        return setup.algorithm(facts)


@functools.lru_cache(maxsize=8192)
def check_numbers(
    setup: Any, delta: float | None, swept: frozenset[str] = frozenset()
) -> None:
    """Raises ValueError unless a setup can be built with its numbers and, where it has
    live epsilon, with this delta.

    The error names the field to blame, preferably a swept one.
    """
    facts = facts_of(setup)
    is_live = getattr(setup, "live_epsilon", False)
    if is_live and delta is None:
        raise ValueError("live_epsilon needs a delta; give points a delta")
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
    """Returns the key path of a field that would let the setup be built with another
    value; swept fields come first, and deeper fields before others.
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
    """Returns values of a field that are likely to be valid: its default, and for a
    number some values in a usual range.
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
    """Returns the function `num_rounds -> event` of a run.

    It is cached, because the seeds of a sweep share it.

    Raises:
      ValueError: If the run cannot be built.
    """
    return built(setup).event


@functools.lru_cache(maxsize=1024)
def promises_privacy(setup: Any) -> bool:
    """Returns whether a run has a privacy unit, even if its noise is 0."""
    event = events_of(setup)(1)
    return event.privacy_unit is not None or bool(event.beside)


@contextmanager
def blaming(setup: Any) -> Iterator[None]:
    """Turns an error in building or tracing a setup into one that names the number that
    decides a shape or a branch, if there is such a number.
    """
    try:
        yield
    except TypeError as error:
        path = _deciding(setup)
        if path is None:
            raise
        raise ValueError(
            f"{path} is annotated Traced but decides a shape or a branch; declare "
            f"{path} as int, float or bool, so that its value is compiled"
        ) from error


def _deciding(setup: Any) -> str | None:
    """Returns the key path of a number that makes tracing fail if it is traced."""
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
    """A schedule that records which of its fields are read."""

    def __init__(self, schedule: Any) -> None:
        """Starts with no field read."""
        self._schedule, self._read = schedule, set[str]()

    def __getattr__(self, name: str) -> Any:
        """Records the name, and returns the schedule's attribute."""
        self._read.add(name)
        return getattr(self._schedule, name)


def reads_schedule(setup: Any) -> bool:
    """Returns whether a setup's algorithm reads its schedule when it is built or
    traced.

    If it does, two runs of different length may differ from their first round on. Only
    a setup's own class sees the schedule, and the package's own classes do not read it.
    True where this cannot be found out.
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
    # The share held out decides the data, which are in the key.
    return bool(schedule._read - {"validation"})
