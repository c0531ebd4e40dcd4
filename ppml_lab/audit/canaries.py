"""Canaries: records put into training to see whether it tells that they were there."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from ppml_lab import base


def only(
    sampler: base.ClientSampler, present: Bool[Array, " population"]
) -> base.ClientSampler:
    """The sampler of the neighbouring data set that has only the `present` members.

    For samplers that draw members independently this is exactly sampling from the
    smaller data set, with the same public expected cohort. Under "replace_one" nobody
    may be absent, and `present` has to be all true.
    """

    def sample(key: base.Key) -> base.Cohort:
        cohort = sampler.sample(key)
        return cohort._replace(
            weights=jnp.where(present[cohort.indices], cohort.weights, 0.0)
        )

    return sampler._replace(sample=sample)
