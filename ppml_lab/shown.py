"""One-line descriptions of the lab's values, for prompts and notebooks."""

from __future__ import annotations

import dataclasses
import inspect
import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax


def named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths as names, such as "y.time"."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def rows(tree: Any) -> str:
    """The shape and type of one row of each leaf `[n, ...]`: "x [8,8,1] f32, y i32"."""
    found = []
    for name, leaf in named(tree):
        shape = ",".join(map(str, getattr(leaf, "shape", ())[1:]))
        dtype = str(getattr(leaf, "dtype", "?"))
        dtype = re.sub(r"[a-z]+(?=\d)", lambda letters: letters[0][0], dtype)
        found.append(" ".join(filter(None, (name, shape and f"[{shape}]", dtype))))
    return ", ".join(found)


def clients(examples: Any, offsets: Any, held_out: Any = None) -> str:
    """A federated data set: "Clients(2 clients, 9 examples: x [8] f32, y i32)"."""
    sizes = {getattr(leaf, "shape", ("?",))[0] for leaf in jax.tree.leaves(examples)}
    total = sizes.pop() if len(sizes) == 1 else "?"
    number = offsets.shape[0] - 1
    about = f"{number} client{'' if number == 1 else 's'}, {total} examples"
    more = "" if held_out is None else ", some held out"
    return f"Clients({about}: {rows(examples)}{more})"


def record(kind: str, values: Mapping[str, Any]) -> str:
    """A record by some of its values: "Point(clip_norm=1, seed=0)"."""
    told = ", ".join(f"{name}={brief(value)}" for name, value in values.items())
    return f"{kind}({told})"


def state(self: Any) -> str:
    """A state of training: "ServerState(650 parameters, 40 rounds done)"."""
    number = sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(self.params))
    told = [f"{number:,} parameters"]
    if hasattr(self, "rounds_done"):
        told.append(f"{brief(self.rounds_done)} rounds done")
    return f"{type(self).__name__}({', '.join(told)})"


def changed(part: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass that differ from their defaults, and their values."""
    missing = dataclasses.MISSING
    found = []
    for field in dataclasses.fields(part):
        value, default = getattr(part, field.name), field.default
        if default is missing and field.default_factory is not missing:
            default = field.default_factory()
        if not _same(value, default):
            found.append((field.name, value))
    return found


def _same(value: Any, other: Any) -> bool:
    """Compares values that may be traced, or hold what is; a traced one is no other.
    A default of 1 is a number 1.0 in a part.
    """
    if isinstance(value, float) and isinstance(other, int):
        return value == other
    if type(value) is not type(other):
        return False
    if not dataclasses.is_dataclass(value):
        return bool(value == other)
    names = [field.name for field in dataclasses.fields(value)]
    return all(_same(getattr(value, name), getattr(other, name)) for name in names)


def part(self: Any) -> str:
    """A dataclass with the fields that differ from their defaults."""
    told = [f"{name}={_value(value)}" for name, value in changed(self)]
    return f"{type(self).__name__}({', '.join(told)})"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def brief(value: Any) -> str:
    """A value in a few letters: a number as it is, an array by type and shape."""
    if isinstance(value, bool | str | None):
        return repr(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, jax.core.Tracer):
        return "traced"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        shape = ",".join(map(str, value.shape))
        return f"{value.dtype}[{shape}]" if shape else f"{value.item():g}"
    made = _made(value)
    if made is not None:
        return made.builder
    if isinstance(value, tuple) and len(value) < 5 and {*map(type, value)} == {int}:
        return repr(value)
    if hasattr(value, "init") and hasattr(value, "update"):
        return "an optimizer"
    if isinstance(value, tuple | list | dict) and not hasattr(value, "_fields"):
        return f"{type(value).__name__} of {len(value)}"
    return str(getattr(value, "__name__", type(value).__name__))


@dataclasses.dataclass(frozen=True)
class _Made:
    """The call that made a record of functions; `fields` tells a changed record."""

    builder: str
    call: str
    fields: tuple[int, ...]


_MADE: weakref.WeakKeyDictionary[Callable[..., Any], _Made] = (
    weakref.WeakKeyDictionary()
)
"""By each function of a record: functions are all that a weak reference can hold."""


def by_builder(*kinds: type) -> None:
    """Shows records of functions by the calls that made them: "gaussian(clip_norm=1)"
    says more than the names of eleven functions.
    """
    for kind in kinds:
        kind.__repr__ = _built  # type: ignore[method-assign]


def note(made: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Notes that `function(*args, **kwargs)` made a record that `by_builder` shows."""
    if type(made).__repr__ is not _built:
        return
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    told = [
        brief(value) if _made(value) is not None else f"{name}={brief(value)}"
        for name, value in given.items()
        if value is not None
    ]
    call = f"{function.__name__}({', '.join(told)})"
    noted = _Made(function.__name__, call, tuple(map(id, made)))
    for field in filter(inspect.isfunction, made):
        _MADE[field] = noted


def _made(record: Any) -> _Made | None:
    """The call that made a record, or made it before some fields were replaced."""
    if type(record).__repr__ is not _built:
        return None
    fields = tuple(map(id, record))
    found = [
        _MADE[field] for field in record if inspect.isfunction(field) and field in _MADE
    ]
    return next((one for one in found if one.fields == fields), next(iter(found), None))


def _built(self: Any) -> str:
    made = _made(self)
    text = f"{type(self).__name__}(...)" if made is None else made.call
    if made is not None and made.fields != tuple(map(id, self)):
        text = f"{text}, changed"
    return f"{text}{_promise(self)}"


def _promise(record: Any) -> str:
    """The first thing to know of a mechanism, an algorithm or a sampler."""
    if hasattr(record, "privacy_unit"):
        if record.trust is None:
            return ": promises nothing"
        return f": {record.trust} DP of {record.privacy_unit}s"
    if getattr(record, "trust", None) is not None:
        return f": {record.trust} DP"
    if hasattr(record, "max_cohort"):
        return f": {brief(record.expected_cohort)} of {record.population} on average"
    return ""
