"""The ring Z_2^32 as uint32 arrays; additions wrap, which is the arithmetic wanted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32, UInt32

from ppml_lab import base

BITS = 32
WORD_BYTES = 4


def uniform(key: base.Key, shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Uniform ring elements (simulation randomness, not cryptographic)."""
    return jax.random.bits(key, shape, jnp.uint32)


def sum_over(values: UInt32[Array, "..."], axis: int) -> UInt32[Array, "..."]:
    """The sum modulo 2^32 along `axis`, whatever `jax_enable_x64` says."""
    return jnp.sum(values, axis=axis, dtype=jnp.uint32)


def from_signed(values: Int32[Array, "*s"]) -> UInt32[Array, "*s"]:
    """Two's complement: a negative integer becomes its residue."""
    return jax.lax.bitcast_convert_type(values, jnp.uint32)


def to_signed(values: UInt32[Array, "*s"]) -> Int32[Array, "*s"]:
    """The representative in [-2^31, 2^31)."""
    return jax.lax.bitcast_convert_type(values, jnp.int32)
