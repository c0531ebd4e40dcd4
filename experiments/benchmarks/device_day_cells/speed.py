"""Speed and memory of rounds, private steps, shares and products."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.device_day_cells.close import MODELS, SEED
from experiments.benchmarks.device_day_cells.exact import RINGS
from experiments.benchmarks.device_day_cells.row import Row, row, seconds_of
from ppml_lab import base, data, dp, federated, models, random
from ppml_lab.smpc import masking, private, products, sharing
from ppml_lab.smpc import ring as rings

EXAMPLES = 20
"""Examples of each client: one epoch in batches of ten is two local steps."""


def images(number: int) -> dict[str, np.ndarray]:
    """Synthetic data of MNIST's shape."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((number, 28, 28, 1), np.float32),
        "y": rng.integers(10, size=number, dtype=np.int32),
    }


def rounds(name: str, cohort: int, lanes: tuple[int, ...], repeats: int) -> list[Row]:
    """Client updates per second of federated averaging, for several numbers of lanes.

    Memory is the compiler's number for temporaries, beside the allocator's peak above
    its state before, where the device has an allocator of its own.
    """
    task = models.flax_classification(*MODELS[name])
    owners = np.repeat(np.arange(cohort), EXAMPLES)
    clients = jax.device_put(data.federate(images(len(owners)), owners))
    trainer = federated.local_sgd(task, optax.sgd(0.1), 10, num_epochs=1)
    rows = []
    for number in lanes:
        if number > cohort:
            continue
        algorithm = federated.averaging(
            task, trainer, federated.everyone(cohort), num_lanes=number
        )
        state = jax.jit(algorithm.init)(jax.random.key(0))
        key = jax.random.key(1)
        compiled = jax.jit(algorithm.round).lower(key, state, clients).compile()
        before, analysis = held(), compiled.memory_analysis()
        stated = analysis.temp_size_in_bytes if analysis else 0
        seconds = seconds_of(compiled, key, state, clients, repeats=repeats)
        said = functools.partial(row, case=name, size=number)
        rows.append(said("client updates", cohort / seconds, "1/s"))
        rows.append(said("stated temporaries", stated / 2**20, "MiB"))
        if before is not None:
            share = _peak_above(before) / max(stated, 1)
            # The peak is of the whole process: it is informative only where this set
            # it.
            rows.append(said("measured peak over them", share, "", limit=1.2,
                             holds=share <= 1.2))  # fmt: skip
    return rows


def held() -> int | None:
    """Bytes that the device's allocator holds; None where memory is the host's."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_in_use"] if stats else None


def _peak_above(before: int) -> int:
    stats = jax.local_devices()[0].memory_stats()
    assert stats is not None
    return stats["peak_bytes_in_use"] - before


def private_steps(name: str, batches: tuple[int, ...], repeats: int) -> list[Row]:
    """Examples per second of a step without privacy, and of DP-SGD by ghost norms."""
    task = models.flax_classification(*MODELS[name])
    params = jax.jit(task.init)(jax.random.key(0))
    mechanism = dp.gaussian(1.0, 1.0, privacy_unit="example")
    rows = []
    for number in batches:
        batch = jax.device_put(images(number))
        everyone = jnp.ones(number)

        @jax.jit
        def plain(params: Any, batch: Any, everyone: Any = everyone) -> Any:
            key = jax.random.key(2)
            return dp.summed_gradient(task.loss)(key, params, batch, everyone)[0]

        @jax.jit
        def private_one(params: Any, batch: Any, everyone: Any = everyone) -> Any:
            keys = dp.example_keys(jax.random.key(2), len(everyone))
            gradient = dp.clipped_gradient(task.loss, mechanism, method="ghost")
            total = gradient(keys, (), params, batch, everyone)[0]
            bound = mechanism.norm_bound(())
            return mechanism.privatize(jax.random.key(3), (), total, bound)[0]

        for what, step in (("plain", plain), ("DP-SGD", private_one)):
            seconds = seconds_of(step, params, batch, repeats=repeats)
            case = f"{name}, {what}"
            rows.append(
                row("examples", number / seconds, "1/s", case=case, size=number)
            )
    return rows


def shares(length: int, num_masks: int, size: int, repeats: int) -> list[Row]:
    """Nanoseconds per word, or per multiplication of a product."""
    seed, rows = jnp.asarray(SEED), []
    timed = functools.partial(seconds_of, repeats=repeats)

    def add(quantity: str, case: str, seconds: float, number: int) -> None:
        rows.append(row(quantity, 1e9 * seconds / number, "ns", case=case))

    add("a word", "drawn", timed(jax.jit(lambda: random.words(seed, length))), length)
    add(
        "a normal number",
        "",
        timed(jax.jit(lambda: random.normal(seed, length))),
        length,
    )
    for name in ("Z_2^32", "Z_2^64"):
        ring = RINGS[name]
        secret = jax.jit(lambda ring=ring: ring.uniform(seed, length))()
        how = sharing.additive(3, ring)
        split = jax.jit(lambda secret, how=how: sharing.share(seed, secret, how).shares)
        add("a value in three shares", name, timed(split, secret), length)
    mask = jax.jit(
        lambda: masking.sum_of_masks(
            rings.Z32,
            random.child(seed, jnp.arange(num_masks)),
            jnp.ones(num_masks, jnp.int32),
            length,
        )
    )
    add("a word of a mask", f"{num_masks} masks", timed(mask), length * num_masks)
    for name in ("Z_2^32", "Z_2^64"):
        ring = RINGS[name]
        square = jax.jit(
            lambda ring=ring: jax.tree.map(
                lambda leaf: leaf.reshape(size, size), ring.uniform(seed, size**2)
            )
        )()
        product = jax.jit(lambda a, b, ring=ring: products.matmul(ring, a, b))
        add(
            "a multiplication",
            f"{name}, {size}",
            timed(product, square, square),
            size**3,
        )
    return rows


def private_inference(numbers: tuple[int, ...], repeats: int) -> list[Row]:
    """Images per second of the 2NN on replicated shares, and its error."""
    module, shape = MODELS["2nn"]
    task: base.Task = models.flax_classification(module, shape)
    params = jax.jit(task.init)(jax.random.key(0))
    how = private.protocol("replicated", fraction_bits=18)
    model: Any = module

    def logits(params: Any, x: Any) -> Any:
        return model.apply(params, x)

    rows = []
    for number in numbers:
        x = jnp.asarray(images(number)["x"])
        shared = private.share(how, jnp.asarray(SEED), (params, x))
        run = jax.jit(lambda seed, both: private.evaluate(how, seed, logits, *both))
        seconds = seconds_of(run, jnp.asarray(SEED), shared, repeats=repeats)
        found = private.reveal(how, run(jnp.asarray(SEED), shared))
        error = float(jnp.abs(found - logits(params, x)).max())
        said = functools.partial(row, case="2nn", size=number)
        rows.append(said("images on shares", number / seconds, "1/s"))
        rows.append(
            said("error on shares", error, "logits", limit=1e-3, holds=error < 1e-3)
        )
    return rows
