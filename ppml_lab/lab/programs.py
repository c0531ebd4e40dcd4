"""Compiled programs of slices, and what goes into them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, UInt32

from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.loading import DataFacts, LabData, load_data
from ppml_lab.lab.program import Chunk, mapped_chunk, mapped_init
from ppml_lab.lab.sharding import lab_mesh, num_rows
from ppml_lab.lab.slices import Slice


class Program(NamedTuple):
    """A compiled chunk of a slice and the seconds that compiling it took."""

    run: Callable[..., tuple[PyTree, PyTree, PyTree]]
    compile_seconds: float


class Inputs(NamedTuple):
    """What a slice's program gets beside data and states, stacked over its points."""

    hyperparams: Hyperparams
    seeds: UInt32[np.ndarray, " points"]


def data_of(config: Config) -> LabData:
    """The data of a configuration, on its devices."""
    return load_data(config.data, config.num_devices, config.shard_data)


def inputs_of(part: Slice) -> Inputs:
    """The slice's numbers and seeds, filled up with copies of the last run's."""
    runs = part.runs + part.runs[-1:] * (part.size - len(part.runs))
    points = [run.point for run in runs]
    hyperparams = jax.tree.map(
        lambda *values: np.asarray(values, np.float32),
        *[point.hyperparams for point in points],
    )
    seeds = np.array([point.seed for point in points], np.uint32)
    return Inputs(hyperparams, seeds)


@functools.lru_cache(maxsize=8)
def init_program(config: Config, facts: DataFacts) -> Callable[..., PyTree]:
    """`(hyperparams, seeds) -> states`; one function for all slices, so that jax
    compiles it once for each of their sizes.
    """
    return jax.jit(mapped_init(config, facts))


def states_of(config: Config, size: int) -> PyTree:
    """Shapes and types of the states of `size` points."""
    init = init_program(config, data_of(config).facts)
    return jax.eval_shape(init, *_shapes(size))


def _shapes(size: int) -> tuple[Hyperparams, Any]:
    """Of hyperparameters and seeds."""
    hyperparams = Hyperparams(
        *[jax.ShapeDtypeStruct((size,), jnp.float32) for _ in Hyperparams._fields]
    )
    return hyperparams, jax.ShapeDtypeStruct((size,), jnp.uint32)


def compile_chunk(config: Config, chunk: Chunk, size: int, width: int) -> Program:
    """Compiles a chunk for slices of `size` points.

    Args:
      config: The slices' configuration.
      chunk: Evaluations and rounds.
      size: Points in one program.
      width: Points vmapped at once.
    """
    begin = time.perf_counter()
    data = data_of(config)
    at_once = size // num_rows(lab_mesh(config.num_devices))
    run = mapped_chunk(config, data.facts, chunk, min(width, at_once))
    hyperparams, seeds = _shapes(size)
    states = states_of(config, size)
    compiled = (
        jax.jit(run, donate_argnums=2)
        .lower(hyperparams, seeds, states, data.clients, data.test, np.int32(0))
        .compile()
    )
    return Program(compiled, time.perf_counter() - begin)
