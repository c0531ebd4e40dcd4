"""Checks that a sweep's fields matter: runs of different labels must not be the
same.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ppml_lab import trees
from ppml_lab.lab.building import blaming, built
from ppml_lab.lab.loading import facts_of, load_data
from ppml_lab.lab.program import (
    Group,
    first_traced,
    group_of,
    init_program,
    shapes_of,
)
from ppml_lab.lab.results import Point
from ppml_lab.lab.setup import lab_mesh, num_rows
from ppml_lab.lab.tree import paths
from ppml_lab.lab.tree.fields import fields_of, gives_same_bits

_OTHER = 0.7071
"""A factor that changes a number to another one."""


def check_swept(points: Sequence[Point]) -> None:
    """Raises ValueError for a swept field on which nothing depends; names the field.

    Nothing depends on a field if no output of the traced program, no cost and no
    privacy of a run depends on it: all its runs would be the same under different
    labels.
    """
    groups: dict[Group, list[Point]] = {}
    for point in points:
        groups.setdefault(group_of(point), []).append(point)
    for group, its in groups.items():
        _check_numbers(group, its)
    _check_structure(groups)


def _check_numbers(group: Group, points: list[Point]) -> None:
    names = paths.numbers(points[0].setup)
    columns = zip(*(jax.tree.leaves(point.setup) for point in points), strict=True)
    set_by_sweep = frozenset().union(*(point.swept for point in points))
    changing = [
        place
        for place, (name, values) in enumerate(zip(names, columns, strict=True))
        if name in set_by_sweep or len(set(values)) > 1
    ]
    if not changing:
        return
    used = _read(points[0])
    for place in changing:
        if not used[place] and not _is_stated(points[0], place):
            raise ValueError(
                f"the sweep changes {names[place]}, which changes neither the program "
                f"of {type(points[0].setup).__name__} nor its cost nor its privacy, so "
                "that all runs would be the same; sweep another number"
            )


def _traces(group: Group) -> list[Any]:
    """Returns the traced programs of a group: the initial state, and the first
    chunk.
    """
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    init: Any = init_program(group)
    first = init.trace(*shapes_of(group, rows))
    return [first.jaxpr, first_traced(group).jaxpr]


def _read(point: Point) -> list[bool]:
    """Returns, for each of a setup's numbers, whether the programs' outputs depend on
    it.
    """
    count = len(jax.tree.leaves(point.setup))
    with blaming(point.setup):
        traces = _traces(group_of(point))
    found = [
        reads(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[:count]
        for closed in traces
    ]
    return [any(used) for used in zip(*found, strict=True)]


def _is_stated(point: Point, place: int) -> bool:
    """Returns whether the privacy event or the cost depends on a number."""
    leaves, structure = jax.tree.flatten(point.setup)
    moved = [v * _OTHER + (v == 0) if i == place else v for i, v in enumerate(leaves)]
    try:
        other = jax.tree.unflatten(structure, moved).algorithm(facts_of(point.setup))
    except ValueError:
        return True  # a check reads the number
    here = built(point.setup)
    return here.event(1) != other.event(1) or here.cost() != other.cost()


def _check_structure(groups: dict[Group, list[Point]]) -> None:
    """Raises ValueError if two groups that differ only in a swept structural field have
    the same program, cost and privacy.
    """
    firsts = [its[0] for its in groups.values()]
    structural = {
        path
        for point in firsts
        for path in point.swept
        if path not in paths.numbers(point.setup) and _may_matter(point.setup, path)
    }
    for path in sorted(structural):
        for i, one in enumerate(firsts):
            for other in firsts[i + 1 :]:
                if _differ_there_alone(one, other, path) and _same(one, other):
                    values = [paths.value_at(p.setup, path) for p in (one, other)]
                    raise ValueError(
                        f"the sweep changes {path}, and its values {values[0]!r} and "
                        f"{values[1]!r} give the same program, cost and privacy, so "
                        "that their runs would be the same; leave one of these values "
                        "out"
                    )


def _may_matter(setup: Any, path: str) -> bool:
    """Returns whether a field is meant to change results."""
    above, _, name = path.rpartition(".")
    held = paths.value_at(setup, above) if above else setup
    kind = fields_of(type(held)).get(name) if not isinstance(held, tuple) else None
    return path.split(".")[0] not in ("layout", "schedule") and not gives_same_bits(
        kind
    )


def _differ_there_alone(one: Point, other: Point, path: str) -> bool:
    here, there = (paths.value_at(p.setup, path) for p in (one, other))
    if here == there and type(here) is type(there):
        return False
    try:
        moved = paths.replaced(one.setup, path, there)
    except (TypeError, ValueError):
        return False
    return jax.tree.structure(moved) == jax.tree.structure(other.setup)


def _same(one: Point, other: Point) -> bool:
    facts = facts_of(one.setup)
    # Data that are generated in training cannot be compared.
    if facts.digests is None or facts != facts_of(other.setup):
        return False
    here, there = built(one.setup), built(other.setup)
    return (
        here.event(1) == there.event(1)
        and here.cost() == there.cost()
        and _program(group_of(one)) == _program(group_of(other))
        and _beside(one) == _beside(other)
    )


@functools.lru_cache(maxsize=64)
def _program(group: Group) -> str:
    """Returns a digest of the programs' texts and of the arrays that they hold."""
    found = hashlib.sha256()
    for closed in _traces(group):
        found.update(str(closed.jaxpr).encode())
        for array in _arrays(closed):
            found.update(trees.digest(array).encode())
    return found.hexdigest()


