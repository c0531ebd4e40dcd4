"""Functions that shares cannot compute, from sums, products and comparisons.

They are functions of reals, good wherever float32 is: an argument is cut into a
mantissa and a power of two, and a polynomial of the mantissa, within 4e-7, does the
rest. On reals the functions show that error. Under `private.evaluate`, which also takes
them for JAX's own `exp`, `log`, division, roots, `logistic`, `tanh` and `erf`, the
roundings of fixed-point numbers come on top. Each function states these roundings for
numbers with f fraction bits, in steps of 2^-f, for arguments as they are after their
own rounding, and says where results saturate in a ring of k bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

PREFIX = "approximations."
"""The prefix of names under which programs call functions with a whole private form."""

Reals = Float[Array, "*s"]

# Polynomials of the least largest error; of u = 4 m - 3 for mantissas m in [1/2, 1].
_RECIPROCAL = (
    1.33333346,
    -0.444441279,
    0.148143088,
    -0.0494241945,
    0.0164947556,
    -0.00534189549,
    0.0017485933,
    -0.000792255716,
    0.000280104504,
)
_INVERSE_SQRT = (
    1.15470056,
    -0.192449595,
    0.0481117725,
    -0.0133710856,
    0.00390303078,
    -0.00114662208,
    0.000345347461,
    -0.00013942044,
    4.60735256e-05,
)
_SQRT = (
    0.866025403,
    0.144337547,
    -0.0120281026,
    0.00200496195,
    -0.000417831933,
    9.64863164e-05,
    -2.39111391e-05,
    7.61220536e-06,
    -2.16685783e-06,
)
_LOG = (
    -0.287682081,
    0.333333083,
    -0.0555551971,
    0.0123489694,
    -0.00308882608,
    0.000811478243,
    -0.00022287665,
    8.0030372e-05,
    -2.46091707e-05,
)
# Of u = 2 t - 1 for t in [0, 1].
_POWER = (
    1.41421367,
    0.490129103,
    0.0849309751,
    0.00981163214,
    0.000855248865,
    5.92644099e-05,
)
# erf(x) / x, of u = 2 x^2 / 3.5^2 - 1.
_ERF = (
    0.403873093,
    -0.200700154,
    0.146741482,
    -0.114633395,
    0.0885140125,
    -0.0646384488,
    0.044494069,
    -0.0303718471,
    0.0181403942,
    -0.00684990885,
    0.00342890259,
    -0.0041386103,
    0.00185466742,
)
_ERF_END = 3.5


def polynomial(coefficients: tuple[float, ...], x: Reals) -> Reals:
    """A polynomial's value, by as many products in a row as log2 of the degree.

    Each step doubles the powers that are known.
    """
    degree = len(coefficients) - 1
    powers = x[None]
    while (count := powers.shape[0]) < degree:
        more = powers[: degree - count] * powers[-1:]
        powers = jnp.concatenate([powers, more])
    weights = np.asarray(coefficients[1:], np.float32)
    total = jnp.tensordot(weights, powers, axes=1, precision="highest")
    return total + np.float32(coefficients[0])


def unit_reciprocal(m: Reals) -> Reals:
    """`1 / m` for m in [1/2, 1]."""
    return polynomial(_RECIPROCAL, 4 * m - 3)


def unit_inverse_sqrt(m: Reals) -> Reals:
    """`1 / sqrt(m)` for m in [1/2, 1]."""
    return polynomial(_INVERSE_SQRT, 4 * m - 3)


def unit_sqrt(m: Reals) -> Reals:
    """The square root of m in [1/2, 1]."""
    return polynomial(_SQRT, 4 * m - 3)


def unit_log(m: Reals) -> Reals:
    """The logarithm of m in [1/2, 1]."""
    return polynomial(_LOG, 4 * m - 3)


def unit_power(t: Reals) -> Reals:
    """`2^t` for t in [0, 1]."""
    return polynomial(_POWER, 2 * t - 1)


def _whole(function: Callable[[Reals], Reals]) -> Callable[[Reals], Reals]:
    """Puts a function under a name that `interpreter` knows.

    The function then has a private form as a whole, in place of what it does to reals,
    operation by operation.
    """

    def program(x: Reals) -> Reals:
        return function(x)

    program.__name__ = PREFIX + function.__name__
    compiled = jax.jit(program)

    @functools.wraps(function)
    def call(x: Reals) -> Reals:
        return compiled(jnp.asarray(x, jnp.float32))

    return call


@_whole
def exp(x: Reals) -> Reals:
    """The exponential, relatively within 2e-7.

    On shares within `(4 + abs(x)) 2^-f` of the value and 3 steps. Below
    `-(f + 1) log(2)` the result is 0; above `(min(k / 2, k - 4 - f) - 1/16) log(2)` it
    is the value there.
    """
    y = jnp.clip(x * np.float32(np.log2(np.e)), -200, 200)
    whole = jnp.floor(y)
    return jnp.ldexp(unit_power(y - whole), whole.astype(jnp.int32))


@_whole
def reciprocal(x: Reals) -> Reals:
    """`1 / x` of either sign, relatively within 4e-7.

    On shares within `4 2^-f` of the value and 3 steps, for abs(x) below an eighth of
    the ring; the result for 0 is that for one step, `2^f`.
    """
    m, exponents = jnp.frexp(jnp.abs(x))
    return jnp.sign(x) * jnp.ldexp(unit_reciprocal(m), -exponents)


@_whole
def inverse_sqrt(x: Reals) -> Reals:
    """`1 / sqrt(x)` for x above 0, relatively within 1e-7.

    On shares within `4 2^-f` of the value and 4 steps, for x below an eighth of the
    ring; the result for 0 is that for one step, `2^(f / 2)`.
    """
    m, exponents = jnp.frexp(x)
    return _by_half(unit_inverse_sqrt(m), -exponents)


def _by_half(x: Reals, exponents: Array) -> Reals:
    """The product `x * 2^(exponents / 2)`."""
    odd = jnp.where(exponents % 2 == 1, np.float32(np.sqrt(2)), np.float32(1))
    return jnp.ldexp(x * odd, exponents // 2)


@_whole
def sqrt(x: Reals) -> Reals:
    """The square root of x of at least 0, relatively within 1e-7.

    On shares within `4 2^-f` of the value and 3 steps, for x below an eighth of the
    ring.
    """
    m, exponents = jnp.frexp(x)
    return jnp.where(x > 0, _by_half(unit_sqrt(m), exponents), x * np.float32(0))


@_whole
def log(x: Reals) -> Reals:
    """The logarithm of x above 0, within 1e-7 and float32's rounding.

    On shares within 5 steps, for x below an eighth of the ring; the result for 0 is
    that for one step, `-f log(2)`.
    """
    m, exponents = jnp.frexp(x)
    return unit_log(m) + exponents.astype(jnp.float32) * np.float32(np.log(2))


def log1p(x: Reals) -> Reals:
    """`log(1 + x)`, as `log`."""
    return log(1 + x)


def expm1(x: Reals) -> Reals:
    """`exp(x) - 1`, as `exp`."""
    return exp(x) - 1


def sigmoid(x: Reals) -> Reals:
    """The sigmoid `1 / (1 + exp(-x))`, within 1e-6, on shares within 12 steps.

    Computed from `exp(-abs(x))`.
    """
    positive = x > 0
    small = exp(jnp.where(positive, -x, x))
    larger = unit_reciprocal((1 + small) * np.float32(0.5)) * np.float32(0.5)
    return jnp.where(positive, larger, 1 - larger)


def tanh(x: Reals) -> Reals:
    """The hyperbolic tangent `2 sigmoid(2 x) - 1`, within 2e-6, on shares 24 steps."""
    return 2 * sigmoid(2 * x) - 1


def erf(x: Reals) -> Reals:
    """The error function, within 2e-6, on shares within 20 steps.

    It is x times a polynomial of x^2, and 1 beyond 3.5.
    """
    x = jnp.clip(x, -_ERF_END, _ERF_END)
    u = x * x * np.float32(2 / _ERF_END**2) - 1
    return x * polynomial(_ERF, u)


def erfc(x: Reals) -> Reals:
    """`1 - erf(x)`, as `erf`."""
    return 1 - erf(x)


def piecewise_sigmoid(x: Reals) -> Reals:
    """`x + 1/2` cut to [0, 1], within 0.38 of the sigmoid everywhere.

    Mohassel, Zhang, "SecureML", S&P 2017. Two comparisons, no product of reals.
    """
    return jnp.clip(x + np.float32(0.5), 0, 1)


def softmax(x: Reals) -> Reals:
    """The softmax over the last axis, within 2e-6; on shares within 12 steps."""
    powers = exp(x - jnp.max(x, axis=-1, keepdims=True))
    return powers * reciprocal(jnp.sum(powers, axis=-1, keepdims=True))
