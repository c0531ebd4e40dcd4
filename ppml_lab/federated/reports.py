"""The reports of trained clients, and how reports become a round's sums."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, trees
from ppml_lab.data import storage
from ppml_lab.dp import looks
from ppml_lab.federated import contributions, lanes


def weights(
    weighting: str, clients: base.Clients, reporting: base.Cohort
) -> Float[Array, " cohort"] | None:
    """The weight of each place of the cohort, at most 1; None where all weights are
    equal. Larger weights would exceed the secure sum's bound, and much smaller weights
    would vanish in its rounding.
    """
    if weighting != "examples":
        return None
    sizes = storage.sizes(clients, reporting.indices).astype(jnp.float32)
    heard = jnp.where(reporting.weights > 0, sizes, 0.0)
    return heard / jnp.maximum(jnp.max(heard), 1.0)


def report(
    whose: contributions.Contributions,
    mechanism: base.PrivacyMechanism,
    mechanism_state: PyTree,
    aggregator: base.SecureAggregator,
    session: PyTree,
    weights: Float[Array, " cohort"] | None,
) -> lanes.Report:
    """The function that makes a trained client's contribution to the round's sums. Its
    arrays are pytree leaves, so that every device gets them.
    """
    arrays, together = trees.arrays_apart((mechanism_state, session, weights))

    def of_client(
        arrays: list[Array],
        key: base.Key,
        place: Array,
        size: Array,
        update: PyTree,
        info: dict[str, Array],
    ) -> dict[str, Any]:
        mechanism_state, session, weights = together(arrays)
        clip_key, encode_key = jax.random.split(key)
        weight, weighed = jnp.float32(1), update
        if weights is not None:
            weight = weights[place]
            weighed = jax.tree.map(
                lambda leaf: leaf * weight.astype(leaf.dtype), trees.widened(update)
            )
        scalars = dict(info)
        if mechanism.privacy_unit == "client":
            # Clipping computes the norm anyway; for other units it is one more pass.
            scalars["update_norm"] = looks.norm(update)
            scalars["clipped_share"] = looks.clipped(mechanism, mechanism_state, update)
        bounded = contributions.clip(
            whose, mechanism, clip_key, mechanism_state, weighed
        )
        if mechanism.trust == "central":
            # An empty place contributes nothing, also to what is summed beside updates:
            # neighbours under zero_out differ in it.
            bounded = trees.where(size > 0, bounded, 0.0)
        # A client without examples has no scalars; among people it counts as none
        # drawn.
        if whose.unit == "client":
            weight = jnp.where(size > 0, weight, 0.0)
        return {
            "message": aggregator.encode(encode_key, session, place, bounded),
            "weight": weight,
            "scalars": jax.tree.map(
                lambda value: jnp.where(
                    size > 0, weight * value.astype(jnp.float32), 0.0
                ),
                scalars,
            ),
        }

    return jax.tree_util.Partial(of_client, arrays)


def fold(aggregator: base.SecureAggregator) -> lanes.Fold:
    """The fold of reports: the aggregator adds messages; all else is summed."""

    def others(tree: Any) -> Any:
        return {name: tree[name] for name in tree if name != "message"}

    def empty(like: Any) -> Any:
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), others(like)
        )
        return zeros | {"message": aggregator.empty(like["message"])}

    def absorb(total: Any, reports: Any, places: Array, present: Array) -> Any:
        heard = trees.where(present, others(reports), 0.0)
        added = jax.tree.map(
            lambda sofar, new: sofar + jnp.sum(new, axis=0), others(total), heard
        )
        message = aggregator.absorb(
            total["message"], reports["message"], places, present
        )
        return added | {"message": message}

    def merge(totals: Any) -> Any:
        added = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), others(totals))
        return added | {"message": aggregator.merge(totals["message"])}

    return lanes.Fold(empty, absorb, merge)
