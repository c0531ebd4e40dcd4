"""Contributions that a privacy mechanism bounds: updates, or the summands of updates.

A hospital's update may be the sum of one clipped gradient for each of its patients. The
mechanism then protects patients, by noise on the sum of all hospitals' sums, and
rounding, bounds and denominators count patients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PyTree

from ppml_lab import base, checks


class Contributions(NamedTuple):
    """The contributors to a round's sum, and how their contributions are bounded."""

    unit: str
    """The contributor: "client" where updates are contributions, "example" where
    updates are sums of contributions."""
    sampler: base.ClientSampler
    """Draws the contributors, among those of all clients together."""
    most: int
    """Largest number of contributions in one update."""
    trainer: base.ClientTrainer
    """The trainer whose contributions these are, without a mechanism."""
    bounded: Callable[[base.PrivacyMechanism, PyTree], base.ClientTrainer]
    """`(mechanism, mechanism_state)`: the trainer whose updates are sums of
    contributions clipped by the mechanism; where clients contribute, updates are yet to
    be clipped."""
    check: Callable[[base.Clients], None] = lambda clients: None
    """`(clients)`: raises ValueError unless they have these contributors; on the host.
    """


def of_trainer(
    trainer: base.ClientTrainer, sampler: base.ClientSampler
) -> Contributions:
    """The contributions of clients that `sampler` draws and that train by `trainer`.

    Raises:
      ValueError: For a trainer that wraps one whose contributions are bounded.
    """
    found = trainer.contributions
    if found is None:
        return Contributions(
            "client", sampler, 1, trainer, lambda mechanism, state: trainer
        )
    if trainer._replace(contributions=None) != found.trainer:
        raise ValueError(
            "this trainer wraps federated.example_gradients, whose gradients are "
            "bounded, and its changed sums are not; use federated.example_gradients "
            "unwrapped"
        )
    return found


def clip(
    whose: Contributions,
    mechanism: base.PrivacyMechanism,
    key: base.Key,
    state: PyTree,
    update: PyTree,
) -> PyTree:
    """A client's update to send: clipped, or unchanged if a sum of clipped ones."""
    if whose.unit == "client":
        return mechanism.clip(key, state, update)
    return update


def message_bound(
    whose: Contributions, mechanism: base.PrivacyMechanism, state: PyTree
) -> Any:
    """The largest absolute coordinate that leaves a client."""
    return mechanism.message_bound(state) * whose.most


def sensitivity(
    whose: Contributions,
    mechanism: base.PrivacyMechanism,
    state: PyTree,
    aggregator: base.SecureAggregator,
    session: PyTree,
    dimension: int,
) -> Any:
    """The L2 distance that one contribution moves the sum.

    A client's update appears as a whole and is rounded. A contribution to an update
    changes an update that is rounded with it and without it.
    """
    norm = mechanism.norm_bound(state)
    if whose.unit == "client" or aggregator.change is None:
        return aggregator.sensitivity(session, norm, dimension)
    # A float32 sum errs by half of 2^-23 of itself, with and without the contribution.
    return aggregator.change(session, norm * (1 + whose.most * 2.0**-23), dimension)


def check(
    whose: Contributions,
    sampler: base.ClientSampler,
    mechanism: base.PrivacyMechanism,
    aggregator: base.SecureAggregator,
    weighting: str,
) -> None:
    """Raises ValueError unless a mechanism protects the contributors, and sums of
    contributions meet their requirements.
    """
    unit = mechanism.privacy_unit
    if unit not in (None, whose.unit):
        bounds = {
            "client": "averaging clips whole updates, which protects clients",
            "example": "this trainer sums bounded gradients, which protects examples",
        }[whose.unit]
        cure = f'build the mechanism with privacy_unit="{whose.unit}"'
        if whose.unit == "client":
            cure += ", or take federated.example_gradients as trainer"
        raise ValueError(f"{bounds}, not '{unit}'; {cure}")
    if whose.unit == "client":
        return
    _check_everyone(sampler)
    if weighting != "uniform":
        raise ValueError(
            f"weighting '{weighting}' weighs clients, but this trainer's sums count "
            "every example once; use weighting='uniform'"
        )
    if aggregator.ends_in != "sum":
        raise ValueError(
            "this aggregator estimates the mean of clients, but this trainer's updates "
            "are sums over clients of any size; take an aggregator that ends in a sum"
        )
    if unit is None:
        return
    if mechanism.trust != "central":
        raise ValueError(
            f"noise of trust '{mechanism.trust}' hides a client's whole update, but "
            "this trainer needs noise on the sum; take a mechanism such as dp.gaussian"
        )
    if aggregator.change is None:
        raise ValueError(
            "this aggregator does not state how far one person moves a client's part "
            "of the sum; give the aggregator a `change`, or take smpc.clear or a "
            "secure sum of smpc"
        )


def _check_everyone(sampler: base.ClientSampler) -> None:
    expected = sampler.expected_cohort
    if not checks.is_traced(expected) and float(expected) == sampler.population:
        return
    shown = "a traced number" if checks.is_traced(expected) else f"{expected:g}"
    raise ValueError(
        "this trainer draws people, so that every client has to take part, but the "
        f"sampler draws {shown} of {sampler.population} clients; use federated.everyone"
    )
