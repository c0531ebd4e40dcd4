"""Private forms of comparisons, choices, maxima and logic; see `private_forms`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import checks
from ppml_lab.smpc import sharing, transcript
from ppml_lab.smpc.computing import arithmetic, comparison
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call, Operand
from ppml_lab.smpc.fixed_point import power_of_two
from ppml_lab.smpc.scheme import Shared, shape_of


def _above_zero(run: Any, value: Shared) -> Shared:
    """A bit set where the value is above 0; kept, as a ReLU's derivative needs it."""
    if id(value) not in run.positive:
        bit = comparison.is_positive(run.stream, value)
        run.positive[id(value)] = (value, bit)
        run.is_ready(bit)
    bit = run.positive[id(value)][1]
    run.wait_for(bit)
    return bit


def _shape(*operands: Operand) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(values.abstract(one).shape for one in operands))


def _above(run: Any, one: Operand, other: Operand) -> Operand:
    """A bit set where `one > other`.

    Public numbers beyond the fixed point's range, such as infinity, are above or below
    all others, without a protocol. If all public numbers are, the answer is public.
    """
    shape = _shape(one, other)
    if one is other:
        return np.zeros(shape, bool)
    if isinstance(one, Shared) and isinstance(other, Shared):
        return _above_zero(run, sharing.subtract(one, other))
    shared, public = (one, other) if isinstance(one, Shared) else (other, one)
    public_is_less = shared is one
    if values.is_whole(shared):
        public = values.of_type(run, public, jnp.int32)
        pair = (shared, public) if public_is_less else (public, shared)
        return _above_zero(run, sharing.subtract(*pair))
    lib: Any = jnp if checks.is_traced(public) else np
    public = lib.asarray(public, np.float32)
    most = np.float32(2.0 ** (run.scheme.ring.bits - 2)) / power_of_two(
        run.fraction_bits
    )
    far = (
        lib.abs(public) > most
        if not checks.is_traced(most)
        else (jnp.abs(public) > most)
    )
    far_answer = (public < 0) if public_is_less else (public > 0)
    traced = checks.is_traced(far)
    if not traced and far.all():
        return np.broadcast_to(far_answer, shape)
    if not traced and not public.any() and public_is_less:
        return values.broadcast(_above_zero(run, shared), shape)
    known = sharing.constant(values.known(run, public), run.scheme)
    pair = (shared, known) if public_is_less else (known, shared)
    bit = _above_zero(run, sharing.subtract(*pair))
    if not traced and not far.any():
        return bit
    near = values.integers(run, jnp.asarray(~far, jnp.int32))
    decided = values.integers(run, jnp.asarray(far & far_answer, jnp.int32))
    return sharing.add_public(sharing.multiply_public(bit, near), decided)


