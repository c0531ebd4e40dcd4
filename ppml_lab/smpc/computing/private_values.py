"""Values while a program runs on shares: what they are, and how they are rearranged.

A `Shared` that stands for reals has the run's scale; whole numbers and truth values
have scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppml_lab import checks
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import sharing
from ppml_lab.smpc.computing import truncation
from ppml_lab.smpc.fixed_point import power_of_two
from ppml_lab.smpc.ring import Element
from ppml_lab.smpc.scheme import Shared, shape_of

Operand = Any
"""A `Shared` or an array that everybody knows."""

WITHOUT_EFFECT = frozenset(
    {
        "accuracy",
        "indices_are_sorted",
        "out_sharding",
        "precision",
        "preferred_element_type",
        "sharding",
        "unique_indices",
        "weak_type",
    }
)
"""Parameters of JAX's operations that change no value on shares."""


class Call(Mapping[str, Any]):
    """An operation of a program as its form sees it: parameters and types.

    Notes which parameters are read. Types are those of operands and results.
    """

    def __init__(self, name: str, params: Mapping[str, Any], ins: Any, outs: Any):
        self.name, self.ins, self.outs = name, tuple(ins), tuple(outs)
        self._params, self._read = params, set[str]()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._params[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    @property
    def dtype(self) -> np.dtype:
        """The first result's type."""
        return np.dtype(self.outs[0].dtype)

    @property
    def operand_dtype(self) -> np.dtype:
        """The last operand's type: the first operand of `select_n` is the condition."""
        return np.dtype(self.ins[-1].dtype)

    def check(self, results: list[Operand]) -> None:
        """Raises NotImplementedError for a parameter that was not read, or a result
        whose shape or kind is not what the program says.
        """
        for key, value in self._params.items():
            if key not in self._read | WITHOUT_EFFECT and value is not None:
                raise NotImplementedError(
                    f"{self.name} has no private form with {key}={value}"
                )
        for result, out in zip(results, self.outs, strict=True):
            shape = shape_of(result) if isinstance(result, Shared) else result.shape
            whole = isinstance(result, Shared) and is_whole(result)
            real = jnp.issubdtype(out.dtype, jnp.floating)
            if shape != out.shape or (isinstance(result, Shared) and whole == real):
                raise NotImplementedError(
                    f"{self.name} has no private form for a result "
                    f"{out.dtype}{list(out.shape)}; its private form gives "
                    f"{'whole numbers' if whole else 'reals'} {list(shape)}"
                )


def abstract(value: Operand) -> jax.ShapeDtypeStruct:
    """The shape and type of the numbers that an operand stands for."""
    if isinstance(value, Shared):
        dtype = jnp.int32 if is_whole(value) else jnp.float32
        return jax.ShapeDtypeStruct(shape_of(value), dtype)
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))


def is_whole(value: Operand) -> bool:
    """True for shared whole numbers, such as the results of a comparison."""
    return isinstance(value, Shared) and value.scheme.scale == 1.0


def whole_scheme(run: Any) -> schemes.Scheme:
    """The scheme in which whole numbers are shared."""
    return run.scheme._replace(scale=1.0)


def known(run: Any, values: Operand) -> Element:
    """Public reals as fixed-point numbers.

    Reals beyond a quarter of the ring, such as infinity, become an eighth of the ring,
    so that differences still fit.

    Raises:
      ValueError: For NaN, where values are not traced.
    """
    ring = run.scheme.ring
    if not checks.is_traced(values):
        values = np.asarray(values, np.float32)
        if np.isnan(values).any():
            raise ValueError("a public value is NaN, which shares cannot hold")
    scaled = jnp.asarray(values, jnp.float32) * power_of_two(run.fraction_bits)
    far = jnp.sign(scaled) * np.float32(2.0 ** (ring.bits - 3))
    outside = jnp.abs(scaled) > np.float32(2.0 ** (ring.bits - 2))
    return rings.from_float(ring, jnp.round(jnp.where(outside, far, scaled)))


def integers(run: Any, values: Operand) -> Element:
    """Whole numbers of JAX's types, which may be traced, as elements."""
    ring = run.scheme.ring
    if not checks.is_traced(values):
        return rings.from_integers(ring, np.asarray(values).astype(object))
    low = values.astype(jnp.uint32)
    high = jnp.where(values < 0, jnp.uint32(0xFFFFFFFF), jnp.uint32(0))
    return ring.from_unsigned(rings.Wide(low, high))


