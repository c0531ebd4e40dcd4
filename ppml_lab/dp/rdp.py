"""Rényi DP of the Poisson-subsampled Gaussian, exact at every order, host and device.

With density ratio `1 + u(x) = 1 - q + q exp((2x - 1) / (2 s^2))` under N(0, s^2), whose
mean is 1, the moment that RDP needs is `A(a) = E[(1 + u)^a]` (Mironov, Talwar, Zhang,
"Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019). Both forms below
compute `A - 1` from terms that are never negative, so nothing cancels and float32 is
enough: at integer orders the binomial sum without its vanishing terms, at others a
quadrature of `(1 + u)^a - 1 - a u`. dp-accounting bounds fractional orders by a series
that drops signs, up to 37% above the exact value.

The same formulas run in NumPy for numbers and in JAX for jax arrays, traced or not: a
compiled round knows its epsilon, and the host needs no compiler, no device and no
`jax_enable_x64` for its float64.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ppml_lab import checks

# All of dp-accounting's orders, and enough between them that the best order is never
# far: dp-accounting's jump from 63 to 128 alone costs up to a factor of 1.9.
_FRACTIONS = {1 + i / 10 for i in range(1, 100)} | {1.05 + i / 10 for i in range(30)}
_SPARSE = (*range(288, 513, 32), 640, 768, 1024, 1536, 2048)
ORDERS = np.array(sorted({*_FRACTIONS, *range(2, 257), *_SPARSE}))
"""The orders at which `dp.accounting` evaluates RDP."""

_TAIL = 9.0
"""The standard deviations of a Gaussian that count; 1e-18 of it are beyond."""

_STEP = 0.2
"""The quadrature's step over min(s, s^2), the scale on which its integrand varies."""

_BLOCKS = ((0, 128), (128, 256), (256, 512), (512, math.inf))
_MOST_POINTS, _DEVICE_POINTS = 4096, 1024

# phi(y) = (exp(y) - 1 - y) / y^2 by its series near 0, where the quotient cancels.
_SERIES_BELOW = 0.5
_SERIES = [1 / math.factorial(n) for n in range(14, 1, -1)]


def subsampled_gaussian(
    sampling_prob: Any, noise_multiplier: Any, orders: Float[np.ndarray, " orders"]
) -> Any:
    """RDP of one step under add-or-remove-one neighbours, in nats.

    **Guarantee:** what it returns is the Rényi divergence of the worst pair of
    neighbours, not a bound on it, up to rounding: a relative 1e-9 in float64 and 1e-4
    in float32.

    Args:
      sampling_prob: In [0, 1]; a scalar.
      noise_multiplier: Standard deviation over sensitivity, positive; a scalar, and 0
        (no privacy, inf) only if traced. `vmap` over either for many.
      orders: Above 1; known when tracing.

    Returns:
      `[orders]`: a NumPy array in float64 if both scalars are numbers, otherwise a jax
      array in the default precision.

    Raises:
      ValueError: If an order is not above 1, or a known scalar is out of range.
    """
    if not np.all(orders > 1):
        raise ValueError(f"orders must be above 1, got {np.min(orders)}")
    _check(sampling_prob, noise_multiplier)
    if isinstance(sampling_prob, jax.Array) or isinstance(noise_multiplier, jax.Array):
        return _of_device(sampling_prob, noise_multiplier, orders)
    s = float(noise_multiplier)
    span = _highest_fraction(orders) + 2 * _TAIL * s
    points = span / (_STEP * min(s, s * s))
    return _rdp(np, float(sampling_prob), s, orders, min(int(points), _MOST_POINTS))


def random_participation(
    values: Float[np.ndarray, " orders"],
    orders: Float[np.ndarray, " orders"],
    participation_prob: float,
) -> Float[np.ndarray, " orders"]:
    """RDP of a release that is made with some probability, for all to see; on the host.

    **Guarantee:** exact: the pair (made or not, release) has the Rényi divergence
    `log(1 - q + q exp((a - 1) values)) / (a - 1)` at order a if the release has the
    divergence `values`, because whether it is made does not depend on the data.

    Args:
      values: RDP of the release, in nats; inf where unknown.
      orders: Above 1.
      participation_prob: q, in (0, 1].

    Returns:
      One value per order, in nats.

    Raises:
      ValueError: If the probability is out of range.
    """
    checks.probability("participation_prob", participation_prob, allow_one=True)
    if participation_prob == 1:
        return values
    gap = orders - 1
    grown = gap * values
    near = np.log1p(participation_prob * np.expm1(np.minimum(grown, 30.0)))
    far = np.logaddexp(
        math.log1p(-participation_prob), math.log(participation_prob) + grown
    )
    return np.where(grown < 30, near, far) / gap


