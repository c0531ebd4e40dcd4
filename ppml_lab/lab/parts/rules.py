"""Rules by which the server combines a cohort's updates, as parts."""

from __future__ import annotations

from typing import Literal, Protocol

from ppml_lab import base, federated
from ppml_lab.lab.tree.part import part


class Rule(Protocol):
    """A part that says how the server combines a cohort's updates."""

    @property
    def weighting(self) -> str:
        """The weighting of clients; see `federated.averaging`."""
        ...

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """Builds the combination of the messages that `summed` would add up.

        A rule that needs each message (`base.SecureAggregator.needs`) is refused where
        the secure aggregation shows the sum alone.
        """
        ...


@part
class Mean:
    """The mean of updates."""

    weighting: Literal["uniform", "realised", "examples"] = "uniform"
    """Weighting of clients: all the same (the mean divides by the expected number
    of reports for "uniform", by the realised number for "realised"), or by their number
    of examples."""

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """Returns `summed` unchanged; averaging divides the sum."""
        return summed


@part
class Median:
    """The median of updates in each coordinate; Yin et al., ICML 2018."""

    @property
    def weighting(self) -> str:
        """The weighting "uniform": all clients count the same."""
        return "uniform"

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """See `federated.coordinate_median`."""
        return federated.coordinate_median(summed, name="Median")


@part
class TrimmedMean:
    """The mean of updates in each coordinate without the lowest and highest values; Yin
    et al., ICML 2018.
    """

    num_trimmed: int = 1
    """Values that are left out at each end."""

    @property
    def weighting(self) -> str:
        """The weighting "uniform": all clients count the same."""
        return "uniform"

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """See `federated.trimmed_mean`."""
        return federated.trimmed_mean(self.num_trimmed, summed, name="TrimmedMean")
