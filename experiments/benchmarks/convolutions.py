"""How should a client's local CNN step be computed inside one compiled program?

Claim: on CPU, XLA runs the backward convolutions of training many times slower inside a
loop than as straight-line code, because it rewrites them for its fast kernel only
outside of loops. If they are written in the fast layout from the start
(`ppml_lab.models.conv`), the loop costs the same as straight-line code. Under `vmap`
over clients with kernels of their own, one client after the other is faster than XLA's
grouped convolutions.

The work is McMahan's CNN on 28x28 images: a whole step of SGD, and its convolutions
alone. Every program runs its steps in one loop, except "xla straight", which has no
loop. All programs take turns, so that the machine's load falls on all of them. Times
are per step and client; nothing is learnt. `smoke` takes about a minute on 2 cores,
`paper` about five.

    python -m experiments.benchmarks.convolutions smoke
    python -m experiments.benchmarks.convolutions paper
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from experiments.benchmarks import bench
from ppml_lab import lab, models
from ppml_lab.models import conv

LAYOUT = ("NHWC", "HWIO", "NHWC")
SHAPES = {  # of an image and of the kernel
    "conv1": ((28, 28, 1), (5, 5, 1, 32)),
    "conv2": ((14, 14, 32), (5, 5, 32, 64)),
}
PARTS = [
    *(("conv1", "forward"), ("conv1", "kernel gradient"), ("conv2", "forward")),
    *(("conv2", "kernel gradient"), ("conv2", "input gradient")),
]


@dataclass(frozen=True)
class Experiment:
    """The measured sizes, and the number of repetitions."""

    batch_sizes: tuple[int, ...] = (10,)
    """Examples per step."""
    num_clients: tuple[int, ...] = (1,)
    """Clients under `vmap`, each with its own kernels."""
    num_steps: int = 8
    """Steps of one program; divided among the clients of a `vmap`, each at least 2."""
    turns: int = 3
    """Repetitions of every program."""


CONFIGS = {"smoke": Experiment(), "paper": Experiment((10, 20), (1, 4, 16), turns=3)}


def patches(lhs: Array, rhs: Array, *_: Any, **__: Any) -> Array:
    """A convolution by one matrix product; differentiated by jax."""
    return conv.by_patches(lhs, rhs, conv.Window(padding=((2, 2), (2, 2))))


def shifted_sums(lhs: Array, rhs: Array, *_: Any, **__: Any) -> Array:
    """A convolution by a product per entry of the 5x5 kernel; differentiated by jax."""
    height, width = lhs.shape[1:3]
    padded = jnp.pad(lhs, ((0, 0), (2, 2), (2, 2), (0, 0)))
    terms = [
        padded[:, i : i + height, j : j + width] @ rhs[i, j]
        for i in range(5)
        for j in range(5)
    ]
    return sum(terms[1:], terms[0])


class Way(NamedTuple):
    """A convolution, and the number of unrolled steps of the loop (True: all)."""

    convolution: Callable[..., Array]
    unroll: int | bool = 1


CANONICAL, PATCHES = Way(conv.conv_general_dilated), Way(patches)
WAYS = {
    "xla": Way(lax.conv_general_dilated),
    "xla straight": Way(lax.conv_general_dilated, unroll=True),
    "unrolled 4": Way(lax.conv_general_dilated, unroll=4),
    "canonical": CANONICAL,
    "patches": PATCHES,
    "shifted sums": Way(shifted_sums),
}
PAGE = {
    "minutes": {"paper": 5},
    "tables": [
        {
            "title": "CPU milliseconds of one client, quartiles",
            "where": {
                "what": [
                    "step",
                    "conv1 forward",
                    "conv1 kernel gradient",
                    "conv2 forward",
                    "conv2 kernel gradient",
                    "conv2 input gradient",
                ]
            },
            "by": ["what", "way"],
            "across": "batch_size",
            "of": {"cpu_ms": ["cpu_ms_low", "cpu_ms_high"]},
        },
        {
            "title": "CPU milliseconds of a step and client under vmap, quartiles",
            "where": {"what": "vmapped step"},
            "by": ["way", "num_clients"],
            "across": "batch_size",
            "of": {"cpu_ms": ["cpu_ms_low", "cpu_ms_high"]},
        },
    ],
}

EXPLORED = "It times a layer: no accuracy to compare."
OVER_CLIENTS = {"xla grouped": WAYS["xla"], "canonical": CANONICAL, "patches": PATCHES}


class Program(NamedTuple):
    """A compiled program with its arguments; `labels` are its columns of the table."""

    labels: dict[str, Any]
    run: Callable[[], Any]
    num_steps: int
    """Steps of all clients."""


def compiled(
    function: Callable[..., PyTree],
    arguments: tuple[PyTree, ...],
    num_steps: int,
    **labels: Any,
) -> Program:
    """Compiles a program and runs it once; labels get the seconds of compilation."""
    lowered = jax.jit(function).lower(*arguments)
    begin = time.perf_counter()
    program = lowered.compile()
    labels["compile_seconds"] = time.perf_counter() - begin

    def run() -> Any:
        return jax.block_until_ready(program(*arguments))

    run()
    return Program(labels, run, num_steps)


def training(way: Way) -> Callable[..., PyTree]:
    """Steps of SGD over batches, as a function of parameters and batches."""
    task = models.flax_classification(models.CNN(10, way.convolution), (28, 28, 1))

    def step(params: PyTree, batch: PyTree) -> tuple[PyTree, None]:
        def loss(params: PyTree) -> Array:
            return task.loss(jax.random.key(0), params, batch).mean()

        grads = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    return lambda *given: lax.scan(step, *given, unroll=way.unroll)[0]


def part_of_step(way: Way, part: str) -> Callable[..., Array]:
    """The forward pass, or one gradient, for many images, kernels and gradients."""

    def one(_: None, given: tuple[Array, Array, Array]) -> tuple[None, Array]:
        images, kernel, grad = given

        def convolve(images: Array, kernel: Array) -> Array:
            return way.convolution(
                images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT
            )

        out, pull = jax.vjp(convolve, images, kernel)
        grad_images, grad_kernel = pull(grad)  # what is not returned is not computed
        chosen = {"kernel gradient": grad_kernel, "input gradient": grad_images}
        # XLA computes only what is needed, so the sum needs all of it; nothing is
        # stored.
        return None, jax.nn.relu(chosen.get(part, out)).sum((0, 1, 2))

    return lambda *given: lax.scan(one, None, given, unroll=way.unroll)[1]


def normal(*shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def batches(*shape: int) -> PyTree:
    """Random digits, with axes for clients, steps and examples."""
    return {"x": normal(*shape, 28, 28, 1), "y": jnp.zeros(shape, jnp.int32)}


def programs(experiment: Experiment, batch_size: int) -> Iterator[Program]:
    """Every way of computing the step, its parts, and the step under `vmap`."""
    steps = experiment.num_steps
    init = models.flax_classification(models.CNN(10), (28, 28, 1)).init
    params = init(jax.random.key(0))
    for name, way in WAYS.items():
        labels = {"way": name, "batch_size": batch_size, "num_clients": 1}
        given = (params, batches(steps, batch_size))
        yield compiled(training(way), given, steps, what="step", **labels)
        for layer, part in PARTS:
            image, kernel = SHAPES[layer]
            given = (
                normal(steps, batch_size, *image),
                normal(steps, *kernel),
                normal(steps, batch_size, *image[:2], kernel[-1]),
            )
            what = f"{layer} {part}"
            yield compiled(part_of_step(way, part), given, steps, what=what, **labels)
    for clients in experiment.num_clients:
        shared = max(2, steps // clients)
        each = jax.vmap(init)(jax.random.split(jax.random.key(0), clients))
        given = (each, batches(clients, shared, batch_size))
        for name, way in OVER_CLIENTS.items():
            yield compiled(
                jax.vmap(training(way)), given, shared * clients,
                way=name, what="vmapped step", batch_size=batch_size,
                num_clients=clients,
            )  # fmt: skip


def milliseconds(program: Program, meter: bench.Meter) -> tuple[float, float]:
    """Wall and CPU time of one step of one client."""
    meter.skip()
    program.run()
    return meter.lap(program.num_steps).milliseconds


def measure(experiment: Experiment) -> list[dict[str, Any]]:
    """Median and quartiles over the turns, one row per program."""
    machine = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "turns": experiment.turns,
    }
    rows, meter = [], bench.Meter()
    for batch_size in experiment.batch_sizes:
        ready = [*programs(experiment, batch_size)]
        times = [
            [milliseconds(program, meter) for program in ready]
            for _ in range(experiment.turns)
        ]
        low, middle, high = np.percentile(np.array(times), (25, 50, 75), axis=0)
        for program, *quartiles in zip(ready, low, middle, high, strict=True):
            (wall_low, cpu_low), (wall, cpu), (wall_high, cpu_high) = quartiles
            columns = {
                **{"wall_ms": wall, "cpu_ms": cpu},
                **{"wall_ms_low": wall_low, "wall_ms_high": wall_high},
                **{"cpu_ms_low": cpu_low, "cpu_ms_high": cpu_high},
            }
            rows.append(program.labels | columns | machine)
    return rows


if __name__ == "__main__":
    lab.run_benchmark("convolutions", __doc__ or "", CONFIGS, measure)
