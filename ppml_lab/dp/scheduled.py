"""Gaussian noise, and clip norms, that follow a schedule over a run's releases.

Yu, Liu, Pu, Gursoy, Truex, "Differentially Private Model Publishing for Deep Learning",
IEEE S&P 2019, decay the noise, so that late gradients, which are small, are less noisy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, guards
from ppml_lab.dp import clipping, looks, mechanisms

Schedule: TypeAlias = Callable[[Int[Array, ""]], Any]
"""A function from the number of earlier releases (int32, from 0) to a value; any optax
schedule."""


@arguments.checked
@guards.returned(state=guards.scalar(np.integer))
def scheduled_gaussian(
    clip_norm: Schedule | Any,
    noise_schedule: Schedule | Any,
    *,
    privacy_unit: str = "client",
    rule: str = "flat",
) -> base.PrivacyMechanism:
    """`gaussian` with schedules for the clip norm and the noise multiplier.

    A schedule is a function of the number of releases made.

    **Guarantee:** as `gaussian`'s, release by release, each with its own clip norm and
    the noise that goes with it; the event composes the releases, and depends on the
    noise multipliers alone. The schedules must not look at the data.

    Args:
      clip_norm: L2 bound, finite: a number or a schedule.
      noise_schedule: The noise multiplier: a number or a schedule.
      privacy_unit: Whose contribution is clipped, "client" or "example".
      rule: As in `gaussian`.

    Raises:
      ValueError: For a first clip norm that is not a bound, an unknown rule, or a first
        noise multiplier that is not a scale; `event` raises for any later one.
    """
    norm_at, noise_at = _schedule(clip_norm), _schedule(noise_schedule)
    start = jnp.int32(0)
    checks.non_negative("noise_schedule: noise_multiplier", noise_at(start))
    plain = mechanisms.gaussian(
        norm_at(start), noise_at(start), privacy_unit=privacy_unit, rule=rule
    )

    def rule_at(state: Array) -> clipping.Clipping:
        return clipping.rule(rule, norm_at(state))

    def privatize(
        key: base.Key, state: Array, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, Array]:
        noise = noise_at(state)
        return mechanisms.add_noise(key, total, noise, sensitivity), state + 1

    @arguments.checked
    def event(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        checks.at_least("num_releases", num_releases, 1)
        numbers = jnp.arange(num_releases)
        noises = list(map(float, jax.vmap(noise_at)(numbers)))
        if callable(clip_norm):
            norms = map(float, jax.vmap(lambda n: clipping.whole(norm_at(n)))(numbers))
            for norm, noise in set(zip(norms, noises, strict=True)):
                mechanisms.check_noise(norm, noise)
        return mechanisms.gaussian_event(sampler, Counter(noises), privacy_unit)

    return plain._replace(
        init=lambda key, like: jnp.int32(0),
        clip=looks.WatchedClip(
            lambda key, state, update: clipping.clip(rule_at(state), update),
            lambda state, update: looks.scaled_down(rule_at(state), update),
        ),
        clip_examples=lambda state, gradients, weights: clipping.clip_examples(
            rule_at(state), gradients, weights
        ),
        message_bound=lambda state: rule_at(state).norm_bound,
        norm_bound=lambda state: rule_at(state).norm_bound,
        privatize=privatize,
        noise_multiplier=lambda state: noise_at(state),
        report=lambda state: (
            {"clip_norm": jnp.float32(clipping.whole(norm_at(state)))}
            if callable(clip_norm)
            else {}
        ),
        event=event,
    )


def _schedule(value: Schedule | Any) -> Schedule:
    return value if callable(value) else lambda number: value
