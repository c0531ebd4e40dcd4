"""Shards: the parts of a sweep that the tasks of a job array run, each by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ppml_lab.lab.program import Group, group_of
from ppml_lab.lab.results import Point


class Shard(NamedTuple):
    """Part `index` of `count`, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        """As `parse_shard` reads it."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard "i/n".

    Raises:
      ValueError: For another text, or an index that is not from 1 to n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ValueError(f"shard '{text}' is not of the form i/n, such as 1/8")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.index <= shard.count:
        raise ValueError(
            f"shard {shard} does not exist: there are {shard.count}, counted from 1"
        )
    return shard


def from_environment(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """The shard of this task of a SLURM job array; None outside of one.

    Raises:
      ValueError: If the array's tasks are no range.
    """
    names = ("ID", "COUNT", "MIN", "STEP")
    found = {name: environment.get(f"SLURM_ARRAY_TASK_{name}") for name in names}
    if found["ID"] is None or found["COUNT"] is None:
        return None
    task, count = int(found["ID"]), int(found["COUNT"])
    steps, rest = divmod(task - int(found["MIN"] or 0), int(found["STEP"] or 1))
    if rest or not 0 <= steps < count:
        raise ValueError(
            f"task {task} of this SLURM array has no place in a range of {count} from "
            f"{found['MIN']} in steps of {found['STEP']}; pass --shard i/n"
        )
    return Shard(steps + 1, count)


def take(points: Sequence[Point], shard: Shard) -> list[Point]:
    """The points of a shard: equal parts but for one point, ordered so that those of a
    group, which share a program, are together.
    """
    groups: dict[Group, list[Point]] = {}
    for point in points:
        groups.setdefault(group_of(point), []).append(point)
    ordered = [point for group in groups.values() for point in group]
    begin, end = (
        len(ordered) * part // shard.count for part in (shard.index - 1, shard.index)
    )
    return ordered[begin:end]