def epsilon_of_rdp(rdp: Any, orders: Float[np.ndarray, " orders"], delta: Any) -> Any:
    """The epsilon at `delta` of a mechanism with these RDP values.

    Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS
    2020, Proposition 12; and 0 where the total variation that a KL divergence of `rdp`
    allows is at most delta (Bretagnolle and Huber, 1979).

    **Guarantee:** a mechanism with RDP `rdp[..., i]` at `orders[i]` for every i is
    (epsilon, delta)-differentially private.

    Args:
      rdp: `[..., orders]`, in nats; inf where unknown. The RDP of t steps is t times
        that of one.
      orders: Above 1.
      delta: In (0, 1).

    Returns:
      `[...]`, at least 0: NumPy for NumPy's, JAX (also under jit) for jax arrays.
    """
    xp: Any = jnp if isinstance(rdp, jax.Array) or isinstance(delta, jax.Array) else np
    dtype = _dtype(xp)
    rdp, delta = xp.asarray(rdp, dtype), xp.asarray(delta, dtype)
    a = xp.asarray(orders, dtype)
    gap = xp.asarray(orders - 1, dtype)
    bound = rdp + xp.log1p(-1 / a) - (xp.log(delta) + xp.log(a)) / gap
    # sqrt(1 - exp(-KL)) <= delta; an underflow of delta^2 errs on the safe side.
    bound = xp.where(-xp.expm1(-rdp) < delta * delta, 0.0, bound)
    return xp.maximum(xp.min(bound, axis=-1), 0.0)


def delta_of_rdp(
    rdp: Float[np.ndarray, " orders"],
    orders: Float[np.ndarray, " orders"],
    epsilon: Float[np.ndarray, "..."],
) -> Float[np.ndarray, "..."]:
    """The delta at each `epsilon`: the inverse of `epsilon_of_rdp`, on the host.

    Returns:
      An array of epsilon's shape, in [0, 1]; the same **Guarantee:** holds.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        log_delta = (orders - 1) * (rdp - epsilon[..., None] + np.log1p(-1 / orders))
        log_delta = np.nan_to_num(log_delta - np.log(orders), nan=np.inf)
        by_order = np.exp(np.minimum(log_delta.min(axis=-1), 0.0))
    return np.minimum(by_order, math.sqrt(-math.expm1(-float(rdp.min()))))


def _check(sampling_prob: Any, noise_multiplier: Any) -> None:
    checks.positive("noise_multiplier", noise_multiplier)
    if not checks.is_traced(sampling_prob) and not 0 <= sampling_prob <= 1:
        raise ValueError(f"sampling_prob must lie in [0, 1], got {sampling_prob}")


def _of_device(q: Any, s: Any, orders: np.ndarray) -> jax.Array:
    dtype = _dtype(jnp)
    q, s = jnp.asarray(q, dtype), jnp.asarray(s, dtype)
    # Without noise, or where sampling is all or nothing, the formulas would meet log(0)
    # and division by 0.
    inner, noisy = (q > 0) & (q < 1), s > 0
    s = jnp.where(noisy, s, 1.0)
    points = max(_DEVICE_POINTS, int(100 * _highest_fraction(orders)))
    sampled = _rdp(jnp, jnp.where(inner, q, 0.5), s, orders, points)
    plain = q * jnp.asarray(orders, dtype) / (2 * s * s)
    found = jnp.where(inner, sampled, plain)
    return jnp.where(noisy | (q == 0), found, jnp.inf)


def _highest_fraction(orders: np.ndarray) -> float:
    return max(orders[orders != np.round(orders)], default=1.0)


def _rdp(xp: Any, q: Any, s: Any, orders: np.ndarray, points: int) -> Any:
    """RDP at all orders, integers and fractions alike, in the given sequence."""
    if xp is np and q in (0.0, 1.0):
        return q * orders / (2 * s * s)
    whole = orders == np.round(orders)
    # The sum at order a has a terms, padded to the highest order of a block.
    blocks = [whole & (low < orders) & (orders <= high) for low, high in _BLOCKS]
    parts = [_at_integers(xp, q, s, tuple(orders[block])) for block in blocks]
    parts.append(_by_quadrature(xp, q, s, orders[~whole], points))
    order = np.concatenate([np.flatnonzero(part) for part in [*blocks, ~whole]])
    log_excess = xp.concatenate(parts)[np.argsort(order)]
    gap = xp.asarray(orders - 1, _dtype(xp))
    return xp.logaddexp(xp.zeros_like(log_excess), log_excess) / gap


@functools.lru_cache(maxsize=32)
def _binomials(orders: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k from 2 to the highest order a, a - k, and log C(a, k), -inf above a."""
    from scipy.special import gammaln

    a, k = np.array(orders)[:, None], np.arange(2.0, max(orders) + 1)
    rest = np.maximum(a - k, 0)
    log_ways = gammaln(a + 1) - gammaln(k + 1) - gammaln(rest + 1)
    return k, rest, np.where(k <= a, log_ways, -np.inf)


