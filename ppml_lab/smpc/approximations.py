"""Functions that shares cannot compute, from sums, products and comparisons.

Plain JAX functions of reals: on reals they show their own error, under
`private.evaluate` that of fixed-point numbers comes on top. Each states where it is
good. The formulas are CrypTen's (Knott et al., NeurIPS 2021) but for `sigmoid`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

_SQUARINGS = 8

Reals = Float[Array, "*s"]


def exp(x: Reals) -> Reals:
    """`(1 + x / 2^8)^(2^8)`, for abs(x) well below 2^8: off by about x^2 / 2^9 of the
    value. Below -2^8 it grows again.
    """
    start = 1 + x * np.float32(2.0**-_SQUARINGS)
    return lax.fori_loop(0, _SQUARINGS, lambda _, x: x * x, start)


def reciprocal(x: Reals) -> Reals:
    """`1 / x` for x in [1e-2, 100], within 1e-4 of the value, by ten of Newton's steps
    from `3 exp(1 - 2 x) + 0.003`.
    """
    start = 3 * exp(1 - 2 * x) + np.float32(0.003)
    return lax.fori_loop(0, 10, lambda _, y: y * (2 - x * y), start)


def inverse_sqrt(x: Reals) -> Reals:
    """`1 / sqrt(x)` for x in [0.1, 150], within 1% of the value, by three of Newton's
    steps from an exponential.
    """
    start = np.float32(2.2) * exp(-(x * np.float32(0.5) + np.float32(0.2)))
    start = start + np.float32(0.2) - x * np.float32(2.0**-10)

    def step(_: Array | int, y: Reals) -> Reals:
        return y * (3 - x * (y * y)) * np.float32(0.5)

    return lax.fori_loop(0, 3, step, start)


def sigmoid(x: Reals) -> Reals:
    """`1 / (1 + exp(-x))` for abs(x) below 2^8, within 1e-3: from `exp(-abs(x))`, whose
    reciprocal, of a number in [1, 2], takes three of Newton's steps from a line.
    """
    positive = x > 0
    small = exp(jnp.where(positive, -x, x))
    half = (1 + small) * np.float32(0.5)
    start = np.float32(48 / 17) - np.float32(32 / 17) * half
    inverse = lax.fori_loop(0, 3, lambda _, y: y * (2 - half * y), start)
    larger = inverse * np.float32(0.5)
    return jnp.where(positive, larger, 1 - larger)


def tanh(x: Reals) -> Reals:
    """`2 sigmoid(2 x) - 1`, within 2e-3 for abs(x) below 2^7."""
    return 2 * sigmoid(2 * x) - 1


def piecewise_sigmoid(x: Reals) -> Reals:
    """`x + 1/2` cut to [0, 1], within 0.38 of the sigmoid everywhere.

    Mohassel, Zhang, "SecureML", S&P 2017. Two comparisons, no product of reals.
    """
    return jnp.clip(x + np.float32(0.5), 0, 1)


def softmax(x: Reals) -> Reals:
    """Over the last axis; differences below 2^7, and at most 100 classes."""
    powers = exp(x - jnp.max(x, axis=-1, keepdims=True))
    return powers * reciprocal(jnp.sum(powers, axis=-1, keepdims=True))
