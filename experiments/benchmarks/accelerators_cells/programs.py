"""The programs that are compiled for chips that are not here, by name.

A program's data are loaded on this machine's devices; it is traced with shapes on the
devices that it is compiled for.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.audited import trainings
from experiments.benchmarks.device_day_cells.close import MODELS
from experiments.benchmarks.device_day_cells.exact import RINGS
from experiments.benchmarks.device_day_cells.speed import images
from ppml_lab import audit, base, data, dp, federated, lab, models, random, smpc
from ppml_lab.lab import parts, program
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.setup import by_point, lab_mesh, num_rows
from ppml_lab.smpc import field, masking, private, products, shamir, sharing
from ppml_lab.smpc import ring as rings

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

ALGORITHMS = {
    "FedAvg": parts.FedAvg(),
    "FedProx": parts.FedProx(),
    "Scaffold": parts.Scaffold(),
    "LocalDpSgd": parts.LocalDpSgd(noise_multiplier=1.0),
    "ExampleGradients": parts.ExampleGradients(),
}
MECHANISMS = {
    "NoPrivacy": parts.NoPrivacy(),
    "Gaussian": parts.Gaussian(1.0, 1.0),
    "AdaptiveGaussian": parts.AdaptiveGaussian(1.0, 1.0),
    "ScheduledGaussian": parts.ScheduledGaussian(1.0, 1.0),
    "CorrelatedGaussian": parts.CorrelatedGaussian(1.0, 1.0),
    "BandedGaussian": parts.BandedGaussian(1.0, 1.0),
    "LocalGaussian": parts.LocalGaussian(1.0, 1.0),
    "LocalLaplace": parts.LocalLaplace(1.0, 1.0),
    "RandomisedResponse": parts.RandomisedResponse(),
}
SUMS: dict[str, Callable[..., Any]] = {
    "Clear": lambda max_abs: parts.Clear(),
    "AdditiveSharing": lambda max_abs: parts.AdditiveSharing(max_abs=max_abs),
    "PairwiseMasking": lambda max_abs: parts.PairwiseMasking(max_abs=max_abs),
    "KRegular": lambda max_abs: parts.PairwiseMasking(
        parts.KRegular(), max_abs=max_abs
    ),
    "LightSecAgg": lambda max_abs: parts.LightSecAgg(max_abs=max_abs),
}
COHORT = 16
SAMPLERS = (
    parts.Poisson(COHORT),
    parts.FixedSize(COHORT),
    parts.MinSeparation(COHORT),
    parts.Everyone(),
)
SHORT = lab.Schedule(num_rounds=2, eval_every=2)


def names() -> dict[str, str]:
    """All programs, each with its kind of work."""
    return {name: "pairs" for name in pairs()} | {
        name: kind for name, (kind, _) in OTHERS.items()
    }


@functools.cache
def pairs() -> tuple[str, ...]:
    """A small set of federated runs in which every two of algorithm, mechanism and
    secure sum that go together meet at least once.
    """
    all_three = [
        three
        for three in itertools.product(ALGORITHMS, MECHANISMS, SUMS)
        if next(_setups(*three), None) is not None
    ]
    left = set().union(*map(_met, all_three))
    chosen = []
    while left:
        # Ties go to the first, so that the list is the same everywhere.
        best = max(all_three, key=lambda three: len(left & _met(three)))
        chosen.append(", ".join(best))
        left -= _met(best)
    return tuple(chosen)


def _met(three: tuple[str, str, str]) -> set[tuple[str, str]]:
    return set(itertools.combinations(three, 2))


def _setups(algorithm: str, mechanism: str, summed: str) -> Iterator[parts.Federated]:
    """Yields the setups that can be built; a sampler or a bound may forbid some."""
    for sampler, max_abs in itertools.product(SAMPLERS, (None, 8.0)):
        setup = parts.Federated(
            partition=parts.Iid(4 * COHORT),
            model=parts.TwoNN(),
            trainer=ALGORITHMS[algorithm],
            sampler=sampler,
            mechanism=MECHANISMS[mechanism],
            secure_sum=SUMS[summed](max_abs),
            schedule=SHORT,
        )
        try:
            setup.algorithm(program.facts_of(setup))
        except ValueError:
            continue
        yield setup


def prepared(name: str) -> Make:
    """Loads the data of a program.

    Raises:
      ValueError: For an unknown program.
    """
    if name in OTHERS:
        return OTHERS[name][1]()
    three = tuple(name.split(", "))
    if len(three) != 3 or not all(
        one in known
        for one, known in zip(three, (ALGORITHMS, MECHANISMS, SUMS), strict=True)
    ):
        raise ValueError(
            f"program '{name}' must be an algorithm, a mechanism and a secure sum, "
            f"such as 'FedAvg, Gaussian, Clear', or one of: {'; '.join(OTHERS)}"
        )
    return slice_of(next(_setups(*three)))


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


OTHERS: dict[str, tuple[str, Callable[[], Make]]] = {
    "2NN, 64 lanes": ("rounds", rounds(parts.TwoNN(), 64)),
    "2NN, 64 lanes, Gaussian": (
        "rounds",
        rounds(parts.TwoNN(), 64, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "CNN, 64 lanes, Gaussian": (
        "rounds",
        rounds(parts.Cnn(), 64, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "CNN, 1 lane": ("rounds", rounds(parts.Cnn(), 1)),
    "Median": (
        "rounds",
        federated_run(rule=parts.Median(), trainer=parts.SignFlipping(parts.FedAvg())),
    ),
    "TopK": (
        "rounds",
        federated_run(trainer=parts.TopK(), mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "personal head": (
        "rounds",
        federated_run(kept=("Dense_2",), held_out=0.2, metrics=()),
    ),
    "live epsilon": (
        "rounds",
        federated_run(mechanism=parts.Gaussian(1.0, 1.0), live_epsilon=True),
    ),
    "data by shard": ("rounds", federated_run(layout=lab.Layout(shard_data=True))),
    "a round on a mesh, masked in pairs": ("rounds", round_on_a_mesh),
    "a slice of 32 points": (
        "sweep",
        federated_run(32, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "2NN, batch 256, ghost": ("DP-SGD", dp_sgd(parts.TwoNN(), 256, "ghost")),
    "CNN, batch 256, ghost": ("DP-SGD", dp_sgd(parts.Cnn(), 256, "ghost")),
    "tutorial CNN, batch 256, ghost": (
        "DP-SGD",
        dp_sgd(parts.TutorialCnn(), 256, "ghost"),
    ),
    "2NN, batch 256, vmap": ("DP-SGD", dp_sgd(parts.TwoNN(), 256, "vmap")),
    "replicated, ideal": ("on shares", training_on_shares()),
    "replicated, full": ("on shares", training_on_shares(ideal=False)),
    "additive, full": ("on shares", training_on_shares(kind="additive", ideal=False)),
    "inference, 2NN, replicated": (
        "on shares",
        inference(MODELS["2nn"][0], 128, kind="replicated", fraction_bits=18),
    ),
    "inference, 2NN, additive": (
        "on shares",
        inference(
            MODELS["2nn"][0], 128, kind="additive", fraction_bits=18, ideal=False
        ),
    ),
    "inference, LeNet, replicated": (
        "on shares",
        inference(models.LeNet(10), 16, kind="replicated", fraction_bits=18),
    ),
    "own training, 32 runs": ("audits", lambda: own_training(32)),
    "canary clients, 32 runs": ("audits", lambda: membership(32)),
    "normal numbers": (
        "primitives",
        of_function(lambda seed: random.normal(seed, 1 << 22)),
    ),
    "masks": (
        "primitives",
        of_function(
            lambda seed: masking.sum_of_masks(
                rings.Z32,
                random.child(seed, jnp.arange(64)),
                jnp.ones(64, jnp.int32),
                1 << 20,
            )
        ),
    ),
    "additive shares": (
        "primitives",
        of_function(
            lambda seed, value: (
                sharing.share(seed, value, sharing.additive(3, rings.Z64)).shares
            ),
            lambda seed: rings.Z64.uniform(seed, 1 << 22),
        ),
    ),
    "Shamir shares": (
        "primitives",
        of_function(
            lambda seed, value: (
                sharing.share(seed, value, shamir.shamir(3, 5, field.F61)).shares
            ),
            lambda seed: field.F61.uniform(seed, 1 << 16),
        ),
    ),
    **{
        f"product over {name}": ("primitives", matrices(ring, 1024))
        for name, ring in RINGS.items()
    },
}
"""Programs that are no pairs: their kind of work, and the function to prepare them."""
