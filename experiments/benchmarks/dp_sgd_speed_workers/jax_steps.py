"""Shared parts of the workers that compute with jax."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from experiments.benchmarks.dp_sgd_speed_workers import work
from ppml_lab import base, models

MODELS = {
    "mlp": models.two_nn(work.NUM_CLASSES),
    "mnist_cnn": models.TutorialCNN(work.NUM_CLASSES),
    "cnn": models.CNN(work.NUM_CLASSES),
}


def task_of(options: argparse.Namespace) -> base.Task:
    """The task of the lab's model, also for peers: only the private step differs."""
    return models.flax_classification(MODELS[options.model], (28, 28, 1))


def batches(options: argparse.Namespace) -> list[PyTree]:
    """The work's batches on the device."""
    made = [{"x": x, "y": y} for x, y in work.batches(options.seed)]
    return jax.device_put(made)


def descend(params: PyTree, grad_sum: PyTree) -> PyTree:
    """A step of SGD along a sum over the batch."""
    rate = work.LEARNING_RATE / work.BATCH_SIZE
    return jax.tree.map(lambda p, g: p - rate * g, params, grad_sum)


def check_clipped_sum(
    task: base.Task,
    params: PyTree,
    batch: PyTree,
    clipped_sum: Callable[[PyTree, PyTree], PyTree],
) -> None:
    """Compares `clipped_sum(params, batch)` with one example after the other."""
    key = jax.random.key(0)

    def one_more(total: PyTree, example: PyTree) -> tuple[PyTree, None]:
        def loss(params: PyTree) -> Array:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            return task.loss(key, params, alone)[0]

        grad = jax.grad(loss)(params)
        factor = jnp.minimum(1.0, work.CLIP_NORM / optax.tree.norm(grad))
        return jax.tree.map(lambda t, g: t + factor * g, total, grad), None

    zero = jax.tree.map(jnp.zeros_like, params)
    expected = jax.jit(lambda: jax.lax.scan(one_more, zero, batch)[0])()
    found = jax.jit(clipped_sum)(params, batch)
    work.check_clipped_sum(*map(jax.tree.leaves, jax.device_get((found, expected))))


def report(
    options: argparse.Namespace,
    step: Callable[[Any, PyTree], Any],
    state: Any,
    data: list[PyTree],
    **about: Any,
) -> None:
    """Times `step(state, batch) -> state`, compiled; the old state's memory is reused.

    Args:
      options: The worker's options.
      step: Makes one step.
      state: The first state; a pair that starts with the parameters.
      data: The batches.
      **about: Passed on to `work.report`.
    """
    compiled = partial(jax.jit, donate_argnums=0)(step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[0]))

    def one_step(number: int) -> None:
        nonlocal state
        state = compiled(state, data[number])

    def finish() -> None:
        jax.block_until_ready(state)

    work.report(options, one_step, finish, parameters=parameters, **about)
    finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state[0])]
    assert all(finite), "the parameters are not finite"
