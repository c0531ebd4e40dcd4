"""Who takes part in a round (or whose examples in a step), as parts."""

from __future__ import annotations

from typing import Any, Protocol

import jax.numpy as jnp
from jax.sharding import Mesh

from ppml_lab import base, checks, federated
from ppml_lab.lab.tree.fields import Traced
from ppml_lab.lab.tree.part import part


class Sampler(Protocol):
    """A part that makes a sampler of a population."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """Draws from so many; `mesh` is of devices that own members (`data.shard`)."""
        ...


@part
class Everyone:
    """Everybody, in every round: nothing is amplified."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.everyone`."""
        return federated.everyone(population)


@part
class Poisson:
    """Each member by a coin of its own."""

    expected_cohort: float = 10.0
    """How many take part on average."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.poisson`."""
        if not 0 < self.expected_cohort <= population:
            raise ValueError(
                f"expected_cohort {self.expected_cohort:g} must be above 0 and at most "
                f"the population {population}"
            )
        return federated.poisson(population, self.expected_cohort / population, mesh)


@part
class MinSeparation:
    """Everybody in turn, in a random order that a run keeps: nothing is amplified."""

    cohort_size: int = 10
    """How many take part."""
    separation: int | None = None
    """Asked for: each member once in so many rounds at most. The most that population
    and cohort allow is kept; None asks for nothing."""

    def build(self, population: int, mesh: Mesh | None = None) -> base.ClientSampler:
        """See `federated.min_separation`."""
        return federated.min_separation(population, self.cohort_size, self.separation)


@part
class FixedSize:
    """Exactly so many, uniformly without replacement."""

    cohort_size: int = 10
    """How many take part; with a `share` the length of the cohort's arrays."""
    share: Traced | None = None
    """Part of `cohort_size` that a round draws: one program for cohorts of any size.
    What is built for the whole cohort (masks in full, LightSecAgg) takes None alone."""

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
                "which is no whole number"
            )
        return round(drawn)
