"""Privacy mechanisms: clipping on the client, noise on the sum, the event of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, guards, pairs, random, trees
from ppml_lab.dp import clipping
from ppml_lab.dp.additive import additive

NORMS = (1e-18, 1e18)
"""The least and the largest norm whose squares float32 can hold."""

_FLOATS = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@guards.returned()
def no_privacy() -> base.PrivacyMechanism:
    """The mechanism that changes nothing and promises nothing."""

    @arguments.checked
    def event(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        import dp_accounting

        checks.at_least("num_releases", num_releases, 1)
        return base.PrivacyEvent(
            dp_accounting.NonPrivateDpEvent(),
            sampler.neighboring_relation,
            None,
            sampler.population,
        )

    return base.PrivacyMechanism(
        init=lambda key, like: (),
        clip=lambda key, state, update: update,
        clip_examples=clips_no_examples,
        message_bound=lambda state: float("inf"),
        norm_bound=lambda state: float("inf"),
        privatize=lambda key, state, total, sensitivity: (pairs.value(total), state),
        noise_multiplier=None,
        report=lambda state: {},
        event=event,
        privacy_unit=None,
        trust=None,
    )


@arguments.checked
@guards.returned()
def gaussian(
    clip_norm: Any,
    noise_multiplier: Any,
    *,
    privacy_unit: str = "client",
    rule: str = "flat",
) -> base.PrivacyMechanism:
    """Clips each contribution and adds Gaussian noise to their sum (central DP).

    Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (examples);
    McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR
    2018 (clients).

    **Guarantee:** every contribution has L2 norm at most `clip_norm` (for a mapping of
    norms, the root of the sum of their squares); the sum gets independent Gaussian
    noise of standard deviation `noise_multiplier * sensitivity` on every coordinate,
    whether or not anybody took part, where `sensitivity` is that norm plus what
    rounding in a secure sum can add. Whoever computes the sum and adds the noise is
    trusted. The noise comes from `ppml_lab.random` in float32: fit for research, not
    protected against a party that predicts the generator or exploits floating point
    (Mironov, CCS 2012).

    Args:
      clip_norm: L2 bound; `inf` only without noise. With rule "per_layer" also a
        mapping from layers to bounds of their own. For a norm that changes over a run
        take `scheduled_gaussian`.
      noise_multiplier: Standard deviation of the noise over the sensitivity when one
        contribution is added or removed.
      privacy_unit: Whose contribution is clipped, "client" or "example".
      rule: The clipping rule: "flat" (the whole contribution together), "per_layer" or
        "normalised"; see `dp.clipping`.

    Raises:
      ValueError: For a clip_norm or noise_multiplier that is not a bound or a scale, or
        that float32 cannot hold, or an unknown rule.
    """
    norm_bound = clipping.whole(clip_norm)
    check_noise(norm_bound, noise_multiplier)
    checks.known("privacy_unit", privacy_unit, ("client", "example"))

    def event(change: float) -> Any:
        from ppml_lab.dp import events

        return events.gaussian(float(noise_multiplier) / change)

    made = additive(
        clipping.rule(rule, clip_norm),
        lambda key, like, sensitivity: gaussian_noise(
            key, like, noise_multiplier, sensitivity
        ),
        event,
        norm_bound=norm_bound,
        privacy_unit=privacy_unit,
    )
    return made._replace(noise_multiplier=lambda state: noise_multiplier)


def gaussian_event(
    sampler: base.ClientSampler,
    releases: Mapping[float, int],
    privacy_unit: str,
) -> base.PrivacyEvent:
    """The event of Gaussian releases of sampled sums.

    `releases` has the number of releases with each noise multiplier, which is relative
    to what adding or removing a contribution can change. Everyone pays for as many
    rounds as the sampler's participation pattern allows.
    """
    from ppml_lab.dp import events

    # Replacing a contribution moves the sum by up to twice the clip norm.
    change = 2.0 if sampler.neighboring_relation == "replace_one" else 1.0
    parts = [
        events.compose(sampler.amplify(events.gaussian(noise / change)), count)
        for noise, count in _worst(sampler, releases).items()
    ]
    return base.PrivacyEvent(
        events.together(parts),
        sampler.neighboring_relation,
        privacy_unit,
        sampler.population,
    )


def _worst(
    sampler: base.ClientSampler, releases: Mapping[float, int]
) -> Mapping[float, int]:
    """The costliest releases, as many as any one contributor may take part in."""
    left = sampler.participation(sum(releases.values())).max_participations
    found: dict[float, int] = {}
    for noise in sorted(releases):
        if left > 0:
            found[noise] = min(left, releases[noise])
            left -= found[noise]
    return found


def clips_no_examples(state: PyTree, gradients: Any, weights: jax.Array) -> PyTree:
    """The `clip_examples` of mechanisms that protect clients only; always raises."""
    raise ValueError(
        'this mechanism does not clip examples; build it with privacy_unit="example"'
    )


def check_noise(clip_norm: Any, noise_multiplier: Any) -> None:
    """Raises ValueError unless these are a bound and a scale that go together."""
    for name, value in (
        ("clip_norm", clip_norm),
        ("noise_multiplier", noise_multiplier),
    ):
        if callable(value):
            raise ValueError(
                f"{name} must be a number, got {value!r}; a function of the number of "
                "releases goes to dp.scheduled_gaussian"
            )
    checks.positive("clip_norm", clip_norm, allow_inf=True)
    checks.non_negative("noise_multiplier", noise_multiplier)
    if not checks.is_traced(clip_norm) and clip_norm != float("inf"):
        checks.within("clip_norm", clip_norm, *_FLOATS)
    if not checks.is_traced(noise_multiplier) and noise_multiplier != 0:
        checks.within("noise_multiplier", noise_multiplier, *_FLOATS)
    if checks.is_traced(clip_norm) or checks.is_traced(noise_multiplier):
        return
    if clip_norm == float("inf") and noise_multiplier > 0:
        raise ValueError(
            f"noise_multiplier {noise_multiplier} needs a finite clip_norm, got inf"
        )
    stddev = float(clip_norm) * float(noise_multiplier)
    if noise_multiplier > 0 and not _FLOATS[0] <= stddev <= _FLOATS[1] / 16:
        raise ValueError(
            f"noise_multiplier {noise_multiplier} times clip_norm {clip_norm} is a "
            "noise stddev that float32 cannot hold; scale the updates, or choose less "
            "extreme values"
        )


def add_noise(
    key: base.Key, tree: PyTree, noise_multiplier: Any, sensitivity: Any
) -> PyTree:
    """Adds `gaussian_noise` to every coordinate of a sum.

    The sum, a tree or a `pairs.Pair` of trees, is rounded to float32 once, after the
    noise is added; sums in short floats get float32 noise and become float32.
    """
    total = pairs.of(tree)
    noise = gaussian_noise(key, total.high, noise_multiplier, sensitivity)
    return pairs.value(pairs.add(total, noise))


def gaussian_noise(
    key: base.Key, like: PyTree, noise_multiplier: Any, sensitivity: Any
) -> PyTree:
    """Independent Gaussian noise for every coordinate of `like`.

    Its standard deviation is `noise_multiplier * sensitivity`; noise is zero where the
    multiplier is 0, whatever the sensitivity.
    """

    def normal(leaf_key: base.Key, leaf: jax.Array) -> jax.Array:
        drawn = random.normal(random.seed(leaf_key), leaf.size).reshape(leaf.shape)
        return drawn.astype(leaf.dtype)

    unit = jax.tree.map(normal, trees.leaf_keys(key, like), like)
    return scaled(unit, noise_multiplier, sensitivity)


def scaled(unit: PyTree, noise_multiplier: Any, sensitivity: Any) -> PyTree:
    """Scales noise of standard deviation 1 to `noise_multiplier * sensitivity`."""
    # Without noise the sensitivity may be infinite, and 0 * inf is NaN.
    silent = jnp.asarray(noise_multiplier) == 0
    stddev = jnp.where(
        silent, 0.0, noise_multiplier * jnp.where(silent, 0, sensitivity)
    )
    return jax.tree.map(lambda leaf: stddev.astype(leaf.dtype) * leaf, unit)
