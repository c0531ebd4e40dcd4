"""Gaussian noise that follows a schedule over a run's releases.

Yu, Liu, Pu, Gursoy, Truex, "Differentially Private Model Publishing for Deep Learning",
IEEE S&P 2019, decays it, so that late gradients, which are small, are less noisy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import base
from ppml_lab.dp import mechanisms


def scheduled_gaussian(
    clip_norm: Any,
    noise_schedule: Callable[[Int[Array, ""]], Any],
    *,
    privacy_unit: str = "client",
    rule: str = "flat",
) -> base.PrivacyMechanism:
    """`gaussian`, whose noise multiplier is a function of the number of releases made.

    **Guarantee:** as `gaussian`'s, release by release; the event composes them. The
    schedule must not look at the data.

    Args:
      clip_norm: L2 bound, finite.
      noise_schedule: From the number of earlier releases (int32, from 0) to the noise
        multiplier; any optax schedule.
      privacy_unit: Whose contribution is clipped, "client" or "example".
      rule: As in `gaussian`.

    Raises:
      ValueError: For a clip_norm that is not a bound, an unknown rule, or a first noise
        multiplier that is not a scale; `event` for any later one.
    """
    first = noise_schedule(jnp.int32(0))
    plain = mechanisms.gaussian(clip_norm, first, privacy_unit=privacy_unit, rule=rule)

    def privatize(
        key: base.Key, state: Array, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, Array]:
        noise = noise_schedule(state)
        return mechanisms.add_noise(key, total, noise, sensitivity), state + 1

    def event(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        noises = jax.vmap(noise_schedule)(jnp.arange(num_releases))
        releases = Counter(map(float, noises))
        return mechanisms.gaussian_event(sampler, releases, privacy_unit)

    return plain._replace(
        init=lambda key, like: jnp.int32(0),
        privatize=privatize,
        noise_multiplier=lambda state: noise_schedule(state),
        event=event,
    )
