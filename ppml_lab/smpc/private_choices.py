"""Private forms of comparisons, choices and maxima; see `private_forms`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab.smpc import comparison, sharing, transcript
from ppml_lab.smpc import private_values as values
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.private_values import Operand
from ppml_lab.smpc.scheme import Shared


def _reduce_max(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    for axis in sorted(params["axes"], reverse=True):
        value = comparison.max_over(run.fresh_seed(), value, axis)
    return value


def _window_max(run: Any, params: dict[str, Any], value: Shared) -> Shared:
    window, strides = params["window_dimensions"], params["window_strides"]
    moves = len(window) == 4 and window[0] == window[3] == 1
    if not moves or any(map(any, params["padding"])):
        raise NotImplementedError(
            "reduce_window_max has a private form for NHWC images without padding"
        )
    return comparison.max_pool(run.fresh_seed(), value, window[1:3], strides[1:3])


def _above_zero(run: Any, value: Shared) -> Shared:
    """A bit, remembered: a ReLU's derivative asks for it again."""
    if id(value) not in run.positive:
        bit = comparison.is_positive(run.fresh_seed(), value)
        run.positive[id(value)] = (value, bit)
        run.is_ready(bit)
    bit = run.positive[id(value)][1]
    run.wait_for(bit)
    return bit


def _max(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    del params
    if not isinstance(one, Shared):
        one, other = other, one
    known = None if isinstance(other, (Shared, jax.core.Tracer)) else np.asarray(other)
    if known is not None and np.isneginf(known).all():
        return one
    if known is not None and not known.any():
        bit = _above_zero(run, one)
        return comparison.chosen(run.fresh_seed(), bit, one)
    one, other = values.reals(run, one), values.reals(run, other)
    return comparison.maximum(run.fresh_seed(), *values.same_shape(one, other))


def _min(run: Any, params: dict[str, Any], one: Operand, other: Operand) -> Shared:
    negated = (values.scaled(values.reals(run, value), -1) for value in (one, other))
    return values.scaled(_max(run, params, *negated), -1)


def _clamp(run: Any, params: dict[str, Any], low: Any, value: Any, high: Any) -> Shared:
    return _min(run, params, _max(run, params, value, low), high)


def _greater(run: Any, one: Operand, other: Operand) -> Shared:
    if isinstance(one, Shared) and not isinstance(other, Shared):
        tracer = isinstance(other, jax.core.Tracer)
        if not tracer and not np.asarray(other).any():
            return _above_zero(run, one)
    return _above_zero(
        run, sharing.subtract(values.reals(run, one), values.reals(run, other))
    )


def _not(run: Any, bit: Shared) -> Shared:
    one = rings.from_integers(run.scheme.ring, 1)
    return sharing.add_public(values.scaled(bit, -1), one)


def _select(run: Any, params: dict[str, Any], which: Any, *cases: Operand) -> Shared:
    del params
    if len(cases) != 2:
        raise NotImplementedError("select_n has a private form for two cases")
    if_not, if_set = (values.reals(run, case) for case in cases)
    if isinstance(which, Shared):
        return comparison.select(run.fresh_seed(), which, if_set, if_not)
    shares = jax.tree.map(
        lambda a, b: jnp.where(which, a, b), if_set.shares, if_not.shares
    )
    return Shared(shares, if_set.scheme)


def _equal(run: Any, one: Operand, other: Operand) -> Shared:
    """Neither greater nor less."""
    greater, less = transcript.at_once(
        lambda: _greater(run, one, other), lambda: _greater(run, other, one)
    )
    return _not(run, sharing.add(greater, less))


FORMS: dict[str, Callable[..., Shared]] = {
    "reduce_max": _reduce_max,
    "reduce_window_max": _window_max,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "gt": lambda run, params, one, other: _greater(run, one, other),
    "lt": lambda run, params, one, other: _greater(run, other, one),
    "ge": lambda run, params, one, other: _not(run, _greater(run, other, one)),
    "le": lambda run, params, one, other: _not(run, _greater(run, one, other)),
    "not": lambda run, params, bit: _not(run, bit),
    "select_n": _select,
    "eq": lambda run, params, one, other: _equal(run, one, other),
    "ne": lambda run, params, one, other: _not(run, _equal(run, one, other)),
}
"""By the name of JAX's primitive."""
