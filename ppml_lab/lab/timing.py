"""Run times of several configurations, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, checks
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.program import (
    Chunk,
    compile_chunk,
    group_of,
    init_program,
    inputs_of,
)
from ppml_lab.lab.results import Point
from ppml_lab.lab.setup import lab_mesh, num_rows


@arguments.checked
def seconds_in_turns(
    points: Sequence[Point], turns: int = 7
) -> Float[np.ndarray, "turns points"]:
    """Wall seconds of one chunk of `eval_every` rounds of every point.

    Each turn runs all points once, so that a machine that is busy for a while is busy
    for all alike: take ratios within a turn, and their median. Compilation and a first
    run are not counted.
    """
    checks.at_least("turns", turns, 1)
    programs = [_ready_chunk(point) for point in points]
    seconds = np.empty((turns, len(points)))
    for turn in range(turns):
        for i, program in enumerate(programs):
            begin = time.perf_counter()
            program()
            seconds[turn, i] = time.perf_counter() - begin
    return seconds


def _ready_chunk(point: Point) -> Callable[[], Any]:
    setup, group = point.setup, group_of(point)
    data = load_data(setup)
    # Every row of devices needs a point: the same one for all.
    copies = num_rows(lab_mesh(setup.layout.num_devices))
    inputs = inputs_of([point] * copies)
    states = [init_program(group)(*inputs)]
    # As a sweep runs it, whose compiled program is found again.
    chunk = compile_chunk(group, Chunk(1, setup.schedule.eval_every), copies, 1).run

    def run() -> None:
        # The states' buffers go to the next ones.
        after = chunk(*inputs, states.pop(), *data[:3], np.int32(0))
        states.append(jax.block_until_ready(after)[0])

    run()
    return run
