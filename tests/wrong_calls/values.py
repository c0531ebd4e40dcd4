"""Hostile values, and what a good call is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HOSTILE: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "True": True,
    "'1'": "1",
    "''": "",
    "None": None,
    "1j": 1j,
    "[1]": [1],
    "()": (),
    "{}": {},
    "2**63": 2**63,
    "-2**63": -(2**63),
    "10**400": 10**400,
    "1e39": 1e39,
    "1e-50": 1e-50,
    "float32 nan": np.float32("nan"),
    "two floats": np.array([1.5, 2.5]),
    "2-d": np.zeros((2, 2)),
    "object": object(),
    "b'1'": b"1",
    "a function": lambda *args: None,
    "a date": np.datetime64("NaT", "s"),
}
"""By name. What an argument may be all the same is said in its `Good` call."""

NUMBER = ("1.5", "2**63", "1e39", "1e-50")
"""What a positive number may be; where float32 has no such number, a refusal too."""


class Good(NamedTuple):
    """A call that is right.

    Attributes:
      function: What is called.
      arguments: By name.
      may_be: By argument, the hostile values that are right for it, beside None where
        its annotation says so, `NUMBER` for floats, a truth value for one and a
        function for one.
      runs: Whether the call is quick enough to be made.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    may_be: dict[str, tuple[str, ...]]
    runs: bool = True


def good(function: Any, may_be: Any = (), runs: bool = True, /, **arguments: Any):
    return Good(function, arguments, dict(may_be), runs)


def allowed(call: Good, name: str) -> set[str]:
    """The hostile values that this argument may be."""
    value = call.arguments[name]
    parameters = inspect.signature(call.function).parameters
    found = set(call.may_be.get(name, ()))
    if "None" in str(getattr(parameters.get(name), "annotation", "")):
        found.add("None")
    if "Callable" in str(getattr(parameters.get(name), "annotation", "")):
        found.add("a function")
    if isinstance(value, bool):
        found.add("True")
    elif isinstance(value, float):
        found |= set(NUMBER)
    elif callable(value) and not isinstance(value, tuple):
        found.add("a function")
    return found


SEED = {"seed": ("0",)}
INF = {"clip_norm": ("inf",)}
ZERO = {"noise_multiplier": ("0",)}
ANY = tuple(HOSTILE)
"""Of a state, which only the function that made it knows."""

FLOATS = ("[1]", "two floats")
