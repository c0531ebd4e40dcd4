"""The private forms of JAX's operations: what each becomes when an operand is shared.

A form takes the run, the operation's call and its operands. At least one operand is
`Shared`; the others are arrays that everybody knows. Reals are fixed-point numbers,
whole numbers and truth values are numbers of scale 1. A form reads every parameter of
its operation that it supports: `private_values.Call` refuses all other parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppml_lab.smpc import products, sharing
from ppml_lab.smpc.computing import (
    arithmetic,
    private_choices,
    private_functions,
    private_moves,
    private_windows,
    public_factors,
)
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call, Operand
from ppml_lab.smpc.scheme import Shared, shape_of

_LARGE = 64
"""Powers with exponents from here on are computed as exponentials."""


def _add(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    one, other = (values.of_type(run, value, call.dtype) for value in (one, other))
    return sharing.add(one, other)


def _sub(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    one, other = (values.of_type(run, value, call.dtype) for value in (one, other))
    return sharing.subtract(one, other)


def _neg(run: Any, call: Call, value: Shared) -> Shared:
    return values.negated(value)


def product(run: Any, one: Operand, other: Operand) -> Shared:
    """The product of two operands of one type, entry by entry."""
    if isinstance(one, Shared) and isinstance(other, Shared):
        found = arithmetic.multiply(run.stream, one, other)
        return values.multiplied(run, found)
    shared, public = (one, other) if isinstance(one, Shared) else (other, one)
    if values.is_whole(shared):
        return sharing.multiply_public(shared, values.integers(run, public))
    return public_factors.times(run, shared, public)


def _mul(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    return product(run, one, other)


def _square(run: Any, call: Call, value: Shared) -> Shared:
    return product(run, value, value)


def _integer_pow(run: Any, call: Call, value: Shared) -> Shared:
    return _whole_power(run, value, call["y"], call.dtype)


def _pow(run: Any, call: Call, base: Operand, exponent: Operand) -> Shared:
    """A power with public exponents; bases are above 0 unless exponents are whole."""
    if isinstance(exponent, Shared):
        raise NotImplementedError(
            "pow has a private form only for public exponents, got a shared exponent"
        )
    whole = public_factors.whole_numbers(exponent)
    if whole is not None and len({*whole.flat}) == 1 and abs(whole.flat[0]) < _LARGE:
        power = _whole_power(run, base, int(whole.flat[0]), call.dtype)
        return values.broadcast(power, call.outs[0].shape)
    if not jnp.issubdtype(call.dtype, jnp.floating):
        raise NotImplementedError(f"pow of {call.dtype} has no private form")
    return private_functions.power(run, base, exponent)


def _whole_power(run: Any, value: Shared, exponent: int, dtype: Any) -> Shared:
    if exponent == 0:
        return values.of_type(run, np.ones(shape_of(value), np.int32), dtype)
    result = value
    for digit in bin(abs(exponent))[3:]:
        result = product(run, result, result)
        result = product(run, result, value) if digit == "1" else result
    if exponent < 0:
        return private_functions.divide(run, np.float32(1), result)
    return result


def _dot_general(run: Any, call: Call, one: Any, other: Any) -> Shared:
    dims, ring = call["dimension_numbers"], run.scheme.ring
    if isinstance(one, Shared) and isinstance(other, Shared):
        found = arithmetic.dot_general(run.stream, one, other, dims)
        return values.multiplied(run, found)
    is_left = isinstance(one, Shared)
    shared, public = (one, other) if is_left else (other, one)

    def contracted(share: Any, known: Any) -> Any:
        pair = (share, known) if is_left else (known, share)
        return products.dot_general(ring, *pair, dims)

    contract, batch = (side[0 if not is_left else 1] for side in dims)
    rank = len(values.abstract(public).shape)
    free = [axis for axis in range(rank) if axis not in (*contract, *batch)]
    others = len(shape_of(shared)) - len(contract) - len(batch)

    def placed(exponents: Any) -> Any:
        """Exponents by axis: batched axes, the left's own, the right's own."""
        moved = exponents.transpose(*batch, *free, *contract)
        sizes = moved.shape[: len(batch) + len(free)]
        ones = (1,) * others
        own = (
            (*ones, *sizes[len(batch) :]) if is_left else (*sizes[len(batch) :], *ones)
        )
        return moved.reshape((*sizes[: len(batch)], *own))

    how = public_factors.Contraction(contracted, tuple(contract), placed)
    return private_windows.by_public(run, shared, public, how)


def _reduce_sum(run: Any, call: Call, value: Shared) -> Shared:
    for axis in sorted(call["axes"], reverse=True):
        value = values.summed(value, axis)
    return value


def _reduce_prod(run: Any, call: Call, value: Shared) -> Shared:
    return private_choices.tree(
        lambda one, other: product(run, one, other), value, call["axes"]
    )


def _convert(run: Any, call: Call, value: Shared) -> Shared:
    dtype = call["new_dtype"]
    if jnp.issubdtype(dtype, jnp.floating):
        return values.reals(run, value)
    if call.operand_dtype == jnp.bool_ and jnp.issubdtype(dtype, jnp.integer):
        return value
    if jnp.issubdtype(call.operand_dtype, jnp.integer) and jnp.issubdtype(
        dtype, jnp.integer
    ):
        return value
    if dtype == jnp.bool_:
        return private_choices.unequal(run, value, np.zeros((), call.operand_dtype))
    raise NotImplementedError(
        f"convert_element_type from {call.operand_dtype} to {dtype} has no private form"
    )


def _unchanged(run: Any, call: Call, value: Shared) -> Shared:
    return value


FORMS: dict[str, Callable[..., Shared]] = {
    **private_choices.FORMS,
    **private_functions.FORMS,
    **private_moves.FORMS,
    **private_windows.FORMS,
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "square": _square,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "dot_general": _dot_general,
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "convert_element_type": _convert,
    "stop_gradient": _unchanged,
    "copy": _unchanged,
    "optimization_barrier": _unchanged,
}
"""The private forms, by the name of JAX's primitive."""
