"""The effect of clipping on each contribution: for the researcher, not private.

Choosing a clip norm takes this. Only the mechanism knows which updates its clip makes
smaller: its norm may be another norm than L2, or have a share for each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, PyTree

from ppml_lab import base
from ppml_lab.dp import clipping


@dataclass(frozen=True, eq=False)
class WatchedClip:
    """A mechanism's `clip` that can also tell which updates it shrinks.

    Attributes:
      send: The `clip`.
      shrinks: `(state, update)`: whether the `clip` scales any of the update down.
    """

    send: Callable[[base.Key, PyTree, PyTree], PyTree]
    shrinks: Callable[[PyTree, PyTree], Bool[Array, ""]]

    def __call__(self, key: base.Key, state: PyTree, update: PyTree) -> PyTree:
        return self.send(key, state, update)


def clipped(
    mechanism: base.PrivacyMechanism, state: PyTree, update: PyTree
) -> Bool[Array, ""]:
    """Returns whether the mechanism's `clip` scales any of an update down.

    Also True where the `clip` drops the update because it is not finite. For a `clip`
    that does not tell, returns whether the L2 norm is above the mechanism's
    `norm_bound`.
    """
    # A guarded clip is not a `WatchedClip`, but has its attributes.
    shrinks = getattr(mechanism.clip, "shrinks", None)
    if shrinks is not None:
        return shrinks(state, update)
    return ~(norm(update) <= mechanism.norm_bound(state))


def scaled_down(rule: clipping.Clipping, update: PyTree) -> Bool[Array, ""]:
    """Returns whether any factor of a clipping rule is below 1 for an update."""
    factors = rule.factors(clipping.squared_norms(update))
    return jnp.any(jnp.stack(jax.tree.leaves(factors)) < 1)


def norm(update: PyTree) -> Array:
    """The L2 norm of an update, as clipping sees it."""
    return clipping.total_norm(clipping.squared_norms(update))
