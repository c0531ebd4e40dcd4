"""Custom mechanisms: clip each contribution, add noise to their sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, guards, pairs
from ppml_lab.dp import clipping, looks
from ppml_lab.dp.given import check_event


@guards.returned()
@arguments.checked
def additive(
    clip: clipping.Clipping | Callable[[PyTree], PyTree],
    noise: Callable[[base.Key, PyTree, Any], PyTree],
    event: Callable[[float], Any],
    *,
    norm_bound: Any,
    privacy_unit: str = "client",
) -> base.PrivacyMechanism:
    """Clips each contribution and adds custom noise to their sum (central DP).

    **Guarantee:** what `event` says, if `clip` returns no contribution with an L2 norm
    above `norm_bound`, whatever its input, and `noise` draws the noise that `event`
    describes; `audit` has the probes that test both. Whoever computes the sum and adds
    the noise is trusted.

    Args:
      clip: `(update) -> update`, of bounded norm; zero for an update that is not
        finite. For examples it has to be one of `dp.clipping`.
      noise: `(key, like, sensitivity) -> noise` for every coordinate of the sum; `like`
        has the sum's shapes and types, and `sensitivity` is the most that adding or
        removing a contribution can change the sum in L2 norm.
      event: `(change) -> DpEvent` of one release in which everybody takes part, where
        neighbouring data sets differ by `change` times the sensitivity: 1 where one
        contribution is added or removed, 2 where it is replaced.
      norm_bound: The L2 norm that clipped contributions do not exceed.
      privacy_unit: Whose contribution is clipped, "client" or "example".

    Raises:
      ValueError: For a norm_bound that is not positive, an unknown privacy_unit, or an
        `event` that does not give a `DpEvent`.
    """
    checks.positive("norm_bound", norm_bound, allow_inf=True)
    checks.known("privacy_unit", privacy_unit, ("client", "example"))

    @arguments.checked
    def events_of(
        sampler: base.ClientSampler, num_releases: int, sums: base.Sums | None = None
    ) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        checks.at_least("num_releases", num_releases, 1)
        # Replacing a contribution moves the sum by up to twice the clip norm.
        replaces = sampler.neighboring_relation == "replace_one"
        one = event(2.0 if replaces else 1.0)
        check_event(one)
        # Noise is fresh in every round: a round costs nothing without taking part.
        paid = sampler.participation(num_releases).max_participations
        return base.PrivacyEvent(
            events.compose(sampler.amplify(one), paid),
            sampler.neighboring_relation,
            privacy_unit,
            sampler.population,
        )

    own: Any = clip
    if isinstance(own, clipping.Clipping):
        send = looks.WatchedClip(
            lambda key, state, update: clipping.clip(own, update),
            lambda state, update: looks.scaled_down(own, update),
        )
    else:

        def send(key: base.Key, state: PyTree, update: PyTree) -> PyTree:
            return own(update)

    def clip_examples(state: PyTree, gradients: Any, weights: Any) -> Any:
        if not isinstance(own, clipping.Clipping):
            raise ValueError(
                "clip takes one update, but examples are clipped in batches; give one "
                "of the rules of dp.clipping"
            )
        return clipping.clip_examples(own, gradients, weights)

    def privatize(
        key: base.Key, state: PyTree, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, PyTree]:
        pair = pairs.of(total)
        # Rounded to float32 once, noise included.
        drawn = noise(key, pair.high, sensitivity)
        _check_noise(drawn, pair.high)
        noisy = pairs.add(pair, drawn)
        return pairs.value(noisy), state

    return base.PrivacyMechanism(
        init=lambda key, like: (),
        clip=send,
        clip_examples=clip_examples,
        message_bound=lambda state: norm_bound,
        norm_bound=lambda state: norm_bound,
        privatize=privatize,
        noise_multiplier=None,
        report=lambda state: {},
        event=events_of,
        privacy_unit=privacy_unit,
        trust="central",
    )


def _check_noise(drawn: Any, like: PyTree) -> None:
    """Raises ValueError unless every coordinate has noise of its own.

    A single number would be added to all coordinates, and their differences would have
    no noise.
    """
    wanted, found = (
        [f"{leaf.dtype}{list(leaf.shape)}" for leaf in map(jnp.asarray, leaves)]
        for leaves in (jax.tree.leaves(like), jax.tree.leaves(drawn))
    )
    if jax.tree.structure(drawn) != jax.tree.structure(like) or wanted != found:
        raise ValueError(
            "noise must give one draw for every coordinate of `like`, in its tree, "
            f"shapes and types: {', '.join(wanted)}, got {', '.join(found) or drawn!r}"
        )
