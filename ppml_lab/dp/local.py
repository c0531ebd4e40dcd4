"""Local differential privacy: a client's messages are private when they leave it.

The neighbouring relation of all mechanisms here is "replace_one": the client's data
become any others. The server sees who takes part, so sampling amplifies nothing, but a
client pays only for the rounds in which it takes part (`events.participating`). The
accounting holds against the server and against whoever sees what the server makes of
the messages. The noise comes from generators fit for research, not cryptographic, and a
malicious client can send anything.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, guards, pairs, random, trees
from ppml_lab.dp import clipping, looks, mechanisms, own_noise

_MOST_EPSILON = 700.0

_LEAST_EPSILON = 1e-5
"""The epsilon where float32's addition to the probability of a lie takes a tenth of the
answers' mean."""


@arguments.checked
@guards.returned()
def local_gaussian(clip_norm: Any, noise_multiplier: Any) -> base.PrivacyMechanism:
    """Clips each update and adds Gaussian noise to it on the client.

    **Guarantee:** a client's message hides which update the client had: any two clipped
    updates differ by at most `2 * clip_norm`, and the client's own noise has standard
    deviation `noise_multiplier * clip_norm` on every coordinate, so nobody else is
    trusted.

    Args:
      clip_norm: L2 bound; `inf` only without noise.
      noise_multiplier: Standard deviation of each client's noise over `clip_norm`.

    Raises:
      ValueError: For a clip_norm or noise_multiplier that is not a bound or a scale.
    """
    mechanisms.check_noise(clip_norm, noise_multiplier)

    def clip(key: base.Key, state: PyTree, update: PyTree) -> PyTree:
        clipped, _ = clipping.clip_by_global_norm(update, clip_norm)
        return mechanisms.add_noise(key, clipped, noise_multiplier, clip_norm)

    def shrinks(state: PyTree, update: PyTree) -> jax.Array:
        return looks.scaled_down(clipping.flat(clip_norm), update)

    def event() -> Any:
        from ppml_lab.dp import events

        return events.gaussian(float(noise_multiplier) / 2.0)

    return _at_the_client(looks.WatchedClip(clip, shrinks), clip_norm, event)


@arguments.checked
@guards.returned()
def local_laplace(clip_norm: Any, noise_multiplier: Any) -> base.PrivacyMechanism:
    """Clips each update in L1 norm and adds Laplace noise to it on the client.

    Dwork, McSherry, Nissim, Smith, "Calibrating Noise to Sensitivity in Private Data
    Analysis", TCC 2006.

    **Guarantee:** any two clipped updates differ by at most `2 * clip_norm` in L1 norm,
    and every coordinate gets Laplace noise of scale `noise_multiplier * clip_norm`, so
    each participation is `2 / noise_multiplier`-DP.

    Args:
      clip_norm: L1 bound, finite; it bounds the L2 norm too.
      noise_multiplier: Scale of each client's noise over `clip_norm`, positive.

    Raises:
      ValueError: For a clip_norm or noise_multiplier that is not positive and finite.
    """
    checks.positive("clip_norm", clip_norm)
    checks.positive("noise_multiplier", noise_multiplier)
    mechanisms.check_noise(clip_norm, noise_multiplier)

    def factor_of(update: PyTree) -> jax.Array:
        # Short floats would overflow.
        sizes = [jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(update)]
        norm = sum(sizes[1:], sizes[0])
        factor = jnp.where(norm > clip_norm, clip_norm / norm, 1.0)
        return jnp.where(jnp.isfinite(norm), factor, 0.0)

    def clip(key: base.Key, state: PyTree, update: PyTree) -> PyTree:
        update = trees.widened(update)
        factor = factor_of(update)

        def noisy(leaf_key: base.Key, leaf: jax.Array) -> jax.Array:
            # Not a product alone: 0 times NaN is NaN.
            clipped = jnp.where(factor > 0, leaf * factor, 0)
            noise = random.laplace(random.seed(leaf_key), leaf.size)
            noise = noise.reshape(leaf.shape).astype(leaf.dtype)
            return clipped + noise_multiplier * clip_norm * noise

        return jax.tree.map(noisy, trees.leaf_keys(key, update), update)

    def shrinks(state: PyTree, update: PyTree) -> jax.Array:
        return factor_of(trees.widened(update)) < 1

    def event() -> Any:
        from ppml_lab.dp import events

        return events.laplace(float(noise_multiplier) / 2.0)

    return _at_the_client(looks.WatchedClip(clip, shrinks), clip_norm, event)


