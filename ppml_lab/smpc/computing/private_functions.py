"""Private forms of exponentials, logarithms, roots and divisions.

They do the arithmetic of powers of two around the polynomials of `approximations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import checks
from ppml_lab.smpc import bits, sharing, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.computing import (
    approximations,
    arithmetic,
    comparison,
    normalise,
    public_factors,
)
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call, Operand
from ppml_lab.smpc.scheme import Shared, shape_of

_LN2 = math.log(2)


def least_exponent(fraction_bits: Any) -> Any:
    """The least base-2 exponent: powers with lower exponents are 0."""
    return -_float(fraction_bits + 1)


def most_exponent(ring: rings.Ring, fraction_bits: Any) -> Any:
    """The largest base-2 exponent: powers with higher exponents saturate."""
    room = _float(ring.bits - 4 - fraction_bits)
    lib: Any = jnp if checks.is_traced(room) else np
    return lib.minimum(np.float32(ring.bits // 2), room) - np.float32(1 / 16)


def _float(number: Any) -> Any:
    return (
        number.astype(jnp.float32) if checks.is_traced(number) else np.float32(number)
    )


def exp(run: Any, value: Shared) -> Shared:
    """The exponential `2^n 2^t` of `x / log(2) = n + t`, by bits and a polynomial."""
    ring, half = run.scheme.ring, run.scheme.ring.bits // 2
    f = run.fraction_bits
    with transcript.scope("exp"):
        lows = np.float32(_LN2) * least_exponent(f)
        highs = np.float32(_LN2) * most_exponent(ring, f)
        below = sharing.subtract(values.reals(run, lows), value)
        above = sharing.subtract(value, values.reals(run, highs))
        beyond = values.stacked(below, above)
        is_beyond = comparison.is_positive(run.stream, beyond)
        moved = comparison.chosen(run.stream, is_beyond, beyond)
        value = sharing.add(value, values.part(moved, 0))
        value = sharing.subtract(value, values.part(moved, 1))
        y = public_factors.times(run, value, np.float32(1 / _LN2))
        y = sharing.add(y, values.reals(run, np.float32(half)))
        count = half.bit_length()
        whole = _whole_bits(run, y, count)
        n = values.summed(
            sharing.multiply_public(
                whole, rings.from_integers(ring, [2**i for i in range(count)])
            ),
            -1,
        )
        power = run.program(
            approximations.unit_power, sharing.subtract(y, values.reals(run, n))
        )
        factor = _two_to(run, whole, count - 1, values.part(is_beyond, 0))
        large = arithmetic.multiply(run.stream, power, factor)
        small = values.divided(run, large, half)
        not_small = _last(whole, count - 1)
        difference = sharing.subtract(large, small)
        chosen = comparison.chosen(run.stream, not_small, difference)
        return sharing.add(small, chosen)


def _whole_bits(run: Any, y: Shared, count: int) -> Shared:
    """The bits of integer parts, lowest first, as numbers along a new last axis."""
    word = comparison.to_bits(run.stream, y)
    down = rings.shift_right(word.scheme.ring, word.shares, run.fraction_bits)
    wide = word.scheme.ring.to_unsigned(down)
    few = bits.bit_ring(count)
    word = Shared(few.from_unsigned(wide), word.scheme._replace(ring=few))
    return comparison.places(run.stream, word, run.scheme.ring)


def _two_to(run: Any, whole: Shared, count: int, is_zero: Shared) -> Shared:
    """2 to the number of the first `count` bits, or 0, by a tree of products."""
    factors = [values.inverted(is_zero)]
    one = rings.from_integers(run.scheme.ring, 1)
    for place in range(count):
        more = values.scaled(_last(whole, place), 2 ** (2**place) - 1)
        factors.append(sharing.add_public(more, one))
    while len(factors) > 1:
        pairs = len(factors) // 2
        left, right = (
            values.stacked(*factors[begin : 2 * pairs : 2]) for begin in (0, 1)
        )
        product = arithmetic.multiply(run.stream, left, right)
        done = [values.part(product, n) for n in range(pairs)]
        factors = [*done, *factors[2 * pairs :]]
    return factors[0]


def _last(value: Shared, number: int) -> Shared:
    """One place of the secret's last axis."""
    leaves = jax.tree.map(lambda leaf: leaf[..., number], value.shares)
    return Shared(leaves, value.scheme)


