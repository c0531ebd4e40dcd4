"""Run times of several configurations, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ppml_lab import arguments, checks
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.point import Point
from ppml_lab.lab.program import Chunk, mapped_chunk, mapped_init
from ppml_lab.lab.sharding import lab_mesh, num_rows


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
    config = point.config
    data = load_data(config.data, config.num_devices, config.shard_data)
    # Every row of devices needs a point: the same one for all.
    copies = num_rows(lab_mesh(config.num_devices))
    hyperparams = jax.tree.map(
        lambda value: jnp.full(copies, value, jnp.float32), point.hyperparams
    )
    seeds = jnp.full(copies, point.seed, jnp.uint32)
    states = jax.jit(mapped_init(config, data.facts))(hyperparams, seeds)
    rounds = Chunk(1, config.eval_every)
    chunk = jax.jit(mapped_chunk(config, data.facts, rounds, width=1))

    def run() -> Any:
        return jax.block_until_ready(
            chunk(hyperparams, seeds, states, *data[:2], jnp.int32(0))
        )

    run()
    return run
