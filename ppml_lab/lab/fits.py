"""How many runs of a sweep fit a device side by side, known before they run.

What a slice takes is read off two compiled programs, of two points and of four: each
further point has a state of its own, and temporaries too while no more than `width` are
computed side by side.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ppml_lab.federated.lanes import ON_ACCELERATORS, default_num_lanes
from ppml_lab.lab import engine, memory, program
from ppml_lab.lab.chips import Chip
from ppml_lab.lab.disk import kept
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.program import Group
from ppml_lab.lab.setup import lab_mesh, num_rows


class Fit(NamedTuple):
    """What slices of some runs take of a device, and how many points it holds."""

    lanes: int
    """Clients that a point trains side by side, where it has clients."""
    width: int
    """Points that are computed side by side."""
    data_bytes: int
    """Of the data, which all points share."""
    one_bytes: int
    """Of a slice of one point."""
    state_bytes: int
    """That every further point adds."""
    side_bytes: int
    """That it adds while it is one of `width`."""
    free_bytes: int
    """That the device has for slices."""
    largest: int
    """Points of a slice that a sweep tries at most."""

    @property
    def most(self) -> int:
        """Points that fit at once."""
        free = self.free_bytes - self.one_bytes
        if free < 0:
            return 0
        beside = 1 + free // max(1, self.state_bytes + self.side_bytes)
        if beside < self.width:
            return beside
        left = free - (self.width - 1) * self.side_bytes
        return 1 + left // max(1, self.state_bytes)

    @property
    def chosen(self) -> int:
        """Points of a slice that a sweep of many runs would choose."""
        return min(self.most, self.largest)


def here(group: Group, free: int) -> Fit:
    """On a device that is here, of which so many bytes are free."""
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    width = engine.default_width()
    lanes = group.setup.layout.num_lanes or default_num_lanes(_dimension(group))
    taken = _taken(group, width)
    largest = engine.largest_slice(width * rows) // rows
    return Fit(lanes, width, *taken, memory.to_be_used(free), largest)


def elsewhere(group: Group, chip: Chip) -> Fit:
    """On one chip that is not here, by the program that this machine would run with the
    lanes of an accelerator: an estimate, for other compilers keep other temporaries.
    """
    layout = group.setup.layout
    lanes = layout.num_lanes or ON_ACCELERATORS
    setup = dataclasses.replace(
        group.setup, layout=dataclasses.replace(layout, num_lanes=lanes)
    )
    there = group._replace(structure=jax.tree.structure(setup))
    taken = _taken(there, engine.WIDTH_ON_ACCELERATORS)
    free = chip.usable_bytes - taken[0]
    return Fit(
        lanes,
        engine.WIDTH_ON_ACCELERATORS,
        *taken,
        free,
        engine.SLICE_ON_ACCELERATORS,
    )


@functools.lru_cache(maxsize=64)
def _taken(group: Group, width: int) -> tuple[int, int, int, int]:
    """Bytes of the data, of a slice of a point, and of a further one's state and
    temporaries.
    """
    loaded = load_data(group.setup)[:3]
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    chunk = program.chunks_of(group.setup.schedule)[0]
    few, more = (
        memory.needed_by(
            program.compile_chunk(group, chunk, size * rows, min(size, width)).run,
            loaded,
        )
        # One point alone needs no loop, whose arrays two points have already.
        for size in (2, 4)
    )
    states = more.arguments + more.outputs - few.arguments - few.outputs
    beside = max(0, more.temporaries - few.temporaries)
    return (
        sum(leaf.nbytes for leaf in jax.tree.leaves(_on_one(loaded))),
        few.total - (states + beside) // 2,
        states // 2,
        beside // 2,
    )


def _on_one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)


def _dimension(group: Group) -> int:
    params: Any = kept.latest(program.states_of(group, 1)).params
    return sum(leaf.size for leaf in jax.tree.leaves(params))
