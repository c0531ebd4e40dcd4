"""Whether a run's rounds depend on how long it is."""

from __future__ import annotations

import copy
from typing import Any

import jax

from ppml_lab.lab.loading import facts_of, load_data

_known: dict[Any, bool] = {}
"""By the structure of setups."""
_MOST_KNOWN = 256


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