def _arrays(inner: Any) -> Iterator[Any]:
    """Yields the arrays of a program, in loops and calls too; its text lacks them."""
    if isinstance(inner, ClosedJaxpr):
        yield from inner.consts
        inner = inner.jaxpr
    if isinstance(inner, tuple | list):
        for one in inner:
            yield from _arrays(one)
    if isinstance(inner, Jaxpr):
        for equation in inner.eqns:
            yield from _arrays([*equation.params.values()])


def _beside(point: Point) -> str:
    """Returns a digest of the rows that are not trained."""
    loaded = load_data(point.setup)
    return trees.digest((loaded.test, loaded.validation))


def reads(jaxpr: Any, live_outs: Sequence[bool]) -> list[bool]:
    """Returns for each input of a jaxpr whether a live output depends on it.

    Args:
      jaxpr: An open jaxpr (the `jaxpr` of a closed one).
      live_outs: For each output, whether anything needs it (it is live).
    """
    outs = zip(jaxpr.outvars, live_outs, strict=True)
    live = {var for var, needed in outs if needed and not isinstance(var, Literal)}
    for equation in reversed(jaxpr.eqns):
        needed = [var in live for var in equation.outvars]
        if any(needed) or equation.effects:
            inputs = zip(equation.invars, _through(equation, needed), strict=True)
            live |= {v for v, read in inputs if read and not isinstance(v, Literal)}
    return [var in live for var in jaxpr.invars]


def _through(equation: Any, outs: list[bool]) -> list[bool]:
    """Returns which inputs an equation's live outputs need; all if its inside is
    unknown.
    """
    params, name = equation.params, equation.primitive.name
    if name == "scan":
        body = _opened(params["jaxpr"])
        stacked = _num_stacked(equation.outvars, body.outvars)
        carried = len(outs) - stacked
        items = _num_stacked(equation.invars, body.invars)
        consts = len(equation.invars) - items - carried
        return _loop(body, consts, outs[:carried], outs[carried:])
    if name == "while":
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        test = reads(_opened(params["cond_jaxpr"]), [True])
        # Whether the loop continues depends on what the test reads.
        carry = [a or b for a, b in zip(outs, test[of_test:], strict=True)]
        return test[:of_test] + _loop(_opened(params["body_jaxpr"]), of_body, carry, [])
    if name == "cond":
        branches = [reads(_opened(branch), outs) for branch in params["branches"]]
        return [True, *map(any, zip(*branches, strict=True))]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = _opened(inner)
    fits = inner is not None and len(inner.invars) == len(equation.invars)
    if not fits or len(inner.outvars) != len(outs):
        return [True] * len(equation.invars)
    return reads(inner, outs)


def _opened(jaxpr: Any) -> Any:
    """Returns the open jaxpr of a jaxpr that may be closed."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _num_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Returns how many variables have one axis more outside of a scan's body.

    The shapes tell it for all versions of jax, which record it in different ways.
    """
    pairs = zip(outside, inside, strict=True)
    return sum(one.aval.ndim > other.aval.ndim for one, other in pairs)


def _loop(body: Any, consts: int, carry: list[bool], stacked: list[bool]) -> list[bool]:
    """Returns the inputs that a loop reads, repeated until its live carry is
    complete.
    """
    while True:
        inputs = reads(body, carry + stacked)
        of_carry = inputs[consts : consts + len(carry)]
        more = [a or b for a, b in zip(carry, of_carry, strict=True)]
        if more == carry:
            return inputs[:consts] + carry + inputs[consts + len(carry) :]
        carry = more
