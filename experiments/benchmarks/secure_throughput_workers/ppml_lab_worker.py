"""The worker of the lab, on `--threads` CPU devices of one thread each.

Devices share the coordinates of a vector and exchange no messages. Every result is
checked against numpy's.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.secure_throughput_workers import on_shares, work
from ppml_lab import data, federated, models, pairs, random, smpc
from ppml_lab.smpc import dropouts, graphs, masking, shamir, sharing
from ppml_lab.smpc import ring as rings

RINGS = {32: rings.Z32, 64: rings.Z64, 31: smpc.field.F31, 61: smpc.field.F61}
ABOUT = {"system": "ppml_lab", "version": importlib.metadata.version("ppml_lab")}
SEED = np.array([1, 2], np.uint32)
Parts = Callable[..., Any]


def over_coordinates(mesh: Mesh, function: Parts, rank_in: int, rank_out: int) -> Parts:
    """Compiles `function(part, first_block)` over each device's part of the last axis.

    Ranks are those of the function's input and output, with the coordinates last.
    """
    spec_in, spec_out = (
        PartitionSpec(*[None] * (rank - 1), "clients") for rank in (rank_in, rank_out)
    )

    def part(values: Any) -> Any:
        blocks = jax.tree.leaves(values)[0].shape[-1] // random.BLOCK
        return function(values, lax.axis_index("clients") * blocks)

    # Coordinates are independent, so that there is nothing to check.
    mapped = jax.shard_map(
        part, mesh=mesh, in_specs=spec_in, out_specs=spec_out, check_vma=False
    )
    compiled = jax.jit(mapped)
    return lambda *arguments: jax.block_until_ready(compiled(*arguments))


def elements(options: argparse.Namespace, mesh: Mesh, count: int) -> tuple[Any, Any]:
    """A ring and elements on the devices, filled up to whole blocks."""
    ring = RINGS[options.word_bits]
    rng = np.random.default_rng(options.seed)
    values = rng.integers(ring.modulus, size=count, dtype=np.uint64)
    whole = mesh.size * random.BLOCK
    filled = np.pad(values, (0, -count % whole))
    dealt = NamedSharding(mesh, PartitionSpec("clients"))
    return ring, jax.device_put(rings.from_integers(ring, filled), dealt)


def share(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times additive or Shamir shares, and the reconstruction of secrets."""
    if options.task == "shamir":
        ring, secrets = elements(options, mesh, options.secrets)
        scheme = shamir.shamir(options.threshold, options.shares, ring)
        holders, drawn, sent = options.shares, options.threshold - 1, options.threshold
    else:
        ring, secrets = elements(options, mesh, options.values)
        holders = sent = work.PARTIES[options.task]
        scheme, drawn = sharing.additive(holders, ring), holders - 1

    def split(values: Any, first_block: Any) -> Any:
        return sharing.share(jnp.asarray(SEED), values, scheme, first_block).shares

    def open_all(shares: Any, first_block: Any) -> Any:
        del first_block
        return sharing.reveal(sharing.Shared(shares, scheme), name="secrets")

    phases = {
        "share": over_coordinates(mesh, split, 1, 2),
        "reconstruct": over_coordinates(mesh, open_all, 2, 1),
    }
    count = options.secrets if options.task == "shamir" else options.values
    word = 4 if ring.bits <= 32 else 8
    opened = work.report(
        options,
        secrets,
        phases,
        **ABOUT,
        ring=ring.name,
        drawn_words=count * drawn * word // 4,
        moved_bytes=count * word * (1 + holders + sent + 1),
    )
    jax.tree.map(np.testing.assert_array_equal, opened, secrets)


def by_23_bits(seed: Any, length: int, first_block: Any) -> Any:
    """Normal numbers from one word each, as jax draws them: none exceeds 5.3."""
    bits = (random.words(seed, length, first_block) >> 9) | np.uint32(0x3F800000)
    unit = lax.bitcast_convert_type(bits, jnp.float32)
    middle = (unit - np.float32(1.5)) * 2 + np.float32(2.0**-23)
    return np.float32(np.sqrt(2)) * lax.erf_inv(middle)


GENERATORS: dict[str, Parts] = {
    "draw_words": random.words,
    "draw_normals": random.normal,
    "draw_normals_23_bits": by_23_bits,
}


