"""Samplers of the clients of a round, or of the examples of a step, as parts."""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp
from jax.sharding import Mesh

from ppml_lab import base, checks, federated
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class Sampler(Protocol):
    """A part that builds a sampler of a population."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """Builds a sampler of `population` members.

        `mesh` has the devices that own members (`data.shard`).
        """
        ...


@part
class Everyone:
    """Everybody takes part in every round: sampling amplifies nothing."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.everyone`."""
        return federated.everyone(population)


@part
class Poisson:
    """Poisson sampling: each member is drawn by a coin of its own, so that
    `expected_cohort` members (a number, not a share) are expected.
    """

    expected_cohort: float = 10.0
    """Expected number of participants per round, at least 1."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.poisson`."""
        if not 1 <= self.expected_cohort <= population:
            share = self.expected_cohort * population
            cure = (
                f"; for that share of the population, give {share:g}"
                if 0 < self.expected_cohort < 1
                else ""
            )
            raise ValueError(
                f"expected_cohort {self.expected_cohort:g} must be a number of members "
                f"from 1 to the population {population}{cure}"
            )
        return federated.poisson(population, self.expected_cohort / population, mesh)


@part
class MinSeparation:
    """Everybody takes part in turn, in a random order that is fixed for the run:
    sampling amplifies nothing.
    """

    cohort_size: int = 10
    """Number of participants per round."""
    separation: int | None = None
    """The separation that is needed: each member takes part at most once in this many
    rounds. A run always keeps the largest separation that population and cohort allow;
    None needs nothing."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.min_separation`."""
        return federated.min_separation(population, self.cohort_size, self.separation)


@part
class FixedSize:
    """Exactly `cohort_size` members, drawn uniformly without replacement."""

    cohort_size: int = 10
    """Number of participants per round; with a `share`, the length of the cohort's
    arrays."""
    share: Traced | None = None
    """Share of `cohort_size` that a round draws: one program serves cohorts of any
    size. Protocols that are built for the whole cohort (masks in full, LightSecAgg)
    take None alone."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.fixed_size`."""
        return federated.fixed_size(population, self._drawn(), self.cohort_size)

    def _drawn(self) -> Any:
        if self.share is None:
            return self.cohort_size
        checks.probability("share", self.share, allow_one=True)
        if checks.is_traced(self.share):
            return jnp.round(self.cohort_size * self.share)
        drawn = self.cohort_size * self.share
        if abs(drawn - round(drawn)) > 1e-6:
            raise ValueError(
                f"share {self.share:g} of cohort_size {self.cohort_size} is {drawn:g}, "
                "which is not a whole number; change one of the two"
            )
        return round(drawn)