def reals(run: Any, value: Operand) -> Shared:
    """A value in fixed point: a whole one scaled up, a public one as a constant."""
    if not isinstance(value, Shared):
        return sharing.constant(known(run, value), run.scheme)
    if is_whole(value):
        shares = rings.shift_left(run.scheme.ring, value.shares, run.fraction_bits)
        return Shared(shares, run.scheme)
    return value


def of_type(run: Any, value: Operand, dtype: Any) -> Shared:
    """A shared value of one of JAX's types, made of any operand.

    Raises:
      NotImplementedError: For complex numbers, and reals where whole ones are due.
    """
    if jnp.issubdtype(dtype, jnp.floating):
        return reals(run, value)
    if not (dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.integer)):
        raise NotImplementedError(f"{dtype} has no private form; use real numbers")
    if not isinstance(value, Shared):
        return sharing.constant(integers(run, value), whole_scheme(run))
    if not is_whole(value):
        raise NotImplementedError(f"reals as {dtype} have no private form")
    return value


def axes_swapped(value: Operand) -> Operand:
    """Swaps the parties' axis with the axis that a loop goes along, or back."""
    if not isinstance(value, Shared):
        return value
    shares = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), value.shares)
    return Shared(shares, value.scheme)


def divided(run: Any, shared: Shared, num_bits: Any) -> Shared:
    """A shared value over `2^num_bits`, rounded, as a real.

    `num_bits` may differ from entry to entry.
    """
    found = truncation.divide(run.stream, shared, num_bits, run.truncation)
    return Shared(found.shares, run.scheme)


def multiplied(run: Any, product: Shared) -> Shared:
    """A product of shared values, back at the scale."""
    if product.scheme.scale in (1.0, run.scheme.scale):
        return product
    return divided(run, product, run.fraction_bits)


def each(function: Callable[[Array], Array], shared: Shared) -> Shared:
    """Applies a rearrangement to every party's share."""
    return Shared(jax.tree.map(jax.vmap(function), shared.shares), shared.scheme)


def on_words(function: Callable[..., Array], *values: Shared) -> Shared:
    """Applies a sum of places to every party's share, as words of the whole ring."""
    ring = values[0].scheme.ring
    with rings.x64():
        words = [rings.widened(ring.to_unsigned(value.shares)) for value in values]
        total = rings.narrowed(jax.vmap(function)(*words))
    return Shared(ring.from_unsigned(total), values[0].scheme)


def scaled(value: Shared, factor: int) -> Shared:
    """A shared value times an integer, at the same scale."""
    ring = value.scheme.ring
    return sharing.multiply_public(value, rings.from_integers(ring, factor))


def negated(value: Shared) -> Shared:
    """Minus the value."""
    return scaled(value, -1)


def inverted(value: Shared) -> Shared:
    """1 minus the value, for shared whole numbers."""
    one = rings.from_integers(value.scheme.ring, 1)
    return sharing.add_public(negated(value), one)


def same_shape(one: Shared, other: Shared) -> tuple[Shared, Shared]:
    """Both values, spread to the shape that they broadcast to."""
    shape = jnp.broadcast_shapes(shape_of(one), shape_of(other))
    return broadcast(one, shape), broadcast(other, shape)


def broadcast(value: Shared, shape: tuple[int, ...]) -> Shared:
    """The value repeated along new or singleton axes, to a shape of the secret."""
    return each(lambda leaf: jnp.broadcast_to(leaf, shape), value)


def stacked(*parts: Shared) -> Shared:
    """The values stacked along a new first axis of the secret."""
    shares = jax.tree.map(
        lambda *leaves: jnp.stack(leaves, axis=1), *(part.shares for part in parts)
    )
    return Shared(shares, parts[0].scheme)


def part(value: Shared, number: int) -> Shared:
    """One place of the secret's first axis."""
    return Shared(
        jax.tree.map(lambda leaf: leaf[:, number], value.shares), value.scheme
    )


def summed(value: Shared, axis: int) -> Shared:
    """The sum over an axis of the secret."""
    ring = value.scheme.ring
    shares = jax.vmap(lambda share: ring.sum_over(share, axis))(value.shares)
    return Shared(shares, value.scheme)


def joined_axes(value: Shared, axes: tuple[int, ...]) -> Shared:
    """The value with some axes of the secret joined into one, the last."""
    rank = len(shape_of(value))
    kept = [axis for axis in range(rank) if axis not in axes]

    def join(leaf: Array) -> Array:
        moved = lax.transpose(leaf, (*kept, *axes))
        return moved.reshape(*moved.shape[: len(kept)], -1)

    return each(join, value)
