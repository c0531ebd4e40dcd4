"""The lab's work on shares, on one CPU device with as many threads as allowed."""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.benchmarks.secure_throughput_workers import work
from ppml_lab import random
from ppml_lab.smpc import arithmetic, private, products, sharing, transcript
from ppml_lab.smpc import ring as rings

RINGS = {32: rings.Z32, 64: rings.Z64}
SEED = np.array([1, 2], np.uint32)


def matmul(options: argparse.Namespace, mesh: Mesh, **about: Any) -> None:
    """Times exact integer matrix products, modulo a word."""
    del mesh
    ring, words = RINGS[options.word_bits], matrices(options)
    product = jax.jit(lambda a, b: products.matmul(ring, a, b))
    pair = [elements(ring, matrix) for matrix in words]
    result = work.report(options, pair, {"product": ready(product)}, **about)
    expected = words[0] @ words[1]
    np.testing.assert_array_equal(
        rings.to_integers(ring, result).astype(expected.dtype), expected
    )


def plain_matmul(options: argparse.Namespace, mesh: Mesh, **about: Any) -> None:
    """Times JAX's own matrix products, of float32 or 64-bit words."""
    del mesh
    about |= {"system": "JAX", "version": jax.__version__}
    if options.word_bits == 32:
        pair = [jnp.asarray(m, jnp.float32) for m in matrices(options)]
        work.report(options, pair, {"product": ready(jax.jit(jnp.matmul))}, **about)
        return
    with jax.enable_x64(True):
        pair = [jnp.asarray(matrix) for matrix in matrices(options)]
        work.report(options, pair, {"product": ready(jax.jit(jnp.matmul))}, **about)


def matrices(options: argparse.Namespace) -> list[np.ndarray]:
    shape = (options.size, options.size)
    flat = work.words(options, 2 * options.size**2, options.word_bits)
    return list(flat.reshape(2, *shape))


def elements(ring: rings.Ring, words: np.ndarray) -> Any:
    wide = words.astype(np.uint64)
    halves = wide & np.uint64(0xFFFFFFFF), wide >> np.uint64(32)
    pair = rings.Wide(*(jnp.asarray(half.astype(np.uint32)) for half in halves))
    return ring.from_unsigned(pair)


def ready(function: Any) -> Any:
    return lambda pair: jax.block_until_ready(function(*pair))


def shared_matmul(options: argparse.Namespace, mesh: Mesh, **about: Any) -> None:
    """Times products of shared integer matrices, without a truncation."""
    del mesh
    options.word_bits = 64
    scheme, words = protocol(options).scheme._replace(scale=1.0), matrices(options)
    pair = [
        sharing.share(
            random.child(jnp.asarray(SEED), n), elements(rings.Z64, matrix), scheme
        )
        for n, matrix in enumerate(words)
    ]
    product = jax.jit(lambda a, b: arithmetic.matmul(jnp.asarray(SEED), a, b))
    result = work.report(options, pair, {"product": ready(product)}, **about)
    opened = rings.to_integers(rings.Z64, sharing.reveal(result, name="product"))
    np.testing.assert_array_equal(opened.astype(np.uint64), words[0] @ words[1])


def protocol(options: argparse.Namespace) -> private.Protocol:
    kind = "replicated" if options.replicated else "additive"
    return private.protocol(kind, fraction_bits=work.FRACTION_BITS)


FUNCTIONS = {
    "shared_layer": lambda i: i["x"] @ i["first"],
    "linear_layers": lambda i: i["x"] @ i["first"] @ i["second"],
    "mlp": lambda i: jnp.maximum(i["x"] @ i["first"], 0) @ i["second"],
    "training_step": lambda i: (
        i["weights"]
        - 0.1 / 128 * i["x"].T @ (jax.nn.sigmoid(i["x"] @ i["weights"]) - i["labels"])
    ),
}


def on_shares(options: argparse.Namespace, mesh: Mesh, **about: Any) -> None:
    """Times a computation from shares to shares."""
    del mesh
    function, how = FUNCTIONS[options.task], protocol(options)
    clear = {name: jnp.asarray(v) for name, v in work.mlp_inputs(options).items()}
    shared = private.share(how, jnp.asarray(SEED), clear)

    def evaluated(seed: Any, inputs: Any) -> Any:
        return private.evaluate(how, seed, function, inputs)

    sent = transcript.priced(evaluated, jnp.asarray(SEED), shared)
    compiled = jax.jit(evaluated)
    result = work.report(
        options,
        (jnp.asarray(SEED), shared),
        {"evaluate": ready(compiled)},
        **about,
        rounds=sent.num_rounds(),
        party_bytes=max(sent.sent_bits(party) for party in range(3)) // 8,
        offline_bytes=sent.sent_bits(offline=True) // 8,
    )
    error = jnp.abs(private.reveal(how, result) - function(clear)).max()
    # Inputs have steps of 2^-18, in sums of up to 784 terms; the sigmoid errs, too.
    assert error < 1e-3, error


TASKS = {
    "matmul": matmul,
    "plain_matmul": plain_matmul,
    "shared_matmul": shared_matmul,
    **dict.fromkeys(FUNCTIONS, on_shares),
}
