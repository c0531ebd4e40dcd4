"""Privacy mechanisms, as parts."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, cast

from ppml_lab import base, checks, dp
from ppml_lab.dp import strategies
from ppml_lab.lab.parts.optimizers import Factor
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part

Rule = Literal["flat", "per_layer", "normalised"]
"""Rules for clipping contributions; see `dp.clipping`."""


class Mechanism(Protocol):
    """A part that builds a privacy mechanism.

    A part that can be calibrated also has `with_noise(z)`, which returns the part with
    another amount of noise: a larger z gives more noise.
    """

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """Builds the mechanism.

        Args:
          privacy_unit: Whose contributions are clipped, "client" or "example".
          expected: Number of contributions that a round expects, without drop-outs.
        """
        ...


def only_clients(name: str, privacy_unit: str) -> None:
    """Raises ValueError if examples are the privacy unit: local noise protects
    clients.
    """
    if privacy_unit != "client":
        raise ValueError(
            f"mechanism {name} adds a client's own noise, but this setup sums "
            "examples; use Gaussian, AdaptiveGaussian or ScheduledGaussian"
        )


class _Multiplied:
    """The base of mechanisms with a field `noise_multiplier`."""

    def with_noise(self, noise_multiplier: float) -> Any:
        """Returns a copy with this noise multiplier (the first one of a schedule)."""
        return dataclasses.replace(cast(Any, self), noise_multiplier=noise_multiplier)


@part
class NoPrivacy:
    """No mechanism: updates are not changed, and nothing is promised."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.no_privacy`."""
        return dp.no_privacy()


@part
class Gaussian(_Multiplied):
    """Clips contributions and adds Gaussian noise to their sum (central DP)."""

    clip_norm: Traced = 1.0
    """L2 bound of a contribution."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of the noise over the clip norm."""
    rule: Rule = "flat"
    """Rule for clipping contributions, see `dp.clipping`."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.gaussian`."""
        return dp.gaussian(
            self.clip_norm,
            self.noise_multiplier,
            privacy_unit=privacy_unit,
            rule=self.rule,
        )


@part
class AdaptiveGaussian(_Multiplied):
    """Gaussian noise, and a clip norm that moves towards a quantile of the norms."""

    initial_clip_norm: Traced = 1.0
    """L2 bound of the first round."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of the noise over the sensitivity."""
    target_quantile: Traced = 0.5
    """The share of contributions whose norm should be within the clip norm."""
    clip_learning_rate: Traced = 0.2
    """Learning rate of the logarithm of the clip norm."""
    count_weight: Traced = 0.1
    """Size of the part of a message that says whether its contribution was within the
    clip norm, over the clip norm."""
    min_clip_norm: Traced | None = None
    """Lower bound of the clip norm; None for the initial clip norm over 10,000."""
    max_clip_norm: Traced | None = None
    """Upper bound of the clip norm; None for 10,000 times the initial clip norm."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.adaptive_gaussian`."""
        return dp.adaptive_gaussian(
            self.initial_clip_norm,
            self.noise_multiplier,
            expected,
            target_quantile=self.target_quantile,
            clip_learning_rate=self.clip_learning_rate,
            count_weight=self.count_weight,
            min_clip_norm=self.min_clip_norm,
            max_clip_norm=self.max_clip_norm,
            privacy_unit=privacy_unit,
        )

    def accounted(self) -> Gaussian:
        """Returns a mechanism of the same privacy cost, which can be built with any
        noise that a calibration tries.
        """
        return Gaussian(self.initial_clip_norm, self.noise_multiplier)


@part
class ScheduledGaussian(_Multiplied):
    """Gaussian noise and a clip norm that follow schedules over a run's releases."""

    clip_norm: Traced = 1.0
    """L2 bound of the first release."""
    noise_multiplier: Traced = 0.0
    """Noise multiplier of the first release."""
    clip_schedule: Factor | None = None
    """Factor of the clip norm, release by release; None for 1."""
    noise_schedule: Factor | None = None
    """Factor of the noise multiplier, release by release; None for 1."""
    rule: Rule = "flat"
    """Rule for clipping contributions, see `dp.clipping`."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.scheduled_gaussian`."""
        return dp.scheduled_gaussian(
            _over(self.clip_norm, self.clip_schedule),
            _over(self.noise_multiplier, self.noise_schedule),
            privacy_unit=privacy_unit,
            rule=self.rule,
        )


