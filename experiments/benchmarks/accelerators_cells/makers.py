"""Makes programs that can be compiled for chips that are not here.

A program's data are loaded on this machine's devices; it is traced with shapes on the
devices that it is compiled for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.audited import trainings
from experiments.benchmarks.device_day_cells.speed import images
from ppml_lab import audit, base, data, dp, federated, lab, models, smpc
from ppml_lab.lab import parts, program
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.setup import by_point, lab_mesh, num_rows
from ppml_lab.smpc import private, products

SEED = jax.ShapeDtypeStruct((2,), jnp.uint32)


class Program(NamedTuple):
    """A function with its arguments."""

    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    """Pytrees of `jax.ShapeDtypeStruct`; those without a sharding are whole on every
    device."""
    donated: tuple[int, ...] = ()
    """Arguments whose memory results may reuse."""


Make = Callable[[], Program]
"""Makes a program; called where the program's devices are the target's."""
COHORT = 16
SHORT = lab.Schedule(num_rounds=2, eval_every=2)


def slice_of(setup: Any, width: int = 1) -> Make:
    """The first chunk of a sweep's slice, `width` points side by side on each row of
    devices.
    """
    group = program.group_of(lab.Point(setup, 0, {}, delta=1e-3))
    loaded = load_data(setup)

    def make() -> Program:
        mesh = lab_mesh(setup.layout.num_devices)
        size = width * num_rows(mesh)
        chunk = program.chunks_of(setup.schedule)[0]
        stacked = (*program.shapes_of(group, size), program.states_of(group, size))
        return Program(
            program.mapped_chunk(group, chunk, width),
            (*shaped(stacked, by_point(mesh)), *moved(loaded[:3], mesh), _number()),
            donated=(2,),
        )

    return make


def shaped(tree: Any, sharding: NamedSharding | None = None) -> Any:
    """Shapes and types of arrays, with the given sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )


def moved(tree: Any, mesh: Mesh) -> Any:
    """Shapes and types of arrays that lie on the same number of devices here, moved to
    a mesh.
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, leaf.sharding.spec)
        ),
        tree,
    )


def _number() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.int32)


@lab.part
class Images:
    """Synthetic data of MNIST's shape."""

    number: int = 1280
    """Number of train rows."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Loads images and labels of pure noise."""
        return images(self.number), None, images(100)


@lab.part
class TwoClasses:
    """The handwritten digits as two classes: from five on, and below."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Loads the embedded digits with two classes."""
        digits = data.load("digits")

        def halved(rows: Any) -> dict[str, np.ndarray]:
            return {"x": rows["x"], "y": (rows["y"] >= 5).astype(np.int32)}

        return halved(digits.train), None, halved(digits.test)


def rounds(model: Any, lanes: int, **fields: Any) -> Callable[[], Make]:
    """Federated averaging of 64 clients that hold images."""
    return lambda: slice_of(
        parts.Federated(
            data=Images(),
            partition=parts.Iid(64),
            model=model,
            sampler=parts.Everyone(),
            schedule=lab.Schedule(num_rounds=1, eval_every=1),
            layout=lab.Layout(num_lanes=lanes),
            **fields,
        )
    )


