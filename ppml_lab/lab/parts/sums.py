"""Secure aggregation, as parts."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import jax.numpy as jnp

from ppml_lab import base, checks, smpc
from ppml_lab.lab.tree.fields import SameBits, Traced
from ppml_lab.lab.tree.part import part


class Sum(Protocol):
    """A part that builds secure aggregation."""

    def build(self, sampler: base.ClientSampler) -> base.SecureAggregator:
        """Builds secure aggregation for the cohorts that `sampler` draws.

        The mechanism states the bounds of updates (`base.SecureAggregator.begin`).
        """
        ...


class Graph(Protocol):
    """A part that says who shares pairwise masks."""

    def build(self, sampler: base.ClientSampler) -> smpc.graphs.Graph:
        """Builds the graph on the places of the sampler's cohorts."""
        ...


def least_reports(sampler: base.ClientSampler) -> Any:
    """Returns the least count above two thirds of the expected cohort.

    Traced where the expected cohort is.
    """
    least = 2 * sampler.expected_cohort // 3 + 1
    return least.astype(jnp.int32) if checks.is_traced(least) else int(least)


@part
class Clear:
    """The plain sum: the server sees every update."""

    def build(self, sampler: base.ClientSampler) -> base.SecureAggregator:
        """See `smpc.clear`."""
        return smpc.clear()


@part
class AdditiveSharing:
    """Each client secret-shares its update among several servers."""

    num_parties: int = 3
    """Number of servers."""
    scale_bits: Traced = 16.0
    """Fixed-point precision: 2^scale_bits steps per unit."""
    modulus_bits: Traced = 32.0
    """The sum is modulo 2^modulus_bits."""
    max_abs: Traced | None = None
    """Bound of each coordinate of an update, needed where the mechanism states none."""
    least_reports: int = 1
    """The fewest reports whose sum is opened; a round with fewer has no sum."""
    wraps: bool = False
    """If true, a sum, noise included, may outgrow its modulus and wrap around."""
    mode: SameBits[Literal["identity", "full"]] = "full"
    """Emulation of messages: "full" makes all of them, "identity" adds integers in
    the clear. Sums and stated costs are the same."""

    def build(self, sampler: base.ClientSampler) -> base.SecureAggregator:
        """See `smpc.additive_sharing`."""
        return smpc.additive_sharing(
            self.num_parties,
            max_abs=self.max_abs,
            scale=_scale(self.scale_bits),
            bits=_whole("modulus_bits", self.modulus_bits),
            wraps=self.wraps,
            least_reports=self.least_reports,
            mode=self.mode,
        )


def _scale(bits: Any) -> Any:
    """Returns 2^bits, the fixed-point steps per unit."""
    try:
        return smpc.power_of_two(bits)
    except ValueError as error:
        raise ValueError(f"scale_bits: {error}") from error


def _whole(name: str, bits: Any) -> Any:
    """Returns bits as an int, or as they are where they are traced."""
    if checks.is_traced(bits):
        return bits
    if not float(bits).is_integer():
        raise ValueError(f"{name} must be a whole number, got {bits:g}")
    return int(bits)


@part
class Complete:
    """Everybody shares masks with everybody; Bonawitz et al., CCS 2017."""

    threshold: int | None = None
    """The fewest reports with which the sum completes; None for the least number above
    two thirds of the expected cohort."""

    def build(self, sampler: base.ClientSampler) -> smpc.graphs.Graph:
        """See `smpc.graphs.complete`."""
        least = least_reports(sampler) if self.threshold is None else self.threshold
        return smpc.graphs.complete(sampler.max_cohort, least)


@part
class KRegular:
    """Each client shares masks with as few neighbours as are safe; Bell et al., CCS
    2020.
    """

    corrupt_share: float = 0.1
    """Share of a cohort that may tell the server all it sees."""
    dropout_share: float = 0.1
    """Share of a cohort that may drop out without making the sum abort."""

    def build(self, sampler: base.ClientSampler) -> smpc.graphs.Graph:
        """See `smpc.graphs.k_regular`."""
        if sampler.max_cohort != sampler.expected_cohort:
            raise ValueError(
                "graph KRegular needs cohorts whose places are all taken, but this "
                f"sampler has {sampler.max_cohort} places for "
                f"{sampler.expected_cohort} expected clients; use FixedSize or Everyone"
            )
        return smpc.graphs.k_regular(
            sampler.max_cohort, self.corrupt_share, self.dropout_share
        )


@part
class PairwiseMasking:
    """One server adds updates under masks that cancel."""

    graph: Graph = Complete()
    """The graph of clients that share masks: Complete or KRegular."""
    scale_bits: Traced = 16.0
    """Fixed-point precision: 2^scale_bits steps per unit."""
    modulus_bits: Traced = 32.0
    """The sum is modulo 2^modulus_bits."""
    max_abs: Traced | None = None
    """Bound of each coordinate of an update, needed where the mechanism states none."""
    wraps: bool = False
    """If true, a sum, noise included, may outgrow its modulus and wrap around."""
    mode: SameBits[Literal["identity", "ideal", "full"]] = "full"
    """Emulation of messages: "full" makes all of them, "ideal" draws uploads of the
    same distribution, "identity" adds integers in the clear. Sums, aborts and stated
    costs are the same."""

    def build(self, sampler: base.ClientSampler) -> base.SecureAggregator:
        """See `smpc.pairwise_masking`."""
        return smpc.pairwise_masking(
            self.graph.build(sampler),
            self.max_abs,
            scale=_scale(self.scale_bits),
            bits=_whole("modulus_bits", self.modulus_bits),
            wraps=self.wraps,
            mode=self.mode,
        )


@part
class LightSecAgg:
    """One server removes the sum of all masks at once; So et al., MLSys 2022."""

    corrupt_share: float = 0.1
    """Share of a cohort that may tell the server all it sees."""
    surviving: int | None = None
    """The fewest reports with which the sum completes; None for the least number above
    two thirds of the expected cohort."""
    scale_bits: Traced = 16.0
    """Fixed-point precision: 2^scale_bits steps per unit."""
    max_abs: Traced | None = None
    """Bound of each coordinate of an update, needed where the mechanism states none."""
    wraps: bool = False
    """If true, a sum, noise included, may outgrow its modulus and wrap around."""
    mode: SameBits[Literal["identity", "ideal", "full"]] = "full"
    """Emulation of messages: "full" makes all of them, "ideal" draws uploads of the
    same distribution, "identity" adds integers in the clear. Sums, aborts and stated
    costs are the same."""

    def build(self, sampler: base.ClientSampler) -> base.SecureAggregator:
        """See `smpc.light_secagg`."""
        size = sampler.max_cohort
        if checks.is_traced(sampler.expected_cohort):
            raise ValueError(
                "LightSecAgg needs a cohort size that is not traced; leave FixedSize's "
                "share None"
            )
        least = least_reports(sampler) if self.surviving is None else self.surviving
        code = smpc.lightsecagg.Code(size, least, int(self.corrupt_share * size))
        return smpc.light_secagg(
            code,
            self.max_abs,
            scale=_scale(self.scale_bits),
            wraps=self.wraps,
            mode=self.mode,
        )