def _at_integers(xp: Any, q: Any, s: Any, orders: tuple[float, ...]) -> Any:
    """log(A - 1) at integer orders, where the terms of k = 0 and 1 vanish."""
    dtype = _dtype(xp)
    if not orders:
        return xp.zeros(0, dtype)
    k, rest, log_ways = _binomials(orders)
    growth = _log_expm1(xp, xp.asarray(k * (k - 1), dtype) / (2 * s * s))
    gain = xp.asarray(k, dtype) * xp.log(q) + growth
    loss = xp.asarray(rest, dtype) * xp.log1p(-q)
    return _logsumexp(xp, xp.asarray(log_ways, dtype) + loss + gain)


def _by_quadrature(xp: Any, q: Any, s: Any, orders: np.ndarray, points: int) -> Any:
    """log(A - 1) at any orders by the trapezoid rule, which converges exponentially."""
    dtype = _dtype(xp)
    a = xp.asarray(orders, dtype)[:, None]
    low, high = -_TAIL * s, max(orders, default=1.0) + _TAIL * s
    step = (high - low) / (points - 1)
    x = low + step * xp.asarray(np.arange(points), dtype)
    # log(1 + u), without overflow on the right or cancellation on the left.
    exponent = (2 * x - 1) / (2 * s * s)
    log_ratio = xp.where(
        exponent > 30,
        exponent + xp.log(q + (1 - q) * xp.exp(-xp.maximum(exponent, 30.0))),
        xp.log1p(q * xp.expm1(xp.minimum(exponent, 30.0))),
    )
    log_weight = -0.5 * (x / s) ** 2 - xp.log(s * math.sqrt(2 * math.pi))
    gap = xp.asarray(orders - 1, dtype)[:, None]
    bend = _log_bend(xp, a, gap, log_ratio)
    return _logsumexp(xp, log_weight + xp.log(step) + bend)


def _log_bend(xp: Any, a: Any, gap: Any, log_ratio: Any) -> Any:
    """log((1 + u)^a - 1 - a u) given log(1 + u) and a - 1.

    Written as `a L^2 (a phi(a L) - phi(L))` of L = log(1 + u), it keeps its precision
    wherever u is small; where (1 + u)^a is large it dominates.
    """
    grown = a * log_ratio
    small, large = xp.minimum(grown, 20.0), xp.maximum(grown, 20.0)
    inside = a * (a * _phi(xp, small) - _phi(xp, xp.minimum(log_ratio, 20.0)))
    # u = 0 between the grid's points would be the logarithm of 0: it weighs nothing.
    tiny = xp.finfo(_dtype(xp)).tiny
    middle = xp.log(xp.maximum(inside, tiny)) + 2 * xp.log(
        xp.maximum(xp.abs(log_ratio), tiny)
    )
    lost = a * xp.exp(-gap * xp.maximum(log_ratio, 0.0)) - gap * xp.exp(-large)
    right = large + xp.log1p(-xp.where(grown > 20, lost, 0.0))
    return xp.where(grown > 20, right, middle)


def _phi(xp: Any, y: Any) -> Any:
    """(exp(y) - 1 - y) / y^2, which is 1/2 at 0."""
    near = xp.abs(y) < _SERIES_BELOW
    series = xp.zeros_like(y)
    for coefficient in _SERIES:
        series = series * y + coefficient
    away = xp.where(near, 1.0, y)
    return xp.where(near, series, (xp.expm1(away) - away) / (away * away))


def _log_expm1(xp: Any, y: Any) -> Any:
    return xp.where(y > 30, y, xp.log(xp.expm1(xp.minimum(y, 30.0))))


def _logsumexp(xp: Any, terms: Any) -> Any:
    """The log-sum-exp over the last axis, which holds a finite term."""
    top = xp.max(terms, axis=-1)
    return top + xp.log(xp.sum(xp.exp(terms - top[..., None]), axis=-1))


def _dtype(xp: Any) -> Any:
    return np.float64 if xp is np else jnp.result_type(float)