def numbers(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times words or normal numbers, in whole blocks on every device."""
    draw = GENERATORS[options.task]
    dealt = NamedSharding(mesh, PartitionSpec("clients"))
    size = options.values + -options.values % (mesh.size * random.BLOCK)
    places = jax.device_put(jnp.zeros(size), dealt)

    def drawn(values: Any, first_block: Any) -> Any:
        return draw(jnp.asarray(SEED), len(values), first_block)

    found = work.report(
        options,
        places,
        {"draw": over_coordinates(mesh, drawn, 1, 1)},
        **ABOUT,
        drawn_words=size * (2 if draw is random.normal else 1),
    )
    expected = jax.jit(lambda: draw(jnp.asarray(SEED), size, 0))()
    np.testing.assert_array_equal(found, expected)


def masks(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times a client's vector plus its masks."""
    dealt = NamedSharding(mesh, PartitionSpec("clients"))
    vector = jax.device_put(work.words(options, options.words), dealt)
    seeds = random.child(jnp.asarray(SEED), jnp.arange(options.masks))
    signs = jnp.where(jnp.arange(options.masks) % 2, -1, 1)

    def masked(values: Any, first_block: Any) -> Any:
        added = masking.sum_of_masks(rings.Z32, seeds, signs, len(values), first_block)
        return values + added

    phases = {"mask": over_coordinates(mesh, masked, 1, 1)}
    words = options.masks * options.words
    total = work.report(
        options, vector, phases, **ABOUT, generator="threefry2x32", drawn_words=words
    )
    every = np.asarray(random.words(seeds, options.words))
    every = np.where(np.arange(options.masks)[:, None] % 2, -every, every)
    expected = np.asarray(vector) + every.sum(0, dtype=np.uint32)
    np.testing.assert_array_equal(total, expected)


def graph_of(options: argparse.Namespace) -> graphs.Graph:
    degree = options.degree or options.clients - 1
    return graphs.check(graphs.Graph(options.clients, degree, options.threshold))


def vectors(clients: Any, coordinates: Any) -> Any:
    """The words that clients `[n, 1]` send at coordinates `[d]`, without a pattern."""
    return clients * np.uint32(0x9E3779B9) ^ coordinates * np.uint32(0x85EBCA6B)


def uploaders(options: argparse.Namespace) -> np.ndarray:
    """The clients that do not drop out."""
    order = np.random.default_rng(options.seed).permutation(options.clients)
    return order >= round(options.clients * options.dropouts / 100)


def masked_round(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times the whole protocol: keys, shares, masks, dropouts, unmasking."""
    graph, stays = graph_of(options), uploaders(options)
    here = jnp.ones(len(stays), bool)
    chunk = masking.CHUNK
    num_chunks = -(-options.words // chunk)
    clients = jnp.arange(options.clients, dtype=jnp.uint32)[:, None]

    def inputs(number: Any) -> Any:
        begin = number.astype(jnp.uint32) * np.uint32(chunk)
        return vectors(clients, begin + jnp.arange(chunk, dtype=jnp.uint32))

    @jax.jit
    def protocol(stays: Any) -> masking.Outcome:
        alive = dropouts.nested(here, here, stays, stays)
        return masking.run(
            jnp.asarray(SEED), graph, inputs, alive, num_chunks=num_chunks, mesh=mesh
        )

    cost = smpc.operations.of_masked_sum(graph, options.words, int((~stays).sum()))
    drawn = options.clients * cost.client.mask_words
    # The emulation draws the mask of a pair once, not for both clients.
    drawn = (drawn + options.clients * options.words) // 2 + cost.server.mask_words
    outcome = work.report(
        options,
        stays,
        {"round": lambda stays: jax.block_until_ready(protocol(stays))},
        **ABOUT,
        drawn_words=drawn,
    )
    assert outcome.completed
    coordinates = np.arange(num_chunks * chunk, dtype=np.uint32)
    expected = np.zeros_like(coordinates)
    for client in np.flatnonzero(stays).astype(np.uint32)[:, None]:
        expected += vectors(client, coordinates)
    np.testing.assert_array_equal(outcome.total, expected)


def ideal_round(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times the simulation of all uploads, uniform given the sum."""
    stays = jnp.asarray(uploaders(options))
    total = jnp.asarray(work.words(options, options.words))

    def draw(values: Any, first_block: Any) -> Any:
        seen = masking.ideal_transcript(jnp.asarray(SEED), values, stays, first_block)
        return jnp.concatenate([seen.uploads, seen.removed[None]])

    seen = work.report(
        options,
        total,
        {"transcript": over_coordinates(mesh, draw, 1, 2)},
        **ABOUT,
        drawn_words=options.clients * options.words,
    )
    uploads, removed = np.asarray(seen[:-1]), np.asarray(seen[-1])
    opened = uploads.sum(0, dtype=np.uint32) - removed
    np.testing.assert_array_equal(opened, total)


def modular_sum(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times rounding, adding and decoding of vectors, beside adding them unchanged."""
    rng = np.random.default_rng(options.seed)
    shape = (options.clients, options.words)
    updates = rng.uniform(-1, 1, shape).astype(np.float32)
    identity = smpc.additive_sharing(3, options.clients, 1.0, mode="identity")

    def summed(aggregator: Any) -> Any:
        everyone = jnp.ones(options.clients, bool)
        session = aggregator.begin(jax.random.key(0), everyone, everyone, jnp.inf)

        def one(values: Any, first_block: Any) -> Any:
            base_key = jax.random.fold_in(jax.random.key(0), first_block)

            def add(total: Any, row: tuple[Any, Any]) -> tuple[Any, None]:
                place, update = row
                key = jax.random.fold_in(base_key, place)
                message = aggregator.encode(key, session, place, update)
                own, here = jnp.array([place]), jnp.ones(1, bool)
                return aggregator.absorb(total, message[None], own, here), None

            key = jax.random.key(0)
            message = jax.eval_shape(
                lambda key, row: aggregator.encode(key, session, 0, row), key, values[0]
            )
            empty = aggregator.empty(message)
            places = jnp.arange(options.clients)
            total, _ = lax.scan(add, empty, (places, values))
            return pairs.value(aggregator.finish(session, total)[0])

        return over_coordinates(mesh, one, 2, 1)

    dealt = NamedSharding(mesh, PartitionSpec(None, "clients"))
    updates = jax.device_put(updates, dealt)
    plain, rounded = summed(smpc.clear()), summed(identity)
    total = work.report(
        options,
        updates,
        {
            "clear": lambda updates: (plain(updates), updates),
            "identity": lambda both: (both[0], rounded(both[1])),
        },
        **ABOUT,
        moved_bytes=4 * updates.size,
    )
    assert np.abs(np.subtract(*map(np.asarray, total))).max() < options.clients / 2**16


def federated_round(options: argparse.Namespace, mesh: Mesh) -> None:
    """Times a round in which 20 of 100 clients train the 2NN for one epoch of 60
    images.
    """
    task = models.flax_classification(models.two_nn(10), (28, 28, 1))
    rng = np.random.default_rng(options.seed)
    examples = {
        "x": rng.standard_normal((6000, 28, 28, 1), np.float32),
        "y": rng.integers(10, size=6000, dtype=np.int32),
    }
    everywhere = federated.on_every_device(mesh)
    clients = data.federate(examples, np.arange(6000) // 60, sharding=everywhere)

    def rounds(aggregator: Any) -> Callable[[Any], Any]:
        algorithm = federated.averaging(
            task,
            federated.local_sgd(task, optax.sgd(0.1), 10, num_epochs=1),
            federated.fixed_size(100, 20),
            aggregator=aggregator,
            mesh=mesh,
        )
        start = jax.jit(algorithm.init, out_shardings=everywhere)(jax.random.key(0))

        @functools.partial(jax.jit, static_argnums=2)
        def ten(state: Any, clients: Any, count: int) -> Any:
            def one(number: Any, state: Any) -> Any:
                key = jax.random.fold_in(jax.random.key(1), number)
                return algorithm.round(key, state, clients)[0]

            return lax.fori_loop(0, count, one, state)

        return lambda _: jax.block_until_ready(ten(start, clients, 10)).params

    shares = functools.partial(smpc.additive_sharing, 3, 20, 4.0)
    graph = graphs.complete(20)
    work.report(
        options,
        None,
        {
            "clear": rounds(smpc.clear()),
            "identity": rounds(shares(mode="identity")),
            "additive_sharing": rounds(shares()),
            "masking_identity": rounds(
                smpc.pairwise_masking(graph, 4.0, mode="identity")
            ),
            "masking_ideal": rounds(smpc.pairwise_masking(graph, 4.0, mode="ideal")),
            "masking_full": rounds(smpc.pairwise_masking(graph, 4.0)),
        },
        **ABOUT,
    )


TASKS: dict[str, Callable[[argparse.Namespace, Mesh], None]] = {
    "share_3": share,
    "share_10": share,
    "shamir": share,
    **dict.fromkeys(GENERATORS, numbers),
    "masks": masks,
    "masked_round": masked_round,
    "ideal_round": ideal_round,
    "modular_sum": modular_sum,
    "federated_round": federated_round,
    **{
        name: functools.partial(task, **ABOUT) for name, task in on_shares.TASKS.items()
    },
}


def main() -> None:
    options = work.arguments(sorted(TASKS))
    # One XLA device uses all threads that it finds.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.task not in on_shares.TASKS:
        jax.config.update("jax_num_cpu_devices", options.threads)
    num_devices = len(jax.devices())
    TASKS[options.task](options, federated.client_mesh(num_devices))


if __name__ == "__main__":
    main()
