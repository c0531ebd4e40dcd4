"""The worker of the lab's federated averaging: a chunk of rounds is one compiled
program.

Cohorts are drawn inside the program, uniformly without replacement.
"""

from __future__ import annotations

import importlib.metadata
import time
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from experiments.benchmarks import bench
from experiments.benchmarks.throughput_workers import work
from ppml_lab import base, data, federated, models
from ppml_lab.federated.lanes import default_num_lanes
from ppml_lab.federated.simulate import run_chunk


class Compilations:
    """Counts the programs that jax compiles."""

    def __init__(self) -> None:
        self.number = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration_secs: float, **kwargs: int | str) -> None:
        self.number += event == "/jax/core/compile/backend_compile_duration"


def main() -> None:
    options = work.arguments()
    if options.devices != 1:
        federated.use_all_cores()
    compilations = Compilations()
    mesh = federated.client_mesh(options.devices)
    clients, test = federated_data(options, federated.on_every_device(mesh))
    modules = {"2nn": models.two_nn, "cnn": models.CNN}
    task = models.flax_classification(modules[options.model](10), (28, 28, 1))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    dimension = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    num_lanes = options.lanes or default_num_lanes(dimension)
    algorithm = federated.averaging(
        task,
        federated.local_sgd(
            task, optax.sgd(work.LEARNING_RATE), work.BATCH_SIZE, num_epochs=1
        ),
        federated.fixed_size(options.num_clients, options.clients_per_round),
        weighting="examples",
        num_lanes=num_lanes,
        mesh=mesh,
    )
    # At most ten chunks; one long round is a chunk of its own.
    length = max(1, options.rounds // 10)
    evaluate = jax.jit(federated.evaluator(task))

    @partial(jax.jit, donate_argnums=1)
    def chunk(
        key: base.Key, state: Any, clients: base.Clients, first_round: Any
    ) -> tuple[Any, dict[str, Any]]:
        return run_chunk(key, algorithm, state, clients, first_round, length)

    key = jax.random.key(options.seed)
    sharding = clients.offsets.sharding
    state = jax.jit(algorithm.init, out_shardings=sharding)(jax.random.key(0))
    meter = bench.Meter()
    meter.start()
    begin = time.perf_counter()
    chunk.lower(key, state, clients, np.int32(0)).compile()
    compile_seconds = time.perf_counter() - begin

    compiled, warm_up = compilations.number, -(-options.warm_up // length)
    for first_round in np.arange(warm_up + options.rounds // length) * length:
        done = chunk(key, state, clients, np.int32(first_round))
        state, _ = jax.block_until_ready(done)
        meter.lap(length)
    recompilations = compilations.number - compiled
    assert recompilations == 0, (
        f"{recompilations} programs were compiled again in timed rounds"
    )
    work.report(
        options,
        meter,
        "ppml_lab",
        importlib.metadata.version("ppml_lab"),
        dimension,
        float(evaluate(state.params, test)["accuracy"]),
        compile_seconds=compile_seconds,
        recompilations=recompilations,
        lanes=num_lanes,
        devices=mesh.size,
    )


def federated_data(
    options: Any, sharding: jax.sharding.Sharding
) -> tuple[base.Clients, dict[str, jax.Array]]:
    """The work's data on the devices; the host's copy is freed."""
    made = work.make_data(options)
    clients = data.federate(
        {"x": made.x, "y": made.y},
        np.repeat(np.arange(options.num_clients), made.sizes),
        sharding=sharding,
    )
    test = jax.device_put({"x": made.test_x, "y": made.test_y}, sharding)
    return jax.block_until_ready((clients, test))


if __name__ == "__main__":
    main()