@arguments.checked
@guards.returned()
def randomised_response(max_abs: Any, target_epsilon: Any) -> base.PrivacyMechanism:
    """Each client sends the sign of one random coordinate, or the opposite one.

    The coordinate's value, bounded by `max_abs`, is first rounded to `+-max_abs` at
    random without bias, then its sign goes through Warner's randomised response; the
    message is scaled so that its mean is the bounded update. Duchi, Jordan, Wainwright,
    "Minimax Optimal Procedures for Locally Private Estimation", JASA 2018, for one
    coordinate (Warner, "Randomized Response", JASA 1965).

    **Guarantee:** each participation is `target_epsilon`-DP: the coordinate is drawn
    without looking at the data, and the sign sent is the true one with probability
    `e^epsilon / (1 + e^epsilon)`. An update that is not finite counts as zero.

    Args:
      max_abs: Bound of every coordinate, positive.
      target_epsilon: The epsilon of one participation, at least 1e-5; above 700 the
        mechanism counts as not private.

    Raises:
      ValueError: For numbers that are not positive and finite, or too small or large
        for float32.
    """
    checks.positive("max_abs", max_abs)
    checks.within("max_abs", max_abs, *mechanisms.NORMS)
    checks.positive("target_epsilon", target_epsilon)
    checks.within("target_epsilon", target_epsilon, _LEAST_EPSILON, math.inf)

    def loudness(dimension: int) -> Any:
        return dimension * max_abs / jnp.tanh(jnp.float32(target_epsilon) / 2)

    def clip(key: base.Key, state: PyTree, update: PyTree) -> PyTree:
        vector, cut = trees.as_vector(update)
        place_key, round_key, answer_key = jax.random.split(key, 3)
        place = jax.random.randint(place_key, (), 0, vector.size)
        finite = jnp.all(jnp.isfinite(vector))
        value = jnp.where(finite, jnp.clip(vector[place] / max_abs, -1, 1), 0)
        positive = random.coins(random.seed(round_key), (1 + value) / 2)
        lies = random.coins(random.seed(answer_key), _chance_of_lies(target_epsilon))
        sign = jnp.where(positive == lies, -1.0, 1.0)
        answer = sign * loudness(vector.size)
        return cut(jnp.zeros_like(vector).at[place].set(answer))

    def shrinks(state: PyTree, update: PyTree) -> jax.Array:
        vector, _ = trees.as_vector(update)
        # NaN is not within the bound, either.
        return ~jnp.all(jnp.abs(vector) <= max_abs)

    def event() -> Any:
        import dp_accounting

        from ppml_lab.dp import events

        # The probability of a lie is too small for a float.
        if target_epsilon > _MOST_EPSILON:
            return dp_accounting.NonPrivateDpEvent()
        shrunk = math.exp(-float(target_epsilon))
        return events.randomised_response(2 * shrunk / (1 + shrunk), 2)

    made = _at_the_client(looks.WatchedClip(clip, shrinks), float("inf"), event)
    return made._replace(
        # A message is proportional to the number of coordinates of `like`.
        init=lambda key, like: jnp.float32(
            loudness(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like)))
        ),
        message_bound=guards.called(
            lambda state: state, state=guards.scalar(np.floating)
        ),
    )


def _chance_of_lies(target_epsilon: Any) -> jax.Array:
    """The probability of a lie: `1 / (1 + e^epsilon)` plus a margin for rounding.

    The margin covers what float32 loses of this number and of epsilon. The probability
    is positive at any epsilon, and never above one half.
    """
    epsilon = jnp.float32(target_epsilon)
    margin = 1 + (epsilon + 4) * np.float32(2.0**-23)
    lies = jax.nn.sigmoid(-epsilon) * margin
    return jnp.clip(lies, np.float32(2.0**-64), 0.5)


def _at_the_client(clip: Any, norm_bound: Any, event: Any) -> base.PrivacyMechanism:
    """A mechanism that does nothing to the sum of updates."""

    @arguments.checked
    def releases(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        checks.at_least("num_releases", num_releases, 1)
        composed = own_noise.over_rounds(event(), sampler, num_releases)
        return base.PrivacyEvent(composed, "replace_one", "client", sampler.population)

    return base.PrivacyMechanism(
        init=lambda key, like: (),
        clip=clip,
        clip_examples=mechanisms.clips_no_examples,
        # Noise has no bound.
        message_bound=lambda state: float("inf"),
        norm_bound=lambda state: norm_bound,
        privatize=lambda key, state, total, sensitivity: (pairs.value(total), state),
        noise_multiplier=None,
        report=lambda state: {},
        event=releases,
        privacy_unit="client",
        trust="local",
    )