def _over(first: Any, schedule: Any) -> Any:
    """Returns the number itself, or a function of the number of earlier releases."""
    if schedule is None:
        return first
    return lambda releases: first * schedule.at(releases)


@part
class CorrelatedGaussian(_Multiplied):
    """Gaussian noise; each round subtracts a part of the previous round's noise.

    This is lambda-CGD, for cohorts without amplification, such as MinSeparation's.
    """

    clip_norm: Traced = 1.0
    """L2 bound of a contribution, fixed for the whole run."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of a round's fresh noise over the clip norm."""
    subtracted: Traced = 0.9
    """The part of the noise that the next round subtracts, below 1: a larger part
    cancels more noise, and costs more privacy."""
    rule: Rule = "flat"
    """Rule for clipping contributions, see `dp.clipping`."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.correlated_gaussian`."""
        return dp.correlated_gaussian(
            self.clip_norm,
            self.noise_multiplier,
            self.subtracted,
            privacy_unit=privacy_unit,
            rule=self.rule,
        )


@part
class BandedGaussian(_Multiplied):
    """Gaussian noise; rounds subtract earlier noise by the banded inverse square
    root.
    """

    clip_norm: Traced = 1.0
    """L2 bound of a contribution, fixed for the whole run."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of a round's fresh noise over the clip norm."""
    bands: int = 4
    """Number of fresh noises in a round's noise, its own among them; at least 2. A
    round draws all of them again."""
    rule: Rule = "flat"
    """Rule for clipping contributions, see `dp.clipping`."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.correlated_gaussian`."""
        checks.at_least("bands", self.bands, 2)
        return dp.correlated_gaussian(
            self.clip_norm,
            self.noise_multiplier,
            strategies.square_root(self.bands),
            privacy_unit=privacy_unit,
            rule=self.rule,
        )


@part
class LocalGaussian(_Multiplied):
    """Each client clips its update and adds Gaussian noise itself (local DP)."""

    clip_norm: Traced = 1.0
    """L2 bound of an update."""
    noise_multiplier: Traced = 0.0
    """Standard deviation of each client's noise over the clip norm."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.local_gaussian`."""
        only_clients("LocalGaussian", privacy_unit)
        return dp.local_gaussian(self.clip_norm, self.noise_multiplier)


@part
class LocalLaplace(_Multiplied):
    """Each client clips its update in L1 norm and adds Laplace noise itself."""

    clip_norm: Traced = 1.0
    """L1 bound of an update."""
    noise_multiplier: Traced = 1.0
    """Scale of each client's noise over the clip norm."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.local_laplace`."""
        only_clients("LocalLaplace", privacy_unit)
        return dp.local_laplace(self.clip_norm, self.noise_multiplier)


@part
class RandomisedResponse:
    """Each client sends the sign of one random coordinate, or the opposite one."""

    max_abs: Traced = 1.0
    """Bound of every coordinate."""
    epsilon: Traced = 1.0
    """Epsilon of one participation."""

    def build(self, privacy_unit: str, expected: Any) -> base.PrivacyMechanism:
        """See `dp.randomised_response`."""
        only_clients("RandomisedResponse", privacy_unit)
        return dp.randomised_response(self.max_abs, self.epsilon)

    def with_noise(self, noise: float) -> RandomisedResponse:
        """Returns a copy with epsilon 1 / noise, within what `dp.randomised_response`
        takes.

        Noise 0 gives an epsilon that counts as no privacy.
        """
        epsilon = min(1.0 / noise, 1e6) if noise else 1e6
        return dataclasses.replace(self, epsilon=max(epsilon, 1e-5))
