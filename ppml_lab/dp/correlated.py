"""Correlated Gaussian noise: later rounds subtract parts of earlier rounds' noise.

A model is the sum of many rounds, and correlated noise cancels in sums: at equal
epsilon it leaves less noise in the model than independent noise does.

lambda-CGD (arXiv:2601.22334) subtracts a part of the previous round's noise, a banded
inverse (arXiv:2505.12128) parts of several rounds' noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree, UInt32

from ppml_lab import arguments, base, checks, guards, pairs, random
from ppml_lab.dp import mechanisms, strategies

_COORDINATES = 2**36
"""More coordinates than any release has. The cost of the noise's cut (`dp.cut`) is that
of this many coordinates times the rounds of a run."""


class CorrelatedState(NamedTuple):
    """The seed of a run's noise, and the number of releases made so far.

    Attributes:
      seed: The seed of the run's noise. It reveals the noise of all past and later
        rounds.
      releases: The number of releases made so far.
    """

    seed: UInt32[Array, " 2"]
    releases: Int[Array, ""]


@arguments.checked
@guards.returned(state=guards.one_of(CorrelatedState, "`init` makes the first"))
def correlated_gaussian(
    clip_norm: Any,
    noise_multiplier: Any,
    subtracted: Any,
    *,
    privacy_unit: str = "client",
    rule: str = "flat",
) -> base.PrivacyMechanism:
    """Clips each contribution and adds correlated Gaussian noise to their sum.

    This is central DP. The noise of round t is `z_t - s_1 z_(t-1) - s_2 z_(t-2) - ...`
    for fresh noises z, each of standard deviation `noise_multiplier * sensitivity`. A
    single part lambda gives lambda-CGD; `dp.strategies.square_root` gives the parts of
    a banded inverse. No noise is stored: each round draws earlier noise again from the
    run's own seed, at the cost of one draw for each part. Nothing is gained where
    everybody takes part in every round: the last model then has no less noise than
    independent noise would leave.

    **Guarantee:** the run is one Gaussian release, of noise multiplier
    `noise_multiplier / s`, where s is the sensitivity of the strategy to one
    contributor in the rounds that the sampler's `participation` allows
    (`strategies.sensitivity`). The guarantee holds for a run of any length and for its
    first rounds alone, against whoever sees the models and knows who takes part when;
    whoever computes the sums and adds the noise is trusted. Clip norm and parts are
    fixed for the run. Sensitivities may differ from round to round, because secure sums
    round differently, but must not follow from the data: earlier noise is drawn again
    at the current round's scale, so that the releases over their scales are those of a
    constant scale. Whoever has the state, which checkpoints hold, can remove all noise.
    Numerically as `gaussian`.

    Args:
      clip_norm: As in `gaussian`.
      noise_multiplier: Standard deviation of fresh noise over the sensitivity when one
        contribution is added or removed.
      subtracted: The parts s_1, s_2, ... of the noise of the previous round, the round
        before that, and so on, that a round subtracts: a number or several, each at
        least 0 and below 1 together.
      privacy_unit: Whose contribution is clipped, "client" or "example".
      rule: As in `gaussian`.

    Raises:
      ValueError: As `gaussian`, and for invalid parts. When an algorithm is built, for
        a sampler that draws each cohort at random: noise that rounds share has no
        amplification by sampling, so it needs a sampler without amplification, such as
        `federated.everyone` and `federated.min_separation`.
    """
    parts = _parts(subtracted)
    plain = mechanisms.gaussian(
        clip_norm, noise_multiplier, privacy_unit=privacy_unit, rule=rule
    )

    def init(key: base.Key, like: PyTree) -> CorrelatedState:
        return CorrelatedState(random.seed(key), jnp.int32(0))

    def privatize(
        key: base.Key, state: CorrelatedState, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, CorrelatedState]:
        # Noise is drawn from the run's own seed: the key differs from round to round.
        pair = pairs.of(total)
        unit = _combined(state, pair.high, parts)
        noise = mechanisms.scaled(unit, noise_multiplier, sensitivity)
        after = state._replace(releases=state.releases + 1)
        return pairs.value(pairs.add(pair, noise)), after

    @arguments.checked
    def event(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        checks.at_least("num_releases", num_releases, 1)
        check_sampler(sampler)
        # The parts as compiled programs use them.
        taken = [
            float(np.float32(events.to_float("subtracted", part))) for part in parts
        ]
        moved = strategies.sensitivity(
            strategies.column(taken, num_releases), sampler.participation(num_releases)
        )
        change = 2.0 if sampler.neighboring_relation == "replace_one" else 1.0
        noise = events.to_float("noise_multiplier", noise_multiplier)
        release = events.gaussian(noise / (change * moved))
        return base.PrivacyEvent(
            events.on_coordinates(release, num_releases * _COORDINATES),
            sampler.neighboring_relation,
            privacy_unit,
            sampler.population,
        )

    return plain._replace(
        init=init,
        privatize=privatize,
        # Rounds are not independent Gaussian releases that compose.
        noise_multiplier=None,
        event=event,
        check_sampler=check_sampler,
    )


@arguments.checked
def check_sampler(sampler: base.ClientSampler) -> None:
    """Raises ValueError unless correlated noise can be accounted for a sampler.

    The sampler must state each member's own participation pattern, and must not
    amplify.
    """
    from ppml_lab.dp import events

    release = events.gaussian(1.0)
    unit = sampler.participation(1).unit
    if unit != "member" or sampler.amplify(release) != release:
        raise ValueError(
            "correlated noise has no amplification by sampling, but this sampler draws "
            "cohorts at random to amplify privacy; take a sampler that states when a "
            "member comes again (federated.min_separation or federated.everyone), or "
            "independent noise, such as dp.gaussian"
        )


def _parts(subtracted: Any) -> tuple[Any, ...]:
    """The parts as a tuple, checked unless they are traced."""
    several = isinstance(subtracted, Sequence) or getattr(subtracted, "ndim", 0) == 1
    parts = tuple(subtracted) if several else (subtracted,)
    if not parts:
        raise ValueError(
            "subtracted is empty; give at least one number, or take dp.gaussian"
        )
    for part in parts:
        checks.non_negative("subtracted", part)
    if any(map(checks.is_traced, parts)):
        return parts
    if not sum(map(float, parts)) < 1:
        raise ValueError(
            f"subtracted must sum to less than 1, got {subtracted}; otherwise noise "
            "does not fade from one round to the next"
        )
    return parts


def _combined(state: CorrelatedState, like: PyTree, parts: tuple[Any, ...]) -> PyTree:
    """A round's noise, combined from fresh noises of standard deviation 1."""
    weights = jnp.stack([jnp.float32(1), *(-jnp.float32(part) for part in parts)])
    leaves, structure = jax.tree.flatten(like)

    def fresh(release: Array, place: int) -> Array:
        own = random.child(state.seed, release, place)
        return random.normal(own, leaves[place].size).reshape(leaves[place].shape)

    def add(ago: Any, total: list[Array]) -> list[Array]:
        release = state.releases - ago
        # There is no noise before the first round.
        weight = jnp.where(release >= 0, weights[ago], 0.0)
        return [
            sofar + weight * fresh(release, place) for place, sofar in enumerate(total)
        ]

    nothing = [jnp.zeros(leaf.shape, jnp.float32) for leaf in leaves]
    # One copy of the generator is compiled, whatever the number of parts.
    noises = jax.lax.fori_loop(0, len(parts) + 1, add, nothing)
    return jax.tree.unflatten(
        structure,
        [noise.astype(leaf.dtype) for noise, leaf in zip(noises, leaves, strict=True)],
    )
