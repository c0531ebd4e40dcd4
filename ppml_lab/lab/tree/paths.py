"""Key paths: the names of a setup's fields, and setups with other values there."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

import jax

from ppml_lab.lab.tree.fields import (
    fields_of,
    is_part,
    is_part_class,
    may_be_number,
    parts_in,
)


def numbers(setup: Any) -> list[str]:
    """Returns the key paths of a setup's numbers, in the order of its leaves."""
    found = jax.tree_util.tree_leaves_with_path(setup)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found]


def every(setup: Any, above: str = "") -> list[str]:
    """Returns the key paths of all fields, numbers and structure, from the root
    down.
    """
    found = []
    for name in fields_of(type(setup)):
        found.append(above + name)
        for place, inner in parts_in(getattr(setup, name)):
            found += every(inner, ".".join(filter(None, [above + name, place])) + ".")
    return found


def parts_below(setup: Any) -> Iterator[Any]:
    """Yields a setup and every part below it."""
    yield setup
    for name in fields_of(type(setup)):
        for _, inner in parts_in(getattr(setup, name)):
            yield from parts_below(inner)


def value_at(setup: Any, path: str) -> Any:
    """Returns the value at a key path; None where there is no such path."""
    held = setup
    for step in path.split(".") if path else ():
        if isinstance(held, tuple):
            held = held[int(step)] if _is_place(step, held) else None
        else:
            held = getattr(held, step, None) if is_part(held) else None
    return held


def replaced(setup: Any, path: str, value: Any) -> Any:
    """Returns a setup with another value at a key path; "" replaces the whole setup.

    Every part above the value is checked again.

    Raises:
      ValueError: If there is no such path (the nearest is suggested).
      TypeError: For a value that the field cannot hold.
    """
    return _replaced(setup, path, value, setup, "") if path else value


def _replaced(held: Any, path: str, value: Any, setup: Any, above: str) -> Any:
    step, dot, rest = path.partition(".")
    here = f"{above}{step}"
    if isinstance(held, tuple) and _is_place(step, held) and (rest or not dot):
        place = int(step)
        inner = value
        if rest:
            inner = _replaced(held[place], rest, value, setup, f"{here}.")
        return (*held[:place], inner, *held[place + 1 :])
    if not is_part(held) or step not in fields_of(type(held)) or (dot and not rest):
        raise ValueError(f"no field '{above}{path}': {_why(held, above, path, setup)}")
    inner = getattr(held, step)
    if rest:
        inner = _replaced(inner, rest, value, setup, f"{here}.")
    else:
        is_number = may_be_number(fields_of(type(held))[step])
        if is_part(inner) and not (is_part(value) or is_part_class(value) or is_number):
            known = ", ".join(f"'{here}.{name}'" for name in numbers(inner)) or "none"
            raise ValueError(
                f"'{here}' is a part ({type(inner).__name__}), got {value!r}; give a "
                f"part, or set one of its numbers: {known}"
            )
        inner = value
    return dataclasses.replace(held, **{step: inner})


def _is_place(step: str, held: tuple[Any, ...]) -> bool:
    """Returns whether a step is a place in a tuple, in its only spelling."""
    return step in map(str, range(len(held)))


def _why(held: Any, above: str, path: str, setup: Any) -> str:
    where = f"{above.rstrip('.') or 'the setup'} is {type(held).__name__}"
    near = difflib.get_close_matches(above + path, every(setup), n=1)
    if near and not near[0].startswith(above):
        near = []  # it names what holds the field that was asked for
    if above and is_part(held) and not near:
        own = ", ".join(fields_of(type(held))) or "no fields"
        return (
            f"{where}, which has {own}; set '{above.rstrip('.')}' to a part that has "
            f"'{path}'"
        )
    return where + (f"; did you mean '{near[0]}'?" if near else "")
