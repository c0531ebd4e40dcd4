"""A clip norm that follows a quantile of the contributions' norms, privately.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive
Clipping", NeurIPS 2021.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, guards, pairs
from ppml_lab.dp import clipping, looks, mechanisms
from ppml_lab.dp.per_example import PerExample

_SPAN = 1e4
"""The default factor by which the clip norm may leave its first value, up or down. At
the default rate it returns from there within 93 rounds."""

_COUNT_WEIGHTS = (1e-6, 1e6)


@arguments.checked
@guards.returned(state=guards.scalar(np.floating))
def adaptive_gaussian(
    initial_clip_norm: Any,
    noise_multiplier: Any,
    expected_contributions: Any,
    *,
    target_quantile: Any = 0.5,
    clip_learning_rate: Any = 0.2,
    count_weight: Any = 0.1,
    min_clip_norm: Any = None,
    max_clip_norm: Any = None,
    privacy_unit: str = "client",
) -> base.PrivacyMechanism:
    """`gaussian` with a clip norm that moves towards a quantile of the norms.

    Beside its clipped contribution everyone sends whether the contribution was within
    the clip norm, as `+-count_weight * clip_norm`. So the whole message has L2 norm at
    most `clip_norm * sqrt(1 + count_weight^2)`, one Gaussian mechanism releases it, and
    the accounting includes the cost of the count without a second event: the update's
    noise is `sqrt(1 + count_weight^2)` times that of a fixed clip norm, and the count's
    has standard deviation
    `noise_multiplier * sqrt(1 + count_weight^2) / (2 count_weight)` contributions. Each
    round multiplies the clip norm by
    `exp(-clip_learning_rate * (fraction within - target_quantile))`, where the noisy
    fraction is clamped to [-1, 2], and keeps the clip norm between `min_clip_norm` and
    `max_clip_norm`. So neither noise nor contributions that are zero for many rounds
    can take the clip norm out of float32's range, and it recovers from any value.

    The count is useful while its noise is small: where all norms differ by a factor e
    or so, the clip norm's logarithm wanders about the quantile by about
    `sqrt(clip_learning_rate)` times the noise of the fraction. Where this product, or
    the noise of one step, is above 1, the clip norm is noise, and building the
    mechanism is an error. A search for a noise multiplier meets such values: search
    with `gaussian`, whose event is the same.

    **Guarantee:** as `gaussian`'s, for update and count together; the clip norm in the
    state is made of noisy counts and public numbers. The fraction divides by the
    expected number of contributions, which is public. A contribution that is not
    finite is zero throughout, in the count too. The bounds of the clip norm must not be
    chosen by looking at the data.

    Args:
      initial_clip_norm: The clip norm of the first round, within its bounds.
      noise_multiplier: Standard deviation of the noise over the sensitivity of the
        message.
      expected_contributions: Clients (or examples) that are expected to report in a
        round: the sampler's `expected_cohort`, less those who drop out.
      target_quantile: The fraction of contributions that are to be within the clip
        norm, in [0, 1].
      clip_learning_rate: The learning rate of the clip norm's logarithm, positive.
      count_weight: The weight with which the count is sent, in [1e-6, 1e6].
      min_clip_norm: The least clip norm; by default the first divided by 10,000.
      max_clip_norm: The largest clip norm; by default 10,000 times the first.
      privacy_unit: Whose contribution is clipped, "client" or "example".

    Raises:
      ValueError: For numbers outside these ranges, a clip norm that is infinite or
        outside [1e-18, 1e18] (float32 cannot hold its square), bounds on the wrong side
        of the first clip norm, or noise that drowns the count.
    """
    checks.positive("initial_clip_norm", initial_clip_norm)
    checks.within("initial_clip_norm", initial_clip_norm, *mechanisms.NORMS)
    checks.positive("expected_contributions", expected_contributions)
    checks.probability("target_quantile", target_quantile, allow_one=True)
    checks.positive("clip_learning_rate", clip_learning_rate)
    checks.positive("count_weight", count_weight)
    checks.within("count_weight", count_weight, *_COUNT_WEIGHTS)
    plain = mechanisms.gaussian(
        initial_clip_norm, noise_multiplier, privacy_unit=privacy_unit
    )
    _check_count(
        noise_multiplier, count_weight, expected_contributions, clip_learning_rate
    )
    least, most = _bounds(initial_clip_norm, min_clip_norm, max_clip_norm)

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
        fraction = jnp.clip((votes / expected_contributions + 1) / 2, -1.0, 2.0)
        step = clip_learning_rate * (fraction - target_quantile)
        return noisy["update"], jnp.clip(state * jnp.exp(-step), least, most)

    return plain._replace(
        init=lambda key, like: jnp.clip(jnp.float32(initial_clip_norm), least, most),
        clip=looks.WatchedClip(
            clip, lambda state, update: looks.scaled_down(clipping.flat(state), update)
        ),
        clip_examples=clip_examples,
        message_bound=lambda state: state * jnp.maximum(1.0, count_weight),
        norm_bound=lambda state: state * jnp.sqrt(1 + jnp.float32(count_weight) ** 2),
        privatize=privatize,
        report=lambda state: {"clip_norm": state},
        expected_contributions=expected_contributions,
    )


def _bounds(initial: Any, least: Any, most: Any) -> tuple[Array, Array]:
    """The least and the largest clip norm, in float32."""
    smallest, largest = mechanisms.NORMS
    if least is None:
        least = jnp.maximum(jnp.float32(initial) / _SPAN, smallest)
    else:
        checks.positive("min_clip_norm", least)
        checks.within("min_clip_norm", least, smallest, initial)
    if most is None:
        most = jnp.minimum(jnp.float32(initial) * _SPAN, largest)
    else:
        checks.positive("max_clip_norm", most)
        checks.within("max_clip_norm", most, initial, largest)
    return jnp.float32(least), jnp.float32(most)


def _check_count(
    noise_multiplier: Any, count_weight: Any, contributions: Any, rate: Any
) -> None:
    """Raises ValueError where noise drowns the count; see `adaptive_gaussian`."""
    if any(
        map(checks.is_traced, (noise_multiplier, count_weight, contributions, rate))
    ):
        return
    numbers = (noise_multiplier, count_weight, contributions, rate)
    noise, weight, number, rate = map(float, numbers)
    stddev = noise * math.hypot(1, weight) / (2 * weight * number)
    wandering = stddev * max(rate, math.sqrt(rate))
    if wandering > 1:
        raise ValueError(
            f"noise_multiplier {noise:g} with count_weight {weight:g} and "
            f"expected_contributions {number:g} adds noise of standard deviation "
            f"{stddev:.3g} to the fraction of contributions within the clip norm, and "
            f"at clip_learning_rate {rate:g} this noise alone moves the clip norm; "
            f"take noise_multiplier {noise / wandering:.3g} at most, "
            f"expected_contributions {number * wandering:.3g} at least, a larger "
            "count_weight (up to about 1), or dp.gaussian"
        )
