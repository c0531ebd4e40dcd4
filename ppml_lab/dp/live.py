"""Epsilon inside the compiled round, for noise that is decided during the run."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ppml_lab import arguments, base, checks, guards
from ppml_lab.dp import cut, looks, rdp


class LiveState(NamedTuple):
    """A mechanism's state, and the cost of its releases so far.

    Attributes:
      inner: The mechanism's own state.
      spent: RDP of all releases so far at `rdp.ORDERS`, in nats.
      excess: The amount that rounding has added to `spent` (Kahan's compensated
        summation: plain float32 sums of 10,000 terms may be off by 1e-4, of a million
        by 1e-2).
      noise: The last release's noise multiplier.
      cost: RDP of a release with that noise.
      failure: The probability that something has failed (`events.failing`), or that a
        release was outside a neighbour's support (`dp.cut`).
    """

    inner: PyTree
    spent: Float[Array, " orders"]
    excess: Float[Array, " orders"]
    noise: Float[Array, ""]
    cost: Float[Array, " orders"]
    failure: Float[Array, ""]


@arguments.checked
@guards.returned(state=guards.one_of(LiveState, "`init` makes the first"))
def live(
    mechanism: base.PrivacyMechanism, sampler: base.ClientSampler, delta: float
) -> base.PrivacyMechanism:
    """`mechanism` that also reports, with each round, the epsilon spent so far.

    It accounts for every release as it is made; `live_delta=` of an algorithm does
    this. Noise may then depend on earlier releases, which no event can state
    beforehand, and may differ between the points of a compiled sweep.

    **Guarantee:** where noise is fixed beforehand, the epsilon reported is that of the
    releases so far, as `accounting.epsilon` states it by RDP, up to a relative 2e-4 in
    float32. Where noise depends on earlier releases, the RDP of each release adds up
    all the same, but epsilon is a guarantee only for a run that was to stop before
    exceeding a budget fixed beforehand, and did (a privacy filter: Feldman, Zrnic,
    "Individual Privacy Accounting via a Renyi Filter", NeurIPS 2021), and `event` is
    what `mechanism` says.

    Args:
      mechanism: Adds Gaussian noise to sums: a mechanism with a `noise_multiplier`.
      sampler: Draws the participants of every release; `poisson` or `everyone`.
      delta: The delta of the reported epsilon, in (0, 1).

    Raises:
      ValueError: For a mechanism or a sampler whose releases are not those of the
        sampled Gaussian, or a delta out of range.
    """
    checks.probability("delta", delta, allow_one=False)
    noise_of = mechanism.noise_multiplier
    if noise_of is None:
        raise ValueError(
            "mechanism must release a sum with Gaussian noise each time, as the live "
            "epsilon knows no other release; use accounting.epsilon of its event"
        )
    own_sampler, of_releases = sampler, mechanism.event
    sampling_prob, failure = _sampling(sampler)

    def init(key: base.Key, like: PyTree) -> LiveState:
        zero, none = jnp.zeros(rdp.ORDERS.shape), jnp.float32(math.nan)
        inner = mechanism.init(key, like)
        return LiveState(inner, zero, zero, none, zero, jnp.float32(0))

    def privatize(
        key: base.Key, state: LiveState, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, LiveState]:
        noise = jnp.asarray(noise_of(state.inner), jnp.float32)
        cost = jax.lax.cond(
            noise == state.noise,
            lambda noise: state.cost,
            lambda noise: rdp.subsampled_gaussian(sampling_prob, noise, rdp.ORDERS),
            noise,
        )
        more = cost - state.excess
        spent = state.spent + more
        # Without noise everything is infinite, and inf - inf is NaN.
        excess = jnp.where(jnp.isfinite(spent), (spent - state.spent) - more, 0.0)
        noisy, inner = mechanism.privatize(key, state.inner, total, sensitivity)
        outside = sampling_prob * jax.scipy.special.ndtr(1 / noise - cut.NORMAL_CUT)
        failed = state.failure + failure + outside
        return noisy, LiveState(inner, spent, excess, noise, cost, failed)

    def report(state: LiveState) -> dict[str, Array]:
        left = delta - state.failure
        epsilon = rdp.epsilon_of_rdp(state.spent, rdp.ORDERS, jnp.maximum(left, 0.0))
        return {**mechanism.report(state.inner), "epsilon": epsilon}

    @arguments.checked
    def event(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        if sampler is not own_sampler:
            raise ValueError(
                "sampler is not the sampler of the live epsilon; build `live` with the "
                "sampler that draws the participants"
            )
        return of_releases(sampler, num_releases, sums)

    return mechanism._replace(
        init=init,
        clip=looks.WatchedClip(
            lambda key, state, update: mechanism.clip(key, state.inner, update),
            lambda state, update: looks.clipped(mechanism, state.inner, update),
        ),
        clip_examples=lambda state, gradients, weights: mechanism.clip_examples(
            state.inner, gradients, weights
        ),
        message_bound=lambda state: mechanism.message_bound(state.inner),
        norm_bound=lambda state: mechanism.norm_bound(state.inner),
        privatize=privatize,
        noise_multiplier=lambda state: noise_of(state.inner),
        report=report,
        event=event,
    )


def _sampling(sampler: base.ClientSampler) -> tuple[float, float]:
    """The probability of taking part, and the probability of a failure, per release."""
    import dp_accounting

    from ppml_lab.dp import events

    release = dp_accounting.GaussianDpEvent(1.0)
    parts = events.flatten(sampler.amplify(release))
    failure = sum(
        part.probability
        for part in parts
        if isinstance(part, events.Failure) and part.reason == "apart"
    )
    (drawn,) = [part for part in parts if not isinstance(part, events.Failure)]
    # Zeroing a contribution moves the sum as far as removing it.
    if sampler.neighboring_relation != "replace_one":
        if isinstance(drawn, dp_accounting.PoissonSampledDpEvent):
            return drawn.sampling_probability, failure
        if drawn == release:
            return 1.0, failure
    raise ValueError(
        "sampler draws cohorts of fixed size, which have no formula for a live "
        "epsilon; use federated.poisson, or accounting.epsilon on the host"
    )
