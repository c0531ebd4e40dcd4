"""The worker of SPU 0.9.5: `Io` splits integers into shares and reconstructs them; the
parties are threads that communicate through memory.

Shared integers are not fixed-point numbers, so that only sharing is timed. As for all
systems, the parties' runtimes run a program once before it is timed; the time is the
slowest party's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu  # pyrefly: ignore[missing-import]
from spu import libspu  # pyrefly: ignore[missing-import]
from spu.utils import frontend  # pyrefly: ignore[missing-import]

from experiments.benchmarks.secure_throughput_workers import work

ABOUT = {"system": "SPU", "version": importlib.metadata.version("spu")}
FUNCTIONS = {
    "shared_matmul": (("a", "b"), lambda a, b: a @ b),
    "shared_layer": (("x", "first"), lambda x, a: x @ a),
    "linear_layers": (("x", "first", "second"), lambda x, a, b: x @ a @ b),
    "mlp": (("x", "first", "second"), lambda x, a, b: jnp.maximum(x @ a, 0) @ b),
    "training_step": (
        ("x", "weights", "labels"),
        lambda x, w, y: w - 0.1 / 128 * x.T @ (jax.nn.sigmoid(x @ w) - y),
    ),
}


def shares(options: argparse.Namespace) -> None:
    bits = options.word_bits
    field = getattr(libspu.FieldType, f"FM{bits}")
    config = libspu.RuntimeConfig(libspu.ProtocolKind.SEMI2K, field)
    io = spu.Io(work.PARTIES[options.task], config)
    values = work.words(options, options.values, bits).view(f"int{bits}")
    opened = work.report(
        options,
        values,
        {
            "share": lambda x: io.make_shares(x, libspu.Visibility.VIS_SECRET),
            "reconstruct": io.reconstruct,
        },
        **ABOUT,
        protocol=f"SEMI2K FM{bits}",
    )
    assert np.array_equal(opened, values)


def inputs(options: argparse.Namespace) -> list[np.ndarray]:
    names = FUNCTIONS[options.task][0]
    if options.task == "shared_matmul":
        rng = np.random.default_rng(options.seed)
        shape = (options.size, options.size)
        # The frontend takes 32-bit integers; the ring has 64 bits.
        return [rng.integers(2**31, size=shape).astype(np.int32) for _ in names]
    everything = work.mlp_inputs(options)
    return [everything[name] for name in names]


def on_shares(options: argparse.Namespace) -> None:
    """Times three parties in threads, from shares to shares."""
    name = "ABY3" if options.replicated else "SEMI2K"
    config = libspu.RuntimeConfig(
        getattr(libspu.ProtocolKind, name), libspu.FieldType.FM64
    )
    config.fxp_fraction_bits = work.FRACTION_BITS
    function, clear = FUNCTIONS[options.task][1], inputs(options)
    secret = libspu.Visibility.VIS_SECRET
    program, _ = frontend.compile(
        frontend.Kind.JAX,
        function,
        clear,
        {},
        [f"in{n}" for n in range(len(clear))],
        [secret] * len(clear),
        lambda outputs: [f"out{n}" for n in range(len(outputs))],
    )
    io = spu.Io(3, config)
    shared = [io.make_shares(value, secret) for value in clear]
    links = libspu.link.Desc()
    for party in range(3):
        links.add_party(f"party {party}", f"thread {party}")
    runtimes: list[Any] = [None] * 3

    def everywhere(job: Any) -> None:
        threads = [threading.Thread(target=job, args=(party,)) for party in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def connect(party: int) -> None:
        link = libspu.link.create_mem(links, party)
        runtime = spu.Runtime(link, libspu.RuntimeConfig(config))
        for place, value in zip(program.input_names, shared, strict=True):
            runtime.set_var(place, value[party])
        runtimes[party] = runtime

    everywhere(connect)

    def evaluate(_: Any) -> None:
        everywhere(lambda party: runtimes[party].run(program))

    work.report(options, None, {"evaluate": evaluate}, **ABOUT, protocol=f"{name} FM64")
    place = program.output_names[0]
    opened = io.reconstruct([runtime.get_var(place) for runtime in runtimes])
    if options.task != "shared_matmul":
        np.testing.assert_allclose(opened, function(*clear), atol=2e-2)


def main() -> None:
    options = work.arguments(sorted([*work.PARTIES, *FUNCTIONS]))
    (shares if options.task in work.PARTIES else on_shares)(options)


if __name__ == "__main__":
    main()
