"""Clipping: bounds the influence of a client or an example.

A clipping rule maps the norms of a contribution's leaves to factors that scale these
leaves. So it works for updates, which exist as arrays, and for per-example gradients
that are known by their norms only (`ghost`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, checks, pairs, trees
from ppml_lab.dp.per_example import PerExample
from ppml_lab.dp.sums import wide


class Clipping(NamedTuple):
    """A clipping rule.

    **Guarantee:** a contribution scaled by the factors has L2 norm at most
    `norm_bound`, up to float rounding (relative 1e-6); if any of it is NaN or infinite,
    or its norm overflows, all factors are exactly zero, so that it cannot poison a sum.
    Norms and factors are float32 whatever the contribution's type.

    Attributes:
      factors: `squared_norms -> factors`, both shaped like the contribution with `[]`
        or `[n]` at each leaf.
      norm_bound: The bound on the L2 norm.
    """

    factors: Callable[[PyTree], PyTree]
    norm_bound: Any


def flat(clip_norm: Any) -> Clipping:
    """Scales the whole contribution down to `clip_norm`; `inf` leaves it unchanged."""

    def factors(squared_norms: PyTree) -> PyTree:
        norm = total_norm(squared_norms)
        factor = jnp.where(jnp.isfinite(norm), _down_to(clip_norm, norm), 0.0)
        return jax.tree.map(lambda _: factor, squared_norms)

    return Clipping(factors, clip_norm)


def per_layer(clip_norm: Any) -> Clipping:
    """Scales each layer (the leaves of one parent) down to its share of `clip_norm`.

    All shares are the same, `clip_norm / sqrt(layers)`, so that together they keep
    within `clip_norm` (McMahan et al., "Learning Differentially Private Recurrent
    Language Models", ICLR 2018). A mapping gives every layer a norm of its own, by the
    path of its parent, such as "encoder/Dense_0"; together they keep within the root of
    the sum of their squares.
    """

    def share(layer: str, layers: Collection[str]) -> Any:
        if not isinstance(clip_norm, Mapping):
            return clip_norm / jnp.sqrt(jnp.float32(len(layers)))
        if set(layers) != set(clip_norm):
            raise ValueError(
                f"clip_norm must give a norm to each of the layers {sorted(layers)}, "
                f"got {sorted(clip_norm)}"
            )
        return clip_norm[layer]

    def factors(squared_norms: PyTree) -> PyTree:
        finite = jnp.isfinite(total_norm(squared_norms))
        paths, structure = jax.tree.flatten_with_path(squared_norms)
        owners = [
            jax.tree_util.keystr(path[:-1], simple=True, separator="/")
            for path, _ in paths
        ]
        layers: dict[str, list[Array]] = {}
        for owner, (_, leaf) in zip(owners, paths, strict=True):
            layers.setdefault(owner, []).append(leaf)
        factor = {
            layer: jnp.where(
                finite, _down_to(share(layer, layers), total_norm(own)), 0.0
            )
            for layer, own in layers.items()
        }
        return jax.tree.unflatten(structure, [factor[owner] for owner in owners])

    return Clipping(factors, whole(clip_norm))


def normalised(clip_norm: Any, stability: float = 0.01) -> Clipping:
    """Scales every contribution to (nearly) `clip_norm`, small ones up too.

    "Automatic clipping", `clip_norm / (norm + stability)`, of Bu, Wang, Zha, Karypis,
    "Automatic Clipping: Differentially Private Deep Learning Made Easier and Stronger",
    NeurIPS 2023.
    """

    def factors(squared_norms: PyTree) -> PyTree:
        norm = total_norm(squared_norms)
        largest = jnp.finfo(norm.dtype).max
        factor = jnp.minimum(clip_norm / (norm + stability), largest)
        factor = jnp.where(jnp.isfinite(norm), factor, 0.0)
        return jax.tree.map(lambda _: factor, squared_norms)

    return Clipping(factors, clip_norm)


def _down_to(bound: Any, norm: Array) -> Array:
    """The factor that scales a norm above the bound down to it; 1 for other norms."""
    return jnp.where(norm > bound, bound / norm, 1.0)


RULES = {"flat": flat, "per_layer": per_layer, "normalised": normalised}


def rule(name: str, clip_norm: Any) -> Clipping:
    """The clipping rule of this name.

    Raises:
      ValueError: For a name not in RULES, or a clip_norm that is not a positive number
        (`inf` is allowed for "flat" and "per_layer") nor, for "per_layer" alone, a
        mapping to positive finite numbers.
    """
    checks.known("clipping", name, tuple(RULES), argument="rule")
    if isinstance(clip_norm, Mapping) and name != "per_layer":
        raise ValueError(
            f'rule "{name}" takes one clip_norm, got {dict(clip_norm)}; norms of '
            'layers are for rule="per_layer"'
        )
    checks.positive("clip_norm", whole(clip_norm), allow_inf=name != "normalised")
    return RULES[name](clip_norm)


def whole(clip_norm: Any) -> Any:
    """The L2 norm of layers of these norms together; a number is returned as it is.

    Raises:
      ValueError: For a mapping with a norm that is not positive and finite.
    """
    if not isinstance(clip_norm, Mapping):
        return clip_norm
    for layer, norm in clip_norm.items():
        checks.positive(f"clip_norm of layer '{layer}'", norm)
    squares = [norm**2 for norm in clip_norm.values()]
    total = sum(squares)
    return jnp.sqrt(total) if any(map(checks.is_traced, squares)) else total**0.5


def clip(clipping: Clipping, update: PyTree) -> PyTree:
    """Scales an update as the rule says."""
    return scale(update, clipping.factors(squared_norms(update)))


def scale(update: PyTree, factors: PyTree) -> PyTree:
    """Multiplies every leaf by its factor; the result is zero where the factor is 0.

    Short floats are multiplied in float32, since factors may be too large for the short
    type, and rounded towards zero, so that the bound survives rounding.
    """

    def scaled(leaf: Array, factor: Array) -> Array:
        values = wide(leaf)
        # Not a product alone: 0 times NaN is NaN.
        product = jnp.where(factor > 0, values * factor.astype(values.dtype), 0)
        return _towards_zero(product, leaf.dtype)

    return jax.tree.map(scaled, update, factors)


def _towards_zero(values: Array, dtype: Any) -> Array:
    if values.dtype == dtype:
        return values
    nearest = values.astype(dtype)
    bits = jax.lax.bitcast_convert_type(nearest, jnp.uint16)
    nearer = jax.lax.bitcast_convert_type(bits - jnp.uint16(1), dtype)
    too_far = jnp.abs(nearest.astype(values.dtype)) > jnp.abs(values)
    return jnp.where(too_far, nearer, nearest)


def clip_examples(
    clipping: Clipping, gradients: PerExample, weights: Float[Array, " n"]
) -> pairs.Pair:
    """The sum of per-example gradients, each scaled as the rule says.

    Examples of weight 0 are left out.
    """
    factors = clipping.factors(gradients.squared_norms)
    return scaled_sum(gradients, factors, weights)


def scaled_sum(
    gradients: PerExample, factors: PyTree, weights: Float[Array, " n"]
) -> pairs.Pair:
    """The sum of per-example gradients times factors; weights of 0 add nothing."""
    heard = jax.tree.map(lambda f: jnp.where(weights > 0, f, 0.0), factors)
    return pairs.of(gradients.weighted_sum(heard))


def squared_norms(update: PyTree) -> PyTree:
    """The squared L2 norm of every leaf."""

    def squared(leaf: Array) -> Array:
        # Squares of short floats would overflow.
        values = wide(leaf)
        return jnp.sum(values * values)

    return jax.tree.map(squared, update)


@arguments.checked
def clip_by_global_norm(
    update: PyTree, clip_norm: Any
) -> tuple[PyTree, Float[Array, ""]]:
    """Clips one update by the `flat` rule.

    Returns:
      The clipped update and the norm that it had before (NaN or inf if it was bad).

    Raises:
      ValueError: For a clip_norm that is not positive, or an update without arrays.
    """
    checks.positive("clip_norm", clip_norm, allow_inf=True)
    trees.check_arrays("update", update)
    if isinstance(clip_norm, int):
        clip_norm = float(clip_norm)
    update = jax.tree.map(jnp.asarray, update)
    return clip(flat(clip_norm), update), total_norm(squared_norms(update))


def total_norm(squared_norms: PyTree) -> Array:
    """The L2 norm of all leaves together."""
    first, *others = jax.tree.leaves(squared_norms)
    return jnp.sqrt(sum(others, first))
