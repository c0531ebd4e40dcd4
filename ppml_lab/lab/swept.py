"""Sweeps that change something: runs under different labels must not be the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ppml_lab.lab import paths
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.part import fields_of, gives_same_bits
from ppml_lab.lab.program import Chunk, Group, group_of, traced_chunk
from ppml_lab.lab.reads import reads
from ppml_lab.lab.results import Point

_OTHER = 0.7071
"""A factor that moves a number to another."""


def check_swept(points: Sequence[Point]) -> None:
    """Raises ValueError for a swept field on which nothing depends, naming it: neither
    an output of the traced program, nor a cost, nor the privacy of a run; so that all
    its runs would be the same under different labels.
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
    used = _read(group)
    for place in changing:
        if not used[place] and not _is_stated(points[0], place):
            raise ValueError(
                f"the sweep changes {names[place]}, on which neither the program of "
                f"{type(points[0].setup).__name__} nor its cost nor its privacy "
                "depends: all its runs would be the same; leave it out, or sweep "
                "another number"
            )


def _trace(group: Group) -> Any:
    rows = jax.device_count() // (group.setup.layout.num_devices or jax.device_count())
    return traced_chunk(group, Chunk(1, 1), max(1, rows), 1).jaxpr


def _read(group: Group) -> list[bool]:
    """Which of a setup's numbers the program's outputs depend on."""
    jaxpr = _trace(group).jaxpr
    used = reads(jaxpr, [True] * len(jaxpr.outvars))
    return used[: group.structure.num_leaves]


def _is_stated(point: Point, place: int) -> bool:
    """Whether a number is in what is stated before training."""
    leaves, structure = jax.tree.flatten(point.setup)
    moved = [v * _OTHER + (v == 0) if i == place else v for i, v in enumerate(leaves)]
    try:
        other = jax.tree.unflatten(structure, moved).algorithm(facts_of(point.setup))
    except ValueError:
        return True  # a number that can be wrong is looked at
    here = point.setup.algorithm(facts_of(point.setup))
    return here.event(1) != other.event(1) or here.cost() != other.cost()


def _check_structure(groups: dict[Group, list[Point]]) -> None:
    """Of the fields that are compiled: two groups that differ in nothing but what the
    sweep sets must not be one program.
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
                        f"{values[1]!r} give the same program, cost and privacy: their "
                        "runs would be the same; leave one out"
                    )


def _may_matter(setup: Any, path: str) -> bool:
    """Whether a field is meant to change results."""
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
    here, there = (p.setup.algorithm(facts_of(p.setup)) for p in (one, other))
    return (
        facts_of(one.setup) == facts_of(other.setup)
        and here.event(1) == there.event(1)
        and here.cost() == there.cost()
        and _digest(one) == _digest(other)
    )


def _digest(point: Point) -> str:
    """Of a program's text and of the arrays that it holds."""
    closed = _trace(group_of(point))
    found = hashlib.sha256(str(closed.jaxpr).encode())
    for array in closed.consts:
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()
