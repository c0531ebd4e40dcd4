"""Times rounds of one layout: devices, hosts, storage, cohort, population, points.

With several hosts only the first process reports; memory is its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.benchmarks import bench
from ppml_lab import base, data, federated, models
from ppml_lab.federated.simulate import run_chunk
from ppml_lab.lab import processes, setup

EXAMPLES = 20
"""Examples of each client, in one batch: a round is one local step of each client."""
MODULES = {"logistic": (models.logistic, (60,)), "2nn": (models.two_nn, (28, 28, 1))}


def arguments() -> argparse.Namespace:
    return bench.arguments(
        {"model": sorted(MODULES), "storage": ("whole", "by_shard", "generated")},
        devices=1, hosts=1, columns=0, cohort=100, population=1000, points=1, width=1,
        poisson=0, rounds=1,
    )  # fmt: skip


def client_of(shape: tuple[int, ...]) -> Callable[[base.Key, Array], dict[str, Array]]:
    """A function that makes a client's examples from a key and its number: Gaussian
    inputs, whose class is the index of the largest of the first ten.
    """

    def make(key: base.Key, client: Array) -> dict[str, Array]:
        own = jax.random.fold_in(key, client)
        x = jax.random.normal(own, (EXAMPLES, *shape))
        labels = jnp.argmax(x.reshape(EXAMPLES, -1)[:, :10], axis=1)
        return {"x": x, "y": labels.astype(jnp.int32)}

    return make


def make_clients(
    options: argparse.Namespace, shape: tuple[int, ...], mesh: jax.sharding.Mesh
) -> base.Clients:
    key, sizes = jax.random.key(1), np.full(options.population, EXAMPLES)
    make = client_of(shape)
    if options.storage == "generated":
        return data.generated(make, sizes, key)
    everybody = jax.jit(jax.vmap(make, (None, 0)))(key, jnp.arange(options.population))
    rows = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), everybody
    )
    del everybody
    if options.storage == "by_shard":
        offsets = jnp.arange(options.population + 1, dtype=jnp.int32) * EXAMPLES
        whole = base.Clients(rows, offsets)
        return data.shard(whole, federated.sharded_by_client(mesh))
    owners = np.repeat(np.arange(options.population), EXAMPLES)
    return data.federate(rows, owners, sharding=federated.on_every_device(mesh))


def make_algorithm(
    options: argparse.Namespace, task: base.Task, mesh: jax.sharding.Mesh
) -> base.FederatedAlgorithm:
    population, cohort = options.population, options.cohort
    sampler = federated.fixed_size(population, cohort)
    if options.poisson:
        sampler = federated.poisson(population, cohort / population, mesh)
    return federated.averaging(
        task,
        federated.local_sgd(task, optax.sgd(0.1), EXAMPLES, num_epochs=1),
        sampler,
        mesh=mesh,
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The columns of a report."""
    meter = bench.Meter()
    meter.start()
    module, shape = MODULES[options.model]
    mesh = setup.lab_mesh(options.columns or None)
    task = models.flax_classification(module(10), shape)
    clients = make_clients(options, shape, mesh)
    algorithm = make_algorithm(options, task, mesh)

    def start(seeds: Array) -> Any:
        return jax.lax.map(lambda seed: algorithm.init(jax.random.key(seed)), seeds)

    def chunk(seeds: Array, states: Any, clients: base.Clients) -> Any:
        def one(point: tuple[Array, Any]) -> Any:
            seed, state = point
            key = jax.random.key(seed)
            return run_chunk(key, algorithm, state, clients, 0, options.rounds)

        width = None if options.width == 1 else options.width
        return jax.lax.map(one, (seeds, states), batch_size=width)

    seeds = np.arange(options.points, dtype=np.uint32)
    begin = time.perf_counter()
    states = jax.jit(setup.over_points(start, 1, mesh))(seeds)
    run = jax.jit(setup.over_points(chunk, 2, mesh), donate_argnums=1)
    compiled = run.lower(seeds, states, clients).compile()
    compile_seconds = time.perf_counter() - begin
    trained = []
    for _ in range(4):
        meter.skip()
        states, infos = jax.block_until_ready(compiled(seeds, states, clients))
        meter.lap(options.rounds)
        trained.append(float(np.mean(processes.to_host(infos["num_reports"]))))
    # The first chunk is warm-up.
    laps = meter.laps[1:]
    per_round = float(np.median([lap.seconds / lap.units for lap in laps]))
    trained_per_round = float(np.mean(trained[1:])) * options.points
    dimension = sum(leaf.size for leaf in jax.tree.leaves(states.params))
    return {
        "device": jax.devices()[0].device_kind,
        "dimension": dimension // options.points,
        "clients_per_second": trained_per_round / per_round,
        "seconds_per_round": per_round,
        "compile_seconds": compile_seconds,
        "peak_mib": meter.peak_mib(),
        "device_peak_mib": device_peak_mib(),
    }


def device_peak_mib() -> float | None:
    """The peak of an accelerator's allocator; None where memory is the host's."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**20 if stats else None


def start_others(options: argparse.Namespace) -> None:
    """Starts the other hosts' processes, if this one is the first of several; all of
    them end together.
    """
    if options.hosts == 1 or "JAX_PROCESS_ID" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    os.environ |= {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(options.hosts),
        "JAX_PROCESS_ID": "0",
    }
    command = [sys.executable, *sys.argv]
    for number in range(1, options.hosts):
        subprocess.Popen(command, env=os.environ | {"JAX_PROCESS_ID": str(number)})


def main() -> None:
    options = arguments()
    start_others(options)
    jax.config.update("jax_num_cpu_devices", options.devices // options.hosts)
    with processes.together():
        processes.connect()
        columns = measure(options)
    if processes.is_first():
        version = importlib.metadata.version("ppml_lab")
        bench.report("ppml_lab", version, **columns)


if __name__ == "__main__":
    main()
