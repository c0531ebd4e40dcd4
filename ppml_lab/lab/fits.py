"""Estimates, before a sweep runs, of how many of its runs fit a device at once.

Two compiled programs, of two points and of four, show the memory of a slice: each
further point adds a state, and also temporaries as long as at most `width` points are
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
    """The memory that slices of a group take on a device, and the points that fit."""

    lanes: int
    """Clients that a point trains at once, where it has clients."""
    width: int
    """Points that are computed at once."""
    data_bytes: int
    """Bytes of the data, which all points share."""
    one_bytes: int
    """Bytes of a slice of one point."""
    state_bytes: int
    """Bytes of state that every further point adds."""
    side_bytes: int
    """Bytes of temporaries that a further point adds while it is among the first
    `width`."""
    free_bytes: int
    """Bytes that the device has for slices."""
    largest: int
    """The most points of a slice that a sweep tries."""

    @property
    def most(self) -> int:
        """The number of points that fit at once."""
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
        """The slice size that a sweep of many runs would choose."""
        return min(self.most, self.largest)


def here(group: Group, free: int) -> Fit:
    """Returns the fit on a device that is here and has `free` bytes free."""
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    width = engine.default_width()
    lanes = group.setup.layout.num_lanes or default_num_lanes(_dimension(group))
    taken = _taken(group, width)
    largest = engine.largest_slice(width * rows) // rows
    return Fit(lanes, width, *taken, memory.to_be_used(free), largest)


def elsewhere(group: Group, chip: Chip) -> Fit:
    """Returns an estimate of the fit on one chip that is not here.

    It is read off the program that this machine would run with the lanes of an
    accelerator; the compiler for the chip may need other temporaries.
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
    """Returns the bytes of the data, of a slice of one point, and of a further point's
    state and temporaries.
    """
    loaded = load_data(group.setup)[:3]
    rows = num_rows(lab_mesh(group.setup.layout.num_devices))
    chunk = program.chunks_of(group.setup.schedule)[0]
    few, more = (
        memory.needed_by(
            program.compile_chunk(group, chunk, size * rows, min(size, width)).run,
            loaded,
        )
        # Two points have the arrays of a loop, which one point alone lacks.
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