def round_on_a_mesh() -> Make:
    """A round in a researcher's own program, without the lab's sweep around it, under
    full pairwise masks.
    """
    task = trainings.task_of(models.two_nn(10))
    train = data.load("digits").train
    owners = data.partition.iid(np.random.default_rng(0), len(train["y"]), COHORT)
    clients = data.federate(train, owners)
    trainer = federated.local_sgd(task, optax.sgd(0.1), 10, num_epochs=1)
    graph = smpc.graphs.complete(COHORT, COHORT - 4)

    def make() -> Program:
        mesh = federated.client_mesh()
        algorithm = federated.averaging(
            task,
            trainer,
            federated.everyone(COHORT),
            aggregator=smpc.pairwise_masking(graph, 8.0),
            mesh=mesh,
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        whole = (key, jax.eval_shape(algorithm.init, key), clients)
        everywhere = federated.on_every_device(mesh)
        return Program(algorithm.round, shaped(whole, everywhere), donated=(1,))

    return make


def dp_sgd(model: Any, batch: int, method: Any) -> Callable[[], Make]:
    """Two steps of DP-SGD on images."""
    return lambda: slice_of(
        parts.Central(
            data=Images(4096),
            model=model,
            batch=parts.Poisson(batch),
            mechanism=parts.Gaussian(1.0, 1.0),
            method=method,
            schedule=SHORT,
        )
    )


def federated_run(width: int = 1, **fields: Any) -> Callable[[], Make]:
    """A run on the digits with parts that no pair has."""
    chosen: dict[str, Any] = {
        "partition": parts.Iid(4 * COHORT),
        "model": parts.TwoNN(),
        "sampler": parts.Poisson(COHORT),
        "schedule": SHORT,
    }
    return lambda: slice_of(parts.Federated(**chosen | fields), width)


def training_on_shares(**fields: Any) -> Callable[[], Make]:
    """Training steps of a logistic regression on the shares of three parties."""
    return lambda: slice_of(
        parts.OnShares(
            data=TwoClasses(), partition=parts.Iid(3), schedule=SHORT, **fields
        )
    )


def inference(module: Any, count: int, **how: Any) -> Callable[[], Make]:
    """Logits of shared images by a shared model."""

    def make() -> Program:
        shape = (28, 28, 1)
        protocol = private.protocol(**how)
        task = models.flax_classification(module, shape)
        params = jax.eval_shape(task.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
        shared = jax.eval_shape(
            lambda seed, both: private.share(protocol, seed, both), SEED, (params, x)
        )

        def logits(params: Any, x: Any) -> Any:
            return module.apply(params, x)

        def run(seed: Any, both: Any) -> Any:
            return private.evaluate(protocol, seed, logits, *both)

        return Program(run, (SEED, shared))

    return lambda: make


def of_function(
    function: Callable[..., Any], *arguments: Callable[..., Any]
) -> Callable[[], Make]:
    """A program of a function of a seed and of values that functions of a seed give."""

    def make() -> Program:
        given = [jax.eval_shape(one, SEED) for one in arguments]
        return Program(function, (SEED, *given))

    return lambda: make


def matrices(ring: Any, size: int) -> Callable[[], Make]:
    """The product of two square matrices of a ring's elements."""

    def drawn(seed: Any) -> Any:
        flat = ring.uniform(seed, size**2)
        return jax.tree.map(lambda leaf: leaf.reshape(size, size), flat)

    return of_function(
        lambda seed, left, right: products.matmul(ring, left, right), drawn, drawn
    )


def own_training(width: int) -> Make:
    """The private trainings that an audit of one's own training runs at once."""
    train = trainings.alone(0.05, 1.0, 10, trainings.task_of(models.logistic(10)))
    rows = data.load("digits").train

    def run(keys: Any, rows: Any) -> Any:
        return jax.lax.map(lambda key: train(key, rows), keys, batch_size=width)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), width))
    return lambda: Program(run, (keys, shaped(rows)))


def membership(width: int) -> Make:
    """The trainings that an audit by canary clients runs at once."""
    task = trainings.task_of(models.logistic(10))
    train = data.load("digits").train
    owners = data.partition.iid(np.random.default_rng(0), len(train["y"]), 100)
    clients = data.federate(train, owners)

    def algorithm(sampler: base.ClientSampler) -> base.FederatedAlgorithm:
        return federated.averaging(
            task,
            federated.local_sgd(task, optax.sgd(0.1), 10, num_epochs=1),
            sampler,
            mechanism=dp.gaussian(1.0, 1.0),
        )

    one = audit.runs.membership_run(
        algorithm,
        federated.poisson(100, 0.1),
        clients,
        5,
        per_round=lambda change: (),
        at_the_end=lambda first, last: last,
    )

    def run(keys: Any, included: Any) -> Any:
        return jax.lax.map(lambda both: one(*both), (keys, included), batch_size=width)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), width))
    return lambda: Program(run, (keys, jax.ShapeDtypeStruct((width, 100), bool)))
