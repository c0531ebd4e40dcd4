"""Floats that differ between devices: their distance from a CPU's or from float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.device_day_cells.row import Row, row
from ppml_lab import dp, models, random
from ppml_lab.dp import ghost

SEED = np.array([1, 2], np.uint32)
MODELS = {
    "2nn": (models.two_nn(10), (28, 28, 1)),
    "cnn": (models.CNN(10), (28, 28, 1)),
    "tutorial cnn": (models.TutorialCNN(10), (28, 28, 1)),
}


def measure(length: int, num_examples: int, names: tuple[str, ...]) -> list[Row]:
    """Rows of errors: normal numbers in units in the last place, gradient norms
    relative.
    """
    return [normals(length), *(ghost_norms(name, num_examples) for name in names)]


def normals(length: int) -> Row:
    """The largest distance of normal numbers from the CPU's, in units in the last
    place.
    """

    def drawn(device: Any) -> np.ndarray:
        seed = jax.device_put(SEED, device)
        draw = jax.jit(lambda seed: random.normal(seed, length))
        return np.asarray(draw(seed))

    here, there = drawn(jax.devices()[0]), drawn(jax.devices("cpu")[0])
    apart = int(np.abs(ordered(here) - ordered(there)).max())
    return row("normal numbers", apart, "ulp", limit=4, holds=apart <= 4)


def ordered(values: np.ndarray) -> np.ndarray:
    """Integers in the order of float32 numbers; neighbours differ by one."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def ghost_norms(name: str, num_examples: int) -> Row:
    """The largest relative error of ghost norms, compared with gradients in float64."""
    module, shape = MODELS[name]
    task = models.flax_classification(module, shape)
    rng = np.random.default_rng(0)
    examples = {
        "x": rng.standard_normal((num_examples, *shape), np.float32),
        "y": rng.integers(10, size=num_examples, dtype=np.int32),
    }
    params = jax.jit(task.init)(jax.random.key(0))
    keys = dp.example_keys(jax.random.key(1), num_examples)

    @jax.jit
    def by_ghost(params: Any, examples: Any) -> Any:
        found = ghost.by_layers(task.loss)(keys, params, examples)
        return jnp.sqrt(sum(jax.tree.leaves(found.squared_norms)))

    here = np.asarray(by_ghost(params, examples), np.float64)
    there = exact_norms(task, jax.device_get(params), examples)
    error = float(np.abs(here / there - 1).max())
    return row("ghost norms", error, "relative", case=name, limit=1e-5,
               holds=error <= 1e-5)  # fmt: skip


def exact_norms(task: Any, params: Any, examples: Any) -> np.ndarray:
    """Norms of every example's gradient, in float64 on a CPU."""
    wide = jax.tree.map(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf,
        (params, examples),
    )
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        key = jax.random.key(1)

        def norm(params: Any, example: Any) -> Any:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            grads = jax.grad(lambda params: task.loss(key, params, alone)[0])(params)
            return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))

        norms = jax.jit(
            lambda both: jax.lax.map(lambda one: norm(both[0], one), both[1])
        )
        return np.asarray(norms(wide))
