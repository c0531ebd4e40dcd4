"""Integers that are the same on every device: their digests, beside those of a CPU.

    python -m experiments.benchmarks.device_day_cells.exact

prints the digests of this machine; `digests.json` holds those of a CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.device_day_cells.row import Row, row
from ppml_lab import random, smpc
from ppml_lab.smpc import field, masking, products, shamir, sharing
from ppml_lab.smpc import ring as rings

DIGESTS = Path(__file__).with_name("digests.json")
SEED = np.array([1, 2], np.uint32)
LENGTH = 1 << 16
RINGS = {ring.name: ring for ring in (rings.Z32, rings.Z64, field.F31, field.F61)}


def computed() -> dict[str, Callable[[], Any]]:
    """The computations by name, as functions without arguments to compile."""
    seed = jnp.asarray(SEED)
    cases: dict[str, Callable[[], Any]] = {
        "words": lambda: random.words(seed, LENGTH),
        "coins": lambda: random.coins(seed, places().astype(jnp.float32) / LENGTH),
        "distinct numbers": lambda: random.distinct(seed, 1000, LENGTH),
        "a permutation": lambda: random.permute(
            jax.random.key(3), places(), LENGTH + 9
        ),
        # The numbers fit float32, with sixteen bits below a step.
        "rounding noise": lambda: smpc.fixed_point(3, 8.0, 2.0**14).encode(
            jax.random.key(4), places().astype(jnp.float32) * 2.0**-14 - 2.0**-30
        ),
        "masks": lambda: masking.sum_of_masks(
            rings.Z32,
            random.child(seed, jnp.arange(9)),
            jnp.where(jnp.arange(9) % 2, -1, 1),
            LENGTH,
            0,
        ),
    }
    for name, ring in RINGS.items():
        cases |= of_ring(name, ring)
    shares = shamir.shamir(3, 5, field.F61)
    cases["Shamir shares"] = lambda: sharing.share(
        seed, field.F61.uniform(seed, 999), shares
    )
    return cases


def places() -> jax.Array:
    return jnp.arange(LENGTH, dtype=jnp.int32)


def of_ring(name: str, ring: rings.Ring) -> dict[str, Callable[[], Any]]:
    """Computations of sums, shares and products of limbs in a ring."""
    seed = jnp.asarray(SEED)

    def drawn(number: int, *shape: int) -> Any:
        flat = ring.uniform(random.child(seed, number), int(np.prod(shape)))
        return jax.tree.map(lambda leaf: leaf.reshape(shape), flat)

    multiply = products.matmul if ring in (rings.Z32, rings.Z64) else field.matmul
    return {
        f"sum over {name}": lambda: ring.sum_over(drawn(0, 33, 500), 0),
        f"shares over {name}": lambda: (
            sharing.share(seed, drawn(1, 2000), sharing.additive(3, ring)).shares
        ),
        f"product over {name}": lambda: multiply(
            ring, drawn(2, 48, 96), drawn(3, 96, 40)
        ),
    }


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the arrays' shapes and bytes."""
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        array = np.ascontiguousarray(leaf)
        little = array.astype(array.dtype.newbyteorder("<"))
        whole.update(f"{array.dtype.name}{array.shape}".encode() + little.tobytes())
    return whole.hexdigest()[:16]


def digests() -> dict[str, str]:
    """The digests of this machine's device."""
    return {name: digest(jax.jit(make)()) for name, make in computed().items()}


def measure() -> list[Row]:
    """Rows with every digest beside the CPU's."""
    expected = json.loads(DIGESTS.read_text())
    return [
        row("digest", found, "sha256", case=name, limit=expected[name],
            holds=found == expected[name])
        for name, found in digests().items()
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
