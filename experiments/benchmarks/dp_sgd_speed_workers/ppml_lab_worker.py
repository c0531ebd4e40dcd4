"""The worker of the lab: plain steps, private ones by either method, noise alone."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.benchmarks.dp_sgd_speed_workers import jax_steps, work
from ppml_lab import dp


def main() -> None:
    options = work.arguments(["no_privacy", "ghost", "vmap", "noise"])
    task, data = jax_steps.task_of(options), jax_steps.batches(options)
    key = jax.random.key(options.seed)
    params = task.init(key)
    mechanism = dp.gaussian(
        work.CLIP_NORM, work.NOISE_MULTIPLIER, privacy_unit="example"
    )

    def plain_sum(params: PyTree, batch: PyTree) -> PyTree:
        """The sum of gradients, one microbatch after the other."""
        gradient = dp.summed_gradient(task.loss)
        everyone = jnp.ones(options.microbatch)
        if options.microbatch == work.BATCH_SIZE:
            return gradient(key, params, batch, everyone)[0]

        def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
            grads, _ = gradient(key, params, part, everyone)
            return jax.tree.map(jnp.add, total, grads), None

        parts = jax.tree.map(
            lambda leaf: leaf.reshape(-1, options.microbatch, *leaf.shape[1:]), batch
        )
        zero = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(add, zero, parts)[0]

    def clipped_sum(params: PyTree, batch: PyTree) -> PyTree:
        gradient = dp.clipped_gradient(
            task.loss,
            mechanism,
            method=options.method,
            microbatch_size=options.microbatch,
        )
        keys = dp.example_keys(key, work.BATCH_SIZE)
        return gradient(keys, (), params, batch, jnp.ones(work.BATCH_SIZE))[0]

    def noisy(number: Any, total: PyTree) -> PyTree:
        noise_key = jax.random.fold_in(key, number)
        return mechanism.privatize(noise_key, (), total, mechanism.norm_bound(()))[0]

    def step(state: tuple[PyTree, Any], batch: PyTree) -> tuple[PyTree, Any]:
        params, number = state
        if options.method == "noise":
            params = noisy(number, params)
        elif options.method == "no_privacy":
            params = jax_steps.descend(params, plain_sum(params, batch))
        else:
            total = noisy(number, clipped_sum(params, batch))
            params = jax_steps.descend(params, total)
        return params, number + 1

    if options.method in ("ghost", "vmap"):
        jax_steps.check_clipped_sum(task, params, data[0], clipped_sum)
    jax_steps.report(
        options,
        step,
        (params, jnp.int32(0)),
        data,
        system="ppml_lab",
        version=importlib.metadata.version("ppml_lab"),
    )


if __name__ == "__main__":
    main()
