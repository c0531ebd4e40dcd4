"""The worker of jax-privacy 2.0.0: `clipped_grad` and noise, on the lab's models."""

from __future__ import annotations

import importlib.metadata

import jax
import jax_privacy  # pyrefly: ignore[missing-import]
from jax import Array
from jaxtyping import PyTree

from experiments.benchmarks.dp_sgd_speed_workers import jax_steps, work


def main() -> None:
    options = work.arguments(["no_privacy", "clipped_grad"])
    task, data = jax_steps.task_of(options), jax_steps.batches(options)
    key = jax.random.key(options.seed)
    params = task.init(key)

    def loss(params: PyTree, batch: PyTree) -> Array:
        return task.loss(key, params, batch).sum()

    whole = options.microbatch == work.BATCH_SIZE
    clipped_sum = jax_privacy.clipped_grad(
        loss,
        l2_clip_norm=work.CLIP_NORM,
        microbatch_size=None if whole else options.microbatch,
    )
    privatizer = jax_privacy.noise_addition.gaussian_privatizer(
        stddev=work.NOISE_MULTIPLIER * clipped_sum.sensitivity(), prng_key=key
    )

    def step(state: tuple[PyTree, PyTree], batch: PyTree) -> tuple[PyTree, PyTree]:
        params, noise_state = state
        if options.method == "no_privacy":
            total = jax.grad(loss)(params, batch)
        else:
            total, noise_state = privatizer.update(
                clipped_sum(params, batch), noise_state
            )
        return jax_steps.descend(params, total), noise_state

    if options.method == "clipped_grad":
        jax_steps.check_clipped_sum(task, params, data[0], clipped_sum)
    jax_steps.report(
        options,
        step,
        (params, privatizer.init(params)),
        data,
        system="jax-privacy",
        version=importlib.metadata.version("jax-privacy"),
    )


if __name__ == "__main__":
    main()