def _max(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    return larger(run, one, other, call.dtype)


def larger(run: Any, one: Operand, other: Operand, dtype: Any) -> Shared:
    """The larger of each pair."""
    if not isinstance(one, Shared):
        one, other = other, one
    if not isinstance(other, Shared) and not checks.is_traced(other):
        other = np.asarray(other)
        if np.isneginf(other.astype(np.float64)).all():
            return values.broadcast(one, _shape(one, other))
        if not other.any():
            bit = _above_zero(run, one)
            kept = comparison.chosen(run.stream, bit, one)
            return values.broadcast(kept, _shape(one, other))
    bit = _above(run, one, other)
    one, other = (values.of_type(run, value, dtype) for value in (one, other))
    return _picked(run, bit, one, other)


def _picked(run: Any, bit: Operand, if_set: Shared, if_not: Shared) -> Shared:
    if isinstance(bit, Shared):
        return comparison.select(run.stream, bit, if_set, if_not)
    if_set, if_not = values.same_shape(if_set, if_not)
    shares = jax.tree.map(
        lambda a, b: jnp.where(bit, a, b), if_set.shares, if_not.shares
    )
    return Shared(shares, if_set.scheme)


def smaller(run: Any, one: Operand, other: Operand, dtype: Any) -> Shared:
    """The smaller of each pair."""
    return values.negated(larger(run, _minus(one), _minus(other), dtype))


def _minus(value: Operand) -> Operand:
    if isinstance(value, Shared):
        return values.negated(value)
    return -(value if checks.is_traced(value) else np.asarray(value))


def _min(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    if call.dtype == jnp.bool_:
        return _and(run, call, one, other)
    return smaller(run, one, other, call.dtype)


def _clamp(run: Any, call: Call, low: Any, value: Any, high: Any) -> Shared:
    dtype = call.dtype
    return smaller(run, larger(run, value, low, dtype), high, dtype)


def _reduce_max(run: Any, call: Call, value: Shared) -> Shared:
    value = values.joined_axes(value, call["axes"])
    return comparison.max_over(run.stream, value, -1)


def _reduce_min(run: Any, call: Call, value: Shared) -> Shared:
    return values.negated(_reduce_max(run, call, values.negated(value)))


def _argmax(run: Any, call: Call, value: Shared) -> Shared:
    (axis,), _ = call["axes"], call["index_dtype"]
    value = values.joined_axes(value, (axis,))
    return comparison.place_of_max(run.stream, value)


def _argmin(run: Any, call: Call, value: Shared) -> Shared:
    return _argmax(run, call, values.negated(value))


def _sign(run: Any, call: Call, value: Shared) -> Shared:
    both = values.stacked(value, values.negated(value))
    bit = comparison.is_positive(run.stream, both)
    sign = sharing.subtract(values.part(bit, 0), values.part(bit, 1))
    return values.of_type(run, sign, call.dtype)


def _abs(run: Any, call: Call, value: Shared) -> Shared:
    positive = comparison.chosen(
        run.stream, _above_zero(run, value), values.scaled(value, 2)
    )
    return sharing.subtract(positive, value)


def _select(run: Any, call: Call, which: Any, *cases: Operand) -> Shared:
    if not isinstance(which, Shared) and not checks.is_traced(which):
        # A case that is chosen nowhere may be NaN.
        which = np.asarray(which).astype(int)
        for number, case in enumerate(cases):
            if np.all(which == number):
                return case
    result, *others = (values.of_type(run, case, call.dtype) for case in cases)
    for number, case in enumerate(others):
        if len(others) > 1:
            is_later = (
                _above(run, which, np.int32(number))
                if isinstance(which, Shared)
                else which > number
            )
        else:
            is_later = which
        result = _picked(run, is_later, case, result)
    return result


def _is_bool(call: Call) -> None:
    if call.operand_dtype != jnp.bool_:
        raise NotImplementedError(
            f"{call.name} has a private form only for truth values, got "
            f"{call.operand_dtype}"
        )


def both(run: Any, one: Operand, other: Operand) -> Shared:
    """The product of truth values."""
    if isinstance(one, Shared) and isinstance(other, Shared):
        return arithmetic.multiply(run.stream, one, other)
    shared, public = (one, other) if isinstance(one, Shared) else (other, one)
    return sharing.multiply_public(shared, values.integers(run, _int(public)))


def _int(public: Operand) -> Any:
    lib: Any = jnp if checks.is_traced(public) else np
    return lib.asarray(public, np.int32)


def _and(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    _is_bool(call)
    return both(run, one, other)


def _or(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    _is_bool(call)
    return values.inverted(both(run, *(_not_of(value) for value in (one, other))))


def _not_of(value: Operand) -> Operand:
    return values.inverted(value) if isinstance(value, Shared) else _int(value) == 0


def _xor(run: Any, call: Call, one: Operand, other: Operand) -> Shared:
    _is_bool(call)
    return _unequal_bits(run, one, other)


def _unequal_bits(run: Any, one: Operand, other: Operand) -> Shared:
    common = values.scaled(both(run, one, other), 2)
    one, other = (values.of_type(run, value, jnp.bool_) for value in (one, other))
    return sharing.subtract(sharing.add(one, other), common)


def _not(run: Any, call: Call, bit: Shared) -> Shared:
    _is_bool(call)
    return values.inverted(bit)


def tree(
    combine: Callable[[Shared, Shared], Shared], value: Shared, axes: tuple[int, ...]
) -> Shared:
    """Reduces some axes by halves, in as many products as the log of their size."""
    value = values.joined_axes(value, tuple(axes))
    while (count := shape_of(value)[-1]) > 1:
        half = count // 2
        left, right, rest = (
            values.each(lambda leaf, b=b, e=e: leaf[..., b:e], value)
            for b, e in ((0, half), (half, 2 * half), (2 * half, count))
        )
        found = combine(left, right)
        shares = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b], -1), found.shares, rest.shares
        )
        value = Shared(shares, value.scheme)
    return values.each(lambda leaf: leaf[..., 0], value)


def _reduce_and(run: Any, call: Call, value: Shared) -> Shared:
    _is_bool(call)
    return tree(lambda one, other: both(run, one, other), value, call["axes"])


def _reduce_or(run: Any, call: Call, value: Shared) -> Shared:
    return values.inverted(_reduce_and(run, call, values.inverted(value)))


def unequal(run: Any, one: Operand, other: Operand) -> Operand:
    """A bit set where `one` is greater or less than `other`."""
    greater, less = transcript.at_once(
        lambda: _above(run, one, other), lambda: _above(run, other, one)
    )
    if not isinstance(greater, Shared) and not isinstance(less, Shared):
        return np.logical_or(greater, less)
    one, other = (values.of_type(run, bit, jnp.bool_) for bit in (greater, less))
    return sharing.add(one, other)


def _ne(run: Any, call: Call, one: Operand, other: Operand) -> Operand:
    if call.operand_dtype == jnp.bool_:
        return _unequal_bits(run, one, other)
    return unequal(run, one, other)


def _eq(run: Any, call: Call, one: Operand, other: Operand) -> Operand:
    return _not_of(_ne(run, call, one, other))


def _is_finite(run: Any, call: Call, value: Shared) -> Operand:
    return np.ones(shape_of(value), bool)


FORMS: dict[str, Callable[..., Operand]] = {
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "argmax": _argmax,
    "argmin": _argmin,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "abs": _abs,
    "sign": _sign,
    "gt": lambda run, call, one, other: _above(run, one, other),
    "lt": lambda run, call, one, other: _above(run, other, one),
    "ge": lambda run, call, one, other: _not_of(_above(run, other, one)),
    "le": lambda run, call, one, other: _not_of(_above(run, one, other)),
    "eq": _eq,
    "ne": _ne,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "not": _not,
    "reduce_and": _reduce_and,
    "reduce_or": _reduce_or,
    "select_n": _select,
    "is_finite": _is_finite,
}
"""The private forms, by the name of JAX's primitive."""