def divide(run: Any, one: Operand, other: Shared) -> Shared:
    """The quotient `one * (1 / m) * 2^-e`, where `other = m 2^e`.

    The power of two is a whole number, a fixed-point number, or has twice the fraction
    bits, so that quotients are right over the whole range of either operand.
    """
    ring, f = run.scheme.ring, run.fraction_bits
    # A divisor that only repeats a smaller value is inverted once.
    small, repeat = run.spread.get(id(other), (other, other, None))[1:]
    place = jnp.arange(ring.bits)
    tables = [
        (normalise.powers(ring, (n + 1) * f - 1 - place, n * f, (n + 1) * f), True)
        for n in range(3)
    ]
    with transcript.scope("divide"):
        found = normalise.normalised(run, small, tables, signed=True)
        inverse = run.program(approximations.unit_reciprocal, found.mantissa)
        scales = values.stacked(*found.weighted)
        if repeat is not None:
            inverse, scales = repeat(inverse), repeat(scales, 1)
        if isinstance(one, Shared):
            product = arithmetic.multiply(run.stream, inverse, one)
            quotient = values.multiplied(run, product)
        else:
            quotient = public_factors.times(run, inverse, one)
        shape = shape_of(quotient)
        rank = len(shape) + 1
        if len(shape_of(scales)) < rank:
            missing = rank - len(shape_of(scales))
            scales = values.each(
                lambda leaf: leaf.reshape(3, *[1] * missing, *leaf.shape[1:]), scales
            )
        parts = arithmetic.multiply(run.stream, scales, quotient)
        rest = values.each(lambda leaf: leaf[1:], parts)
        places = jnp.stack([jnp.asarray(f), jnp.asarray(2 * f)])
        rest = values.divided(run, rest, places.reshape(2, *[1] * len(shape)))
        return sharing.add(values.part(parts, 0), values.summed(rest, 0))


def _root(run: Any, value: Shared, sign: int, function: Callable[[Any], Any]) -> Shared:
    ring, f = run.scheme.ring, run.fraction_bits
    place = jnp.arange(ring.bits)
    half = (place + 1 - f).astype(jnp.float32) * np.float32(0.5)
    weights = jnp.exp2(np.float32(sign) * half)
    weights = jnp.where(place <= normalise.highest_place(ring), weights, np.float32(0))
    table = (values.known(run, weights), sign < 0)
    found = normalise.normalised(run, value, [table], signed=False)
    root = run.program(function, found.mantissa)
    weight = Shared(found.weighted[0].shares, run.scheme)
    product = arithmetic.multiply(run.stream, root, weight)
    return values.multiplied(run, product)


def sqrt(run: Any, value: Shared) -> Shared:
    """Returns shares of square roots."""
    with transcript.scope("sqrt"):
        return _root(run, value, 1, approximations.unit_sqrt)


def inverse_sqrt(run: Any, value: Shared) -> Shared:
    """Returns shares of one over square roots."""
    with transcript.scope("inverse_sqrt"):
        return _root(run, value, -1, approximations.unit_inverse_sqrt)


def log(run: Any, value: Shared) -> Shared:
    """Returns shares of natural logarithms."""
    ring, f = run.scheme.ring, run.fraction_bits
    place = jnp.arange(ring.bits)
    weights = (place + 1 - f).astype(jnp.float32) * np.float32(_LN2)
    weights = jnp.where(place <= normalise.highest_place(ring), weights, np.float32(0))
    table = (values.known(run, weights), True)
    with transcript.scope("log"):
        found = normalise.normalised(run, value, [table], signed=False)
        of_mantissa = run.program(approximations.unit_log, found.mantissa)
        return sharing.add(of_mantissa, Shared(found.weighted[0].shares, run.scheme))


def power(run: Any, base: Shared, exponent: Operand) -> Shared:
    """Powers of bases above 0 with public exponents."""
    if not checks.is_traced(exponent):
        for known, form in ((0.5, sqrt), (-0.5, inverse_sqrt)):
            if (np.asarray(exponent) == known).all():
                return form(run, base)
    return exp(run, public_factors.times(run, log(run, base), exponent))


def _by_program(function: Callable[[Any], Any]) -> Callable[..., Shared]:
    """The form of a function that is a program of other forms."""
    return lambda run, call, value: run.program(function, value)


def _alone(form: Callable[[Any, Shared], Shared]) -> Callable[..., Shared]:
    return lambda run, call, value: form(run, value)


def _divide(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    if not jnp.issubdtype(call.dtype, jnp.floating):
        raise NotImplementedError(f"div of {call.dtype} has no private form")
    if isinstance(other, Shared):
        return divide(run, one, other)
    lib: Any = jnp if checks.is_traced(other) else np
    other = lib.asarray(other, np.float32)
    if lib is np and not np.all(other):
        raise ValueError("div by a public divisor that is 0; mask the divisor before")
    return public_factors.times(run, one, np.float32(1) / other)


FORMS: dict[str, Callable[..., Shared]] = {
    "exp": _alone(exp),
    "exp2": _by_program(lambda x: approximations.exp(x * np.float32(_LN2))),
    "expm1": _by_program(approximations.expm1),
    "log": _alone(log),
    "log1p": _by_program(approximations.log1p),
    "sqrt": _alone(sqrt),
    "rsqrt": _alone(inverse_sqrt),
    "logistic": _by_program(approximations.sigmoid),
    "tanh": _by_program(approximations.tanh),
    "erf": _by_program(approximations.erf),
    "erfc": _by_program(approximations.erfc),
    "div": _divide,
}
"""The private forms, by the name of JAX's primitive."""

WHOLE: dict[str, Callable[[Any, Shared], Shared]] = {
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "inverse_sqrt": inverse_sqrt,
    "reciprocal": lambda run, value: divide(run, np.float32(1), value),
}
"""The private forms, by the name of a function of `approximations`."""
