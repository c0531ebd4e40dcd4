"""Private forms of operations that only move values, and of sums of moved values.

Places are public; see `private_forms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppml_lab import checks
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call, Operand
from ppml_lab.smpc.scheme import Shared, shape_of


def _rearranged(primitive: Any) -> Callable[..., Shared]:
    """The form of an operation of one operand that supports all its parameters."""

    def form(run: Any, call: Call, value: Shared) -> Shared:
        params = dict(call)
        return values.each(lambda leaf: primitive.bind(leaf, **params), value)

    return form


def _broadcast(run: Any, call: Call, value: Shared) -> Shared:
    shape, dims = call["shape"], call["broadcast_dimensions"]

    def repeat(small: Shared, num_leading: int = 0) -> Shared:
        def spread(leaf: Any) -> Any:
            return lax.broadcast_in_dim(leaf, shape, dims)

        for _ in range(num_leading):
            spread = jax.vmap(spread)
        return values.each(spread, small)

    result = repeat(value)
    run.spread[id(result)] = (result, value, repeat)
    return result


def _reshape(run: Any, call: Call, value: Shared) -> Shared:
    shape, order = call["new_sizes"], call["dimensions"]

    def form(leaf: Any) -> Any:
        return (leaf if order is None else leaf.transpose(order)).reshape(shape)

    return values.each(form, value)


def _split(run: Any, call: Call, value: Shared) -> list[Shared]:
    axis, ends = call["axis"], np.cumsum(call["sizes"]).tolist()

    def cut(begin: int, end: int) -> Shared:
        return values.each(
            lambda leaf: lax.slice_in_dim(leaf, begin, end, axis=axis), value
        )

    return [cut(b, e) for b, e in zip([0, *ends], ends, strict=False)]


def _concatenate(run: Any, call: Call, *parts: Operand) -> Shared:
    return _together(run, call, parts, jnp.concatenate, int(call["dimension"]))


def _stack(run: Any, call: Call, *parts: Operand) -> Shared:
    return _together(run, call, parts, jnp.stack, int(call["axis"]))


def _together(
    run: Any, call: Call, parts: Any, join: Callable[..., Any], axis: int
) -> Shared:
    shared = [values.of_type(run, part, call.dtype) for part in parts]
    leaves = [one.shares for one in shared]
    joined = jax.tree.map(lambda *each: join(each, axis=axis + 1), *leaves)
    return Shared(joined, shared[0].scheme)


def _tile(run: Any, call: Call, value: Shared) -> Shared:
    reps = call["reps"]
    return values.each(lambda leaf: jnp.tile(leaf, reps), value)


def _pad(run: Any, call: Call, value: Operand, filler: Operand) -> Shared:
    return padded(run, value, filler, call["padding_config"], call.dtype)


def padded(run: Any, value: Operand, filler: Operand, config: Any, dtype: Any) -> Any:
    """A value padded as by `lax.pad`, where the value or the filler is shared."""
    value, filler = (values.of_type(run, one, dtype) for one in (value, filler))
    shares = jax.tree.map(
        jax.vmap(lambda leaf, fill: lax.pad(leaf, fill, config)),
        value.shares,
        filler.shares,
    )
    return Shared(shares, value.scheme)


def _public(name: str, *indices: Operand) -> None:
    if any(isinstance(index, Shared) for index in indices):
        raise NotImplementedError(
            f"{name} with private indices has no private form; multiply with one-hot "
            "vectors instead"
        )


def _gather(run: Any, call: Call, value: Operand, indices: Operand) -> Shared:
    _public("gather", indices)
    params = {**call, "fill_value": 0}
    fills = params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    if fills and not checks.is_traced(indices):
        # On reals what lies outside is NaN, which shares do not have.
        with jax.ensure_compile_time_eval():
            inside = jnp.zeros(shape_of(value), jnp.uint32)
            found = lax.gather_p.bind(inside, indices, **{**params, "fill_value": 1})
            if np.any(found):
                raise ValueError(
                    "gather: an index is out of bounds; keep indices inside the array"
                )
    return values.each(lambda leaf: lax.gather_p.bind(leaf, indices, **params), value)


def _scatter(adds: bool) -> Callable[..., Shared]:
    def form(
        run: Any, call: Call, value: Operand, indices: Operand, updates: Operand
    ) -> Shared:
        _public(call.name, indices)
        _ = call["update_jaxpr"], call["update_consts"]
        dims, mode = call["dimension_numbers"], call["mode"]
        value, updates = (
            values.of_type(run, one, call.dtype) for one in (value, updates)
        )
        if adds:
            return values.on_words(
                lambda word, more: lax.scatter_add(
                    word, indices, more, dims, mode=mode
                ),
                value,
                updates,
            )
        shares = jax.tree.map(
            jax.vmap(
                lambda leaf, new: lax.scatter(leaf, indices, new, dims, mode=mode)
            ),
            value.shares,
            updates.shares,
        )
        return Shared(shares, value.scheme)

    return form


def _dynamic_slice(run: Any, call: Call, value: Operand, *begin: Operand) -> Shared:
    _public("dynamic_slice", *begin)
    sizes = call["slice_sizes"]
    return values.each(lambda leaf: lax.dynamic_slice(leaf, begin, sizes), value)


def _dynamic_update_slice(
    run: Any, call: Call, value: Operand, update: Operand, *begin: Operand
) -> Shared:
    _public("dynamic_update_slice", *begin)
    value, update = (values.of_type(run, one, call.dtype) for one in (value, update))
    shares = jax.tree.map(
        jax.vmap(lambda leaf, new: lax.dynamic_update_slice(leaf, new, begin)),
        value.shares,
        update.shares,
    )
    return Shared(shares, value.scheme)


def _cumsum(run: Any, call: Call, value: Shared) -> Shared:
    axis, reverse = call["axis"], call["reverse"]
    return values.on_words(lambda word: lax.cumsum(word, axis, reverse), value)


FORMS: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "split": _split,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "pad": _pad,
    "gather": _gather,
    "scatter": _scatter(adds=False),
    "scatter-add": _scatter(adds=True),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "cumsum": _cumsum,
    "transpose": _rearranged(lax.transpose_p),
    "squeeze": _rearranged(lax.squeeze_p),
    "slice": _rearranged(lax.slice_p),
    "rev": _rearranged(lax.rev_p),
}
"""The private forms, by the name of JAX's primitive."""
