"""A clip norm that follows a quantile of the contributions' norms, privately.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive
Clipping", NeurIPS 2021.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import base, checks, pairs
from ppml_lab.dp import clipping, mechanisms
from ppml_lab.dp.per_example import PerExample


def adaptive_gaussian(
    initial_clip_norm: Any,
    noise_multiplier: Any,
    expected_contributions: float,
    *,
    target_quantile: float = 0.5,
    clip_learning_rate: float = 0.2,
    count_weight: float = 0.1,
    privacy_unit: str = "client",
) -> base.PrivacyMechanism:
    """`gaussian`, whose clip norm moves towards a quantile of the norms.

    Beside its clipped contribution everyone sends whether it was within the clip norm,
    as `+-count_weight * clip_norm`. So the whole message has L2 norm at most
    `clip_norm * sqrt(1 + count_weight^2)`, one Gaussian mechanism releases it, and what
    the count costs is in the accounting without a second event: the update's noise is
    `sqrt(1 + count_weight^2)` times that of a fixed clip norm, and the count's has
    standard deviation `noise_multiplier * sqrt(1 + count_weight^2) / (2 count_weight)`
    contributions. Each round multiplies the clip norm by
    `exp(-clip_learning_rate * (fraction within - target_quantile))`.

    **Guarantee:** as `gaussian`'s, for update and count together; the clip norm in the
    state is made of noisy counts and public numbers. The fraction divides by the
    expected number of contributions, which is public. A contribution that is not
    finite is zero throughout, in the count too.

    Args:
      initial_clip_norm: The first round's.
      noise_multiplier: Standard deviation of the noise over the sensitivity of the
        message.
      expected_contributions: Clients (or examples) per round, the sampler's
        `expected_cohort`.
      target_quantile: The fraction of contributions that are to be within the clip
        norm, in [0, 1].
      clip_learning_rate: Of the clip norm's logarithm, positive.
      count_weight: How loudly the count is sent, positive.
      privacy_unit: Whose contribution is clipped, "client" or "example".

    Raises:
      ValueError: For numbers outside these ranges, or an infinite clip norm.
    """
    checks.positive("initial_clip_norm", initial_clip_norm)
    checks.positive("expected_contributions", expected_contributions)
    checks.probability("target_quantile", target_quantile, allow_one=True)
    checks.positive("clip_learning_rate", clip_learning_rate)
    checks.positive("count_weight", count_weight)
    plain = mechanisms.gaussian(
        initial_clip_norm, noise_multiplier, privacy_unit=privacy_unit
    )

    def within(clip_norm: Array, squared_norms: PyTree, factors: PyTree) -> Array:
        norm = clipping.total_norm(squared_norms)
        vote = jnp.where(norm <= clip_norm, 1.0, -1.0) * count_weight * clip_norm
        return jnp.where(jax.tree.leaves(factors)[0] > 0, vote, 0.0)

    def clip(key: base.Key, state: Array, update: PyTree) -> dict[str, PyTree]:
        del key
        norms = clipping.squared_norms(update)
        factors = clipping.flat(state).factors(norms)
        return {
            "update": clipping.scale(update, factors),
            "within": within(state, norms, factors),
        }

    def clip_examples(
        state: Array, gradients: PerExample, weights: Float[Array, " n"]
    ) -> pairs.Pair:
        norms = gradients.squared_norms
        factors = clipping.flat(state).factors(norms)
        votes = within(state, norms, factors)
        return pairs.together(
            {
                "update": clipping.scaled_sum(gradients, factors, weights),
                "within": pairs.sum_over(jnp.where(weights > 0, votes, 0.0)),
            }
        )

    def privatize(
        key: base.Key, state: Array, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, Array]:
        noisy = mechanisms.add_noise(key, total, noise_multiplier, sensitivity)
        votes = noisy["within"] / (count_weight * state)
        fraction = (votes / expected_contributions + 1) / 2
        step = clip_learning_rate * (fraction - target_quantile)
        return noisy["update"], state * jnp.exp(-step)

    return plain._replace(
        init=lambda key, like: jnp.float32(initial_clip_norm),
        clip=clip,
        clip_examples=clip_examples,
        message_bound=lambda state: state * max(1.0, count_weight),
        norm_bound=lambda state: state * jnp.sqrt(1 + jnp.float32(count_weight) ** 2),
        privatize=privatize,
        report=lambda state: {"clip_norm": state},
        expected_contributions=expected_contributions,
    )
